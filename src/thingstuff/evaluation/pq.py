"""Panoptic quality (Kirillov et al., Panoptic Segmentation, CVPR 2019), to the bit as COCO's panopticapi sums it.

Letters: H W pixels of a picture.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import reduce
from operator import add
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Integer

from thingstuff.errors import InputError
from thingstuff.panoptic import Categories, Panoptic

if TYPE_CHECKING:
    from rich.table import Table

ImageId = int | str
Progress = Callable[[int, int], None]  # (pictures done, of how many)
Overlaps = dict[tuple[int, int], int]
"""(ground-truth id, predicted id) -> pixels they share, ascending."""


@dataclass
class ClassSums:
    """The sum of a class's IoUs over its matches, its matches (tp), unmatched predictions (fp) and truths (fn)."""

    iou: float = 0.0
    tp: int = 0
    fp: int = 0
    fn: int = 0


@dataclass(frozen=True)
class ClassPQ:
    """One class's result; PQ, SQ and RQ are fractions, None ("n/a") where the class never occurs."""

    category_id: int
    name: str
    isthing: bool
    iou: float
    tp: int
    fp: int
    fn: int

    @property
    def pq(self) -> float | None:
        """Panoptic quality, SQ x RQ."""
        return self.iou / self._occurrences if self._occurrences else None

    @property
    def sq(self) -> float | None:
        """Segmentation quality: mean IoU of the matches, 0 where nothing matches."""
        return (self.iou / self.tp if self.tp else 0.0) if self._occurrences else None

    @property
    def rq(self) -> float | None:
        """Recognition quality: F1 of the matches."""
        return self.tp / self._occurrences if self._occurrences else None

    @property
    def _occurrences(self) -> float:
        return self.tp + 0.5 * self.fp + 0.5 * self.fn


@dataclass(frozen=True)
class AveragePQ:
    """Means over the `classes` that occur, as fractions; None where none does."""

    pq: float | None
    sq: float | None
    rq: float | None
    classes: int

    @classmethod
    def of(cls, results: Iterable[ClassPQ]) -> "AveragePQ":
        """Average over the classes that occur, in the order given (which decides the last bit)."""
        qualities = [(r.pq, r.sq, r.rq) for r in results if r.pq is not None and r.sq is not None and r.rq is not None]
        if not qualities:
            return cls(None, None, None, 0)
        # not sum(): from Python 3.12 it compensates rounding errors, which panopticapi does not
        pq, sq, rq = (reduce(add, column, 0.0) / len(qualities) for column in zip(*qualities, strict=True))
        return cls(pq, sq, rq, len(qualities))


@dataclass(frozen=True)
class PQResult:
    """PQ, SQ, RQ of all, things, stuff and every class, over `pictures`.

    `unlisted` holds what the ground truth has of categories it does not list: no average counts it. Only a lenient
    evaluation (`like_panopticapi`) gets that far.
    """

    all: AveragePQ
    things: AveragePQ
    stuff: AveragePQ
    per_class: tuple[ClassPQ, ...]
    pictures: int
    unlisted: Mapping[int, ClassSums] = field(default_factory=dict)

    @classmethod
    def of(
        cls, per_class: Sequence[ClassPQ], pictures: int, unlisted: Mapping[int, ClassSums] | None = None
    ) -> "PQResult":
        """Average class results given in the order of the categories."""
        things, stuff = (AveragePQ.of(c for c in per_class if c.isthing == thing) for thing in (True, False))
        return cls(AveragePQ.of(per_class), things, stuff, tuple(per_class), pictures, unlisted or {})

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values, exact to the bit; `from_json` reads them back."""
        per_class = [{**asdict(c), "pq": c.pq, "sq": c.sq, "rq": c.rq} for c in self.per_class]
        unlisted = [{"category_id": category_id, **asdict(sums)} for category_id, sums in self.unlisted.items()]
        averages = {"all": asdict(self.all), "things": asdict(self.things), "stuff": asdict(self.stuff)}
        return {"pictures": self.pictures, **averages, "per_class": per_class, "unlisted": unlisted}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "PQResult":
        """Read what `to_json` returned. Raises `InputError` where a field is missing or wrong."""
        keys = ("category_id", "name", "isthing", "iou", "tp", "fp", "fn")
        try:
            per_class = [ClassPQ(**{key: entry[key] for key in keys}) for entry in data["per_class"]]
            unlisted = {e["category_id"]: ClassSums(e["iou"], e["tp"], e["fp"], e["fn"]) for e in data["unlisted"]}
            return cls.of(per_class, data["pictures"], unlisted)
        except (KeyError, TypeError) as error:
            raise InputError(f"no PQ result: {error!r}; give what to_json() returned") from None

    def table(self, per_class: bool = False) -> "Table":
        """Return a table for the terminal: All, Things, Stuff (and every class) in percent, "n/a" where none occurs."""
        from rich.table import Column, Table
        from rich.text import Text

        table = Table("", *(Column(name, justify="right") for name in ("PQ", "SQ", "RQ", "N")))
        for name, mean in (("All", self.all), ("Things", self.things), ("Stuff", self.stuff)):
            table.add_row(name, *map(_percent, (mean.pq, mean.sq, mean.rq)), str(mean.classes))
        if per_class:
            table.add_section()
            for c in self.per_class:
                table.add_row(Text(c.name), *map(_percent, (c.pq, c.sq, c.rq)), "")
        return table


class Match(NamedTuple):
    """A ground-truth segment and the prediction that found it (IoU > 0.5)."""

    truth_id: int
    prediction_id: int
    category_id: int
    iou: float


@dataclass(frozen=True)
class PictureMatches:
    """What became of every segment of one picture, except the ground truth's crowds.

    `matched` pairs in ascending order of (ground-truth id, predicted id); then id -> category_id of `missed` truths,
    `false` predictions, and those `ignored` because more than half lies in void and crowds of their class.
    """

    matched: tuple[Match, ...]
    missed: Mapping[int, int]
    false: Mapping[int, int]
    ignored: Mapping[int, int]

    def add_to(self, sums: dict[int, ClassSums]) -> None:
        """Add to sums per category_id, one IoU after the other: the order decides the last bit."""
        for match in self.matched:
            entry = sums.setdefault(match.category_id, ClassSums())
            entry.tp += 1
            entry.iou += match.iou
        for category_id in self.missed.values():
            sums.setdefault(category_id, ClassSums()).fn += 1
        for category_id in self.false.values():
            sums.setdefault(category_id, ClassSums()).fp += 1

    def sums(self) -> dict[int, ClassSums]:
        """Return the picture's own sums per category_id that occurs."""
        sums: dict[int, ClassSums] = {}
        self.add_to(sums)
        return sums


