"""Training in two stages: what learns in each, how long, and by which settings and recipes."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from thingstuff import runs
from thingstuff.cli import app
from thingstuff.data.scenes import SceneConfig, make_scenes
from thingstuff.errors import InputError
from thingstuff.models.panoptic_fcn import PanopticFCNConfig
from thingstuff.optim import OptimConfig, learning_rate
from thingstuff.recipes import RECIPES
from thingstuff.runs import RunConfig, command_of, make_config
from thingstuff.stages import StageConfig, stage_at, stages_of, steps_of
from thingstuff.training import Interrupted
from two_stages import NAME, config_of, model_of, registered


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    with registered():
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    return make_scenes(folder / "data", train=11, val=2, seed=1, config=SceneConfig(size=(64, 80)))


# ---- parts of a model


def test_a_part_is_trained_alone_and_without_what_was_frozen_from_the_start() -> None:
    model = model_of(**{"backbone.frozen_stages": 2})
    from_the_start = {name for name, p in model.named_parameters() if p.requires_grad}
    assert "backbone.conv1.weight" not in from_the_start

    def trainable() -> set[str]:
        return {name for name, p in model.named_parameters() if p.requires_grad}

    model.learn("masks")
    of_masks = trainable()
    model.learn("boxes")
    of_boxes = trainable()
    assert of_boxes | of_masks == from_the_start
    assert not of_boxes & of_masks
    assert "kernel_head.out.weight" in of_masks
    assert "backbone.layer4.0.conv1.weight" in of_boxes
    model.learn("all")
    assert trainable() == from_the_start


def test_what_is_frozen_stays_in_eval_mode_while_a_part_learns() -> None:
    model = model_of()  # its backbone has batch norm
    model.learn("masks")
    model.train()
    assert model.training
    assert model.kernel_head.training  # type: ignore[union-attr]
    assert not model.backbone.training  # type: ignore[union-attr]
    assert not any(m.training for m in model.backbone.modules())  # type: ignore[union-attr]
    assert model.fpn.training  # type: ignore[union-attr]  -- for P2, which serves masks
    model.eval()
    assert not any(m.training for m in model.modules())
    model.train()
    model.learn("all")
    assert all(m.training for m in model.modules())


def test_dropout_goes_with_what_it_lies_in() -> None:
    model = model_of()
    model.kernel_head.dropout = torch.nn.Dropout(0.1)  # type: ignore[union-attr]
    model.position_head.dropout = torch.nn.Dropout(0.1)  # type: ignore[union-attr]
    model.train()
    model.learn("boxes")
    assert model.position_head.dropout.training  # type: ignore[union-attr]
    assert not model.kernel_head.dropout.training  # type: ignore[union-attr]


def test_a_part_that_the_model_lacks_is_named_with_its_parts(data: Path) -> None:
    with pytest.raises(InputError, match=r"'mask'.*InTwoParts.*all, boxes, masks"):
        model_of().learn("mask")
    with pytest.raises(InputError, match=r"'boxes'.*PanopticFCN.*its parts are all$"):
        make_config(str(data), "panoptic-fcn-tiny", {"learns": "boxes"})
    with pytest.raises(InputError, match=r"'mask'"):
        config_of(data, {"then.learns": "mask"})


# ---- stages


@pytest.mark.parametrize(
    ("epochs", "pictures", "whole_batch", "expected"),
    [
        (25, 118_287, 16, 25 * 7392),
        (300, 16, 16, 300),
        (1, 11, 2, 5),
        (0.5, 100, 10, 5),
        (3, 2, 16, 3),
        (0.01, 9, 3, 1),
    ],
)
def test_an_epoch_drops_its_last_incomplete_batch(
    epochs: float, pictures: int, whole_batch: int, expected: int
) -> None:
    assert steps_of(StageConfig(epochs=epochs, steps=77), pictures, whole_batch) == expected


def test_stages_follow_one_another() -> None:
    first, second = stages_of((StageConfig(steps=7), StageConfig(learns="masks", epochs=2)), 10, 3)
    assert (first.begin, first.end, second.begin, second.end) == (0, 7, 7, 13)
    assert (first.learns, second.learns) == ("all", "masks")
    assert [stage_at((first, second), step) for step in (0, 6, 7, 12, 13)] == [first, first, second, second, second]


def test_the_learning_rate_drops_once() -> None:
    config = OptimConfig(lr=1e-4, schedule="step", drop_at=200 / 300, warmup_steps=0)
    per_epoch = 7392  # COCO's 118,287 pictures by 16
    rates = [learning_rate(config, step, 300 * per_epoch) for step in (0, 200 * per_epoch - 1, 200 * per_epoch)]
    assert rates == pytest.approx([1e-4, 1e-4, 1e-5])
    for epochs, drop in ((25, 15), (300, 200), (150, 100)):
        config = OptimConfig(lr=1.0, schedule="step", drop_at=drop / epochs, warmup_steps=0)
        by_epoch = [learning_rate(config, epoch * 977, epochs * 977) for epoch in range(epochs)]
        assert by_epoch == [1.0] * drop + [pytest.approx(0.1)] * (epochs - drop)


# ---- settings


def test_the_second_stage_is_set_by_dotted_keys(data: Path) -> None:
    train = config_of(data, {"then.steps": 100, "then.optim.lr": 1e-4}).train
    assert train.then is not None
    assert (train.then.steps, train.then.optim.lr, train.then.learns) == (100, 1e-4, "masks")
    assert train.optim.lr == 1e-3
    with pytest.raises(InputError, match=r"unknown setting 'then\.steps' of the training"):
        config_of(data, {"then.steps": 100}, recipe="scratch")
    with pytest.raises(InputError, match=r"unknown setting 'then\.stps' of the training; did you mean 'then\.steps'"):
        config_of(data, {"then.stps": 100})


def test_steps_replace_a_recipes_epochs(data: Path) -> None:
    plain = config_of(data, recipe="detr-two-step").train
    assert plain.then is not None
    assert (plain.epochs, plain.then.epochs) == (300, 25)
    train = config_of(data, {"steps": 10, "then.steps": 5}, recipe="detr-two-step").train
    assert train.then is not None
    assert (train.epochs, train.steps, train.then.epochs, train.then.steps) == (None, 10, None, 5)
    with pytest.raises(InputError, match=r"then\.steps and then\.epochs"):
        config_of(data, {"then.steps": 5, "then.epochs": 2})


@pytest.mark.parametrize(
    ("recipe", "changes"),
    [
        ("two-stages", {}),
        ("two-stages", {"then.steps": 100, "then.optim.lr": 1e-5, "epochs": 2}),
        ("two-stages", {"then": None, "learns": "all"}),
        ("detr-two-step", {"augment.window": None}),
        ("detr-boxes", {"batch_size": 2, "epochs": 3}),
        ("detr-masks", {"steps": 4000}),
        ("detr-joint", {"augment.window.chance": 0.25, "unlabelled": "ignored"}),
        ("panoptic-fcn-1x", {}),
        (None, {"backbone.weights": "imagenet"}),
        (None, {"backbone.weights": "imagenet", "steps": 1500}),
        (None, {"then": {"learns": "masks", "steps": 5, "optim": {"lr": 1e-5}}}),
    ],
)
def test_a_run_s_command_makes_it_again(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: str | None, changes: dict[str, Any]
) -> None:
    made: list[RunConfig] = []

    def seen(config: RunConfig, *_: Any, **__: Any) -> None:
        made.append(config)
        raise Interrupted(0)

    monkeypatch.setattr(runs, "train_run", seen)
    config = make_config(str(data), NAME, changes, recipe)
    with pytest.raises(SystemExit):
        app(shlex.split(command_of(config, tmp_path / "again"))[1:], standalone_mode=False)
    (again,) = made
    assert stages_of(again.train.stages, 1000, 4) == stages_of(config.train.stages, 1000, 4)
    assert without_steps(again) == without_steps(config)


def without_steps(config: RunConfig) -> dict[str, Any]:
    """A run's settings without steps that epochs replace."""
    values = config.model_dump()
    for stage in (values["train"], values["train"]["then"] or {}):
        if stage.get("epochs") is not None:
            del stage["steps"]
    return values


