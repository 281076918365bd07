"""Runs that begin with another model's weights: their settings, going on, the command and its messages."""

import json
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import thingstuff as ts
from detr_states import SMALL, as_authors, hub_files
from hub_server import Hub, empty_cache, serving, use
from thingstuff import checkpoint
from thingstuff.cli import main
from thingstuff.coco_categories import COCO_PANOPTIC
from thingstuff.data.scenes import SceneConfig, make_scenes
from thingstuff.models import MODELS, create
from thingstuff.models.base import PanopticModel
from thingstuff.panoptic import Categories
from thingstuff.pretrained import PUBLISHED
from thingstuff.runs import command_of, make_config, read_config, train_run
from thingstuff.training import Silence
from thingstuff.transfer import settings_of

OWN = Categories(("brick", "PERSON"), (True, True), (5, 2))
NAME = "detr-panoptic-r50"
TINY = {"preprocess.short_side": 64, "backbone.stem_channels": 8, "backbone.res2_channels": 8}
TRAINING = {"steps": 2, "batch_size": 2, "workers": 0, "evaluate_every": 9, "augment.short_sides": [64]}


def tiny_model(**changes: Any) -> PanopticModel:
    return create("detr-panoptic-tiny", OWN, **{**TINY, **changes}).eval()


def like_published() -> PanopticModel:
    """A model smaller than its name's with weights that can be trained."""
    torch.manual_seed(0)
    return create(NAME, COCO_PANOPTIC, SMALL)


# ---- settings


def test_settings_come_from_the_source() -> None:
    bgr = {"channel_order": "BGR", "mean": (1.0, 2.0, 3.0), "std": (1.0, 1.0, 1.0), "short_side": 96}
    source = tiny_model(outputs=20, hidden=256, preprocess=bgr, threshold=0.25)
    own = settings_of(source, "detr-panoptic-tiny")
    assert own["hidden"] == 256
    assert own["threshold"] == 0.25
    assert own["preprocess.short_side"] == 96
    assert own["backbone.stem_channels"] == 8
    assert "outputs" not in own
    other = settings_of(source, NAME)
    assert other == {
        "preprocess.channel_order": "BGR",
        "preprocess.mean": [1.0, 2.0, 3.0],
        "preprocess.std": [1.0, 1.0, 1.0],
    }
    assert settings_of(create(NAME, COCO_PANOPTIC, MODELS[NAME][0]), NAME) == {}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_scenes(
        tmp_path_factory.mktemp("scenes") / "data", train=4, val=1, seed=1, config=SceneConfig(size=(64, 80))
    )


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A file of published weights, of a model smaller than its name's."""
    torch.save(as_authors(like_published().state_dict()), tmp_path / "detr.pth")
    return tmp_path / "detr.pth"


def test_a_run_s_model_is_the_source_s_with_an_output_per_class(data: Path, published: Path) -> None:
    changes = {**TRAINING, "preprocess.short_side": 64}
    for name in (None, NAME):
        config = make_config(str(data), name, changes, first_weights=str(published))
        assert config.model_name == NAME
        size = SMALL.preprocess.model_copy(update={"short_side": 64})
        assert config.model == SMALL.model_copy(update={"outputs": None, "preprocess": size})
        assert config.first_weights == str(published)
        assert config.train.optim == make_config(str(data), NAME, {}, "detr-fine-tune").train.optim
    with pytest.raises(ts.InputError, match=r"backbone\.weights and --from"):
        make_config(str(data), None, {"backbone.weights": "imagenet"}, first_weights=str(published))


def test_from_scratch_s_source_the_recipe_is_for_fine_tuning(data: Path, tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "last.safetensors", create("panoptic-fcn-tiny", OWN))
    config = make_config(str(data), None, {}, first_weights=str(tmp_path))
    assert config.model_name == "panoptic-fcn-tiny"
    assert config.train.optim == make_config(str(data), config.model_name, {}, "fine-tune").train.optim


# ---- runs


class Killed(Silence):
    def __init__(self, step: int) -> None:
        self.at = step

    def step(self, record: dict[str, Any]) -> None:
        if record["step"] == self.at:
            raise KeyboardInterrupt


def last_of(run: Path) -> dict[str, Tensor]:
    return checkpoint.load_training(run / "last.safetensors")[0].state_dict()


def test_a_run_goes_on_without_its_source(data: Path, tmp_path: Path) -> None:
    source = tmp_path / "source.safetensors"
    checkpoint.save(source, tiny_model())
    config = make_config(str(data), None, {**TRAINING, "save_every": 1}, val_split=None, first_weights=str(source))
    said: list[str] = []
    train_run(config, tmp_path / "whole", say=said.append)
    assert [line.split(":")[0] for line in said] == ["taken", "classes"]
    with pytest.raises(KeyboardInterrupt):
        train_run(config, tmp_path / "run", listener=Killed(2))
    source.unlink()
    assert read_config(tmp_path / "run") == config
    said.clear()
    train_run(read_config(tmp_path / "run"), tmp_path / "run", resume=True, say=said.append)
    assert said == []
    whole, run = last_of(tmp_path / "whole"), last_of(tmp_path / "run")
    for key, value in whole.items():
        torch.testing.assert_close(run[key], value, rtol=1e-5, atol=1e-7)
    with pytest.raises(ts.InputError, match="no such weights"):
        train_run(config, tmp_path / "anew")


def test_configs_of_before_have_no_first_weights(data: Path, tmp_path: Path) -> None:
    config = make_config(str(data), "panoptic-fcn-tiny", {})
    text = config.model_dump_json(exclude={"first_weights", "first_settings"})
    (tmp_path / "config.yaml").write_text(text)
    assert read_config(tmp_path) == config
    assert config.first_weights is None


