"""Files with faults: each is found, told with its place, refused strictly and scored leniently as its kind says."""

import json
import os
import random
import re
import signal
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from thingstuff.errors import InputError
from thingstuff.evaluation.file_pairs import PairPaths
from thingstuff.evaluation.json_stream import read_elements
from thingstuff.evaluation.picture_index import PictureIndex
from thingstuff.evaluation.pq_files import score_files, scored_pairs
from thingstuff.evaluation.problems import KINDS, EvaluationProblemsError, Problem, Problems, shown
from thingstuff.evaluation.segments import ScoredPicture
from thingstuff.evaluation.threads import in_order, thread_count
from thingstuff.io import write_id_map

CAT, CAR, SKY, SEA = 17, 3, 187, 155
CATEGORIES = [
    {"id": CAT, "name": "cat", "isthing": 1},
    {"id": CAR, "name": "car", "isthing": 1},
    {"id": SKY, "name": "sky", "isthing": 0},
    {"id": SEA, "name": "sea", "isthing": 0},
]
# a letter per segment: a cat 1, b car 2, c sky 3; the prediction has the ids 11, 12, 13
TRUTH = ["aabbcc", "aabbcc"]
PREDICTED = ["aaabcc", "aaabcc"]
LETTERS = {"a": (1, CAT), "b": (2, CAR), "c": (3, SKY)}
IMAGES = (7, 8, "nine")


class Case:
    """Ground truth and prediction of three equal pictures: two JSONs to change, and their folders of maps."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.gt: dict[str, Any] = {
            "images": [{"id": i, "file_name": f"{i}.jpg", "height": 2, "width": 6} for i in IMAGES],
            "annotations": [self._annotation(i, TRUTH, 0) for i in IMAGES],
            "categories": json.loads(json.dumps(CATEGORIES)),
        }
        self.pred: dict[str, Any] = {"annotations": [self._annotation(i, PREDICTED, 10) for i in reversed(IMAGES)]}
        for annotation in self.pred["annotations"]:
            for info in annotation["segments_info"]:
                del info["area"], info["iscrowd"]
        for side in ("gt", "pred"):
            (folder / side).mkdir()
        for image_id in IMAGES:
            self.draw("gt", image_id, TRUTH, 0)
            self.draw("pred", image_id, PREDICTED, 10)

    def _annotation(self, image_id: int | str, rows: list[str], first: int) -> dict[str, Any]:
        segments = [
            {"id": first + i, "category_id": category_id, "area": "".join(rows).count(letter), "iscrowd": 0}
            for letter, (i, category_id) in LETTERS.items()
        ]
        return {"image_id": image_id, "file_name": f"{image_id}.png", "segments_info": segments}

    def map(self, side: str, image_id: int | str) -> Path:
        return self.folder / side / f"{image_id}.png"

    def draw(self, side: str, image_id: int | str, rows: list[str], first: int) -> None:
        ids = [[0 if c == "." else first + LETTERS[c][0] for c in row] for row in rows]
        write_id_map(self.map(side, image_id), np.array(ids, np.int32))

    def truth(self, image_id: int | str) -> dict[str, Any]:
        return next(a for a in self.gt["annotations"] if a["image_id"] == image_id)

    def prediction(self, image_id: int | str) -> dict[str, Any]:
        return next(a for a in self.pred["annotations"] if a["image_id"] == image_id)

    def save(self) -> tuple[Path, Path]:
        paths = self.folder / "gt.json", self.folder / "pred.json"
        for path, data in zip(paths, (self.gt, self.pred), strict=True):
            path.write_text(json.dumps(data))
        return paths

    def strict(self) -> Problems:
        """Return what a strict evaluation finds; every fault stands in its text too."""
        with pytest.raises(EvaluationProblemsError) as error:
            score_files(*self.save(), threads=1)
        assert str(self.folder / "pred.json") in str(error.value)
        assert "cannot be scored against" in str(error.value)
        for problem in error.value.problems:
            assert str(problem) in str(error.value)
        return error.value.problems

    def lenient(self) -> tuple[dict[int | str, ScoredPicture], Problems]:
        with closing(scored_pairs(*self.save(), lenient=True, threads=1)) as pairs:
            pictures = {picture.image_id: picture for picture in pairs}
            return pictures, pairs.problems


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


Sums = dict[int, tuple[float, int, int, int]]
# cat: 4 of 6 pixels shared; car: 2 of 4, no match; sky: equal
GOOD: Sums = {CAT: (4 / 6, 1, 0, 0), CAR: (0.0, 0, 1, 1), SKY: (1.0, 1, 0, 0)}


def sums(picture: ScoredPicture) -> Sums:
    return {i: (s.iou, s.tp, s.fp, s.fn) for i, s in picture.matches.sums().items()}


def test_the_files_without_a_fault(case: Case) -> None:
    pictures, problems = case.lenient()
    assert len(problems) == 0
    assert {i: sums(p) for i, p in pictures.items()} == dict.fromkeys(IMAGES, GOOD)
    assert list(score_files(*case.save()).per_picture) == list(IMAGES)


class Expected(NamedTuple):
    """A fault, where it is told, and what a lenient evaluation makes of picture 7 (None: it is left out)."""

    name: str
    edit: Callable[[Case], object]
    kind: str
    file: str
    image_id: int | str | None
    segment_id: int | None
    message: str
    scored: Sums | None


def first_truth(**fields: Any) -> Callable[[Case], object]:
    return lambda c: c.truth(7)["segments_info"][0].update(fields)


def first_predicted(**fields: Any) -> Callable[[Case], object]:
    return lambda c: c.prediction(7)["segments_info"][0].update(fields)


def image(**fields: Any) -> Callable[[Case], object]:
    return lambda c: c.gt["images"][0].update(fields)


def category(**fields: Any) -> Callable[[Case], object]:
    return lambda c: c.gt["categories"][0].update(fields)


def without(which: Callable[[Case], dict[str, Any]], field: str) -> Callable[[Case], object]:
    return lambda c: which(c).pop(field)


def truth_segment(c: Case) -> dict[str, Any]:
    return c.truth(7)["segments_info"][0]


def named_in_the_prediction_alone(c: Case) -> None:
    c.gt["categories"][0].pop("name")
    c.pred.update(categories=[{"id": CAT, "name": "dog", "isthing": 1}])


def as_bgr(side: str) -> Callable[[Case], object]:
    def write(c: Case) -> None:
        path = c.map(side, 7)
        Image.fromarray(np.asarray(Image.open(path))[..., ::-1].copy()).save(path)

    return write


def png(side: str, mode: str) -> Callable[[Case], object]:
    """Write picture 7's map in another way to keep pixels."""

    def write(c: Case) -> None:
        path = c.map(side, 7)
        if mode == "jpeg":
            Image.new("RGB", (6, 2)).save(path, format="JPEG")
        elif mode == "cut":
            path.write_bytes(path.read_bytes()[:-30])
        elif mode == "missing":
            path.unlink()
        elif mode == "empty":
            path.write_bytes(b"")
        else:
            Image.new(mode, (6, 2)).save(path, format="PNG")

    return write


def resized(side: str, shape: tuple[int, int]) -> Callable[[Case], object]:
    return lambda c: write_id_map(c.map(side, 7), np.zeros(shape, np.int32))


