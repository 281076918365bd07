"""What a recipe is: a training, the model it is for, and the model's settings that belong to it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from thingstuff.models.base import PreprocessConfig
from thingstuff.training import TrainConfig


@dataclass(frozen=True)
class Recipe:
    """A training, and the model settings by dotted key that belong to it."""

    train: TrainConfig
    model: Mapping[str, Any] = field(default_factory=dict)
    model_name: str | None = None
    """The model that learns where none is named; null where any may. Others of its class may be named too."""
    other_classes: bool = False
    """Models of other classes may be named: those that have the parts which the stages learn."""
    about: str = ""
    """What it is, in a few words."""


def shared(train: TrainConfig) -> TrainConfig:
    """Return a training whose pictures of a step are shared by the processes there are."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    return train.model_copy(update={"batch_size": max(1, train.batch_size // processes)})


def around(size: PreprocessConfig, *shares: float) -> tuple[int, ...]:
    """Return shares of a size rule's shorter side."""
    return tuple(round(size.short_side * share) for share in shares)
