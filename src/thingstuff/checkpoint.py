"""Checkpoints: one safetensors file with weights, config and categories (and, to go on, the training's state).

The file is written aside and renamed, so the one before stays whole until the new one is. Nothing is pickled.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from thingstuff.config import validated
from thingstuff.errors import InputError
from thingstuff.models import find
from thingstuff.models.base import PanopticModel
from thingstuff.panoptic import Categories
from thingstuff.weights import load_strictly

FORMAT = "thingstuff"
VERSION = 1
SUFFIX = ".safetensors"


@dataclass(frozen=True)
class TrainingState:
    """What a run needs besides the weights to go on: tensors by name and plain values."""

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)


def save(path: Path, model: PanopticModel, training: TrainingState | None = None) -> None:
    """Write a checkpoint atomically.

    Raises `InputError` where the disk is full or cannot be written; the file that was there stays.
    """
    training = training or TrainingState()
    tensors = {f"model.{k}": v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    tensors |= {f"training.{k}": v.detach().cpu().contiguous() for k, v in training.tensors.items()}
    metadata = {
        "format": FORMAT,
        "format_version": str(VERSION),
        "model": model.name,
        "config": model.config.model_dump_json(),
        "categories": json.dumps(model.categories.to_coco()),
        "training": json.dumps(dict(training.values)),
    }
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.touch()
        mode = partial.stat().st_mode
        save_file(tensors, partial, metadata)
        partial.chmod(mode)  # safetensors makes it readable to the owner alone
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        kept = f"; the checkpoint before it stays at {path}" if path.exists() else ""
        raise InputError(
            f"{path} could not be written ({error}); make room on the disk and use --resume{kept}"
        ) from None


def find_file(weights: Path) -> Path:
    """Return the checkpoint that a path means: the file itself, or a run folder's best, else its last.

    Raises `InputError` naming what was looked for.
    """
    if weights.is_dir():
        for name in ("best", "last"):
            if (weights / f"{name}{SUFFIX}").is_file():
                return weights / f"{name}{SUFFIX}"
        raise InputError(f"{weights} holds no checkpoint (best{SUFFIX} or last{SUFFIX}); give a run folder or a file")
    if not weights.is_file():
        raise InputError(f"{weights}: no such weights; give a run folder (runs/a) or a checkpoint file")
    return weights


def load(weights: str | Path, device: str | torch.device | None = None) -> PanopticModel:
    """Load a model from a run folder or checkpoint file, ready to predict.

    `device` is the CUDA GPU where there is one, else the CPU. Raises `InputError` for what is no checkpoint of ours.
    """
    model, _ = load_training(find_file(Path(weights)))
    return ready(model, device)


def ready(model: PanopticModel, device: str | torch.device | None = None) -> PanopticModel:
    """Put a model into eval mode and on a device: the CUDA GPU where there is one, else the CPU."""
    model.eval()
    return model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def is_checkpoint(path: Path) -> bool:
    """Tell whether a file says of itself that it is a checkpoint of ours; one that cannot be read does not."""
    try:
        with safe_open(path, "pt") as file:
            return (file.metadata() or {}).get("format") == FORMAT
    except (SafetensorError, OSError):
        return False


def load_training(path: Path) -> tuple[PanopticModel, TrainingState]:
    """Load a checkpoint file's model and the training state beside it (empty where there is none)."""
    metadata, tensors = _read(path)
    preset, model_class = find(metadata["model"])
    config = validated(type(preset), json.loads(metadata["config"]), f"{path}: config")
    categories = Categories.from_coco(json.loads(metadata["categories"]), str(path))
    model: PanopticModel = model_class(config, categories)
    model.name = metadata["model"]
    weights = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
    load_strictly(model, weights, f"{path} does not fit its own config: it")
    training = {k.removeprefix("training."): v for k, v in tensors.items() if k.startswith("training.")}
    return model, TrainingState(training, json.loads(metadata["training"]))


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    remedy = "give a run folder or checkpoint that `thingstuff train` wrote"
    try:
        with safe_open(path, "pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            # copies: views of the file would keep Windows from replacing it
            tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118 -- not a dict
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is no checkpoint or is broken ({error}); {remedy}") from None
    if metadata.get("format") != FORMAT:
        raise InputError(f"{path} is no checkpoint of thingstuff; {remedy}")
    if int(metadata["format_version"]) > VERSION:
        raise InputError(f"{path} was written by a newer thingstuff (format {metadata['format_version']}); update it")
    return metadata, tensors