# what is left where a segment's pixels are void, on the one side and on the other
NO_TRUE_CAT: Sums = {CAR: (0.0, 0, 1, 1), SKY: (1.0, 1, 0, 0)}  # 4 of the cat's 6 predicted pixels lie in void
NO_FOUND_CAT: Sums = {CAT: (0.0, 0, 0, 1), CAR: (0.0, 0, 1, 1), SKY: (1.0, 1, 0, 0)}
TWICE = {"id": 1, "category_id": CAR, "area": 4, "iscrowd": 0}
G, P, G7, P7 = "gt.json", "pred.json", "gt/7.png", "pred/7.png"

CASES = [
    # the files as a whole
    Expected("no images", lambda c: c.gt.update(images=[]), "empty list", G, None, None, "list of images is", GOOD),
    Expected("category no object", lambda c: c.gt["categories"].append(3), "faulty category", G, None, None,
             r"categories\[4\]: 3 is no object", GOOD),
    Expected("category id missing", lambda c: c.gt["categories"].append({"name": "x", "isthing": 1}),
             "faulty category", G, None, None, r"categories\[4\]: 'id' is missing", GOOD),
    Expected("category id text", lambda c: c.gt["categories"].append({"id": "4", "name": "x", "isthing": 1}),
             "faulty category", G, None, None, r"categories\[4\]: id '4' is not a whole number", GOOD),
    Expected("isthing missing", without(lambda c: c.gt["categories"][0], "isthing"), "faulty category", G, None, None,
             r"categories\[0\]: 'isthing' is missing", {CAR: (0.0, 0, 1, 1), SKY: (1.0, 1, 0, 0)}),
    Expected("isthing wrong", category(isthing=2), "faulty category", G, None, None,
             r"categories\[0\]: isthing 2 is not 0 or 1", {CAR: (0.0, 0, 1, 1), SKY: (1.0, 1, 0, 0)}),
    Expected("name missing", without(lambda c: c.gt["categories"][0], "name"), "category name", G, None, None,
             "category 17: 'name' is missing", GOOD),
    Expected("name twice", category(name="car"), "category name", G, None, None, "name 'car' stands twice", GOOD),
    Expected("category twice", lambda c: c.gt["categories"].append({"id": CAT, "name": "x", "isthing": 0}),
             "duplicate category", G, None, None, r"categories\[4\]: id 17 stands twice", GOOD),
    Expected("other name", lambda c: c.pred.update(categories=[{"id": CAT, "name": "dog", "isthing": 1}]),
             "categories differ", P, None, None, "category 17 is 'dog' with isthing 1 here, 'cat' with", GOOD),
    Expected("other kind", lambda c: c.pred.update(categories=[{"id": SKY, "name": "sky", "isthing": 1}]),
             "categories differ", P, None, None, "'sky' with isthing 1 here, 'sky' with isthing 0", GOOD),
    Expected("no name, other one named", named_in_the_prediction_alone, "category name", G, None, None,
             "category 17: 'name' is missing", GOOD),
    Expected("image no object", lambda c: c.gt["images"].append("x"), "faulty picture entry", G, None, None,
             r"images\[3\]: 'x' is no object", GOOD),
    Expected("image id list", lambda c: c.gt["images"].append({"id": [7]}), "faulty picture entry", G, None, None,
             r"images\[3\]: id \[7\] is not a whole number or text", GOOD),
    Expected("height missing", without(lambda c: c.gt["images"][0], "height"), "faulty picture entry", G, 7, None,
             r"images\[0\]: 'height' is missing", GOOD),
    Expected("width text", image(width="6"), "faulty picture entry", G, 7, None, "width '6' is not", GOOD),
    Expected("width huge", image(width=10**30), "faulty picture entry", G, 7, None, "width 10+ is not", GOOD),
    Expected("file name of a picture", image(file_name=3), "faulty picture entry", G, 7, None, "file_name 3", GOOD),
    Expected("image twice", lambda c: c.gt["images"].append({**c.gt["images"][0], "height": 3}), "duplicate picture",
             G, 7, None, r"images\[3\] is of the same picture as images\[0\]", GOOD),
    Expected("annotation no object", lambda c: c.gt["annotations"].append(None), "faulty annotation", G, None, None,
             r"annotations\[3\]: None is no object", GOOD),
    Expected("image_id missing", lambda c: c.pred["annotations"].append({"file_name": "x.png"}), "faulty annotation",
             P, None, None, r"annotations\[3\]: 'image_id' is missing", GOOD),
    Expected("image_id float", lambda c: c.pred["annotations"].append({"image_id": 7.5}), "faulty annotation",
             P, None, None, r"annotations\[3\]: image_id 7.5 is not a whole number or text", GOOD),
    Expected("file_name missing", without(lambda c: c.truth(7), "file_name"), "faulty annotation", G, 7, None,
             r"annotations\[0\]: 'file_name' is missing", None),
    Expected("file_name number", lambda c: c.prediction(7).update(file_name=7), "faulty annotation", P, 7, None,
             r"annotations\[2\]: file_name 7 is not a text", None),
    Expected("segments_info missing", without(lambda c: c.prediction(7), "segments_info"), "faulty annotation",
             P, 7, None, "'segments_info' is missing", None),
    Expected("segments_info object", lambda c: c.truth(7).update(segments_info={}), "faulty annotation", G, 7, None,
             r"segments_info \{\} is not a list", None),
    Expected("annotation twice", lambda c: c.gt["annotations"].append({**c.truth(7), "segments_info": []}),
             "duplicate annotation", G, 7, None, r"annotations\[3\] is of the same picture as annotations\[0\]", GOOD),
    Expected("prediction twice", lambda c: c.pred["annotations"].append({**c.prediction(7), "segments_info": []}),
             "duplicate prediction", P, 7, None, r"annotations\[3\] is of the same picture as annotations\[2\]", GOOD),
    Expected("text for a number", lambda c: c.prediction(7).update(image_id="007"), "text and number", P, 7, None,
             r"annotations\[2\] has the text '007', the annotation in gt.json the number 7", GOOD),
    Expected("text among images", image(id="7"), "text and number", G, 7, None,
             r"images\[0\] has the text '7', the annotation in gt.json the number 7", GOOD),
    Expected("no annotation", lambda c: c.gt["annotations"].pop(0), "picture without annotation", G, 7, None,
             r"images\[0\] has no annotation", None),
    Expected("not in images", lambda c: c.gt["images"].pop(0), "annotation without picture", G, 7, None,
             r"annotations\[0\] is of a picture that is not in images", GOOD),
    Expected("unknown picture", lambda c: c.pred["annotations"].append({"image_id": 70}), "unknown picture",
             P, 70, None, r"annotations\[3\] is for a picture that is not in .*gt\.json", GOOD),
    # a picture
    Expected("not predicted", lambda c: c.pred["annotations"].pop(), "missing prediction", P, 7, None,
             "has no prediction", None),
    Expected("parent folder", lambda c: c.truth(7).update(file_name="../gt/7.png"), "outside the folder", G, 7, None,
             r"annotations\[0\]: file_name '../gt/7.png'", None),
    Expected("absolute", lambda c: c.prediction(7).update(file_name=str(c.map("pred", 7))), "outside the folder",
             P, 7, None, r"annotations\[2\]: file_name '/", None),
    Expected("drive", lambda c: c.prediction(7).update(file_name="C:\\7.png"), "outside the folder", P, 7, None,
             "file_name 'C:", None),
    Expected("missing map", png("pred", "missing"), "missing map", P7, 7, None, "is not there", None),
    Expected("truth's map missing", png("gt", "missing"), "missing map", G7, 7, None, "is not there", None),
    Expected("no such name", lambda c: c.truth(7).update(file_name="a\0b.png"), "missing map", "gt/a\\x00b.png", 7,
             None, "cannot be read", None),
    Expected("too long a name", lambda c: c.truth(7).update(file_name="x" * 5000), "missing map", "gt/" + "x" * 5000, 7,
             None, "cannot be read", None),
    Expected("folder as map", lambda c: c.truth(7).update(file_name="."), "missing map", "gt", 7, None,
             "cannot be read", None),
    Expected("grey", png("pred", "L"), "unreadable map", P7, 7, None, "8-bit grey", None),
    Expected("palette", png("pred", "P"), "unreadable map", P7, 7, None, "bit palette", None),
    Expected("16-bit", png("gt", "I;16"), "unreadable map", G7, 7, None, "16-bit grey", None),
    Expected("JPEG", png("gt", "jpeg"), "unreadable map", G7, 7, None, "no PNG", None),
    Expected("cut off", png("pred", "cut"), "unreadable map", P7, 7, None, "cannot be read", None),
    Expected("empty file", png("gt", "empty"), "unreadable map", G7, 7, None, "no PNG, or cut off", None),
    Expected("BGR", as_bgr("pred"), "unreadable map", P7, 7, None, "red and blue swapped: is it written as BGR?", None),
    Expected("truth as BGR", as_bgr("gt"), "unreadable map", G7, 7, None, "is it written as BGR?", None),
    Expected("smaller", resized("pred", (2, 5)), "wrong size", P7, 7, None,
             "is 5 wide and 2 high, but 6 wide and 2 high in the ground truth's map", None),
    Expected("transposed", resized("pred", (6, 2)), "wrong size", P7, 7, None,
             r"is 2 wide and 6 high \(height and width are swapped\), but 6 wide and 2 high", None),
    Expected("1 x 12", resized("pred", (1, 12)), "wrong size", P7, 7, None, "is 12 wide and 1 high, but", None),
    Expected("size in images", image(width=7), "wrong size", G7, 7, None,
             "is 6 wide and 2 high, but 7 wide and 2 high by the ground truth's images", None),
    # a segment
    Expected("no object", lambda c: c.truth(7)["segments_info"].append(5), "faulty segment", G, 7, None,
             r"segments_info\[3\]: 5 is no object", GOOD),
    Expected("no id", lambda c: c.truth(7)["segments_info"].append({"category_id": CAT}), "faulty segment", G, 7, None,
             r"segments_info\[3\]: 'id' is missing", GOOD),
    Expected("id 0", lambda c: c.prediction(7)["segments_info"].append({"id": 0, "category_id": CAT}),
             "faulty segment", P, 7, 0, r"segments_info\[3\]: id 0 is not .* from 1 to 16777215 \(0 is void\)", GOOD),
    Expected("id -1", lambda c: c.truth(7)["segments_info"].append({"id": -1, "category_id": CAT}),
             "faulty segment", G, 7, -1, "id -1 is not", GOOD),
    Expected("id too large", lambda c: c.truth(7)["segments_info"].append({"id": 2**24, "category_id": CAT}),
             "faulty segment", G, 7, 2**24, "id 16777216 is not", GOOD),
    Expected("id null", lambda c: c.truth(7)["segments_info"].append({"id": None, "category_id": CAT}),
             "faulty segment", G, 7, None, "id None is not", GOOD),
    Expected("segment twice", lambda c: c.truth(7)["segments_info"].append(TWICE), "duplicate segment", G, 7, 1,
             r"segments_info\[3\]: stands twice", GOOD),
    Expected("predicted twice", lambda c: c.prediction(7)["segments_info"].append({"id": 11, "category_id": CAR}),
             "duplicate segment", P, 7, 11, r"segments_info\[3\]: stands twice", GOOD),
    Expected("id text", first_truth(id="1"), "number written otherwise", G, 7, None, "id '1' is text", GOOD),
    Expected("id float", first_truth(id=1.0), "number written otherwise", G, 7, None, "id is written as 1.0", GOOD),
    Expected("category_id float", first_predicted(category_id=17.0), "number written otherwise", P, 7, 11,
             "category_id is written as 17.0", GOOD),
    Expected("iscrowd float", first_truth(iscrowd=0.0), "number written otherwise", G, 7, 1, "written as 0.0", GOOD),
    Expected("category_id half", first_truth(category_id=17.5), "faulty category_id", G, 7, 1, "17.5 is not a whole",
             NO_TRUE_CAT),
    Expected("category_id infinite", first_truth(category_id=float("inf")), "faulty category_id", G, 7, 1, "inf is not",
             NO_TRUE_CAT),
    Expected("category_id text", first_predicted(category_id="17"), "number written otherwise", P, 7, 11,
             "category_id '17' is text", GOOD),
    Expected("iscrowd text", first_truth(iscrowd="1"), "number written otherwise", G, 7, 1, "iscrowd '1' is text",
             {CAR: (0.0, 0, 1, 1), SKY: (1.0, 1, 0, 0)}),
    Expected("no category_id", without(truth_segment, "category_id"), "faulty category_id", G, 7, 1,
             "'category_id' is missing", NO_TRUE_CAT),
    Expected("category_id by name", first_predicted(category_id="cat"), "faulty category_id", P, 7, 11,
             "category_id 'cat' is not a whole number", NO_FOUND_CAT),
    Expected("category_id true", first_truth(category_id=True), "faulty category_id", G, 7, 1, "True is", NO_TRUE_CAT),
    Expected("unknown category", first_truth(category_id=99), "unknown category", G, 7, 1,
             "category_id 99 is not in the ground truth's categories", NO_TRUE_CAT),
    Expected("unknown predicted", first_predicted(category_id=99), "unknown category", P, 7, 11,
             "category_id 99 is not in the ground truth's categories", NO_FOUND_CAT),
    Expected("no iscrowd", without(truth_segment, "iscrowd"), "faulty iscrowd", G, 7, 1, "'iscrowd' is missing", GOOD),
    Expected("iscrowd 2", first_truth(iscrowd=2), "faulty iscrowd", G, 7, 1, "iscrowd 2 is not 0 or 1", GOOD),
    Expected("no area", without(truth_segment, "area"), "wrong area", G, 7, 1, "'area' is missing", GOOD),
    Expected("area 0", first_truth(area=0), "wrong area", G, 7, 1, "its area is 0 in the JSON, 4 in the map", GOOD),
    Expected("area wrong", first_truth(area=5), "wrong area", G, 7, 1, "is 5 in the JSON, 4 in the map", GOOD),
    Expected("area nan", first_truth(area=float("nan")), "wrong area", G, 7, 1, "area nan is not a number of", GOOD),
    Expected("area true", first_truth(area=True), "wrong area", G, 7, 1, "area True is not a number of", GOOD),
    Expected("area predicted", first_predicted(area=5), "wrong area", P, 7, 11, "is 5 in the JSON, 6 in the map", GOOD),
    Expected("unlisted", lambda c: c.truth(7)["segments_info"].pop(0), "unlisted id", G7, 7, 1,
             "holds id 1 on 4 pixels, not in segments_info", NO_TRUE_CAT),
    Expected("unlisted prediction", lambda c: c.prediction(7)["segments_info"].pop(0), "unlisted id", P7, 7, 11,
             "holds id 11 on 6 pixels, not in segments_info", NO_FOUND_CAT),
    Expected("no pixel", lambda c: c.truth(7)["segments_info"].append({**TWICE, "id": 5}), "segment without pixels",
             G, 7, 5, "has no pixel in its map", GOOD),
    Expected("no pixel predicted", lambda c: c.prediction(7)["segments_info"].append({"id": 5, "category_id": CAR}),
             "segment without pixels", P, 7, 5, "has no pixel in its map", GOOD),
]  # fmt: skip


