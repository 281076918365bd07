"""AP against one in plain loops, against pycocotools over a whole set, and by hand; results files and their faults."""

import json
from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
import torch
from jaxtyping import config as jaxtyping_config
from pycocotools import mask as run_lengths
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from rich.console import Console

from thingstuff.errors import InputError
from thingstuff.evaluation.average_precision import APResult, EncodedInstance, InstanceAccumulator
from thingstuff.evaluation.instance_files import instances_from_results
from thingstuff.instances import Instances
from thingstuff.models import create
from thingstuff.models.detr import DETROutput, DETRPanoptic
from thingstuff.panoptic import VOID, Categories, Panoptic, Segment

CATEGORIES = Categories(("sky", "disc", "ground", "box"), (False, True, False, True), (3, 7, 11, 12))
SKY, DISC, GROUND, BOX = range(4)
SIZE = (128, 160)
Mask = npt.NDArray[np.bool_]
ImageId = int | str


class Found(NamedTuple):
    label: int
    score: float
    mask: Mask


class Picture(NamedTuple):
    truth: Panoptic
    found: list[Found]

    def instances(self) -> Instances:
        ranked = sorted(self.found, key=lambda f: -f.score)
        masks = np.array([f.mask for f in ranked], dtype=bool).reshape(len(ranked), *self.truth.size)
        labels, scores = (
            np.array([f.label for f in ranked], dtype=int),
            np.array([f.score for f in ranked], dtype=float),
        )
        return Instances(masks, labels, scores, CATEGORIES)


def map_of(masks: Sequence[tuple[int, Mask]], crowds: Sequence[int] = ()) -> Panoptic:
    """A map of masks, later ones in front; `crowds` are positions."""
    ids = np.zeros(masks[0][1].shape if masks else SIZE, dtype=np.int32)
    for position, (_, mask) in enumerate(masks):
        ids[mask] = position + 1
    areas = np.bincount(ids.reshape(-1), minlength=len(masks) + 1)
    rows = enumerate(masks)
    segments = (Segment(i + 1, label, int(areas[i + 1]), iscrowd=i in crowds) for i, (label, _) in rows)
    return Panoptic(ids, tuple(s for s in segments if s.area), CATEGORIES)


def rectangle(top: int, left: int, height: int, width: int) -> Mask:
    mask = np.zeros(SIZE, dtype=bool)
    mask[max(top, 0) : max(top + height, 0), max(left, 0) : max(left + width, 0)] = True
    return mask


def random_picture(rng: np.random.Generator) -> Picture:
    """Rectangles of all sizes, some of them crowds; found ones are shifted, of another class, doubled or made up."""
    corners = [
        [int(v) for v in (*rng.integers(-8, 60, 2), *(rng.choice([12, 45, 110, 110], 2) + rng.integers(0, 9, 2)))]
        for _ in range(rng.integers(0, 7))
    ]
    masks = [(int(rng.choice([SKY, DISC, BOX, BOX])), rectangle(*corner)) for corner in corners]
    truth = map_of(masks, crowds=[i for i in range(len(masks)) if rng.random() < 0.2])
    found = []
    for segment in truth.segments:
        for _ in range(rng.integers(0, 3)):
            shift = rng.integers(-4, 5, 2) * rng.integers(0, 2)
            label = segment.label if segment.label != SKY and rng.random() < 0.8 else int(rng.choice([DISC, BOX]))
            mask = np.roll(truth.mask(segment), tuple(shift.tolist()), (0, 1))
            found.append(Found(label, round(float(rng.random()), 1), mask))
    found += [
        Found(BOX, round(float(rng.random()), 1), rectangle(*[int(v) for v in rng.integers(0, 90, 4)])) for _ in "ab"
    ]
    return Picture(truth, found)


def accumulated(pictures: dict[ImageId, Picture]) -> InstanceAccumulator:
    scores = InstanceAccumulator(CATEGORIES)
    for image_id, picture in pictures.items():
        scores.add_truth(image_id, picture.truth)
        scores.add(image_id, picture.instances())
    return scores


# ---- AP in plain loops (COCO's rules)


