"""ImageNet weights of ResNets: whose they are, our keys for them, and files that say how their pictures were made.

A backbone's file is safetensors with torchvision's keys; its metadata holds the depth, channels other than the usual,
where bottlenecks halve the size, and the channel order, mean and spread that the weights were trained with.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from thingstuff.backbones import BackboneConfig, ResNet
from thingstuff.errors import InputError
from thingstuff.io import atomic_write
from thingstuff.models.base import PreprocessConfig
from thingstuff.weights import Rules, backbone_file, load_strictly, renamed

FORMAT, VERSION = "thingstuff-backbone", 1
EPS = 1e-5
"""Of our frozen batch norm: with a variance of 1 - EPS it divides by one."""
MSRA_MEAN = (103.53, 116.28, 123.675)
"""Blue, green, red."""
_DEPTHS: dict[tuple[int, ...], int] = {
    (2, 2, 2, 2, False): 18,
    (3, 4, 6, 3, False): 34,
    (3, 4, 6, 3, True): 50,
    (3, 4, 23, 3, True): 101,
}
_STATISTICS = r"(weight|bias|running_mean|running_var|num_batches_tracked)"
_CAFFE_NORM = r"bn_(s|b|rm|riv|gamma|beta|running_mean|running_var)"


class Trainer(Enum):
    """Who trained ImageNet weights, by which their pictures' form and the strides are known."""

    TORCHVISION = "torchvision"
    MSRA = "MSRA"


class BackboneSettings(BaseModel):
    """How a backbone's weights were trained, which is how pictures and strides have to be for them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    depth: int
    stride_in_1x1: bool
    channel_order: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    channels: Mapping[str, int] = {}
    """The config's fields of channels, where they are not all as usual."""

    def by_key(self) -> dict[str, Any]:
        """Return them as a model's settings by dotted key."""
        return {
            **{f"backbone.{field}": value for field, value in self.channels.items()},
            "backbone.stride_in_1x1": self.stride_in_1x1,
            "preprocess.channel_order": self.channel_order,
            "preprocess.mean": list(self.mean),
            "preprocess.std": list(self.std),
        }


@dataclass(frozen=True)
class Backbone:
    """A ResNet's weights under torchvision's keys, and what is known of them.

    `kind` says for people whose they are; `aside` are the file's keys that no backbone needs.
    """

    state: Mapping[str, Tensor]
    config: BackboneConfig
    settings: BackboneSettings
    kind: str
    aside: tuple[str, ...]


# ---- keys

TORCHVISION_RULES: Rules = (
    (r"(conv1\.weight|bn1\.\w+)", r"\1"),
    (r"(layer[1-4]\.\d+\.(?:conv[1-3]|downsample\.0)\.weight)", r"\1"),
    (rf"(layer[1-4]\.\d+\.(?:bn[1-3]|downsample\.1)\.){_STATISTICS}", r"\1\2"),
)
DETECTRON2_RULES: Rules = (
    (rf"stem\.conv1\.norm\.{_STATISTICS}", r"bn1.\1"),
    (r"stem\.conv1\.weight", r"conv1.weight"),
    (r"res([2-5])\.(\d+)\.shortcut\.weight", r"layer{\1-1}.\2.downsample.0.weight"),
    (rf"res([2-5])\.(\d+)\.shortcut\.norm\.{_STATISTICS}", r"layer{\1-1}.\2.downsample.1.\3"),
    (r"res([2-5])\.(\d+)\.conv([1-3])\.weight", r"layer{\1-1}.\2.conv\3.weight"),
    (rf"res([2-5])\.(\d+)\.conv([1-3])\.norm\.{_STATISTICS}", r"layer{\1-1}.\2.bn\3.\4"),
)
CAFFE_RULES: Rules = (
    (r"conv1_w", r"conv1.weight"),
    (rf"res_conv1_{_CAFFE_NORM}", r"bn1.\1"),
    (r"res([2-5])_(\d+)_branch1_w", r"layer{\1-1}.\2.downsample.0.weight"),
    (rf"res([2-5])_(\d+)_branch1_{_CAFFE_NORM}", r"layer{\1-1}.\2.downsample.1.\3"),
    *((rf"res([2-5])_(\d+)_branch2{c}_w", rf"layer{{\1-1}}.\2.conv{i}.weight") for i, c in enumerate("abc", 1)),
    *((rf"res([2-5])_(\d+)_branch2{c}_{_CAFFE_NORM}", rf"layer{{\1-1}}.\2.bn{i}.\3") for i, c in enumerate("abc", 1)),
)
_CAFFE_KINDS = {
    **dict.fromkeys(("s", "gamma"), "weight"),
    **dict.fromkeys(("b", "beta"), "bias"),
    "rm": "running_mean",
    "riv": "running_var",
}
ASIDE = re.compile(r"fc\..*|stem\.fc\..*|fc1000[_.].*|pred[_.].*|.*_momentum|conv1_b|stem\.conv1\.bias")
"""Keys that no backbone needs: the classifier, an optimiser's state, and a bias before a norm, which detectron2 too
leaves out."""

