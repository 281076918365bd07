"""Outlines of masks along the borders of their pixels, and several of them as one.

Letters: h w pixels of a region, V corners of an outline.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Outline = npt.NDArray[np.int64]
"""Corners [V, 2] as (x, y), where a pixel's left upper corner is at whole numbers; the last is joined to the first."""


def outlines(mask: npt.NDArray[np.bool_]) -> list[Outline]:
    """Return the outlines of a mask [h, w], those of its holes too, in no particular order.

    What lies within an odd number of them is exactly the mask. Pixels that meet at a corner have one outline.
    """
    y, x, first_is_upper = _corners(mask)
    # A row's corners in order are the ends of the horizontal borders in it, a column's those of the vertical ones.
    by_column = np.lexsort((first_is_upper, y, x))
    vertical = np.empty(len(x), dtype=np.int64)
    vertical[by_column[0::2]], vertical[by_column[1::2]] = by_column[1::2], by_column[0::2]
    partner = vertical.tolist()
    points = np.stack([x, y], axis=1)
    found, seen = [], [False] * len(partner)
    for start in range(0, len(partner), 2):
        if seen[start]:
            continue
        corner, ring = start, []
        while not seen[corner]:
            across = corner ^ 1  # corners of a row lie one after the other
            seen[corner] = seen[across] = True
            ring += [corner, across]
            corner = partner[across]
        found.append(points[ring])
    return found


def _corners(mask: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
    """Return y, x of every corner of the outlines, row by row, and which of two at one place comes second in a column.

    Where two pixels meet at a corner it stands twice: once for the border on its left, once for that on its right.
    """
    inside = np.pad(mask, 1)
    upper_left, upper_right = inside[:-1, :-1], inside[:-1, 1:]
    lower_left, lower_right = inside[1:, :-1], inside[1:, 1:]
    turns = upper_left ^ upper_right ^ lower_left ^ lower_right
    meeting = (upper_left == lower_right) & (upper_right == lower_left) & (upper_left != upper_right)
    y, x = np.nonzero(turns | meeting)
    double = meeting[y, x]
    falling = upper_left[y, x]  # the pixels that meet are the upper left and the lower right one
    times = 1 + double
    second = np.zeros(int(times.sum()), dtype=np.bool_)
    second[np.cumsum(times)[double] - 1] = True
    repeated_double, repeated_falling = np.repeat(double, times), np.repeat(falling, times)
    # the border on the left goes on downward around the lower left pixel, where that is the gap between the two
    downward = repeated_double & (second != repeated_falling)
    return np.repeat(y, times), np.repeat(x, times), downward


def bridged(rings: Sequence[Outline]) -> Outline:
    """Return one outline that goes along all of them, over bridges of no width, each as short as can be.

    A bridge is gone over there and back, so that what lies within an odd number of borders stays the same.
    """
    if len(rings) == 1:
        return rings[0]
    from scipy.spatial import cKDTree

    points, begins = np.concatenate(rings), np.cumsum([0, *map(len, rings)])
    ring_of = np.repeat(np.arange(len(rings)), np.diff(begins))
    gap, across = np.full(len(points), np.inf), np.zeros(len(points), dtype=np.int64)
    joined, left = np.arange(begins[1]), ring_of > 0
    path = [*joined.tolist(), 0]
    while left.any():
        waiting = np.flatnonzero(left)
        distances, places = cKDTree(points[joined]).query(points[waiting])
        nearer = distances < gap[waiting]
        gap[waiting[nearer]], across[waiting[nearer]] = distances[nearer], joined[places[nearer]]
        start = int(waiting[np.argmin(gap[waiting])])
        ring = ring_of[start]
        joined = np.roll(np.arange(begins[ring], begins[ring + 1]), int(begins[ring] - start))
        left[joined] = False
        at = path.index(int(across[start]))
        path[at + 1 : at + 1] = [*joined.tolist(), start, path[at]]
    outline: Outline = points[path]
    # rings that meet at a corner need no bridge
    moved = (outline[1:] != outline[:-1]).any(axis=1)
    return np.asarray(outline[:-1][moved])
