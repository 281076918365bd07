"""What Panoptic FCN learns from: per pyramid level object centres and stuff regions, and stride-4 masks (section 3.3).

Letters: B pictures, T thing classes, R region classes (0 is "some thing"), P (instance, level) pairs, S (region,
level) ones, H W the padded stride-4 map, h w a level's map.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from thingstuff.panoptic import Categories
from thingstuff.structures import Size, Target

STRIDE = 4
"""Stride of the mask features."""


@dataclass(frozen=True)
class LevelTargets:
    """Targets of one pyramid level; `picture` and `instance` say whose row of `MaskTargets.things` a pair is."""

    centres: Float[Tensor, "B T h w"]
    regions: Float[Tensor, "B R h w"]
    picture: Int[Tensor, "P"]
    instance: Int[Tensor, "P"]
    label: Int[Tensor, "P"]
    """Thing class 0..T-1."""
    cell: Int[Tensor, "P 2"]
    """Row and column of the object's centre; may be one past the map, as in the authors' code."""
    valid: Bool[Tensor, "B h w"]
    """Cells that take part in the region loss."""
    valid_centres: Bool[Tensor, "B T h w"]
    """Cells that take part in the position loss: a crowd's are left out for its own class alone."""


@dataclass(frozen=True)
class MaskTargets:
    """Soft masks at stride 4, padded to the canvas: `things` per picture, stuff `regions` for all."""

    things: tuple[Float[Tensor, "_ H W"], ...]
    labels: tuple[Int[Tensor, "_"], ...]
    boxes_xyxy: tuple[Float[Tensor, "_ 4"], ...]
    regions: Float[Tensor, "B R H W"]
    valid: Float[Tensor, "B H W"]
    crowds: Float[Tensor, "B T H W"]
    """Where crowds lie, by thing class."""


@dataclass(frozen=True)
class TargetSettings:
    """How targets are made; the defaults are the authors'."""

    level_ranges: tuple[tuple[float, float], ...] = ((1, 64), (32, 128), (64, 256), (128, 512), (256, 2048))
    """Closed intervals of sqrt(box area), in pixels of the network input, that each level P3..P7 takes."""
    min_overlap: float = 0.7
    """IoU that sets the Gaussian's radius."""
    sigma: float = 3.0
    """The Gaussian's standard deviation is (2 r + 1) / this."""
    centre: Literal["mass", "box"] = "mass"
    """Where an object's centre is: the mean of its mask's cells, or the middle of its box."""
    region_has_thing: bool = True
    """Region class 0 is "some thing"; without it there is one class less."""
    ignore_unlabelled: bool = False
    """Leave unlabelled pixels and crowds out of the losses instead of taking them as negatives."""


def reduced(maps: Float[Tensor, "N h w"], canvas: Size) -> Float[Tensor, "N H W"]:
    """Reduce maps of a picture to stride 4 (bilinear, no antialias) in the top left of the padded canvas."""
    height, width = (max(1, int(side / STRIDE + 0.5)) for side in maps.shape[-2:])
    H, W = canvas[0] // STRIDE, canvas[1] // STRIDE
    if len(maps) == 0:
        return maps.new_zeros((0, H, W))
    small = F.interpolate(maps[None], (height, width), mode="bilinear", align_corners=False)[0]
    return F.pad(small, (0, W - width, 0, H - height))


def mask_targets(
    targets: Sequence[Target], categories: Categories, canvas: Size, settings: TargetSettings
) -> MaskTargets:
    """Return every picture's soft masks at stride 4; canvas is (H, W) of the padded batch in pixels."""
    device = targets[0].masks.device
    thing_class = torch.full((len(categories),), -1, dtype=torch.long, device=device)
    thing_class[list(categories.thing_labels)] = torch.arange(len(categories.thing_labels), device=device)
    things, labels, boxes, regions, valid, crowds = [], [], [], [], [], []
    for target in targets:
        of_thing = thing_class[target.labels] >= 0
        chosen = of_thing & ~target.crowd
        things.append(reduced(target.masks[chosen].float(), canvas))
        labels.append(thing_class[target.labels[chosen]])
        boxes.append(target.boxes_xyxy[chosen])
        regions.append(reduced(_region_maps(target, categories, settings.region_has_thing), canvas))
        crowd = torch.zeros((len(categories.thing_labels), *target.unlabelled.shape), device=device)
        for mask, row in zip(
            target.masks[of_thing & target.crowd], thing_class[target.labels[of_thing & target.crowd]], strict=True
        ):
            crowd[row].masked_fill_(mask, 1.0)
        crowds.append(reduced(crowd, canvas))
        ignored = reduced(target.unlabelled[None].float(), canvas)[0] * settings.ignore_unlabelled
        valid.append(1.0 - ignored)
    return MaskTargets(
        tuple(things), tuple(labels), tuple(boxes), torch.stack(regions), torch.stack(valid), torch.stack(crowds)
    )


def _region_maps(target: Target, categories: Categories, has_thing: bool) -> Float[Tensor, "R h w"]:
    """One map per stuff class; with `has_thing` a first one for all that is labelled but no stuff (crowds too)."""
    maps = []
    for label in categories.stuff_labels:
        maps.append(target.masks[target.labels == label].any(0))
    stuff = torch.stack(maps) if maps else target.unlabelled.new_zeros((0, *target.unlabelled.shape))
    if has_thing:
        stuff = torch.cat([(~stuff.any(0) & ~target.unlabelled)[None], stuff])
    return stuff.float()


