"""The authors' published shapes and config files against our full-size models and size rule."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from panoptic_fcn_case import AUTHORS, FIELDS, FOLDER, base_settings, recipe_name, translated

from thingstuff.models.base import resized_size
from thingstuff.models.panoptic_fcn import PanopticFCN
from thingstuff.models.panoptic_fcn_config import PanopticFCNConfig
from thingstuff.panoptic_fcn_weights import panoptic_fcn_from_authors
from thingstuff.runs import make_config

SCHEDULES = FOLDER / "configs_and_schedules.json"
CONFIGS: Mapping[str, Any] = {}
if SCHEDULES.is_file():
    CONFIGS = {k: v for k, v in json.loads(SCHEDULES.read_text(encoding="utf-8")).items() if k.endswith(".yaml")}


@pytest.mark.parametrize(
    ("file", "base", "elements"),
    [
        ("keys_r50.json", "PanopticFCN-R50-3x.yaml", 37_110_000),
        ("keys_r50_star.json", "PanopticFCN-Star-R50-3x.yaml", 38_940_000),
    ],
)
def test_published_names_and_shapes_are_ours(file: str, base: str, elements: int) -> None:
    if not (FOLDER / file).is_file():
        pytest.skip(f"this folder holds no {file}")
    published = json.loads((FOLDER / file).read_text(encoding="utf-8"))
    with torch.device("meta"):
        model = PanopticFCN(*translated(base_settings(base)))
        state = panoptic_fcn_from_authors({key: torch.empty(shape) for key, shape in published.items()})
    ours = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    assert {key: tuple(value.shape) for key, value in state.items()} == ours
    assert sum(value.numel() for value in model.state_dict().values()) == pytest.approx(elements, rel=2e-4)


def recipe_config(name: str) -> PanopticFCNConfig:
    """The model of the recipe that is named as a config file."""
    config = make_config("data", None, {}, recipe_name(name)).model
    assert isinstance(config, PanopticFCNConfig)
    return config


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_recipes_set_what_the_config_files_do(name: str) -> None:
    recorded, config = CONFIGS[name], recipe_config(name)
    ours = {
        "POS_NUM": config.positives,
        "THING.THRES": config.thing_threshold,
        "STUFF.THRES": config.stuff_threshold,
        "ENC_DIM": config.encoder_channels,
        "ENC_DEFORM": config.encoder_deformable,
    }
    assert ours == {key: recorded[key] for key in ours}
    test_size = (recorded["INPUT"]["MIN_SIZE_TEST"], recorded["INPUT"]["MAX_SIZE_TEST"])
    assert (config.preprocess.short_side, config.preprocess.max_side) == test_size
    # the order in which weights of the authors' see colours, which comes with them
    assert recorded["INPUT"]["FORMAT"] == AUTHORS.preprocess.channel_order
    assert (config.unlabelled, config.stuff_area_relative) == (AUTHORS.unlabelled, AUTHORS.stuff_area_relative)


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_the_cases_settings_are_the_recipe_s(name: str) -> None:
    ours, (config, _) = recipe_config(name), translated(base_settings(name))
    assert config.model_copy(update={"preprocess": ours.preprocess, "backbone": ours.backbone}) == ours


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_pictures_are_resized_as_theirs(name: str) -> None:
    size_rule = recipe_config(name).preprocess
    for size, resized in CONFIGS[name]["test_resize_hw"].items():
        height, width = (int(n) for n in size.split("x"))
        assert resized_size((height, width), size_rule.short_side, size_rule.max_side) == tuple(resized), size


def test_an_unknown_config_key_is_named() -> None:
    with pytest.raises(KeyError, match=r"MODEL\.NEW_KEY"):
        translated({"MODEL.NEW_KEY": 1})
    with pytest.raises(KeyError, match=r"other\.yaml"):
        base_settings("other.yaml")


def test_every_translated_key_changes_our_config() -> None:
    values: Mapping[str, Any] = {bool: lambda v: not v, int: lambda v: 2 * v, float: lambda v: v / 2}
    for key, field in FIELDS.items():
        value: Any = AUTHORS
        for part in field.split("."):
            value = getattr(value, part)
        assert translated({key: values[type(value)](value)})[0] != AUTHORS, key
