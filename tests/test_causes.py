"""Every cause on drawn pictures, the order between them, and docs/causes.md recomputed with sets of pixels."""

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from thingstuff.evaluation.causes import CAUSES, SegmentError, segment_errors
from thingstuff.evaluation.pairs import compare_maps
from thingstuff.evaluation.segments import ScoredPicture, TruthSegment, match_segments
from thingstuff.panoptic import Categories, Panoptic, Segment

CATEGORIES = Categories(("cat", "car", "sky", "sea"), (True, True, False, False), (17, 3, 187, 155))
LETTERS = {"a": 0, "b": 0, "c": 0, "k": 1, "l": 1, "s": 2, "t": 3}


def drawn(row: str, crowds: str = "") -> Panoptic:
    """Make a map of one row: a letter per segment (ids ascend with them), '.' for void; capitals are classed alike."""
    letters = sorted({*row} - {"."})
    segments = [Segment(i, LETTERS[c.lower()], row.count(c), iscrowd=c in crowds) for i, c in enumerate(letters, 1)]
    ids = np.array([[0 if c == "." else letters.index(c) + 1 for c in row]], np.int32)
    return Panoptic(ids, tuple(segments), CATEGORIES)


def causes(truth: str, prediction: str, crowds: str = "") -> dict[str, str]:
    """Return letter -> cause and partners' letters; the truth is drawn in small letters, the prediction in capitals."""
    errors = segment_errors(compare_maps(drawn(truth, crowds), drawn(prediction), "drawn", CATEGORIES))
    sides = [sorted({*row} - {"."}) for row in (prediction, truth)]
    said = {}
    for e in errors:
        own, other = sides[e.is_truth], sides[not e.is_truth]
        said[own[e.segment_id - 1]] = " ".join([e.cause, *(other[i - 1] for i in e.partners)])
    assert len(said) == len(errors)
    return said


# Each cause, and where it ends


def test_nothing_unmatched_has_no_cause() -> None:
    assert causes("aaakk.ss", "AAAKKKSS") == {}
    assert causes("....", "AA..") == {}, "what lies in void is ignored"


def test_missed_and_false() -> None:
    assert causes("aaa.ssss", "....SSSS") == {"a": "missed"}
    assert causes("ssssssss", "SSSSSSAA") == {"A": "false"}
    assert causes("aaasssss", "...SSSSA") == {"a": "missed", "A": "false"}


def test_wrong_class_is_a_mask_that_is_right() -> None:
    assert causes("aaa", "KKK") == {"a": "wrong class K", "K": "wrong class a"}
    assert causes("aaass", "KKSSS") == {"a": "wrong class K", "K": "wrong class a"}
    swapped = {"a": "wrong class S", "S": "wrong class a", "s": "wrong class K", "K": "wrong class s"}
    assert causes("aaaass", "SSSKKK") == swapped


def test_wrong_class_needs_more_than_half() -> None:
    assert causes("aass", "KSSS") == {"a": "missed", "K": "false"}


def test_pixels_in_void_are_no_part_of_a_prediction() -> None:
    assert causes("aaa...", ".KKKK.") == {"a": "wrong class K", "K": "wrong class a"}
    assert causes("aaaass..", "AABBSSAA") == {"a": "split A B", "A": "split a", "B": "split a"}
    assert causes("aabb....", "AAAAAAAA") == {"a": "merged A", "b": "merged A", "A": "merged a b"}
    assert causes("aaaaaass.", "AAAABSSSB") == {"B": "duplicate a"}
    assert causes("aaaasss.", "..AASSSA") == {"a": "poor mask A", "A": "poor mask a"}


def test_split_needs_two_parts_and_more_than_half_together() -> None:
    assert causes("aaaa", "AABB") == {"a": "split A B", "A": "split a", "B": "split a"}
    assert causes("aaaaaa", "AABBCC") == {"a": "split A B C", **dict.fromkeys("ABC", "split a")}
    assert causes("aaaa", "AAKK") == {"a": "poor mask A", "A": "poor mask a", "K": "false"}
    assert causes("aaaass", "AB..SS") == {"a": "poor mask A", "A": "poor mask a", "B": "false"}
    assert causes("aaass", "AB.SS") == {"a": "split A B", "A": "split a", "B": "split a"}


