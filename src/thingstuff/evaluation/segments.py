"""One picture's ground truth and prediction against each other: which segments meet, and which match.

Letters: H W pixels of a picture.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

ImageId = int | str
Overlaps = dict[tuple[int, int], int]
"""(ground-truth id, predicted id) -> pixels they share, ascending; 0 is void on either side."""
Areas = tuple[Counter[int], Counter[int]]
"""Pixels of each ground-truth id and of each predicted id, void (0) included; 0 for ids that are in no map."""


@dataclass
class ClassSums:
    """The sum of a class's IoUs over its matches, its matches (tp), unmatched predictions (fp) and truths (fn)."""

    iou: float = 0.0
    tp: int = 0
    fp: int = 0
    fn: int = 0


class TruthSegment(NamedTuple):
    """What matching needs of a ground-truth segment."""

    category_id: int
    area: float
    iscrowd: bool


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

    @property
    def pq(self) -> float | None:
        """The picture's PQ over its segments, all classes together, as a fraction; None where it has none."""
        total = len(self.matched) + 0.5 * (len(self.missed) + len(self.false))
        return sum(m.iou for m in self.matched) / total if total else None

    def sums(self) -> dict[int, ClassSums]:
        """Return the picture's own sums per category_id that occurs."""
        sums: dict[int, ClassSums] = {}
        self.add_to(sums)
        return sums


@dataclass(frozen=True)
class ScoredPicture:
    """One picture compared, without its pixels: what every measure adds up.

    `shared` holds the void pixels too; `truths` (crowds included) and `predictions` (id -> category_id) are the
    segments that take part, each with a pixel; `boundary` is Boundary PQ's own matching where it was asked for;
    `counted` are the `areas`, where they were counted before.
    """

    image_id: ImageId
    shared: Overlaps
    truths: Mapping[int, TruthSegment]
    predictions: Mapping[int, int]
    matches: PictureMatches
    boundary: PictureMatches | None = None
    counted: Areas | None = field(default=None, repr=False, compare=False)

    @cached_property
    def areas(self) -> Areas:
        """Pixels of each ground-truth id and of each predicted id as counted in the maps, void (0) included."""
        return segment_areas(self.shared) if self.counted is None else self.counted


def segment_areas(shared: Overlaps) -> Areas:
    """Return the pixels of each ground-truth id and of each predicted id, void (0) included."""
    truths: dict[int, int] = {}
    predictions: dict[int, int] = {}
    for (truth_id, predicted_id), pixels in shared.items():
        truths[truth_id] = truths.get(truth_id, 0) + pixels
        predictions[predicted_id] = predictions.get(predicted_id, 0) + pixels
    areas: Areas = Counter(), Counter()
    dict.update(areas[0], truths)  # a Counter's own ways to be filled are several times slower
    dict.update(areas[1], predictions)
    return areas


def match_segments(
    shared: Overlaps,
    truths: Mapping[int, TruthSegment],
    predicted: Mapping[int, int],
    areas: Mapping[int, int] | None = None,
) -> PictureMatches:
    """Match one picture's segments; `predicted` maps id -> category_id, and each has a pixel.

    A pair of one class matches where its IoU exceeds 0.5; void pixels of the prediction are left out of the union.
    Section 4 of the paper; where that leaves a choice, panopticapi's: of several crowds of a class the last counts.
    `areas` are the predicted ids' pixels, where they were counted before.
    """
    areas = segment_areas(shared)[1] if areas is None else areas
    class_of = {i: t.category_id for i, t in truths.items() if not t.iscrowd}
    matched = []
    for (truth_id, predicted_id), common in shared.items():
        if truth_id not in class_of or predicted_id not in predicted:
            continue
        category_id = class_of[truth_id]
        if category_id != predicted[predicted_id]:
            continue
        union = areas[predicted_id] + truths[truth_id].area - common - shared.get((0, predicted_id), 0)
        # a stated area may be so wrong that nothing is left of the union; panopticapi divides by it all the same
        iou = common / union if union else math.inf
        if iou > 0.5:
            matched.append(Match(truth_id, predicted_id, category_id, iou))
    found_truths, found_predictions = {m.truth_id for m in matched}, {m.prediction_id for m in matched}
    missed = {i: category_id for i, category_id in class_of.items() if i not in found_truths}
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
