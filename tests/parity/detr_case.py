"""Reading what the authors' DETR gave: its small model, pictures, targets and outputs in our terms.

The layout is that of golden/detr (its README), where a part of it lies in tests/golden: id maps may be of any integer
type there, and masks packed by numpy.packbits along the columns (`..._packed`). Keys of JSON fields that are told per
layer are those of the last layer, then `_0` of the first.
"""

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torchvision.ops import box_convert

from conftest import golden_folder
from thingstuff.backbones import BackboneConfig
from thingstuff.config import changed
from thingstuff.detr_weights import detr_from_authors
from thingstuff.models.detr import DETRConfig, DETROutput, DETRPanoptic
from thingstuff.panoptic import Categories
from thingstuff.structures import Images, Target

FOLDER = golden_folder("detr")
WEIGHTS = FOLDER / "slim_fp16.safetensors"
CASES = ("full", "one_empty", "both_empty", "crowded")
META: dict[str, Any] = json.loads((FOLDER / "meta.json").read_text(encoding="utf-8"))
DATA: dict[str, Tensor] = {}
for _key, _value in load_file(FOLDER / "data.safetensors").items():
    if _key.endswith("_packed"):
        _key, _width = _key.removesuffix("_packed"), META["sizes"][int(_key.split(".")[2])][1]
        _value = torch.from_numpy(np.unpackbits(_value.numpy(), axis=-1)[..., :_width].copy())
    DATA[_key] = _value

needs_weights = pytest.mark.skipif(
    not WEIGHTS.is_file(), reason=f"{WEIGHTS} is not here: the whole recordings are in the folder of THINGSTUFF_GOLDEN"
)


def categories() -> Categories:
    """The recording's classes: positions are ids."""
    count, last_thing = META["config"]["num_classes"], META["thing_max_id"]
    return Categories(tuple(f"class {i}" for i in range(count)), tuple(i <= last_thing for i in range(count)), IDS)


IDS = tuple(range(META["config"]["num_classes"]))


def config(**changes: Any) -> DETRConfig:
    """The recorded model's settings: the authors' treatment of unlabelled pixels, no dropout."""
    theirs = META["config"]
    ours = DETRConfig(
        hidden=theirs["hidden"],
        heads=theirs["nheads"],
        encoder_layers=theirs["enc"],
        decoder_layers=theirs["dec"],
        feedforward=theirs["ffn"],
        queries=theirs["queries"],
        dropout=0.0,
        backbone=BackboneConfig(bottleneck_width=theirs["width_per_group"], weights="none"),
        unlabelled="negative",
    )
    return changed(ours, changes)


@cache
def weights() -> dict[str, Tensor]:
    return {key: value.float() for key, value in load_file(WEIGHTS).items()}


def recorded_model(dtype: torch.dtype) -> DETRPanoptic:
    """Our model with the recorded weights, in eval mode."""
    model = DETRPanoptic(config(), categories())
    model.load_state_dict(detr_from_authors(weights()))
    return model.to(dtype).eval()


def images(rows: tuple[int, ...] = (0, 1), dtype: torch.dtype = torch.float32) -> Images:
    """Recorded pictures as one padded batch; their original sizes are those that post-processing was asked for."""
    sizes = tuple(tuple(META["sizes"][b]) for b in rows)
    canvas = tuple(max(axis) for axis in zip(*sizes, strict=True))
    pixels = torch.zeros(len(rows), 3, *canvas, dtype=dtype)
    for row, b in zip(pixels, rows, strict=True):
        picture = DATA[f"image.{b}"]
        row[:, : picture.shape[1], : picture.shape[2]] = picture
    return Images(pixels, sizes, tuple(tuple(META["postprocess"]["model_batch_th0.5"]["target"][b]) for b in rows))


def targets(case: str, dtype: torch.dtype) -> list[Target]:
    """A case's targets; pixels that no mask covers are background."""
    result = []
    for b in (0, 1):
        boxes, masks, labels = (DATA[f"{case}.target.{b}.{what}"] for what in ("boxes", "masks", "labels"))
        height, width = masks.shape[1:]
        scale = torch.tensor([width, height, width, height], dtype=dtype)
        none = torch.zeros(len(labels), dtype=torch.bool)
        corners = box_convert(boxes.to(dtype), "cxcywh", "xyxy") * scale
        result.append(Target(masks.bool(), labels, corners, none, torch.zeros(height, width, dtype=torch.bool)))
    return result


def recorded_output(name: str, canvas: tuple[int, int]) -> DETROutput:
    """A model's output that holds recorded logits and boxes of every layer, in doubles; what gives masks is empty."""
    layers = [f"{name}.aux_outputs.{i}" for i in range(META["config"]["dec"] - 1)]
    layers = [layer for layer in layers if f"{layer}.pred_logits" in DATA] + [name]
    logits, boxes = (
        torch.stack([DATA[f"{x}.{what}"] for x in layers]).double() for what in ("pred_logits", "pred_boxes")
    )
    _, B, Q, _ = logits.shape
    maps = torch.zeros(B, 0, 1, 1)
    return DETROutput(logits, boxes, torch.zeros(B, Q, 0), maps, maps, {}, None, canvas)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Threads change the order of sums."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def recorded(pattern: str) -> dict[str, Tensor]:
    """The recorded tensors whose whole key matches; at least one does."""
    found = {key: value for key, value in DATA.items() if re.fullmatch(pattern, key)}
    assert found, f"nothing recorded matches {pattern}"
    return found


def without_weight(losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our weighted losses under the authors' names, as they are before weighting."""
    names = {"class": "ce", "box_l1": "bbox", "box_giou": "giou", "mask_focal": "mask", "mask_dice": "dice"}
    result = {}
    for name, value in losses.items():
        theirs = f"loss_{names[name.removesuffix('_aux')]}"
        result[theirs + ("_0" if name.endswith("_aux") else "")] = value / META["weight_dict"][theirs]
    return result