def test_parts_of_a_split_lie_mostly_in_it() -> None:
    half = {"a": "poor mask A", "A": "poor mask a", "B": "false", "s": "poor mask S", "S": "poor mask s"}
    assert causes("aaaassss", "AABBBBSS") == half
    assert causes("aaaasssss", "AABBBSSSS") == {"a": "split A B", "A": "split a", "B": "split a"}


def test_merged_takes_the_truths_that_one_prediction_covers() -> None:
    assert causes("aabb", "AAAA") == {"a": "merged A", "b": "merged A", "A": "merged a b"}
    assert causes("aakk", "AAAA") == {"a": "poor mask A", "A": "poor mask a", "k": "missed"}
    assert causes("aaabb", "AAAAA") == {"b": "merged A"}, "A matches a"
    assert causes("aaaabb", "AAAAA.") == {"b": "missed"}, "covered by half"
    assert causes("aaaabbb", "AAAAAA.") == {"b": "merged A"}


def test_what_is_merged_has_more_than_half_of_the_union() -> None:
    assert causes("aabbssss", "AAAAAAAA") == {"a": "poor mask A", "A": "poor mask a", "b": "missed", "s": "missed"}
    assert causes("aabbsss", "AAAAAAA") == {"a": "merged A", "b": "merged A", "A": "merged a b", "s": "missed"}


def test_a_duplicate_lies_mostly_in_a_truth_that_another_matches() -> None:
    assert causes("aaaaaa", "AAAABB") == {"B": "duplicate a"}
    assert causes("aaaaaa", "AAAABC") == {"B": "duplicate a", "C": "duplicate a"}
    assert causes("aaaaaass", "AAAAKKSS") == {"K": "false"}
    assert causes("aaaaaasssss", "AAAABBBBSSS") == {"B": "false"}, "half is not mostly"


def test_poor_masks_begin_at_a_tenth_and_end_at_half() -> None:
    poor, nothing = {"a": "poor mask A", "A": "poor mask a"}, {"a": "missed", "A": "false"}
    assert causes("aassssss", "ASSSSSSS") == poor
    assert causes("aaaaaaaaaa", "A.........") == poor
    assert causes("aaaaaaaaaaa", "A..........") == nothing
    assert causes("aaaaaa" + 9 * "s", "....." + 5 * "A" + 5 * "S") == poor, "1 of 10"
    assert causes("aaaaaa" + 12 * "s", "....." + 6 * "A" + 7 * "S") == nothing, "1 of 11"


def test_poor_masks_pair_from_the_best_down() -> None:
    # IoUs: b A 2/5, b B 1/5, a A 1/6
    best = {"b": "poor mask A", "A": "poor mask b", "a": "missed", "B": "false"}
    assert causes("aaaabbbbssss", "...AAA.BBSSS") == best
    assert causes("aabb", ".AA.") == {"a": "poor mask A", "A": "poor mask a", "b": "missed"}, "equal: the smaller id"
    assert causes("kkkkk", "KL...") == {"k": "poor mask K", "K": "poor mask k", "L": "false"}, "equal: the smaller id"


# The order between them


def test_a_wrong_class_goes_before_a_poor_mask() -> None:
    assert causes("aaaaaaa", "KKKKKAA") == {"a": "wrong class K", "K": "wrong class a", "A": "false"}


def test_a_split_goes_before_a_merger() -> None:
    # A and B split a; A covers b too, and a and b together
    truth, prediction = 100 * "a" + 49 * "b", 60 * "A" + 35 * "B" + 5 * "." + 49 * "A"
    assert causes(truth, prediction) == {"a": "split A B", "A": "split a", "B": "split a", "b": "merged A"}


def test_a_duplicate_goes_before_a_poor_mask() -> None:
    # B lies mostly in a, which A matches, and has IoU 2/9 with b
    assert causes("aaaaaaaaaaabbbbbb", "AAAAAAAABBBBB....") == {"B": "duplicate a", "b": "missed"}


