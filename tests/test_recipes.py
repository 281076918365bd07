"""Recipes by name: the model each is for, settings and schedules, and the list of them with others' figures."""

import io
import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from test_cli import call, refused
from thingstuff.config import validated
from thingstuff.errors import InputError
from thingstuff.models import MODELS, find
from thingstuff.models.base import PreprocessConfig
from thingstuff.optim import OptimConfig, learning_rate
from thingstuff.published import FIGURES
from thingstuff.recipes import RECIPES
from thingstuff.recipes.listing import COLUMNS, recipe_rows, recipe_table
from thingstuff.runs import RunConfig, command_of, make_config
from thingstuff.tables import TABLES

SIZE = PreprocessConfig()
FOR_A_MODEL = [name for name, make in RECIPES.items() if make(SIZE).model_name]


def made(recipe: str, model: str | None = None, **changes: Any) -> RunConfig:
    return make_config("data", model, changes, recipe)


@pytest.mark.parametrize("name", FOR_A_MODEL)
def test_a_recipe_brings_its_model_and_all_its_settings(name: str) -> None:
    config = made(name)
    recipe = RECIPES[name](find(config.model_name)[0].preprocess)
    assert config.model_name == recipe.model_name
    values = config.model.model_dump(mode="json")
    for key, value in recipe.model.items():
        place = values
        for part in key.split("."):
            place = place[part]
        assert place == value, key
    assert config.train == recipe.train


def test_what_a_recipe_does_not_name_stays_the_model_s() -> None:
    for name in FOR_A_MODEL:
        recipe, config = RECIPES[name](SIZE), made(name)
        assert recipe.model_name is not None
        preset, ours = find(recipe.model_name)[0].model_dump(), config.model.model_dump()
        named = {key.split(".")[0] for key in recipe.model}
        assert {k: v for k, v in ours.items() if k not in named} == {k: v for k, v in preset.items() if k not in named}


def test_the_variants_are_what_their_names_say() -> None:
    star = made("panoptic-fcn-star-r101-dcn-3x")
    values = star.model.model_dump()
    assert (values["encoder_channels"], values["encoder_deformable"]) == (256, True)
    assert (values["backbone"]["depth"], values["backbone"]["deformable_stages"]) == (101, (3, 4, 5))
    assert (values["unlabelled"], values["stuff_area_relative"]) == ("negative", False)
    plain = made("panoptic-fcn-r101-3x").model.model_dump()
    assert (plain["encoder_channels"], plain["backbone"]["deformable_stages"]) == (64, ())
    assert [made(f"panoptic-fcn-r50-{n}x").train.steps for n in (1, 2, 3)] == [90_000, 180_000, 270_000]


@pytest.mark.parametrize("name", [name for name in RECIPES if name.endswith("-fast")])
def test_fast_variants_are_trained_as_the_others(name: str) -> None:
    fast, other = made(name), made(name.removesuffix("-fast"))
    assert fast.train == other.train
    thresholds = {"thing_threshold": 0.2, "stuff_threshold": 0.1}
    assert fast.model == other.model.model_copy(update=thresholds)


def test_another_model_of_the_class_takes_the_recipe_s_settings() -> None:
    config = made("panoptic-fcn-star-r50-3x", "panoptic-fcn-tiny", **{"backbone.depth": 34, "encoder_channels": 16})
    values = config.model.model_dump()
    assert config.model_name == "panoptic-fcn-tiny"
    assert (values["encoder_deformable"], values["unlabelled"]) == (True, "negative")
    assert (values["encoder_channels"], values["backbone"]["depth"], values["fpn_channels"]) == (16, 34, 64)


@pytest.mark.parametrize(
    ("recipe", "model"),
    [
        ("panoptic-fcn-r50-3x", "detr-panoptic-r50"),
        ("panoptic-fcn-1x", "panoptic-fpn-r50"),
        ("panoptic-fpn-r50-1x", "panoptic-fcn-r50"),
    ],
)
def test_a_model_of_another_class_is_refused(recipe: str, model: str) -> None:
    with pytest.raises(InputError, match=rf"recipe {recipe} is for .*, which {model} is not; leave --model out"):
        made(recipe, model)


def test_the_command_refuses_unknown_recipes_and_other_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = ("train", tmp_path, "--out", tmp_path / "run")
    assert "unknown recipe 'x'; known are scratch" in refused(capsys, *start, "--recipe", "x")
    other = ("--recipe", "panoptic-fcn-r50-3x", "--model", "detr-panoptic-tiny")
    assert "detr-panoptic-tiny is not" in refused(capsys, *start, *other)


