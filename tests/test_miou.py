"""mIoU and pixel accuracy by hand, and against counting pixels one by one."""

import json
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from thingstuff.errors import InputError
from thingstuff.evaluation.miou import SemanticAccumulator, SemanticResult
from thingstuff.evaluation.pairs import compare_maps
from thingstuff.evaluation.segments import ScoredPicture, TruthSegment
from thingstuff.panoptic import VOID, Categories, Panoptic, Segment

CATEGORIES = Categories(("cat", "car", "sky", "sea"), (True, True, False, False), (17, 3, 187, 155))
CAT, CAR, SKY, SEA = range(4)


def drawn(rows: list[str], labels: dict[str, int], crowds: str = "") -> Panoptic:
    """Make a map of a drawing: a letter per segment, '.' for void."""
    ids = np.array([[0 if c == "." else ord(c) for c in row] for row in rows], np.int32)
    segments = (Segment(ord(c), n, int((ids == ord(c)).sum()), iscrowd=c in crowds) for c, n in labels.items())
    return Panoptic(ids, tuple(segments), CATEGORIES)


def compared(truth: Panoptic, prediction: Panoptic) -> ScoredPicture:
    return compare_maps(truth, prediction, 1, CATEGORIES)


def measured(*pairs: tuple[Panoptic, Panoptic]) -> SemanticResult:
    scores = SemanticAccumulator(CATEGORIES)
    for truth, prediction in pairs:
        scores.add(compared(truth, prediction))
    return scores.result()


# By hand


def test_every_measure_of_a_small_picture() -> None:
    truth = drawn(["aabb", "cccc", "dd.."], {"a": CAT, "b": CAT, "c": SKY, "d": CAR})
    prediction = drawn(["xxxy", "yyy.", "yyxy"], {"x": CAT, "y": SKY})
    result = measured((truth, prediction))
    expected = np.zeros((4, 5), np.int64)
    expected[CAT, [CAT, SKY]] = 3, 1
    expected[SKY, [SKY, VOID]] = 3, 1
    expected[CAR, SKY] = 2
    assert result.confusion.dtype == np.int64
    assert (result.confusion == expected).all()
    # the x in void is in no union
    assert [c.iou for c in result.per_class] == [3 / 4, 0.0, 3 / 7, None]
    assert [c.accuracy for c in result.per_class] == [3 / 4, 0.0, 3 / 4, None]
    assert result.miou == pytest.approx((3 / 4 + 3 / 7) / 3, rel=1e-15)
    assert result.mean_accuracy == 0.5
    assert result.frequency_weighted_iou == pytest.approx((4 * 3 / 4 + 4 * 3 / 7) / 10, rel=1e-15)
    assert (result.pixel_accuracy, result.classes, result.pictures) == (0.6, 3, 1)


def test_a_class_that_is_predicted_alone_is_in_no_mean() -> None:
    result = measured((drawn(["aaaa"], {"a": SKY}), drawn(["abbb"], {"a": SKY, "b": SEA})))
    assert result.per_class[SEA].iou is None
    assert result.per_class[SEA].predicted == 3
    assert (result.miou, result.pixel_accuracy, result.classes) == (0.25, 0.25, 1)


def test_crowds_count_as_their_class() -> None:
    truth = drawn(["aabb"], {"a": CAT, "b": CAT}, crowds="a")
    result = measured((truth, drawn(["xxx."], {"x": CAT})))
    assert (result.confusion[CAT, CAT], result.confusion[CAT, VOID]) == (3, 1)


def test_nothing_annotated() -> None:
    result = measured((drawn(["...."], {}), drawn(["aa.."], {"a": CAT})))
    assert not result.confusion.any()
    assert (result.miou, result.pixel_accuracy, result.mean_accuracy, result.frequency_weighted_iou) == (None,) * 4
    assert (result.classes, result.pictures) == (0, 1)


def test_an_unlisted_category_counts_as_void() -> None:
    picture = compared(drawn(["aabb"], {"a": CAT, "b": SKY}), drawn(["aaaa"], {"a": CAT}))
    scores = SemanticAccumulator(CATEGORIES)
    scores.add(replace(picture, truths={**picture.truths, ord("b"): TruthSegment(999, 2, False)}))
    assert scores.result().confusion.sum() == 2
    assert scores.result().pixel_accuracy == 1.0


# Against a plain count of pixels