@pytest.mark.parametrize("expected", CASES, ids=[c.name for c in CASES])
def test_a_fault_is_told_with_its_place_refused_and_scored_leniently(case: Case, expected: Expected) -> None:
    expected.edit(case)
    (problem,) = found = case.strict()
    assert (problem.kind, problem.image_id, problem.segment_id) == (
        expected.kind, expected.image_id, expected.segment_id,
    )  # fmt: skip
    assert problem.file == f"{case.folder}{os.sep}{expected.file.replace('/', os.sep)}"
    assert_matches(expected.message, problem.message)
    pictures, problems = case.lenient()
    assert [*problems] == [*found]
    others: dict[int | str, Sums] = {8: pictures_of(expected), "nine": pictures_of(expected)}
    scored = {i: sums(p) for i, p in pictures.items()}
    assert scored == (others if expected.scored is None else {7: expected.scored, **others})


def pictures_of(expected: Expected) -> Sums:
    # a class that is left out is left out of all pictures
    return expected.scored or GOOD if expected.kind == "faulty category" else GOOD


def assert_matches(pattern: str, text: str) -> None:
    assert re.search(pattern, text), text


# Many faults, and what is none


def test_twenty_faults_are_told_in_one_pass_in_a_fixed_order(case: Case) -> None:
    edits = [
        case.gt["categories"].append({"id": 4, "name": "x"}),
        case.gt["images"].append({"id": 9, "file_name": "9.jpg", "height": 2, "width": 6}),
        case.gt["images"].append({"id": 7}),
        case.gt["annotations"].append({"image_id": {}}),
        case.gt["annotations"].append(case.truth(8)),
        case.pred["annotations"].append([]),
        case.pred["annotations"].append({"image_id": 100}),
        case.prediction("nine").update(file_name="../x.png"),
        case.truth(7)["segments_info"][0].update(category_id="17", iscrowd=-1, area="4"),
        case.truth(7)["segments_info"][1].update(category_id=5),
        case.truth(7)["segments_info"].append({"id": 0}),
        case.truth(7)["segments_info"].append({"id": 3}),
        case.prediction(7)["segments_info"].append({"id": 99, "category_id": CAT}),
        case.prediction(7)["segments_info"].append({}),
        case.prediction(7)["segments_info"].pop(0),
        case.map("gt", 8).unlink(),
        resized("pred", (2, 2))(case),
        case.pred.update(categories=[{"id": CAT, "name": "dog"}]),
    ]
    assert len(edits) == 18
    case.prediction(8)["segments_info"][0].pop("category_id")
    expected = [
        (G, 'images[4]: \'height\''), (G, 'images[4]: \'width\''), (G, 'images[4]: \'file_name\''),
        (G, "annotations[3]: image_id"), (G, "categories[4]"), (G, "images[4] is of the same"),
        (G, "annotations[4] is of the same"), (G, "images[3] has no annotation"), (P, "annotations[3]: []"),
        (P, "category 17 is 'dog'"), (P, "annotations[4] is for"),
        (P7, "is 2 wide"), (G, "category_id '17' is text"), (G, "iscrowd -1"), (G, "area '4'"), (G, "category_id 5"),
        (G, "segments_info[3]: id 0"), (G, "segments_info[4]: stands twice"), (P, "segments_info[3]: 'id' is missing"),
        ("gt/8.png", "is not there"), (P, "'category_id' is missing"), (P, "annotations[0]: file_name"),
    ]  # fmt: skip
    found = case.strict()
    told = [(str(Path(p.file).relative_to(case.folder).as_posix()), p.message) for p in found]
    assert [(file, True) for file, _ in expected] == [
        (file, message.startswith(start)) for (file, message), (_, start) in zip(told, expected, strict=True)
    ]
    with pytest.raises(EvaluationProblemsError, match="22 problems of 18 kinds, nothing is left to score") as error:
        case.lenient()
    assert [*error.value.problems] == [*found]


