"""PQ by hand, against a slow independent count, in memory and from files, and every input that is refused."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from thingstuff.coco_writing import write_coco_panoptic
from thingstuff.errors import InputError
from thingstuff.evaluation.counting import overlaps
from thingstuff.evaluation.evaluator import evaluate
from thingstuff.evaluation.pq import AveragePQ, ClassPQ, PQAccumulator, PQResult, absent_note
from thingstuff.evaluation.pq_files import score_files
from thingstuff.evaluation.result import Evaluation
from thingstuff.evaluation.segments import ClassSums, Match, TruthSegment, match_segments
from thingstuff.io import read_id_map, write_id_map
from thingstuff.panoptic import Categories, Panoptic, Segment

CATEGORIES = Categories(("cat", "car", "sky", "sea"), (True, True, False, False), (17, 3, 187, 155))
CAT, CAR, SKY, SEA = range(4)
Edit = Callable[[dict[str, Any]], object]


def scene(rows: list[str], labels: dict[str, int], crowds: str = "", categories: Categories = CATEGORIES) -> Panoptic:
    """Make a map of a drawing: a letter per segment, '.' for void."""
    letters = sorted(labels)
    ids = np.array([[0 if c == "." else letters.index(c) + 1 for c in row] for row in rows], np.int32)
    segments = [
        Segment(i, labels[c], int((ids == i).sum()), iscrowd=c in crowds) for i, c in enumerate(letters, start=1)
    ]
    return Panoptic(ids, tuple(segments), categories)


def counts(result: PQResult) -> dict[int, tuple[float, int, int, int]]:
    """Return (iou, tp, fp, fn) per label that occurs."""
    rows = [(c.iou, c.tp, c.fp, c.fn) for c in result.per_class]
    return {label: row for label, row in enumerate(rows) if any(row)}


# By hand


def test_a_perfect_prediction() -> None:
    truth = scene(["aabb", "cccc"], {"a": CAT, "b": CAT, "c": SKY})
    result = evaluate([truth], [truth])
    assert counts(result) == {CAT: (2.0, 2, 0, 0), SKY: (1.0, 1, 0, 0)}
    assert result.all == AveragePQ(1.0, 1.0, 1.0, 2)
    assert (result.things.classes, result.stuff.classes, result.pictures) == (1, 1, 1)


def test_an_iou_of_exactly_half_is_no_match() -> None:
    truth = scene(["aabbb"], {"a": CAT, "b": SKY})
    prediction = scene(["abbbb"], {"a": CAT, "b": SKY})
    result = evaluate([truth], [prediction])
    assert counts(result) == {CAT: (0.0, 0, 1, 1), SKY: (0.75, 1, 0, 0)}
    assert result.all == AveragePQ(0.375, 0.375, 0.5, 2)
    assert (result.per_class[CAT].pq, result.per_class[CAR].pq) == (0.0, None)


def test_sq_rq_and_pq_of_a_class() -> None:
    truth = scene(["aaaabbcc"], {"a": CAT, "b": CAT, "c": CAT})
    prediction = scene(["aaadbb.."], {"a": CAT, "b": CAT, "d": CAT})
    cat = evaluate([truth], [prediction]).per_class[CAT]
    assert (cat.iou, cat.tp, cat.fp, cat.fn) == (1.75, 2, 1, 1)
    assert (cat.pq, cat.sq, cat.rq) == (1.75 / 3, 0.875, 2 / 3)


def test_void_pixels_are_left_out_of_the_union() -> None:
    truth = scene(["aaa..."], {"a": CAT})
    prediction = scene([".aaaa."], {"a": CAT})
    # intersection 2, union 3 + 4 - 2 less 2 pixels in void
    assert counts(evaluate([truth], [prediction])) == {CAT: (2 / 3, 1, 0, 0)}


@pytest.mark.parametrize(("row", "false"), [("aa..", 1), ("aaa.", 1), (".aaa", 0), ("..aa", 0)])
def test_a_prediction_is_ignored_by_more_than_half_of_void(row: str, false: int) -> None:
    truth = scene(["bb.."], {"b": SKY})
    assert evaluate([truth], [scene([row], {"a": CAT})]).per_class[CAT].fp == false


def test_exactly_half_in_void_is_a_false_positive() -> None:
    truth = scene(["bb.."], {"b": SKY})
    assert counts(evaluate([truth], [scene([".aa."], {"a": CAT})])) == {CAT: (0.0, 0, 1, 0), SKY: (0.0, 0, 0, 1)}


def test_crowds_excuse_their_own_class_alone_and_are_never_found_or_missed() -> None:
    truth = scene(["aaaabb", "aaaabb"], {"a": CAT, "b": SKY}, crowds="a")
    own = scene(["aaa.bb", "cccdbb"], {"a": CAT, "b": SKY, "c": CAT, "d": CAT})
    assert counts(evaluate([truth], [own])) == {SKY: (1.0, 1, 0, 0)}
    other = scene(["aaaabb", "aaaabb"], {"a": CAR, "b": SKY})
    assert counts(evaluate([truth], [other])) == {CAR: (0.0, 0, 1, 0), SKY: (1.0, 1, 0, 0)}


def test_void_and_crowd_add_up() -> None:
    truth = scene(["aab..."], {"a": CAT, "b": SKY}, crowds="a")
    prediction = scene([".aaa.."], {"a": CAT})
    assert CAT not in counts(evaluate([truth], [prediction]))


def test_the_last_crowd_of_a_class_counts() -> None:
    truth = scene(["aaaabbbb"], {"a": CAT, "b": CAT}, crowds="ab")
    prediction = scene(["aaaabbbb"], {"a": CAT, "b": CAT})
    scores = PQAccumulator(CATEGORIES)
    scores.add(truth, prediction)
    assert counts(scores.result()) == {CAT: (0.0, 0, 1, 0)}
    assert (scores.per_picture[0].false, scores.per_picture[0].ignored) == ({1: 17}, {2: 17})


def test_pictures_of_void_alone_and_classes_that_never_occur() -> None:
    empty = scene(["...."], {})
    result = evaluate([empty, empty], [empty, empty])
    assert counts(result) == {}
    assert result.all == result.things == result.stuff == AveragePQ(None, None, None, 0)
    assert result.pictures == 2
    found = evaluate([empty], [scene(["aa.."], {"a": CAT})])
    assert counts(found) == {}, "what lies in void is ignored"


def test_no_stuff() -> None:
    categories = Categories(("cat",), (True,), (17,))
    truth = scene(["aa..", "bb.."], {"a": 0, "b": 0}, categories=categories)
    prediction = scene(["aa..", "...."], {"a": 0}, categories=categories)
    result = evaluate([truth], [prediction])
    assert result.stuff == AveragePQ(None, None, None, 0)
    assert result.all == result.things == AveragePQ(2 / 3, 1.0, 2 / 3, 1)


def test_what_became_of_each_segment() -> None:
    truth = scene(["aaabbb", "....cc"], {"a": CAT, "b": CAR, "c": SKY})
    prediction = scene(["aaabdd", "ccc.ee"], {"a": CAT, "b": CAR, "c": CAT, "d": SEA, "e": SKY})
    scores = PQAccumulator(CATEGORIES)
    scores.add(truth, prediction, image_id="street")
    matches = scores.per_picture["street"]
    assert matches.matched == (Match(1, 1, 17, 1.0), Match(3, 5, 187, 1.0))
    assert matches.missed == {2: 3}
    assert matches.false == {2: 3, 4: 155}
    assert matches.ignored == {3: 17}
    sums = {17: ClassSums(1.0, 1, 0, 0), 187: ClassSums(1.0, 1, 0, 0), 3: ClassSums(0.0, 0, 1, 1), 155: ClassSums(fp=1)}
    assert matches.sums() == sums


def test_ious_are_added_one_by_one() -> None:
    # 0.1 ten times is not 1.0 unless the sum is compensated, which panopticapi's is not
    classes = [ClassPQ(i, str(i), True, 0.1, 1, 0, 0) for i in range(10)]
    total = 0.0
    for _ in range(10):
        total += 0.1
    assert AveragePQ.of(classes).sq == total / 10 != math.fsum([0.1] * 10) / 10


def test_a_stated_area_that_leaves_no_union() -> None:
    shared = overlaps(np.array([[5, 5, 5]]), np.array([[1, 1, 1]]))
    matches = match_segments(shared, {5: TruthSegment(17, 0, False)}, {1: 17})
    assert matches.matched == (Match(5, 1, 17, math.inf),)


# Against a slow count


def random_scene(rng: np.random.Generator, crowds: bool) -> Panoptic:
    ids = np.zeros((24, 30), np.int32)
    values = rng.choice(np.arange(1, 2**24, 977), 14, replace=False)
    for value in values:
        y, x = rng.integers(0, 20, 2)
        ids[y : y + rng.integers(2, 14), x : x + rng.integers(2, 14)] = value
    ids[rng.random(ids.shape) < 0.08] = 0
    segments = [
        Segment(int(v), int(rng.integers(4)), int((ids == v).sum()), iscrowd=bool(crowds and rng.random() < 0.3))
        for v in rng.permutation(values)
        if (ids == v).any()
    ]
    return Panoptic(ids, tuple(segments), CATEGORIES)


def nearby(rng: np.random.Generator, truth: Panoptic) -> Panoptic:
    """Shift, relabel and repaint a ground truth into a prediction that matches in part."""
    ids = np.roll(truth.ids, tuple(rng.integers(-1, 2, 2)), (0, 1)).copy()
    ids[rng.random(ids.shape) < 0.1] = 0
    ids[ids != 0] = 2**24 - ids[ids != 0]
    ids[: rng.integers(1, 6), : rng.integers(1, 9)] = 4
    labels = {2**24 - s.id: s.label if rng.random() < 0.8 else int(rng.integers(4)) for s in truth.segments} | {4: CAT}
    present = [int(v) for v in np.unique(ids) if v]
    return Panoptic(ids, tuple(Segment(v, labels[v], int((ids == v).sum())) for v in present), CATEGORIES)


def pixels(panoptic: Panoptic, value: int) -> set[tuple[int, int]]:
    return {(y, x) for y, row in enumerate(panoptic.ids.tolist()) for x, v in enumerate(row) if v == value}


def slow_counts(pairs: list[tuple[Panoptic, Panoptic]]) -> dict[int, tuple[float, int, int, int]]:
    """PQ's sums after the paper, with sets of pixels and no shared code."""
    sums: dict[int, list[float]] = {label: [0.0, 0, 0, 0] for label in range(4)}
    for truth, prediction in pairs:
        void = pixels(truth, 0)
        truths = {s.id: pixels(truth, s.id) for s in truth.segments}
        found: dict[int, set[tuple[int, int]]] = {s.id: pixels(prediction, s.id) for s in prediction.segments}
        matched: set[int] = set()
        for t in sorted((s for s in truth.segments if not s.iscrowd), key=lambda s: s.id):
            hits = []
            for p in prediction.segments:
                inside = found[p.id] - void
                if p.label == t.label and 2 * len(truths[t.id] & inside) > len(truths[t.id] | inside):
                    hits.append((p.id, len(truths[t.id] & inside) / len(truths[t.id] | inside)))
            assert len(hits) <= 1
            for predicted_id, iou in hits:
                matched.add(predicted_id)
                sums[t.label][0] += iou
                sums[t.label][1] += 1
            sums[t.label][3] += not hits
        crowds = {s.label: truths[s.id] for s in truth.segments if s.iscrowd}
        for p in prediction.segments:
            excused = found[p.id] & (void | crowds.get(p.label, set()))
            sums[p.label][2] += p.id not in matched and 2 * len(excused) <= len(found[p.id])
    return {label: (row[0], int(row[1]), int(row[2]), int(row[3])) for label, row in sums.items() if any(row)}


