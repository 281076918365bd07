"""Why the PQ is what it is: causes counted, what curing each would bring, confusions, and the worst pictures.

Causes and cures are those of docs/causes.md. Letters: C classes.
"""

import heapq
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from math import inf
from operator import add
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from thingstuff.errors import InputError
from thingstuff.evaluation.causes import CAUSES, SegmentError, segment_errors
from thingstuff.evaluation.miou import ClassPixels
from thingstuff.evaluation.pq import PQResult
from thingstuff.evaluation.segments import ImageId, ScoredPicture
from thingstuff.panoptic import Categories

if TYPE_CHECKING:
    from rich.table import Table

SIZES = ("small", "medium", "large")
SIZE_LIMITS = (32**2, 96**2)  # pixels, COCO's: a segment of exactly this many is of the larger size
_CONFUSIONS_KEPT = 50


@dataclass(frozen=True)
class SizeRow:
    """A cause among the segments of one size: unmatched truths, predictions, and PQ's rise if these were cured."""

    size: str
    truths: int
    predictions: int
    gain: float | None


@dataclass(frozen=True)
class CauseRow:
    """A cause: how many truths and predictions it left unmatched, and how much PQ would rise if it were cured.

    Gains are fractions; None where there is no PQ to compare, before or after.
    """

    cause: str
    truths: int
    predictions: int
    gain: float | None
    gain_things: float | None
    gain_stuff: float | None
    sizes: tuple[SizeRow, ...]


@dataclass(frozen=True)
class ClassCause:
    """A cause among the segments of one class; `gain` is the rise of the class's own PQ if the cause were cured."""

    cause: str
    truths: int
    predictions: int
    gain: float | None


@dataclass(frozen=True)
class ClassRow:
    """One class and its causes."""

    category_id: int
    name: str
    isthing: bool
    causes: tuple[ClassCause, ...]


@dataclass(frozen=True)
class Confusion:
    """Pixels of one class (category_id) that the prediction gives to another, or to none (None)."""

    truth: int
    predicted: int | None
    pixels: int


@dataclass(frozen=True)
class WorstPicture:
    """A picture of low PQ (its segments' own, all classes together), its matches and what went wrong in it."""

    image_id: ImageId
    pq: float
    matched: int
    errors: tuple[SegmentError, ...]


