"""Panoptic FCN's targets and its inference after the network, as the authors' steps stand, in torch's own operations.

Written from their description alone; what our making of targets, kernels and merging must equal, and the baseline of
benchmarks/panoptic_fcn.py. With scenes to run both on. Letters: T thing classes, R region classes, K kernel channels,
E encoded channels, H W the stride-4 map, h w a level's map.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int]
SLOTS = 100
"""Rows that every level holds for instances."""
NOTHING, UNLABELLED = 255.0, 255
RANGES = ((1, 64), (32, 128), (64, 256), (128, 512), (256, 2048))

# ---- targets


@dataclass(frozen=True)
class PlainPicture:
    """One picture's annotations: boxes XYXY, thing classes and masks of instances, and a map of region classes."""

    boxes: Tensor
    classes: Tensor
    masks: Tensor
    regions: Tensor
    """0 is some thing, 1.. stuff, 255 unlabelled."""


@dataclass
class PlainLevel:
    """One picture's targets on one level."""

    centres: Tensor
    """[T, h, w]"""
    masks: Tensor
    """[SLOTS, H, W], rows without an instance hold 255."""
    classes: list[int]
    cells: list[tuple[int, int]]
    regions: Tensor
    """[R, h, w]"""
    present: Tensor
    stuff_masks: Tensor
    """[present, H, W]"""
    supports: Tensor
    """[present, h, w]"""


def plain_targets(
    pictures: Sequence[PlainPicture], canvas: Size, shapes: Sequence[Size], things: int, regions: int
) -> list[list[PlainLevel]]:
    """Return each picture's targets of each level; canvas is the padded batch's (H, W) in pixels."""
    return [_plain_picture(picture, canvas, shapes, things, regions) for picture in pictures]


def _plain_picture(
    picture: PlainPicture, canvas: Size, shapes: Sequence[Size], things: int, regions: int
) -> list[PlainLevel]:
    stuff = plain_stuff(picture.regions, regions, canvas)
    masks = plain_reduced(picture.masks.float(), canvas)
    centres = [plain_mass_centre(mask) for mask in masks]
    levels = []
    for shape, (low, high) in zip(shapes, RANGES, strict=True):
        drawn, rows = torch.zeros(things, *shape), masks.new_full((SLOTS, *masks.shape[1:]), NOTHING)
        classes: list[int] = []
        cells = []
        for i, (x0, y0, x1, y1) in enumerate(picture.boxes.tolist()):
            if not low <= math.sqrt((x1 - x0) * (y1 - y0)) <= high:
                continue
            row, column = (
                int(c * side / whole) for c, side, whole in zip(centres[i], shape, masks.shape[1:], strict=True)
            )
            height, width = (y1 - y0) * shape[0] / canvas[0], (x1 - x0) * shape[1] / canvas[1]
            radius = int(max(0.0, plain_radius(height, width)))
            draw(drawn[picture.classes[i]], row, column, radius)
            rows[len(classes)] = masks[i]
            classes.append(int(picture.classes[i]))
            cells.append((row, column))
        levels.append(PlainLevel(drawn, rows, classes, cells, *_plain_regions(stuff, shape)))
    return levels