@pytest.mark.parametrize("seed", range(12))
def test_equal_to_a_slow_count(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truths = [random_scene(rng, crowds=seed % 3 != 0) for _ in range(3)]
    predictions = [nearby(rng, truth) for truth in truths]
    expected = slow_counts(list(zip(truths, predictions, strict=True)))
    assert counts(evaluate(truths, predictions)) == expected
    assert sum(row[1] for row in expected.values()) > 3, "the scenes must match in part"


def test_overlaps_are_those_of_a_plain_loop() -> None:
    rng = np.random.default_rng(3)
    truth, prediction = rng.integers(0, 4, (13, 7)), rng.integers(0, 5, (13, 7)) * (2**24 - 1) // 4
    truth[0, :3], prediction[0, :3] = 0, 0
    plain: dict[tuple[int, int], int] = {}
    for pair in zip(truth.ravel().tolist(), prediction.ravel().tolist(), strict=True):
        plain[pair] = plain.get(pair, 0) + 1
    shared = overlaps(truth, prediction)
    assert shared == plain
    assert list(shared) == sorted(plain)


# In memory


def test_lists_that_cannot_be_compared_are_refused() -> None:
    truth = scene(["aab."], {"a": CAT, "b": SKY})
    with pytest.raises(InputError, match="1 maps of ground truth and 2 predictions"):
        evaluate([truth], [truth, truth])
    with pytest.raises(InputError, match="0 maps"):
        evaluate([], [])
    with pytest.raises(InputError, match="two lists of Panoptic without folders"):
        evaluate([truth], [truth], like_panopticapi=True)
    with pytest.raises(InputError, match="two JSON files, or two lists"):
        evaluate("gt.json", [truth])


def test_pictures_that_cannot_be_added_are_refused() -> None:
    truth = scene(["aab."], {"a": CAT, "b": SKY})
    other = Categories(("dog",), (True,), (17,))
    scores = PQAccumulator(CATEGORIES)
    wrong = [
        (truth, scene(["aab.."], {"a": CAT, "b": SKY}), r"image 7: .*\(1, 4\).*prediction \(1, 5\)"),
        (truth, scene(["aaaa"], {"a": 0}, categories=other), "image 7: prediction: has other categories"),
        (scene(["aaaa"], {"a": 0}, categories=other), truth, "image 7: ground truth: has other categories"),
        (truth, Panoptic(truth.ids, truth.segments[:1], CATEGORIES), "image 7: prediction: the ids in the map"),
        (
            Panoptic(truth.ids, (*truth.segments, Segment(9, CAT, 4)), CATEGORIES),
            truth,
            "image 7: ground truth: the ids",
        ),
        (truth, Panoptic(truth.ids, (*truth.segments, truth.segments[0]), CATEGORIES), "list each id"),
    ]
    for gt, pred, message in wrong:
        with pytest.raises(InputError, match=message):
            scores.add(gt, pred, image_id=7)
    assert scores.result().pictures == 0
    scores.add(truth, truth, image_id=7)
    with pytest.raises(InputError, match="image 7 was added before"):
        scores.add(truth, truth, image_id=7)


def test_colours_are_no_difference() -> None:
    truth = scene(["aa"], {"a": CAT})
    repainted = Categories(CATEGORIES.names, CATEGORIES.things, CATEGORIES.ids, ((1, 2, 3),) * 4)
    assert evaluate([truth], [scene(["aa"], {"a": CAT}, categories=repainted)]).all.pq == 1.0


# The result


def test_json_round_trip_is_exact() -> None:
    rng = np.random.default_rng(1)
    truths = [random_scene(rng, crowds=True) for _ in range(2)]
    whole = evaluate(truths, [nearby(rng, truth) for truth in truths])
    assert Evaluation.from_json(json.loads(json.dumps(whole.to_json()))) == whole
    result = whole.pq
    assert PQResult.from_json(json.loads(json.dumps(whole.to_json()))) == result
    assert PQResult.from_json(json.loads(json.dumps(result.to_json()))) == result
    lenient = PQResult.of(result.per_class, 2, {999: ClassSums(fn=3)})
    assert PQResult.from_json(json.loads(json.dumps(lenient.to_json()))) == lenient
    assert result.to_json()["things"]["pq"] == result.things.pq
    with pytest.raises(InputError, match="per_class"):
        PQResult.from_json({"pictures": 3})
    with pytest.raises(InputError, match="to_json"):
        PQResult.from_json({"per_class": [3]})


def test_the_table_speaks_in_percent() -> None:
    truth = scene(["aaab"], {"a": CAT, "b": SKY})
    prediction = scene(["aabb"], {"a": CAT, "b": SKY})
    result = evaluate([truth], [prediction])
    console = Console(width=80)

    def rows(per_class: bool) -> list[list[str]]:
        with console.capture() as capture:
            console.print(result.table(per_class=per_class))
        lines = [line for line in capture.get().splitlines() if "%" not in line and "│" in line]
        return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]

    brief = rows(per_class=False)
    assert brief == [
        ["All", "33.3", "33.3", "50.0", "2"],
        ["Things", "66.7", "66.7", "100.0", "1"],
        ["Stuff", "0.0", "0.0", "0.0", "1"],
    ]
    assert rows(per_class=True)[3:] == [
        ["cat", "66.7", "66.7", "100.0", "", "1", "0", "0"],
        ["sky", "0.0", "0.0", "0.0", "", "0", "1", "1"],
    ]
    assert rows(per_class=True)[:3] == [
        ["All", "33.3", "33.3", "50.0", "2", "1", "1", "1"],
        ["Things", "66.7", "66.7", "100.0", "1", "1", "0", "0"],
        ["Stuff", "0.0", "0.0", "0.0", "1", "0", "1", "1"],
    ]
    assert str(result.table(per_class=True).caption) == "2 classes do not occur: car, sea"
    assert absent_note(["sea"]) == "1 class does not occur: sea"
    assert absent_note([]) == ""


