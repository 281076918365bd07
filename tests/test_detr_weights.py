"""Published DETR weights under our names: every key, in every naming, and the config that the shapes tell."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import golden_folder
from detr_states import (
    SMALL,
    State,
    as_authors,
    as_hugging_face_file,
    as_hugging_face_memory,
    small_model,
    without_masks,
)
from thingstuff.coco_categories import COCO_PANOPTIC
from thingstuff.detr_weights import detr_categories, detr_config, detr_from_authors, detr_from_hugging_face
from thingstuff.errors import InputError
from thingstuff.models import create, find
from thingstuff.models.detr import DETRConfig
from thingstuff.panoptic import Categories
from thingstuff.pretrained import Origin, recognise

Converter = Callable[[State], State]
NAMINGS = [
    (as_authors, detr_from_authors, Origin.DETR_AUTHORS),
    (as_hugging_face_file, detr_from_hugging_face, Origin.DETR_HUGGING_FACE),
    (as_hugging_face_memory, detr_from_hugging_face, Origin.DETR_HUGGING_FACE),
]
OF_MASKS = ("attention_maps.", "mask_head.")


def same(ours: State, other: State) -> bool:
    return ours.keys() == other.keys() and all(torch.equal(ours[k], other[k]) for k in other)


def recorded(name: str) -> Any:
    path = golden_folder("detr") / name
    if not path.is_file():
        pytest.skip(f"{name} is not here")
    return json.loads(path.read_text())


# ---- names


@pytest.mark.parametrize(("rename", "convert", "origin"), NAMINGS)
def test_every_naming_is_recognised_and_becomes_ours(rename: Converter, convert: Converter, origin: Origin) -> None:
    ours = small_model().state_dict()
    theirs = rename(ours)
    assert not theirs.keys() & ours.keys()
    assert recognise(theirs) is origin
    assert same(convert(theirs), ours)


@pytest.mark.parametrize(("rename", "convert", "origin"), NAMINGS)
def test_weights_for_boxes_alone_become_ours(rename: Converter, convert: Converter, origin: Origin) -> None:
    ours = small_model().state_dict()
    theirs = without_masks(rename(ours))
    assert not any(key.startswith("detr.") for key in theirs)
    assert recognise(theirs) is origin
    assert same(convert(theirs), {k: v for k, v in ours.items() if not k.startswith(OF_MASKS)})


@pytest.mark.parametrize(("rename", "convert", "origin"), NAMINGS)
def test_unknown_keys_are_refused_by_name(rename: Converter, convert: Converter, origin: Origin) -> None:
    theirs = {**rename(small_model().state_dict()), "detr.extra.weight": torch.ones(1), "more": torch.ones(1)}
    with pytest.raises(InputError, match=r"unknown keys detr\.extra\.weight, more$"):
        convert(theirs)


@pytest.mark.parametrize(("rename", "convert", "origin"), NAMINGS)
def test_counts_of_batches_are_dropped(rename: Converter, convert: Converter, origin: Origin) -> None:
    ours = small_model().state_dict()
    theirs = rename(ours)
    (norm,) = [k for k in theirs if k.endswith("model.bn1.weight") or k.endswith("body.bn1.weight")]
    theirs[norm.replace("weight", "num_batches_tracked")] = torch.tensor(3)
    assert same(convert(theirs), ours)


def test_hugging_face_s_own_resnet_becomes_ours() -> None:
    ours = small_model().state_dict()
    theirs = {}
    for key, value in as_hugging_face_memory(ours).items():
        name = re.sub(r"model\.bn1\.", "model.embedder.embedder.normalization.", key)
        name = re.sub(r"model\.conv1\.", "model.embedder.embedder.convolution.", name)
        if part := re.fullmatch(r"(.*model\.)layer(\d)\.(\d+)\.(conv|bn|downsample\.)(\d)\.(\w+)", name):
            place = f"{part[1]}encoder.stages.{int(part[2]) - 1}.layers.{part[3]}"
            number = int(part[5])
            of_conv = part[4] == "conv" or (part[4] == "downsample." and number == 0)
            where = "shortcut" if part[4] == "downsample." else f"layer.{number - 1}"
            name = f"{place}.{where}.{'convolution' if of_conv else 'normalization'}.{part[6]}"
        theirs[name] = value
    assert not any(".layer1." in key or ".bn1." in key for key in theirs)
    assert same(detr_from_hugging_face(theirs), ours)


@pytest.mark.parametrize(
    ("name", "convert"),
    [
        ("keys_detr_r50_panoptic.json", detr_from_authors),
        ("keys_hf_detr_resnet50_panoptic_hub.json", detr_from_hugging_face),
        ("keys_hf_detr_resnet50_panoptic_inmemory_v5.json", detr_from_hugging_face),
    ],
)
def test_the_published_model_s_keys_and_shapes_are_ours(name: str, convert: Converter) -> None:
    ours = convert({key: torch.empty(shape, device="meta") for key, shape in recorded(name).items()})
    config = detr_config(ours, {}, dilated=False)
    assert config == find("detr-panoptic-r50")[0].model_copy(update={"outputs": 250})
    with torch.device("meta"):
        model = create("detr-panoptic-r50", COCO_PANOPTIC, config)
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in model.state_dict().items()}


def test_the_authors_and_hugging_face_s_weights_agree() -> None:
    shapes = recorded("keys_detr_r50_panoptic.json")
    generator = torch.Generator().manual_seed(0)
    # a few numbers, repeated: each tensor differs from the others and each row from the next
    authors = {
        k: torch.rand(s[0], generator=generator).view(-1, *[1] * (len(s) - 1)).expand(s) for k, s in shapes.items()
    }
    theirs = {}
    for key, source in recorded("keymap_hf_inmemory_to_fb.json").items():
        name, _, rows = source.partition("[")
        begin, end = map(int, rows.rstrip("]").split(":")) if rows else (None, None)
        theirs[key] = authors[name][begin:end]
    assert same(detr_from_hugging_face(theirs), detr_from_authors(authors))


def test_other_models_are_told_apart() -> None:
    one = torch.ones(1)
    assert recognise({"position_head.out_inst.weight": one}) is Origin.PANOPTIC_FCN_AUTHORS
    assert recognise(small_model().state_dict()) is Origin.OURS
    assert recognise({"conv1.weight": one, "fc.weight": one}) is Origin.UNKNOWN


# ---- the config that shapes tell


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"hidden": 256, "feedforward": 48, "queries": 7},
        {"encoder_layers": 2, "decoder_layers": 3},
        {"outputs": None},
        {"backbone": {"depth": 101, "stem_channels": 8, "res2_channels": 16, "bottleneck_width": 4}},
        {"backbone": {"depth": 18, "stem_channels": 8, "res2_channels": 16}},
    ],
)
def test_shapes_tell_the_config(changes: dict[str, Any]) -> None:
    config = DETRConfig.model_validate({**SMALL.model_dump(), **changes})
    with torch.device("meta"):
        state = create("detr-panoptic-r50", COCO_PANOPTIC, config).state_dict()
    assert detr_config(state, {}, dilated=False) == config


@pytest.mark.parametrize(
    ("settings", "name_says", "dilated"),
    [
        ({}, False, False),
        ({}, True, True),
        ({"dilation": True}, False, True),
        ({"dilation": False, "backbone_config": None, "backbone_kwargs": {"output_stride": 16}}, False, True),
        ({"backbone_config": {"output_stride": 16}}, False, True),
        ({"dilation": False, "backbone_config": {"depths": [3, 4, 6, 3]}}, False, False),
    ],
)
def test_dilation_is_told_by_settings_or_a_name(settings: dict[str, Any], name_says: bool, dilated: bool) -> None:
    config = detr_config(small_model().state_dict(), settings, dilated=name_says)
    assert config.backbone.dilated is dilated


def test_heads_are_told_by_settings() -> None:
    state = small_model().state_dict()
    assert detr_config(state, {}, dilated=False).heads == 8
    sixteen = {"encoder_attention_heads": 16, "decoder_attention_heads": 16}
    assert detr_config(state, sixteen, dilated=False).heads == 16
    for part in ("encoder", "decoder"):
        assert detr_config(state, {f"{part}_attention_heads": 16}, dilated=False).heads == 16


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"activation_function": "gelu"}, "activation_function='gelu'"),
        ({"position_embedding_type": "learned"}, "position_embedding_type='learned'"),
        ({"encoder_attention_heads": 4, "decoder_attention_heads": 8}, "encoder_attention_heads=4"),
        ({"decoder_attention_heads": None}, "heads=None"),
    ],
)
def test_settings_that_we_do_not_have_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        detr_config(small_model().state_dict(), settings, dilated=False)


def test_a_backbone_that_we_do_not_have_is_refused() -> None:
    state = {k: v for k, v in small_model().state_dict().items() if "layer3.5" not in k}
    with pytest.raises(InputError, match=r"\(3, 4, 5, 3\) bottleneck blocks"):
        detr_config(state, {}, dilated=False)


def test_a_missing_key_is_named() -> None:
    state = small_model().state_dict()
    del state["queries.weight"]
    with pytest.raises(InputError, match=r"lack queries\.weight"):
        detr_config(state, {}, dilated=False)


# ---- categories


def test_coco_panoptic_is_the_annotations_table(shared_data: Path) -> None:
    entries = json.loads((shared_data / "coco_panoptic_samples" / "panoptic_val.json").read_text())["categories"]
    assert COCO_PANOPTIC.to_coco() == Categories.from_coco(entries).to_coco()


def test_coco_panoptic_has_80_things_and_53_stuff() -> None:
    assert (len(COCO_PANOPTIC.thing_labels), len(COCO_PANOPTIC.stuff_labels)) == (80, 53)
    by_id = dict(zip(COCO_PANOPTIC.ids, COCO_PANOPTIC.names, strict=True))
    assert (by_id[1], by_id[90], by_id[92], by_id[200]) == ("person", "toothbrush", "banner", "rug-merged")
    assert COCO_PANOPTIC.colors[0] == (220, 20, 60)


def test_other_classes_than_coco_s_ask_for_categories() -> None:
    assert detr_categories(250, {}) is COCO_PANOPTIC
    with pytest.raises(InputError, match=r"3 classes \(cat, dog, sky\).*--categories"):
        detr_categories(3, {"id2label": {"0": "cat", "1": "dog", "2": "sky"}})
    with pytest.raises(InputError, match=r"91 classes and nothing tells"):
        detr_categories(91, {})
