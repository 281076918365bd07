"""A panoptic map as masks of a coarser grid could tell it: every segment reduced to shares of cells, and brought back.

Letters: H W pixels of a picture, h w cells of a mask.
"""

from bisect import bisect_left
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from thingstuff.panoptic import Panoptic, Segment, segment_boxes
from thingstuff.structures import Axis, Frame, Size

BLOCK = 64
"""Pixels of an axis that are made at once: a block reads few pixels besides its own."""
ROUNDING = 1e-9
"""Shares below this are the rounding of a cell's borders."""


def through_cells(truth: Panoptic, frame: Frame, stride: int) -> Panoptic:
    """Return a map as it comes back from masks with a cell for each `stride` pixels of the frame's canvas.

    A mask's value is the share of its cell that the segment covers. Masks are brought to picture size as `Frame`
    restores them, and every pixel goes to the largest value, the first of equals. Void competes like a segment, after
    all others; crowds compete too, and what they win is void. Segments keep their ids; one that wins nothing is gone.
    """
    rows, columns = axes_through_cells(frame, stride)
    best, winner = torch.zeros(truth.size), torch.zeros(truth.size, dtype=torch.int32)
    ids = torch.from_numpy(truth.ids)
    for value, box in _competitors(truth):
        mask = (ids[box] == value).float()
        high, tall = _along(rows, mask, box[0])
        wide, flat = _along(columns, tall.T, box[1])
        here = best[high, wide]
        winner[high, wide].masked_fill_(here < flat.T, value)
        torch.maximum(here, flat.T, out=here)
    found = winner.numpy()
    found[np.isin(found, [s.id for s in truth.segments if s.iscrowd])] = 0
    present = dict(zip(*(values.tolist() for values in np.unique(found, return_counts=True)), strict=True))
    left = tuple(Segment(s.id, s.label, present[s.id]) for s in truth.segments if s.id in present)
    return Panoptic(found, left, truth.categories)


def _competitors(truth: Panoptic) -> list[tuple[int, tuple[slice, slice]]]:
    """Return each id with the rows and columns of its box, void last where there is any."""
    ids = [s.id for s in truth.segments] + [0]
    boxes = zip(ids, segment_boxes(truth.ids, ids), strict=True)
    return [(value, (slice(y, y + h), slice(x, x + w))) for value, (x, y, w, h) in boxes if w]


def _along(axis: Axis, values: Float[Tensor, "n other"], own: slice) -> tuple[slice, Float[Tensor, "m other"]]:
    """Return the pixels of an axis that read any of its pixels `own`, and what they become; the others are 0."""
    reached = slice(bisect_left(axis.last, own.start), bisect_left(axis.first, own.stop))
    made = values.new_empty((reached.stop - reached.start, values.shape[1]))
    for start in range(reached.start, reached.stop, BLOCK):
        stop = min(reached.stop, start + BLOCK)
        read = axis.cells(start, stop)
        read = slice(max(read.start, own.start), min(read.stop, own.stop))
        part = values[read.start - own.start : read.stop - own.start]
        torch.mm(axis.weights[start:stop, read], part, out=made[start - reached.start : stop - reached.start])
    return reached, made


@lru_cache(maxsize=64)
def axes_through_cells(frame: Frame, stride: int) -> tuple[Axis, Axis]:
    """Return how a picture's rows and columns come back from cells, each pixel as a weighted mean of pixels."""
    h, w = reduced_size(frame.canvas, stride)
    restored = frame.axes(torch.empty(h, w))
    sides = zip(restored, (h, w), frame.canvas, frame.size, frame.original, strict=True)
    rows, columns = (_banded(axis.weights @ area_shares(*side)) for axis, *side in sides)
    return rows, columns


def area_shares(cells: int, canvas: int, size: int, original: int) -> Float[Tensor, "cells original"]:
    """Return the share of each cell of a canvas that each pixel of the picture in its top left covers, along one axis.

    The picture's `original` pixels lie on `size` of the `canvas` pixels, which the cells divide evenly.
    """
    edges = torch.arange(cells + 1, dtype=torch.float64) * canvas / cells * original / size
    pixels = torch.arange(original, dtype=torch.float64)
    common = torch.minimum(edges[1:, None], pixels + 1) - torch.maximum(edges[:-1, None], pixels)
    shares = common.clamp(min=0) / edges[1]
    return shares.masked_fill(shares < ROUNDING, 0).float()


def _banded(weights: Float[Tensor, "pixels original"]) -> Axis:
    reads = (weights > 0).to(torch.uint8)
    last = reads.shape[1] - 1 - reads.flip(1).argmax(1)
    return Axis(weights, tuple(reads.argmax(1).tolist()), tuple(last.tolist()))


def reduced_size(canvas: Size, stride: int) -> Size:
    """Return the (h, w) of a canvas's masks at a stride."""
    return -(-canvas[0] // stride), -(-canvas[1] // stride)