# Who takes no part


def test_crowds_have_no_cause_and_are_no_partner() -> None:
    assert causes("aaassss", "KKKSSSS", crowds="a") == {"K": "false"}
    assert causes("aaaabbb", "AAAAAAA", crowds="a") == {"b": "missed"}, "A is ignored"
    assert causes("aabbssss", "AAAAASSS", crowds="a") == {"b": "poor mask A", "A": "poor mask b"}, "no merger"


def test_ignored_predictions_have_no_cause_and_are_no_partner() -> None:
    assert causes("aa...", "KKKKK") == {"a": "missed"}
    assert causes("aabb.....", "AAAAAAAAA") == {"a": "missed", "b": "missed"}
    assert causes("aaaa...", "AABBBBB") == {"a": "poor mask A", "A": "poor mask a"}


# What is said of a segment


def test_area_and_iou() -> None:
    errors = segment_errors(compare_maps(drawn("aabbbkkkk.t"), drawn("AAAAA..KKK."), 5, CATEGORIES))
    assert errors == (
        SegmentError("merged", 1, True, 17, 2, (1,), 1.0),
        SegmentError("poor mask", 3, True, 3, 4, (2,), 0.5),
        SegmentError("missed", 4, True, 155, 1, (), 0.0),
        SegmentError("poor mask", 2, False, 3, 3, (3,), 0.5),
    )
    split = segment_errors(compare_maps(drawn("aaaaa"), drawn("AABBK"), 5, CATEGORIES))
    assert [(e.cause, e.partners, e.iou) for e in split] == [
        ("split", (1, 2), 0.8),
        ("split", (1,), 0.8),
        ("split", (1,), 0.8),
        ("false", (), 0.0),
    ]
    (duplicate,) = segment_errors(compare_maps(drawn("aaaa"), drawn("AAAB"), 5, CATEGORIES))
    assert duplicate == SegmentError("duplicate", 2, False, 17, 1, (1,), 0.25)


# Straight from docs/causes.md, with sets of pixels

Pixels = set[tuple[int, int]]
Explained = dict[tuple[bool, int], tuple[str, tuple[int, ...], Fraction]]
"""(of the ground truth?, id) -> cause, partners, IoU."""


def random_truth(rng: np.random.Generator) -> Panoptic:
    """Rectangles of four classes, some crowds, some void."""
    ids = np.zeros((18, 24), np.int32)
    for value in rng.permutation(np.arange(3, 60, 5)):
        y, x = rng.integers(0, 15), rng.integers(0, 20)
        ids[y : y + rng.integers(3, 12), x : x + rng.integers(2, 9)] = value
    ids[rng.random(ids.shape) < 0.03] = 0
    values = [int(v) for v in np.unique(ids) if v]
    segments = [
        Segment(v, int(rng.choice(4, p=[0.5, 0.2, 0.2, 0.1])), int((ids == v).sum()), iscrowd=bool(rng.random() < 0.08))
        for v in rng.permutation(values).tolist()
    ]
    return Panoptic(ids, tuple(segments), CATEGORIES)


def random_prediction(rng: np.random.Generator, truth: Panoptic) -> Panoptic:
    """Keep, drop, relabel, cut, shift, thin and merge the ground truth's segments, then add small ones."""
    ids, labels = np.zeros_like(truth.ids), {}
    first_of: dict[int, int] = {}
    for number, s in enumerate(truth.segments):
        mask, value, label = truth.mask(s), 1000 - 10 * number, s.label
        deed = rng.choice(["keep", "drop", "relabel", "cut", "shift", "thin", "merge", "merge", "merge"])
        if deed == "drop":
            continue
        if deed == "relabel":
            label = int(rng.integers(4))
        if deed == "merge":
            value = first_of.setdefault(label, value)
        if deed == "shift":
            mask = np.roll(mask, tuple(rng.integers(-3, 4, 2)), (0, 1))
        if deed == "thin":
            mask = mask & (rng.random(mask.shape) < rng.uniform(0.05, 0.7))
        ids[mask], labels[value] = value, label
        if deed == "cut":
            middle = int(np.median(np.nonzero(mask)[1])) + 1
            ids[:, middle:][mask[:, middle:]], labels[value + 1] = value + 1, label
    for value in range(1, 5):
        y, x = rng.integers(0, 16), rng.integers(0, 20)
        labels[value] = int(rng.choice(4, p=[0.5, 0.2, 0.2, 0.1]))
        ids[y : y + rng.integers(1, 6), x : x + rng.integers(1, 6)] = value
    present = rng.permutation([v for v in np.unique(ids) if v]).tolist()
    return Panoptic(ids, tuple(Segment(v, labels[v], int((ids == v).sum())) for v in present), CATEGORIES)


