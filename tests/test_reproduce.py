"""Reproducing tables on made pictures: what rows share, going on after a kill, given weights, wrong turns, files."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from test_cli import call, refused
from thingstuff import checkpoint, reproduce
from thingstuff.config import changed, dotted_keys
from thingstuff.data.scenes import SceneConfig, make_scenes
from thingstuff.data.transforms import remains, target_of
from thingstuff.evaluation.result import Evaluation
from thingstuff.model_evaluation import evaluate_run
from thingstuff.models import MODELS, create
from thingstuff.panoptic import Categories
from thingstuff.recipes import RECIPES
from thingstuff.reproduce_plans import INFERENCE_ONLY, Request, plans_of
from thingstuff.runs import read_config
from thingstuff.tables import TABLES
from thingstuff.training import Interrupted, Silence
from two_stages import losses

MODEL = "panoptic-fcn-tiny"
SETTINGS: dict[str, Any] = {
    "steps": 2,
    "batch_size": 2,
    "workers": 0,
    "threads": 1,
    "augment.short_sides": [64],
    "preprocess.short_side": 64,
    "backbone.stem_channels": 8,
    "backbone.res2_channels": 8,
    "fpn_channels": 32,
    "semantic_channels": 32,
    "position_channels": 32,
    "kernel_channels": 32,
}
WORDS = ["--model", MODEL, *(f"{key}={json.dumps(value)}" for key, value in SETTINGS.items())]
CATEGORIES = Categories(("sky", "disc"), (False, True), (1, 2))
RUNS = {
    "kernel-generator": 5,
    "coordinates": 4,
    "fusion-threshold": 1,
    "fusion-nms": 1,
    "encoder-channels": 4,
    "feature-type": 3,
    "weighted-dice": 6,
    "schedule": 3,
    "star": 2,
    "results": 7,
}
"""Trainings of each table; tables share them, so all together need fewer."""
ALL_RUNS = 25
COCO_PICTURES = 118_287
"""Of its train split."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reproduce")
    return make_scenes(folder / "data", train=4, val=2, seed=1, config=SceneConfig(size=(64, 80)))


def request(table: str, data: Path, out: Path, **changes: Any) -> Request:
    return replace(Request(table, str(data), out, MODEL, settings=SETTINGS), **changes)


def read(out: Path, table: str) -> dict[str, Any]:
    values = json.loads((out / f"{table}.json").read_text(encoding="utf-8"))
    return {row["row"]: row for row in values["rows"]}


# ---- what rows need and share


def test_rows_share_trainings_within_tables_and_between_them(tmp_path: Path) -> None:
    runs = {name: {plan.run for plan in plans_of(Request(name, "data", tmp_path))} for name in TABLES}
    assert {name: len(found) for name, found in runs.items()} == RUNS
    assert len(set().union(*runs.values())) == ALL_RUNS
    evaluations = [plan.evaluation for name in TABLES for plan in plans_of(Request(name, "data", tmp_path))]
    assert len({*evaluations}) < len(evaluations)
    for name in TABLES:
        found = [plan.evaluation for plan in plans_of(Request(name, "data", tmp_path))]
        assert len({*found}) == len(found), name


def test_the_documented_costs_are_the_plans(tmp_path: Path) -> None:
    document = (Path(__file__).parents[1] / "docs" / "reproduce.md").read_text(encoding="utf-8")
    told = dict(re.findall(r"^\| `([\w-]+)` (\|.*\|)$", document, re.MULTILINE))
    steps: dict[Path, int] = {}
    for name, table in TABLES.items():
        runs = {plan.run: plan.config.train.steps for plan in plans_of(Request(name, "data", tmp_path))}
        total = sum(runs.values())
        cost = f"| {len(table.rows)} | {len(runs)} | {total:,} | {total * 16 / COCO_PICTURES:.0f} |"
        assert told.pop(name) == cost, name
        steps |= runs
    assert not told
    total = sum(steps.values())
    epochs = f"{total * 16 / COCO_PICTURES:.0f} epochs of the {COCO_PICTURES:,} pictures"
    assert f"{len(steps)} trainings, {total:,} steps, {epochs}" in document


def test_a_row_s_model_is_its_recipe_s_with_its_settings(tmp_path: Path) -> None:
    for name, table in TABLES.items():
        for plan, row in zip(plans_of(Request(name, "data", tmp_path)), table.rows, strict=True):
            recipe = RECIPES[row.recipe](plan.config.model.preprocess)
            model = changed(plan.config.model, plan.changes).model_dump(mode="json")
            for key, value in {**recipe.model, **row.settings}.items():
                place = model
                for part in key.split("."):
                    place = place[part]
                assert place == value, (name, row.name, key)
            assert plan.config.train == recipe.train
            assert set(plan.changes) <= INFERENCE_ONLY