@dataclass(frozen=True)
class ErrorReport:
    """Causes in the order of `CAUSES`, in sum and per class; pixels confused; the worst pictures, worst first.

    `mask_gain` is PQ's rise if every match were exact (RQ - PQ). `thing_stuff` counts the pixels [3, 3] of things,
    stuff and void, ground truth by row, prediction by column. `confusions` leave out what is void in the ground truth.
    """

    causes: tuple[CauseRow, ...]
    per_class: tuple[ClassRow, ...]
    mask_gain: float | None
    mask_gain_things: float | None
    mask_gain_stuff: float | None
    thing_stuff: tuple[tuple[int, ...], ...]
    confusions: tuple[Confusion, ...]
    worst: tuple[WorstPicture, ...]

    @property
    def labelled_pixels(self) -> int:
        """Pixels that the ground truth gives to a thing or to stuff."""
        return sum(map(sum, self.thing_stuff[:2]))

    def tables(self, per_class: bool = False) -> "list[Table]":
        """Return the tables for the terminal, in percent; those without a row are left out."""
        from thingstuff.evaluation.error_tables import error_tables

        return error_tables(self, per_class)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values, exact to the bit; `from_json` reads them back."""
        worst = [{**vars(w), "errors": [e._asdict() for e in w.errors]} for w in self.worst]
        return {**asdict(self), "worst": worst}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "ErrorReport":
        """Read what `to_json` returned. Raises `InputError` where a field is missing or wrong."""
        try:
            fields = {
                "causes": tuple(
                    CauseRow(**{**row, "sizes": tuple(SizeRow(**s) for s in row["sizes"])}) for row in data["causes"]
                ),
                "per_class": tuple(
                    ClassRow(**{**row, "causes": tuple(ClassCause(**c) for c in row["causes"])})
                    for row in data["per_class"]
                ),
                "thing_stuff": tuple(map(tuple, data["thing_stuff"])),
                "confusions": tuple(Confusion(**row) for row in data["confusions"]),
                "worst": tuple(
                    WorstPicture(**{**_of_json(row, "pq"), "errors": _errors(row["errors"])}) for row in data["worst"]
                ),
            }
            return cls(**{**data, **fields})
        except (KeyError, TypeError) as error:
            raise InputError(f"no error report: {error!r}; give what to_json() returned") from None


def _errors(rows: Iterable[Mapping[str, Any]]) -> tuple[SegmentError, ...]:
    return tuple(SegmentError(**{**_of_json(row, "iou"), "partners": tuple(row["partners"])}) for row in rows)


def _of_json(row: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    # the command writes null for what JSON cannot hold: an IoU that a stated area makes infinite
    return {**row, key: inf} if row[key] is None else row


class ErrorAccumulator:
    """Adds up why segments were not matched; memory does not grow with the pictures, of which it keeps the `worst`.

    `pixels` that several measures share are counted by whoever gives them.
    """

    def __init__(self, categories: Categories, worst: int = 20, pixels: ClassPixels | None = None) -> None:
        self.categories = categories
        self._worst = worst
        self._pixels, self._counts_pixels = pixels or ClassPixels(categories), pixels is None
        # the best of the worst stands first; a picture's number keeps earlier ones and makes every key unique
        self._heap: list[tuple[float, int, int, WorstPicture, ScoredPicture]] = []
        # (class, cause, size, 0 for a truth or 1 for a prediction) -> segments
        self._counts: dict[tuple[int, int, int, int], int] = {}
        self._pictures = 0

    def add(self, picture: ScoredPicture) -> None:
        """Add one picture; segments of categories that are not listed count nowhere."""
        self._pictures += 1
        if self._counts_pixels:
            self._pixels.add(picture)
        label_of = self.categories.label_of
        errors = tuple([e for e in segment_errors(picture) if e.category_id in label_of])
        for e in errors:
            size = bisect_right(SIZE_LIMITS, e.area)
            at = (label_of[e.category_id], CAUSES.index(e.cause), size, 0 if e.is_truth else 1)
            self._counts[at] = self._counts.get(at, 0) + 1
        pq = picture.matches.pq
        if pq is not None and pq != 1:
            self._keep(picture, pq, errors)

    def result(self, pq: PQResult) -> ErrorReport:
        """Return the report over the pictures so far, whose PQ this is."""
        by_size = np.zeros((len(self.categories), len(CAUSES), len(SIZES), 2), np.int64)
        for at, count in self._counts.items():
            by_size[at] = count
        counts, pixels = by_size.sum(2), self._pixels.matrix()  # [C, causes, 2]
        cured = [_cured(pq, counts[:, cause]) for cause in range(len(CAUSES))]
        return ErrorReport(
            causes=tuple(_cause_row(pq, cause, by_size[:, cause], after) for cause, after in enumerate(cured)),
            per_class=tuple(_class_row(pq, cured, label, counts[label].tolist()) for label in range(len(counts))),
            mask_gain=_rise(pq.all.pq, pq.all.rq),
            mask_gain_things=_rise(pq.things.pq, pq.things.rq),
            mask_gain_stuff=_rise(pq.stuff.pq, pq.stuff.rq),
            thing_stuff=_thing_stuff(pixels, self.categories),
            confusions=_confusions(pixels, self.categories),
            worst=tuple(entry[-2] for entry in sorted(self._heap, reverse=True)),
        )

    def worst_pictures(self) -> tuple[ScoredPicture, ...]:
        """Return the pictures of the report's `worst`, in that order."""
        return tuple(entry[-1] for entry in sorted(self._heap, reverse=True))

    def _keep(self, picture: ScoredPicture, pq: float, errors: tuple[SegmentError, ...]) -> None:
        rank = (-pq, len(errors), -self._pictures)
        full = len(self._heap) == self._worst
        if full and (not self._heap or rank < self._heap[0][:3]):
            return
        row = WorstPicture(picture.image_id, pq, len(picture.matches.matched), errors)
        (heapq.heappushpop if full else heapq.heappush)(self._heap, (*rank, row, picture))


