"""`thingstuff evaluate` on files as a stranger meets it: what it prints, writes and refuses; also in Python."""

import io
import json
import math
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as run_lengths
from rich.console import Console

import thingstuff as ts
from html_pages import Page
from test_bad_input import CAT, IMAGES, PREDICTED, SKY, TRUTH, Case
from test_cli import call, refused
from test_pq import scene
from thingstuff.evaluating import Request, Scores, run, short_names, show
from thingstuff.evaluation.causes import CAUSES
from thingstuff.evaluation.result import classes_table, measures_table

TRUTHS = [scene(TRUTH, {"a": 0, "b": 1, "c": 2})] * 3
PREDICTIONS = [scene(PREDICTED, {"a": 0, "b": 1, "c": 2})] * 3
SCORE = Image.new("RGB", (6, 2), (200, 30, 30))


@pytest.fixture
def case(tmp_path: Path) -> Case:
    case = Case(tmp_path)
    case.save()
    return case


def files(case: Case) -> tuple[object, ...]:
    return "evaluate", "--gt", case.folder / "gt.json", "--pred", case.folder / "pred.json", "--threads", 1


def twin(case: Case, name: str) -> Path:
    """Write the prediction once more, as `name`.json with maps of its own in a folder elsewhere."""
    path = case.folder / f"{name}.json"
    path.write_text((case.folder / "pred.json").read_text())
    (case.folder / f"{name}-maps").mkdir()
    for image_id in IMAGES:
        (case.folder / f"{name}-maps" / f"{image_id}.png").write_bytes(case.map("gt", image_id).read_bytes())
    ids = {11: 1, 12: 2, 13: 3}
    content = json.loads(path.read_text())
    for annotation in content["annotations"]:
        for info in annotation["segments_info"]:
            info["id"] = ids[info["id"]]
    path.write_text(json.dumps(content))
    return path