def test_a_map_of_the_wrong_size_hides_no_fault_of_the_other_side(case: Case) -> None:
    resized("pred", (6, 2))(case)
    first_truth(area=3)(case)
    first_predicted(category_id=None)(case)
    assert [p.kind for p in case.strict()] == ["wrong size", "wrong area", "faulty category_id"]


def test_a_fault_of_the_ground_truth_is_found_where_nothing_is_predicted(case: Case) -> None:
    case.pred["annotations"].pop()
    case.truth(7)["segments_info"].pop()
    assert [(p.kind, p.segment_id) for p in case.strict()] == [("missing prediction", None), ("unlisted id", 3)]


def test_very_many_unlisted_ids_are_one_problem(case: Case) -> None:
    write_id_map(case.map("pred", 7), np.arange(100, 112, dtype=np.int32).reshape(2, 6))
    case.prediction(7)["segments_info"] = []
    (problem,) = case.strict()
    assert problem.message.startswith("holds 12 ids that are not in segments_info: 100, 101, ")
    assert (problem.kind, problem.segment_id) == ("unlisted id", None)
    assert sums(case.lenient()[0][7]) == {CAT: (0.0, 0, 0, 1), CAR: (0.0, 0, 0, 1), SKY: (0.0, 0, 0, 1)}


@pytest.mark.parametrize(("listed", "told"), [([], "none"), ([5, 6], "2")])
def test_a_photograph_is_no_map(case: Case, listed: list[int], told: str) -> None:
    ids = np.random.default_rng(0).permutation(2**15).astype(np.int32)[:19_200].reshape(120, 160) * 97 + 1
    ids[0, :2] = 5, 6
    write_id_map(case.map("pred", 7), ids)
    write_id_map(case.map("gt", 7), np.repeat([1, 2, 3], 6400).astype(np.int32).reshape(120, 160))
    image(height=120, width=160)(case)
    for info in case.truth(7)["segments_info"]:
        info["area"] = 6400
    case.prediction(7)["segments_info"] = [{"id": i, "category_id": CAT} for i in listed]
    (problem,) = case.strict()
    count = f"{np.unique(ids).size:,}"
    assert problem.kind == "unreadable map"
    assert problem.message.startswith(f"holds {count} ids, {told} of them listed: is it a picture, or")
    assert case.lenient()[0].keys() == {8, "nine"}