class Plain:
    """A picture's segments as sets of pixels, and the words of the document."""

    def __init__(self, truth: Panoptic, prediction: Panoptic) -> None:
        void = self.pixels(truth, 0)
        crowds = {s.label: self.pixels(truth, s.id) for s in truth.segments if s.iscrowd}
        self.t = {s.id: self.pixels(truth, s.id) for s in truth.segments if not s.iscrowd}
        whole = {s.id: self.pixels(prediction, s.id) for s in prediction.segments}
        self.p = {i: own - void for i, own in whole.items()}
        self.t_class = {s.id: s.label for s in truth.segments}
        self.p_class = {s.id: s.label for s in prediction.segments}
        same = [(t, p) for t in self.t for p in self.p if self.t_class[t] == self.p_class[p]]
        self.match = {t: (p, self.iou([t], [p])) for t, p in same if 2 * self.iou([t], [p]) > 1}
        matched = {p for p, _ in self.match.values()}
        for p, own in whole.items():
            excused = own & (void | crowds.get(self.p_class[p], set()))
            if p not in matched and 2 * len(excused) > len(own):
                del self.p[p]
        self.unmatched = {(True, t) for t in self.t.keys() - self.match.keys()}
        self.unmatched |= {(False, p) for p in self.p.keys() - matched}
        self.explained: Explained = {}

    @staticmethod
    def pixels(panoptic: Panoptic, value: int) -> Pixels:
        return {(y, x) for y, row in enumerate(panoptic.ids.tolist()) for x, v in enumerate(row) if v == value}

    def iou(self, truths: Sequence[int], predictions: Sequence[int]) -> Fraction:
        truth = set().union(*(self.t[t] for t in truths))
        prediction = set().union(*(self.p[p] for p in predictions))
        return Fraction(len(truth & prediction), len(truth | prediction))

    def open(self, is_truth: bool) -> list[int]:
        return sorted(i for side, i in self.unmatched - self.explained.keys() if side == is_truth)

    def common(self, t: int, p: int) -> int:
        return len(self.t[t] & self.p[p])

    def give(self, cause: str, truths: Sequence[int], predictions: Sequence[int]) -> None:
        iou = self.iou(truths, predictions) if truths and predictions else Fraction(0)
        for t in {*truths} & {*self.open(True)}:
            self.explained[True, t] = (cause, tuple(sorted(predictions)), iou)
        for p in {*predictions} & {*self.open(False)}:
            self.explained[False, p] = (cause, tuple(sorted(truths)), iou)

    def explain(self) -> Explained:
        for t in self.open(True):
            for p in self.open(False):
                if self.t_class[t] != self.p_class[p] and 2 * self.iou([t], [p]) > 1:
                    self.give("wrong class", [t], [p])
        for t in self.open(True):
            own = [p for p in self.open(False) if self.p_class[p] == self.t_class[t]]
            parts = [p for p in own if 2 * self.common(t, p) > len(self.p[p])]
            if len(parts) >= 2 and 2 * self.iou([t], parts) > 1:
                self.give("split", [t], parts)
        for p in self.p:
            own = [t for t in self.t if self.p_class[p] == self.t_class[t]]
            covered = [t for t in own if 2 * self.common(t, p) > len(self.t[t])]
            if len(covered) >= 2 and 2 * self.iou(covered, [p]) > 1:
                self.give("merged", covered, [p])
        for p in self.open(False):
            for t in self.match:
                if self.t_class[t] == self.p_class[p] and 2 * self.common(t, p) > len(self.p[p]):
                    self.give("duplicate", [t], [p])
        while pairs := [
            (-iou, t, p)
            for t in self.open(True)
            for p in self.open(False)
            if self.t_class[t] == self.p_class[p] and Fraction(1, 10) <= (iou := self.iou([t], [p])) <= Fraction(1, 2)
        ]:
            _, t, p = min(pairs)
            self.give("poor mask", [t], [p])
        self.explained |= {(True, t): ("missed", (), Fraction(0)) for t in self.open(True)}
        self.explained |= {(False, p): ("false", (), Fraction(0)) for p in self.open(False)}
        return self.explained