def test_the_number_of_processes_and_of_workers_makes_no_other_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (plan,) = plans_of(Request("star", "data", tmp_path, rows=("star",)))
    more = replace(Request("star", "data", tmp_path, rows=("star",)), settings={"workers": 9, "save_every": 7})
    assert plans_of(more)[0].run == plan.run
    other = replace(more, settings={"optim.lr": 0.02})
    assert plans_of(other)[0].run != plan.run
    monkeypatch.setenv("WORLD_SIZE", "8")
    (shared,) = plans_of(more)
    assert (shared.config.train.batch_size, shared.run) == (2, plan.run)


def other_value(value: Any) -> Any:
    return not value if isinstance(value, bool) else 2 * value if isinstance(value, int) else value / 2


@pytest.mark.parametrize("name", ["panoptic-fcn-tiny", "panoptic-fpn-tiny"])
def test_no_training_sees_what_acts_in_inference_only(name: str) -> None:
    preset = MODELS[name][0]
    keys = [key for key in dotted_keys(preset) if key in INFERENCE_ONLY]
    assert {"thing_score", "overlap", "preprocess.short_side"} <= {*keys}
    if name == MODEL:
        assert {*keys} == INFERENCE_ONLY
    places = np.ones((64, 96), np.uint8)
    places[8:40, 10:50] = 2
    target = target_of(places, remains(places), [0, 1], [False, False])
    picture = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)

    def losses_of(changes: dict[str, Any]) -> dict[str, float]:
        torch.manual_seed(0)
        model = create(name, CATEGORIES, changed(preset, changes)).train()
        torch.manual_seed(1)
        return {key: value.item() for key, value in model.loss(model(model.pad([picture])), [target]).items()}

    usual = losses_of({})
    values = {key: preset.model_dump()["preprocess"] for key in keys if key.startswith("preprocess.")}
    changes = {
        key: other_value(values[key][key.split(".")[1]] if key in values else preset.model_dump()[key]) for key in keys
    }
    assert losses_of(changes) == usual
    if name == MODEL:
        assert losses_of({"positives": 1}) != usual


# ---- the whole path


class Killed(Silence):
    """A power cut in a step of the second training."""

    def __init__(self) -> None:
        self.trainings = 0

    def start(self, step: int, steps: int) -> None:
        self.trainings += 1

    def step(self, record: dict[str, Any]) -> None:
        if self.trainings == 2 and record["step"] == 2:
            raise KeyboardInterrupt


def test_a_killed_table_goes_on_where_it_stopped(data: Path, tmp_path: Path) -> None:
    wanted = request("encoder-channels", data, tmp_path / "out", rows=("16", "32"))
    wanted = replace(wanted, settings={**SETTINGS, "save_every": 1})
    first, second = plans_of(wanted)
    with pytest.raises(KeyboardInterrupt):
        reproduce.reproduce(wanted, Killed())
    assert first.result() is not None
    assert not second.trained
    assert (second.run / "last.safetensors").is_file()
    before = {path: path.stat().st_mtime_ns for path in first.run.rglob("*") if path.is_file()}
    rows = read(wanted.out, "encoder-channels")
    assert rows["16"]["measured"]
    assert not rows["32"]["measured"]
    said: list[str] = []
    resumed_at: list[int] = []

    class Seen(Silence):
        def start(self, step: int, steps: int) -> None:
            resumed_at.append(step)

    markdown, plain = reproduce.reproduce(wanted, Seen(), said.append)
    assert resumed_at == [1]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert "2 rows, 1 training to do" in said[0]
    assert said[1].startswith("16: measured before")
    whole = request("encoder-channels", data, tmp_path / "whole", rows=("32",))
    reproduce.reproduce(whole)
    (again,) = plans_of(whole)
    assert list(losses(second.run)) == [1, 2]
    assert losses(second.run)[2] == pytest.approx(losses(again.run)[2], rel=1e-6)
    assert again.result() == second.result()
    assert [name for name, row in read(wanted.out, "encoder-channels").items() if row["measured"]] == ["16", "32"]
    assert (markdown, plain) == (wanted.out / "encoder-channels.md", wanted.out / "encoder-channels.json")


