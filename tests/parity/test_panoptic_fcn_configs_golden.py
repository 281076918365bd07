"""The authors' published shapes and config files against our full-size models and size rule."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from panoptic_fcn_case import AUTHORS, FIELDS, FOLDER, base_settings, translated

from thingstuff.models.base import resized_size
from thingstuff.models.panoptic_fcn import PanopticFCN
from thingstuff.weights import panoptic_fcn_from_authors

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
        model = PanopticFCN(*translated(base_settings(base)[0]))
        state = panoptic_fcn_from_authors({key: torch.empty(shape) for key, shape in published.items()})
    ours = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    assert {key: tuple(value.shape) for key, value in state.items()} == ours
    assert sum(value.numel() for value in model.state_dict().values()) == pytest.approx(elements, rel=2e-4)


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_config_files_set_what_our_table_says(name: str) -> None:
    recorded, (config, _) = CONFIGS[name], translated(base_settings(name)[0])
    assert config.positives == recorded["POS_NUM"]
    assert config.thing_threshold == recorded["THING.THRES"]
    assert config.stuff_threshold == recorded["STUFF.THRES"]
    assert config.encoder_channels == recorded["ENC_DIM"]
    assert config.encoder_deformable == recorded["ENC_DEFORM"]
    assert config.preprocess.channel_order == recorded["INPUT"]["FORMAT"]
    assert base_settings(name)[1] == (recorded["INPUT"]["MIN_SIZE_TEST"], recorded["INPUT"]["MAX_SIZE_TEST"])


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_pictures_are_resized_as_theirs(name: str) -> None:
    short, longest = base_settings(name)[1]
    for size, resized in CONFIGS[name]["test_resize_hw"].items():
        height, width = (int(n) for n in size.split("x"))
        assert resized_size((height, width), short, longest) == tuple(resized), size


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