def plain_reduced(maps: Tensor, canvas: Size) -> Tensor:
    """Reduce maps [N, h, w] to stride 4, top left in zeros of the padded canvas."""
    small = [int(side / 4 + 0.5) for side in maps.shape[1:]]
    padded = maps.new_zeros((len(maps), canvas[0] // 4, canvas[1] // 4))
    if len(maps):
        padded[:, : small[0], : small[1]] = F.interpolate(maps[None], small, mode="bilinear", align_corners=False)[0]
    return padded


def plain_stuff(regions: Tensor, classes: int, canvas: Size) -> Tensor:
    """Return the one-hot maps at stride 4; unlabelled pixels are an extra class that is cut off."""
    labels = torch.where(regions == UNLABELLED, classes, regions)
    return plain_reduced(F.one_hot(labels, classes + 1).permute(2, 0, 1)[:classes].float(), canvas)


def plain_mass_centre(mask: Tensor) -> tuple[float, float]:
    """Return the mean (row, column) of the cells above 0; (0, 0) where there is none."""
    rows, columns = torch.nonzero(mask > 0, as_tuple=True)
    return (float(rows.float().mean()), float(columns.float().mean())) if len(rows) else (0.0, 0.0)


def plain_radius(height: float, width: float, overlap: float = 0.7) -> float:
    """Return the least of CornerNet's three roots, without the division by a."""
    total, area = height + width, height * width
    cases = (
        (1.0, total, area * (1 - overlap) / (1 + overlap)),
        (4.0, 2 * total, (1 - overlap) * area),
        (4 * overlap, -2 * overlap * total, (overlap - 1) * area),
    )
    return min((b + math.sqrt(max(0.0, b * b - 4 * a * c))) / 2 for a, b, c in cases)


def draw(heat: Tensor, row: int, column: int, radius: int) -> None:
    """Draw a Gaussian into a map [h, w] by the element-wise maximum, within its radius."""
    height, width = heat.shape
    y, x = torch.meshgrid(torch.arange(-radius, radius + 1.0), torch.arange(-radius, radius + 1.0), indexing="ij")
    sigma = (2 * radius + 1) / 3
    gaussian = torch.exp(-(x * x + y * y) / (2 * sigma * sigma))
    top, bottom = max(0, row - radius), min(height, row + radius + 1)
    left, right = max(0, column - radius), min(width, column + radius + 1)
    if top < bottom and left < right:
        near = gaussian[top - row + radius : bottom - row + radius, left - column + radius : right - column + radius]
        window = heat[top:bottom, left:right]
        torch.maximum(window, near, out=window)


def _plain_regions(stuff: Tensor, shape: Size) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    soft = F.interpolate(stuff[None], shape, mode="bilinear", align_corners=False)[0].clamp(max=1)
    soft[soft < 0.5] = 0
    present = torch.nonzero(soft.flatten(1).sum(1) > 0)[:, 0]
    return soft, present, stuff[present], (soft[present] > 0).float()


# ---- inference after the network


@dataclass(frozen=True)
class PlainRules:
    """Thresholds of inference."""

    thing: float = 0.05
    stuff: float = 0.05
    candidates: int = 100
    similarity: float = 0.9
    mask: float = 0.4
    rescored: float = 0.05
    thing_score: float = 0.2
    overlap: float = 0.5
    stuff_area: float = 4096


@dataclass(frozen=True)
class PlainMaps:
    """What the network gives for one picture: logits and kernel maps of each level P3..P7, the encoded feature."""

    centres: Sequence[Tensor]
    regions: Sequence[Tensor]
    kernels: Sequence[Tensor]
    feature: Tensor
    thing_embedding: tuple[Tensor, Tensor]
    """Weight [E, K] and bias."""
    stuff_embedding: tuple[Tensor, Tensor]


Found = tuple[Tensor, Tensor, Tensor]
"""Kernels [N, K], classes [N], scores [N]."""


def plain_kernels(maps: PlainMaps, rules: PlainRules) -> tuple[Found, Found]:
    """Return the embedded, fused kernels of things by falling score and of stuff by ascending class."""
    levels = range(len(maps.centres))
    things = [plain_things(maps.centres[i], maps.kernels[i], 3 if i < 3 else 5, rules) for i in levels]
    stuff = [plain_regions_of(maps.regions[i], maps.kernels[i], rules.stuff) for i in levels]
    kernels, classes, scores = (torch.cat(parts) for parts in zip(*things, strict=True))
    order = scores.argsort(descending=True, stable=True)
    kernels = F.linear(kernels[order], *maps.thing_embedding)
    of_things = plain_fusion(kernels, classes[order], scores[order], rules.similarity)
    kernels, classes, scores = (torch.cat(parts) for parts in zip(*stuff, strict=True))
    kernels = F.linear(kernels, *maps.stuff_embedding)
    found = classes.unique()
    means = [(kernels[classes == c].mean(0), scores[classes == c].mean()) for c in found]
    vectors = torch.stack([v for v, _ in means]) if means else kernels
    return of_things, (vectors, found, torch.stack([s for _, s in means]) if means else scores)


def plain_things(centres: Tensor, kernels: Tensor, window: int, rules: PlainRules) -> Found:
    """Smooth, keep 3x3 maxima, take the best of each class, then of all, above the threshold."""
    p = centres.sigmoid()
    p = (p + F.avg_pool2d(p[None], window, 1, window // 2)[0]) / 2
    p = p * (F.max_pool2d(p[None], 3, 1, 1)[0] == p).float()
    count = min(p[0].numel(), rules.candidates // 2)
    of_class, cells = p.flatten(1).topk(count)
    scores, best = of_class.flatten().topk(count)
    classes = best // count
    cells = cells.flatten()[best]
    kept = scores > rules.thing
    return kernels.flatten(1)[:, cells[kept]].T, classes[kept], scores[kept]


def plain_regions_of(regions: Tensor, kernels: Tensor, threshold: float) -> Found:
    """Pool the kernels over each class's argmax region, divided by the whole map's area."""
    p = regions.sigmoid()
    mask = F.one_hot(p.argmax(0), len(p)).permute(2, 0, 1).float()
    scores = (p * mask).sum((1, 2)) / mask.sum((1, 2)).clamp(min=1e-6)
    kept = torch.nonzero(scores > threshold)[:, 0]
    pooled = mask[kept].flatten(1) @ kernels.flatten(1).T / kernels[0].numel()
    return pooled, kept, scores[kept]


def plain_fusion(kernels: Tensor, classes: Tensor, scores: Tensor, similarity: float) -> Found:
    """Average the kernels that match a survivor first."""
    length = kernels.norm(dim=1)
    cosine = kernels @ kernels.T / (length[:, None] * length).clamp(min=1e-8)
    match = ((cosine >= similarity) & (classes[:, None] == classes)).float().triu()
    first = match * (match.cumsum(0) < 2)
    kept = torch.nonzero(first.diagonal() > 0)[:, 0]
    rows = first[kept]
    return rows @ kernels / rows.sum(1, keepdim=True), classes[kept], scores[kept]


def plain_masks(things: Found, stuff: Found, feature: Tensor, rules: PlainRules) -> tuple[Found, Found]:
    """Return things (probabilities [N, H, W], classes, scores) after rescoring, and stuff likewise."""
    p, classes, scores = (things[0] @ feature.flatten(1)).sigmoid().view(-1, *feature.shape[1:]), *things[1:]
    inside = (p > rules.mask).float()
    scores = scores * (p * inside).sum((1, 2)) / (inside.sum((1, 2)) + 1e-6)
    scores, order = scores.sort(descending=True)
    order = order[scores >= rules.rescored][: rules.candidates]
    of_stuff = (stuff[0] @ feature.flatten(1)).sigmoid().view(-1, *feature.shape[1:])
    return (p[order], classes[order], scores[: len(order)]), (of_stuff, *stuff[1:])


def plain_resized(p: Tensor, size: Size, original: Size) -> Tensor:
    """Bring probabilities [N, H, W] to the padded picture, crop, and bring them to the picture's own size."""
    if not len(p):
        return p.new_zeros((0, *original))
    p = F.interpolate(p[None], scale_factor=4.0, mode="bilinear", align_corners=False)[..., : size[0], : size[1]]
    return F.interpolate(p, original, mode="bilinear", align_corners=False)[0]


Row = tuple[int, bool, int]
"""Id, whether it is a thing, class."""


def plain_merge(
    things: Found, stuff: Found, regions: int, size: Size, original: Size, rules: PlainRules
) -> tuple[Tensor, list[Row]]:
    """Return the ids [H, W] and segments: things one by one by falling score, then stuff by argmax."""
    masks = plain_resized(things[0], size, original) > rules.mask
    ids, rows = torch.zeros(original, dtype=torch.int32), list[Row]()
    for mask, label, score in zip(masks, things[1].tolist(), things[2].tolist(), strict=True):
        if score < rules.thing_score:
            continue
        area = int(mask.sum())
        if not area or int((mask & (ids > 0)).sum()) / area > rules.overlap:
            continue
        rows.append((len(rows) + 1, True, label))
        ids[mask & (ids == 0)] = len(rows)
    probabilities = stuff[0].new_zeros((regions, *original))
    probabilities[stuff[1]] = plain_resized(stuff[0], size, original)
    labels = probabilities.argmax(0)
    for label in labels.unique().tolist():
        free = (labels == label) & (ids == 0)
        if label and int(free.sum()) >= rules.stuff_area:
            rows.append((len(rows) + 1, False, label))
            ids[free] = len(rows)
    return ids, rows


def plain_panoptic(maps: PlainMaps, size: Size, original: Size, rules: PlainRules) -> tuple[Tensor, list[Row]]:
    """Return one picture's ids and segments from what the network gives; sizes are the resized and own (H, W)."""
    things, stuff = plain_masks(*plain_kernels(maps, rules), maps.feature, rules)
    return plain_merge(things, stuff, len(maps.regions[0]), size, original, rules)


# ---- scenes


def _grid(shape: Size) -> Tensor:
    """[1, y, x, y y, x x] of each cell, from 0 to 1: a kernel over them draws any ellipse."""
    y, x = torch.meshgrid(torch.linspace(0, 1, shape[0]), torch.linspace(0, 1, shape[1]), indexing="ij")
    return torch.stack([torch.ones_like(y), y, x, y * y, x * x])


def _ellipses(count: int, smallest: float, largest: float) -> tuple[Tensor, Tensor]:
    """Return centres and radii [count, 2] as shares of the map."""
    radii = smallest * (largest / smallest) ** torch.rand(count, 1) * (0.7 + 0.6 * torch.rand(count, 2))
    return 0.05 + 0.9 * torch.rand(count, 2), radii


def _drawing(centres: Tensor, radii: Tensor, sharpness: float) -> Tensor:
    """Return the kernels [count, 5] of ellipses: `sharpness` at the middle, 0 on the edge."""
    a = 1 / radii**2
    constant = 1 - (a * centres**2).sum(1, keepdim=True)
    return sharpness * torch.cat([constant, 2 * a * centres, -a], dim=1)


def crafted_maps(
    canvas: Size, things: int, stuff: int, classes: tuple[int, int] = (80, 54), widths: tuple[int, int] = (256, 64)
) -> PlainMaps:
    """Return what a trained network might give: that many things, each found on two levels, and stuff beside them.

    Masks are ellipses with uneven edges; classes are those of things and regions, widths those of kernels and feature.
    """
    (T, R), (K, E) = classes, widths
    rough = F.interpolate(torch.randn(1, E - 5, 12, 16), (canvas[0] // 4, canvas[1] // 4), mode="bicubic")[0]
    rough[-8:] = 0  # where kernels may differ unseen, so that only those of one thing are alike
    feature = torch.cat([_grid((canvas[0] // 4, canvas[1] // 4)), rough])
    embeddings = [(torch.randn(E, K) / K**0.5, 0.1 * torch.randn(E)) for _ in range(2)]
    places, radii = _ellipses(things, 0.02, 0.13)
    uneven = 0.1 * torch.randn(things + stuff, E - 5)
    wanted = torch.cat([_drawing(places, radii, 4.0), uneven[:things]], dim=1)
    wanted[:, -8:] = wanted.norm(dim=1, keepdim=True) * torch.randn(things, 8)
    labels = torch.randint(max(1, T // 4), (things,))
    stuff_places, stuff_radii = _ellipses(stuff, 0.3, 0.6)
    background = torch.cat([_drawing(stuff_places, stuff_radii, 2.0), uneven[things:]], dim=1)
    thing_vectors, stuff_vectors = (
        torch.linalg.lstsq(weight, (vectors - bias).T).solution.T
        for vectors, (weight, bias) in zip((wanted, background), embeddings, strict=True)
    )
    level = (torch.arange(things) % 3)[:, None] + torch.arange(2)  # two neighbours of P3..P6
    centres, regions, kernels = [], [], []
    for i in range(5):
        shape = (-(-canvas[0] // (8 << i)), -(-canvas[1] // (8 << i)))
        owner = torch.cdist(_grid(shape)[1:3].flatten(1).T, stuff_places).argmin(1)
        share = F.one_hot(owner, stuff).float().mean(0)
        region = torch.full((R, owner.numel()), -5.0) + torch.randn(R, owner.numel()) / 2
        region[1 + owner * ((R - 1) // stuff), torch.arange(owner.numel())] = 2.0
        maps = (stuff_vectors[owner] / share[owner, None]).T.contiguous()
        here = torch.nonzero((level == i).any(1))[:, 0]
        cell = (places[here] * torch.tensor(shape)).long()
        cell = cell[:, 0] * shape[1] + cell[:, 1]
        centre = torch.full((T, owner.numel()), -7.0) + torch.randn(T, owner.numel()) / 2
        centre[labels[here], cell] = 1.0 + torch.rand(len(here))
        maps[:, cell] = thing_vectors[here].T
        region[:, cell], region[0, cell] = -6.0, -3.05  # there is some thing, below the threshold
        for found, flat in ((centres, centre), (regions, region), (kernels, maps)):
            found.append(flat.view(-1, *shape))
    return PlainMaps(centres, regions, kernels, feature, *embeddings)


def crafted_picture(size: Size, things: int, stuff: int, classes: tuple[int, int] = (80, 54)) -> PlainPicture:
    """Return annotations of ellipses before each other, over stuff with an unlabelled corner."""
    grid = _grid(size)
    places, radii = _ellipses(things, 0.01, 0.3)
    shapes = (_drawing(places, radii, 1.0) @ grid.flatten(1)).view(-1, *size) > 0
    free = ~torch.cat([torch.zeros(1, *size, dtype=torch.bool), shapes[:-1].cumsum(0) > 0])
    masks = shapes & free
    masks = masks[masks.flatten(1).sum(1) > 16]
    borders, _ = _ellipses(stuff, 0.1, 0.2)
    regions = 1 + torch.cdist(grid[1:3].flatten(1).T, borders).argmin(1).view(size) * ((classes[1] - 1) // stuff)
    regions[masks.any(0)] = 0
    regions[: size[0] // 8, : size[1] // 8] = UNLABELLED
    masks = masks & (regions == 0)
    masks = masks[masks.flatten(1).any(1)]
    edges = [(torch.nonzero(masks.any(axis)[i])[:, 0], i) for i in range(len(masks)) for axis in (1, 2)]
    corners = [(int(cells[0]), int(cells[-1]) + 1) for cells, _ in edges]
    boxes = [(x[0], y[0], x[1], y[1]) for x, y in zip(corners[::2], corners[1::2], strict=True)]
    return PlainPicture(torch.tensor(boxes).float(), torch.randint(classes[0], (len(masks),)), masks, regions)
