"""Ground truth that a model filled in counts as void where that is asked for: from files, and of a model."""

import json
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as run_lengths
from rich.console import Console

import thingstuff as ts
from test_bad_input import CAR, CAT, GOOD, IMAGES, Case
from thingstuff import checkpoint
from thingstuff.config import changed
from thingstuff.data.scenes import SceneConfig, make_scenes
from thingstuff.errors import InputError
from thingstuff.evaluating import Request, run
from thingstuff.evaluation.problems import EvaluationProblemsError
from thingstuff.io import read_id_map, write_id_map
from thingstuff.model_evaluation import evaluate_run
from thingstuff.models import create, find

MARK = {"by": "detr-panoptic-r50", "score": 0.93}


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def mark(case: Case, segment_id: int, images: tuple[int | str, ...] = IMAGES, mark: object = MARK) -> None:
    for image_id in images:
        case.truth(image_id)["segments_info"][segment_id - 1]["filled"] = mark


def scored(case: Case, **options: Any) -> ts.Evaluation:
    return ts.evaluate(*case.save(), leave_out_filled=True, threads=1, **options)


def measured(evaluation: ts.Evaluation) -> dict[str, Any]:
    """Return what was measured, without what was told."""
    return {key: value for key, value in evaluation.to_json().items() if key != "left_out"}


def told(evaluation: ts.Evaluation) -> list[str]:
    return [problem.message for problem in evaluation.left_out]


def test_a_filled_segment_is_void(case: Case) -> None:
    mark(case, 3)
    assert ts.evaluate(*case.save(), threads=1).pq.stuff.pq == 1
    found = scored(case)
    assert found.pq.stuff.pq is None, "sky was filled in: neither found nor missed"
    classes = {c.category_id: (c.iou / 3, c.tp, c.fp, c.fn) for c in found.pq.per_class}
    assert classes[CAT] == pytest.approx((GOOD[CAT][0], 3, 0, 0))
    assert classes[CAR] == (0, 0, 3, 3)
    assert told(found) == ["3 segments carry the mark 'filled'"]


def test_it_is_as_if_those_pixels_were_never_labelled(case: Case, tmp_path: Path) -> None:
    mark(case, 2, (7, "nine"))
    found = scored(case, boundary=True)
    assert told(found) == ["2 segments carry the mark 'filled'"]
    for image_id in (7, "nine"):
        del case.truth(image_id)["segments_info"][1]
        case.draw("gt", image_id, ["aa..cc", "aa..cc"], 0)
    never = ts.evaluate(*case.save(), boundary=True, threads=1)
    assert measured(found) == measured(never)
    assert not never.left_out


def test_without_being_asked_nothing_is_left_out(case: Case) -> None:
    plain = ts.evaluate(*case.save(), threads=1)
    mark(case, 2)
    assert ts.evaluate(*case.save(), threads=1).to_json() == plain.to_json()


def test_it_is_told_that_nothing_is_marked(case: Case) -> None:
    mark(case, 3, (8,), mark=False)
    found = scored(case)
    assert told(found) == ["0 segments carry the mark 'filled'"]
    assert found.pq.stuff.pq == 1


def test_faults_of_filled_segments_are_told_all_the_same(case: Case) -> None:
    mark(case, 3)
    case.truth(7)["segments_info"][2]["area"] = 5
    with pytest.raises(EvaluationProblemsError, match="its area is 5 in the JSON, 4 in the map"):
        scored(case)
    # lenient evaluation reads an id that is text
    case.truth(7)["segments_info"][2].update(area=4, id="3")
    found = scored(case, lenient=True)
    assert "3 segments carry the mark 'filled'" in told(found)
    assert found.pq.stuff.pq is None


def test_everything_filled_leaves_nothing_to_find(case: Case) -> None:
    for segment_id in (1, 2, 3):
        mark(case, segment_id)
    found = scored(case)
    assert found.pq.all.pq is None
    assert found.pictures == 3


def test_average_precision_takes_it_for_void_too(case: Case, tmp_path: Path) -> None:
    mark(case, 2)
    car = np.asfortranarray([[0, 0, 1, 1, 0, 0]] * 2, dtype=np.uint8)
    runs = run_lengths.encode(car)
    segmentation = {"size": runs["size"], "counts": runs["counts"].decode()}
    entry = {"segmentation": segmentation, "category_id": CAR, "score": 0.9}
    path = tmp_path / "instances.json"
    path.write_text(json.dumps([{**entry, "image_id": image_id} for image_id in IMAGES]))
    found = ts.evaluate(*case.save(), instances=path, threads=1).ap, scored(case, instances=path).ap
    by_class = [{c.category_id: c for c in ap.per_class} for ap in found if ap is not None]
    assert by_class[0][CAR].ap == 1
    assert by_class[1][CAR].ap is None, "no car is left to find"


