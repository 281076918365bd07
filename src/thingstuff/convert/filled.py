"""A model's segments laid under drawn ones: which of its pixels are used, and where it yields (no torch here).

Letters: H W pixels of a picture, h w those of a window in it, N segments of the model and T drawn things, each with
0 for none.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool, Int32, Int64, UInt

from thingstuff.convert.fill_classes import FillClasses
from thingstuff.convert.painting import FreshIds, Painted, PaintedSegment
from thingstuff.errors import InputError
from thingstuff.panoptic import Panoptic

Value = TypeVar("Value", bound=np.generic)

_BAND = 1 << 20
"""Pixels that are looked up at once: numpy makes an int64 of each of them."""


@dataclass(frozen=True)
class FillRules:
    """How sure and how far from drawn things a model's pixels must be; raises `InputError` for values out of range."""

    rim: int | None = None
    """Pixels around a drawn thing (Euclidean, between centres) in which what also covers the thing is void; None: a
    hundredth of the picture's shorter side, because models see pictures of all sizes at one, and err in proportion."""
    min_score: float = 0.5
    """Segments below this confidence are left out."""
    min_area: int = 0
    """Segments that are left with fewer pixels are left out."""

    def __post_init__(self) -> None:
        if self.rim is not None and self.rim < 0:
            raise InputError(f"--rim {self.rim}: give a number of pixels from 0")
        if not 0 <= self.min_score <= 1:
            raise InputError(f"--min-score {self.min_score:g}: give a number from 0 to 1")

    def rim_of(self, size: tuple[int, int]) -> int:
        """Return the rim in pixels for a picture of a (height, width)."""
        return math.ceil(min(size) / 100) if self.rim is None else self.rim


class _Canvas(NamedTuple):
    """A picture while it is filled: the model's segments and the drawn things by number, 0 for none."""

    found: UInt[np.ndarray, "H W"]
    drawn: UInt[np.ndarray, "H W"]
    shared: Int64[np.ndarray, "N T"]
    """Pixels of each segment on each drawn thing, before anything was cut."""


def fill(painted: Painted, predicted: Panoptic, classes: FillClasses, rules: FillRules, by: str) -> Painted:
    """Give pixels that nobody labelled to a model's segments, marked {"filled": {"by": `by`, "score": 0.93}}.

    What is drawn stays as it is. Of the model's segments
    - those of which more than half lies in drawn things are its own idea of these and yield wholly; of stuff, which is
      one segment in however many pieces, each piece is judged by itself;
    - others that share pixels with a drawn thing yield in a rim around it as well: there the model's border, and not
      the drawn one, decided, so that its classes are least to be trusted, and void costs nothing. Segments that do not
      touch the thing keep their pixels up to it;
    - stuff of a class that is drawn in this picture is left out: the class has one segment there, and one half drawn
      and half filled could be neither reviewed nor left out nor filled again;
    - those of other classes than `classes` has, and unsure or small ones (`FillRules`), are left out.
    All stuff of a class is one segment, a thing that is cut into pieces stays one; the score of stuff made of several
    segments is their mean by pixels.
    """
    free = painted.ids == 0
    if painted.ignored is not None:
        free &= ~painted.ignored
    canvas = _canvas(painted, predicted, classes)
    _yield_wholly(canvas, predicted)
    canvas.found[~free] = 0
    _yield_rims(canvas, rules.rim_of(predicted.size))
    targets = _targets(painted, predicted, classes, rules.min_score)
    areas = _areas(canvas.found, len(targets) + 1)
    groups = {
        key: numbers
        for key, numbers in _groups(targets, classes).items()
        if areas[numbers].sum() >= max(rules.min_area, 1)
    }
    table = np.zeros(len(areas), dtype=np.int32)
    fresh = FreshIds(s.id for s in painted.segments)
    segments = []
    for (target, _), numbers in groups.items():
        table[numbers] = own = fresh.take(classes.colors[target])
        filled: dict[str, Any] = {"by": by}
        scores = [predicted.segments[number - 1].score for number in numbers]
        if None not in scores:
            filled["score"] = round(float(np.average(np.array(scores), weights=areas[numbers])), 4)
        segments.append(PaintedSegment(own, target, marks={"filled": filled}))
    ids = _looked_up(table, canvas.found)
    ids += painted.ids
    return Painted(ids, (*painted.segments, *segments), painted.ignored)


def _canvas(painted: Painted, predicted: Panoptic, classes: FillClasses) -> _Canvas:
    things = [s.id for s in painted.segments if s.name in classes.things]
    found, drawn = _numbered(predicted.ids, [s.id for s in predicted.segments]), _numbered(painted.ids, things)
    rows, columns = len(predicted.segments) + 1, len(things) + 1
    shared = np.zeros(rows * columns, dtype=np.int64)
    for band in _bands(found.shape):
        pairs = found[band].astype(np.int64) * columns + drawn[band]
        shared += np.bincount(pairs.ravel(), minlength=len(shared))
    return _Canvas(found, drawn, shared.reshape(rows, columns))


def _targets(painted: Painted, predicted: Panoptic, classes: FillClasses, min_score: float) -> list[str | None]:
    """Return the category that each of the model's segments is to become, None for those that are left out."""
    present = {s.name for s in painted.segments} - classes.things
    found = [classes.names.get(predicted.name(segment)) for segment in predicted.segments]
    sure = [segment.score is None or segment.score >= min_score for segment in predicted.segments]
    return [name if good and name not in present else None for name, good in zip(found, sure, strict=True)]