def ranked(picture: Picture, label: int, threshold: float, low: float, high: float) -> tuple[list[Any], int]:
    """What a picture's instances of a class are, (score, right), without those that do not count; and its truths."""
    things = [s for s in picture.truth.segments if s.label == label]
    counted = [s for s in things if not s.iscrowd and low <= s.area <= high]
    rest = [s for s in things if s not in counted]
    taken: set[int] = set()
    rows = []
    for found in sorted((f for f in picture.found if f.label == label), key=lambda f: -f.score):
        best, match = threshold, None
        for truth in [*counted, *rest]:
            if truth.id in taken or (match in counted and truth in rest):
                continue
            mask = picture.truth.mask(truth)
            union = found.mask.sum() if truth.iscrowd else (found.mask | mask).sum()
            iou = (found.mask & mask).sum() / max(union, 1)
            if iou >= best:
                best, match = iou, truth
        if match is not None and not match.iscrowd:
            taken.add(match.id)
        if match in counted or (match is None and low <= found.mask.sum() <= high):
            rows.append((found.score, match is not None))
    return rows, len(counted)


def plain_ap(pictures: Sequence[Picture], label: int, threshold: float, low: float, high: float) -> float | None:
    each = [ranked(picture, label, threshold, low, high) for picture in pictures]
    total = sum(count for _, count in each)
    if not total:
        return None
    rows = sorted((row for of_picture, _ in each for row in of_picture), key=lambda row: -row[0])
    points, right = [], 0
    for count, (_, correct) in enumerate(rows, 1):
        right += correct
        points.append((right / total, right / count))
    best = [max([p for r, p in points if r >= recall], default=0.0) for recall in np.linspace(0, 1, 101)]
    return sum(best) / 101


def plain(
    pictures: Sequence[Picture],
    thresholds: Sequence[float],
    low: float = 0,
    high: float = 1e10,
    only: int | None = None,
) -> float | None:
    labels = [DISC, BOX] if only is None else [only]
    values = [plain_ap(pictures, label, t, low, high) for label in labels for t in thresholds]
    occurring = [value for value in values if value is not None]
    return sum(occurring) / len(occurring) if occurring else None


THRESHOLDS = [(50 + 5 * i) / 100 for i in range(10)]