def random_pictures(seed: int, count: int) -> list[tuple[Panoptic, Panoptic]]:
    rng = np.random.default_rng(seed)
    truths = [random_truth(rng) for _ in range(count)]
    return [(truth, random_prediction(rng, truth)) for truth in truths]


def test_equal_to_the_document_on_random_pictures() -> None:
    seen: Counter[tuple[str, bool]] = Counter()
    for truth, prediction in random_pictures(seed=5, count=120):
        picture = compare_maps(truth, prediction, "made", CATEGORIES)
        errors = segment_errors(picture)
        said = {(e.is_truth, e.segment_id): (e.cause, tuple(sorted(e.partners)), e.iou) for e in errors}
        expected = Plain(truth, prediction).explain()
        assert said == {key: (cause, partners, float(iou)) for key, (cause, partners, iou) in expected.items()}
        assert len(errors) == len(picture.matches.missed) + len(picture.matches.false), "each has one cause"
        assert [e.segment_id for e in errors] == [i for _, i in sorted(said, key=lambda key: (not key[0], key[1]))]
        categories = {True: picture.matches.missed, False: picture.matches.false}
        assert all(e.category_id == categories[e.is_truth][e.segment_id] for e in errors)
        maps = {True: truth.ids, False: prediction.ids}
        assert all(e.area == int((maps[e.is_truth] == e.segment_id).sum()) for e in errors)
        seen.update((e.cause, e.is_truth) for e in errors)
    both = {(cause, side) for cause in CAUSES for side in (True, False)}
    assert both - seen.keys() == {("missed", False), ("false", True), ("duplicate", True)}
    assert min(seen.values()) >= 10, "every cause is tried"


def test_stated_areas_however_wrong_leave_each_segment_one_cause() -> None:
    """Only --like-panopticapi gets that far; IoUs and covering go by the stated area then, as PQ does."""
    rng = np.random.default_rng(8)
    for truth, prediction in random_pictures(seed=9, count=40):
        right = compare_maps(truth, prediction, "made", CATEGORIES)
        areas = {
            i: float(rng.choice([-300, 0, 1, 20, 5000])) if rng.random() < 0.5 else t.area
            for i, t in right.truths.items()
        }
        truths = {i: TruthSegment(t.category_id, areas[i], t.iscrowd) for i, t in right.truths.items()}
        matches = match_segments(right.shared, truths, right.predictions)
        errors = segment_errors(ScoredPicture("made", right.shared, truths, right.predictions, matches))
        of_truth, of_prediction = ([e.segment_id for e in errors if e.is_truth == side] for side in (True, False))
        assert (of_truth, of_prediction) == (sorted(matches.missed), sorted(matches.false))
        assert all(e.area == right.areas[not e.is_truth][e.segment_id] for e in errors)
    shared = {(1, 1): 4}
    tenfold = {1: TruthSegment(17, 40, False)}
    stated = ScoredPicture("made", shared, tenfold, {1: 17}, match_segments(shared, tenfold, {1: 17}))
    assert [(e.cause, e.iou, e.area) for e in segment_errors(stated)] == [("poor mask", 0.1, 4)] * 2
