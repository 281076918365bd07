"""Training recipes by name: functions that give a `TrainConfig`; and how a run's settings change one."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from thingstuff.config import changed, dotted_keys
from thingstuff.data.transforms import AugmentConfig, WindowConfig
from thingstuff.errors import InputError
from thingstuff.models.base import ModelConfig, PanopticModel, PreprocessConfig
from thingstuff.optim import OptimConfig
from thingstuff.stages import StageConfig
from thingstuff.training import TrainConfig

PAPER_STEPS = {"1x": 90_000, "3x": 270_000}


def panoptic_fcn_paper(schedule: str = "1x", batch_size: int = 16) -> TrainConfig:
    """Return the authors' recipe of Panoptic FCN: SGD, warm-up, poly, value clipping, 640 to 800 pixels (section 4.1).

    With another batch size than their 16 the learning rate is scaled with it.
    """
    return TrainConfig(
        steps=PAPER_STEPS[schedule],
        batch_size=batch_size,
        evaluate_every=10_000,
        save_every=10_000,
        optim=OptimConfig(lr=0.01 * batch_size / 16),
        augment=AugmentConfig(),
    )


def _around(size: PreprocessConfig, *shares: float) -> tuple[int, ...]:
    return tuple(round(size.short_side * share) for share in shares)


def fine_tune(size: PreprocessConfig) -> TrainConfig:
    """Return a short recipe for one's own pictures on one small GPU, from pretrained weights; `size` is the model's."""
    return TrainConfig(
        steps=4000,
        batch_size=4,
        optim=OptimConfig(kind="adamw", lr=2e-4, backbone_lr=0.25, weight_decay=0.02, warmup_steps=200, clip="norm"),
        augment=AugmentConfig(short_sides=_around(size, 0.8, 0.85, 0.9, 0.95, 1.0), max_side=size.max_side, color=0.2),
    )


def scratch(size: PreprocessConfig) -> TrainConfig:
    """Return a recipe for a small model without pretrained weights, on a CPU too; `size` is the model's."""
    return TrainConfig(
        steps=1500,
        batch_size=4,
        workers=0,  # reading is little work beside a CPU's training, and a worker would take one of few cores
        optim=OptimConfig(
            kind="adamw", lr=4e-3, weight_decay=0.02, schedule="cosine", warmup_steps=50, clip="norm", clip_at=20.0
        ),
        # no picture above the model's own size: one would pad its whole batch to that
        augment=AugmentConfig(short_sides=_around(size, 0.875, 1.0), max_side=size.max_side, color=0.1),
    )


# ---- DETR


def detr_paper_boxes() -> StageConfig:
    """Return the paper's training of boxes (things and stuff): 300 epochs, the last third at a tenth (section 4)."""
    return StageConfig(learns="boxes", epochs=300, optim=_detr_optim(drop_at=200 / 300))


def detr_paper_masks() -> StageConfig:
    """Return the paper's training of masks on learned boxes: 25 epochs, the last ten at a tenth (section 4.4)."""
    return StageConfig(learns="masks", epochs=25, optim=_detr_optim(drop_at=15 / 25))


def detr_paper_joint() -> StageConfig:
    """Return the paper's schedule of boxes with everything learned at once."""
    return StageConfig(learns="all", epochs=300, optim=_detr_optim(drop_at=200 / 300))


def detr_paper(first: StageConfig, then: StageConfig | None = None, batch_size: int = 16) -> TrainConfig:
    """Return a training of DETR in the paper's stages, with its sizes and windows; they have 16 pictures a step."""
    return TrainConfig(
        **_fields(first),
        then=then,
        batch_size=batch_size,
        evaluate_every=10_000,
        save_every=10_000,
        augment=AugmentConfig(short_sides=tuple(range(480, 801, 32)), max_side=1333, window=WindowConfig()),
    )


def _detr_optim(drop_at: float) -> OptimConfig:
    return OptimConfig(
        kind="adamw",
        lr=1e-4,
        backbone_lr=0.1,
        weight_decay=1e-4,
        norm_decay=1e-4,
        schedule="step",
        drop=0.1,
        drop_at=drop_at,
        warmup_steps=0,
        clip="norm",
        clip_at=0.1,
    )


def _fields(stage: StageConfig) -> dict[str, Any]:
    """Return a stage's fields, to make the first stage of a training of them."""
    return {name: getattr(stage, name) for name in StageConfig.model_fields}


def detr_fine_tune(size: PreprocessConfig) -> TrainConfig:
    """Return a short recipe of DETR for one's own pictures on one small GPU, from pretrained weights."""
    return TrainConfig(
        steps=4000,
        batch_size=2,
        optim=OptimConfig(
            kind="adamw", lr=1e-4, backbone_lr=0.1, schedule="cosine", warmup_steps=200, clip="norm", clip_at=0.1
        ),
        augment=AugmentConfig(short_sides=_around(size, 0.8, 0.85, 0.9, 0.95, 1.0), max_side=size.max_side, color=0.2),
    )


def detr_scratch(size: PreprocessConfig) -> TrainConfig:
    """Return a recipe in two stages for a small DETR without pretrained weights, on a CPU too."""
    optim = OptimConfig(
        kind="adamw",
        lr=4e-4,
        backbone_lr=2.5,  # convolutions from scratch bear more than attention does
        schedule="cosine",
        warmup_steps=200,
        clip="norm",
        clip_at=1.0,
    )
    return TrainConfig(
        learns="boxes",
        steps=6000,
        batch_size=8,
        workers=0,  # as in `scratch`
        optim=optim,
        augment=AugmentConfig(short_sides=_around(size, 0.875, 1.0), max_side=size.max_side, color=0.1),
        then=StageConfig(
            learns="masks",
            steps=1000,
            optim=optim.model_copy(update={"lr": 1e-3, "backbone_lr": 1.0, "warmup_steps": 50}),
        ),
    )


