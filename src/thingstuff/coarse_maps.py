"""A panoptic map as masks of a coarser grid could tell it: every segment reduced to shares of cells, and brought back.

Letters: H W pixels of a picture, h w cells of a mask.
"""

from bisect import bisect_left
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from thingstuff.head_cost import reduced_size
from thingstuff.panoptic import Panoptic, Segment, segment_boxes
from thingstuff.structures import Axis, Frame

BLOCK = 64
"""Pixels of an axis that are made at once: a block reads few pixels besides its own."""
KEPT = 16
"""Cases (picture size, input size, stride) whose bands are kept: 4 MB each for pictures of 12 million pixels."""
ROUNDING = 1e-9
"""Shares below this are the rounding of a cell's borders."""


def through_cells(truth: Panoptic, frame: Frame, stride: int) -> Panoptic:
    """Return a map as it comes back from masks with a cell for each `stride` pixels of the frame's canvas.

    A mask's value is the share of its cell that the segment covers. Masks are brought to picture size as `Frame`
    restores them, and every pixel goes to the largest value, the first of equals. Void competes like a segment, after
    all others; crowds compete too, and what they win is void. Segments keep their ids; one that wins nothing is gone.
    """
    rows, columns = bands_through_cells(frame, stride)
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


@dataclass(frozen=True)
class Band:
    """What each pixel of an axis is made of: weights of the pixels from its `first` to its `last`, and 0 of others.

    Each of `blocks` holds the weights of `BLOCK` pixels, from the first pixel that the first of them reads to the last
    one that the last of them reads: a few values a pixel, where the whole matrix is pixels squared.
    """

    first: tuple[int, ...]
    last: tuple[int, ...]
    blocks: tuple[Float[Tensor, "_pixels _read"], ...]


def _along(band: Band, values: Float[Tensor, "n other"], own: slice) -> tuple[slice, Float[Tensor, "m other"]]:
    """Return the pixels of an axis that read any of its pixels `own`, and what they become; the others are 0."""
    reached = slice(bisect_left(band.last, own.start), bisect_left(band.first, own.stop))
    made = values.new_empty((reached.stop - reached.start, values.shape[1]))
    for n in range(reached.start // BLOCK, -(-reached.stop // BLOCK)):
        start, stop = max(n * BLOCK, reached.start), min((n + 1) * BLOCK, reached.stop)
        begin = band.first[n * BLOCK]
        low, high = max(band.first[start], own.start), min(band.last[stop - 1] + 1, own.stop)
        weights = band.blocks[n][start - n * BLOCK : stop - n * BLOCK, low - begin : high - begin]
        part = values[low - own.start : high - own.start]
        torch.mm(weights, part, out=made[start - reached.start : stop - reached.start])
    return reached, made


@lru_cache(maxsize=KEPT)
def bands_through_cells(frame: Frame, stride: int) -> tuple[Band, Band]:
    """Return how a picture's rows and columns come back from cells, each pixel as a weighted mean of pixels."""
    h, w = reduced_size(frame.canvas, stride)
    restored = frame.axes(torch.empty(h, w))
    sides = zip(restored, (h, w), frame.canvas, frame.size, frame.original, strict=True)
    rows, columns = (_band(*side) for side in sides)
    return rows, columns


def _band(restored: Axis, cells: int, canvas: int, size: int, original: int) -> Band:
    """Put the way to the cells and the way back together, a block of pixels at a time."""
    first: list[int] = []
    last: list[int] = []
    blocks = []
    for start in range(0, original, BLOCK):
        stop = min(start + BLOCK, original)
        read = restored.cells(start, stop)
        weights = restored.weights[start:stop, read] @ area_shares(cells, canvas, size, original, read)
        reads = (weights > 0).to(torch.uint8)
        first += reads.argmax(1).tolist()
        last += (original - 1 - reads.flip(1).argmax(1)).tolist()
        blocks.append(weights[:, first[start] : last[stop - 1] + 1].clone())
    return Band(tuple(first), tuple(last), tuple(blocks))


def area_shares(
    cells: int, canvas: int, size: int, original: int, own: slice = slice(None)
) -> Float[Tensor, "_cells original"]:
    """Return the share of each cell of a canvas that each pixel of the picture in its top left covers, along one axis.

    The picture's `original` pixels lie on `size` of the `canvas` pixels, which the cells divide evenly. `own` takes
    some of the cells.
    """
    edges = torch.arange(cells + 1, dtype=torch.float64) * canvas / cells * original / size
    width = edges[1]
    low, high = edges[:-1][own, None], edges[1:][own, None]
    pixels = torch.arange(original, dtype=torch.float64)
    common = torch.minimum(high, pixels + 1) - torch.maximum(low, pixels)
    shares = common.clamp(min=0) / width
    return shares.masked_fill(shares < ROUNDING, 0).float()
