"""What Panoptic FCN learns from: per pyramid level object centres and stuff regions, and stride-4 masks (section 3.3).

Letters: B pictures, T thing classes, R region classes (0 is "some thing"), P (instance, level) pairs, S (region,
level) ones, H W the padded stride-4 map, h w a level's map.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
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
    present: Bool[Tensor, "B R"]
    """Which regions a picture has; the others' maps are zero."""
    crowded: Bool[Tensor, "B T"]
    """Which classes have crowds."""


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


@dataclass(frozen=True)
class _Samples:
    """The four pixels that each stride-4 cell reads of a picture's maps (bilinear, no antialias), and their weights."""

    pixels: Shaped[Tensor, "N 2 _h 2 _w"]
    rows: Float[Tensor, "2 _h 1"]
    columns: Float[Tensor, "2 _w"]

    def reduced(self, pixels: Shaped[Tensor, "M 2 _h 2 _w"], canvas: Size) -> Float[Tensor, "M H W"]:
        """Reduce maps given by their pixels to stride 4, in the top left of the padded canvas."""
        small = self.rows.new_zeros((len(pixels), canvas[0] // STRIDE, canvas[1] // STRIDE))
        inside = small[:, : self.rows.shape[1], : self.columns.shape[1]]
        for row, side in ((0, 0), (0, 1), (1, 0), (1, 1)):
            inside.addcmul_(pixels[:, row, :, side].float(), self.rows[row] * self.columns[side])
        return small


def _samples(maps: Shaped[Tensor, "N h w"]) -> _Samples:
    (rows, row_weights), (columns, column_weights) = (_reads(side, maps.device) for side in maps.shape[1:])
    pixels = maps.index_select(1, rows.flatten())
    pixels = pixels.gather(2, columns.flatten().expand(*pixels.shape[:2], -1))  # index_select is slow along the last
    pixels = pixels.view(len(maps), *rows.shape, *columns.shape)
    return _Samples(pixels, row_weights[..., None], column_weights)


def _reads(side: int, device: torch.device) -> tuple[Int[Tensor, "2 cells"], Float[Tensor, "2 cells"]]:
    """Return the two pixels that each stride-4 cell reads along a side, and their weights, as `F.interpolate` does."""
    cells = max(1, int(side / STRIDE + 0.5))
    place = torch.arange(cells, device=device, dtype=torch.float32)
    place = ((place + 0.5) * torch.tensor(side / cells, dtype=torch.float32) - 0.5).clamp(min=0)
    first = place.long()
    beyond = place - first
    return torch.stack([first, (first + 1).clamp(max=side - 1)]), torch.stack([1 - beyond, beyond])


def reduced(maps: Shaped[Tensor, "N h w"], canvas: Size) -> Float[Tensor, "N H W"]:
    """Reduce maps of a picture to stride 4 (bilinear, no antialias) in the top left of the padded canvas."""
    samples = _samples(maps)
    return samples.reduced(samples.pixels, canvas)


def mask_targets(
    targets: Sequence[Target], categories: Categories, canvas: Size, settings: TargetSettings
) -> MaskTargets:
    """Return every picture's soft masks at stride 4; canvas is (H, W) of the padded batch in pixels.

    Only the pixels that are read are looked at, and only classes that are present.
    """
    device = targets[0].masks.device
    thing_class = torch.full((len(categories),), -1, dtype=torch.long, device=device)
    thing_class[list(categories.thing_labels)] = torch.arange(len(categories.thing_labels), device=device)
    region_class = torch.full((len(categories),), -1, dtype=torch.long, device=device)
    region_class[list(categories.stuff_labels)] = torch.arange(len(categories.stuff_labels), device=device)
    shape = (canvas[0] // STRIDE, canvas[1] // STRIDE)
    has_thing = int(settings.region_has_thing)
    regions = torch.zeros((len(targets), len(categories.stuff_labels) + has_thing, *shape), device=device)
    present = torch.zeros(regions.shape[:2], dtype=torch.bool, device=device)
    valid = torch.ones((len(targets), *shape), device=device)
    things, labels, boxes, crowds = [], [], [], []
    for b, target in enumerate(targets):
        samples = _samples(target.masks)
        of_thing, of_region = thing_class[target.labels], region_class[target.labels]
        chosen = (of_thing >= 0) & ~target.crowd
        things.append(samples.reduced(samples.pixels[chosen], canvas))
        labels.append(of_thing[chosen])
        boxes.append(target.boxes_xyxy[chosen])
        found, stuff = _united(samples.pixels, of_region, of_region >= 0)
        regions[b, found + has_thing] = samples.reduced(stuff, canvas)
        present[b, found + has_thing] = True
        if has_thing:  # all that is labelled but no stuff, crowds too
            unlabelled = _samples(target.unlabelled[None]).pixels
            regions[b, :1] = samples.reduced(~(stuff.any(0, keepdim=True) | unlabelled), canvas)
            present[b, 0] = True
        if settings.ignore_unlabelled:
            valid[b] -= reduced(target.unlabelled[None], canvas)[0]
        found, crowd = _united(samples.pixels, of_thing, (of_thing >= 0) & target.crowd)
        crowds.append((found, samples.reduced(crowd, canvas)))
    crowd_maps, crowded = _crowd_maps(crowds, (len(categories.thing_labels), *shape), device)
    return MaskTargets(tuple(things), tuple(labels), tuple(boxes), regions, valid, crowd_maps, present, crowded)


def _united(
    pixels: Bool[Tensor, "N 2 _h 2 _w"], classes: Int[Tensor, "N"], chosen: Bool[Tensor, "N"]
) -> tuple[Int[Tensor, "M"], Bool[Tensor, "M 2 _h 2 _w"]]:
    """Return the chosen masks' classes, ascending, and the union of each one's masks."""
    present, row = torch.unique(classes[chosen], return_inverse=True)
    masks = pixels[chosen]
    if len(present) == len(masks):  # as mostly
        return present, masks[row.argsort()]
    united = masks.new_zeros((len(present), *masks.shape[1:]), dtype=torch.int32)
    return present, united.index_add_(0, row, masks.int()) > 0


def _crowd_maps(
    crowds: list[tuple[Tensor, Tensor]], shape: tuple[int, int, int], device: torch.device
) -> tuple[Float[Tensor, "B T H W"], Bool[Tensor, "B T"]]:
    """Return where crowds lie and which classes have any, from each picture's (classes, maps) of those it has."""
    crowded = torch.zeros((len(crowds), shape[0]), dtype=torch.bool, device=device)
    if not any(len(found) for found, _ in crowds):
        return torch.zeros((), device=device).expand(len(crowds), *shape), crowded
    maps = torch.zeros((len(crowds), *shape), device=device)
    for b, (found, crowd) in enumerate(crowds):
        maps[b, found], crowded[b, found] = crowd, True
    return maps, crowded


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
    cells: Int[Tensor, "P 2"],
    radius: Int[Tensor, "P"],
    shape: Size,
    sigma: float = 3.0,
    rows: Int[Tensor, "P"] | None = None,
    count: int | None = None,
) -> Float[Tensor, "M h w"]:
    """Return a Gaussian around each (row, column), cut off beyond its radius r; its deviation is (2 r + 1) / sigma.

    Each has a map of its own, unless `rows` tells which of `count` maps it is drawn into by the element-wise maximum.
    """
    rows = torch.arange(len(cells), device=cells.device) if rows is None else rows
    maps = torch.zeros((len(cells) if count is None else count, *shape), device=cells.device)
    if len(cells) == 0:
        return maps
    reach = int(radius.max())  # only so far around is anything computed
    steps = torch.arange(-reach, reach + 1, device=cells.device)
    deviation = (2 * radius + 1) / sigma
    profile = torch.exp(-(steps * steps) / (2 * deviation * deviation)[:, None]) * (steps.abs() <= radius[:, None])
    sides = torch.tensor(shape, device=cells.device)[:, None]
    place = cells[:, :, None] + steps  # [P, 2, window]
    profiles = profile[:, None] * ((place >= 0) & (place < sides))
    place = place.clamp(min=0).minimum(sides - 1)  # what lies beside the map draws nothing at its border
    index = (rows[:, None, None] * shape[0] + place[:, 0, :, None]) * shape[1] + place[:, 1, None, :]
    values = profiles[:, 0, :, None] * profiles[:, 1, None, :]
    maps.view(-1).scatter_reduce_(0, index.flatten(), values.flatten(), "amax")
    return maps


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
    B, T = masks.crowded.shape
    regions, crowds = masks.regions[masks.present], masks.crowds[masks.crowded]
    levels = []
    for shape, (low, high) in zip(shapes, settings.level_ranges, strict=True):
        chosen = ((scale >= low) & (scale <= high)).nonzero()[:, 0]
        step = torch.tensor([shape[0] / canvas[0], shape[1] / canvas[1]], device=device)
        cells = (centres[chosen] * (step * STRIDE)).long()
        radius = gaussian_radius(size[chosen] * step, settings.min_overlap).long()
        row = picture[chosen] * T + labels[chosen]
        valid = to_level(masks.valid[:, None], shape)[:, 0] > 0.5
        valid_centres = valid[:, None].expand(B, T, *shape)
        if settings.ignore_unlabelled and len(crowds):
            valid_centres = valid_centres & ~(_dense(to_level(crowds[None], shape)[0], masks.crowded) >= 0.5)
        soft = to_level(regions[None], shape)[0].clamp(max=1)
        levels.append(
            LevelTargets(
                centres=gaussian_maps(cells, radius, shape, settings.sigma, row, B * T).view(B, T, *shape),
                regions=_dense(soft * (soft >= 0.5), masks.present),
                picture=picture[chosen],
                instance=instance[chosen],
                label=labels[chosen],
                cell=cells.clamp(min=0).minimum(torch.tensor(shape, device=device)),
                valid=valid,
                valid_centres=valid_centres,
            )
        )
    return levels


def to_level(maps: Float[Tensor, "B C H W"], shape: Size) -> Float[Tensor, "B C h w"]:
    """Resize stride-4 maps to a level (bilinear, no antialias)."""
    if 0 in maps.shape[:2]:
        return maps.new_zeros((*maps.shape[:2], *shape))
    return F.interpolate(maps, shape, mode="bilinear", align_corners=False)


def _dense(maps: Float[Tensor, "M h w"], present: Bool[Tensor, "B C"]) -> Float[Tensor, "B C h w"]:
    """Put the maps of those that are present among zeros."""
    dense = maps.new_zeros((*present.shape, *maps.shape[1:]))
    dense[present] = maps
    return dense