@pytest.mark.parametrize("seed", range(3))
def test_ap_is_that_of_plain_loops(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pictures: dict[ImageId, Picture] = {i: random_picture(rng) for i in range(8)}
    result, all_of = accumulated(pictures).result(), list(pictures.values())
    assert result.ap is not None
    assert 0.05 < result.ap < 0.95
    assert result.ap_large is not None
    assert result.ap == pytest.approx(plain(all_of, THRESHOLDS), abs=1e-9)
    assert result.ap50 == pytest.approx(plain(all_of, [0.5]), abs=1e-9)
    assert result.ap75 == pytest.approx(plain(all_of, [0.75]), abs=1e-9)
    assert result.ap_small == pytest.approx(plain(all_of, THRESHOLDS, 0, 32**2), abs=1e-9)
    assert result.ap_medium == pytest.approx(plain(all_of, THRESHOLDS, 32**2, 96**2), abs=1e-9)
    assert result.ap_large == pytest.approx(plain(all_of, THRESHOLDS, 96**2), abs=1e-9)
    for of_class, label in zip(result.per_class, (DISC, BOX), strict=True):
        assert (of_class.category_id, of_class.name) == (CATEGORIES.ids[label], CATEGORIES.names[label])
        assert of_class.ap == pytest.approx(plain(all_of, THRESHOLDS, only=label), abs=1e-9)
        things = [s for p in all_of for s in p.truth.segments if s.label == label and not s.iscrowd]
        assert of_class.truths == len(things)
        assert of_class.instances == sum(f.label == label for p in all_of for f in p.found)


def of_pycocotools(pictures: dict[ImageId, Picture]) -> list[float]:
    """Its summary over the whole set at once; the pictures' ids must be whole numbers."""

    def data_set(rows: list[tuple[int, int, Mask, dict[str, Any]]]) -> COCO:
        coco = COCO()
        images = [{"id": i, "height": p.truth.size[0], "width": p.truth.size[1]} for i, p in pictures.items()]
        entries = []
        for position, (image_id, label, mask, more) in enumerate(rows, 1):
            row = {"id": position, "image_id": image_id, "category_id": CATEGORIES.ids[label], "iscrowd": 0, **more}
            encoded = run_lengths.encode(np.asfortranarray(mask.astype(np.uint8)))
            entries.append({**row, "segmentation": encoded, "area": float(mask.sum())})
        coco.dataset = {"images": images, "annotations": entries, "categories": [{"id": i} for i in (7, 12)]}
        coco.createIndex()
        return coco

    truths, found = [], []
    for image_id, picture in pictures.items():
        assert isinstance(image_id, int)
        things = (s for s in picture.truth.segments if CATEGORIES.things[s.label])
        truths += [(image_id, s.label, picture.truth.mask(s), {"iscrowd": int(s.iscrowd)}) for s in things]
        found += [(image_id, f.label, f.mask, {"score": f.score}) for f in picture.found]
    with redirect_stdout(StringIO()):
        evaluator = COCOeval(data_set(truths), data_set(found), "segm")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return [float(value) for value in evaluator.stats[:6]]


def test_ap_is_that_of_pycocotools_to_the_bit_in_any_order_of_pictures() -> None:
    rng = np.random.default_rng(7)
    pictures: dict[ImageId, Picture] = {i: random_picture(rng) for i in (9, 4, 30, 2, 17, 8, 12, 11)}
    shuffled = dict(sorted(pictures.items(), key=lambda item: str(item[0])))
    result = accumulated(shuffled).result()
    ours = [result.ap, result.ap50, result.ap75, result.ap_small, result.ap_medium, result.ap_large]
    assert ours == of_pycocotools(pictures)


def test_a_class_is_ranked_by_its_best_hundred_of_a_picture() -> None:
    mask = rectangle(10, 10, 40, 40)
    truth = map_of([(BOX, mask), (DISC, rectangle(80, 10, 9, 9))])
    false = [Found(BOX, 0.5 + i / 1000, rectangle(60, 60, 20, 20)) for i in range(100)]
    late = [Found(BOX, 0.1, mask), Found(DISC, 0.05, rectangle(80, 10, 9, 9))]
    pictures: dict[ImageId, Picture] = {1: Picture(truth, [*late, *false])}
    result = accumulated(pictures).result()
    assert result.per_class[1].ap == 0.0
    assert result.per_class[1].instances == 100
    assert result.per_class[0].ap == pytest.approx(1.0)
    assert result.ap == of_pycocotools(pictures)[0]


# ---- by hand


def test_what_is_found_perfectly_has_ap_1() -> None:
    rng = np.random.default_rng(1)
    pictures: dict[ImageId, Picture] = {}
    for name in ("a", "b", "c", "d"):
        truth = random_picture(rng).truth
        things = [s for s in truth.segments if CATEGORIES.things[s.label] and not s.iscrowd]
        pictures[name] = Picture(truth, [Found(s.label, float(rng.random()), truth.mask(s)) for s in things])
    result = accumulated(pictures).result()
    assert result.ap == pytest.approx(1.0, abs=1e-12)
    assert [c.ap for c in result.per_class] == pytest.approx([1.0, 1.0], abs=1e-12)
    assert result.pictures == 4


@pytest.mark.parametrize(
    ("order", "expected"),
    [("rrf", 1.0), ("rfr", (51 + 50 * 2 / 3) / 101), ("frr", 2 / 3), ("rff", 51 / 101), ("fff", 0.0)],
)
def test_false_instances_cost_what_stands_below_them(order: str, expected: float) -> None:
    right = [rectangle(0, 0, 30, 30), rectangle(60, 60, 30, 30)]
    pictures: dict[ImageId, Picture] = {}
    for name, mask in zip(("one", "two"), right, strict=True):
        pictures[name] = Picture(map_of([(BOX, mask)]), [])
    waiting = list(zip(pictures.values(), right, strict=True))
    for position, kind in enumerate(order):
        score = 0.9 - position / 10
        if kind == "r":
            picture, mask = waiting.pop(0)
            picture.found.append(Found(BOX, score, mask))
        else:
            pictures["two"].found.append(Found(BOX, score, rectangle(0, 100, 20, 20)))
    result = accumulated(pictures).result()
    assert result.ap == pytest.approx(expected, abs=1e-12)
    assert result.ap == result.per_class[1].ap == result.ap_small
    assert (result.ap_medium, result.ap_large, result.per_class[0].ap) == (None, None, None)


def test_crowds_excuse_what_lies_in_them() -> None:
    crowd, thing = rectangle(0, 0, 60, 60), rectangle(80, 80, 30, 30)
    truth = map_of([(BOX, crowd), (BOX, thing)], crowds=[0])
    found = [
        Found(BOX, 0.9, rectangle(5, 5, 20, 20)),
        Found(BOX, 0.8, rectangle(30, 5, 20, 20)),
        Found(BOX, 0.7, thing),
    ]
    assert accumulated({1: Picture(truth, found)}).result().ap == pytest.approx(1.0)
    plain_truth = map_of([(BOX, crowd), (BOX, thing)])
    result = accumulated({1: Picture(plain_truth, found)}).result()
    assert result.ap == pytest.approx(51 / 101 / 3)


# ---- nothing there


def test_without_truths_instances_or_thing_classes_there_is_a_clean_answer(capsys: pytest.CaptureFixture[str]) -> None:
    nothing = Picture(map_of([(SKY, rectangle(0, 0, 50, 50))]), [])
    for pictures in ({}, {1: nothing}, {1: Picture(nothing.truth, [Found(BOX, 0.5, rectangle(0, 0, 9, 9))])}):
        result = accumulated(pictures).result()
        assert result.ap is result.ap50 is result.ap_large is None
        assert [c.ap for c in result.per_class] == [None, None]
        assert result.pictures == len(pictures)
        assert APResult.from_json(json.loads(json.dumps(result.to_json()))) == result
    found_nothing = accumulated({1: Picture(map_of([(BOX, rectangle(0, 0, 50, 50))]), [])}).result()
    assert (found_nothing.ap, found_nothing.ap_medium, found_nothing.ap_small) == (0.0, 0.0, None)
    stuff = Categories(("sky",), (False,), (1,))
    scores = InstanceAccumulator(stuff)
    scores.add_truth(1, Panoptic(np.ones((4, 4), np.int32), (Segment(1, 0, 16),), stuff))
    assert scores.result().per_class == ()
    assert scores.result().ap is None
    assert capsys.readouterr().out == ""


def test_a_picture_without_instances_counts_as_one_where_nothing_was_found() -> None:
    box = rectangle(0, 0, 50, 50)
    scores = accumulated({1: Picture(map_of([(BOX, box)]), [Found(BOX, 0.5, box)])})
    assert scores.result().ap == pytest.approx(1.0)
    scores.add_truth(2, map_of([(BOX, box)]))
    assert scores.result().ap == pytest.approx(51 / 101)
    assert scores.result().pictures == 2


def test_a_thing_without_a_pixel_is_no_truth() -> None:
    scores = InstanceAccumulator(CATEGORIES)
    scores.add_truth(1, Panoptic(np.zeros((4, 4), np.int32), (Segment(5, BOX, 0),), CATEGORIES))
    assert scores.result().per_class[1].truths == 0


# ---- what is refused


def test_what_cannot_be_ranked_is_refused() -> None:
    truth = map_of([(BOX, rectangle(0, 0, 9, 9))])
    good = Picture(truth, [Found(BOX, 0.5, rectangle(0, 0, 9, 9))]).instances()
    scores = accumulated({"a": Picture(truth, [])})
    with pytest.raises(InputError, match="image a: its ground truth was added before"):
        scores.add_truth("a", truth)
    with pytest.raises(InputError, match="image a: its instances were added before"):
        scores.add("a", good)
    other = Categories(CATEGORIES.names, CATEGORIES.things, (3, 7, 12, 11))
    with pytest.raises(InputError, match="image b: instances: has other categories"):
        scores.add("b", Instances(good.masks, good.labels, good.scores, other))
    with pytest.raises(InputError, match="image b: ground truth: has other categories"):
        scores.add_truth("b", Panoptic(truth.ids, truth.segments, other))
    for label in (SKY, VOID, 4):
        with pytest.raises(InputError, match=f"image b: label {label} is no thing"):
            scores.add("b", Instances(good.masks, np.array([label]), good.scores, CATEGORIES))
    with pytest.raises(InputError, match="image b: category_id 3 is no thing"):
        scores.add_encoded("b", [EncodedInstance(3, 0.5, run_lengths.encode(np.zeros((4, 4), np.uint8, order="F")))])
    with pytest.raises(InputError, match="image b: the score nan is no finite number"):
        scores.add("b", Instances(good.masks, good.labels, np.array([np.nan]), CATEGORIES))
    scores.add_truth("c", truth)
    with pytest.raises(InputError, match=r"image c: masks of \(100, 128\) and of \(128, 160\)"):
        scores.add("c", Instances(good.masks[:, :100, :128], good.labels, good.scores, CATEGORIES))
    scores.add("stranger", good)
    with pytest.raises(InputError, match="image stranger: has instances but no ground truth"):
        scores.result()


def test_instances_need_a_mask_a_label_and_a_score_each() -> None:
    jaxtyping_config.update("jaxtyping_disable", True)  # as users run it: the tests' own checks would answer first
    try:
        with pytest.raises(InputError, match="1 masks, 2 labels and 1 scores"):
            Instances(rectangle(0, 0, 9, 9)[None], np.array([1, 3]), np.array([0.5]), CATEGORIES)
    finally:
        jaxtyping_config.update("jaxtyping_disable", False)


def test_a_result_goes_round_by_json_and_prints_as_a_table() -> None:
    rng = np.random.default_rng(3)
    result = accumulated({i: random_picture(rng) for i in range(4)}).result()
    assert APResult.from_json(json.loads(json.dumps(result.to_json()))) == result
    for wrong in ({}, {**result.to_json(), "per_class": [{"ap": 1}]}, {**result.to_json(), "more": 1}):
        with pytest.raises(InputError, match="no AP result"):
            APResult.from_json(wrong)
    console = Console(width=100, file=StringIO(), record=True)
    console.print(result.table())
    console.print(result.table(per_class=True))
    short, long = console.export_text().split("APl")[1:]
    assert f"{100 * (result.ap or 0):.1f}" in short
    assert "disc" not in short
    assert "disc" in long
    assert str(result.per_class[1].truths) in long


# ---- results files


def written(path: Path, entries: Any) -> Path:
    path.write_text(json.dumps(entries), encoding="utf-8")
    return path


def plain_lengths(mask: Mask) -> list[int]:
    lengths, last = [0], False
    for value in mask.T.reshape(-1).tolist():
        if value != last:
            lengths.append(0)
            last = value
        lengths[-1] += 1
    return lengths


@pytest.mark.parametrize("kind", ["compressed", "list"])
def test_a_results_file_gives_what_the_instances_give(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(5)
    pictures: dict[ImageId, Picture] = {name: random_picture(rng) for name in ("x.jpg", "y.jpg", 3)}
    entries, scores = [], InstanceAccumulator(CATEGORIES)
    for image_id, picture in pictures.items():
        scores.add_truth(image_id, picture.truth)
        for f in picture.found:
            counts: Any = plain_lengths(f.mask)
            if kind == "compressed":
                counts = run_lengths.encode(np.asfortranarray(f.mask.astype(np.uint8)))["counts"].decode()
            mask = {"size": list(SIZE), "counts": counts}
            row = {"image_id": image_id, "category_id": CATEGORIES.ids[f.label], "segmentation": mask}
            entries.append({**row, "score": f.score, "bbox": [0, 0, 1, 1]})
    path = written(tmp_path / "results.json", entries)
    assert scores.sizes == dict.fromkeys(pictures, SIZE)
    found = instances_from_results(path, CATEGORIES, scores.sizes)
    for image_id, instances in found.items():
        scores.add_encoded(image_id, instances)
    assert scores.result() == accumulated(pictures).result()


def test_polygons_are_masks_too(tmp_path: Path) -> None:
    parts = [[10, 20, 50, 20, 50, 40, 10, 40], [60, 60.0, 80, 60, 80, 90, 60, 90]]
    entry = {"image_id": 1, "category_id": 12, "segmentation": parts, "score": 1}
    (instance,) = instances_from_results(written(tmp_path / "r.json", [entry]), CATEGORIES, {1: SIZE})[1]
    expected = rectangle(20, 10, 20, 40) | rectangle(60, 60, 30, 20)
    assert (run_lengths.decode(instance.mask).astype(bool) == expected).all()
    assert (instance.category_id, instance.score) == (12, 1.0)


def test_an_empty_results_file_found_nothing(tmp_path: Path) -> None:
    assert instances_from_results(written(tmp_path / "r.json", []), CATEGORIES, {1: SIZE}) == {}


def encoded(mask: Mask) -> dict[str, Any]:
    return {"size": list(mask.shape), "counts": run_lengths.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]}


GOOD = {**encoded(rectangle(3, 4, 50, 60)), "counts": encoded(rectangle(3, 4, 50, 60))["counts"].decode()}
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"image_id": 2}, "image_id 2 is not in the ground truth"),
    ({"image_id": "1"}, "image_id '1' is not in the ground truth"),
    ({"image_id": None}, "image_id None is not a whole number or text"),
    ({"category_id": 5}, "category_id 5 is not in the ground truth's categories"),
    ({"category_id": "12"}, "category_id '12' is not a whole number"),
    ({"category_id": 3}, r"category_id 3 \('sky'\) is stuff"),
    ({"score": float("nan")}, "score nan is not a finite number"),
    ({"score": 10**400}, "score 1000.* is not a finite number"),
    ({"score": True}, "score True is not a finite number"),
    ({"score": "0.5"}, "score '0.5' is not a finite number"),
    ({"segmentation": None}, "segmentation None is not a run-length encoding or a list of polygons"),
    (
        {"segmentation": {**GOOD, "size": [160, 128]}},
        r"segmentation.size \[160, 128\] is not the picture's \[128, 160\]",
    ),
    ({"segmentation": {"counts": GOOD["counts"]}}, "segmentation.size None is not"),
    ({"segmentation": {"size": list(SIZE)}}, "segmentation.counts is neither"),
    ({"segmentation": {**GOOD, "counts": [20480.0]}}, "segmentation.counts is neither"),
    ({"segmentation": {**GOOD, "counts": [-1, 20481]}}, "segmentation.counts is neither"),
    ({"segmentation": {**GOOD, "counts": [100, 100]}}, "segmentation.counts are no run lengths of 128 x 160"),
    ({"segmentation": {**GOOD, "counts": ""}}, "segmentation.counts are no run lengths"),
    ({"segmentation": {**GOOD, "counts": GOOD["counts"][:-1]}}, "segmentation.counts are no run lengths"),
    ({"segmentation": {**GOOD, "counts": GOOD["counts"] + "P"}}, "segmentation.counts are no run lengths"),
    ({"segmentation": {**GOOD, "counts": "ooooooooo0"}}, "segmentation.counts are no run lengths"),
    ({"segmentation": {**GOOD, "counts": "é"}}, "segmentation.counts are no run lengths"),
    ({"segmentation": {**GOOD, "counts": "\ud800"}}, "segmentation.counts are no run lengths"),
    ({"segmentation": {**GOOD, "counts": "O1Ph0"}}, "segmentation.counts are no run lengths"),
    ({"segmentation": []}, "segmentation is an empty list"),
    ({"segmentation": [[1, 2, 3, 4]]}, "a polygon is not"),
    ({"segmentation": [[1, 2, 3, 4, 5, 6, 7]]}, "a polygon is not"),
    ({"segmentation": [[1, 2, 3, 4, 5, float("inf")]]}, "a polygon is not"),
    ({"segmentation": [1, 2, 3, 4, 5, 6]}, "a polygon is not"),
    ({"segmentation": [[0, 0, 1e12, 0, 5, 5]]}, "a polygon lies far outside"),
]