def mass_centres(masks: Float[Tensor, "N H W"]) -> Float[Tensor, "N 2"]:
    """Return the mean (row, column) of each mask's cells above 0, unweighted; (0, 0) for a mask that vanished."""
    support = (masks > 0).float()
    count = support.sum((1, 2)).clamp(min=1)
    rows = torch.arange(masks.shape[1], device=masks.device, dtype=torch.float32)
    columns = torch.arange(masks.shape[2], device=masks.device, dtype=torch.float32)
    return torch.stack([(support.sum(2) @ rows) / count, (support.sum(1) @ columns) / count], dim=1)


def box_centres(boxes_xyxy: Float[Tensor, "N 4"]) -> Float[Tensor, "N 2"]:
    """Return the (row, column) of each box's middle in stride-4 cells; boxes are in pixels."""
    return (boxes_xyxy[:, [1, 0]] + boxes_xyxy[:, [3, 2]]) / (2 * STRIDE)


def gaussian_radius(size: Float[Tensor, "N 2"], min_overlap: float) -> Float[Tensor, "N"]:
    """Return the radius within which a shifted box of (height, width) keeps `min_overlap`.

    As CornerNet's released code (Law and Deng 2018) has it: its roots lack the division by a, which the weights were
    trained with.
    """
    total, area = size.sum(1), size.prod(1)
    m = min_overlap
    cases = (
        (1.0, total, area * (1 - m) / (1 + m)),
        (4.0, 2 * total, (1 - m) * area),
        (4 * m, -2 * m * total, (m - 1) * area),
    )
    roots = [(b + (b * b - 4 * a * c).clamp(min=0).sqrt()) / 2 for a, b, c in cases]
    return torch.stack(roots).amin(0).clamp(min=0)


def gaussian_maps(
    cells: Int[Tensor, "P 2"], radius: Int[Tensor, "P"], shape: Size, sigma: float = 3.0
) -> Float[Tensor, "P h w"]:
    """Return a Gaussian around each (row, column), cut off beyond its radius r; its deviation is (2 r + 1) / sigma."""
    rows = torch.arange(shape[0], device=cells.device)[None, :, None] - cells[:, 0, None, None]
    columns = torch.arange(shape[1], device=cells.device)[None, None, :] - cells[:, 1, None, None]
    r = radius[:, None, None]
    deviation = (2 * r + 1) / sigma
    values = torch.exp(-(rows * rows + columns * columns) / (2 * deviation * deviation))
    return values * ((rows.abs() <= r) & (columns.abs() <= r))


def level_targets(
    masks: MaskTargets, shapes: Sequence[Size], canvas: Size, settings: TargetSettings
) -> list[LevelTargets]:
    """Return the targets of each level, whose maps have the given shapes; canvas is the padded batch's (H, W)."""
    device = masks.regions.device
    counts = [len(labels) for labels in masks.labels]
    picture = torch.repeat_interleave(torch.arange(len(counts), device=device), torch.tensor(counts, device=device))
    instance = torch.cat([torch.arange(n, device=device) for n in counts])
    labels = torch.cat(masks.labels)
    boxes = torch.cat(masks.boxes_xyxy)
    centres = box_centres(boxes) if settings.centre == "box" else torch.cat([mass_centres(m) for m in masks.things])
    size = boxes[:, [3, 2]] - boxes[:, [1, 0]]  # height, width
    scale = size.prod(1).clamp(min=0).sqrt()
    levels = []
    for shape, (low, high) in zip(shapes, settings.level_ranges, strict=True):
        chosen = ((scale >= low) & (scale <= high)).nonzero()[:, 0]
        step = torch.tensor([shape[0] / canvas[0], shape[1] / canvas[1]], device=device)
        cells = (centres[chosen] * (step * STRIDE)).long()
        radius = gaussian_radius(size[chosen] * step, settings.min_overlap).long()
        maps = masks.crowds.new_zeros((len(counts) * masks.crowds.shape[1], shape[0] * shape[1]))
        row = picture[chosen] * masks.crowds.shape[1] + labels[chosen]
        peaks = gaussian_maps(cells, radius, shape, settings.sigma).flatten(1)
        maps.scatter_reduce_(0, row[:, None].expand_as(peaks), peaks, "amax")
        valid, crowds = _valid_cells(masks, shape, settings.ignore_unlabelled)
        levels.append(
            LevelTargets(
                centres=maps.view(len(counts), masks.crowds.shape[1], *shape),
                regions=_regions_on_level(masks.regions, shape),
                picture=picture[chosen],
                instance=instance[chosen],
                label=labels[chosen],
                cell=cells.clamp(min=0).minimum(torch.tensor(shape, device=device)),
                valid=valid,
                valid_centres=valid[:, None] & ~crowds,
            )
        )
    return levels


def to_level(maps: Float[Tensor, "B C H W"], shape: Size) -> Float[Tensor, "B C h w"]:
    """Resize stride-4 maps to a level (bilinear, no antialias)."""
    if 0 in maps.shape[:2]:
        return maps.new_zeros((*maps.shape[:2], *shape))
    return F.interpolate(maps, shape, mode="bilinear", align_corners=False)


def _regions_on_level(regions: Float[Tensor, "B R H W"], shape: Size) -> Float[Tensor, "B R h w"]:
    soft = to_level(regions, shape).clamp(max=1)
    return soft * (soft >= 0.5)


def _valid_cells(
    masks: MaskTargets, shape: Size, ignore: bool
) -> tuple[Bool[Tensor, "B h w"], Bool[Tensor, "B T h w"]]:
    """Which cells are labelled, and which are crowds (none where nothing is ignored)."""
    valid = to_level(masks.valid[:, None], shape)[:, 0] > 0.5
    crowds = to_level(masks.crowds, shape) >= 0.5
    return valid, crowds & ignore
