"""Training recipes by name: functions that give a `TrainConfig`."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from thingstuff.data.transforms import AugmentConfig
from thingstuff.models.base import PreprocessConfig
from thingstuff.optim import OptimConfig
from thingstuff.training import TrainConfig

PAPER_STEPS = {"1x": 90_000, "3x": 270_000}


def panoptic_fcn_paper(schedule: str = "1x", batch_size: int = 16) -> TrainConfig:
    """Return the authors' recipe of Panoptic FCN: SGD, warm-up, poly, value clipping, 640 to 800 pixels (section 4.1).

    With another batch size than their 16 the learning rate is scaled with it.
    """
    return TrainConfig(
        steps=PAPER_STEPS[schedule],
        batch_size=batch_size,
        evaluate_every=10_000,
        save_every=10_000,
        optim=OptimConfig(lr=0.01 * batch_size / 16),
        augment=AugmentConfig(),
    )


def _around(size: PreprocessConfig, *shares: float) -> tuple[int, ...]:
    return tuple(round(size.short_side * share) for share in shares)


def fine_tune(size: PreprocessConfig) -> TrainConfig:
    """Return a short recipe for one's own pictures on one small GPU, from pretrained weights; `size` is the model's."""
    return TrainConfig(
        steps=4000,
        batch_size=4,
        optim=OptimConfig(kind="adamw", lr=2e-4, backbone_lr=0.25, weight_decay=0.02, warmup_steps=200, clip="norm"),
        augment=AugmentConfig(short_sides=_around(size, 0.8, 0.85, 0.9, 0.95, 1.0), max_side=size.max_side, color=0.2),
    )


def scratch(size: PreprocessConfig) -> TrainConfig:
    """Return a recipe for a small model without pretrained weights, on a CPU too; `size` is the model's."""
    return TrainConfig(
        steps=1500,
        batch_size=4,
        workers=0,  # reading is little work beside a CPU's training, and a worker would take one of few cores
        optim=OptimConfig(
            kind="adamw", lr=4e-3, weight_decay=0.02, schedule="cosine", warmup_steps=50, clip="norm", clip_at=20.0
        ),
        # no picture above the model's own size: one would pad its whole batch to that
        augment=AugmentConfig(short_sides=_around(size, 0.875, 1.0), max_side=size.max_side, color=0.1),
    )


AUTHORS_MODEL = {"unlabelled": "negative", "stuff_area_relative": False}
"""Settings in which the authors' Panoptic FCN differs from the default, which is for one's own pictures."""


@dataclass(frozen=True)
class Recipe:
    """A training, and the model settings by dotted key that belong to it."""

    train: TrainConfig
    model: Mapping[str, Any] = field(default_factory=dict)


def _authors(schedule: str) -> Recipe:
    """Return the authors' recipe with their 16 pictures a step shared by the processes there are."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    train = panoptic_fcn_paper(schedule)
    return Recipe(train.model_copy(update={"batch_size": max(1, 16 // processes)}), AUTHORS_MODEL)


RECIPES: dict[str, Callable[[PreprocessConfig], Recipe]] = {
    "scratch": lambda size: Recipe(scratch(size)),
    "fine-tune": lambda size: Recipe(fine_tune(size)),
    "panoptic-fcn-1x": lambda _: _authors("1x"),
    "panoptic-fcn-3x": lambda _: _authors("3x"),
}
"""Name -> function of the model's size rule."""
