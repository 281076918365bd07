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

    def cpu(self) -> "Kernels":
        """Return them on the CPU."""
        return Kernels(self.vectors.cpu(), self.labels.cpu(), self.scores.cpu())


def by_score(scores: Float[Tensor, "N"]) -> Int[Tensor, "N"]:
    """Return the rows by falling score, equal ones in their order."""
    return scores.argsort(descending=True, stable=True)


def concatenate(parts: list[Kernels]) -> Kernels:
    """Join the kernels of several levels."""
    return Kernels(
        torch.cat([p.vectors for p in parts]),
        torch.cat([p.labels for p in parts]),
        torch.cat([p.scores for p in parts]),
    )


@dataclass(frozen=True)
class Peaks:
    """A level's object centres by falling score: their thing class, their cell (row times width plus column), score."""

    labels: Int[Tensor, "N"]
    cells: Int[Tensor, "N"]
    scores: Float[Tensor, "N"]

    def read(self, kernels: Float[Tensor, "K h w"]) -> Kernels:
        """Return the kernels at the centres."""
        return Kernels(kernels.flatten(1)[:, self.cells].T, self.labels, self.scores)


def smoothed(p: Float[Tensor, "T h w"], window: int) -> Float[Tensor, "T h w"]:
    """Return probabilities averaged with their local mean over a window, zeros at the border counted."""
    if len(p) == 0:
        return p
    return (p + F.avg_pool2d(p[None], window, stride=1, padding=window // 2)[0]) / 2


def local_maxima(p: Float[Tensor, "T h w"]) -> Bool[Tensor, "T h w"]:
    """Return which cells none of the eight around exceeds."""
    return F.max_pool2d(p[None], 3, stride=1, padding=1)[0] == p


def find_peaks(centres: Float[Tensor, "T h w"], smoothing: int, limit: int, threshold: float) -> Peaks:
    """Find a level's best object centres.

    The probabilities are averaged with their local mean, kept where they are a 3x3 maximum of their class, and the
    best `limit` above `threshold` taken; `smoothing` is the window of the mean.
    """
    present = (centres.flatten(1).amax(1).sigmoid() > threshold).nonzero()[:, 0]  # no mean is above its maximum
    if len(present) == 0:
        return Peaks(_no_labels(centres), _no_labels(centres), centres.new_zeros(0))
    p = smoothed(centres[present].sigmoid(), smoothing)
    peaks = (local_maxima(p) & (p > threshold)).flatten().nonzero()[:, 0]
    scores, best = p.flatten()[peaks].topk(min(len(peaks), limit, p[0].numel()))
    cells = peaks[best] % p[0].numel()
    return Peaks(present[peaks[best] // p[0].numel()], cells, scores)


def stuff_regions(regions: Float[Tensor, "R h w"], kernels: Float[Tensor, "K h w"], threshold: float) -> Kernels:
    """Pool a kernel over each region class's cells, by ascending class.

    The sum over the region is divided by the whole map's area, in training too, so a kernel's length grows with its
    region.
    """
    if regions.shape[0] == 0:
        return Kernels(kernels.new_zeros((0, len(kernels))), _no_labels(kernels), kernels.new_zeros(0))
    scores, owner = owned_regions(regions)
    labels = (scores > threshold).nonzero()[:, 0]
    support = (owner == labels[:, None]).to(scores.dtype).view(-1, *regions.shape[1:])
    return Kernels(pooled(support, kernels), labels, scores[labels])


def owned_regions(regions: Float[Tensor, "R h w"]) -> tuple[Float[Tensor, "R"], Int[Tensor, "cells"]]:
    """Return each region class's mean probability over the cells where it is the likeliest, and each cell's class."""
    p, owner = regions.sigmoid().flatten(1).max(0)
    cells = owner.bincount(minlength=len(regions))
    scores = p.new_zeros(len(regions)).index_add_(0, owner, p) / cells.clamp(min=1)
    return scores, owner


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
    first = first_matches(things, similarity, class_aware, compared)
    survivors = first.diagonal()
    rows = first[survivors].to(things.vectors.dtype)
    vectors = rows @ things.vectors / rows.sum(1, keepdim=True)
    return Kernels(vectors, things.labels[survivors], things.scores[survivors])


def first_matches(
    things: Kernels, similarity: float, class_aware: bool = True, compared: int | None = None
) -> Bool[Tensor, "N N"]:
    """Return for each kernel (column) the best one (row) that it matches, itself perhaps; as for `fuse_things`."""
    match = cosines(things.vectors[:, :compared]) >= min(similarity, 1 - 1e-6)  # that of identical kernels may round
    if class_aware:
        match &= things.labels[:, None] == things.labels
    match.fill_diagonal_(True)  # a kernel of length zero is its own
    match = match.triu()
    return match & (match.cumsum(0) < 2)


def cosines(vectors: Float[Tensor, "N E"]) -> Float[Tensor, "N N"]:
    """Return the cosine of each vector with each; 0 for one of length zero."""
    unit = vectors / vectors.norm(dim=1, keepdim=True).clamp(min=1e-8)
    similar: Tensor = unit @ unit.T
    return similar


def fuse_stuff(stuff: Kernels) -> Kernels:
    """Average the kernels and scores of each class over the levels, by ascending class."""
    labels, row = torch.unique(stuff.labels, return_inverse=True)
    member = F.one_hot(row, len(labels)).T.to(stuff.vectors.dtype) if len(labels) else stuff.vectors.new_zeros((0, 0))
    member = member / member.sum(1, keepdim=True)
    return Kernels(member @ stuff.vectors, labels, member @ stuff.scores)


@dataclass(frozen=True)
class Rescored:
    """What became of N things' scores; `order` are the rows that are left, by falling score, with their `scores`."""

    inside: Float[Tensor, "N"]
    """Each mask's mean probability where it is above the threshold, which its score was multiplied by ..."""
    decay: Float[Tensor, "N"]
    """... and the factor of Matrix NMS, 1 without it."""
    order: Int[Tensor, "K"]
    scores: Float[Tensor, "K"]


def rescore(
    scores: Float[Tensor, "N"],
    labels: Int[Tensor, "N"],
    masks: Float[Tensor, "N H W"],
    threshold: float,
    nms: bool,
    lowest: float,
    most: int,
) -> Rescored:
    """Multiply scores by the mean probability inside the masks, by Matrix NMS's decay too where `nms`.

    Those that reach `lowest` are left, the best `most` of them (the authors' inference code).
    """
    inside, decay = mean_inside(masks, threshold), torch.ones_like(scores)
    scores, order = (scores * inside).sort(descending=True)
    if nms:
        factors = matrix_nms(masks[order] > threshold, labels[order])
        decay[order] = factors
        scores, again = (scores * factors).sort(descending=True, stable=True)
        order = order[again]
    order = order[scores >= lowest][:most]
    return Rescored(inside, decay, order, scores[: len(order)])


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
