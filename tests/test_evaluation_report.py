"""The report of an evaluation: score, causes, confusions, worst pictures, what was left out; also within a run's."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import error_scene
from html_pages import Page, decoded
from thingstuff.errors import InputError
from thingstuff.evaluation.causes import CAUSES, SegmentError
from thingstuff.evaluation.error_tables import causes_in_words
from thingstuff.evaluation.errors import CauseRow
from thingstuff.evaluation.evaluator import Evaluator
from thingstuff.evaluation.pairs import compare_maps
from thingstuff.evaluation.problems import Problem
from thingstuff.evaluation_report import EvaluationReport, write_evaluation_report
from thingstuff.panoptic import Panoptic, Segment
from thingstuff.report import Example, RunReport, write_report
from thingstuff.report_page import MEANINGS, points

SECTIONS = ["result", "worst", "why", "classes", "again"]
ALL = (None, None, "no segment at all")


def worst(**changes) -> Example:
    given = {"name": "a<b>.jpg", "picture": error_scene.picture(), "truth": error_scene.truth()}
    given |= {"prediction": error_scene.prediction(), "pq": 0.25, "errors": error_scene.errors()}
    return Example(**{**given, **changes})


def report(**changes) -> EvaluationReport:
    given = {"title": "Cups & <tables>", "command": "thingstuff evaluate --gt a.json --pred b.json"}
    given |= {"categories": error_scene.CATEGORIES, "evaluation": error_scene.evaluation(boundary=True)}
    given |= {"worst": [worst()], "notes": {"ground truth": "a.json"}}
    return EvaluationReport(**{**given, **changes})


def run_report(**changes) -> RunReport:
    evaluation = error_scene.evaluation()
    given = {"title": "Run", "command": "", "categories": error_scene.CATEGORIES, "history": []}
    given |= {"result": evaluation.pq, "evaluation": evaluation, "worst": [worst()]}
    return RunReport(**{**given, **changes})


def perfect() -> EvaluationReport:
    evaluator = Evaluator(error_scene.CATEGORIES)
    truth = error_scene.truth()
    evaluator.add(compare_maps(truth, truth, 1, error_scene.CATEGORIES))
    return report(evaluation=evaluator.result(), worst=[])


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return Page(write_evaluation_report(tmp_path_factory.mktemp("evaluation") / "report.html", report()))


def test_it_has_its_sections_and_needs_nothing_beside_itself(page: Page):
    assert [section["id"] for section in page.all("section")] == SECTIONS
    assert [link["href"] for link in page.all("a")] == [*(f"#{section}" for section in SECTIONS), "#worst-1"]
    for tag, attributes in page.tags:
        for name in ("src", "href", "data", "srcset"):
            assert (attributes.get(name) or "#").startswith(("data:image/", "#")), (tag, attributes)
    assert "url(" not in page.text["head"]


def test_the_other_measures_stand_below_pq(page: Page):
    evaluation = error_scene.evaluation(boundary=True)
    assert evaluation.boundary is not None
    assert evaluation.semantic.miou is not None
    assert evaluation.semantic.pixel_accuracy is not None
    words = " ".join(page.text["result"].split())
    assert f"mIoU {100 * evaluation.semantic.miou:.1f}" in words
    assert f"pixel accuracy {100 * evaluation.semantic.pixel_accuracy:.1f}" in words
    assert f"Boundary PQ {100 * (evaluation.boundary.all.pq or 0):.1f}" in words
    assert "AP" not in words, "AP was not measured"
    assert "34.9PQ, panoptic quality" in words
    assert "ground trutha.json" in words


def test_causes_have_the_figures_of_the_worked_example(page: Page):
    rows = [row for row in page.rows["why"] if row[0] in (*CAUSES, "inexact matches")][:8]
    assert [row[:6] for row in rows] == [
        ["missed", "+17.9", "+26.9", "+0.0", "1", "0"],
        ["false", "+0.3", "+0.4", "+0.0", "0", "1"],
        ["wrong class", "+18.2", "+27.3", "+0.0", "1", "1"],
        ["split", "+4.0", "+6.0", "+0.0", "1", "2"],
        ["merged", "+6.1", "+9.2", "+0.0", "2", "1"],
        ["poor mask", "+3.4", "+5.1", "+0.0", "1", "1"],
        ["duplicate", "+0.3", "+0.4", "+0.0", "0", "1"],
        ["inexact matches", "+3.6", "+2.6", "+5.6", "", ""],
    ]
    assert [row[6] for row in rows[:7]] == list(MEANINGS.values())
    shares = [cell["style"] for cell in page.all("td") if cell.get("class") == "bar" and cell.get("style")]
    assert "--share:100.0%" in shares[2]  # wrong class, the most


def test_every_cause_is_explained():
    assert tuple(MEANINGS) == CAUSES


def test_causes_stand_by_size(page: Page):
    rows = [row for row in page.rows["why"] if len(row) == 7 and "/" in row[1]]
    assert [row[0] for row in rows] == list(CAUSES)
    split = error_scene.evaluation().errors.causes[3].sizes
    assert rows[3] == ["split", *(cell for s in split for cell in (f"{s.truths} / {s.predictions}", points(s.gain)))]
    assert sum(s.truths for s in split) == 1


def test_confusions_are_in_percent_of_the_labelled_pixels(page: Page):
    kinds = [row for row in page.rows["why"] if row[0] in ("things", "stuff", "void") and len(row) == 4]
    assert kinds == [
        ["things", "36.1", "0.0", "13.9"],  # 26, 0 and 10 of 72 squares: c's, of e 4, of g 6 are void
        ["stuff", "2.8", "47.2", "0.0"],
    ]
    assert ["ground truth", "as things", "as stuff", "as void"] in page.rows["why"]
    assert ["car", "dog", "8.33"] in page.rows["why"]
    assert ["dog", "void", "5.56"] in page.rows["why"]
    assert ["sky", "dog", "2.78"] in page.rows["why"]


def test_causes_by_class_can_be_sorted(page: Page):
    rows = [row for row in page.rows["classes"] if len(row) == 9]
    assert rows[0] == ["class", "kind", *CAUSES]
    assert [row[0] for row in rows[1:]] == ["dog", "car"], "sky has no unmatched segment"
    car = rows[2]
    assert car[2] == "1 / 0+53.7"
    assert [bool(cell) for cell in car[2:]] == [True, False, True, False, False, False, False]
    values = [cell["data-value"] for cell in page.all("td") if "data-value" in cell][-7:]
    assert [bool(value) for value in values] == [bool(cell) for cell in car[2:]]
    assert points(float(values[0] or 0)) == "+53.7"


def test_the_worst_pictures_show_and_list_their_errors(page: Page):
    assert ["a<b>.jpg", "19.0", "2", causes_in_words(error_scene.errors())] in page.rows["worst"]
    captions = [f"{what} of a<b>.jpg" for what in ("Picture", "Ground truth", "Prediction", "Errors")]
    assert [image["alt"] for image in page.all("img")] == captions
    assert [image.size for image in decoded(page)] == [(480, 240)] * 4
    for entry in ("missed 1/0", "wrong class 1/1", "split 1/2", "merged 2/1", "dog × 5"):
        assert entry in page.text["worst"]
    rows = [row for row in page.rows["worst"] if len(row) == 6]
    assert rows[0] == ["cause", "segment", "with", "IoU", "pixels", "of the"]
    assert ["missed", "car", "", "", "9,600", "ground truth"] in rows
    assert ["split", "dog", "2 × dog", "100.0", "9,600", "ground truth"] in rows
    assert ["wrong class", "dog", "car", "100.0", "9,600", "prediction"] in rows
    assert len(rows) == 1 + len(error_scene.errors())
    areas = [int(row[4].replace(",", "")) for row in rows[1:]]
    assert areas == sorted(areas, reverse=True)


def test_the_best_pictures_stand_after_the_worst(tmp_path: Path):
    best = [worst(name="good.jpg", pq=0.987, errors=()), worst(name="fair.jpg", pq=0.7)]
    page = Page(write_evaluation_report(tmp_path / "r.html", report(best=best)))
    assert [section["id"] for section in page.all("section")] == ["result", "worst", "best", "why", "classes", "again"]
    words = " ".join(page.text["best"].split())
    assert words.index("good.jpg PQ 98.7") < words.index("fair.jpg PQ 70.0")
    assert [article["id"] for article in page.all("article")] == ["worst-1", "best-1", "best-2"]
    run = Page(write_report(tmp_path / "run.html", run_report(best=best)))
    assert run.rows["best"] == page.rows["best"]
    assert [link["href"] for link in run.all("a")][1:4] == ["#worst", "#best", "#why"]


def test_an_evaluation_of_a_model_has_its_settings(tmp_path: Path):
    page = Page(write_evaluation_report(tmp_path / "r.html", report(config_yaml="model:\n  depth: <50>\n")))
    assert [section["id"] for section in page.all("section")] == [*SECTIONS[:-1], "config", "again"]
    assert "model:\n  depth: <50>" in page.text["config"]


def test_of_many_pictures_the_first_are_unfolded(tmp_path: Path):
    evaluation = error_scene.evaluation()
    (row,) = evaluation.errors.worst
    listed = replace(evaluation, errors=replace(evaluation.errors, worst=(row,) * 4))
    page = Page(write_evaluation_report(tmp_path / "r.html", report(evaluation=listed, worst=[worst()] * 4)))
    assert ["open" in folded for folded in page.all("details")] == [True, True, False, False]


def test_errors_know_the_segments_they_speak_of(page: Page):
    rows = [row for row in page.all("tr") if "data-place" in row]
    sides = {"truth": error_scene.truth(), "prediction": error_scene.prediction()}
    named = {
        (row["data-side"], sides[row["data-side"] or ""].segments[int(row["data-place"] or 0) - 1].id) for row in rows
    }
    assert named == {("truth" if e.is_truth else "prediction", e.segment_id) for e in error_scene.errors()}


def test_the_worst_pictures_are_listed_with_id_and_name_and_lead_to_what_is_shown(tmp_path: Path):
    evaluation = error_scene.evaluation()
    (row,) = evaluation.errors.worst
    rows = tuple(replace(row, image_id=image_id) for image_id in (785, "b", 786))
    listed = replace(evaluation, errors=replace(evaluation.errors, worst=rows))
    shown = [worst(name="000785.jpg"), worst(name="b")]
    page = Page(write_evaluation_report(tmp_path / "r.html", report(evaluation=listed, worst=shown)))
    names = [row[0] for row in page.rows["worst"] if len(row) == 4]
    assert names == ["picture", "785 · 000785.jpg", "b", "786"]
    assert [link["href"] for link in page.all("a")][-2:] == ["#worst-1", "#worst-2"]
    assert [article["id"] for article in page.all("article")] == ["worst-1", "worst-2"]
    text = " ".join(page.text["worst"].split())
    assert "000785.jpg image 785, PQ 25.0" in text
    assert "b PQ 25.0" in text


def test_the_errors_shown_are_those_given(tmp_path: Path):
    drawn = {}
    for cause in ("missed", "duplicate"):
        error = SegmentError(cause, ord("g"), True, 3, 9600, (), 0.0)
        shown = Page(write_evaluation_report(tmp_path / "r.html", report(worst=[worst(errors=(error,))])))
        drawn[cause] = np.array(decoded(shown)[3]).astype(int)[205:235, 5:40].mean(axis=(0, 1))
    assert drawn["missed"].argmax() == 0
    assert drawn["duplicate"].argmax() == 1


def test_maps_without_their_picture_are_shown(tmp_path: Path):
    path = write_evaluation_report(tmp_path / "r.html", report(worst=[worst(picture=None)]))
    titles = [image["alt"] for image in Page(path).all("img")]
    assert titles == [f"{what} of a<b>.jpg" for what in ("Ground truth", "Prediction", "Errors")]


def test_many_errors_are_cut_short_and_counted(tmp_path: Path):
    ids = np.arange(1, 41, dtype=np.int32)[None].repeat(8, 0).repeat(8, 1)
    truth = Panoptic(ids, tuple(Segment(i, 0, 64) for i in range(1, 41)), error_scene.CATEGORIES)
    nothing = Panoptic(np.zeros_like(ids), (), error_scene.CATEGORIES)
    errors = tuple(SegmentError("missed", i, True, 18, 64, (), 0.0) for i in range(1, 41))
    example = Example("many.jpg", None, truth, nothing, 0.0, errors)
    shown = Page(write_evaluation_report(tmp_path / "r.html", report(worst=[example])))
    assert len([row for row in shown.rows["worst"] if row[0] == "missed"]) == 30
    assert "and 10 smaller ones" in shown.text["worst"]
    assert "missed 40/0" in shown.text["worst"]


def test_a_perfect_prediction_has_nothing_to_explain(tmp_path: Path):
    shown = Page(write_evaluation_report(tmp_path / "r.html", perfect()))
    assert "No picture falls short" in shown.text["worst"]
    assert "No pixel is given to another class" in shown.text["why"]
    assert "Causes by class" not in shown.text["classes"]
    assert ["missed", "+0.0", "+0.0", "+0.0", "0", "0", MEANINGS["missed"]] in shown.rows["why"]


def test_an_evaluation_of_nothing_is_shown(tmp_path: Path):
    empty = Evaluator(error_scene.CATEGORIES).result()
    shown = Page(write_evaluation_report(tmp_path / "r.html", report(evaluation=empty, worst=[], command="")))
    assert ["missed", "n/a", "n/a", "n/a", "0", "0", MEANINGS["missed"]] in shown.rows["why"]
    assert "The ground truth labels no pixel" in shown.text["why"]
    assert "The command was not recorded" in shown.text["again"]


def test_what_was_left_out_is_listed(tmp_path: Path):
    problems = [Problem("missing prediction", "b.json", i, None, "no annotation") for i in range(12)]
    problems += [Problem("unlisted id", "b/<c>.png", "c", 7, "3 pixels"), Problem("nothing predicted", "b.json", *ALL)]
    lenient = replace(error_scene.evaluation(), left_out=tuple(problems))
    shown = Page(write_evaluation_report(tmp_path / "r.html", report(evaluation=lenient)))
    assert "13 problems of 2 kinds" in shown.text["result"]
    assert [link["href"] for link in shown.all("a")].count("#left") == 2
    left = " ".join(shown.text["left"].split())
    assert "missing prediction 12" in left
    assert "leaves the picture out" in left
    assert "b.json: image 9: no annotation" in left
    assert "image 10:" not in left
    assert "and 2 more" in left
    assert "b/<c>.png: image 'c': segment 7: 3 pixels" in left
    assert "nothing predicted note" in left


def test_notes_alone_are_no_problems(tmp_path: Path):
    noted = replace(error_scene.evaluation(), left_out=(Problem("nothing predicted", "b.json", *ALL),))
    shown = Page(write_evaluation_report(tmp_path / "r.html", report(evaluation=noted)))
    assert "There are notes on the files" in shown.text["result"]
    assert "problem" not in shown.text["result"]
    assert "no segment at all" in shown.text["left"]


def test_twenty_noisy_pictures_stay_below_5_mb(tmp_path: Path):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, error_scene.picture().shape).astype(np.uint8)
    path = write_evaluation_report(tmp_path / "r.html", report(worst=[worst(picture=noise)] * 20))
    assert 1_000_000 < path.stat().st_size < 5_000_000


def test_maps_of_very_many_segments_take_the_room_of_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Noise in pictures and maps alike, each speck a segment of its own."""
    rng = np.random.default_rng(0)
    ids = rng.permutation(np.arange(1, 401, dtype=np.int32)).reshape(20, 20).repeat(10, 0).repeat(10, 1)
    specks = Panoptic(ids, tuple(Segment(i, i % 3, 100) for i in range(1, 401)), error_scene.CATEGORIES)
    noise = rng.integers(0, 256, (*ids.shape, 3)).astype(np.uint8)
    monkeypatch.setattr(
        "thingstuff.report_pictures.overlay", lambda _, picture, **__: picture
    )  # to write names takes long
    monkeypatch.setattr("thingstuff.report_pictures._BYTES", 600_000)
    examples = [Example(f"{i}.jpg", noise, specks, specks, 1.0) for i in range(4)]
    bare = write_evaluation_report(tmp_path / "bare.html", report(worst=[])).stat().st_size
    size = write_evaluation_report(tmp_path / "r.html", report(worst=examples)).stat().st_size - bare
    assert 400_000 < size < 600_000 * 4 / 3 + 12_000


