"""Outlines and run lengths as regions of a picture; polygons cover the pixels that COCO's own tool gives them.

Letters: H W pixels of a picture, R runs of its pixels, column after column, those without the object first.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from jaxtyping import Int32, Int64
from pycocotools import mask as coco_mask

from thingstuff.convert.source import Region, Size
from thingstuff.errors import InputError

_ELLIPSE_CORNERS = 72
# the tool's own whole numbers hold no more than these, and what it makes of others it writes anywhere
_MOST_PIXELS = 2**31 - 1
LARGEST_NUMBER = 1e100
"""Coordinates of JSON stay below it: whole numbers there may be longer than a float takes."""
_FARTHEST = 10**8
_FARTHEST_SIDES = 10  # of a picture's longer side
_LONGEST = 10**7  # the tool takes some 100 bytes for each pixel of an outline
_LONGEST_RUN = 7  # letters: 35 bits


def polygon_region(polygons: Sequence[Sequence[float | int]], size: Size) -> Region:
    """Return the union of polygons [x0, y0, x1, y1, ...] in pixels, cut at the picture's borders.

    A pixel's left upper corner is at whole numbers (COCO). Raises `InputError` for less than three corners, an odd
    count of numbers, numbers that are none, outlines out of all proportion, and pictures that are too large.
    """
    check_size(size)
    pieces = [[float(v) for v in polygon] for polygon in polygons]
    if not pieces:
        raise InputError("no polygon at all")
    for piece in pieces:
        if len(piece) < 6 or len(piece) % 2:
            raise InputError(f"a polygon of {len(piece)} numbers; at least three corners (x, y) are needed")
        if not all(map(math.isfinite, piece)):
            raise InputError("a polygon with numbers that are not finite")
        if max(map(abs, piece)) > min(_FARTHEST_SIDES * max(size), _FARTHEST):
            raise InputError(f"a polygon that reaches {max(piece, key=abs):.4g} in a picture of {size[1]} x {size[0]}")
        if (length := _length(piece)) > _LONGEST:
            raise InputError(f"a polygon whose outline is {length:,} pixels long; at most {_LONGEST:,} can be read")
    # of the whole picture: in a window around the polygon the tool would round some borders otherwise
    runs = coco_mask.merge(coco_mask.frPyObjects(pieces, *size))
    return _region_of_runs(_decompressed(runs["counts"]), size)


def rectangle_region(left: float, top: float, right: float, bottom: float, size: Size) -> Region:
    """Return the pixels of a rectangle, given its borders in pixels."""
    return polygon_region([[left, top, right, top, right, bottom, left, bottom]], size)


def ellipse_region(x: float, y: float, radius_x: float, radius_y: float, size: Size, turn: float = 0.0) -> Region:
    """Return the pixels of an ellipse around (x, y); `turn` in degrees, clockwise as seen in the picture."""
    angles = np.linspace(0, 2 * np.pi, _ELLIPSE_CORNERS, endpoint=False)
    across, down = radius_x * np.cos(angles), radius_y * np.sin(angles)
    cosine, sine = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    corners = np.stack([x + across * cosine - down * sine, y + across * sine + down * cosine], axis=1)
    return polygon_region([corners.ravel().tolist()], size)


def rle_region(counts: "str | bytes | Sequence[int]", size: Size) -> Region:
    """Return the pixels of COCO's run lengths, compressed (text) or plain (numbers), column after column.

    Raises `InputError` where they do not fill a picture of that (height, width).
    """
    check_size(size)
    height, width = size
    if isinstance(counts, str | bytes):
        runs = _decompressed(counts.encode(errors="backslashreplace") if isinstance(counts, str) else counts)
        # the largest first: a sum of what is no such text may be too large for its number
        if runs.min(initial=0) < 0 or runs.max(initial=0) > height * width or runs.sum() != height * width:
            raise InputError(f"compressed run lengths that do not fill {width} x {height} pixels")
        return _region_of_runs(runs, size)
    if not all(type(n) is int and n >= 0 for n in counts) or sum(counts) != height * width:
        raise InputError(f"run lengths that do not fill {width} x {height} pixels")
    return _region_of_runs(np.array(counts, dtype=np.int64), size)


def check_size(size: Size) -> None:
    """Raise `InputError` for a (height, width) that has no pixels, or more than shapes can be drawn in."""
    height, width = size
    if height < 1 or width < 1:
        raise InputError(f"a picture of {width} x {height} pixels; both must be at least 1")
    if height * width > _MOST_PIXELS:
        raise InputError(f"a picture of {width} x {height} pixels; shapes are read in up to {_MOST_PIXELS:,} of them")


def union(regions: Sequence[Region]) -> Region:
    """Return the pixels that any of the regions has."""
    filled = [region for region in regions if region.mask.size]
    if len(filled) <= 1:
        return filled[0] if filled else Region(0, 0, np.zeros((0, 0), dtype=np.bool_))
    top, left = min(r.top for r in filled), min(r.left for r in filled)
    bottom, right = (max(r.window[axis].stop for r in filled) for axis in (0, 1))
    mask = np.zeros((bottom - top, right - left), dtype=np.bool_)
    for region in filled:
        Region(region.top - top, region.left - left, region.mask).paint(mask)
    return Region(top, left, mask)


def distinct(values: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], Int32[np.ndarray, "H W"]]:
    """Return the distinct values of a map [H, W], ascending, and the position among them of each pixel's."""
    # labels come in long runs: sorting one entry a run instead of a pixel is many times faster
    flat = values.ravel()
    starts = np.concatenate([np.zeros(min(1, flat.size), np.int64), np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    present, inverse = np.unique(flat[starts], return_inverse=True)
    places = np.repeat(inverse.astype(np.int32), np.diff(starts, append=flat.size))
    return present, places.reshape(values.shape)


def regions_of_numbers(numbers: npt.NDArray[Any]) -> dict[int, Region]:
    """Return the region of each number above 0 in a map [H, W] that holds small numbers from 0."""
    from scipy.ndimage import find_objects

    return {
        number: Region(
            window[0].start, window[1].start, np.ascontiguousarray(numbers[window] == number, dtype=np.bool_)
        )
        for number, window in enumerate(find_objects(numbers), 1)
        if window is not None
    }


def regions_of_ids(ids: npt.NDArray[Any]) -> dict[int, Region]:
    """Return the region of each value in a map of whole numbers [H, W], ascending."""
    values, places = distinct(ids)
    regions = regions_of_numbers(places + 1)
    return {int(value): regions[number] for number, value in enumerate(values.tolist(), 1)}


def component_regions(mask: npt.NDArray[np.bool_]) -> list[Region]:
    """Return the 8-connected components of a mask [H, W], in the order of their uppermost pixels."""
    from scipy.ndimage import find_objects, label

    numbers, _ = label(mask, structure=np.ones((3, 3), dtype=np.int32))
    return [
        Region(window[0].start, window[1].start, np.ascontiguousarray(numbers[window] == number))
        for number, window in enumerate(find_objects(numbers), 1)
    ]


def _length(corners: Sequence[float]) -> int:
    """Return how long the tool holds a closed outline [x0, y0, x1, y1, ...] to be: a slope by its longer side."""
    points = np.array(corners).reshape(-1, 2)
    return int(np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum())


def _region_of_runs(runs: Int64[np.ndarray, "R"], size: Size) -> Region:
    """Return the region of runs that fill a picture; what is made is as large as its box, not as the picture."""
    height = size[0]
    ends = np.cumsum(runs)
    starts, lasts = ends[:-1:2], ends[1::2] - 1
    there = lasts >= starts
    if not there.any():
        return Region(0, 0, np.zeros((0, 0), dtype=np.bool_))
    lefts, tops = np.divmod(starts[there], height)
    rights, bottoms = np.divmod(lasts[there], height)
    left, right = int(lefts[0]), int(rights[-1]) + 1
    whole = bool((lefts != rights).any())  # a run that goes on in the next column has both ends of a column
    top, bottom = (0, height) if whole else (int(tops.min()), int(bottoms.max()) + 1)
    h, w = bottom - top, right - left
    borders = np.empty(2 * len(lefts) + 2, dtype=np.int64)  # of the runs in the box alone
    borders[0], borders[-1] = 0, h * w
    borders[1:-1:2] = (lefts - left) * h + tops - top
    borders[2:-1:2] = (rights - left) * h + bottoms - top + 1
    columns = np.repeat(np.arange(len(borders) - 1) % 2 == 1, np.diff(borders))
    return Region(top, left, np.ascontiguousarray(columns.reshape(w, h).T))


def _decompressed(text: bytes) -> Int64[np.ndarray, "R"]:
    """Return the runs of COCO's compressed text; [-1] where it is cut off or no such text.

    A letter holds five bits of a number, the lowest first, and whether more follow; the last one's fifth bit is the
    sign. From the fourth run on, the number is by how much it is longer than the last but one.
    """
    letters = np.frombuffer(text, dtype=np.uint8).astype(np.int64) - 48
    if not len(letters):
        return letters
    ends = np.flatnonzero((letters & 0x20) == 0)
    begins = np.concatenate([[0], ends[:-1] + 1])
    good = letters.min() >= 0 and letters.max() < 64 and not letters[-1] & 0x20
    if not good or (ends - begins).max() >= _LONGEST_RUN:
        return np.array([-1])
    places = np.arange(len(letters)) - np.repeat(begins, ends - begins + 1)
    runs = np.add.reduceat((letters & 0x1F) << 5 * places, begins)
    runs -= (letters[ends] >> 4 & 1) << 5 * (ends - begins + 1)
    for first in (1, 2):
        np.cumsum(runs[first::2], out=runs[first::2])
    return runs