def shown(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a command that must succeed, and return what it prints; nothing goes to stderr."""
    capsys.readouterr()
    assert call(*arguments) == 0
    output = capsys.readouterr()
    assert output.err == ""
    return output.out


def cells(text: str, first: str) -> list[str]:
    """Return the cells of the first table row that begins so."""
    line = next(line for line in text.splitlines() if line.lstrip("│ ").startswith(f"{first} "))
    return [cell.strip() for cell in line.strip("│").split("│")]


def plain(evaluation: ts.Evaluation) -> dict[str, Any]:
    """Return an evaluation as a JSON file gives it back."""
    found: dict[str, Any] = json.loads(json.dumps(evaluation.to_json()))
    return found


# What is printed


def test_the_tables_that_say_most(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, *files(case))
    assert text.splitlines()[0] == "3 pictures"
    assert cells(text, "All") == ["All", "55.6", "55.6", "66.7", "3"]
    assert cells(text, "Things") == ["Things", "33.3", "33.3", "50.0", "2"]
    assert cells(text, "Stuff") == ["Stuff", "100.0", "100.0", "100.0", "1"]
    assert "mIoU" in text
    # cat 4 of 6, car 2 of 4, sky 4 of 4; 10 of 12 pixels
    assert ["72.2", "83.3"] in [[c.strip() for c in line.strip("│").split("│")] for line in text.splitlines()]
    assert [cells(text, cause)[0] for cause in CAUSES] == list(CAUSES)
    assert cells(text, "poor mask")[:3] == ["poor mask", "3", "3"]
    for absent in ("Boundary", "│ cat", "worst", "Confused", "left out"):
        assert absent not in text


def test_more_tables_on_request(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, *files(case), "--per-class", "--boundary")
    assert cells(text, "cat") == ["cat", "66.7", "66.7", "100.0", "", "3", "0", "0"]
    assert text.count("1 class does not occur: sea") == 1
    assert "Boundary PQ things" in text
    text = shown(capsys, *files(case), "--why", "--boundary", "--per-class")
    for title in ("fwIoU", "Boundary PQ", "By size", "Pixels as predicted", "Confused pixels", "The worst pictures"):
        assert title in text
    assert cells(text, "nine")[1:] == ["55.6", "2", "1/1 poor mask"]
    assert "Per class: unmatched" in text


def test_a_wide_table_is_not_cut_short_in_a_pipe(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    case.gt["categories"][0]["name"] = "a class of a rather long name"
    case.save()
    text = shown(capsys, *files(case), "--why", "--per-class")
    assert "…" not in text
    assert text.count("a class of a rather long name") == 4


@pytest.mark.parametrize("name", ["[bold]", "[/x]", "ein süßes 猫", "<b>", "x" * 300])
def test_names_are_printed_as_they_are(case: Case, capsys: pytest.CaptureFixture[str], name: str) -> None:
    case.gt["categories"][0]["name"] = name
    case.gt["images"][0]["file_name"] = f"{name}.jpg"
    case.save()
    text = shown(capsys, *files(case), "--why", "--per-class", "--report", case.folder / "r.html")
    assert name[:50] in text
    page = Page(case.folder / "r.html")
    assert name in page.text["classes"]


def test_paths_may_look_like_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "a b [red]" / "[ü]"
    folder.mkdir(parents=True)
    case = Case(folder)
    case.save()
    twin(case, "[bold]x")
    arguments = (*files(case), "--pred", folder / "[bold]x.json")
    folders = ("--pred-folder", folder / "pred", "--pred-folder", folder / "[bold]x-maps")
    text = shown(capsys, *arguments, *folders)
    assert "[bold]x - pred" in text
    # a live bar names the prediction too
    terminal = Console(file=io.StringIO(), force_terminal=True, width=120)
    preds = [folder / "pred.json", folder / "[bold]x.json"]
    run(Request(gt=folder / "gt.json", pred=preds, pred_folder=[folder / "pred", folder / "[bold]x-maps"]), terminal)
    assert "comparing [bold]x" in terminal.file.getvalue()  # type: ignore[attr-defined]


def test_causes_are_named_in_full_where_the_terminal_is_narrow() -> None:
    console = Console(file=io.StringIO(), width=60)
    show(console, Scores({"it": ts.evaluate(TRUTHS, PREDICTIONS)}, None), why=True)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for cause in (*CAUSES, "inexact matches"):
        assert f"│ {cause} " in text


def test_a_name_that_the_output_cannot_hold(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    case.gt["categories"][0]["name"] = "猫"
    case.save()
    output = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", output)
    assert call(*files(case), "--per-class") == 0
    output.flush()
    assert b"\\u732b" in output.buffer.getvalue()  # type: ignore[attr-defined]


# What is written


def test_the_json_is_what_python_returns(case: Case, tmp_path: Path) -> None:
    (case.folder / "found.json").write_text(json.dumps(instances(case)))
    case.prediction(7)["segments_info"].append({"id": 99, "category_id": CAT})
    gt, pred = case.save()
    options = ("--lenient", "--boundary", "--instances", case.folder / "found.json")
    assert call(*files(case), *options, "--json", tmp_path / "out.json") == 0
    result = ts.evaluate(gt, pred, lenient=True, boundary=True, instances=case.folder / "found.json")
    written = json.loads((tmp_path / "out.json").read_text())
    assert written == plain(result)
    read = ts.Evaluation.from_json(written)
    assert plain(read) == written
    assert (read.pq, read.boundary, read.ap, read.left_out) == (
        result.pq,
        result.boundary,
        result.ap,
        result.left_out,
    )
    assert [problem.kind for problem in read.left_out] == ["segment without pixels"]
    assert read.measures == result.measures
    assert read.sums is None


@pytest.mark.parametrize("lacking", ["all", "semantic", "boundary", "ap", "errors", "left_out", "per_class"])
def test_json_that_is_no_evaluation(lacking: str) -> None:
    data = ts.evaluate(TRUTHS, PREDICTIONS).to_json()
    assert ts.Evaluation.from_json(data).all.pq == pytest.approx(5 / 9)
    del data[lacking]
    if lacking == "all":  # averages are reckoned anew
        assert ts.Evaluation.from_json(data).all.pq == pytest.approx(5 / 9)
        return
    with pytest.raises(ts.InputError, match=f"'{lacking}'.*to_json"):
        ts.Evaluation.from_json(data)


def test_what_a_refused_evaluation_writes_is_no_evaluation() -> None:
    with pytest.raises(ts.InputError, match="to_json"):
        ts.Evaluation.from_json({"scored": False, "problems": {}})


def test_a_line_for_each_picture(case: Case, tmp_path: Path) -> None:
    assert call(*files(case), "--per-picture", tmp_path / "lines.jsonl") == 0
    lines = [json.loads(line) for line in (tmp_path / "lines.jsonl").read_text().splitlines()]
    assert [line["image_id"] for line in lines] == list(IMAGES)
    for line in lines:
        assert {c["category_id"]: c["tp"] for c in line["classes"]} == {CAT: 1, 3: 0, SKY: 1}
        assert line["causes"] == {"poor mask": 2}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["gt", "gt.json", "lines.jsonl", "pred", "pred.json"]


def test_a_report_with_pictures_and_without(case: Case, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "7.jpg").write_bytes(b"no picture")
    SCORE.save(photos / "8.jpg")
    assert call(*files(case), "--report", tmp_path / "a.html", "--pictures", photos) == 0
    page = Page(tmp_path / "a.html")
    words = " ".join("".join(page.text.values()).split())
    assert [image["alt"] for image in page.all("img")].count("Picture of 8.jpg") == 1
    assert "Picture of 7.jpg" not in words
    assert "without 7.jpg (" in words
    assert "cannot be read" in words
    assert "and 1 more" in words
    assert call(*files(case), "--report", tmp_path / "b.html") == 0
    page = Page(tmp_path / "b.html")
    assert len(page.all("img")) == 9, "truth, prediction and errors of three pictures"
    assert "without" not in page.text["result"]
    del case.gt["images"][1]["file_name"]
    case.save()
    assert call(*files(case), "--lenient", "--report", tmp_path / "c.html", "--pictures", photos) == 0
    page = Page(tmp_path / "c.html")
    assert "Ground truth of 8" in [image["alt"] for image in page.all("img")]
    assert "faulty picture entry" in page.text["left"]


def test_the_command_in_a_report_scores_so_again(case: Case, tmp_path: Path) -> None:
    options = {"gt": tmp_path / "a b" / "gt.json", "pred": [Path("p.json")], "boundary": True, "threads": 1}
    words = "thingstuff evaluate --gt '{}' --pred p.json --threads 1 --boundary".format(options["gt"])
    assert Request(**options).command == words
    model = Request(data="data", weights=Path("run"), split="train", ap=True, settings=["a=1", "b=[1, 2]"])
    words = "thingstuff evaluate data --weights run --split train --ap --set a=1 --set 'b=[1, 2]'"
    assert model.command == words


def test_the_command_of_a_report_runs_although_its_files_are_there(case: Case, tmp_path: Path) -> None:
    outputs = {"json": tmp_path / "o.json", "report": tmp_path / "r.html", "per_picture": tmp_path / "p.jsonl"}

    def flag(name: str) -> str:
        return f"--{name.replace('_', '-')}"

    flags = [word for name, path in outputs.items() for word in (flag(name), path)]
    assert call(*files(case), *flags, "--pictures", tmp_path) == 0
    request = Request(
        gt=case.folder / "gt.json", pred=[case.folder / "pred.json"], pictures=tmp_path, threads=1, **outputs
    )
    assert request.written == list(outputs.values())
    words = shlex.split(request.command)
    given = ["thingstuff", "evaluate", "--gt", f"{request.gt}", "--pred", f"{case.folder / 'pred.json'}"]
    assert words[:-10] == given
    again = {name: path.with_stem(f"{path.stem}-again") for name, path in outputs.items()}
    assert words[-10:] == [
        "--pictures",
        f"{tmp_path}",
        "--threads",
        "1",
        *(w for n in again for w in (flag(n), f"{again[n]}")),
    ]
    assert " ".join(words) in " ".join(Page(tmp_path / "r.html").text["again"].split())
    assert call(*words[1:]) == 0
    assert again["json"].read_bytes() == outputs["json"].read_bytes()
    assert Page(again["report"]).rows == Page(outputs["report"]).rows


def test_no_report_shows_more_than_so_many_pictures(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("thingstuff.evaluating.EXAMPLES", 2)
    assert call(*files(case), "--report", tmp_path / "r.html") == 0
    captions = [image["alt"] for image in Page(tmp_path / "r.html").all("img")]
    assert captions == [f"{what} of {i}.jpg" for i in (7, 8) for what in ("Ground truth", "Prediction", "Errors")]


# AP of files


def instances(case: Case) -> list[dict[str, Any]]:
    """Return the true things as COCO results, all of score 1."""
    masks = {CAT: np.zeros((2, 6), np.uint8, order="F"), 3: np.zeros((2, 6), np.uint8, order="F")}
    masks[CAT][:, :2] = 1
    masks[3][:, 2:4] = 1
    found = []
    for image_id in IMAGES:
        for category_id, mask in masks.items():
            counts = run_lengths.encode(mask)["counts"].decode()
            segmentation = {"size": [2, 6], "counts": counts}
            entry = {"image_id": image_id, "category_id": category_id, "segmentation": segmentation, "score": 1.0}
            found.append(entry)
    return found


def test_perfect_instances(case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "found.json"
    path.write_text(json.dumps(instances(case)))
    text = shown(capsys, *files(case), "--instances", path, "--json", tmp_path / "out.json")
    ap = json.loads((tmp_path / "out.json").read_text())["ap"]
    assert ap["ap"] == ap["ap50"] == ap["ap75"] == pytest.approx(1, abs=1e-9)
    assert ap["ap_large"] is None
    assert ap["pictures"] == 3
    assert "AP50" in text
    path.write_text(json.dumps([i for i in instances(case) if i["image_id"] != "nine"]))
    fewer = ts.evaluate(*case.save(), instances=path).ap
    assert fewer is not None
    assert fewer.ap50 == pytest.approx(67 / 101, abs=1e-9), "recall reaches 2 of 3: 67 of the 101 recalls"
    path.write_text("[]")
    nothing = ts.evaluate(*case.save(), instances=path)
    assert nothing.measures["AP"] == 0
    assert [(p.kind, p.file, p.message) for p in nothing.left_out] == [
        ("no instances", f"{path}", "its list has no entry")
    ]
    assert "to note:\nnote: scored instances without a single one" in shown(capsys, *files(case), "--instances", path)
    path.write_text("[3]")
    told = [p.message for p in ts.evaluate(*case.save(), instances=path, lenient=True).left_out]
    assert told[1:] == ["its list has no entry that can be used"]


def test_faulty_instances(case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "found.json"
    path.write_text(json.dumps([*instances(case), {**instances(case)[0], "image_id": 77}, {"score": 1}]))
    wrong = (*files(case), "--instances", path, "--json", tmp_path / "out.json", "--per-picture", tmp_path / "p.jsonl")
    message = refused(capsys, *wrong)
    assert "faulty instance (2)" in message
    assert f"{path}: entry 6: image_id 77" in message
    assert f"{path}: entry 7: 'image_id' is missing" in message
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["scored"] is False
    assert not (tmp_path / "p.jsonl").exists()
    (tmp_path / "out.json").unlink()
    text = shown(capsys, *wrong, "--lenient")
    assert "left out or corrected: 2 problems of 1 kind" in text
    assert json.loads((tmp_path / "out.json").read_text())["ap"]["ap"] == pytest.approx(1, abs=1e-9)
    assert "nothing.json is not there" in refused(capsys, *files(case), "--instances", tmp_path / "nothing.json")
    path.write_text("{}")
    assert f"{path} is no COCO results JSON" in refused(capsys, *files(case), "--instances", path, "--lenient")


# Faulty files


def fault(case: Case) -> None:
    case.pred["annotations"] = [a for a in case.pred["annotations"] if a["image_id"] != 7]
    case.prediction(8)["segments_info"][0]["category_id"] = 99
    case.save()


def test_strictly_nothing_is_scored_and_all_is_told(
    case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fault(case)
    outputs = ("--json", tmp_path / "o.json", "--report", tmp_path / "r.html", "--per-picture", tmp_path / "p.jsonl")
    assert call(*files(case), *outputs) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert "2 problems of 2 kinds" in output.err
    assert "missing prediction (1)" in output.err
    assert "unknown category (1)" in output.err
    assert output.err.rstrip().endswith("--lenient scores what can be scored")
    assert "Traceback" not in output.err
    written = json.loads((tmp_path / "o.json").read_text())
    assert written["scored"] is False
    assert written["problems"]["count"] == 2
    assert [kind["name"] for kind in written["problems"]["kinds"]] == ["missing prediction", "unknown category"]
    assert not (tmp_path / "r.html").exists()
    assert [p.name for p in tmp_path.iterdir() if "p.jsonl" in p.name] == []


def test_leniently_what_was_left_out_is_listed(case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fault(case)
    text = shown(capsys, *files(case), "--lenient", "--json", tmp_path / "o.json", "--report", tmp_path / "r.html")
    assert text.splitlines()[0] == "scored 2 of 3 pictures"
    assert "left out or corrected: 2 problems of 2 kinds" in text
    assert "image 7: has no prediction" in text
    written = json.loads((tmp_path / "o.json").read_text())
    assert (written["pictures"], written["total_pictures"]) == (2, 3)
    assert ts.Evaluation.from_json(written).total == 3
    assert [(p["kind"], p["image_id"]) for p in written["left_out"]] == [
        ("missing prediction", 7),
        ("unknown category", 8),
    ]
    assert "2 problems of 2 kinds" in Page(tmp_path / "r.html").text["result"]


def test_a_note_is_no_problem(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    for annotation in case.pred["annotations"]:
        annotation["segments_info"] = []
    for image_id in IMAGES:
        case.draw("pred", image_id, ["......", "......"], 0)
    case.save()
    text = shown(capsys, *files(case))
    assert "to note:" in text
    assert "left out" not in text
    assert cells(text, "All") == ["All", "0.0", "0.0", "0.0", "3"]


def test_all_measures_like_panopticapi(case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case.truth(7)["segments_info"][1]["category_id"] = 4321  # panopticapi takes it in silence
    case.gt["images"][0]["file_name"] = 7
    case.save()
    (tmp_path / "found.json").write_text(json.dumps(instances(case)))
    outputs = ("--json", tmp_path / "o.json", "--report", tmp_path / "r.html", "--per-picture", tmp_path / "p.jsonl")
    options = ("--like-panopticapi", "--boundary", "--why", "--per-class", "--instances", tmp_path / "found.json")
    text = shown(capsys, *files(case), *outputs, *options, "--pictures", tmp_path)
    assert "Boundary PQ" in text
    written = json.loads((tmp_path / "o.json").read_text())
    assert written["pictures"] == 3
    assert [u["category_id"] for u in written["unlisted"]] == [4321]
    assert written["ap"]["per_class"][1]["truths"] == 2, "the car of picture 7 is none now"
    assert len((tmp_path / "p.jsonl").read_text().splitlines()) == 3
    case.pred["annotations"].pop()
    case.save()
    assert "lacks predictions" in refused(capsys, *files(case), "--like-panopticapi")


def test_an_infinite_iou_is_valid_json(case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case.truth(7)["segments_info"][2]["area"] = 0  # its union is then 0 + 4 - 4
    case.save()
    options = ("--like-panopticapi", "--why", "--per-class", "--json", tmp_path / "o.json")
    text = shown(capsys, *files(case), *options)
    assert "inf" in cells(text, "All")
    assert "nan" not in text
    text = (tmp_path / "o.json").read_text()
    assert "Infinity" not in text
    assert "NaN" not in text
    written = json.loads(text)
    assert written["all"]["pq"] is None
    assert ts.Evaluation.from_json(written).all.pq == math.inf


def test_no_way_to_go_on_is_told_where_there_is_none(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    def check(*preds: object) -> None:
        case.save()
        message = refused(capsys, *files(case), *preds)
        assert "cannot be scored against" in message
        assert "--lenient scores what can be scored" not in message
        assert "nothing is left to score" in refused(capsys, *files(case), *preds, "--lenient")

    other = twin(case, "other")
    predictions, case.pred["annotations"] = case.pred["annotations"], []
    check()
    other.write_text(json.dumps({"annotations": predictions[:1]}))  # it alone could be scored leniently
    check("--pred", other, "--pred-folder", case.folder / "pred", "--pred-folder", case.folder / "pred")
    case.pred["annotations"] = predictions
    for annotation in case.gt["annotations"]:
        annotation["segments_info"] = []
    check()


# Several predictions


def test_predictions_side_by_side(case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    better = twin(case, "better")
    arguments = (*files(case), "--pred", better)
    folders = ("--pred-folder", case.folder / "pred", "--pred-folder", case.folder / "better-maps")
    text = shown(capsys, *arguments, *folders, "--json", tmp_path / "o.json", "--boundary")
    assert "better - pred" in text
    row = cells(text, "All PQ")
    assert row[1:3] == ["55.6", "100.0"]
    assert row[3].startswith("+44.44 [")
    assert cells(text, "better")[1:3] == ["100.0", "100.0"], "mIoU and pixel accuracy"
    assert "Boundary PQ things" in text
    assert "poor mask" not in text
    written = json.loads((tmp_path / "o.json").read_text())
    assert list(written) == ["predictions", "comparison"]
    compared = ts.compare(
        case.folder / "gt.json",
        {"pred": case.folder / "pred.json", "better": better},
        pred_folders={"better": case.folder / "better-maps"},
        boundary=True,
    )
    assert written["comparison"] == compared.comparison.to_json()
    assert ts.Comparison.from_json(written["comparison"]) == compared.comparison
    for name in ("pred", "better"):
        assert written["predictions"][name] == plain(compared.evaluations[name])
    text = shown(capsys, *arguments, *folders, "--per-class")
    assert text.splitlines()[0] == "3 pictures"
    assert text.index("All PQ") < text.index("PQ of each class") < text.index("mIoU") < text.index("\npred\n")
    assert text.index("\npred\n") < text.index("\nbetter\n")
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in text.splitlines()]
    classes = [row for row in rows if row[0] in ("cat", "car", "sky", "sea")][:3]
    assert classes == [
        ["car", "0.0", "100.0", "+100.0"],
        ["cat", "66.7", "100.0", "+33.3"],
        ["sky", "100.0", "100.0", "+0.0"],
    ]
    assert "poor mask" in text
    text = shown(capsys, *arguments, *folders, "--why")
    assert text.index("All PQ") < text.index("\npred\n")
    assert text.count("The worst pictures") == 1, "the better one has no bad picture"


def test_the_problems_of_all_predictions_are_told(
    case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = case.folder / "other.json"
    folders = ("--pred-folder", case.folder / "pred", "--pred-folder", case.folder / "pred")
    both = (*files(case), "--pred", other, *folders, "--json", tmp_path / "o.json")
    fault(case)
    content = json.loads((case.folder / "pred.json").read_text())
    content["annotations"].pop()
    other.write_text(json.dumps(content))
    message = refused(capsys, *both)
    assert message.count("cannot be scored against") == 2
    assert "missing prediction (3)" in message
    assert f"{other}: image 8: has no prediction" in message
    assert json.loads((tmp_path / "o.json").read_text())["problems"]["count"] == 4
    (tmp_path / "o.json").unlink()
    text = shown(capsys, *both, "--lenient")
    assert text.splitlines()[0] == "compared 1 of 3 pictures"
    measures = text[text.index("mIoU") :]
    assert cells(measures, "pred")[1:3] == ["2 of 3", "63.3"], "cat 4 of 10, car 4 of 8, sky 8 of 8"
    assert cells(measures, "other")[1] == "1 of 3"
    assert text.count("left out or corrected: 2 problems") == 2
    assert "only pictures that all predictions have are compared; scored: pred 2, other 1" in " ".join(text.split())


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["pred.json"], ("pred",)),
        (["x/pred.json"], ("pred",)),
        (["a.json", "b.json"], ("a", "b")),
        (["runs/a/panoptic.json", "runs/b/panoptic.json"], ("a", "b")),
        (["a/x/panoptic.json", "b/x/panoptic.json"], ("a/x", "b/x")),
        (["a/p.json", "b/q.json"], ("p", "q")),
        (["a/p.json", "b/p.json", "b/q.json"], ("a/p", "b/p", "b/q")),
        (["panoptic.json", "a/panoptic.json"], ("panoptic", "a/panoptic")),
        (["p.json", "p.txt"], ("p.json", "p.txt")),
        (["v1.5.json", "v1.6.json"], ("v1.5", "v1.6")),
    ],
)
def test_short_names(paths: list[str], names: tuple[str, ...]) -> None:
    assert short_names(tuple(map(Path, paths))) == names


# What is refused


def options_of(case: Case) -> dict[str, Sequence[object]]:
    gt, pred = case.folder / "gt.json", case.folder / "pred.json"
    return {
        "files": ("--gt", gt, "--pred", pred),
        "model": (case.folder, "--weights", case.folder),
        "two": ("--gt", gt, "--pred", pred, "--pred", gt),
        "folder": (case.folder,),
        "gt": (gt,),
        "map": (case.map("gt", 7),),
        "nothing": (case.folder / "nothing",),
        "nowhere": (case.folder / "no" / "x",),
        "new": (case.folder / "new",),
    }


# what is given (words as they are, or names of `options_of`), and what the message says
REFUSED: list[tuple[str, list[str]]] = [
    ("", ["--gt and --pred are missing", "DATA --weights RUN", "--gt FILE --pred FILE"]),
    ("folder", ["--weights is missing"]),
    ("--weights folder", ["DATA is missing"]),
    ("--gt gt", ["--pred is missing"]),
    ("--pred gt", ["--gt is missing"]),
    ("--lenient", ["--gt and --pred are missing"]),
    ("model files", ["DATA, --weights", "--gt, --pred"]),
    ("files --ap", ["--ap is for a model"]),
    ("files --set a=1", ["--set is for a model"]),
    ("files --split train", ["--split is for a model"]),
    ("files --weights folder", ["--weights is for a model"]),
    ("model --lenient", ["--lenient for files"]),
    ("model --like-panopticapi", ["--like-panopticapi for files"]),
    ("model --threads 2", ["--threads for files"]),
    ("model --instances gt", ["--instances for files"]),
    ("model --pictures folder --report new", ["--pictures for files"]),
    ("model --gt-folder folder", ["--gt-folder for files"]),
    ("model --pred-folder folder", ["--pred-folder for files"]),
    ("files --lenient --like-panopticapi", ["--lenient and --like-panopticapi", "choose one"]),
    ("two --instances gt", ["--instances is for one prediction"]),
    ("two --report new", ["--report is for one prediction"]),
    ("two --per-picture new", ["--per-picture is for one prediction"]),
    ("two --pred-folder folder", ["2 --pred and 1 --pred-folder"]),
    ("files --pred-folder folder --pred-folder folder", ["1 --pred and 2 --pred-folder"]),
    ("files files", ["twice among the --pred"]),
    ("files --pictures folder", ["--pictures", "--report FILE"]),
    ("files --pictures nothing --report new", ["nothing is no folder"]),
    ("files --gt-folder nothing", ["nothing is no folder"]),
    ("files --pred-folder gt", ["gt.json is no folder"]),
    ("files --json gt", ["gt.json is there already; give another --json file"]),
    ("files --report gt", ["gt.json is there already; give another --report file"]),
    ("files --per-picture gt", ["gt.json is there already; give another --per-picture file"]),
    ("files --json -", ["- is no file's name", "give another --json file"]),
    ("files --report -", ["- is no file's name", "give another --report file"]),
    ("files --per-picture -", ["- is no file's name", "give another --per-picture file"]),
    ("--gt gt --pred map", ["7.png is a picture or another binary file, no JSON", "--pred-folder"]),
    ("--gt map --pred gt", ["7.png is a picture or another binary file, no JSON", "gt_folder"]),
    ("files --json nowhere", ["lies in no folder; give another --json file"]),
    ("files --json new --per-picture new", ["is the --json file too; give another --per-picture file"]),
    ("files --pred nothing", ["nothing is not there"]),
    ("--gt nothing --pred gt", ["nothing is not there"]),
    ("--gt . --pred gt", [". is a folder"]),
    ("--gt gt --pred /", ["/ is a folder"]),
]


@pytest.mark.parametrize(("given", "said"), REFUSED)
def test_options_that_do_not_go_together(
    case: Case, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, given: str, said: list[str]
) -> None:
    monkeypatch.setattr("thingstuff.evaluating.scored_pairs", lambda *_, **__: pytest.fail("files were opened"))
    before = sorted(case.folder.rglob("*"))
    known = options_of(case)
    words = [word for name in given.split() for word in known.get(name, (name,))]
    message = refused(capsys, "evaluate", *words)
    for words_said in said:
        assert words_said in message
    assert sorted(case.folder.rglob("*")) == before


def test_a_folder_that_may_not_be_written_to(
    case: Case, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("thingstuff.evaluating.scored_pairs", lambda *_, **__: pytest.fail("files were opened"))
    monkeypatch.setattr(os, "access", lambda path, mode: path != case.folder)
    message = refused(capsys, *files(case), "--json", case.folder / "o.json")
    assert f"{case.folder} may not be written to; give another --json file" in message


def test_a_disk_that_is_full_takes_not_the_tables(
    case: Case, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: str) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("thingstuff.evaluating.atomic_write", full)
    assert call(*files(case), "--json", case.folder / "o.json") == 2
    output = capsys.readouterr()
    assert cells(output.out, "All")[1] == "55.6"
    assert "No space left on device" in output.err


def test_a_reader_that_reads_no_further_takes_not_the_file(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object, **__: object) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("thingstuff.evaluating.show", gone)
    assert call(*files(case), "--json", case.folder / "o.json") != 0
    assert json.loads((case.folder / "o.json").read_text())["pictures"] == 3


@pytest.mark.usefixtures("interruptible")
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for another process")
def test_ctrl_c_leaves_no_half_file(case: Case, tmp_path: Path) -> None:
    count = 40_000  # more than can be scored before the signal comes
    for data in (case.gt, case.pred):
        data["annotations"] = [{**data["annotations"][0], "image_id": i} for i in range(count)]
    case.gt["images"] = [{"id": i, "file_name": f"{i}.jpg", "height": 2, "width": 6} for i in range(count)]
    case.save()
    out = tmp_path / "out"
    out.mkdir()
    outputs = ("--json", out / "o.json", "--report", out / "r.html", "--per-picture", out / "p.jsonl")
    line = [sys.executable, "-m", "thingstuff.cli", *map(str, (*files(case), *outputs))]
    process = subprocess.Popen(line, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + 100
    while not any(path.stat().st_size for path in out.iterdir()):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 130, output
    assert output.rstrip().endswith("stopped; nothing was written")
    assert "Traceback" not in output
    assert list(out.iterdir()) == []


def test_what_was_written_before_a_stop_is_named(
    case: Case, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("thingstuff.evaluating.show", stop)
    assert call(*files(case), "--json", case.folder / "o.json") == 130
    assert capsys.readouterr().err == f"stopped; written: {case.folder / 'o.json'}\n"


# In Python


def test_compare_lists_of_maps() -> None:
    compared = ts.compare(TRUTHS, {"one": PREDICTIONS, "same": PREDICTIONS, "truth": TRUTHS}, resamples=50, seed=3)
    same, truth = compared.comparison.row("all", "pq").differences
    assert same == (0.0, 0.0, 0.0, 0.0)
    assert truth.value == pytest.approx(4 / 9)
    assert truth.clear
    assert compared.evaluations["one"].to_json() == ts.evaluate(TRUTHS, PREDICTIONS).to_json()
    again = ts.compare(TRUTHS, {"one": PREDICTIONS, "same": PREDICTIONS, "truth": TRUTHS}, resamples=50, seed=3)
    assert again.comparison == compared.comparison


def test_compare_files(case: Case) -> None:
    gt, pred = case.save()
    compared = ts.compare(gt, {"a": pred, "b": pred}, resamples=20, threads=1)
    for row in compared.comparison.rows:
        assert row.differences == ((0.0, 0.0, 0.0, 0.0),)
    fault(case)
    with pytest.raises(ts.InputError, match=r"cannot be scored against"):
        ts.compare(gt, {"a": pred, "b": pred})
    assert ts.compare(gt, {"a": pred}, lenient=True).evaluations["a"].pictures == 2
    with pytest.raises(ts.InputError, match=r"pred_folders has 'c'"):
        ts.compare(gt, {"a": pred}, pred_folders={"c": case.folder})


def test_compare_wants_the_pictures_own_sums() -> None:
    from thingstuff.evaluation.evaluator import compare_evaluations

    whole = ts.evaluate(TRUTHS, PREDICTIONS)
    read = ts.Evaluation.from_json(whole.to_json())
    with pytest.raises(ts.InputError, match="old: an evaluation read from JSON has no sums per picture"):
        compare_evaluations({"new": whole, "old": read})
    with pytest.raises(ts.InputError, match="no prediction to compare"):
        ts.compare(TRUTHS, {})


@pytest.mark.parametrize(
    ("arguments", "options", "said"),
    [
        ((TRUTHS, PREDICTIONS), {"lenient": True}, "without folders, .*lenient"),
        ((TRUTHS, PREDICTIONS), {"threads": 2}, "threads, which are for files"),
        ((TRUTHS, PREDICTIONS), {"instances": "x.json"}, "instances"),
        ((TRUTHS, PREDICTIONS[:2]), {}, "3 maps of ground truth and 2 predictions"),
        (([], []), {}, "at least one"),
        (("gt.json", PREDICTIONS), {}, "two JSON files, or two lists"),
        ((TRUTHS, "pred.json"), {}, "two JSON files, or two lists"),
        (("nothing.json", "pred.json"), {}, "nothing.json is not there"),
    ],
)
def test_what_evaluate_refuses(arguments: tuple[Any, Any], options: dict[str, Any], said: str) -> None:
    with pytest.raises(ts.InputError, match=said):
        ts.evaluate(*arguments, **options)


def test_what_is_neither_a_file_nor_maps(case: Case) -> None:
    # as without the tests' own check of types
    evaluate, compare = ts.evaluate.__wrapped__, ts.compare.__wrapped__
    for gt, pred, said in (
        (TRUTHS, [TRUTHS[0], 2, 3], r"pred holds at \[1\] what is of type int; give two JSON files, or two lists"),
        (1, 2, "gt is of type int; give two JSON files"),
        (TRUTHS, None, "pred is of type NoneType"),
        (TRUTHS, {"a": TRUTHS}, "pred is of type dict"),
    ):
        with pytest.raises(ts.InputError, match=said):
            evaluate(gt, pred)
    with pytest.raises(ts.InputError, match=r"preds is of type list; give a dictionary by the predictions' names"):
        compare(TRUTHS, [PREDICTIONS])
    with pytest.raises(ts.InputError, match=r"pred_folders is of type str"):
        compare("gt.json", {"a": "pred.json"}, pred_folders="pred")
    with pytest.raises(ts.InputError, match="is a picture or another binary file, no JSON"):
        ts.evaluate(case.folder / "gt.json", case.map("pred", 7))


def test_evaluate_streams_and_tells_how_far_it_is(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    path = tmp_path / "lines.jsonl"
    result = ts.evaluate(TRUTHS, PREDICTIONS, per_picture=path, progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert [json.loads(line)["image_id"] for line in path.read_text().splitlines()] == [0, 1, 2]
    assert (result.all, result.things, result.stuff) == (result.pq.all, result.pq.things, result.pq.stuff)
    assert result.per_class == result.pq.per_class
    with pytest.raises(ts.InputError, match="is there already"):
        ts.evaluate(TRUTHS, PREDICTIONS, per_picture=path)


NOTHING = scene(["......", "......"], {})
THINGS = scene(TRUTH, {"a": 0, "b": 1, "c": 1})
STUFF = scene(TRUTH, {"a": 2, "b": 3, "c": 3})


@pytest.mark.parametrize(
    ("truth", "prediction", "averages"),
    [
        pytest.param(THINGS, THINGS, ("100.0", "100.0", "n/a"), id="things alone"),
        pytest.param(STUFF, STUFF, ("100.0", "n/a", "100.0"), id="stuff alone"),
        pytest.param(STUFF, NOTHING, ("0.0", "n/a", "0.0"), id="nothing predicted"),
        pytest.param(NOTHING, NOTHING, ("n/a", "n/a", "n/a"), id="nothing at all"),
        pytest.param(NOTHING, STUFF, ("n/a", "n/a", "n/a"), id="all void"),
    ],
)
def test_evaluations_of_less_than_all(truth: ts.Panoptic, prediction: ts.Panoptic, averages: tuple[str, ...]) -> None:
    result = ts.evaluate([truth], [prediction], boundary=True)
    console = Console(file=io.StringIO(), width=160)
    show(console, Scores({"it": result}, None), per_class=True, why=True)
    show(console, Scores({"it": result}, None), per_class=True)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert tuple(cells(text, name)[1] for name in ("All", "Things", "Stuff")) == averages
    names = ["mIoU", "pixel accuracy", "Boundary PQ", "Boundary PQ things", "Boundary PQ stuff"]
    assert list(result.measures) == names
    expected = [None if a == "n/a" else float(a) / 100 for a in averages]
    assert list(result.measures.values())[2:] == expected
    assert result.measures["mIoU"] == expected[0]
    assert plain(ts.Evaluation.from_json(plain(result))) == plain(result)
    compared = ts.compare([truth], {"a": [prediction], "b": [prediction]}, resamples=10)
    assert compared.comparison.row("all", "pq").values[0].value == expected[0]


def test_two_hundred_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    categories = ts.Categories(
        tuple(f"class {i}" for i in range(200)),
        tuple(i < 80 for i in range(200)),
        tuple(i * 10**13 for i in range(200)),
    )
    ids = np.arange(1, 201, dtype=np.int32).repeat(4).reshape(20, 40)
    truth = ts.Panoptic(ids, tuple(ts.Segment(i + 1, i, 4) for i in range(200)), categories)
    for name in ("gt", "pred"):
        truth.save(tmp_path / name, "a")
    options = ("--why", "--per-class", "--report", tmp_path / "r.html", "--json", tmp_path / "o.json")
    text = shown(
        capsys, "evaluate", "--gt", tmp_path / "gt/panoptic.json", "--pred", tmp_path / "pred/panoptic.json", *options
    )
    assert cells(text, "All") == ["All", "100.0", "100.0", "100.0", "200", "200", "0", "0"]
    assert cells(text, "class 199")[1:4] == ["100.0"] * 3
    assert json.loads((tmp_path / "o.json").read_text())["per_class"][199]["category_id"] == 199 * 10**13


def test_measures_side_by_side() -> None:
    with_boundary = ts.evaluate(TRUTHS, TRUTHS, boundary=True)
    console = Console(file=io.StringIO(), width=120)
    console.print(measures_table({"[b]": with_boundary, "other": ts.evaluate(TRUTHS, PREDICTIONS)}))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert cells(text, "[b]") == ["[b]", *["100.0"] * 5]
    assert cells(text, "other") == ["other", "72.2", "83.3", "n/a", "n/a", "n/a"]


def test_classes_of_several_predictions(case: Case) -> None:
    fault(case)
    fewer = ts.evaluate(*case.save(), lenient=True)
    whole = ts.evaluate(TRUTHS, TRUTHS)
    console = Console(file=io.StringIO(), width=120)
    console.print(classes_table({"a": whole, "b": fewer, "[c]": whole}))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    # in picture 8 the cat is void where it is predicted: 4 of 6 pixels match in one picture of two
    assert cells(text, "cat") == ["cat", "100.0", "44.4", "100.0"]
    assert text.index("│ cat") < text.index("│ car") < text.index("│ sky"), "in the order of the categories"
    assert "each prediction over its own pictures" in text
    nothing = ts.evaluate([NOTHING], [STUFF])
    console.print(classes_table({"all": ts.evaluate([STUFF], [STUFF]), "none": nothing}))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert cells(text, "sea") == ["sea", "100.0", "n/a", "n/a"]


def test_long_image_ids_in_all_outputs(case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long = "picture " * 60 + "[/red]"
    for data in (case.gt, case.pred):
        for annotation in data["annotations"]:
            annotation["image_id"] = long if annotation["image_id"] == "nine" else annotation["image_id"]
    case.gt["images"][2] = {"id": long, "file_name": "x.jpg", "height": 2, "width": 6}
    case.save()
    outputs = ("--json", tmp_path / "o.json", "--report", tmp_path / "r.html", "--per-picture", tmp_path / "p.jsonl")
    text = shown(capsys, *files(case), *outputs, "--why")
    assert "[/red]" in text
    assert long in {w["image_id"] for w in json.loads((tmp_path / "o.json").read_text())["errors"]["worst"]}
    case.pred["annotations"] = case.pred["annotations"][1:]
    case.save()
    message = refused(capsys, *files(case))
    assert max(map(len, message.splitlines())) < 300, "an id is cut short in a message"


def test_evaluating_files_loads_no_torch(case: Case) -> None:
    code = (
        "import sys; from thingstuff.cli import main\n"
        f"sys.argv = {['thingstuff', *map(str, files(case))]!r}\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=100)
    assert done.stdout.splitlines()[-1] == "False"
