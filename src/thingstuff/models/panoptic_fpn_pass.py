"""What the steps of Panoptic FPN's walk share: one picture's proposals, detections and masks, and what became of them.

Letters: P proposals, T classes (0: none), N detections, M cells along a box's mask.
"""

from collections import defaultdict
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torchvision.models.detection.roi_heads import maskrcnn_inference

from thingstuff.models.panoptic_fpn import PanopticFPN
from thingstuff.models.panoptic_fpn_choices import Detections, Proposals, detections_of, proposals_of
from thingstuff.models.panoptic_fpn_heads import LEVELS
from thingstuff.models.panoptic_fpn_targets import ThingTarget, thing_target
from thingstuff.models.shared_steps import segment_of_row
from thingstuff.panoptic import default_colors
from thingstuff.walk import Mark, MarksView, Seen
from thingstuff.watching import Watched

LEVEL_COLORS = dict(zip(LEVELS, default_colors(len(LEVELS)), strict=True))
LEVEL_KEY = tuple((f"P{level}", color) for level, color in LEVEL_COLORS.items())
WATCHED = (Watched("roi_heads.box_predictor"), Watched("roi_heads.mask_predictor"))
"""What the model watches for `pass_of`."""


@dataclass(frozen=True, eq=False)
class Pass:
    """One picture's boxes through the network, on the CPU but for what the model's functions are given."""

    model: PanopticFPN
    seen: Seen
    proposals: Proposals
    detections: Detections
    logits: Float[Tensor, "P T"]
    deltas: Float[Tensor, "P 4*T"]
    masks: Float[Tensor, "N M M"]
    """Probabilities, for each detection's own class."""
    final: dict[int, int]
    """Detection -> the id of the final segment that it became."""
    final_of_pair: dict[int, int]
    """The same by the row of `detections`."""
    final_of_proposal: dict[int, tuple[int, ...]]
    """Proposal -> the ids of the final segments that were found in it."""
    truth: ThingTarget | None

    @property
    def classes(self) -> int:
        """How many classes of things there are."""
        return self.logits.shape[1] - 1

    def label(self, row: int) -> int:
        """Return the label of a row of `detections`."""
        return self.model.categories.thing_labels[int(self.detections.labels[row]) - 1]

    def name(self, row: int) -> str:
        """Return the class of a row of `detections`."""
        return self.model.categories.names[self.label(row)]


def pass_of(model: PanopticFPN, seen: Seen) -> Pass:
    """Return what the recorded calls and the output tell of one picture's boxes."""
    (logits, deltas), size = seen.calls["roi_heads.box_predictor"][0].output, seen.images.sizes[0]
    proposals = proposals_of(model, seen.output.float(), size)
    detections = detections_of(model.roi_heads, logits, deltas, proposals.boxes_xyxy, size)
    kept = detections.kept.tolist()
    mask_logits: Tensor = seen.calls["roi_heads.mask_predictor"][0].output
    (masks,) = maskrcnn_inference(mask_logits, [detections.labels[detections.kept]])
    final = {row: name for row, name in segment_of_row(seen).items() if row < len(kept)}
    of_proposal: defaultdict[int, list[int]] = defaultdict(list)
    for row, name in final.items():
        of_proposal[int(detections.proposals[kept[row]])].append(name)
    ignore = model.config.unlabelled == "ignored"
    return Pass(
        model=model,
        seen=seen,
        proposals=proposals,
        detections=detections,
        logits=logits.cpu(),
        deltas=deltas.cpu(),
        masks=masks[:, 0].cpu(),
        final=final,
        final_of_pair={kept[row]: name for row, name in final.items()},
        final_of_proposal={row: tuple(names) for row, names in of_proposal.items()},
        truth=None if seen.target is None else thing_target(seen.target.to(logits.device), model.categories, ignore),
    )


def truth_views(found: Pass) -> tuple[MarksView, ...]:
    """Return the boxes of the ground truth where it is given, else nothing."""
    if found.truth is None:
        return ()
    categories = found.model.categories
    labels = [categories.thing_labels[row - 1] for row in found.truth.labels.tolist()]
    marks = tuple(
        Mark(xyxy(box), categories.names[label], categories.colors[label])
        for box, label in zip(found.truth.boxes_xyxy, labels, strict=True)
    )
    return (MarksView(title="Ground truth: the boxes to find", marks=marks),)


def xyxy(box: Tensor) -> tuple[float, float, float, float]:
    """Return a box as a mark has it."""
    x0, y0, x1, y1 = (float(side) for side in box)
    return x0, y0, x1, y1


def cells_in_box(mask: Float[Tensor, "M M"], box: Tensor, shape: tuple[int, int], stride: int) -> Float[Tensor, "h w"]:
    """Return a map of the canvas with a box's cells in their places, each seen; zero outside."""
    x0, y0, x1, y1 = box.cpu().tolist()
    cells, picked = mask.shape[0], []
    for low, high, length in ((y0, y1, shape[0]), (x0, x1, shape[1])):
        at = ((torch.arange(length) + 0.5) * stride - low) / max(high - low, 1e-6) * cells
        picked.append((at.floor().long().clamp(0, cells - 1), (at >= 0) & (at < cells)))
    (rows, in_rows), (columns, in_columns) = picked
    placed: Tensor = mask[rows][:, columns] * in_rows[:, None] * in_columns
    return placed
