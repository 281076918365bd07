"""Which boxes Panoptic FPN keeps, and what became of the others: torchvision's choices once more, with their reasons.

torchvision's functions return what is left. The same calls on the same tensors are made here, and every box is noted
(tests ask that what is left is equal). Letters: K boxes of the best anchors, P proposals, T classes (0: none),
D (proposal, class) pairs that score enough, N detections.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import batched_nms, box_iou
from torchvision.ops.boxes import clip_boxes_to_image, remove_small_boxes

from thingstuff.models.panoptic_fpn import PanopticFPN, PanopticFPNOutput
from thingstuff.models.panoptic_fpn_heads import LEVELS
from thingstuff.structures import Size

KEPT, SMALL, OVERLAPPED, BEYOND = range(4)
"""What may become of a box: kept; without area in the picture; too near to a better one; more than are wanted."""


@dataclass(frozen=True, eq=False)
class Proposals:
    """The boxes of the best anchors, inside the picture, and the proposals among them."""

    likely: Float[Tensor, "K 4"]
    objectness: Float[Tensor, "K"]
    """Probabilities."""
    levels: Int[Tensor, "K"]
    fates: Int[Tensor, "K"]
    """`KEPT` and so on."""
    kept: Int[Tensor, "P"]
    """Rows of the proposals, best first."""

    @property
    def boxes_xyxy(self) -> Float[Tensor, "P 4"]:
        """The proposals."""
        return self.likely[self.kept]


@dataclass(frozen=True, eq=False)
class Detections:
    """The pairs of a proposal and a class that score enough, best first, and the detections among them."""

    proposals: Int[Tensor, "D"]
    """Rows of the proposals."""
    labels: Int[Tensor, "D"]
    """Rows of the classifier."""
    boxes_xyxy: Float[Tensor, "D 4"]
    scores: Float[Tensor, "D"]
    fates: Int[Tensor, "D"]
    """`KEPT` and so on."""
    overlaps: Float[Tensor, "D"]
    """IoU with the better one of its class that is nearest; 0 for those that non-maximum suppression let pass."""
    kept: Int[Tensor, "N"]
    """Rows of the detections, best first."""
    refined: Float[Tensor, "P things 4"]
    """Every proposal's box for each class but none, inside the picture."""


def proposals_of(model: PanopticFPN, output: PanopticFPNOutput, size: Size) -> Proposals:
    """Return the proposals of the one picture of an output, `size` (height, width) on the canvas."""
    rpn, most = model.rpn, model.config.proposals
    boxes, logits, counts = model.likely_boxes(output, model.config.proposals_predicted)
    levels = torch.tensor(LEVELS, device=logits.device).repeat_interleave(torch.tensor(counts, device=logits.device))
    order = rpn._get_top_n_idx(logits, counts)[0]  # equal logits keep the order in which the model looked at them
    likely, objectness, levels = clip_boxes_to_image(boxes[0][order], size), logits[0][order].sigmoid(), levels[order]
    sized = remove_small_boxes(likely, rpn.min_size)
    sized = sized[objectness[sized] >= rpn.score_thresh]  # as the network's own filter, which drops what is no number
    passed = sized[batched_nms(likely[sized], objectness[sized], levels[sized], rpn.nms_thresh)]
    return Proposals(likely, objectness, levels, _fates(len(likely), sized, passed, most), passed[:most])


def detections_of(heads: RoIHeads, logits: Tensor, deltas: Tensor, proposals: Tensor, size: Size) -> Detections:
    """Return the detections of one picture.

    `logits` [P, T] and `deltas` [P, 4 T] are what the box head made of its `proposals` [P, 4].
    """
    decoded = heads.box_coder.decode(deltas, [proposals])
    decoded = decoded.reshape(len(proposals), deltas.shape[1] // 4, 4)  # flat without proposals
    refined = clip_boxes_to_image(decoded, size)[:, 1:]
    scores = logits.softmax(-1)[:, 1:].reshape(-1)
    enough = (scores > heads.score_thresh).nonzero()[:, 0]
    boxes, scores = refined.reshape(-1, 4)[enough], scores[enough]
    things = logits.shape[1] - 1
    rows, labels = enough // max(things, 1), enough % max(things, 1) + 1
    sized = remove_small_boxes(boxes, min_size=1e-2)
    passed = sized[batched_nms(boxes[sized], scores[sized], labels[sized], heads.nms_thresh)]
    fates = _fates(len(boxes), sized, passed, heads.detections_per_img)
    overlaps = torch.zeros_like(scores)
    lost = (fates == OVERLAPPED).nonzero()[:, 0]
    if len(lost):
        better = (labels[lost, None] == labels[passed]) & (scores[lost, None] <= scores[passed])
        overlaps[lost] = (box_iou(boxes[lost], boxes[passed]) * better).amax(1)
    order = scores.argsort(descending=True, stable=True)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    rows, labels, boxes, scores, fates, overlaps = (t[order] for t in (rows, labels, boxes, scores, fates, overlaps))
    return Detections(rows, labels, boxes, scores, fates, overlaps, place[passed[: heads.detections_per_img]], refined)


def _fates(count: int, sized: Tensor, passed: Tensor, most: int) -> Tensor:
    fates = torch.full((count,), SMALL, device=sized.device)
    for fate, rows in ((OVERLAPPED, sized), (BEYOND, passed), (KEPT, passed[:most])):
        fates[rows] = fate
    return fates


def pooled_levels(heads: RoIHeads, boxes_xyxy: Float[Tensor, "P 4"]) -> Int[Tensor, "P"]:
    """Return the level that each box is pooled from, by the pool's own rule."""
    levels: Tensor = LEVELS[0] + heads.box_roi_pool.map_levels([boxes_xyxy])
    return levels
