"""PQ against numbers recorded from panopticapi: every field of expected.json, to the bit, for any cases there."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conftest import golden_folder
from thingstuff.evaluation.pq import AveragePQ, ClassPQ, PQAccumulator, PQResult
from thingstuff.evaluation.pq_files import score_files
from thingstuff.evaluation.problems import EvaluationProblemsError
from thingstuff.evaluation.segments import ClassSums

FOLDER = golden_folder("pq")
GT, PRED = FOLDER / "gt.json", FOLDER / "pred.json"
# field of expected.json -> what compares it; made_by and note are words
FIELDS = {"made_by", "note", "sums", "per_image", "per_class", "All", "Things", "Stuff"}


def load(name: str) -> Any:
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    return load("expected.json")


@pytest.fixture(scope="module")
def scores() -> PQAccumulator:
    return score_files(GT, PRED, like_panopticapi=True)


@pytest.fixture(scope="module")
def result(scores: PQAccumulator) -> PQResult:
    return scores.result()


def compare_sums(ours: Mapping[int, ClassSums | ClassPQ], theirs: dict[str, dict[str, Any]], at: str) -> None:
    """Compare the sums of every class that occurs, with the bits of the IoU."""
    occurring = {str(i): s for i, s in ours.items() if s.tp or s.fp or s.fn}
    named = {i: s for i, s in theirs.items() if s["tp"] or s["fp"] or s["fn"]}
    assert occurring.keys() == named.keys(), at
    for category_id, wanted in theirs.items():
        assert wanted.keys() == {"iou", "iou_hex", "tp", "fp", "fn"}, f"{at} {category_id}: an unknown field"
        found = occurring.get(category_id, ClassSums())
        assert float(found.iou).hex() == wanted["iou_hex"], f"{at} {category_id}"
        assert found.iou == wanted["iou"], f"{at} {category_id}"
        assert (found.tp, found.fp, found.fn) == (wanted["tp"], wanted["fp"], wanted["fn"]), f"{at} {category_id}"


def test_every_field_is_known(expected: dict[str, Any]) -> None:
    assert expected.keys() == FIELDS
    assert isinstance(expected["made_by"], str)
    assert isinstance(expected["note"], str)
    files = {p.name for p in FOLDER.iterdir()} - {"README.md"}
    assert files == {"expected.json", "gt.json", "gt", "pred.json", "pred"}


def test_sums(expected: dict[str, Any], result: PQResult) -> None:
    ours = {c.category_id: c for c in result.per_class} | dict(result.unlisted)
    compare_sums(ours, expected["sums"], "sums")


def test_each_picture(expected: dict[str, Any], scores: PQAccumulator) -> None:
    assert {str(i) for i in scores.per_picture} == expected["per_image"].keys()
    for image_id, matches in scores.per_picture.items():
        wanted = expected["per_image"][str(image_id)]
        assert wanted.keys() <= {"note", "sums"}, f"image {image_id}: an unknown field"
        compare_sums(matches.sums(), wanted["sums"], f"image {image_id}")


def test_each_class(expected: dict[str, Any], result: PQResult) -> None:
    assert {str(c.category_id) for c in result.per_class} == expected["per_class"].keys()
    for c in result.per_class:
        wanted = expected["per_class"][str(c.category_id)]
        assert wanted.keys() == {"pq", "sq", "rq"}, f"class {c.category_id}: an unknown field"
        # panopticapi writes 0 where we say "n/a"
        assert {"pq": c.pq or 0.0, "sq": c.sq or 0.0, "rq": c.rq or 0.0} == wanted, c.name
        occurs = str(c.category_id) in expected["sums"] and any(expected["sums"][str(c.category_id)].values())
        assert (c.pq is None) == (not c.tp + c.fp + c.fn) == (not occurs), c.name


@pytest.mark.parametrize(("field", "attribute"), [("All", "all"), ("Things", "things"), ("Stuff", "stuff")])
def test_averages(expected: dict[str, Any], result: PQResult, field: str, attribute: str) -> None:
    mean: AveragePQ = getattr(result, attribute)
    assert {"pq": mean.pq, "sq": mean.sq, "rq": mean.rq, "n": mean.classes} == expected[field]


# Strict


def faulty_pictures(gt: dict[str, Any]) -> set[Any]:
    """Find by their properties the pictures whose ground truth a strict reader refuses."""
    categories = {entry["id"] for entry in gt["categories"]}
    faulty = set()
    for annotation in gt["annotations"]:
        rgb = np.asarray(Image.open(FOLDER / "gt" / annotation["file_name"])).astype(int)
        values, counts = np.unique(rgb[..., 0] + 256 * rgb[..., 1] + 65536 * rgb[..., 2], return_counts=True)
        in_map = {int(v): int(n) for v, n in zip(values, counts, strict=True) if v}
        in_json = {s["id"]: s["area"] for s in annotation["segments_info"]}
        unknown = any(s["category_id"] not in categories for s in annotation["segments_info"])
        doubled = len(in_json) != len(annotation["segments_info"])
        if in_map != in_json or unknown or doubled:
            faulty.add(annotation["image_id"])
    return faulty


def test_strict_mode_refuses_what_is_wrong_and_names_it(result: PQResult) -> None:
    gt, pred = load("gt.json"), load("pred.json")
    pictures = {image["id"] for image in gt["images"]}
    strangers = {annotation["image_id"] for annotation in pred["annotations"]} - pictures
    wrong = faulty_pictures(gt) | strangers
    if not wrong:
        assert score_files(GT, PRED).result() == result
        return
    with pytest.raises(EvaluationProblemsError) as error:
        score_files(GT, PRED)
    assert {problem.image_id for problem in error.value.problems} == wrong
    assert all(f"image {image_id!r}: " in str(error.value) for image_id in wrong)


def test_strict_mode_scores_the_rest_to_the_same_bits(tmp_path: Path, expected: dict[str, Any]) -> None:
    gt, pred = load("gt.json"), load("pred.json")
    good = {image["id"] for image in gt["images"]} - faulty_pictures(gt)
    if not good:
        pytest.skip("every picture recorded here has a fault")
    gt["images"] = [image for image in gt["images"] if image["id"] in good]
    for data, name in ((gt, "gt.json"), (pred, "pred.json")):
        data["annotations"] = [annotation for annotation in data["annotations"] if annotation["image_id"] in good]
        (tmp_path / name).write_text(json.dumps(data), encoding="utf-8")
    scores = score_files(tmp_path / "gt.json", tmp_path / "pred.json", FOLDER / "gt", FOLDER / "pred")
    assert scores.per_picture.keys() == good
    for image_id, matches in scores.per_picture.items():
        compare_sums(matches.sums(), expected["per_image"][str(image_id)]["sums"], f"image {image_id}")