# ---- by name


AUTHORS_MODEL = {"unlabelled": "negative", "stuff_area_relative": False}
"""Settings in which the authors' Panoptic FCN differs from the default, which is for one's own pictures."""


@dataclass(frozen=True)
class Recipe:
    """A training, and the model settings by dotted key that belong to it."""

    train: TrainConfig
    model: Mapping[str, Any] = field(default_factory=dict)


def _authors(schedule: str) -> Recipe:
    """Return the authors' recipe with their 16 pictures a step shared by the processes there are."""
    return Recipe(_shared(panoptic_fcn_paper(schedule)), AUTHORS_MODEL)


def _detr(first: StageConfig, then: StageConfig | None = None) -> Recipe:
    """Return the paper's recipe of DETR; its code takes crowds for ordinary targets and the unlabelled for none."""
    return Recipe(_shared(detr_paper(first, then)), {"unlabelled": "negative"})


def _shared(train: TrainConfig) -> TrainConfig:
    """Return a training whose pictures of a step are shared by the processes there are."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    return train.model_copy(update={"batch_size": max(1, train.batch_size // processes)})


RECIPES: dict[str, Callable[[PreprocessConfig], Recipe]] = {
    "scratch": lambda size: Recipe(scratch(size)),
    "fine-tune": lambda size: Recipe(fine_tune(size)),
    "panoptic-fcn-1x": lambda _: _authors("1x"),
    "panoptic-fcn-3x": lambda _: _authors("3x"),
    "detr-scratch": lambda size: Recipe(detr_scratch(size)),
    "detr-fine-tune": lambda size: Recipe(detr_fine_tune(size)),
    "detr-boxes": lambda _: _detr(detr_paper_boxes()),
    "detr-masks": lambda _: _detr(detr_paper_masks()),
    "detr-two-step": lambda _: _detr(detr_paper_boxes(), detr_paper_masks()),
    "detr-joint": lambda _: _detr(detr_paper_joint()),
}
"""Name -> function of the model's size rule."""


# ---- recipes and settings


def default_recipe(model_class: type[PanopticModel], model: ModelConfig) -> str:
    """Return the recipe where none is named: for a backbone without pretrained weights the one for scratch."""
    backbone = model.model_dump().get("backbone", {})
    return model_class.scratch_recipe if backbone.get("weights") == "none" else model_class.backbone_recipe


def changed_training(train: TrainConfig, changes: Mapping[str, Any], model_class: type[PanopticModel]) -> TrainConfig:
    """Change a training's settings by dotted keys; steps that are given replace the recipe's epochs.

    Raises `InputError` for unknown keys and wrong values, and for a part to learn that the model does not have.
    """
    replaced = dict(changes)
    for stage in ("", "then."):
        if changes.get(f"{stage}steps") is not None and changes.get(f"{stage}epochs") is not None:
            raise InputError(f"{stage}steps and {stage}epochs both say how long to train; give one of them")
        if f"{stage}steps" in changes:
            replaced[f"{stage}epochs"] = None
    train = changed(train, replaced, "training")
    for stage_config in train.stages:
        model_class.check_part(stage_config.learns)
    return train


def shortest_settings(
    train: TrainConfig, model: ModelConfig, preset: ModelConfig, model_class: type[PanopticModel]
) -> tuple[str, list[str]]:
    """Return the recipe that leaves the fewest settings to name, and these as key=value."""
    default = default_recipe(model_class, model)
    by_name = {default: RECIPES[default](model.preprocess)}  # the first, so that it is taken where others are no better
    for name, recipe in RECIPES.items():
        made = recipe(model.preprocess)
        learned = {stage.learns for stage in made.train.stages}
        if learned <= set(model_class.PARTS) and set(made.model) <= set(dotted_keys(preset)):
            by_name.setdefault(name, made)
    settings = {name: _settings_beside(recipe, train, model, preset) for name, recipe in by_name.items()}
    shortest = min(settings, key=lambda name: len(settings[name]))
    return shortest, settings[shortest]


def _settings_beside(recipe: Recipe, train: TrainConfig, model: ModelConfig, preset: ModelConfig) -> list[str]:
    """Return the settings, as key=value, in which a run differs from a recipe."""
    settings = _differences(train.model_dump(mode="json"), recipe.train.model_dump(mode="json"))
    for prefix, stage in zip(("", "then."), train.stages, strict=False):
        if stage.epochs is not None:
            settings.pop(f"{prefix}steps", None)  # they say nothing then
    usual = changed(preset, recipe.model)
    settings |= _differences(model.model_dump(mode="json"), usual.model_dump(mode="json"), "model.")
    return [f"{key}={json.dumps(value).strip(chr(34))}" for key, value in settings.items()]


def _differences(ours: Mapping[str, Any], usual: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return our values that are not the usual ones, by dotted key."""
    found: dict[str, Any] = {}
    for key, value in ours.items():
        if isinstance(value, dict) and isinstance(usual[key], dict):
            found |= _differences(value, usual[key], f"{prefix}{key}.")
        elif value != usual[key]:
            found[prefix + key] = value
    return found