def test_the_same_report_gives_the_same_bytes(tmp_path: Path):
    one, two = (write_evaluation_report(tmp_path / f"{i}.html", report()) for i in (1, 2))
    assert one.read_bytes() == two.read_bytes()


def test_errors_of_another_picture_are_refused(tmp_path: Path):
    strange = worst(errors=(SegmentError("missed", 5, True, 18, 1, (), 0.0),))
    with pytest.raises(InputError, match=r"example a<b>\.jpg: the ground truth has no segment 5"):
        write_evaluation_report(tmp_path / "r.html", report(worst=[strange]))
    assert not list(tmp_path.iterdir())


def test_the_report_of_a_run_says_why_too(tmp_path: Path, page: Page):
    shown = Page(write_report(tmp_path / "r.html", run_report()))
    sections = ["result", "worst", "why", "curves", "classes", "examples", "config", "again"]
    assert [section["id"] for section in shown.all("section")] == sections
    assert [link["href"] for link in shown.all("a")] == [*(f"#{section}" for section in sections), "#worst-1"]
    assert shown.rows["why"] == page.rows["why"]
    assert shown.rows["worst"] == page.rows["worst"]
    assert "mIoU" in shown.text["result"]


def test_gains_keep_their_sign():
    assert [points(gain) for gain in (0.1234, -0.02, -0.0001, 0.0, None)] == ["+12.3", "-2.0", "+0.0", "+0.0", "n/a"]


def test_a_falling_pq_draws_no_bar(tmp_path: Path):
    """Where a cure leaves a class without a segment, the mean over the others may be lower."""
    evaluation = error_scene.evaluation()
    first = evaluation.errors.causes[0]
    falling = CauseRow(**{**vars(first), "gain": -0.05})
    errors = replace(evaluation.errors, causes=(falling, *evaluation.errors.causes[1:]))
    shown = Page(
        write_evaluation_report(tmp_path / "r.html", report(evaluation=replace(evaluation, errors=errors), worst=[]))
    )
    assert "-5.0" in shown.text["why"]
    assert not [cell for cell in shown.all("td") if "--share:-" in (cell.get("style") or "")]