class TruthSegment(NamedTuple):
    """What matching needs of a ground-truth segment."""

    category_id: int
    area: float
    iscrowd: bool


def overlaps(truth: Integer[np.ndarray, "H W"], prediction: Integer[np.ndarray, "H W"]) -> Overlaps:
    """Count the pixels of each pair of ids that meet in two maps of one size."""
    pairs = (truth.astype(np.int64) << 32 | prediction.astype(np.int64)).ravel()
    # ids come in long runs: sorting one entry per run instead of per pixel is most of the speed
    starts = np.flatnonzero(np.diff(pairs, prepend=-1))
    lengths = np.diff(starts, append=pairs.size)
    keys, inverse = np.unique(pairs[starts], return_inverse=True)
    areas = np.bincount(inverse, weights=lengths).astype(np.int64)
    return {(key >> 32, key & 0xFFFFFFFF): area for key, area in zip(keys.tolist(), areas.tolist(), strict=True)}


def segment_areas(shared: Overlaps) -> tuple[Counter[int], Counter[int]]:
    """Return the pixels of each ground-truth id and of each predicted id, void (0) included."""
    truths: Counter[int] = Counter()
    predictions: Counter[int] = Counter()
    for (truth_id, predicted_id), pixels in shared.items():
        truths[truth_id] += pixels
        predictions[predicted_id] += pixels
    return truths, predictions


def match_segments(
    shared: Overlaps, truths: Mapping[int, TruthSegment], predicted: Mapping[int, int]
) -> PictureMatches:
    """Match one picture's segments; `predicted` maps id -> category_id, and each has a pixel.

    A pair of one class matches where its IoU exceeds 0.5; void pixels of the prediction are left out of the union.
    Section 4 of the paper; where that leaves a choice, panopticapi's: of several crowds of a class the last counts.
    """
    _, areas = segment_areas(shared)
    pairs = ((t, p, common) for (t, p), common in shared.items() if t in truths and p in predicted)
    matched = []
    for truth_id, predicted_id, common in pairs:
        truth = truths[truth_id]
        if truth.iscrowd or truth.category_id != predicted[predicted_id]:
            continue
        union = areas[predicted_id] + truth.area - common - shared.get((0, predicted_id), 0)
        # a stated area may be so wrong that nothing is left of the union; panopticapi divides by it all the same
        iou = common / union if union else math.inf
        if iou > 0.5:
            matched.append(Match(truth_id, predicted_id, truth.category_id, iou))
    found_truths, found_predictions = {m.truth_id for m in matched}, {m.prediction_id for m in matched}
    missed = {i: t.category_id for i, t in truths.items() if not t.iscrowd and i not in found_truths}
    crowds = {t.category_id: i for i, t in truths.items() if t.iscrowd}
    false: dict[int, int] = {}
    ignored: dict[int, int] = {}
    for predicted_id, category_id in predicted.items():
        if predicted_id in found_predictions:
            continue
        excused = shared.get((0, predicted_id), 0)
        if category_id in crowds:
            excused += shared.get((crowds[category_id], predicted_id), 0)
        (ignored if excused / areas[predicted_id] > 0.5 else false)[predicted_id] = category_id
    return PictureMatches(tuple(matched), missed, false, ignored)