def test_very_many_segments_are_no_photograph(case: Case) -> None:
    ids = np.arange(1, 12_001, dtype=np.int32).reshape(100, 120)
    write_id_map(case.map("pred", 7), ids)
    write_id_map(case.map("gt", 7), ids)
    image(height=100, width=120)(case)
    for annotation in (case.truth(7), case.prediction(7)):
        annotation["segments_info"] = [{"id": i, "category_id": CAT, "area": 1, "iscrowd": 0} for i in range(1, 12_001)]
    assert score_files(*case.save(), threads=1).per_picture[7].matched[0].iou == 1.0


def test_a_swapped_map_hides_no_other_fault_and_few_ids_may_be_the_same_both_ways(case: Case) -> None:
    as_bgr("pred")(case)
    case.prediction(7)["segments_info"][0].update(category_id=99)
    first_truth(area=3)(case)
    assert [p.kind for p in case.strict()] == ["wrong area", "unreadable map", "unknown category"]
    grey = {11: 0x010101, 12: 0x000200, 13: 0x020002}
    write_id_map(case.map("pred", 7), np.array([[*grey.values()] * 2] * 2, np.int32))
    case.prediction(7)["segments_info"] = [{"id": 0x010101, "category_id": CAT}]
    assert [p.kind for p in case.strict()] == ["wrong area", "unlisted id", "unlisted id"]


def test_true_is_no_area_of_one_pixel(case: Case) -> None:
    case.draw("gt", 7, ["abbbcc", "bbbbcc"], 0)
    case.truth(7)["segments_info"][0].update(area=True)
    case.truth(7)["segments_info"][1].update(area=7)
    assert [str(p.message) for p in case.strict()] == ["area True is not a number of pixels; correct it"]


def test_nothing_is_handed_out_after_a_fault_unless_leniently(case: Case) -> None:
    case.truth(8)["segments_info"].pop()
    handed_out: list[int | str] = []
    with closing(scored_pairs(*case.save())) as pairs, pytest.raises(EvaluationProblemsError):
        handed_out.extend(picture.image_id for picture in pairs)
    assert handed_out == [7]


def test_a_name_that_stands_in_is_no_other_class_s(case: Case) -> None:
    case.gt["categories"][0].update(name="")
    case.gt["categories"][1].update(name="17")
    case.gt["categories"][2].update(name="17")
    assert [p.message for p in case.strict()] == [
        "category 17: name '' is not a text; correct it", "category 187: name '17' stands twice",
    ]  # fmt: skip
    with closing(scored_pairs(*case.save(), lenient=True)) as pairs:
        assert pairs.categories.names == ("17'", "17", "17 (187)", "sea")


def test_pixels_of_a_faulty_segment_are_void_in_what_is_shared_too(case: Case) -> None:
    first_truth(category_id=99)(case)
    first_predicted(category_id=99)(case)
    picture = case.lenient()[0][7]
    assert picture.shared == {(0, 0): 4, (2, 0): 2, (2, 12): 2, (3, 13): 4}
    assert list(picture.shared) == sorted(picture.shared)
    assert picture.truths.keys() == {2, 3}
    assert picture.predictions == {12: CAR, 13: SKY}


def test_names_that_we_made_up_differ_from_none_but_kinds_do(case: Case) -> None:
    case.gt["categories"][1].update(name="cat")
    case.pred.update(categories=[{"id": CAT, "name": "cat", "isthing": 1}, {"id": CAR, "name": "cat", "isthing": 0}])
    assert [p.message for p in case.strict()] == [
        "category 3: name 'cat' stands twice",
        "category 3 is 'cat (3)' with isthing 0 here, 'cat (3)' with isthing 1 in the ground truth",
    ]


@pytest.mark.parametrize(
    "edit", [first_predicted(category_id=99), lambda c: c.prediction(7)["segments_info"].pop(0)], ids=["class", "id"]
)
def test_a_fault_of_the_prediction_alone_is_void_in_what_is_shared(case: Case, edit: Callable[[Case], object]) -> None:
    edit(case)
    pictures, problems = case.lenient()
    assert pictures[7].shared == {(1, 0): 4, (2, 0): 2, (2, 12): 2, (3, 13): 4}
    assert pictures[7].areas[1] == {0: 6, 12: 2, 13: 4}
    assert problems.grave == 1
    # two cats of IoU 4/6 and one missed, no car matched, every sky: (8/6 / 2.5 + 0 + 1) / 3
    pq = score_files(*case.save(), lenient=True, threads=1).result().all.pq
    assert pq == pytest.approx((8 / 6 / 2.5 + 0 + 1) / 3, abs=1e-12)


def test_the_mended_boundary_matches_are_those_of_mended_files(case: Case) -> None:
    first_predicted(category_id=99)(case)
    with closing(scored_pairs(*case.save(), lenient=True, boundary=True)) as pairs:
        lenient = [picture.boundary for picture in pairs]
    case.prediction(7)["segments_info"].pop(0)
    case.draw("pred", 7, ["...bcc", "...bcc"], 10)
    with closing(scored_pairs(*case.save(), boundary=True)) as pairs:
        assert [picture.boundary for picture in pairs] == lenient
    assert lenient[0] is not None
    assert lenient[0].missed == {1: CAT, 2: CAR}


@pytest.mark.parametrize("isthing", [0, 1])
def test_no_stuff_or_no_things_is_a_note(case: Case, isthing: int) -> None:
    for entry in case.gt["categories"]:
        entry.update(isthing=isthing, color=[1, 2, 999])
    with closing(scored_pairs(*case.save())) as pairs:
        assert len(list(pairs)) == 3
        assert [p.kind for p in pairs.problems] == ["category colour"] * 4 + ["one kind of classes"]
        assert pairs.problems.grave == 0
        assert f"the categories have no {'stuff' if isthing else 'things'}" in pairs.problems.text()


def test_nothing_predicted_is_scored_with_a_note(case: Case) -> None:
    for annotation in case.pred["annotations"]:
        annotation["segments_info"] = []
        case.draw("pred", annotation["image_id"], ["......"] * 2, 10)
    with closing(scored_pairs(*case.save())) as pairs:
        assert [len(p.matches.missed) for p in pairs] == [3, 3, 3]
        assert [p.kind for p in pairs.problems] == ["nothing predicted"]


def nothing_annotated(c: Case) -> None:
    for annotation in c.gt["annotations"]:
        annotation["segments_info"] = []
        c.draw("gt", annotation["image_id"], ["......"] * 2, 0)


def no_map(c: Case) -> None:
    for image_id in IMAGES:
        c.map("gt", image_id).unlink()


HOPELESS: list[tuple[Callable[[Case], object], str, int]] = [
    (nothing_annotated, "nothing annotated", 1),
    (lambda c: c.gt.update(annotations=[]), "empty list", 1),
    (lambda c: c.pred.update(annotations=[]), "empty list", 4),
    (lambda c: c.gt.update(categories=[]), "empty list", 1),
    (lambda c: c.gt.update(categories=[{"id": 3}]), "faulty category", 1),
    (no_map, "missing map", 3),
]


