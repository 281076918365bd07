"""How a run's settings change a recipe, and which recipe leaves the fewest of them to name."""

import json
from collections.abc import Mapping
from typing import Any

from thingstuff.config import changed
from thingstuff.errors import InputError
from thingstuff.models.base import ModelConfig, PanopticModel
from thingstuff.recipes import RECIPES, Recipe, default_recipe, fits
from thingstuff.training import TrainConfig


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
    names = [default, *RECIPES]  # the first is taken where others are no better
    settings: dict[str, list[str]] = {}
    for name in names:
        recipe = RECIPES[name](model.preprocess)
        learned = {stage.learns for stage in recipe.train.stages}
        if not fits(recipe, model_class) or not learned <= set(model_class.PARTS):
            continue
        try:
            usual = changed(preset, recipe.model)
        except InputError:  # the model lacks a setting of the recipe's, or cannot have its value
            continue
        settings[name] = _settings_beside(recipe, train, model, usual)
    shortest = min(settings, key=lambda name: len(settings[name]))
    return shortest, settings[shortest]


def _settings_beside(recipe: Recipe, train: TrainConfig, model: ModelConfig, usual: ModelConfig) -> list[str]:
    """Return the settings, as key=value, in which a run differs from a recipe and the model that is usual with it."""
    settings = differences(train.model_dump(mode="json"), recipe.train.model_dump(mode="json"))
    for prefix, stage in zip(("", "then."), train.stages, strict=False):
        if stage.epochs is not None:
            settings.pop(f"{prefix}steps", None)  # they say nothing then
    settings |= differences(model.model_dump(mode="json"), usual.model_dump(mode="json"), "model.")
    return [f"{key}={json.dumps(value).strip(chr(34))}" for key, value in settings.items()]


def differences(ours: Mapping[str, Any], usual: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return our values that are not the usual ones, by dotted key."""
    found: dict[str, Any] = {}
    for key, value in ours.items():
        if isinstance(value, dict) and isinstance(usual[key], dict):
            found |= differences(value, usual[key], f"{prefix}{key}.")
        elif value != usual[key]:
            found[prefix + key] = value
    return found