def _cause_row(pq: PQResult, cause: int, counts: npt.NDArray[np.int64], after: Sequence[float | None]) -> CauseRow:
    """Return a cause's row; `counts` [C, sizes, 2] are the unmatched truths and predictions that it left."""
    sizes = []
    for size, name in enumerate(SIZES):
        truths, predictions = counts[:, size].sum(0).tolist()
        gain = _rise(pq.all.pq, _mean(_cured(pq, counts[:, size])))
        sizes.append(SizeRow(name, truths, predictions, gain))
    truths, predictions = counts.sum((0, 1)).tolist()
    things, stuff = (
        [value for value, c in zip(after, pq.per_class, strict=True) if c.isthing == kind] for kind in (True, False)
    )
    return CauseRow(
        cause=CAUSES[cause],
        truths=truths,
        predictions=predictions,
        gain=_rise(pq.all.pq, _mean(after)),
        gain_things=_rise(pq.things.pq, _mean(things)),
        gain_stuff=_rise(pq.stuff.pq, _mean(stuff)),
        sizes=tuple(sizes),
    )


def _thing_stuff(pixels: npt.NDArray[np.int64], categories: Categories) -> tuple[tuple[int, ...], ...]:
    kinds = np.array([0 if thing else 1 for thing in categories.things] + [2])
    members = (kinds[:, None] == np.arange(3)).astype(np.int64)  # [C + 1, 3]
    return tuple(map(tuple, (members.T @ pixels @ members).tolist()))


def _confusions(pixels: npt.NDArray[np.int64], categories: Categories) -> tuple[Confusion, ...]:
    wrong = pixels[:-1].copy()
    np.fill_diagonal(wrong, 0)
    found = wrong[wrong > 0]
    least = np.partition(found, -_CONFUSIONS_KEPT)[-_CONFUSIONS_KEPT] if found.size > _CONFUSIONS_KEPT else 1
    predicted = (*categories.ids, None)
    pairs = (
        Confusion(categories.ids[t], predicted[p], int(wrong[t, p])) for t, p in np.argwhere(wrong >= least).tolist()
    )
    # equally frequent pairs in a fixed order, whatever the pictures' order was
    rows = sorted(pairs, key=lambda c: (-c.pixels, c.truth, -1 if c.predicted is None else c.predicted))
    return tuple(rows[:_CONFUSIONS_KEPT])


def _cured(pq: PQResult, cures: npt.NDArray[np.int64]) -> list[float | None]:
    """Return each class's PQ with so many (truths, predictions) [C, 2] cured; docs/causes.md has the formula."""
    matches = sum(c.tp for c in pq.per_class)
    mean = sum(c.iou for c in pq.per_class) / matches if matches else 1.0
    found = []
    for c, (truths, predictions) in zip(pq.per_class, cures.tolist(), strict=True):
        quality = c.iou / c.tp if c.tp else mean
        # adding to the sum, not multiplying it anew: where nothing is cured, no bit changes
        iou, tp, fp, fn = c.iou + quality * truths, c.tp + truths, c.fp - predictions, c.fn - truths
        found.append(iou / (tp + 0.5 * fp + 0.5 * fn) if tp + fp + fn else None)
    return found


def _mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of those that are there, added in their order as `AveragePQ` adds them."""
    known = [value for value in values if value is not None]
    return reduce(add, known, 0.0) / len(known) if known else None


def _class_row(
    pq: PQResult, cured: Sequence[Sequence[float | None]], label: int, counts: Sequence[Sequence[int]]
) -> ClassRow:
    own = pq.per_class[label]
    causes = (
        ClassCause(name, truths, predictions, _rise(own.pq, after[label]))
        for name, (truths, predictions), after in zip(CAUSES, counts, cured, strict=True)
    )
    return ClassRow(own.category_id, own.name, own.isthing, tuple(causes))


def _rise(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before