@pytest.mark.parametrize(("edit", "kind", "count"), HOPELESS, ids=[kind for _, kind, _ in HOPELESS])
def test_where_nothing_is_left_leniency_ends(case: Case, edit: Callable[[Case], object], kind: str, count: int) -> None:
    edit(case)
    found = case.strict()
    assert kind in [p.kind for p in found]
    assert found.grave == count
    with pytest.raises(EvaluationProblemsError, match=r"nothing is left to score|no usable category") as error:
        case.lenient()
    assert [*error.value.problems] == [*found]


def test_every_kind_of_problem_occurs_in_these_tests() -> None:
    # faulty instances are those of AP, which has tests of its own
    elsewhere = {"category colour", "one kind of classes", "nothing annotated", "nothing predicted", "faulty instance"}
    elsewhere |= {"shared map", "infinite IoU", "no instances", "filled segments"}
    assert {c.kind for c in CASES} | elsewhere == KINDS.keys()


def test_what_is_no_fault(case: Case) -> None:
    case.gt["images"][0].update(license=3, date="x")
    case.truth(7)["segments_info"][0].update(area=4.0, iscrowd=False, bbox=None)
    case.prediction(7)["segments_info"][0].update(iscrowd="x", area=6.0, score=None)
    case.pred.update(images=None, info="made by hand", categories=None)
    case.prediction(8)["file_name"] = case.truth(8)["file_name"] = "sub/picture..png"
    for side in ("gt", "pred"):
        (case.folder / side / "sub").mkdir()
        case.map(side, 8).rename(case.folder / side / "sub" / "picture..png")
    rgba = Image.open(case.map("pred", 7)).convert("RGBA")
    rgba.putalpha(3)
    rgba.save(case.map("pred", 7))
    with closing(scored_pairs(*case.save())) as pairs:
        assert [sums(p) for p in pairs] == [GOOD] * 3
        assert len(pairs.problems) == 0


def test_two_annotations_may_name_one_map(case: Case) -> None:
    case.truth(7)["file_name"] = "8.png"
    case.prediction(7)["file_name"] = "8.png"
    no_longer_there = case.map("gt", 7)
    no_longer_there.unlink()
    with closing(scored_pairs(*case.save())) as pairs:
        assert [picture.image_id for picture in pairs] == list(IMAGES)
        assert pairs.problems.grave == 0
        assert [(p.kind, Path(p.file).name, p.message) for p in pairs.problems] == [
            ("shared map", "gt.json", "1 map is named more than once: '8.png' for images 7, 8"),
            ("shared map", "pred.json", "1 map is named more than once: '8.png' for images 8, 7"),
        ]


def test_maps_named_twice_are_counted_and_the_first_are_told(case: Case) -> None:
    with closing(scored_pairs(*many(case, 35), lenient=True, threads=1)) as pairs:
        truth, prediction = (p.message for p in pairs.problems)
    assert truth == (
        "9 maps are named more than once: '0.png' for images 0, 9, 18 and 1 more; '1.png' for images 1, 10, 19 and 1 "
        "more; '2.png' for images 2, 11, 20 and 1 more; and 6 more"
    )
    assert prediction.startswith("9 maps are named more than once: ")
    assert {len(kind["problems"]) for kind in Problems(pairs.problems).to_json()["kinds"]} == {2}


def test_a_second_annotation_of_a_picture_shares_no_map(case: Case) -> None:
    case.gt["annotations"].append(case.truth(7))
    case.pred["annotations"].append(case.prediction(7))
    assert [p.kind for p in case.strict()] == ["duplicate annotation", "duplicate prediction"]


def test_a_map_of_one_row_is_scored(case: Case) -> None:
    for image_id in IMAGES:
        case.draw("gt", image_id, ["aabbccaabbcc"], 0)
        case.draw("pred", image_id, ["aaabccaaabcc"], 10)
    for entry in case.gt["images"]:
        entry.update(height=1, width=12)
    assert score_files(*case.save()).result().pictures == 3


def test_image_ids_of_any_kind(case: Case) -> None:
    ids = {7: "aachen_000000_000019", 8: 10**40, "nine": "zürich ☃ \ud800"}
    for data in (case.gt, case.pred):
        for entry in data["annotations"]:
            entry["image_id"] = ids[entry["image_id"]]
    for entry in case.gt["images"]:
        entry["id"] = ids[entry["id"]]
    assert list(score_files(*case.save()).per_picture) == list(ids.values())
    for entry in case.pred["annotations"]:
        entry["file_name"] = "\x1b[31m\n\ud800.png"
    listed = "\n".join(map(str, case.strict()))
    assert len(listed.splitlines()) == 4
    assert "'\\x1b[31m\\n\\ud800.png' for images 'zürich ☃ \\ud800', 1000" in listed
    assert listed.encode().isascii() or "zürich ☃ \\ud800" in listed
    assert "\\x1b[31m\\n" in listed


def test_text_and_number_in_every_picture(case: Case) -> None:
    for data in (case.gt, case.pred):
        data["annotations"] = [a for a in data["annotations"] if a["image_id"] != "nine"]
    case.gt["images"].pop()
    for annotation in case.pred["annotations"]:
        annotation["image_id"] = f"{annotation['image_id']:06}"
    assert [(p.kind, p.image_id) for p in case.strict()] == [("text and number", 8), ("text and number", 7)]
    assert [sums(p) for p in case.lenient()[0].values()] == [GOOD, GOOD]


def test_number_and_text_may_be_two_pictures(case: Case) -> None:
    for section in ("images", "annotations"):
        key = "id" if section == "images" else "image_id"
        case.gt[section].append({**case.gt[section][0], key: "7"})
    case.pred["annotations"].append({**case.prediction(7), "image_id": "7"})
    for data, name in ((case.gt, "gt"), (case.pred, "pred")):
        data["annotations"][-1]["file_name"] = "7 as text.png"
        (case.folder / name / "7 as text.png").write_bytes(case.map(name, 7).read_bytes())
    assert list(score_files(*case.save()).per_picture) == [*IMAGES, "7"]
    case.pred["annotations"].pop()
    assert [(p.kind, p.image_id) for p in case.strict()] == [("missing prediction", "7")]


# Listings


def test_the_listing_groups_counts_and_names_what_leniency_does() -> None:
    found = [Problem("missing prediction", "pred.json", i, None, "has no prediction") for i in range(1234)]
    note = Problem("one kind of classes", "gt.json", None, None, "the categories have no stuff")
    problems = Problems([*found, note, Problem("wrong area", "gt.json", "a", 5, "its area is 3")])
    assert (len(problems), problems.grave, problems.count()) == (1236, 1235, "1,235 problems of 2 kinds")
    lines = problems.text(examples=2).splitlines()
    assert lines == [
        "note: classes of which all are things, or all stuff",
        "  - gt.json: the categories have no stuff",
        "missing prediction (1,234): a picture without a prediction; predict it too [--lenient leaves the picture out]",
        "  - pred.json: image 0: has no prediction",
        "  - pred.json: image 1: has no prediction",
        "  and 1,232 more",
        "wrong area (1): an area that is not that in the map; correct the JSON [--lenient counts in the map]",
        "  - gt.json: image 'a': segment 5: its area is 3",
    ]
    data = json.loads(json.dumps(problems.to_json()))
    assert data["count"] == 1235
    assert [(kind["name"], kind["count"], kind["note"]) for kind in data["kinds"]] == [
        ("one kind of classes", 1, True), ("missing prediction", 1234, False), ("wrong area", 1, False),
    ]  # fmt: skip
    assert data["kinds"][2]["problems"] == [
        {"file": "gt.json", "image_id": "a", "segment_id": 5, "message": "its area is 3"}
    ]
    assert Problems(found[:1]).count() == "1 problem of 1 kind"


