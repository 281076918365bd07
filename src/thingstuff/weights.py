"""Published weights: reading their files safely, renaming their keys to ours, fetching ImageNet backbones."""

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from thingstuff.backbones import ResNet
from thingstuff.errors import InputError
from thingstuff.restricted_pickle import ARRAYS_FOR_TORCH, arrays_in, memory_for

Rules = Sequence[tuple[str, str]]
"""Patterns of keys, and what those that match become."""
WRAPPERS = ("model", "state_dict")
"""Keys under which training checkpoints keep their state dict."""
BACKBONE_FILE = "backbone.safetensors"
"""What `thingstuff weights import` calls a backbone's weights in its folder."""
_ESCAPE_CODE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|.)?")
"""A terminal's, such as bold, which torch writes into its messages."""


def renamed(key: str, rules: Rules) -> str | None:
    """Return a key under the first rule that matches it whole, or None; `{a+b}`, `{a-b}` and `{a/b}` are computed."""
    for pattern, replacement in rules:
        match = re.fullmatch(pattern, key)
        if match:
            return re.sub(r"\{(\d+)([-+/])(\d+)\}", _computed, match.expand(replacement))
    return None


def _computed(sum_of: re.Match[str]) -> str:
    first, last = int(sum_of[1]), int(sum_of[3])
    return str({"+": first + last, "-": first - last, "/": first // max(last, 1)}[sum_of[2]])


def read_state(path: Path) -> dict[str, Any]:
    """Read a `.safetensors` or `.pth` file of tensors (nothing pickled is executed: `weights_only`).

    Training checkpoints may hold their command's arguments beside the tensors, and numpy's arrays for them. A dict
    under "model" or "state_dict" is unwrapped. Raises `InputError` naming the file for what is none.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such weights file")
    try:
        if path.suffix == ".safetensors":
            state: Any = load_file(path)
        else:
            # plain values, as DETR's authors keep them, and arrays and numbers of numpy's, as detectron2 does
            admitted = torch.serialization.safe_globals([argparse.Namespace, *ARRAYS_FOR_TORCH])
            with admitted, memory_for(path.stat().st_size):
                state = torch.load(path, map_location="cpu", weights_only=True)
            state = _with_tensors(state)
    except Exception as error:  # noqa: BLE001 -- a broken file raises one of many kinds, all mean the same to its owner
        text = _ESCAPE_CODE.sub("", str(error)).strip()
        # the first text is a key of the reader's own; the second advises to run what the file holds
        told = text and not isinstance(error, LookupError) and "weights_only" not in text
        unknown = "it is no file of PyTorch, a broken one, or holds more than tensors and plain values"
        reason = text.splitlines()[0] if told else unknown
        raise InputError(
            f"{path} cannot be read as weights ({reason}); give a .safetensors or .pth of tensors"
        ) from None
    for wrapper in WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise InputError(f"{path} holds no state dict of tensors")
    return state


def _with_tensors(state: Any) -> Any:
    """Return a file's dict, and one that it wraps, with tensors for numpy's arrays."""
    if not isinstance(state, dict):
        return state
    wrapped = {key: _with_tensors(state[key]) for key in WRAPPERS if isinstance(state.get(key), dict)}
    return {**tensors_of(arrays_in(state)), **wrapped}


def tensors_of(values: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return entries with numpy's arrays as tensors, everything else as it is."""
    return {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in values.items()}


def backbone_file(path: Path) -> Path:
    """Return the file that a path to a backbone's weights means: itself, or a folder's `backbone.safetensors`."""
    return path / BACKBONE_FILE if path.is_dir() else path


def imagenet_state(depth: int) -> dict[str, Tensor]:
    """Fetch torchvision's ImageNet weights of a ResNet (cached by torch hub).

    Raises `InputError` where they cannot be fetched, saying how to go on without.
    """
    import torchvision.models as tv

    weights = tv.get_model_weights(f"resnet{depth}").IMAGENET1K_V1
    try:
        state: dict[str, Tensor] = weights.get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"ImageNet weights of ResNet-{depth} could not be fetched from {weights.url} ({error}). "
            "Go online once, or give a file (backbone.weights=resnet.pth), "
            "or start from scratch (backbone.weights=none backbone.norm=group backbone.frozen_stages=0)"
        ) from None
    return state


def load_backbone(backbone: ResNet) -> str:
    """Load the first weights that a backbone's config names and return what was done, for people."""
    config = backbone.config
    if config.weights == "none":
        if config.norm == "frozen" or config.frozen_stages:
            raise InputError(
                "a backbone without weights cannot be frozen: with backbone.weights=none also set "
                "backbone.norm=group (or batch) and backbone.frozen_stages=0"
            )
        return "backbone from scratch"
    if config.weights == "imagenet":
        state, source = imagenet_state(config.depth), "torchvision's ImageNet weights"
    else:
        path = Path(config.weights)
        if path.suffix == ".pkl":
            raise InputError(f"{path} is read by: thingstuff weights import {path} --out w, then backbone.weights=w")
        state, source = read_state(backbone_file(path)), config.weights
    state = {k: v for k, v in state.items() if not k.startswith("fc.") and not k.endswith("num_batches_tracked")}
    # Shifts of deformable convs are learned anew: ImageNet's weights have none.
    own = {k: v for k, v in backbone.state_dict().items() if ".conv2.offset." in k and k not in state}
    load_strictly(backbone, {**own, **state}, f"ResNet-{config.depth} backbone from {source}")
    return f"backbone from {source}"


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Load a state dict that has every key of the module, no other, and each in the module's shape.

    `what` names the state's source. Raises `InputError` with the first keys that it lacks, that are unknown and that
    have another shape. A missing `num_batches_tracked`, which nothing reads, is no fault.
    """
    ours = module.state_dict()
    lacking = [k for k in ours if k not in state and not k.endswith("num_batches_tracked")]
    unknown = [k for k in state if k not in ours]
    misshapen = [
        f"{k} ({list(state[k].shape)} instead of {list(ours[k].shape)})"
        for k in ours
        if k in state and ours[k].shape != state[k].shape
    ]
    problems = [
        f"{problem} {', '.join(keys[:3])}{f' and {len(keys) - 3} more' if len(keys) > 3 else ''}"
        for problem, keys in (("lacks", lacking), ("has the unknown", unknown), ("has another shape in", misshapen))
        if keys
    ]
    if problems:
        raise InputError(f"{what} {'; '.join(problems)}")
    module.load_state_dict(state, strict=False)
