"""Panoptic FCN's targets and losses as the paper and its authors' code have them, in loops; see `switches_plain`.

Unlabelled pixels are negatives, as there.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from switches_plain import Size, bilinear
from thingstuff.models.panoptic_fcn import PanopticFCN, PanopticFCNOutput
from thingstuff.structures import Target


def reduced(mask: Tensor, canvas: Size) -> Tensor:
    """Bring a map of a picture to stride 4 in the top left of the canvas."""
    h, w = (int(side / 4 + 0.5) for side in mask.shape)
    result = torch.zeros(canvas[0] // 4, canvas[1] // 4, dtype=torch.float64)
    result[:h, :w] = bilinear(mask, (h, w))
    return result


def radius(height: float, width: float, overlap: float) -> int:
    """Return the least of CornerNet's three roots, as released: none is divided by its a."""
    cases = (
        (1, height + width, width * height * (1 - overlap) / (1 + overlap)),
        (4, 2 * (height + width), (1 - overlap) * width * height),
        (4 * overlap, -2 * overlap * (height + width), (overlap - 1) * width * height),
    )
    return int(max(min((b + math.sqrt(b * b - 4 * a * c)) / 2 for a, b, c in cases), 0))


@dataclass
class Pair:
    """An instance on a level."""

    b: int
    label: int
    mask: Tensor
    cell: tuple[int, int]
    radius: int


def pairs_of(net: PanopticFCN, targets: Sequence[Target], canvas: Size, shapes: Sequence[Size]) -> list[list[Pair]]:
    """Return each level's instances by section 5."""
    c, H, W = net.config, canvas[0] // 4, canvas[1] // 4
    levels: list[list[Pair]] = [[] for _ in shapes]
    for b, target in enumerate(targets):
        for mask, label, box, crowd in zip(
            target.masks, target.labels.tolist(), target.boxes_xyxy.tolist(), target.crowd.tolist(), strict=True
        ):
            if crowd or label not in net.categories.thing_labels:
                continue
            soft, (x0, y0, x1, y1) = reduced(mask.double(), canvas), box
            cells = [(y, x) for y in range(H) for x in range(W) if soft[y, x] > 0] or [(0, 0)]
            row, column = (sum(cell[axis] for cell in cells) / len(cells) for axis in (0, 1))
            if c.centre == "box":
                row, column = (y0 + y1) / 2 / 4, (x0 + x1) / 2 / 4
            for (h, w), (low, high), pairs in zip(shapes, c.level_ranges, levels, strict=True):
                if low <= math.sqrt((x1 - x0) * (y1 - y0)) <= high:
                    cell = int(row * (h / H)), int(column * (w / W))
                    r = radius((y1 - y0) * h / canvas[0], (x1 - x0) * w / canvas[1], c.gaussian_overlap)
                    pairs.append(Pair(b, net.categories.thing_labels.index(label), soft, cell, r))
    return levels


def heat_maps(net: PanopticFCN, pairs: Sequence[Pair], batch: int, shape: Size) -> Tensor:
    """Draw each instance's Gaussian of (2 r + 1)^2 cells into its class; the larger value stays."""
    maps = torch.zeros(batch, len(net.categories.thing_labels), *shape, dtype=torch.float64)
    for pair in pairs:
        r, sigma = pair.radius, (2 * pair.radius + 1) / net.config.gaussian_sigma
        for dy in range(-r, r + 1):
            for dx in range(-r, r + 1):
                y, x = pair.cell[0] + dy, pair.cell[1] + dx
                value = math.exp(-(dy * dy + dx * dx) / (2 * sigma * sigma))
                if 0 <= y < shape[0] and 0 <= x < shape[1] and value >= np.finfo(np.float64).eps:
                    maps[pair.b, pair.label, y, x] = max(float(maps[pair.b, pair.label, y, x]), value)
    return maps


def region_maps(net: PanopticFCN, target: Target, canvas: Size) -> list[Tensor]:
    """One stride-4 map per stuff class; before them that of what is labelled but no stuff, where that is a class."""
    labels = target.labels.tolist()
    of_class = [
        torch.stack([mask & (label == one) for mask, label in zip(target.masks, labels, strict=True)]).any(0)
        for one in net.categories.stuff_labels
    ]
    if net.config.region_has_thing:
        of_class.insert(0, ~target.unlabelled & ~torch.stack(of_class).any(0))
    return [reduced(one.double(), canvas) for one in of_class]