def test_deformable_stages_want_a_model_that_has_them() -> None:
    with pytest.raises(InputError, match="deformable_stages needs bottlenecks"):
        made("panoptic-fcn-r50-dcn-3x", "panoptic-fcn-tiny")


def test_a_run_s_command_names_a_recipe_that_makes_it_again(tmp_path: Path) -> None:
    for name in ("panoptic-fcn-r50-3x", "panoptic-fcn-r50-512-3x-fast", "panoptic-fpn-r50-3x"):
        config = made(name)
        words = command_of(config, tmp_path).split()
        assert not [word for word in words if "=" in word], words
        again = made(words[words.index("--recipe") + 1], words[words.index("--model") + 1])
        assert (again.model, again.train) == (config.model, config.train)


@pytest.mark.parametrize(
    ("name", "steps", "short_sides", "max_side", "test", "positives"),
    [
        ("r50-1x", 90_000, (640, 672, 704, 736, 768, 800), 1333, (800, 1333), 7),
        ("r50-3x", 270_000, (640, 672, 704, 736, 768, 800), 1333, (800, 1333), 7),
        ("r50-400-3x", 270_000, (352, 384, 416, 448, 480, 512), 854, (400, 666), 3),
        ("r50-512-3x", 270_000, (352, 384, 416, 448, 480, 512), 854, (512, 854), 3),
        ("r50-600-3x", 270_000, (440, 472, 504, 536, 568, 600), 1000, (600, 1000), 5),
        ("star-r50-3x", 270_000, (640, 672, 704, 736, 768, 800), 1333, (800, 1333), 7),
    ],
)
def test_the_authors_variants_by_their_figures(
    name: str, steps: int, short_sides: tuple[int, ...], max_side: int, test: tuple[int, int], positives: int
) -> None:
    config = made(f"panoptic-fcn-{name}")
    train, model = config.train, config.model
    assert (train.steps, train.batch_size, train.augment.short_sides) == (steps, 16, short_sides)
    assert (train.augment.max_side, train.optim.lr, train.optim.kind) == (max_side, 0.01, "sgd")
    assert (train.optim.weight_decay, train.optim.momentum, train.optim.warmup_steps) == (1e-4, 0.9, 1000)
    assert (model.preprocess.short_side, model.preprocess.max_side) == test
    assert model.model_dump()["positives"] == positives


# ---- schedules