def _groups(targets: Sequence[str | None], classes: FillClasses) -> dict[tuple[str, int], list[int]]:
    """Return the numbers of the model's segments that become one: each thing by itself, stuff by its category."""
    groups: dict[tuple[str, int], list[int]] = {}
    for number, target in enumerate(targets, 1):
        if target is not None:
            groups.setdefault((target, number if target in classes.things else 0), []).append(number)
    return groups


# ---- yielding


def _yield_wholly(canvas: _Canvas, predicted: Panoptic) -> None:
    """Take away the things and pieces of stuff of which more than half lies in drawn things."""
    inside = canvas.shared[:, 1:].sum(axis=1)
    things = np.array([True, *(predicted.categories.things[s.label] for s in predicted.segments)])
    pieces = _covered_pieces(canvas, (inside > 0) & ~things)
    yielding = things & (2 * inside > canvas.shared.sum(axis=1))
    canvas.found[_looked_up(yielding, canvas.found) | pieces] = 0


def _covered_pieces(canvas: _Canvas, wanted: Bool[np.ndarray, " N"]) -> Bool[np.ndarray, "H W"]:
    """Return the pixels of those 4-connected pieces of the wanted segments of which more than half lies in things.

    Pieces are joined from runs of rows, those of all segments at once: the work does not go with their number.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    found = canvas.found
    if not wanted.any():
        return np.zeros(found.shape, dtype=np.bool_)
    begins = np.ones(found.shape, dtype=np.bool_)
    np.not_equal(found[:, 1:], found[:, :-1], out=begins[:, 1:])
    starts = np.flatnonzero(begins)
    runs = (np.cumsum(begins, dtype=np.int32) - np.int32(1)).reshape(found.shape)
    meeting = (begins[1:] | begins[:-1]) & (found[1:] == found[:-1])
    above, below = runs[:-1][meeting], runs[1:][meeting]
    edges = coo_array((np.ones(len(above), dtype=np.bool_), (above, below)), shape=(len(starts), len(starts)))
    count, piece = connected_components(edges, directed=False)
    lengths = np.diff(starts, append=found.size)
    covered = np.add.reduceat(canvas.drawn.ravel() > 0, starts, dtype=np.int64)
    mostly = 2 * np.bincount(piece, covered, count) > np.bincount(piece, lengths, count)
    chosen = mostly[piece] & wanted[found.ravel()[starts]]
    yielding: Bool[np.ndarray, "H W"] = np.repeat(chosen, lengths).reshape(found.shape)
    return yielding


def _yield_rims(canvas: _Canvas, rim: int) -> None:
    """Take away what lies within the rim of a drawn thing and is of a segment that shares pixels with it."""
    from scipy.ndimage import find_objects

    if rim == 0:
        return
    H, W = canvas.drawn.shape
    for number, tight in enumerate(find_objects(canvas.drawn), 1):
        touching = canvas.shared[:, number] > 0
        touching[0] = False
        if tight is None or not touching.any():
            continue
        rows, columns = (
            slice(max(side.start - rim, 0), min(side.stop + rim, end)) for side, end in zip(tight, (H, W), strict=True)
        )
        found = canvas.found[rows, columns]
        found[near(canvas.drawn[rows, columns] == number, rim) & touching[found]] = 0


def near(mask: Bool[np.ndarray, "h w"], distance: int) -> Bool[np.ndarray, "h w"]:
    """Return the pixels whose centres lie within a Euclidean distance, in pixels, of those of a mask's pixels.

    Each run of a row of the mask makes a run in every row that is near enough, so that the work goes with the window
    and hardly with the distance.
    """
    h, w = mask.shape
    steps = np.diff(mask.view(np.int8), axis=1, prepend=np.int8(0), append=np.int8(0))
    rows, starts = np.nonzero(steps > 0)
    stops = np.nonzero(steps < 0)[1]
    opened = np.zeros((h, w + 1), dtype=np.int32)
    for down in range(-distance, distance + 1):
        reach = math.isqrt(distance**2 - down**2)
        here = (rows + down >= 0) & (rows + down < h)
        at = (rows[here] + down) * (w + 1)
        np.add.at(opened.reshape(-1), at + np.maximum(starts[here] - reach, 0), 1)
        np.add.at(opened.reshape(-1), at + np.minimum(stops[here] + reach, w), -1)
    np.cumsum(opened, axis=1, out=opened)
    return opened[:, :w] > 0


# ---- maps by number


def _bands(size: tuple[int, ...]) -> Iterator[slice]:
    rows = max(1, _BAND // max(size[1], 1))
    return (slice(top, top + rows) for top in range(0, size[0], rows))


def _numbered(ids: Int32[np.ndarray, "H W"], wanted: Sequence[int]) -> UInt[np.ndarray, "H W"]:
    """Return the position plus one of each pixel's id among those wanted, 0 for others; as small as fits."""
    table = np.zeros(max(int(ids.max(initial=0)), *wanted, 0) + 1, dtype=np.min_scalar_type(len(wanted)))
    table[list(wanted)] = np.arange(1, len(wanted) + 1)
    return _looked_up(table, ids)


def _looked_up(table: npt.NDArray[Value], numbers: npt.NDArray[np.integer[Any]]) -> npt.NDArray[Value]:
    """Return `table[numbers]` for numbers [H, W] without an int64 copy of them."""
    result: npt.NDArray[Value] = np.empty(numbers.shape, dtype=table.dtype)
    for band in _bands(numbers.shape):
        result[band] = table[numbers[band]]
    return result


def _areas(numbers: UInt[np.ndarray, "H W"], count: int) -> Int64[np.ndarray, "N"]:
    areas = np.zeros(count, dtype=np.int64)
    for band in _bands(numbers.shape):
        areas += np.bincount(numbers[band].ravel(), minlength=count)
    return areas
