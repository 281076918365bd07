"""Outlines and run lengths as regions of a picture; polygons cover the pixels that COCO's own tool gives them.

Letters: H W pixels of a picture.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from jaxtyping import Int32
from pycocotools import mask as coco_mask

from thingstuff.convert.source import Region, Size
from thingstuff.errors import InputError

_ELLIPSE_CORNERS = 72
_FARTHEST = 10  # of a picture's longer side: the tool's memory grows with the length of an outline


def polygon_region(polygons: Sequence[Sequence[float | int]], size: Size) -> Region:
    """Return the union of polygons [x0, y0, x1, y1, ...] in pixels, cut at the picture's borders.

    A pixel's left upper corner is at whole numbers (COCO). Raises `InputError` for less than three corners, an odd
    count of numbers, or numbers that are none.
    """
    pieces = [[float(v) for v in polygon] for polygon in polygons]
    if not pieces:
        raise InputError("no polygon at all")
    for piece in pieces:
        if len(piece) < 6 or len(piece) % 2:
            raise InputError(f"a polygon of {len(piece)} numbers; at least three corners (x, y) are needed")
        if not all(map(math.isfinite, piece)):
            raise InputError("a polygon with numbers that are not finite")
        if max(map(abs, piece)) > _FARTHEST * max(size):
            raise InputError(f"a polygon that reaches {max(piece, key=abs):.4g} in a picture of {size[1]} x {size[0]}")
    # of the whole picture: in a window around the polygon the tool would round some borders otherwise
    return _decoded(coco_mask.merge(coco_mask.frPyObjects(pieces, *size)))


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
    height, width = size
    if not isinstance(counts, str | bytes):
        if not all(type(n) is int and n >= 0 for n in counts) or sum(counts) != height * width:
            raise InputError(f"run lengths that do not fill {width} x {height} pixels")
        runs = coco_mask.frPyObjects({"size": [height, width], "counts": list(counts)}, height, width)
    else:
        data = counts.encode(errors="backslashreplace") if isinstance(counts, str) else counts
        if _compressed_length(data) != height * width:
            raise InputError(f"compressed run lengths that do not fill {width} x {height} pixels")
        runs = {"size": [height, width], "counts": data}
    return _decoded(runs)


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


def _decoded(runs: dict[str, Any]) -> Region:
    # the box is found in the runs, so that the whole picture need not be looked through
    x, y, width, height = map(int, coco_mask.toBbox(runs))
    mask = coco_mask.decode(runs)[y : y + height, x : x + width]
    return Region(y, x, np.ascontiguousarray(mask).astype(np.bool_))


def _compressed_length(data: bytes) -> int:
    """Return the pixels that COCO's compressed run lengths speak of; -1 where they are cut off or no such text.

    pycocotools decodes what does not fit into memory that is not its own.
    """
    runs: list[int] = []
    value, shift = 0, 0
    for byte in data:
        part = byte - 48
        if not 0 <= part < 64:
            return -1
        value |= (part & 0x1F) << shift
        shift += 5
        if part & 0x20:
            continue
        if part & 0x10:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value, shift = 0, 0
    return -1 if shift or any(n < 0 for n in runs) else sum(runs)