def test_panoptic_fpn_learns_as_in_detectron2(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, steps, drops in (("1x", 90_000, (60_000, 80_000)), ("3x", 270_000, (210_000, 250_000))):
        train = made(f"panoptic-fpn-r50-{name}").train
        assert (train.steps, train.batch_size, train.optim.kind, train.optim.clip) == (steps, 16, "sgd", "none")
        assert (train.optim.weight_decay, train.optim.norm_decay, train.optim.momentum) == (1e-4, 0, 0.9)
        assert (train.augment.short_sides, train.augment.max_side) == (tuple(range(640, 801, 32)), 1333)
        wanted = {0: 2e-5, 500: 0.02 * 0.5005, 1000: 0.02, drops[0] - 1: 0.02, drops[0]: 0.002}
        wanted |= {drops[1] - 1: 0.002, drops[1]: 0.0002, steps - 1: 0.0002}
        assert {s: learning_rate(train.optim, s, steps) for s in wanted} == pytest.approx(wanted)
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert made("panoptic-fpn-r50-1x").train.batch_size == 2
    assert made("panoptic-fcn-r50-400-3x").train.batch_size == 2


def test_a_single_drop_is_read_as_before() -> None:
    old = {"schedule": "step", "drop": 0.1, "drop_at": 0.5, "warmup_steps": 0}
    config = OptimConfig.model_validate_json(json.dumps(old))
    assert config.drop_at == 0.5
    assert [learning_rate(config, step, 10) for step in (0, 4, 5, 9)] == pytest.approx([0.01, 0.01, 0.001, 0.001])
    several = config.model_copy(update={"drop_at": (0.5, 0.8)})
    assert OptimConfig.model_validate_json(several.model_dump_json()) == several
    assert [learning_rate(several, step, 10) for step in (4, 5, 7, 8)] == pytest.approx([0.01, 1e-3, 1e-3, 1e-4])


@pytest.mark.parametrize("drop_at", [1.5, -0.1, [], [0.5, 2]])
def test_drops_are_shares_of_the_steps(drop_at: Any) -> None:
    with pytest.raises(InputError, match=r"drop_at=.*share of the steps, from 0 to 1"):
        validated(OptimConfig, {"drop_at": drop_at}, "optim")


# ---- the list


def test_figures_are_of_recipes_and_have_a_source() -> None:
    assert set(FIGURES) <= set(RECIPES)
    for name, figures in FIGURES.items():
        assert figures.source, name
        assert figures.pq is not None, name
        values = [getattr(figures, f.name) for f in fields(figures) if f.name not in ("source", "mark")]
        assert all(0 < value < 100 for value in values if value is not None), name
        if figures.sq is not None and figures.rq is not None:
            # PQ is a mean of products, so it lies near the product of the means, and below both
            assert figures.pq < min(figures.sq, figures.rq), name


def test_the_list_names_every_recipe_with_its_model() -> None:
    rows = recipe_rows()
    assert [row["recipe"] for row in rows] == list(RECIPES)
    assert all(row["about"] for row in rows)
    assert {row["model"] for row in rows} <= {None, *MODELS}
    by_name = {row["recipe"]: row for row in rows}
    assert by_name["detr-two-step"]["stages"] == [{"epochs": 300}, {"epochs": 25}]
    assert by_name["panoptic-fcn-r50-3x"]["stages"] == [{"steps": 270_000}]
    assert recipe_table().row_count == len(RECIPES)


def test_the_command_lists_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("recipes", "--json") == 0
    assert json.loads(capsys.readouterr().out) == recipe_rows()
    assert call("recipes") == 0
    shown = capsys.readouterr().out
    lines = {line.split()[1]: line.split() for line in shown.splitlines() if line.startswith("│ ") and line[2] != " "}
    assert set(lines) == set(RECIPES)
    cells = [cell for cell in lines["panoptic-fcn-r50-600-3x-fast"] if cell != "│"]
    assert cells[-7:] == ["42.7", "80.8", "51.4", "-", "-", "31.6", "43.9"]
    assert [cell for cell in lines["scratch"] if cell != "│"][-7:] == ["-"] * 7
    assert "47.5‡" in shown
    assert "none measured by this project" in shown


@pytest.mark.parametrize("width", [80, 100, 160])
def test_names_and_figures_are_whole_in_a_narrow_terminal(width: int) -> None:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(recipe_table(width))
    assert isinstance(console.file, io.StringIO)
    lines = [re.split(r"[\s│]+", line.strip(" │")) for line in console.file.getvalue().splitlines()]
    shown = {words[0]: words[-7:] for words in lines if words[0] in RECIPES}
    for row in recipe_rows():
        figures = ["-" if row[key] is None else f"{row[key]:.1f}{row['mark']}" for key in COLUMNS]
        assert shown[row["recipe"]] == figures, row["recipe"]
    text = console.file.getvalue()
    assert ("--json" in text) != ("what it is" in text)
    assert ("what it is" in text) == (width == 160)
    assert "- not in the sources that we could read" in text


def test_figures_from_memory_are_marked() -> None:
    marked = {row["recipe"]: row for row in recipe_rows()}["panoptic-fcn-r50-2x"]
    assert [marked[key] for key in COLUMNS] == [43.2, None, None, 48.8, 34.7, 34.3, 43.4]
    assert (marked["mark"], marked["source"]) == ("†", "cited from memory of the paper, not checked against its text")
    assert "r50-2x" not in [row.name for row in TABLES["results"].rows]


def test_a_bgr_backbone_gets_the_means_the_authors_trained_with() -> None:
    swapped = [123.675, 116.28, 103.53]
    bgr = {"preprocess.channel_order": "BGR", "preprocess.mean": swapped[::-1]}
    recipe = RECIPES["panoptic-fcn-r50-1x"](PreprocessConfig(channel_order="BGR", mean=(103.53, 116.28, 123.675)))
    assert recipe.model["preprocess.mean"] == swapped
    assert "preprocess.mean" not in RECIPES["panoptic-fcn-r50-1x"](SIZE).model
    assert "preprocess.mean" not in RECIPES["fine-tune"](PreprocessConfig(channel_order="BGR")).model
    # what the user says goes before both
    assert list(made("panoptic-fcn-r50-1x", **bgr).model.preprocess.mean) == swapped[::-1]
