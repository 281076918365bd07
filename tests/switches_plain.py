"""Panoptic FCN's network and inference as the paper and its authors' code have them, in loops.

What the tests of its switches compare with: written from the formulas, in fp64 from the maps on, with nothing of
`thingstuff` but a model's parameters and settings. Letters as in `thingstuff.models.panoptic_fcn`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from thingstuff.models.panoptic_fcn import PanopticFCN, PanopticFCNConfig, PanopticFCNOutput

VOID = -1
Size = tuple[int, int]

# ---- the network's parts, with a module's own parameters


def coordinates(x: Tensor) -> Tensor:
    """Append the vertical, then the horizontal coordinate, from -1 to 1 with both ends (-1 where there is one cell)."""
    H, W = x.shape[-2:]
    extra = torch.zeros(len(x), 2, H, W)
    for y in range(H):
        for c in range(W):
            extra[:, 0, y, c] = -1 + 2 * y / (H - 1) if H > 1 else -1
            extra[:, 1, y, c] = -1 + 2 * c / (W - 1) if W > 1 else -1
    return torch.cat([x, extra], dim=1)


def group_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    groups = x.double().reshape(len(x), 32, -1)
    variance = groups.var(2, unbiased=False, keepdim=True)
    normed = ((groups - groups.mean(2, keepdim=True)) / (variance + 1e-5).sqrt()).view(x.shape)
    return (normed * weight.double()[:, None, None] + bias.double()[:, None, None]).float()


def blocks(module: nn.Module, x: Tensor, count: int, deformable: bool, norm: bool) -> Tensor:
    """Apply conv -> group norm where there is one -> ReLU, so many times."""
    state = dict(module.named_parameters())
    assert len(state) == count * (1 + (2 if norm else 1) + (2 if deformable else 0))
    for i in range(count):
        weight, bias = state[f"{i}.conv.weight"], state.get(f"{i}.conv.bias")
        if deformable:
            maps = F.conv2d(x, state[f"{i}.conv.offset.weight"], state[f"{i}.conv.offset.bias"], padding=1)
            x = deform_conv2d(x, maps[:, :18], weight, bias, padding=1, mask=torch.sigmoid(maps[:, 18:27]))
        else:
            x = F.conv2d(x, weight, bias, padding=1)
        x = F.relu(group_norm(x, state[f"{i}.norm.weight"], state[f"{i}.norm.bias"]) if norm else x)
    return x


def network(net: PanopticFCN, pyramid: dict[int, Tensor]) -> PanopticFCNOutput:
    """Return what the heads and the encoder make of a pyramid."""
    c = net.config
    centres, regions, kernels = [], [], []
    for level in range(3, 3 + len(c.level_ranges)):
        p, head = pyramid[level], net.position_head
        x = blocks(head.blocks, p, c.position_convs, c.position_deformable, norm=True)
        centres.append(F.conv2d(x, head.centres.weight, head.centres.bias, padding=1))
        regions.append(F.conv2d(x, head.regions.weight, head.regions.bias, padding=1))
        x = coordinates(p) if c.kernel_coordinates else p
        x = blocks(net.kernel_head.blocks, x, c.kernel_convs, False, norm=True)
        kernels.append(F.conv2d(x, net.kernel_head.out.weight, net.kernel_head.out.bias, padding=1))
    x = encoder_input(net, pyramid)
    x = coordinates(x) if c.encoder_coordinates else x
    feature = blocks(net.feature_encoder.blocks, x, c.encoder_convs, c.encoder_deformable, norm=False)
    return PanopticFCNOutput(tuple(centres), tuple(regions), tuple(kernels), feature)


def encoder_input(net: PanopticFCN, pyramid: dict[int, Tensor]) -> Tensor:
    """Return the stride-4 map that is encoded: P2, or P2..P5 at that size added, as they are or convolved before."""
    if net.config.feature_type == "p2":
        return pyramid[2]
    H, W = pyramid[2].shape[-2:]
    if net.config.feature_type == "summed":
        return torch.stack([bilinear(pyramid[s], (H, W)) for s in (2, 3, 4, 5)]).sum(0).float()
    total, state = torch.zeros(()), dict(net.semantic_fpn.named_parameters())
    for s, count in ((2, 1), (3, 1), (4, 2), (5, 3)):
        x = pyramid[s]
        for i in range(count):
            x = F.conv2d(x, state[f"levels.{s}.{i}.conv.weight"], padding=1)
            x = F.relu(group_norm(x, state[f"levels.{s}.{i}.norm.weight"], state[f"levels.{s}.{i}.norm.bias"]))
            x = x if s == 2 else bilinear(x, (2 * x.shape[-2], 2 * x.shape[-1])).float()
        total = total + x
    return total


def bilinear(maps: Tensor, size: Size) -> Tensor:
    """Resize maps of any leading axes: a cell's value is read at (i + 0.5) * scale - 0.5 (no corners, no antialias)."""
    sides = []
    for given, wanted in zip(maps.shape[-2:], size, strict=True):
        rows = torch.zeros(wanted, given, dtype=torch.float64)
        for i in range(wanted):
            place = max((i + 0.5) * given / wanted - 0.5, 0.0)
            low = int(place)
            rows[i, low] += 1 - (place - low)
            rows[i, min(low + 1, given - 1)] += place - low
        sides.append(rows)
    return sides[0] @ maps.double() @ sides[1].T