def test_boxes_then_masks_in_two_runs(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    boxes, masks = tmp_path / "boxes", tmp_path / "masks"
    settings = [f"{key}={json.dumps(value)}" for key, value in {**TRAINING, "augment.window": None}.items()]
    small = [f"{key}={value}" for key, value in TINY.items()]
    first = ("train", data, "--model", "detr-panoptic-tiny", "--recipe", "detr-boxes", "--out", boxes)
    assert call(*first, *small, *settings) == 0
    told = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("next:"))
    words = shlex.split(told)[2:]
    assert words[:2] == ["train", str(data)]
    assert words[-6:] == ["--from", str(boxes), "--recipe", "detr-masks", "--out", f"{boxes}-masks"]
    kept = {f"{key}={json.dumps(TRAINING[key])}" for key in ("batch_size", "augment.short_sides")}
    assert {*kept, "augment.window=null", "unlabelled=negative"} <= {*words[2:-6]}
    words[-1] = str(masks)
    assert call(*words, *settings) == 0
    shown = capsys.readouterr().out
    assert "classes: 9 of 9 known" in shown
    assert f"next:   thingstuff predict PICTURES --weights {masks}" in shown
    before, after = last_of(boxes), last_of(masks)
    moved = {key for key in after if not torch.equal(after[key], before[key])}
    of_masks = {key for key in after if key.startswith(("attention_maps.", "mask_head."))}
    assert moved
    assert moved <= of_masks
    assert any(key.startswith("mask_head.") for key in moved)
    assert read_config(masks).model == read_config(boxes).model


@pytest.mark.parametrize(
    ("changes", "recipe"),
    [({}, None), ({"queries": 9, "steps": 7}, None), ({"preprocess.short_side": 128}, "detr-masks")],
)
def test_a_run_s_command_makes_it_again(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], recipe: str | None
) -> None:
    checkpoint.save(tmp_path / "last.safetensors", tiny_model(min_area=9))
    config = make_config(str(data), None, changes, recipe, first_weights=str(tmp_path))
    made = []
    monkeypatch.setattr("thingstuff.runs.train_run", lambda config, *_, **__: made.append(config) or sys.exit(3))
    command = command_of(config, tmp_path / "again")
    assert f"--from {tmp_path}" in command
    assert "min_area" not in command
    assert call(*shlex.split(command)[1:]) == 3
    assert made[0].model == config.model
    assert made[0].train.stages[0].model_dump(exclude={"steps"}) == config.train.stages[0].model_dump(exclude={"steps"})


# ---- the command


def call(*arguments: object) -> int:
    """Run the command in this process and return its exit code."""
    before = sys.argv
    sys.argv = ["thingstuff", *map(str, arguments)]
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    finally:
        sys.argv = before
    return 0


def test_from_a_name_on_the_hub(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    empty_cache(tmp_path / "cache", monkeypatch)
    monkeypatch.setattr("thingstuff.weights.imagenet_state", lambda _: pytest.fail("ImageNet weights were asked for"))
    out = tmp_path / "run"
    settings = [f"{key}={json.dumps(value)}" for key, value in {**TRAINING, "preprocess.short_side": 64}.items()]
    with serving(Hub({PUBLISHED[NAME]: {"main": hub_files(like_published(), "model.safetensors")}})) as hub:
        use(hub.endpoint, monkeypatch)
        assert call("train", data, "--from", NAME, "--out", out, "--val-split", "none", *settings) == 0
        assert sorted(hub.downloads()) == ["config.json", "model.safetensors"]
    shown = capsys.readouterr().out
    assert "taken: backbone, projection, encoder, decoder, queries, box_head, attention_maps, mask_head (" in shown
    assert "classes: 1 of 9 known (car); new: sky, ball" in shown
    config = read_config(out)
    assert (config.model_name, config.first_weights, config.model.model_dump()["outputs"]) == (NAME, NAME, None)
    assert ts.load(out).categories.names[0] == "sky"
    shutil.rmtree(tmp_path / "cache")
    assert call("train", "--resume", "--out", out, "steps=3") == 0


def test_wrong_turns_are_one_message(
    data: Path, published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    mine = tmp_path / "mine"
    mine.mkdir()
    checkpoint.save(mine / "last.safetensors", tiny_model())
    cases: list[tuple[tuple[object, ...], str]] = [
        ((data, "--from", tmp_path / "none"), r"none: no such weights; give a run folder"),
        (
            (data, "--from", published, "--model", "detr-panoptic-tiny"),
            r"detr\.pth: .*cannot begin a detr-panoptic-tiny",
        ),
        ((data, "--from", published, "--model", "panoptic-fcn-tiny"), r"detr\.pth: .*cannot begin a panoptic-fcn-tiny"),
        ((data, "--from", published, "hidden=256"), r"detr\.pth: .*cannot begin .*Leave out --model"),
        (("--resume", "--from", published), r"--resume keeps .*first weights.*leave .*--from out"),
        ((data, "--from", published, "backbone.weights=none"), r"leave one of them out"),
    ]
    for arguments, message in cases:
        assert call("train", *arguments, "--out", out) == 2
        said = capsys.readouterr().err
        assert re.search(message, said), said
        assert "Traceback" not in said
    assert not out.exists()
    for place in (mine, mine / "last.safetensors"):
        assert call("train", data, "--from", place, "--out", mine, "--overwrite") == 2
        assert "give another --out" in capsys.readouterr().err
    assert (mine / "last.safetensors").exists()