def blocks(rng: np.random.Generator, crowds: bool) -> Panoptic:
    ids = np.zeros((20, 26), np.int32)
    for value in rng.choice(np.arange(1, 2**24, 977), 12, replace=False):
        y, x = rng.integers(0, 18, 2)
        ids[y : y + rng.integers(2, 14), x : x + rng.integers(2, 16)] = value
    values, areas = np.unique(ids[ids > 0], return_counts=True)
    rows = zip(values.tolist(), areas.tolist(), strict=True)
    segments = (Segment(v, int(rng.integers(3)), n, iscrowd=crowds and bool(rng.random() < 0.3)) for v, n in rows)
    return Panoptic(ids, tuple(segments), CATEGORIES)


@pytest.mark.parametrize("seed", range(6))
def test_equal_to_a_plain_count(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pairs = [(blocks(rng, crowds=True), blocks(rng, crowds=False)) for _ in range(4)]
    confusion = np.zeros((4, 5), np.int64)
    for truth, prediction in pairs:
        for wanted, found in zip(truth.semantic().ravel(), prediction.semantic().ravel(), strict=True):
            if wanted != VOID:
                confusion[wanted, found] += 1  # VOID is -1: the last column
    result = measured(*pairs)
    assert (result.confusion == confusion).all()
    truths = np.concatenate([truth.semantic().ravel() for truth, _ in pairs])
    found = np.concatenate([prediction.semantic().ravel() for _, prediction in pairs])[truths != VOID]
    truths = truths[truths != VOID]
    occurring = np.unique(truths).tolist()
    ious = [((truths == c) & (found == c)).sum() / ((truths == c) | (found == c)).sum() for c in occurring]
    accuracies = [(found[truths == c] == c).mean() for c in occurring]
    assert [c.iou for c in result.per_class if c.iou is not None] == ious
    assert result.miou == pytest.approx(np.mean(ious), rel=1e-14)
    assert result.mean_accuracy == pytest.approx(np.mean(accuracies), rel=1e-14)
    weights = [(truths == c).sum() for c in occurring]
    assert result.frequency_weighted_iou == pytest.approx(np.average(ious, weights=weights), rel=1e-14)
    assert result.pixel_accuracy == (truths == found).mean()


# The result


def test_json_round_trip_is_exact() -> None:
    rng = np.random.default_rng(5)
    result = measured((blocks(rng, crowds=True), blocks(rng, crowds=False)))
    written = json.loads(json.dumps(result.to_json()))
    again = SemanticResult.from_json(written)
    assert again == result
    assert again.confusion.dtype == np.int64
    assert written["miou"] == result.miou
    assert written["per_class"][SEA] == {
        "category_id": 155, "name": "sea", "isthing": False, "iou": None, "accuracy": None,
    }  # fmt: skip
    assert replace(result, pictures=2) != result
    assert replace(result, confusion=result.confusion + 1) != result
    nothing = SemanticAccumulator(Categories((), (), ())).result()
    assert SemanticResult.from_json(nothing.to_json()) == nothing


@pytest.mark.parametrize(
    "change",
    [{"confusion": [[1, 2]]}, {"per_class": [3]}, {"confusion": None}, {"pictures": ...}],
)
def test_what_is_no_result_is_refused(change: dict[str, object]) -> None:
    data = {**measured().to_json(), **change}
    data = {key: value for key, value in data.items() if value is not ...}
    with pytest.raises(InputError, match="to_json"):
        SemanticResult.from_json(data)


def test_the_table_speaks_in_percent() -> None:
    truth = drawn(["aaab"], {"a": CAT, "b": SKY})
    result = measured((truth, drawn(["aabb"], {"a": CAT, "b": SKY})))
    console = Console(width=80)
    with console.capture() as capture:
        console.print(result.table(per_class=True))
    lines = [line for line in capture.get().splitlines() if "│" in line]
    assert [[cell.strip() for cell in line.strip("│").split("│")] for line in lines] == [
        ["Mean over classes (mIoU, mAcc)", "58.3", "83.3", "2"],
        ["Mean over pixels (fwIoU, pAcc)", "62.5", "75.0", "2"],
        ["cat", "66.7", "66.7", ""],
        ["car", "n/a", "n/a", ""],
        ["sky", "50.0", "100.0", ""],
        ["sea", "n/a", "n/a", ""],
    ]
