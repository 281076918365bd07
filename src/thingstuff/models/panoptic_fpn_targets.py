"""What Panoptic FPN learns from: the things of Mask R-CNN, a semantic row for each pixel, and what is left out of both.

Letters: G things of a picture, N boxes, H W a picture or the canvas.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from thingstuff.panoptic import Categories
from thingstuff.structures import Size, Target

NO_CLASS = -100
"""Of pixels that the semantic loss leaves out."""


@dataclass(frozen=True)
class ThingTarget:
    """What Mask R-CNN learns from one picture; labels are those of the box classifier, from 1 on."""

    masks: Bool[Tensor, "G H W"]
    labels: Int[Tensor, "G"]
    boxes_xyxy: Float[Tensor, "G 4"]
    ignored: Bool[Tensor, "H W"]
    """Where a box without a thing is none to learn from: unlabelled pixels and crowds."""
    known: Bool[Tensor, "H W"]
    """Pixels that masks are learned from: the labelled ones."""


@dataclass(frozen=True)
class BoxSamples:
    """Proposals to learn from, a tensor per picture: `things` are rows of its `ThingTarget`, `goals` box deltas."""

    boxes_xyxy: list[Tensor]
    labels: list[Tensor]
    things: list[Tensor]
    goals: Float[Tensor, "N 4"]

    def of_things(self) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Return the boxes, labels and things of the samples that have a thing."""
        kept = [labels > 0 for labels in self.labels]
        fields = (self.boxes_xyxy, self.labels, self.things)
        boxes, labels, things = ([t[k] for t, k in zip(f, kept, strict=True)] for f in fields)
        return boxes, labels, things


def thing_target(target: Target, categories: Categories, ignore: bool) -> ThingTarget:
    """Return one picture's things; with `ignore`, unlabelled pixels and crowds are nothing to learn from."""
    device = target.masks.device
    row = torch.zeros(len(categories), dtype=torch.long, device=device)
    row[list(categories.thing_labels)] = torch.arange(1, len(categories.thing_labels) + 1, device=device)
    labels = row[target.labels]
    chosen = (labels > 0) & ~target.crowd & target.masks.flatten(1).any(1)
    crowds = target.masks[(labels > 0) & target.crowd].any(0)
    return ThingTarget(
        masks=target.masks[chosen],
        labels=labels[chosen],
        boxes_xyxy=target.boxes_xyxy[chosen],
        ignored=(target.unlabelled | crowds) & ignore,
        known=~(target.unlabelled & ignore),
    )


def semantic_target(target: Target, categories: Categories, canvas: Size) -> Int[Tensor, "H W"]:
    """Return the semantic row of each of the canvas's pixels; `NO_CLASS` for the unlabelled ones and the padding."""
    rows = torch.zeros(len(categories), dtype=torch.long, device=target.masks.device)
    rows[list(categories.stuff_labels)] = torch.arange(1, len(categories.stuff_labels) + 1, device=rows.device)
    height, width = target.unlabelled.shape
    result = torch.full((height, width), NO_CLASS, device=rows.device)
    if len(target.masks):
        owner = target.masks.to(torch.uint8).argmax(0)
        result = torch.where(target.masks.any(0), rows[target.labels][owner], result)
    return F.pad(result, (0, canvas[1] - width, 0, canvas[0] - height), value=NO_CLASS)


def without_ignored(
    labels: Sequence[Tensor], boxes_xyxy: Sequence[Tensor], things: Sequence[ThingTarget]
) -> list[Tensor]:
    """Return each picture's labels of boxes with -1, which is not sampled, for background that may hold things.

    That is a box of label 0 of whose part in the picture more than half is ignored. Boxes with a thing stay.
    """
    return [
        row.masked_fill((row == 0) & (share_inside(boxes, thing.ignored) > 0.5), -1)
        for row, boxes, thing in zip(labels, boxes_xyxy, things, strict=True)
    ]


def share_inside(boxes_xyxy: Float[Tensor, "N 4"], area: Bool[Tensor, "H W"]) -> Float[Tensor, "N"]:
    """Return which share of each box's part in the picture an area covers, by an integral image.

    Boxes are rounded to whole pixels; one that lies outside has a share of 0.
    """
    height, width = area.shape
    integral = F.pad(area.long().cumsum(0).cumsum(1), (1, 0, 1, 0))
    limit = torch.tensor([width, height, width, height], device=area.device)
    x0, y0, x1, y1 = boxes_xyxy.round().long().clamp(min=0).minimum(limit).unbind(1)
    covered = integral[y1, x1] - integral[y0, x1] - integral[y1, x0] + integral[y0, x0]
    return covered / ((x1 - x0) * (y1 - y0)).clamp(min=1)