def test_long_values_are_cut_short() -> None:
    assert shown("x" * 1000) == "'" + "x" * 56 + "..."


# Threads, order, interruption


def many(case: Case, count: int) -> tuple[Path, Path]:
    rng = np.random.default_rng(4)
    names = [f"{k}.png" for k in range(9)]
    for name in names:
        cells = rng.integers(1, 4, (5, 7)).repeat(6, 0).repeat(5, 1).astype(np.int32)
        for side, ids in (("gt", cells), ("pred", np.roll(cells, 1, 1))):
            write_id_map(case.folder / side / name, ids)
    infos = [{"id": i, "category_id": c, "area": 0, "iscrowd": 0} for i, c in ((1, CAT), (2, CAR), (3, SKY))]
    pairs = [(i, names[i % 9], names[(i + i % 4) % 9]) for i in range(count)]
    case.gt["images"] = [{"id": i, "file_name": f"{i}.jpg", "height": 30, "width": 35} for i, _, _ in pairs]
    case.gt["annotations"] = [{"image_id": i, "file_name": t, "segments_info": infos} for i, t, _ in pairs]
    case.pred["annotations"] = [{"image_id": i, "file_name": p, "segments_info": infos} for i, _, p in pairs[::-1]]
    for annotation in case.pred["annotations"]:
        annotation["segments_info"] = [{"id": s["id"], "category_id": s["category_id"]} for s in infos]
    return case.save()


def test_sums_and_problems_do_not_depend_on_threads(case: Case) -> None:
    paths = many(case, 120)
    results = []
    for threads in (1, 2, 7, None):
        with closing(scored_pairs(*paths, lenient=True, threads=threads)) as pairs:
            pictures = list(pairs)
            results.append((pictures, [*pairs.problems]))
            assert [p.image_id for p in pictures] == list(range(120))
    assert all(result == results[0] for result in results)
    assert Counter(p.kind for p in results[0][1]) == {"wrong area": 360, "shared map": 2}
    iou = {threads: score_files(*paths, lenient=True, threads=threads).result() for threads in (1, 5)}
    assert iou[1] == iou[5]
    assert iou[1].per_class[0].tp > 0


def test_it_can_be_gone_through_twice_and_tells_how_far_it_is(case: Case) -> None:
    first_truth(area=9)(case)
    told: list[tuple[int, int]] = []
    pairs = scored_pairs(*case.save(), lenient=True, progress=lambda *done: told.append(done))
    with closing(pairs):
        assert (pairs.total, len(pairs.problems)) == (3, 0)
        assert [*pairs] == [*pairs]
        assert len(pairs.problems) == 1
        assert told == [(1, 3), (2, 3), (3, 3)] * 2


@pytest.mark.usefixtures("interruptible")
def test_an_interruption_stops_at_once(case: Case) -> None:
    paths = many(case, 300)
    done: list[int] = []

    def progress(number: int, total: int) -> None:
        done.append(number)
        if number == 5:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        score_files(*paths, lenient=True, threads=2, progress=progress)
    assert done == [1, 2, 3, 4, 5]


@pytest.mark.usefixtures("interruptible")
@pytest.mark.skipif(os.name == "nt", reason="a signal to oneself ends the process there")
def test_an_interruption_is_not_held_up_by_waiting_work() -> None:
    begun: list[int] = []
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100_000):
            taken.append(number)
            yield number

    def work(number: int) -> int:
        begun.append(number)
        time.sleep(0.02)
        return number

    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        for _ in in_order(work, items(), threads=2):
            pass
    timer.join()
    assert time.monotonic() - start < 1.5
    assert 0 < len(begun) < len(taken) < 200