def test_the_command_names_a_recipe_where_that_is_shorter(data: Path, tmp_path: Path) -> None:
    command = command_of(config_of(data, {"then.steps": 9}), tmp_path)
    assert "--recipe two-stages" in command
    assert "then.steps=9" in command
    assert "then.learns" not in command
    assert "--recipe" not in command_of(config_of(data, {"steps": 9}, recipe=None), tmp_path)


# ---- the paper's recipes


def test_the_recipes_of_detr_are_the_paper_s(monkeypatch: pytest.MonkeyPatch) -> None:
    size = PanopticFCNConfig().preprocess
    made = {name: RECIPES[f"detr-{name}"](size) for name in ("boxes", "masks", "two-step", "joint")}
    lengths = {name: [(s.learns, s.epochs) for s in recipe.train.stages] for name, recipe in made.items()}
    assert lengths == {
        "boxes": [("boxes", 300)],
        "masks": [("masks", 25)],
        "two-step": [("boxes", 300), ("masks", 25)],
        "joint": [("all", 300)],
    }
    drops = {"boxes": 200, "masks": 15, "all": 200}
    for recipe in made.values():
        assert recipe.model == {"unlabelled": "negative"}
        assert recipe.train.batch_size == 16
        for stage in recipe.train.stages:
            o = stage.optim
            assert (o.kind, o.lr, o.lr * o.backbone_lr, o.weight_decay, o.norm_decay) == (
                "adamw",
                1e-4,
                1e-5,
                1e-4,
                1e-4,
            )
            assert (o.clip, o.clip_at, o.warmup_steps) == ("norm", 0.1, 0)
            assert stage.epochs is not None
            epochs = range(int(stage.epochs))
            rates = [learning_rate(o, 100 * e, 100 * len(epochs)) for e in epochs]
            assert rates == pytest.approx([1e-4 if e < drops[stage.learns] else 1e-5 for e in epochs])
        a = recipe.train.augment
        assert (a.short_sides, a.max_side, a.flip, a.color, a.crop) == (tuple(range(480, 801, 32)), 1333, 0.5, 0, None)
        w = a.window
        assert w is not None
        assert (w.chance, w.short_sides, w.smallest, w.largest) == (0.5, (400, 500, 600), 384, 600)
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert RECIPES["detr-joint"](size).train.batch_size == 2
