"""Panoptic FCN's inference up to the kernels: peaks and regions on each level, then kernel fusion (section 3.2).

Letters: T thing classes, R region classes, N kernels, K kernel channels, E embedding channels, h w a level's map.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Kernels:
    """Kernel vectors with their class and score."""

    vectors: Float[Tensor, "N K"]
    labels: Int[Tensor, "N"]
    scores: Float[Tensor, "N"]

    def pick(self, index: Tensor) -> "Kernels":
        """Return the rows that an index or boolean mask chooses."""
        return Kernels(self.vectors[index], self.labels[index], self.scores[index])


def concatenate(parts: list[Kernels]) -> Kernels:
    """Join the kernels of several levels."""
    return Kernels(
        torch.cat([p.vectors for p in parts]),
        torch.cat([p.labels for p in parts]),
        torch.cat([p.scores for p in parts]),
    )


def thing_peaks(
    centres: Float[Tensor, "T h w"], kernels: Float[Tensor, "K h w"], smoothing: int, limit: int, threshold: float
) -> Kernels:
    """Read the kernels at a level's best object centres, by falling score.

    The probabilities are averaged with their local mean, kept where they are a 3x3 maximum of their class, and the
    best `limit` above `threshold` taken; `smoothing` is the window of the mean, zeros at the border counted.
    """
    present = (centres.flatten(1).amax(1).sigmoid() > threshold).nonzero()[:, 0]  # no mean is above its maximum
    if len(present) == 0:
        return Kernels(kernels.new_zeros((0, len(kernels))), _no_labels(kernels), kernels.new_zeros(0))
    p = centres[present].sigmoid()
    p = (p + F.avg_pool2d(p[None], smoothing, stride=1, padding=smoothing // 2)[0]) / 2
    peaks = ((F.max_pool2d(p[None], 3, stride=1, padding=1)[0] == p) & (p > threshold)).flatten().nonzero()[:, 0]
    scores, best = p.flatten()[peaks].topk(min(len(peaks), limit, p[0].numel()))
    cells = peaks[best] % p[0].numel()
    return Kernels(kernels.flatten(1)[:, cells].T, present[peaks[best] // p[0].numel()], scores)


def stuff_regions(regions: Float[Tensor, "R h w"], kernels: Float[Tensor, "K h w"], threshold: float) -> Kernels:
    """Pool a kernel over each region class's cells, by ascending class.

    The sum over the region is divided by the whole map's area, in training too, so a kernel's length grows with its
    region.
    """
    if regions.shape[0] == 0:
        return Kernels(kernels.new_zeros((0, len(kernels))), _no_labels(kernels), kernels.new_zeros(0))
    p, owner = regions.sigmoid().flatten(1).max(0)
    cells = owner.bincount(minlength=len(regions))
    scores = p.new_zeros(len(regions)).index_add_(0, owner, p) / cells.clamp(min=1)
    labels = (scores > threshold).nonzero()[:, 0]
    support = (owner == labels[:, None]).to(p.dtype).view(-1, *regions.shape[1:])
    return Kernels(pooled(support, kernels), labels, scores[labels])


def pooled(support: Float[Tensor, "N h w"], kernels: Float[Tensor, "K h w"]) -> Float[Tensor, "N K"]:
    """Return the mean over the whole map of kernels inside each support."""
    return support.flatten(1) @ kernels.flatten(1).T / kernels[0].numel()


def _no_labels(like: Tensor) -> Int[Tensor, "0"]:
    return torch.zeros(0, dtype=torch.long, device=like.device)


def fuse_things(things: Kernels, similarity: float, class_aware: bool = True, compared: int | None = None) -> Kernels:
    """Average kernels that belong to one object; `things` stand by falling score (section 3.2, kernel fusion).

    Two kernels match where their cosine reaches `similarity` (and their classes agree). A kernel survives if no
    better one, surviving or not, matches it; it averages those whose first match it is, itself included, and keeps
    its score and class. The first `compared` channels make the cosine; without it all do.
    """
    vectors = things.vectors[:, :compared]
    unit = vectors / vectors.norm(dim=1, keepdim=True).clamp(min=1e-8)
    match = (unit @ unit.T) >= min(similarity, 1 - 1e-6)  # the cosine of identical kernels may round to less than 1
    if class_aware:
        match &= things.labels[:, None] == things.labels
    match.fill_diagonal_(True)  # a kernel of length zero is its own
    match = match.triu()
    first = match & (match.cumsum(0) < 2)
    survivors = first.diagonal()
    rows = first[survivors].to(things.vectors.dtype)
    vectors = rows @ things.vectors / rows.sum(1, keepdim=True)
    return Kernels(vectors, things.labels[survivors], things.scores[survivors])


def fuse_stuff(stuff: Kernels) -> Kernels:
    """Average the kernels and scores of each class over the levels, by ascending class."""
    labels, row = torch.unique(stuff.labels, return_inverse=True)
    member = F.one_hot(row, len(labels)).T.to(stuff.vectors.dtype) if len(labels) else stuff.vectors.new_zeros((0, 0))
    member = member / member.sum(1, keepdim=True)
    return Kernels(member @ stuff.vectors, labels, member @ stuff.scores)


def mean_inside(masks: Float[Tensor, "N H W"], threshold: float) -> Float[Tensor, "N"]:
    """Return each mask's mean probability where it is above the threshold."""
    inside = masks > threshold
    return (masks * inside).flatten(1).sum(1) / (inside.flatten(1).sum(1) + 1e-6)


def matrix_nms(masks: Bool[Tensor, "N H W"], labels: Int[Tensor, "N"]) -> Float[Tensor, "N"]:
    """Return the factor of each mask's score under Matrix NMS with linear decay; masks stand by falling score.

    A mask decays with its IoU to a better one of its class, the less the more that one itself overlaps better ones
    (Wang et al. 2020, SOLOv2, section 3.3).
    """
    flat = masks.flatten(1).float()
    overlap = flat @ flat.T
    area = overlap.diagonal()
    union = area[:, None] + area - overlap
    same = (labels[:, None] == labels).triu(1)  # the row is better than the column
    iou = overlap / union.clamp(min=1) * same
    of_better = iou.amax(0) if len(labels) else area  # each mask's largest IoU with a better one
    decay = (1 - iou) / (1 - of_better[:, None]).clamp(min=1e-6)
    return decay.masked_fill(~same, 1.0).amin(0) if len(labels) else area