# Files


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Ground truth and prediction of three pictures: gt/panoptic.json with gt/panoptic/, pred the same."""
    rng = np.random.default_rng(5)
    truths = {f"p{i}": random_scene(rng, crowds=True) for i in range(3)}
    predictions = {f"p{i}": nearby(rng, truths[f"p{i}"]) for i in (2, 0, 1)}
    ids = {"p0": 40, "p1": "b", "p2": 2}
    gt = write_coco_panoptic(tmp_path / "gt", truths, image_ids=ids)
    return gt, write_coco_panoptic(tmp_path / "pred", predictions, image_ids=ids)


def pq_of_files(
    gt: Path, pred: Path, like_panopticapi: bool = False, pred_folder: Path | None = None, progress: Any = None
) -> PQResult:
    return score_files(gt, pred, None, pred_folder, like_panopticapi, progress).result()


def rewrite(path: Path, edit: Edit) -> None:
    data = json.loads(path.read_text())
    edit(data)
    path.write_text(json.dumps(data))


@pytest.mark.parametrize("like_panopticapi", [False, True])
def test_files_score_as_in_memory(files: tuple[Path, Path], like_panopticapi: bool) -> None:
    rng = np.random.default_rng(5)
    truths = [random_scene(rng, crowds=True) for _ in range(3)]
    shuffled = {i: nearby(rng, truths[i]) for i in (2, 0, 1)}
    told: list[tuple[int, int]] = []
    result = pq_of_files(*files, like_panopticapi=like_panopticapi, progress=lambda *done: told.append(done))
    in_memory = PQAccumulator(CATEGORIES)
    for i, truth in enumerate(truths):
        in_memory.add(truth, shuffled[i])
    assert result == in_memory.result()
    assert told == [(1, 3), (2, 3), (3, 3)]
    scores = score_files(*map(str, files), like_panopticapi=like_panopticapi)
    assert list(scores.per_picture) == [40, "b", 2]


def test_ground_truth_against_itself_is_perfect_without_crowds(files: tuple[Path, Path]) -> None:
    result = pq_of_files(files[1], files[1])
    assert result.all == AveragePQ(1.0, 1.0, 1.0, result.all.classes)
    assert result.all.classes > 1


def test_real_samples_against_themselves(shared_data: Path) -> None:
    path = shared_data / "coco_panoptic_samples" / "panoptic_val.json"
    result = pq_of_files(path, path)
    assert (result.all.pq, result.things.pq, result.stuff.pq, result.pictures) == (1.0, 1.0, 1.0, 3)


def test_folders_are_found_or_named(files: tuple[Path, Path], tmp_path: Path) -> None:
    expected = pq_of_files(*files)
    gt, pred = tmp_path / "gt" / "truth.json", tmp_path / "elsewhere.json"
    files[0].rename(gt)  # panoptic/ beside it
    files[1].rename(pred)
    with pytest.raises(InputError, match=r"elsewhere\.json are not in .*elsewhere nor .*panoptic; .*pred_folder"):
        pq_of_files(gt, pred)
    with pytest.raises(InputError, match=r"are not in .*none; .*pred_folder"):
        pq_of_files(gt, pred, pred_folder=tmp_path / "none")
    assert pq_of_files(gt, pred, pred_folder=tmp_path / "pred" / "panoptic") == expected
    (tmp_path / "pred" / "panoptic").rename(tmp_path / "elsewhere")  # named as the JSON
    assert pq_of_files(gt, pred) == expected
    with pytest.raises(InputError, match=r"none\.json is not there"):
        pq_of_files(tmp_path / "none.json", pred)


def infos(data: dict[str, Any], position: int = 0) -> list[dict[str, Any]]:
    return data["annotations"][position]["segments_info"]


WRONG_PREDICTION: list[tuple[Edit, str]] = [
    (lambda d: d["annotations"].pop(0), "image 2: has no prediction"),
    (
        lambda d: d["annotations"][0].update(image_id=99),
        r"image 99: annotations\[0\] .*that is not in .*gt.panoptic\.json",
    ),
    (
        lambda d: d["annotations"][1].update(image_id="40"),
        r"image 40: annotations\[1\] has the text '40', .*the number 40",
    ),
    (lambda d: d["annotations"].append(d["annotations"][0]), r"image 2: annotations\[3\] .*same .* annotations\[0\]"),
    (lambda d: infos(d)[0].update(category_id=1), "image 2: segment 4: category_id 1 is not in the ground truth's"),
    (lambda d: infos(d)[0].update(category_id="17"), "image 2: .*segment 4.*category_id '17' is text"),
    (lambda d: infos(d)[0].pop("category_id"), "image 2: .*segment 4.*'category_id' is missing"),
    (lambda d: infos(d)[0].update(id=0), "image 2: .*id 0 is not a whole number from 1"),
    (lambda d: infos(d).append(infos(d)[0]), r"image 2: segment 4: .*\[\d+\]: stands twice"),
    (lambda d: infos(d).pop(0), r"p2\.png: image 2: segment 4: holds id 4 on \d+ pixels, not in segments_info"),
    (lambda d: infos(d).append({"id": 8, "category_id": 17}), "image 2: segment 8: has no pixel in its map"),
    (lambda d: d["annotations"][0].update(file_name="none.png"), r"none\.png: image 2: is not there"),
    (lambda d: d["annotations"][0].pop("segments_info"), r"image 2: annotations\[0\]: 'segments_info' is missing"),
    (lambda d: d.pop("annotations"), "'annotations' is missing"),
]
# panopticapi fails on these as well
WRONG_EITHER_WAY = {
    "image 2: has no prediction": "image 2: predict it too",
    "image 2: segment 4: category_id 1 is not": "image 2: (.|\n)*segment 4: category_id 1 is not in",
    "image 2: .*segment 4.*category_id '17'": "segment 4: category_id '17' is not in",
    "image 2: .*segment 4.*'category_id' is missing": "'category_id'",
    "image 2: .*id 0 is not": "holds id 4(.|\n)*",
    r"p2\.png: image 2": "holds id 4, not in segments_info",
    "image 2: segment 8": "lists id 8, without a pixel",
    "none": r"none\.png is not there",
    r"image 2: annotations\[0\]: 'segments_info'": "'segments_info'",
    "'annotations' is missing": "'annotations' is missing",
    r"image 40: annotations\[1\]": "image 40: predict it too",
    "image 99": "image 2: predict it too",
}


@pytest.mark.parametrize(("edit", "message"), WRONG_PREDICTION, ids=[m[:50] for _, m in WRONG_PREDICTION])
def test_wrong_predictions_are_refused(files: tuple[Path, Path], edit: Edit, message: str) -> None:
    gt, pred = files
    rewrite(pred, edit)
    with pytest.raises(InputError, match=message) as error:
        pq_of_files(gt, pred)
    assert str(pred) in str(error.value)
    lenient = [text for start, text in WRONG_EITHER_WAY.items() if message.startswith(start)]
    if lenient:
        with pytest.raises(InputError, match=lenient[0]):
            pq_of_files(gt, pred, like_panopticapi=True)
    else:
        assert pq_of_files(gt, pred, like_panopticapi=True).pictures == 3


WRONG_TRUTH: list[tuple[Edit, str, int]] = [
    (
        lambda d: infos(d)[0].update(area=infos(d)[0]["area"] + 1),
        r"image 40: segment \d+: its area is \d+ in the JSON",
        3,
    ),
    (lambda d: infos(d).pop(0), r"p0\.png: image 40: .*holds id .*not in segments_info", 3),
    (lambda d: infos(d).append({**infos(d)[0], "id": 3}), "image 40: segment 3: has no pixel in its map", 3),
    (lambda d: infos(d)[0].update(category_id=999), "image 40: segment .*: category_id 999 is not in", 3),
    (lambda d: infos(d)[0].update(id=0), "image 40: .*id 0 is not a whole number", 3),
    (lambda d: infos(d).append(infos(d)[0]), "image 40: segment .*: stands twice", 3),
    (
        lambda d: d["annotations"].append(d["annotations"][0]),
        r"image 40: annotations\[3\] .*same .* annotations\[0\]",
        4,
    ),
    (lambda d: d["images"][0].update(width=31), r"p0\.png: image 40: is 30 wide and 24 high, but 31 wide .*images", 3),
    (lambda d: d["images"].pop(0), r"image 40: annotations\[0\] .*not in images", 3),
    (lambda d: d["annotations"].pop(0), r"image 40: images\[0\] has no annotation", 2),
    (lambda d: d["images"].append({**d["images"][0], "id": 1}), r"image 1: images\[3\] has no annotation", 3),
    (lambda d: d["categories"].append(d["categories"][0]), r"categories\[4\]: id 17 stands twice", 3),
]


@pytest.mark.parametrize(("edit", "message", "pictures"), WRONG_TRUTH, ids=[m[:50] for _, m, _ in WRONG_TRUTH])
def test_wrong_ground_truth_is_refused_but_scored_like_panopticapi(
    files: tuple[Path, Path], edit: Edit, message: str, pictures: int
) -> None:
    gt, pred = files
    rewrite(gt, edit)
    with pytest.raises(InputError, match=message) as error:
        pq_of_files(gt, pred)
    assert str(gt) in str(error.value)
    assert pq_of_files(gt, pred, like_panopticapi=True).pictures == pictures


@pytest.mark.parametrize("missing", ["area", "iscrowd", "id"])
def test_ground_truth_without_a_needed_field_is_refused_both_ways(files: tuple[Path, Path], missing: str) -> None:
    gt, pred = files
    rewrite(gt, lambda d: infos(d)[0].pop(missing))
    for like_panopticapi in (False, True):
        with pytest.raises(InputError, match=missing):
            pq_of_files(gt, pred, like_panopticapi=like_panopticapi)


def test_all_problems_come_in_one_error(files: tuple[Path, Path]) -> None:
    gt, pred = files
    rewrite(gt, lambda d: infos(d)[0].update(category_id=999))
    rewrite(pred, lambda d: d["annotations"][0].update(image_id=99))
    (pred.parent / "panoptic" / "p1.png").write_bytes(b"\x89PNG")
    with pytest.raises(InputError) as error:
        pq_of_files(gt, pred)
    text = str(error.value)
    assert "4 problems of 4 kinds" in text
    assert len([line for line in text.splitlines() if line.startswith("  - ")]) == 4
    for part in ("image 40: segment", "image 99: annotations[0] is for", "image 2: has no prediction", "image 'b': "):
        assert part in text


def test_maps_of_another_size_are_refused_both_ways(files: tuple[Path, Path]) -> None:
    gt, pred = files
    path = pred.parent / "panoptic" / "p0.png"
    write_id_map(path, read_id_map(path)[:, :-1])
    with pytest.raises(InputError, match=r"pred.*p0\.png: image 40: is 29 wide and 24 high, but 30 wide and 24 high"):
        pq_of_files(gt, pred)
    with pytest.raises(InputError, match=r"p0\.png is \(24, 29\)"):
        pq_of_files(gt, pred, like_panopticapi=True)


# What panopticapi does in silence


def test_like_panopticapi_categories_need_no_names_and_the_last_of_two_counts(files: tuple[Path, Path]) -> None:
    gt, pred = files
    expected = pq_of_files(gt, pred)

    def edit(data: dict[str, Any]) -> None:
        for entry in data["categories"]:
            del entry["name"]
        data["categories"].insert(0, {"id": 155, "isthing": 1})
        data["categories"].append({"id": 155, "isthing": 0})

    rewrite(gt, edit)
    result = pq_of_files(gt, pred, like_panopticapi=True)
    assert (result.things, result.stuff.classes) == (expected.things, expected.stuff.classes)
    assert {c.name for c in result.per_class} == {"17", "3", "187", "155"}


def test_like_panopticapi_two_categories_of_one_name_stay_apart(files: tuple[Path, Path]) -> None:
    rewrite(files[0], lambda d: [entry.update(name="same") for entry in d["categories"][:2]])
    names = [c.name for c in pq_of_files(*files, like_panopticapi=True).per_class]
    assert names == ["same (17)", "same (3)", "sky", "sea"]


def test_like_panopticapi_an_unlisted_category_is_in_no_average(files: tuple[Path, Path]) -> None:
    gt, pred = files
    rewrite(gt, lambda d: d["categories"].pop(0))
    rewrite(pred, lambda d: [info.update(category_id=3) for i in range(3) for info in infos(d, i)])
    result = pq_of_files(gt, pred, like_panopticapi=True)
    missed = [s for i in range(3) for s in infos(json.loads(gt.read_text()), i)]
    expected = sum(s["category_id"] == 17 and not s["iscrowd"] for s in missed)
    assert result.unlisted == {17: ClassSums(fn=expected)}
    assert [c.category_id for c in result.per_class] == [3, 187, 155]


def test_like_panopticapi_an_unknown_id_is_neither_void_nor_segment(tmp_path: Path) -> None:
    truth, prediction = scene(["aabb"], {"a": CAT, "b": SKY}), scene(["ccbb"], {"b": SKY, "c": CAR})
    gt = write_coco_panoptic(tmp_path / "gt", {"p": truth})
    pred = write_coco_panoptic(tmp_path / "pred", {"p": prediction})
    rewrite(gt, lambda d: infos(d).pop(0))
    result = pq_of_files(gt, pred, like_panopticapi=True)
    assert counts(result) == {CAR: (0.0, 0, 1, 0), SKY: (1.0, 1, 0, 0)}
