"""PQ against hotcoco, another implementation (in Rust, of panopticapi's rules), on random scenes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from thingstuff.coco_writing import write_coco_panoptic
from thingstuff.evaluation.evaluator import evaluate
from thingstuff.evaluation.miou import SemanticAccumulator
from thingstuff.evaluation.pairs import compare_maps
from thingstuff.evaluation.pq import AveragePQ, ClassPQ
from thingstuff.panoptic import Categories, Panoptic, Segment

hotcoco_panoptic = pytest.importorskip("hotcoco.panoptic", reason="hotcoco (PyPI) is not installed")

CATEGORIES = Categories(
    ("cat", "car", "dog", "sky", "sea", "sand", "yeti"), (True, True, True, False, False, False, True),
    (17, 3, 18, 187, 155, 154, 200),
)  # fmt: skip
YETI = 6  # never occurs
SIZES = [(48, 64), (37, 53), (1, 90), (70, 2)]


def painted(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Draw a map of rectangles with ids of up to three bytes, and leave holes and a band of void."""
    height, width = size
    ids = np.zeros(size, np.int32)
    for value in rng.choice(np.arange(1, 2**24, 977), 16, replace=False):
        y, x = rng.integers(0, height), rng.integers(0, width)
        ids[y : y + rng.integers(1, 2 + height // 2), x : x + rng.integers(1, 2 + width // 2)] = value
    ids[rng.random(size) < 0.05] = 0
    if rng.random() < 0.5:
        ids[:, : rng.integers(0, 1 + width // 3)] = 0
    return ids


def labelled(rng: np.random.Generator, ids: np.ndarray) -> Panoptic:
    """Give every id a class, and some their flag as a crowd, several of a class among them; in no order."""
    values, areas = np.unique(ids[ids > 0], return_counts=True)
    rows = zip(values.tolist(), areas.tolist(), strict=True)
    segments = [Segment(v, int(rng.integers(YETI)), n, iscrowd=bool(rng.random() < 0.25)) for v, n in rows]
    return Panoptic(ids, tuple(segments[i] for i in rng.permutation(len(segments))), CATEGORIES)


def predicted(rng: np.random.Generator, truth: Panoptic) -> Panoptic:
    """Shift, split, merge, relabel, erase and invent segments of a ground truth."""
    ids = np.roll(truth.ids, tuple(rng.integers(-1, 2, 2)), (0, 1)).copy()
    labels = {s.id: s.label for s in truth.segments}
    new = iter(rng.choice(np.setdiff1d(np.arange(1, 500), list(labels)), 40, replace=False).tolist())
    present = [s.id for s in truth.segments]
    for value in present:
        kind = rng.random()
        if kind < 0.15:
            part = ids == value
            part[:, : rng.integers(0, ids.shape[1])] = False
            labels[fresh := next(new)] = labels[value]
            ids[part] = fresh
        elif kind < 0.25:
            ids[ids == value] = rng.choice(present)
        elif kind < 0.35:
            labels[value] = int(rng.integers(YETI))
        elif kind < 0.4:
            ids[ids == value] = 0
    ids[(rng.random(ids.shape) < 0.5) & (ids == 0)] = fresh = next(new)
    labels[fresh] = int(rng.integers(YETI))
    values, areas = np.unique(ids[ids > 0], return_counts=True)
    segments = (Segment(int(v), labels[int(v)], int(n)) for v, n in zip(values, areas, strict=True))
    return Panoptic(ids, tuple(segments), CATEGORIES)


Pairs = tuple[list[Panoptic], list[Panoptic]]


def pairs(seed: int, pictures: int) -> Pairs:
    rng = np.random.default_rng(seed)
    truths = [labelled(rng, painted(rng, SIZES[rng.integers(len(SIZES))])) for _ in range(pictures)]
    return truths, [predicted(rng, truth) for truth in truths]


def written(folder: Path, maps: list[Panoptic]) -> Path:
    return write_coco_panoptic(folder, {f"p{i}": panoptic for i, panoptic in enumerate(maps)})


def theirs(gt: Path, pred: Path) -> Any:
    """Return hotcoco's evaluation of two files that `written` wrote."""
    folders = {"gt_folder": str(gt.parent / "panoptic"), "pred_folder": str(pred.parent / "panoptic")}
    evaluation = hotcoco_panoptic.PanopticEval(str(gt), str(pred), **folders)
    evaluation.evaluate()
    return evaluation


def counts(entry: Any) -> tuple[int, int, int]:
    return (entry["tp"], entry["fp"], entry["fn"]) if isinstance(entry, dict) else (entry.tp, entry.fp, entry.fn)


def close(ours: ClassPQ | AveragePQ, entry: dict[str, float]) -> None:
    """Compare PQ, SQ and RQ; what we call None is -1 there."""
    found = [-1.0 if value is None else value for value in (ours.pq, ours.sq, ours.rq)]
    assert found == pytest.approx([entry["pq"], entry["sq"], entry["rq"]], rel=1e-12, abs=0.0)


@pytest.mark.parametrize("seed", range(12))
def test_counts_sums_and_averages_are_hotcoco_s(seed: int, tmp_path: Path) -> None:
    truths, predictions = pairs(seed, pictures=5)
    gt, pred = written(tmp_path / "gt", truths), written(tmp_path / "pred", predictions)
    ours, found = evaluate(gt, pred), theirs(gt, pred).results()
    in_memory = evaluate(truths, predictions)
    assert (in_memory.per_class, in_memory.all) == (ours.per_class, ours.all)
    for row in ours.per_class:
        entry = found["per_class"][row.category_id]
        assert counts(row) == counts(entry)
        # it adds up each picture for itself and then the pictures: the last bits differ
        assert row.iou == pytest.approx(entry["iou"], rel=1e-12, abs=0.0)
        close(row, entry)
    for mean, name in ((ours.all, "All"), (ours.things, "Things"), (ours.stuff, "Stuff")):
        assert mean.classes == found[name]["n"]
        close(mean, found[name])
    assert sum(row.tp for row in ours.per_class) > 3, "the scenes must match in part"
    assert ours.per_class[YETI].pq is None


@pytest.mark.parametrize("seed", range(100, 108))
def test_sums_of_one_picture_are_hotcoco_s_to_the_bit(seed: int, tmp_path: Path) -> None:
    truths, predictions = pairs(seed, pictures=1)
    gt, pred = written(tmp_path / "gt", truths), written(tmp_path / "pred", predictions)
    found = theirs(gt, pred).results()["per_class"]
    for row in evaluate(gt, pred).per_class:
        entry = found[row.category_id]
        assert (row.iou, *counts(row)) == (entry["iou"], *counts(entry))


@pytest.mark.parametrize("seed", range(200, 205))
def test_stated_areas_that_are_wrong_count_as_stated(seed: int, tmp_path: Path) -> None:
    truths, predictions = pairs(seed, pictures=1)
    gt, pred = written(tmp_path / "gt", truths), written(tmp_path / "pred", predictions)
    data, rng = json.loads(gt.read_text()), np.random.default_rng(seed)
    for info in data["annotations"][0]["segments_info"]:
        info["area"] = max(1, int(info["area"] * rng.uniform(0.7, 1.4)))
    right = evaluate(gt, pred).per_class
    gt.write_text(json.dumps(data))
    ours = evaluate(gt, pred, like_panopticapi=True).per_class
    assert ours != right
    found = theirs(gt, pred).results()["per_class"]
    for row in ours:
        entry = found[row.category_id]
        assert (row.iou, *counts(row)) == (entry["iou"], *counts(entry))


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_of_two_crowds_of_a_class_hotcoco_too_lets_the_last_count(order: tuple[int, int], tmp_path: Path) -> None:
    ids = np.array([[1, 1, 1, 1, 2, 2, 2, 2]], np.int32)
    truth = Panoptic(ids, tuple(Segment(i, 0, 4, iscrowd=True) for i in order), CATEGORIES)
    prediction = Panoptic(np.where(ids == 1, np.int32(5), np.int32(0)), (Segment(5, 0, 4),), CATEGORIES)
    gt, pred = written(tmp_path / "gt", [truth]), written(tmp_path / "pred", [prediction])
    entry = theirs(gt, pred).results()["per_class"][17]
    assert counts(evaluate(gt, pred).per_class[0]) == counts(entry) == (0, int(order == (1, 2)), 0)


@pytest.mark.parametrize("seed", range(300, 305))
def test_semantic_measures_are_hotcoco_s(seed: int, tmp_path: Path) -> None:
    truths, predictions = pairs(seed, pictures=3)
    found = theirs(written(tmp_path / "gt", truths), written(tmp_path / "pred", predictions)).report()["metrics"]
    scores = SemanticAccumulator(CATEGORIES)
    for i, (truth, prediction) in enumerate(zip(truths, predictions, strict=True)):
        scores.add(compare_maps(truth, prediction, i, CATEGORIES))
    ours = scores.result()
    assert ours.pixel_accuracy == pytest.approx(found["aAcc"], rel=1e-12)
    assert ours.mean_accuracy == pytest.approx(found["mAcc"], rel=1e-12)
    assert ours.frequency_weighted_iou == pytest.approx(found["fwIoU"], rel=1e-12)
    # its mean counts a class that is predicted and never in the ground truth as 0, as mmsegmentation's does
    counted = sum(c.truth > 0 or c.predicted > 0 for c in ours.per_class)
    assert ours.miou is not None
    assert ours.miou * ours.classes / counted == pytest.approx(found["mIoU"], rel=1e-12)