class PQAccumulator:
    """Adds up pictures to a PQ; `per_picture` keeps what became of each picture's segments."""

    def __init__(self, categories: Categories) -> None:
        self.categories = categories
        self.per_picture: dict[ImageId, PictureMatches] = {}
        self._sums: dict[int, ClassSums] = {}
        self._pictures = 0

    def add(self, truth: Panoptic, prediction: Panoptic, image_id: ImageId | None = None) -> None:
        """Add one picture, named by `image_id` (else by its number, from 0); areas are counted in the maps.

        Raises `InputError` where the two differ in size, speak of other categories than the accumulator, a map and
        its segments disagree, or the picture was added before.
        """
        name = self._pictures if image_id is None else image_id
        if name in self.per_picture:
            raise InputError(f"image {name} was added before; add each picture once")
        if truth.size != prediction.size:
            sizes = f"the ground truth is {truth.size} (height, width), the prediction {prediction.size}"
            raise InputError(f"image {name}: {sizes}; predict at the picture's own size")
        shared = overlaps(truth.ids, prediction.ids)
        areas, predicted_areas = segment_areas(shared)
        _check_segments(f"image {name}: ground truth", truth, areas, self.categories)
        _check_segments(f"image {name}: prediction", prediction, predicted_areas, self.categories)
        ids = self.categories.ids
        truths = {s.id: TruthSegment(ids[s.label], areas[s.id], s.iscrowd) for s in truth.segments}
        self.add_matches(name, match_segments(shared, truths, {s.id: ids[s.label] for s in prediction.segments}))

    def add_matches(self, image_id: ImageId, matches: PictureMatches) -> None:
        """Add one picture that is matched already."""
        self.per_picture[image_id] = matches
        matches.add_to(self._sums)
        self._pictures += 1

    def result(self) -> PQResult:
        """Return the result over the pictures so far."""
        rows = zip(self.categories.ids, self.categories.names, self.categories.things, strict=True)
        per_class = [ClassPQ(i, name, thing, **asdict(self._sums.get(i, ClassSums()))) for i, name, thing in rows]
        unlisted = {i: sums for i, sums in self._sums.items() if i not in self.categories.label_of}
        return PQResult.of(per_class, self._pictures, unlisted)


def evaluate(
    gt: str | Path | Sequence[Panoptic],
    pred: str | Path | Sequence[Panoptic],
    gt_folder: str | Path | None = None,
    pred_folder: str | Path | None = None,
    like_panopticapi: bool = False,
    progress: Progress | None = None,
) -> PQResult:
    """Score predictions against ground truth: two COCO panoptic JSON files, or two lists of `Panoptic` in one order.

    For files, see `pq_files.score_files`; lists are compared strictly, and folders and leniency are refused there.
    """
    if isinstance(gt, str | Path) and isinstance(pred, str | Path):
        from thingstuff.evaluation.pq_files import score_files

        return score_files(gt, pred, gt_folder, pred_folder, like_panopticapi, progress).result()
    if isinstance(gt, str | Path) or isinstance(pred, str | Path) or gt_folder or pred_folder or like_panopticapi:
        raise InputError("give two JSON files, or two lists of Panoptic without folders and like_panopticapi")
    if len(gt) != len(pred) or not gt:
        raise InputError(f"{len(gt)} maps of ground truth and {len(pred)} predictions: give one for one, at least one")
    scores = PQAccumulator(gt[0].categories)
    for done, (truth, prediction) in enumerate(zip(gt, pred, strict=True), 1):
        scores.add(truth, prediction)
        if progress:
            progress(done, len(gt))
    return scores.result()


def _check_segments(at: str, panoptic: Panoptic, areas: Mapping[int, int], categories: Categories) -> None:
    own, listed = panoptic.categories, [segment.id for segment in panoptic.segments]
    if (own.names, own.things, own.ids) != (categories.names, categories.things, categories.ids):
        raise InputError(f"{at}: has other categories; use those of the ground truth")
    if len({*listed}) != len(listed) or {*areas} - {0} != {*listed}:
        raise InputError(f"{at}: the ids in the map and those of its segments differ; list each id > 0 of the map once")


def _percent(value: float | None) -> str:
    return "n/a" if value is None else f"{100 * value:.1f}"