def focal(logit: Tensor, target: Tensor, alpha: float, gamma: float) -> Tensor:
    p = logit.sigmoid()
    cross_entropy = -(target * p.log() + (1 - target) * (1 - p).log())
    p_t, alpha_t = p * target + (1 - p) * (1 - target), alpha * target + (1 - alpha) * (1 - target)
    return cross_entropy * (1 - p_t) ** gamma * alpha_t


def dice(p: Tensor, target: Tensor) -> Tensor:
    return 1 - 2 * (p * target).sum() / max((p * p).sum() + (target * target).sum(), torch.tensor(1e-8))


def thing_mask_loss(net: PanopticFCN, maps: PanopticFCNOutput, pair: Pair, level: int) -> Tensor:
    """One instance's loss on one level, its positions sought one by one."""
    c, kernels, (h, w) = net.config, maps.kernels[level][pair.b], maps.centres[level].shape[-2:]
    weight, bias = net.thing_embedding.weight.detach().double(), net.thing_embedding.bias.detach().double()

    def of_kernel(y: int, x: int) -> Tensor:
        kernel = weight @ kernels[:, y, x] + bias
        return dice(torch.einsum("e,ehw->hw", kernel, maps.feature[pair.b]).sigmoid(), pair.mask)

    if not c.weighted:
        return of_kernel(min(pair.cell[0], h - 1), min(pair.cell[1], w - 1))
    inside = bilinear(pair.mask, (h, w)) > 0.1
    p = maps.centres[level][pair.b, pair.label].sigmoid()
    cells = sorted(
        ((y, x) for y in range(h) for x in range(w) if inside[y, x]), key=lambda cell: -float(p[cell].detach())
    )
    best = cells[: c.positives]
    total = torch.stack([p[cell] for cell in best]).sum() if best else torch.zeros(())
    return sum((p[cell] / max(total, torch.tensor(1e-8)) * of_kernel(*cell) for cell in best), torch.zeros(()))


def losses(net: PanopticFCN, maps: PanopticFCNOutput, targets: Sequence[Target]) -> dict[str, Tensor]:
    """Return the four losses of maps in fp64."""
    c, B = net.config, len(targets)
    canvas = (4 * maps.feature.shape[-2], 4 * maps.feature.shape[-1])
    shapes = [(level.shape[-2], level.shape[-1]) for level in maps.centres]
    pairs = pairs_of(net, targets, canvas, shapes)
    count = max(sum(map(len, pairs)), 1)
    soft = [region_maps(net, target, canvas) for target in targets]
    weight, bias = net.stuff_embedding.weight.detach().double(), net.stuff_embedding.bias.detach().double()
    zero = torch.zeros((), dtype=torch.float64)
    things, stuff, masks, of_stuff = zero, zero, zero, []
    for i, shape in enumerate(shapes):
        drawn = heat_maps(net, pairs[i], B, shape)
        things = things + focal(maps.centres[i], drawn, c.focal_alpha, c.focal_gamma).sum()
        masks = masks + sum((thing_mask_loss(net, maps, pair, i) for pair in pairs[i]), zero)
        for b in range(B):
            for r, region in enumerate(soft[b]):
                on_level = bilinear(region, shape).clamp(max=1)
                on_level = torch.where(on_level < 0.5, torch.zeros(()), on_level)
                stuff = stuff + focal(maps.regions[i][b, r], on_level, c.focal_alpha, c.focal_gamma).mean()
                if (on_level > 0).any():
                    kernel = weight @ ((on_level > 0) * maps.kernels[i][b]).mean((1, 2)) + bias
                    of_stuff.append(dice(torch.einsum("e,ehw->hw", kernel, maps.feature[b]).sigmoid(), region))
    return {
        "position_things": c.position_weight * things / count,
        "position_stuff": c.position_weight * stuff / B,
        "mask_things": c.mask_weight * masks / count,
        "mask_stuff": c.mask_weight * sum(of_stuff, zero) / max(len(of_stuff), 1),
    }