BACKBONES: Mapping[str, tuple[str, Rules, tuple[str, ...]]] = {
    "ResNet (torchvision's keys)": (
        "layer1.0.conv1.weight",
        TORCHVISION_RULES,
        ("conv1.weight", "bn1.weight", "layer1.0.conv1.weight", "layer4.0.conv1.weight"),
    ),
    "ResNet (detectron2's keys)": (
        "res2.0.conv1.weight",
        DETECTRON2_RULES,
        ("stem.conv1.weight", "stem.conv1.norm.weight", "res2.0.conv1.weight", "res5.0.conv1.weight"),
    ),
    "ResNet (caffe2's keys)": (
        "res2_0_branch2a_w",
        CAFFE_RULES,
        ("conv1_w", "res2_0_branch2a_w", "res5_0_branch2a_w"),
    ),
}
"""Whose keys -> the key that tells them, the rules to ours, and keys that each such file has."""


def backbone_kind(state: Mapping[str, Any]) -> str | None:
    """Return whose keys (of `BACKBONES`) a state dict of a ResNet alone has; None for what is none."""
    return next((kind for kind, (sign, _, _) in BACKBONES.items() if sign in state), None)


def convert_backbone(state: Mapping[str, Tensor], kind: str) -> Backbone:
    """Return a ResNet's weights under our keys, and the settings they were trained with.

    caffe2's keys are MSRA's. Under detectron2's, norms whose running statistics do nothing are MSRA's, others
    torchvision's. Raises `InputError` naming the first keys that are unknown, lacking or of another shape.
    """
    _, rules, _ = BACKBONES[kind]
    result, strange, aside = {}, [], []
    for key, tensor in state.items():
        if ASIDE.fullmatch(key):
            aside.append(key)
            continue
        name = renamed(key, rules)
        if name is None:
            strange.append(key)
        elif not name.endswith("num_batches_tracked"):
            place, _, last = name.rpartition(".")
            result[f"{place}.{_CAFFE_KINDS.get(last, last)}"] = tensor.float()
    if strange:
        more = f" and {len(strange) - 3} more" if len(strange) > 3 else ""
        raise InputError(f"no {kind}: unknown keys {', '.join(strange[:3])}{more}")
    if kind == "ResNet (torchvision's keys)":
        trainer = Trainer.TORCHVISION
    elif kind == "ResNet (caffe2's keys)":
        trainer = Trainer.MSRA
    else:
        trainer = Trainer.MSRA if _folded(result) else Trainer.TORCHVISION
    result = _with_statistics(result)
    fields = backbone_fields(result)
    config = BackboneConfig(**fields, stride_in_1x1=trainer is Trainer.MSRA, weights="none")
    load_strictly(ResNet(config), result, f"the ResNet-{config.depth}")
    channels = {field: value for field, value in fields.items() if field != "depth"}
    settings = settings_of_trainer(trainer, config.depth).model_copy(update={"channels": channels})
    return Backbone(result, config, settings, _told(kind, trainer), tuple(aside))


def _told(kind: str, trainer: Trainer) -> str:
    return kind if trainer.value in kind else f"{kind}, as {trainer.value} trained it"


def settings_of_trainer(trainer: Trainer, depth: int) -> BackboneSettings:
    """Return how a trainer's pictures and strides are."""
    if trainer is Trainer.MSRA:
        return BackboneSettings(depth=depth, stride_in_1x1=True, channel_order="BGR", mean=MSRA_MEAN, std=(1, 1, 1))
    usual = PreprocessConfig()
    return BackboneSettings(depth=depth, stride_in_1x1=False, channel_order="RGB", mean=usual.mean, std=usual.std)


def _folded(state: Mapping[str, Tensor]) -> bool:
    """Tell whether the norms' running statistics are lacking or do nothing: caffe's are folded into the others."""
    means = [value for key, value in state.items() if key.endswith("running_mean")]
    spreads = [value for key, value in state.items() if key.endswith("running_var")]
    return not any(m.any() for m in means) and all(((v - 1).abs() < 2 * EPS).all() for v in spreads)