@pytest.fixture(scope="module")
def reproduced(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one whole table."""
    out = tmp_path_factory.mktemp("reproduced") / "out"
    assert call("reproduce", "fusion-nms", "--coco", data, "--out", out, *WORDS) == 0
    return out


def test_a_table_is_written_beside_the_paper_s_figures(data: Path, reproduced: Path) -> None:
    rows = read(reproduced, "fusion-nms")
    assert list(rows) == ["neither", "nms", "fusion", "both"]
    assert len([*(reproduced / "runs").iterdir()]) == 1
    assert rows["nms"]["paper"] == {"pq": 38.7, "pq_things": 42.6, "pq_stuff": 32.9, "ap": 27.8, "miou": 41.7}
    for row in rows.values():
        folder = reproduced / row["run"]
        result = Evaluation.from_json(json.loads((folder / "result.json").read_text()))
        assert row["measured"]["pq"] == pytest.approx(100 * (result.all.pq or 0))
        assert row["measured"]["miou"] == pytest.approx(100 * (result.semantic.miou or 0))
        assert result.ap is not None
        assert row["measured"]["ap"] == (None if result.ap.ap is None else 100 * result.ap.ap)
        settings = {**row["settings"], "stuff_area_relative": False, "preprocess.short_side": 64}
        run = folder.parents[1]
        assert result == evaluate_run(run / "last.safetensors", str(data), "val", changes=settings, ap=True)
        assert read_config(run).model.model_dump()["unlabelled"] == "negative"


def test_every_measured_cell_of_the_markdown_links_to_its_evaluation(reproduced: Path) -> None:
    text = (reproduced / "fusion-nms.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert lines[0] == "| row | | PQ | PQth | PQst | AP | mIoU |"
    assert lines[1:8:2] == [
        "| neither | paper † | 38.7 | 42.6 | 32.9 | 25.4 | 41.7 |",
        "| nms | paper † | 38.7 | 42.6 | 32.9 | 27.8 | 41.7 |",
        "| fusion | paper † | 41.3 | 46.9 | 32.9 | 32.1 | 41.7 |",
        "| both | paper † | 41.3 | 46.9 | 32.8 | 32.3 | 41.7 |",
    ]
    links = dict(re.findall(r"^\[([\w.-]+)\]: (\S+)$", text, re.MULTILINE))
    for line, (name, row) in zip(lines[2:9:2], read(reproduced, "fusion-nms").items(), strict=True):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells[:2] == ["", "measured"]
        for cell, key in zip(cells[2:], ("pq", "pq_things", "pq_stuff", "ap", "miou"), strict=True):
            value, link = re.fullmatch(r"\[([\d.]+|n/a)\]\[([\w.-]+)\]", cell).groups()  # type: ignore[union-attr]
            assert link == name
            assert value == ("n/a" if row["measured"][key] is None else f"{row['measured'][key]:.1f}")
        assert (reproduced / links[name] / "result.json").is_file()
    assert "† cited from memory of the paper, not checked against its text." in text
    assert "not the paper's training" in text


def test_another_table_takes_what_is_there(data: Path, reproduced: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reproduce, "train_run", lambda *_, **__: pytest.fail("trained again"))
    shown: list[Any] = []
    evaluate = reproduce.evaluate_model
    monkeypatch.setattr(
        reproduce, "evaluate_model", lambda model, *a, **k: shown.append(model.config) or evaluate(model, *a, **k)
    )
    wanted = request("fusion-threshold", data, reproduced, rows=("0.90", "0.95", "0.90-all-classes"))
    reproduce.reproduce(wanted)
    assert [(config.similarity, config.class_aware) for config in shown] == [(0.95, True), (0.9, False)]
    rows = read(reproduced, "fusion-threshold")
    assert [name for name, row in rows.items() if row["measured"]] == ["0.90", "0.95", "0.90-all-classes"]
    assert rows["0.90"]["run"] == read(reproduced, "fusion-nms")["fusion"]["run"]
    assert rows["0.80"]["run"] is None
    both = request("coordinates", data, reproduced, rows=("both",))
    reproduce.reproduce(both)
    assert len(shown) == 2


def test_given_weights_are_evaluated_and_not_trained(
    data: Path, reproduced: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reproduce, "train_run", lambda *_, **__: pytest.fail("trained"))
    run = next((reproduced / "runs").iterdir())
    weights = tmp_path / "weights"
    weights.mkdir()
    shutil.copy(run / "last.safetensors", weights / "last.safetensors")
    out = tmp_path / "out"
    words = ("--coco", data, "--out", out, *WORDS)
    given = ("--weights", f"r50-1x={weights}", "--weights", f"r50-1x-fast={weights}")
    assert call("reproduce", "results", *words, "--rows", "r50-1x,r50-1x-fast", *given) == 0
    rows = read(out, "results")
    assert rows["r50-1x"]["paper"] == {
        **dict.fromkeys(TABLES["results"].columns),
        **{"pq": 41.1, "sq": 79.8, "rq": 49.9, "ap": 32.2, "miou": 41.5},
    }
    for name, fast in (("r50-1x", {}), ("r50-1x-fast", {"thing_threshold": 0.2, "stuff_threshold": 0.1})):
        settings = {"preprocess.short_side": 64, "stuff_area_relative": False, **fast}
        result = evaluate_run(weights, str(data), "val", changes=settings, ap=True)
        assert Evaluation.from_json(json.loads((out / rows[name]["run"] / "result.json").read_text())) == result
    # what was given is remembered, so the same table goes on without naming it again
    monkeypatch.setattr(reproduce, "evaluate_model", lambda *_, **__: pytest.fail("evaluated again"))
    assert call("reproduce", "results", *words, "--rows", "r50-1x") == 0
    assert "Paper:" in (out / "results.md").read_text()


def test_given_weights_of_another_network_are_refused(
    data: Path, reproduced: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = next((reproduced / "runs").iterdir())
    start = ("reproduce", "encoder-channels", "--coco", data, "--out", tmp_path / "out", *WORDS, "--rows", "16")
    message = refused(capsys, *start, "--weights", f"16={run}")
    assert f"{run} is no model of row 16: feature_encoder." in message
    assert not (tmp_path / "out").exists()


def test_a_backbone_s_file_begins_every_training(tmp_path: Path) -> None:
    file = tmp_path / "resnet.safetensors"
    model = create(MODEL, CATEGORIES)
    checkpoint.save(file, model)  # only its being there matters before a training
    (plan,) = plans_of(Request("star", "data", tmp_path, backbone=str(file), rows=("star",)))
    assert plan.config.model.model_dump()["backbone"]["weights"] == str(file)
    assert plan.run != plans_of(Request("star", "data", tmp_path, rows=("star",)))[0].run


# ---- wrong turns


def test_ctrl_c_says_how_to_go_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise Interrupted(1)

    monkeypatch.setattr(reproduce, "train_run", interrupted)
    assert call("reproduce", "star", "--coco", data, "--out", tmp_path / "out", *WORDS) == 130
    assert "stopped and saved at step 1; go on with the same command" in capsys.readouterr().err


def test_wrong_turns_are_one_message_and_write_nothing(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    end = ("--coco", data, "--out", out)
    cases: list[tuple[tuple[object, ...], str]] = [
        (("kernels", *end), r"unknown table 'kernels'; known are kernel-generator, .*results"),
        (("star", *end, "--rows", "plain,stars"), r"--rows: table star has no row 'stars'; it has plain, star"),
        (("star", *end, "--weights", "best=w"), r"--weights: table star has no row 'best'"),
        (("star", *end, "--weights", "star"), r"--weights 'star' is not of the form ROW=PATH"),
        (("star", "--coco", tmp_path / "none", "--out", out), r"none"),
        (("star", *end, "--recipe", "scratch"), r"rows of table star are recipes; leave --recipe out"),
        (("encoder-channels", *end, "encoder_channels=8"), r"encoder_channels is what the rows .* differ in"),
        (("encoder-channels", *end, "model.encoder_channels=8"), r"encoder_channels is what the rows .* differ in"),
        (("star", *end, "--backbone", tmp_path / "R-50.pkl"), r"--backbone .*R-50\.pkl: no such file"),
        (("star", *end, "optim.ls=1"), r"row plain: unknown setting 'optim\.ls'.* 'optim\.lr'"),
        (("results", *end, *WORDS), r"row panoptic-fpn-r50-1x: recipe .* is for .*; with --rows it can be left out"),
    ]
    for words, message in cases:
        said = refused(capsys, "reproduce", *words)
        assert re.search(message, said), said
    assert not out.exists()


def test_what_a_folder_was_begun_with_stays(
    data: Path, reproduced: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = ("reproduce", "fusion-nms", "--out", reproduced)
    moved = shutil.copytree(data, tmp_path / "moved")
    resnet = tmp_path / "resnet.pth"
    resnet.touch()
    cases: list[tuple[tuple[object, ...], str]] = [
        (("--coco", moved, *WORDS), rf"was begun with --coco {data}, now it is --coco {moved}; leave that as it was"),
        (("--coco", data, *WORDS, "steps=3"), r"was begun with steps=2, now it is steps=3"),
        (("--coco", data, *WORDS, "seed=1"), r"was begun with no seed, now it is seed=1"),
        (("--coco", data, *WORDS[2:]), rf"was begun with --model {MODEL}, now it is no --model"),
        (
            ("--coco", data, *WORDS, "--recipe", "scratch"),
            r"table fusion-nms was begun with no --recipe, now it is --r",
        ),
        (("--coco", data, *WORDS, "--backbone", resnet), r"was begun with no --backbone"),
    ]
    for words, message in cases:
        said = refused(capsys, *start, *words)
        assert re.search(message, said), said
    assert call(*start, "--coco", data, *WORDS, "save_every=5") == 0