def test_threads_work_ahead_by_a_bounded_number_and_pass_errors_on() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(50):
            taken.append(number)
            yield number

    results = in_order(lambda n: 10 // (n - 20), items(), threads=2)
    assert next(results) == 10 // -20
    assert len(taken) <= 16
    got = []
    with pytest.raises(ZeroDivisionError):
        got.extend(iter(lambda: next(results), None))
    assert got == [10 // (n - 20) for n in range(1, 20)]
    assert len(taken) < 40
    with pytest.raises(InputError, match="threads=0"):
        thread_count(0)


# Paths, and files that cannot be read at all


def test_paths_of_a_picture(case: Case) -> None:
    case.prediction("nine")["image_id"] = "nine!"
    with closing(scored_pairs(*case.save(), lenient=True)) as pairs:
        assert pairs.paths(7) == PairPaths(case.map("gt", 7), case.map("pred", 7), "7.jpg")
        with pytest.raises(InputError, match=r"image '7' is not in .*gt\.json"):
            pairs.paths("7")
        with pytest.raises(InputError, match=r"image 'nine' is not in .*pred\.json"):
            pairs.paths("nine")
    case.prediction("nine!")["image_id"] = "nine"
    for name in (str(case.folder / "7.jpg"), "../7.jpg", "C:\\7.jpg"):
        image(file_name=name)(case)
        for options in ({}, {"like_panopticapi": True}):
            with closing(scored_pairs(*case.save(), **options)) as pairs:
                assert pairs.paths(7) == PairPaths(case.map("gt", 7), case.map("pred", 7), None)
    with closing(scored_pairs(*case.save(), like_panopticapi=True)) as pairs:
        assert pairs.paths("nine") == PairPaths(case.map("gt", "nine"), case.map("pred", "nine"), "nine.jpg")
        assert [sums(p) for p in pairs] == [GOOD] * 3
        with pytest.raises(InputError, match="image 70 is not in"):
            pairs.paths(70)


def test_like_panopticapi_the_last_of_an_image_id_that_comes_twice_counts(case: Case) -> None:
    case.gt["annotations"].append({**case.truth(8), "image_id": 7})
    with closing(scored_pairs(*case.save(), like_panopticapi=True)) as pairs:
        assert pairs.paths(7).truth == case.map("gt", 8)


def test_like_panopticapi_an_infinite_iou_is_noted(case: Case) -> None:
    # 4 pixels of the cat are shared; 6 predicted, and the JSON says that it has -2: 6 - 2 - 4 leave no union
    first_truth(area=-2)(case)
    with closing(scored_pairs(*case.save(), like_panopticapi=True)) as pairs:
        for _ in range(2):
            assert [p.matches.matched[0].iou for p in pairs] == [float("inf"), 4 / 6, 4 / 6]
            (problem,) = pairs.problems
    assert (problem.kind, problem.image_id, problem.segment_id) == ("infinite IoU", 7, 1)
    assert problem.message == "its stated area leaves no union: panopticapi's IoU is infinite there"
    assert Problems([problem]).grave == 0


@pytest.mark.parametrize("fields", [{"area": "4"}, {"category_id": [CAT]}, {"id": []}])
def test_a_field_that_is_mistaken_is_no_crash_like_panopticapi_either(case: Case, fields: dict[str, Any]) -> None:
    first_truth(**fields)(case)
    with pytest.raises(InputError, match="lacks or mistakes a field"):
        score_files(*case.save(), like_panopticapi=True)
    with pytest.raises(InputError, match="choose one"):
        score_files(*case.save(), like_panopticapi=True, lenient=True)


def test_a_json_that_changes_meanwhile_is_refused(case: Case) -> None:
    gt, pred = case.save()
    with closing(scored_pairs(gt, pred, threads=1)) as pairs:
        iterator = iter(pairs)
        next(iterator)
        pred.write_text(" " * pred.stat().st_size)
        with pytest.raises(InputError, match=r"pred\.json has changed since"):
            list(iterator)


@pytest.mark.parametrize("side", ["gt", "pred"])
def test_a_json_whose_entries_changed_places_meanwhile_is_refused(case: Case, side: str) -> None:
    for data in (case.gt, case.pred):
        data["annotations"] = [a for a in data["annotations"] if a["image_id"] != "nine"]
    case.gt["images"].pop()
    path = case.save()[side == "pred"]
    with closing(scored_pairs(*case.save(), threads=1)) as pairs:
        (case.gt if side == "gt" else case.pred)["annotations"].reverse()
        case.save()
        with pytest.raises(InputError, match=rf"{path.name} has changed since"):
            list(pairs)


def test_no_room_for_temporary_files_is_told(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    connect = sqlite3.connect

    def small(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        database = connect(*args, **kwargs)
        database.execute("PRAGMA max_page_count = 2")
        return database

    monkeypatch.setattr(sqlite3, "connect", small)
    with pytest.raises(InputError, match=r"temporary disk space cannot be used .*full.*TMPDIR"):
        score_files(*case.save())


def test_reading_on_after_the_end_is_no_lack_of_room(case: Case) -> None:
    index = PictureIndex(case.save()[0], None, Problems())
    index.close()
    with pytest.raises(sqlite3.ProgrammingError, match="closed database"):
        list(index)


UNREADABLE = [
    (b"", "line 1, column 1"),
    (b'{"annotations": [\n {"image_id": 1,}]}', r"line 2, column 1[67]"),
    (b'{"annotations": [1, 2}', "line 1, column 22"),
    (b'{"annotations": [', "line 1, column 18"),
    (b'{"annotations": [] "x": 1}', "line 1, column 20"),
    (b'{"annotations": [], 3: 1}', "line 1, column 21 .*property name"),
    (b'{"annotations" []}', "line 1, column 16 .*':'"),
    (b'{"annotations": []} x', "line 1, column 21 .*Extra data"),
    (b'{"x": "abc', "line 1, column 7 .*Unterminated"),
    (b'{"x": ' + b"[" * 100_000, "lists within lists"),
    (b'{"x": 1' + b"0" * 5000 + b"}", "more digits than can be read"),
    (b'{"x": "\xff"}', r"no UTF-8 text \(byte 7\)"),
    (b'{"x": "\xc3', r"no UTF-8 text \(byte 7\)"),
    ("\ufeff".encode() + b'{"x": "\xff"}', r"no UTF-8 text \(byte 10\)"),
    (b"[]", "an object with annotations was expected"),
    (b"3", "an object with annotations was expected"),
    (b"{}", "'annotations' is missing; a COCO panoptic JSON has the lists annotations"),
    (b'{"annotations": {}}', "'annotations' is no list"),
    (b'{"annotations": [], "annotations": []}', "'annotations' stands there twice"),
]


@pytest.mark.parametrize(("data", "message"), UNREADABLE, ids=[str(i) for i in range(len(UNREADABLE))])
def test_a_json_that_cannot_be_read_is_refused_with_its_place(case: Case, data: bytes, message: str) -> None:
    gt, pred = case.save()
    pred.write_bytes(data)
    for lenient in (False, True):
        with pytest.raises(InputError, match=message) as error:
            score_files(gt, pred, lenient=lenient)
        assert str(error.value).startswith(str(pred))


def test_a_json_that_is_no_file_is_refused(case: Case) -> None:
    gt, pred = case.save()
    with pytest.raises(InputError, match=r"none\.json is not there"):
        score_files(gt, case.folder / "none.json", pred_folder=case.folder / "pred")
    with pytest.raises(InputError, match="cannot be read"):
        score_files(case.folder, pred, gt_folder=case.folder / "gt")


# The reader of long files


def random_value(rng: random.Random, depth: int = 0) -> Any:
    kind = rng.randrange(11 if depth < 3 else 8)
    if kind < 3:
        numbers = [0.5, -1e300, 1e-9, float("inf"), -float("inf"), -0.0, 0, -1, 10**40, 12]
        return rng.choice([None, True, False, *numbers])
    if kind < 8:
        return "".join(rng.choice('ab"\\\n\té😀☃\u2028 {}[],:') for _ in range(rng.randrange(12)))
    if kind == 8:
        return {f"{rng.random()}": random_value(rng, depth + 1) for _ in range(rng.randrange(4))}
    return [random_value(rng, depth + 1) for _ in range(rng.randrange(4))]


def random_text(rng: random.Random) -> tuple[dict[str, Any], str]:
    data = {f"k{i}é": random_value(rng) for i in range(rng.randrange(3))}
    data |= {f"l{i}": [random_value(rng, 1) for _ in range(rng.randrange(4))] for i in range(rng.randrange(3))}
    text = json.dumps(data, ensure_ascii=rng.random() < 0.5, indent=rng.choice([None, 1]))
    return data, text.replace("\n", rng.choice(["\n", "\r\n"]))


@pytest.mark.parametrize("seed", range(8))
def test_the_reader_is_json_loads_wherever_the_text_is_cut(tmp_path: Path, seed: int) -> None:
    rng, path = random.Random(seed), tmp_path / "x.json"
    data, text = random_text(rng)
    raw = rng.choice([b"", "\ufeff".encode()]) + text.encode()
    path.write_bytes(raw)
    expected = [
        (key, i, entry) for key, value in data.items() if isinstance(value, list) for i, entry in enumerate(value)
    ]
    for chunk in (*range(1, min(60, len(raw))), 10_000):
        elements = list(read_elements(path, (), list(data), chunk))
        assert [(e.section, e.position, e.value) for e in elements] == expected
        assert all(json.loads(raw[e.offset : e.offset + e.length]) == e.value for e in elements)


@pytest.mark.parametrize("seed", range(8))
def test_the_reader_finds_faults_where_json_loads_does(tmp_path: Path, seed: int) -> None:
    rng, path, broken = random.Random(seed), tmp_path / "x.json", 0
    for _ in range(20):
        data, text = random_text(rng)
        cut = rng.randrange(1, len(text))
        damaged = text[:cut] + rng.choice(["", *'}],:"x', text[cut + 1 :]])
        path.write_bytes(damaged.encode())
        try:
            json.loads(damaged.replace("\r\n", "\n"))
        except json.JSONDecodeError as error:
            place = re.escape(f"line {error.lineno}, column {error.colno} ({error.msg})")
            for chunk in (1, 2, 5, 19, 10_000):
                with pytest.raises(InputError, match=place):
                    list(read_elements(path, (), list(data), chunk))
            broken += 1
    assert broken > 10