@pytest.mark.parametrize(("change", "message"), WRONG, ids=[message[:40] for _, message in WRONG])
def test_a_wrong_entry_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    good = {"image_id": 1, "category_id": 12, "segmentation": GOOD, "score": 0.5}
    path = written(tmp_path / "results.json", [good, {**good, **change}, good])
    with pytest.raises(InputError, match=rf"results.json: entry 1: .*{message}.*[a-z]$") as raised:
        instances_from_results(path, CATEGORIES, {1: SIZE})
    assert "entry 0" not in str(raised.value)
    problems: list[str] = []
    found = instances_from_results(path, CATEGORIES, {1: SIZE}, problems)
    assert len(found[1]) == 2
    assert len(problems) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"annotations": []}, "is no COCO results JSON"),
        ([5], "entry 0: 5 is no object"),
        ([{}], "entry 0: 'image_id' is missing"),
    ],
)
def test_a_file_that_holds_something_else_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        instances_from_results(written(tmp_path / "r.json", content), CATEGORIES, {1: SIZE})


def test_damaged_run_lengths_never_reach_pycocotools(tmp_path: Path) -> None:
    """It reads what it is given without a look; whatever passes here decodes to what plain run lengths say."""
    rng = np.random.default_rng(0)
    passed = 0
    good = {"image_id": 1, "category_id": 12, "score": 0.5}
    texts = []
    for _ in range(300):
        text = list(run_lengths.encode(np.asfortranarray(rng.random((9, 7)) < 0.3).view(np.uint8))["counts"].decode())
        for _ in range(rng.integers(0, 3)):
            text[int(rng.integers(len(text)))] = chr(rng.integers(40, 120))
        texts.append("".join(text))
    entries = [{**good, "segmentation": {"size": [9, 7], "counts": text}} for text in texts]
    problems: list[str] = []
    found = instances_from_results(written(tmp_path / "r.json", entries), CATEGORIES, {1: (9, 7)}, problems)
    for instance in found[1]:
        mask = run_lengths.decode(instance.mask).astype(bool)
        assert mask.shape == (9, 7)
        assert run_lengths.area(instance.mask) == mask.sum()
        passed += 1
    assert 80 < passed < 250
    assert passed + len(problems) == 300


