"""Published weights into files of ours: `thingstuff weights import` as a function.

Whose weights they are is told by keys alone; what cannot be told is refused with the first keys that differ.
"""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from thingstuff import checkpoint
from thingstuff.backbone_weights import (
    ASIDE,
    BACKBONES,
    FORMAT,
    Backbone,
    backbone_kind,
    convert_backbone,
    read_settings,
    save_backbone,
)
from thingstuff.coco_categories import COCO_PANOPTIC
from thingstuff.detr_weights import AUTHORS_RULES, HUGGING_FACE_RULES
from thingstuff.errors import InputError
from thingstuff.io import read_json
from thingstuff.models.base import PanopticModel
from thingstuff.models.detr import DETRConfig
from thingstuff.models.panoptic_fcn import PanopticFCNConfig
from thingstuff.panoptic import Categories
from thingstuff.panoptic_fcn_weights import NAMES, describe_panoptic_fcn, panoptic_fcn_from_authors
from thingstuff.pretrained import Origin, build_published, recognise
from thingstuff.restricted_pickle import read_arrays
from thingstuff.weights import BACKBONE_FILE, Rules, read_state, renamed, tensors_of

MODEL_FILE = f"best{checkpoint.SUFFIX}"
RUN_FILE = "config.yaml"
SHOWN = 3
"""Keys that a message names before it says how many more there are."""
KINDS = {
    Origin.PANOPTIC_FCN_AUTHORS: "Panoptic FCN (authors' keys)",
    Origin.DETR_AUTHORS: "DETR (authors' keys)",
    Origin.DETR_HUGGING_FACE: "DETR (Hugging Face's keys)",
}


@dataclass(frozen=True)
class Imported:
    """What was found in a file and where it was written: `lines` for people, and the command to give next."""

    path: Path
    lines: tuple[str, ...]
    next: str