def _with_statistics(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict whose norms all have running statistics: those that had none do nothing."""
    result = dict(state)
    for key, weight in state.items():
        place, _, last = key.rpartition(".")
        if last == "weight" and weight.ndim == 1 and f"{place}.running_mean" not in state:
            result[f"{place}.running_mean"] = torch.zeros_like(weight)
            result.setdefault(f"{place}.running_var", torch.full_like(weight, 1 - EPS))
    return result


# ---- shapes


def backbone_fields(state: Mapping[str, Tensor], prefix: str = "") -> dict[str, Any]:
    """Return the fields of a `BackboneConfig` that shapes under torchvision's keys tell.

    A shape that the depth alone tells is left out, so that the config is the preset's. Raises `InputError` for what is
    no ResNet of ours.
    """
    bottleneck = f"{prefix}layer1.0.conv3.weight" in state
    counts = tuple(count_of(state, f"{prefix}layer{stage}") for stage in (1, 2, 3, 4))
    depth = _DEPTHS.get((*counts, bottleneck))
    if depth is None:
        kind = "bottleneck" if bottleneck else "basic"
        raise InputError(f"the backbone is no ResNet-18, -34, -50 or -101: {counts} {kind} blocks")
    width = shape_of(state, f"{prefix}layer1.0.conv1.weight", 4)[0]
    fields = {
        "depth": depth,
        "stem_channels": shape_of(state, f"{prefix}conv1.weight", 4)[0],
        "res2_channels": shape_of(state, f"{prefix}layer1.0.{'conv3' if bottleneck else 'conv2'}.weight", 4)[0],
        "bottleneck_width": width if bottleneck else 64,
    }
    usual = {"depth": depth, "stem_channels": 64, "res2_channels": 256 if bottleneck else 64, "bottleneck_width": 64}
    return {"depth": depth} if fields == usual else fields


def shape_of(state: Mapping[str, Tensor], key: str, axes: int) -> tuple[int, ...]:
    """Return a tensor's shape; raises `InputError` where it is lacking or has other axes."""
    if key not in state:
        raise InputError(f"the weights lack {key}")
    shape = tuple(state[key].shape)
    if len(shape) != axes or 0 in shape[1:]:
        raise InputError(f"the weights have {key} of the shape {list(shape)}, which has not {axes} axes")
    return shape


def count_of(state: Mapping[str, Any], place: str) -> int:
    """Return how many of a list's entries (layers, blocks) a state dict has."""
    found = {m[1] for key in state if (m := re.match(rf"{re.escape(place)}\.(\d+)\.", key))}
    return len(found)


# ---- files


def save_backbone(path: Path, backbone: Backbone) -> None:
    """Write a backbone's file atomically."""
    metadata = {
        "format": FORMAT,
        "format_version": str(VERSION),
        "kind": backbone.kind,
        "depth": json.dumps(backbone.settings.depth),
        "stride_in_1x1": json.dumps(backbone.settings.stride_in_1x1),
        "channels": json.dumps(backbone.settings.channels),
        "preprocess": json.dumps(backbone.settings.model_dump(include={"channel_order", "mean", "std"})),
    }
    tensors = {key: value.contiguous() for key, value in backbone.state.items()}
    atomic_write(path, save(tensors, metadata))


def read_settings(weights: str) -> BackboneSettings | None:
    """Return what a backbone's file, or the folder it lies in, says of its weights; None for another file.

    Raises `InputError` where it says so in a way that is not ours, and for a folder without one.
    """
    path = backbone_file(Path(weights))
    try:
        with safe_open(path, "pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
    except (SafetensorError, OSError):
        return None
    if metadata.get("format") != FORMAT:
        return None
    if metadata.get("format_version") != str(VERSION):
        raise InputError(f"{path} was written by another version of thingstuff; import it anew, or update thingstuff")
    try:
        depth, stride = json.loads(metadata["depth"]), json.loads(metadata["stride_in_1x1"])
        channels = json.loads(metadata.get("channels", "{}"))  # which older files lack
        seen = json.loads(metadata["preprocess"])
        return BackboneSettings(depth=depth, stride_in_1x1=stride, channels=channels, **seen)
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(f"{path}: what it says of its weights cannot be read ({error}); import it anew") from None


def refuse_backbone(path: Path) -> None:
    """Raise `InputError` for a backbone's file, or a folder that it lies in, where a model's weights are asked for."""
    if backbone_file(path).is_file() and read_settings(str(path)) is not None:
        raise InputError(f"{path} holds a backbone alone, no model: train one with backbone.weights={path}")


def told_by_backbone(weights: Any, depth: int) -> dict[str, Any]:
    """Return the model's settings, by dotted key, that the weights of a backbone of that depth ask for.

    Raises `InputError` where they are those of another depth.
    """
    if not isinstance(weights, str) or weights in ("none", "imagenet"):
        return {}
    settings = read_settings(weights)
    if settings is None:
        return {}
    if settings.depth != depth:
        raise InputError(
            f"backbone.weights={weights} are those of a ResNet-{settings.depth}, the model's backbone is a "
            f"ResNet-{depth}; set backbone.depth={settings.depth} or choose a --model that has it"
        )
    return settings.by_key()