@pytest.mark.parametrize("length", [3, 5, 6, 7, 8, 12, 13, 20])
def test_run_lengths_in_more_characters_than_they_need(tmp_path: Path, length: int) -> None:
    """Of seven and more, pycocotools shifts the bits out of its 32: it would read other lengths, and hang on them."""
    needed = "hm2`n1Pm3hPO"  # 3000, 2000, 4000, and 1000 fewer than 2000
    counts = needed[:-1] + "o" * (length - 3) + "O"
    entry = {"image_id": 1, "category_id": 12, "score": 1, "segmentation": {"size": [100, 100], "counts": counts}}
    path = written(tmp_path / "r.json", [entry])
    if length > 6:
        with pytest.raises(InputError, match=r"segmentation\.counts are no run lengths of 100 x 100"):
            instances_from_results(path, CATEGORIES, {1: (100, 100)})
        return
    (instance,) = instances_from_results(path, CATEGORIES, {1: (100, 100)})[1]
    assert instance.mask == {"size": [100, 100], "counts": needed.encode()}
    assert plain_lengths(run_lengths.decode(instance.mask).astype(bool)) == [3000, 2000, 4000, 1000]


# ---- from a model


def test_detr_ranks_every_query_whose_best_class_is_a_thing() -> None:
    torch.manual_seed(0)
    model = create("detr-panoptic-tiny", CATEGORIES, **{"threshold": 0.99, "as_released": True}).eval()
    assert isinstance(model, DETRPanoptic)
    rng = np.random.default_rng(0)
    images = model.pad([rng.integers(0, 255, (64, w, 3), dtype=np.uint8) for w in (64, 96)], [(80, 80), (64, 96)])
    with torch.no_grad():
        output = model.look(images)
        assert isinstance(output, DETROutput)
        segments = model.segments(output, images)
        candidates = model.instance_candidates(output, images, segments)
    assert [len(s) for s in segments] == [0, 0]
    scores, best = output.logits[-1].softmax(-1)[..., :-1].max(-1)
    for b, picture in enumerate(candidates):
        queries = [q for q in scores[b].argsort(descending=True).tolist() if CATEGORIES.things[int(best[b, q])]]
        assert queries
        assert picture.labels.tolist() == best[b, queries].tolist()
        assert picture.scores.tolist() == scores[b, queries].tolist()
        assert picture.frame == images.frame(b)
        instances = model.instances(picture)
        with torch.no_grad():
            whole = images.frame(b).restore(model.masks(output, b, torch.tensor(queries)))
        assert (instances.masks == (whole > 0).numpy()).all()
