"""Windows of enlarged pictures, to the bit as Pillow enlarges whole ones.

Pillow's bilinear filter takes columns before rows and rounds between. For each pixel of the target it weighs the pixels
of the source within one pixel of where it lies, in multiples of 2^-22; where nothing is made smaller these are two.
"""

from functools import cache
from types import ModuleType

import numpy as np
from jaxtyping import Int32, Int64, UInt8
from PIL import Image

from thingstuff.loops import compiled_loops

Size = tuple[int, int]
_UNIT = 1 << 22


def enlarged(
    picture: UInt8[np.ndarray, "H W 3"], size: Size, rows: slice, columns: slice
) -> UInt8[np.ndarray, "h w 3"] | None:
    """Return some rows and columns of a picture resized to (height, width); slices may run backwards, to flip it.

    None where that makes it smaller, or is left to Pillow because few pictures were asked for.
    """
    loops = compiled_loops()
    grows = size[0] >= picture.shape[0] and size[1] >= picture.shape[1]
    return _window(loops, picture, size, rows, columns) if grows and loops is not None and _is_pillows(loops) else None


def _window(
    loops: ModuleType, picture: UInt8[np.ndarray, "H W 3"], size: Size, rows: slice, columns: slice
) -> UInt8[np.ndarray, "h w 3"]:
    taps = (_taps(*sides) for sides in zip(picture.shape[:2], size, strict=True))
    (tops, down), (lefts, across) = (
        (np.ascontiguousarray(first[part]), np.ascontiguousarray(weights[part]))
        for (first, weights), part in zip(taps, (rows, columns), strict=True)
    )
    window = np.empty((len(tops), len(lefts), 3), np.uint8)
    loops.enlarge(np.ascontiguousarray(picture), tops, down, lefts, across, window)
    return window


def _taps(source: int, target: int) -> tuple[Int64[np.ndarray, "T"], Int32[np.ndarray, "T 2"]]:
    """Return the first of the two pixels of the source that each of the target is made of, and their weights."""
    centres = (np.arange(target) + 0.5) * (source / target)
    first = np.maximum(centres - 0.5, 0).astype(np.int64)
    pair = first[:, None] + np.arange(2)
    weights = np.maximum(1 - np.abs(pair - centres[:, None] + 0.5), 0) * (pair < source)
    return first, np.asarray(weights / weights.sum(1, keepdims=True) * _UNIT + 0.5, np.int32)


@cache
def _is_pillows(loops: ModuleType) -> bool:
    """Whether this Pillow rounds as described: its versions need not agree, but all pictures of a run have to."""
    picture = np.random.default_rng(0).integers(0, 256, (31, 43, 3), dtype=np.uint8)
    for size in ((31, 60), (50, 43), (64, 90), (93, 100)):
        theirs = Image.fromarray(picture).resize(size[::-1], Image.Resampling.BILINEAR)
        if not np.array_equal(_window(loops, picture, size, slice(None), slice(None)), np.asarray(theirs)):
            return False
    return True
