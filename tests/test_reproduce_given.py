"""Reproducing with given weights, settings and folders that do not fit: told before anything is written or mixed up."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from test_cli import call, refused
from test_reproduce import MODEL, SETTINGS, WORDS, read, request
from thingstuff import checkpoint, reproduce
from thingstuff.backbone_weights import convert_backbone, save_backbone
from thingstuff.backbones import BackboneConfig, ResNet
from thingstuff.config import changed
from thingstuff.data.coco import CocoPanoptic
from thingstuff.data.scenes import SceneConfig, make_scenes
from thingstuff.errors import InputError
from thingstuff.model_evaluation import evaluate_run
from thingstuff.models import create
from thingstuff.panoptic import Categories
from thingstuff.reproduce_plans import INFERENCE_ONLY, Request, plans_of
from thingstuff.training import Interrupted

CATEGORIES = Categories(("sky", "disc"), (False, True), (1, 2))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("given")
    return make_scenes(folder / "data", train=2, val=1, seed=1, config=SceneConfig(size=(64, 80)))


@pytest.fixture(scope="module")
def weights(data: Path) -> Path:
    """Weights of the row 64 of encoder-channels, with a threshold of their own."""
    (plan,) = plans_of(request("encoder-channels", data, data, rows=("64",)))
    model = create(MODEL, CocoPanoptic.open(str(data), "val").categories, changed(plan.config.model, CHANGED))
    checkpoint.save(data.parent / "own.safetensors", model)
    return data.parent / "own.safetensors"


CHANGED: dict[str, Any] = {"thing_threshold": 0.9, "preprocess.short_side": 32}


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise Interrupted(0)

    monkeypatch.setattr(reproduce, "train_run", interrupted)


def begun(out: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((out / "reproduce.json").read_text(encoding="utf-8"))
    return values


# ---- given weights


def test_weights_that_are_none_of_the_row_s_write_nothing(
    data: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    detr, others, backbone = tmp_path / "detr.safetensors", tmp_path / "o.safetensors", tmp_path / "wb"
    checkpoint.save(detr, create("detr-panoptic-tiny", CATEGORIES))
    (plan,) = plans_of(request("encoder-channels", data, tmp_path, rows=("64",)))
    checkpoint.save(others, create(MODEL, CATEGORIES, plan.config.model))
    backbone.mkdir()
    small = ResNet(BackboneConfig(depth=18, weights="none", stem_channels=8, res2_channels=8))
    kind = "ResNet (torchvision's keys)"
    save_backbone(backbone / "backbone.safetensors", convert_backbone(small.state_dict(), kind))
    out = tmp_path / "out"
    cases = {
        f"16={tmp_path / 'nothere'}/": r"row 16: .*nothere",
        f"16={weights}": r"row 16: .*own\.safetensors is no model of row 16: feature_encoder\.",
        f"64={detr}": r"row 64: .* is a detr-panoptic-tiny, row 64 needs a PanopticFCN",
        f"64={others}": r"row 64: .*o\.safetensors: the categories .* are not those of .*val.*; .*lack",
        f"64={backbone}": r"row 64: .*wb holds a backbone alone, which --backbone or backbone\.weights= takes",
        f"64={backbone / 'backbone.safetensors'}": r"holds a backbone alone",
    }
    for word, message in cases.items():
        start = ("reproduce", "encoder-channels", "--coco", data, "--out", out, *WORDS, "--weights", word)
        for rows in ((), ("--rows", "32")):
            said = refused(capsys, *start, *rows)
            assert re.search(message, said), said
            assert "= trains it after all" in said
    assert not out.exists()


@pytest.mark.usefixtures("no_training")
def test_a_row_that_was_given_weights_can_be_trained_after_all(data: Path, weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ("reproduce", "encoder-channels", "--coco", data, "--out", out, *WORDS, "--rows", "64")
    assert call(*words, "--weights", f"64={weights}") == 0
    assert begun(out)["tables"]["encoder-channels"]["weights"] == {"64": str(weights)}
    assert call(*words) == 0
    assert call(*words, "--weights", "64=") == 130
    assert begun(out)["tables"]["encoder-channels"]["weights"] == {}
    assert call(*words) == 130


def test_given_weights_are_evaluated_as_the_row_says_and_named(
    data: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[Any] = []
    evaluate = reproduce.evaluate_model
    monkeypatch.setattr(
        reproduce, "evaluate_model", lambda model, *a, **k: shown.append(model.config) or evaluate(model, *a, **k)
    )
    wanted = request("encoder-channels", data, tmp_path, rows=("64",), weights={"64": str(weights)}, recipe="scratch")
    markdown, _ = reproduce.reproduce(wanted)
    (plan,) = plans_of(wanted)
    assert set(plan.changes) == INFERENCE_ONLY
    (config,) = shown
    assert config == changed(config, plan.changes)
    assert (config.thing_threshold, config.preprocess.short_side) == (0.05, 64)
    row = read(tmp_path, "encoder-channels")["64"]
    assert (row["weights"], row["recipe"]) == (str(weights), "scratch")
    assert read(tmp_path, "encoder-channels")["16"]["weights"] is None
    assert f"Row 64: weights `{weights}` given" in markdown.read_text(encoding="utf-8")
    told = json.loads((tmp_path / row["run"] / "evaluation.json").read_text(encoding="utf-8"))
    val = CocoPanoptic.open(str(data), "val")
    assert told == {"weights": str(weights), "changes": dict(plan.changes), "data": str(val.paths.json)}


def test_weights_of_other_categories_are_not_evaluated(data: Path, tmp_path: Path) -> None:
    (plan,) = plans_of(request("encoder-channels", data, tmp_path, rows=("64",)))
    file = tmp_path / "others.safetensors"
    checkpoint.save(file, create(MODEL, CATEGORIES, plan.config.model))
    with pytest.raises(InputError, match=r"others\.safetensors: the categories .* of .*\.json .*the weights lack"):
        evaluate_run(file, str(data), "val", progress=lambda *_: pytest.fail("predicted"))


def test_a_run_whose_weights_changed_is_measured_again(data: Path, weights: Path, tmp_path: Path) -> None:
    (plan,) = plans_of(request("encoder-channels", data, tmp_path, rows=("64",)))
    plan.run.mkdir(parents=True)
    (plan.run / "report.html").touch()
    (plan.run / "last.safetensors").write_bytes(weights.read_bytes())
    reproduce.reproduce(request("encoder-channels", data, tmp_path, rows=("64",)))
    assert plan.result() is not None
    os.utime(plan.run / "last.safetensors", (1, 1))
    assert plan.result() is None


# ---- settings that blur rows


@pytest.mark.parametrize(
    ("table", "settings", "message"),
    [
        ("star", {"encoder_deformable": False}, "encoder_deformable is what the rows of table star differ in"),
        ("star", {"encoder_channels": 64}, "encoder_channels is what the rows of table star differ in"),
        ("results", {"model.thing_threshold": 0.3}, "thing_threshold is what the rows of table results differ in"),
        ("schedule", {"steps": 2}, "the rows 1x and 2x of table schedule are the same"),
    ],
)
def test_settings_that_blur_rows_are_refused(table: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        plans_of(Request(table, "data", Path("out"), settings=settings))


def test_sizes_are_no_settings_that_blur_rows() -> None:
    small = Request("results", "data", Path("out"), settings={"preprocess.short_side": 128, "preprocess.max_side": 200})
    assert len(plans_of(replace(small, rows=("r50-1x", "r50-1x-fast", "r50-400-3x")))) == 3
    with pytest.raises(InputError, match="rows r50-400-3x and r50-512-3x of table results are the same"):
        plans_of(small)


def test_a_row_that_was_not_asked_for_takes_no_figures_of_another(data: Path, weights: Path, tmp_path: Path) -> None:
    wanted = request("schedule", data, tmp_path, rows=("1x",))
    (plan,) = plans_of(wanted)
    plan.run.mkdir(parents=True)
    (plan.run / "report.html").touch()
    (plan.run / "last.safetensors").write_bytes(weights.read_bytes())
    reproduce.reproduce(wanted)
    assert [name for name, row in read(tmp_path, "schedule").items() if row["measured"]] == ["1x"]


# ---- the folder


@pytest.mark.usefixtures("no_training")
def test_a_damaged_file_is_one_message(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    words = ("reproduce", "star", "--coco", data, "--out", out, *WORDS)
    assert call(*words) == 130
    whole = (out / "reproduce.json").read_text(encoding="utf-8")
    for text in ("", whole[:40], "[]", '{"coco": "x"}', whole.replace('"tables"', '"table"')):
        (out / "reproduce.json").write_text(text, encoding="utf-8")
        assert re.search(r"reproduce\.json is damaged \(.*\); restore it, or give", refused(capsys, *words))
    (out / "reproduce.json").write_text(whole, encoding="utf-8")
    plan = plans_of(request("star", data, out))[0]
    plan.evaluation.mkdir(parents=True)
    for text in ("{", "[]", "{}"):
        (plan.evaluation / "result.json").write_text(text, encoding="utf-8")
        assert re.search(r"result\.json is damaged \(.*\); remove it", refused(capsys, *words))


@pytest.mark.usefixtures("no_training")
def test_what_is_the_folder_s_is_told_as_the_folder_s(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert call("reproduce", "star", "--coco", data, "--out", out, *WORDS) == 130
    said = refused(capsys, "reproduce", "encoder-channels", "--coco", data, "--out", out, *WORDS, "steps=3")
    assert f"{out} was begun with steps=2, now it is steps=3" in said
    assert "table" not in said
    assert call("reproduce", "encoder-channels", "--coco", data, "--out", out, *WORDS, "--recipe", "scratch") == 130


def test_a_file_is_no_folder(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "afile"
    file.touch()
    for out in (file, file / "x"):
        said = refused(capsys, "reproduce", "star", "--coco", data, "--out", out, *WORDS)
        assert f"{file} is a file; give a folder" in said


def test_the_hint_at_rows_is_given_where_a_row_is_left(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    end = ("--coco", data, "--out", tmp_path / "out")
    said = refused(capsys, "reproduce", "star", *end, "--model", "panoptic-fpn-tiny")
    assert "which panoptic-fpn-tiny is not; leave --model out" in said
    assert "--recipe" not in said
    assert "--rows" not in said
    assert "--rows" not in refused(capsys, "reproduce", "star", *end, "--model", "nope")
    other = refused(capsys, "reproduce", "coordinates", *end, "--model", "panoptic-fpn-tiny")
    assert "or give another --recipe" in other


def test_lacking_pictures_are_told_before_anything_is_written(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = SceneConfig(size=(64, 80))
    for split in ("train", "val"):
        data = make_scenes(tmp_path / split, train=1, val=1, seed=1, config=config)
        CocoPanoptic.open(str(data), split).records[0].picture.unlink()
        given = ("--weights", f"64={weights}", "--rows", "64") if split == "val" else ()
        out = tmp_path / "out"
        said = refused(capsys, "reproduce", "encoder-channels", "--coco", data, "--out", out, *WORDS, *given)
        assert "cannot be used" in said
        assert not out.exists()


def test_ctrl_c_in_an_evaluation_says_how_to_go_on(
    data: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(reproduce, "evaluate_model", stopped)
    end = ("--coco", data, "--out", tmp_path / "out", *WORDS, "--weights", f"64={weights}", "--rows", "64")
    assert call("reproduce", "encoder-channels", *end) == 130
    captured = capsys.readouterr()
    assert "stopped; go on with the same command" in captured.err
    assert "1 row, 0 trainings to do" in captured.out


def test_a_backbone_s_folder_is_its_file(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "wb"
    folder.mkdir()
    start = ("reproduce", "star", "--coco", data, "--out", tmp_path / "out", *WORDS)
    said = refused(capsys, *start, "--backbone", folder)
    assert "no such file; give weights that `thingstuff weights import` wrote" in said
    (folder / "backbone.safetensors").touch()
    asked = replace(request("star", data, tmp_path / "out"), backbone=str(folder))
    found = reproduce.begun(asked, reproduce.find_table("star"))
    assert found.backbone == str(folder / "backbone.safetensors")


def test_a_run_of_epochs_is_named_after_them() -> None:
    (plan,) = plans_of(Request("star", "data", Path("out"), rows=("star",), settings={"epochs": 1}))
    assert "-1-epochs-" in plan.run.name
    assert "steps" not in plan.run.name
    assert "steps" in SETTINGS