# ---- from maps to segments


@dataclass
class Found:
    """A kernel on its way to a segment: class among its kind, score, and a vector per view."""

    label: int
    score: float
    vectors: list[Tensor]
    mask: Tensor | None = None


def decoded_things(c: PanopticFCNConfig, views: Sequence[PanopticFCNOutput], b: int) -> list[Found]:
    """Return the things of all levels by falling score; the first view says where they are."""
    found = []
    for i, centres in enumerate(views[0].centres):
        p = np.asarray(centres[b].detach().double().sigmoid())
        T, h, w = p.shape
        k = (3, 3, 3, 5, 5)[i]
        wide = np.pad(p, ((0, 0), (k // 2, k // 2), (k // 2, k // 2)))
        smooth = np.zeros_like(p)
        for t, y, x in np.ndindex(T, h, w):
            smooth[t, y, x] = (p[t, y, x] + wide[t, y : y + k, x : x + k].sum() / k**2) / 2
        peaks = []
        for t, y, x in np.ndindex(T, h, w):
            best = smooth[t, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2].max()
            if smooth[t, y, x] == best and best > c.thing_threshold:
                peaks.append((float(best), t, y, x))
        for score, t, y, x in sorted(peaks, reverse=True)[: min(h * w, c.candidates // 2)]:
            found.append(Found(t, score, [view.kernels[i][b, :, y, x].detach().double() for view in views]))
    return sorted(found, key=lambda thing: -thing.score)


def decoded_stuff(c: PanopticFCNConfig, views: Sequence[PanopticFCNOutput], b: int) -> list[Found]:
    """Return the regions of all levels, a level's by class."""
    found = []
    for i, regions in enumerate(views[0].regions):
        p = regions[b].detach().double().sigmoid()
        R, h, w = p.shape
        winner = np.asarray(p.argmax(0))
        for r in range(R):
            cells = [(y, x) for y in range(h) for x in range(w) if winner[y, x] == r]
            score = sum(float(p[r, y, x]) for y, x in cells) / max(len(cells), 1)
            if score > c.stuff_threshold:
                sums = [sum(view.kernels[i][b, :, y, x].detach().double() for y, x in cells) for view in views]
                found.append(Found(r, score, [total / (h * w) for total in sums]))
    return found


def embed(found: list[Found], embedding: nn.Linear) -> None:
    weight, bias = embedding.weight.detach().double(), embedding.bias.detach().double()
    for one in found:
        one.vectors = [weight @ vector + bias for vector in one.vectors]


def fused_things(things: list[Found], similarity: float, class_aware: bool) -> list[Found]:
    """Kernel j survives where no better one matches it; i averages what it is the first to match."""

    def match(i: int, j: int) -> bool:
        one, other = things[i].vectors[0], things[j].vectors[0]
        if class_aware and things[i].label != things[j].label:
            return False
        if i == j or torch.equal(one, other):
            return True
        return float(one @ other) / (max(float(one.norm()), 1e-8) * max(float(other.norm()), 1e-8)) >= similarity

    def rows_up_to(i: int, j: int) -> int:
        return sum(match(row, j) for row in range(i + 1))

    survivors = []
    for i, thing in enumerate(things):
        if rows_up_to(i, i) < 2:
            group = [things[j] for j in range(i, len(things)) if match(i, j) and rows_up_to(i, j) < 2]
            mean = [torch.stack(part).mean(0) for part in zip(*(one.vectors for one in group), strict=True)]
            survivors.append(Found(thing.label, thing.score, mean))
    return survivors


def fused_stuff(stuff: list[Found]) -> list[Found]:
    result = []
    for label in sorted({one.label for one in stuff}):
        group = [one for one in stuff if one.label == label]
        mean = [torch.stack(part).mean(0) for part in zip(*(one.vectors for one in group), strict=True)]
        result.append(Found(label, sum(one.score for one in group) / len(group), mean))
    return result


def decayed(scores: list[float], masks: list[np.ndarray], labels: list[int]) -> list[float]:
    """Matrix NMS, linear, among masks of one class that stand by falling score."""

    def iou(i: int, j: int) -> float:
        either = np.logical_or(masks[i], masks[j]).sum()
        return float(np.logical_and(masks[i], masks[j]).sum() / either) if either else 0.0

    result = []
    for j, score in enumerate(scores):
        decay = 1.0
        for i in (i for i in range(j) if labels[i] == labels[j]):
            own = max((iou(k, i) for k in range(i) if labels[k] == labels[i]), default=0.0)
            if own < 1:  # the copy of a better one decays none more than that one does
                decay = min(decay, (1 - iou(i, j)) / (1 - own))
        result.append(score * decay)
    return result


def segments(net: PanopticFCN, views: Sequence[PanopticFCNOutput], b: int = 0) -> list[tuple[int, float, Tensor]]:
    """Return (label, score, mask) of one picture's segments; the views are the picture and maybe the mirrored one's."""
    c = net.config
    things, stuff = decoded_things(c, views, b), decoded_stuff(c, views, b)
    embed(things, net.thing_embedding)
    embed(stuff, net.stuff_embedding)
    things = fused_things(things, c.similarity, c.class_aware) if c.kernel_fusion else things
    stuff = fused_stuff(stuff)
    features = [view.feature[b].detach().double() for view in views]
    for one in (*things, *stuff):
        logits = [torch.einsum("e,ehw->hw", v, f) for v, f in zip(one.vectors, features, strict=True)]
        one.mask = sum(logit.sigmoid() for logit in logits) / len(logits)
    for thing in things:
        inside = thing.mask > c.mask_threshold
        thing.score *= float((thing.mask * inside).sum() / (inside.sum() + 1e-6))
    things.sort(key=lambda thing: -thing.score)
    if c.nms:
        masks = [np.asarray(thing.mask > c.mask_threshold) for thing in things]
        scores = decayed([thing.score for thing in things], masks, [thing.label for thing in things])
        for thing, score in zip(things, scores, strict=True):
            thing.score = score
        things.sort(key=lambda thing: -thing.score)
    kept = [thing for thing in things if thing.score >= c.rescored_threshold][: c.candidates]
    of_things, of_stuff = net.categories.thing_labels, net.categories.stuff_labels
    names = [VOID, *of_stuff] if c.region_has_thing else of_stuff
    named = [(of_things[one.label], one) for one in kept] + [(names[one.label], one) for one in stuff]
    return [(label, one.score, one.mask) for label, one in named]


def merged(c: PanopticFCNConfig, found: Any, things: Sequence[int]) -> tuple[np.ndarray, list[tuple[int, float]]]:
    """Return the ids of a map and (label, score) of each; `found` are (label, score, stride-4 mask), no padding."""
    large = [(label, score, np.asarray(bilinear(m, (4 * m.shape[0], 4 * m.shape[1])))) for label, score, m in found]
    ids, accepted = np.zeros(large[0][2].shape, int), []
    for label, score, p in large:
        mask = p > c.mask_threshold
        if label not in things or score < c.thing_score or not mask.any():
            continue
        if (mask & (ids > 0)).sum() / mask.sum() > c.overlap:
            continue
        accepted.append((label, score))
        ids[mask & (ids == 0)] = len(accepted)
    stuff = sorted((one for one in large if one[0] not in things), key=lambda one: one[0])
    winner = np.stack([p for _, _, p in stuff]).argmax(0) if stuff else ids
    limit = c.stuff_area * (ids.size / (640 * 480) if c.stuff_area_relative else 1)
    free = ids == 0
    for position, (label, score, _) in enumerate(stuff):
        mask = free & (winner == position)
        if label != VOID and mask.sum() >= limit:
            accepted.append((label, score))
            ids[mask] = len(accepted)
    return ids, accepted
