"""Why a segment was not matched: one cause for every unmatched segment of a picture, as docs/causes.md defines them."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from thingstuff.evaluation.segments import ScoredPicture

CAUSES = ("missed", "false", "wrong class", "split", "merged", "poor mask", "duplicate")


class SegmentError(NamedTuple):
    """An unmatched segment of the ground truth (`is_truth`) or of the prediction, and its cause.

    `area` is its pixels in the map; `partners` are the segments of the other side that the cause speaks of; `iou` is
    that of the pair, or of the one and the union of the many; 0.0 for missed and false, which have no partner.
    """

    cause: str
    segment_id: int
    is_truth: bool
    category_id: int
    area: int
    partners: tuple[int, ...]
    iou: float


def segment_errors(picture: ScoredPicture) -> tuple[SegmentError, ...]:
    """Give every unmatched segment its cause: the ground truth's first, then the prediction's, each by ascending id.

    The definitions, and the order in which they are tried, are those of docs/causes.md.
    """
    if not picture.matches.missed and not picture.matches.false:
        return ()
    scene = _Scene(picture)
    for rule in (_wrong_class, _split, _merged, _duplicate, _poor_mask):
        rule(scene)
    for truth_id in tuple(scene.missed):
        scene.explain("missed", (truth_id,), ())
    for prediction_id in tuple(scene.false):
        scene.explain("false", (), (prediction_id,))
    return tuple(sorted(scene.errors, key=lambda e: (not e.is_truth, e.segment_id)))


class _Scene:
    """A picture while its segments are explained: `missed` and `false` (id -> category_id) hold what is not yet."""

    def __init__(self, picture: ScoredPicture) -> None:
        truths, ignored = picture.truths, picture.matches.ignored
        taking_part = picture.predictions.keys() - ignored.keys()
        self.picture = picture
        self.missed, self.false = dict(picture.matches.missed), dict(picture.matches.false)
        self.errors: list[SegmentError] = []
        own = {t for t, truth in truths.items() if not truth.iscrowd}
        # whom a prediction meets, and whom a missed truth
        self.truths_of: defaultdict[int, list[int]] = defaultdict(list)
        self.predictions_of: dict[int, list[int]] = {t: [] for t in self.missed}
        for t, p in picture.shared:
            if t in own and p in taking_part:
                self.truths_of[p].append(t)
                if t in self.missed:
                    self.predictions_of[t].append(p)

    def lies_mostly_in(self, prediction_id: int, truth_id: int) -> bool:
        return 2 * self.picture.shared[truth_id, prediction_id] > self._visible(prediction_id)

    def is_mostly_covered_by(self, truth_id: int, prediction_id: int) -> bool:
        return 2 * self.picture.shared[truth_id, prediction_id] > self.picture.truths[truth_id].area

    def iou_of_pair(self, truth_id: int, prediction_id: int) -> float:
        """Return PQ's IoU of two segments that meet."""
        common = self.picture.shared[truth_id, prediction_id]
        areas = self.picture.truths[truth_id].area + self._visible(prediction_id)
        # a stated area may be so wrong that no union is left: as in match_segments
        return common / (areas - common) if areas != common else math.inf

    def iou(self, truths: Sequence[int], predictions: Sequence[int]) -> float:
        """Return PQ's IoU of two unions of segments."""
        shared = self.picture.shared
        common = sum(shared.get((t, p), 0) for t in truths for p in predictions)
        areas = sum(self.picture.truths[t].area for t in truths) + sum(map(self._visible, predictions))
        return common / (areas - common) if areas != common else math.inf

    def explain(self, cause: str, truths: Sequence[int], predictions: Sequence[int]) -> None:
        """Give a cause to those of a group that are unmatched and have none yet."""
        iou = self.iou(truths, predictions) if truths and predictions else 0.0
        truth_areas, predicted_areas = self.picture.areas
        for t in truths:
            if t in self.missed:
                row = (t, True, self.missed.pop(t), truth_areas[t], tuple(predictions), iou)
                self.errors.append(SegmentError(cause, *row))
        for p in predictions:
            if p in self.false:
                row = (p, False, self.false.pop(p), predicted_areas[p], tuple(truths), iou)
                self.errors.append(SegmentError(cause, *row))

    def open_pairs(self) -> Iterable[tuple[int, int]]:
        """Return the pairs that meet and are both without a cause."""
        return [(t, p) for t in self.missed for p in self.predictions_of[t] if p in self.false]

    def _visible(self, prediction_id: int) -> int:
        return self.picture.areas[1][prediction_id] - self.picture.shared.get((0, prediction_id), 0)


def _wrong_class(scene: _Scene) -> None:
    differing = [(t, p) for t, p in scene.open_pairs() if scene.missed[t] != scene.false[p]]
    for t, p in differing:
        # with right areas no segment has two such partners; stated ones (like panopticapi) may be wrong
        if t in scene.missed and p in scene.false and scene.iou_of_pair(t, p) > 0.5:
            scene.explain("wrong class", (t,), (p,))


def _split(scene: _Scene) -> None:
    for t, category_id in tuple(scene.missed.items()):
        met = [p for p in scene.predictions_of[t] if scene.false.get(p) == category_id]
        parts = [p for p in met if scene.lies_mostly_in(p, t)]
        if len(parts) > 1 and scene.iou((t,), parts) > 0.5:
            scene.explain("split", (t,), parts)


def _merged(scene: _Scene) -> None:
    truths, predictions = scene.picture.truths, scene.picture.predictions
    of_missed = {
        p for t, category_id in scene.missed.items() for p in scene.predictions_of[t] if predictions[p] == category_id
    }
    for p in [p for p in scene.truths_of if p in of_missed]:
        own = [t for t in scene.truths_of[p] if truths[t].category_id == predictions[p]]
        group = [t for t in own if scene.is_mostly_covered_by(t, p)]
        if len(group) > 1 and scene.iou(group, (p,)) > 0.5:
            scene.explain("merged", group, (p,))


def _duplicate(scene: _Scene) -> None:
    matched = {match.truth_id: match.category_id for match in scene.picture.matches.matched}
    for p, category_id in tuple(scene.false.items()):
        for t in scene.truths_of.get(p, ()):
            if matched.get(t) == category_id and scene.lies_mostly_in(p, t):
                scene.explain("duplicate", (t,), (p,))


def _poor_mask(scene: _Scene) -> None:
    same = [(t, p) for t, p in scene.open_pairs() if scene.missed[t] == scene.false[p]]
    pairs = sorted((-scene.iou_of_pair(t, p), t, p) for t, p in same)
    for negative, t, p in pairs:
        if 0.1 <= -negative <= 0.5 and t in scene.missed and p in scene.false:
            scene.explain("poor mask", (t,), (p,))