def import_weights(
    file: Path,
    out: Path,
    categories: Path | None = None,
    changes: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Imported:
    """Convert published weights: a model's to `out`/best.safetensors, a backbone's to `out`/backbone.safetensors.

    `file` is a `.pth`, `.bin`, `.safetensors` or `.pkl`. `categories` is a COCO JSON for a model of other classes than
    COCO panoptic's; `changes` are settings of the model by dotted key. Raises `InputError` where the file is none of
    the known kinds, parts of it do not fit, or `out` is in use.
    """
    _check_out(out, overwrite)
    _refuse_ours(file)
    state = tensors_of(read_arrays(file)) if file.suffix == ".pkl" else read_state(file)
    origin, kind = recognise(state), backbone_kind(state)
    if origin in KINDS:
        known = read_categories(categories) if categories else None
        model = build_published(file, state, known, changes)
        return _write_model(model, origin, state, out, changes or {})
    if kind is None:
        raise InputError(f"{file}: {_difference(state)}")
    if categories or changes:
        raise InputError(f"{file} holds a backbone alone: leave out --categories and --set, which are for models")
    try:
        backbone = convert_backbone(state, kind)
    except InputError as error:
        raise InputError(f"{file}: {error}") from None
    return _write_backbone(backbone, len(state), out)


def read_categories(path: Path) -> Categories:
    """Read a COCO JSON's categories: a list of {id, name, isthing}, or an object that has it under `categories`."""
    content = read_json(path)
    entries = content.get("categories") if isinstance(content, dict) else content
    if not isinstance(entries, list):
        raise InputError(f"{path} holds no list of categories; give a JSON list of objects with id, name and isthing")
    return Categories.from_coco(entries, str(path))


def _check_out(out: Path, overwrite: bool) -> None:
    there = next((place for place in (out, *out.parents) if place.exists()), out)
    if there.exists() and not there.is_dir():
        raise InputError(f"{there} is a file; give a folder by --out")
    if (out / RUN_FILE).exists():
        raise InputError(f"{out} is the folder of a run; give another --out")
    if out.is_dir() and any(out.iterdir()) and not overwrite:
        raise InputError(f"{out} is not empty; give another --out, or --overwrite to replace the weights in it")


def _refuse_ours(file: Path) -> None:
    if file.is_dir():
        raise InputError(f"{file} is a folder; give the weights' file in it")
    if checkpoint.is_checkpoint(file):
        raise InputError(f"{file} is a checkpoint of thingstuff already; use it by --weights {file} or --from {file}")
    if file.is_file() and read_settings(str(file)) is not None:
        raise InputError(f"{file} is a {FORMAT} already; use it by backbone.weights={file}")


# ---- writing


def _write_model(
    model: PanopticModel, origin: Origin, state: Mapping[str, Tensor], out: Path, changes: Mapping[str, Any]
) -> Imported:
    out.mkdir(parents=True, exist_ok=True)
    checkpoint.save(out / MODEL_FILE, model)
    (out / BACKBONE_FILE).unlink(missing_ok=True)
    used = sum(not key.endswith("num_batches_tracked") for key in state)
    c = model.categories
    names = "COCO panoptic" if c == COCO_PANOPTIC else _listed(c.names)
    depth = model.config.model_dump()["backbone"]["depth"]
    size = f"{len(c.thing_labels)} things + {len(c.stuff_labels)} stuff ({names})"
    detail, untold = _of_detr(model) if isinstance(model.config, DETRConfig) else _of_panoptic_fcn(model)
    untold |= _sizes(model)
    lines = {
        "set:     ": [f"{key}={value}" for key, value in changes.items()],
        "assumed: ": [text for key, text in untold.items() if key not in changes],
    }
    found = f"{KINDS[origin]}, ResNet-{depth}, {size}, {detail}; {used} of {len(state)} tensors"
    words = ["thingstuff", "predict", "PICTURES", "--weights", str(out), "--out", "predictions"]
    told = [f"{name}{', '.join(parts)}" for name, parts in lines.items() if parts]
    return Imported(out / MODEL_FILE, (f"found:   {found}", *told), shlex.join(words))


def _of_detr(model: PanopticModel) -> tuple[str, dict[str, str]]:
    """Return what is known of a DETR, and by key what no weights tell."""
    config = model.config
    assert isinstance(config, DETRConfig)
    outputs = config.outputs or len(model.categories)
    layers = f"{config.encoder_layers} + {config.decoder_layers} layers"
    detail = f'{outputs} outputs and "no object", {config.queries} queries, {layers}'
    dilated = "dilated (DC5)" if config.backbone.dilated else "not dilated (else --set backbone.dilated=true)"
    return detail, {"heads": f"{config.heads} attention heads", "backbone.dilated": dilated}


def _of_panoptic_fcn(model: PanopticModel) -> tuple[str, dict[str, str]]:
    """Return what is known of a Panoptic FCN, and by key what no weights tell."""
    config = model.config
    assert isinstance(config, PanopticFCNConfig)
    seen = config.preprocess
    full = "as the full models (FAST: docs/weights.md)"
    return describe_panoptic_fcn(model), {
        "preprocess.channel_order": f"{seen.channel_order} pictures",
        "preprocess.mean": f"mean {_numbers(seen.mean)}",
        "preprocess.std": f"std {_numbers(seen.std)}",
        "backbone.stride_in_1x1": f"strides in {'1x1' if config.backbone.stride_in_1x1 else '3x3'} convs",
        "backbone.dilated": "dilated" if config.backbone.dilated else "not dilated",
        "thing_threshold": f"thing threshold {config.thing_threshold:g} {full}",
        "stuff_threshold": f"stuff threshold {config.stuff_threshold:g} {full}",
    }


def _sizes(model: PanopticModel) -> dict[str, str]:
    size = model.config.preprocess
    return {
        "preprocess.short_side": f"pictures' short side {size.short_side}",
        "preprocess.max_side": f"their long side at most {size.max_side}",
    }


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _write_backbone(backbone: Backbone, count: int, out: Path) -> Imported:
    out.mkdir(parents=True, exist_ok=True)
    save_backbone(out / BACKBONE_FILE, backbone)
    (out / MODEL_FILE).unlink(missing_ok=True)
    settings, depth = backbone.settings, backbone.settings.depth
    used = count - len(backbone.aside)
    place = "1x1" if settings.stride_in_1x1 else "3x3"
    kind = backbone.kind.replace("ResNet", f"ResNet-{depth}", 1)
    channels = "".join(f"{field} {value}, " for field, value in settings.channels.items())
    lines = [
        f"found:   {kind}; {channels}{used} of {count} tensors",
        f"asks:    {settings.channel_order} pictures, mean {_numbers(settings.mean)}, std {_numbers(settings.std)}; "
        f"strides in {place} convs",
    ]
    if backbone.aside:
        lines.append(f"aside:   {_listed(backbone.aside)}, which a backbone does not need")
    words = ["thingstuff", "train", "DATA", f"backbone.weights={out}", "--model", NAMES[depth], "--out", "runs/a"]
    if depth == 34:
        words.insert(4, "backbone.depth=34")
    return Imported(out / BACKBONE_FILE, tuple(lines), shlex.join(words))


# ---- refusing


@dataclass(frozen=True)
class _Kind:
    """A kind of file: whether a key is one of its, and keys that each has."""

    name: str
    has: Callable[[str], bool]
    needed: Sequence[str]


def _ruled(rules: Rules) -> Callable[[str], bool]:
    return lambda key: renamed(key.removeprefix("detr."), rules) is not None or ASIDE.fullmatch(key) is not None


def _is_panoptic_fcn_s(key: str) -> bool:
    try:
        return bool(panoptic_fcn_from_authors({key: torch.zeros(0)}))
    except InputError:
        return False


_KNOWN: Sequence[_Kind] = (
    _Kind(
        KINDS[Origin.PANOPTIC_FCN_AUTHORS],
        _is_panoptic_fcn_s,
        ("position_head.out_inst.weight", "position_head.out_sem.weight", "kernel_head.out_conv.weight"),
    ),
    _Kind(
        KINDS[Origin.DETR_AUTHORS],
        _ruled(AUTHORS_RULES),
        ("transformer.decoder.norm.weight", "class_embed.weight", "query_embed.weight"),
    ),
    _Kind(
        KINDS[Origin.DETR_HUGGING_FACE],
        _ruled(HUGGING_FACE_RULES),
        ("model.decoder.layernorm.weight", "class_labels_classifier.weight", "model.query_position_embeddings.weight"),
    ),
    *(_Kind(name, _ruled(rules), needed) for name, (_, rules, needed) in BACKBONES.items()),
)


def _difference(state: Mapping[str, Tensor]) -> str:
    """Say how far a state dict is from the kind of weights that it shares most keys with."""
    nearest = max(_KNOWN, key=lambda kind: sum(map(kind.has, state)))
    known = sum(map(nearest.has, state))
    if not known:
        names = ", ".join(kind.name for kind in _KNOWN)
        return f"no key ({_listed(sorted(state)) or 'there is none'}) is of weights that are known: {names}"
    keys = {key.removeprefix("detr.") for key in state}
    strange = [key for key in state if not nearest.has(key)]
    lacking = [key for key in nearest.needed if key not in keys]
    parts = [f"{what} {_listed(some)}" for what, some in (("unknown", strange), ("lacking", lacking)) if some]
    return (
        f"the weights are none that are known; nearest is {nearest.name}, with {known} of {len(state)} keys; first "
        f"differences: {'; '.join(parts)}"
    )


def _listed(keys: Sequence[str]) -> str:
    more = len(keys) - SHOWN
    return ", ".join(keys[:SHOWN]) + (f" and {more} more" if more > 0 else "")