def test_ways_that_know_no_marks_refuse(case: Case) -> None:
    with pytest.raises(InputError, match="panopticapi knows no filled segments"):
        scored(case, like_panopticapi=True)
    maps = [ts.Panoptic(np.zeros((2, 2), np.int32), (), ts.Categories(("a",), (True,), (1,)))]
    with pytest.raises(InputError, match=r"without .*leave_out_filled.*, which are for files"):
        ts.evaluate(maps, maps, leave_out_filled=True)
    gt, pred = case.save()
    with pytest.raises(InputError, match="leave out --like-panopticapi or --leave-out-filled"):
        Request(gt=gt, pred=(pred,), leave_out_filled=True, like_panopticapi=True).check()


def test_the_command_scores_and_tells_so(case: Case) -> None:
    mark(case, 3)
    gt, pred = case.save()
    request = Request(gt=gt, pred=(pred,), leave_out_filled=True, threads=1)
    assert "--leave-out-filled" in request.command
    output = StringIO()
    run(request, Console(file=output, width=120))
    assert "3 segments carry the mark 'filled'" in output.getvalue()
    compared = ts.compare(gt, {"one": pred, "again": pred}, leave_out_filled=True, threads=1)
    assert [e.pq.stuff.pq for e in compared.evaluations.values()] == [None, None]


# A model


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A data set with the largest segment of each picture marked, one in which those are void, and a model's file."""
    data, void = (
        make_scenes(tmp_path_factory.mktemp(name) / "data", train=1, val=3, config=SceneConfig(size=(48, 64)))
        for name in ("marked", "void")
    )
    edit(data, lambda info, ids: info.update(filled=MARK))
    edit(void, lambda info, ids: ids.__setitem__(ids == info["id"], 0))
    torch.manual_seed(0)
    settings = {"preprocess.short_side": 48, "backbone.norm": "group", "backbone.stem_channels": 8}
    settings |= {"backbone.res2_channels": 8, "encoder_channels": 8, "thing_threshold": 0.0, "stuff_threshold": 0.0}
    weights = tmp_path_factory.mktemp("weights") / "w.safetensors"
    config = changed(find("panoptic-fcn-tiny")[0], settings)
    checkpoint.save(weights, create("panoptic-fcn-tiny", ts.CocoPanoptic.open(data, "val").categories, config))
    return data, void, weights


def edit(data: Path, change: Any) -> None:
    path = data / "panoptic_val.json"
    content = json.loads(path.read_text())
    for annotation in content["annotations"]:
        map_path = data / "panoptic_val" / annotation["file_name"]
        ids = read_id_map(map_path)
        info = max(annotation["segments_info"], key=lambda info: info["area"])
        change(info, ids)
        if not (ids == info["id"]).any():
            annotation["segments_info"].remove(info)
        write_id_map(map_path, ids)
    path.write_text(json.dumps(content))


def test_a_model_is_scored_on_what_was_drawn(marked: tuple[Path, Path, Path]) -> None:
    data, void, weights = marked
    drawn = evaluate_run(weights, str(data), "val", leave_out_filled=True, boundary=True)
    assert measured(drawn) == measured(evaluate_run(weights, str(void), "val", boundary=True))
    assert measured(drawn) != measured(evaluate_run(weights, str(data), "val", boundary=True))
    assert told(drawn) == ["3 segments carry the mark 'filled'"]


def test_a_report_shows_what_was_drawn(marked: tuple[Path, Path, Path], tmp_path: Path) -> None:
    data, void, weights = marked
    reports = []
    for folder, left in ((data, True), (void, False)):
        request = Request(
            data=str(folder), weights=weights, leave_out_filled=left, report=tmp_path / f"{left}.html", ap=True
        )
        run(request, Console(file=StringIO()))
        reports.append((tmp_path / f"{left}.html").read_text())
    pictures = [sorted(part.split('"')[0] for part in text.split("data:image/")[1:]) for text in reports]
    assert pictures[0] == pictures[1]
    assert pictures[0]


def test_a_data_set_reads_its_marks(marked: tuple[Path, Path, Path]) -> None:
    opened = ts.CocoPanoptic.open(marked[0], "val")
    for index, record in enumerate(opened.records):
        (filled,) = [s.id for s in record.segments if s.filled]
        whole, drawn = opened.panoptic(index), opened.drawn_panoptic(index)
        assert {s.id for s in whole.segments} - {s.id for s in drawn.segments} == {filled}
        assert np.array_equal(drawn.ids == 0, (whole.ids == 0) | (whole.ids == filled))
