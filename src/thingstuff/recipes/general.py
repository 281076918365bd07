"""Recipes for one's own pictures, for any model that learns in one stage."""

from thingstuff.data.transforms import AugmentConfig
from thingstuff.models.base import PreprocessConfig
from thingstuff.optim import OptimConfig
from thingstuff.recipes.base import around
from thingstuff.training import TrainConfig


def fine_tune(size: PreprocessConfig) -> TrainConfig:
    """Return a short recipe for one's own pictures on one small GPU, from pretrained weights; `size` is the model's."""
    return TrainConfig(
        steps=4000,
        batch_size=4,
        optim=OptimConfig(kind="adamw", lr=2e-4, backbone_lr=0.25, weight_decay=0.02, warmup_steps=200, clip="norm"),
        augment=AugmentConfig(short_sides=around(size, 0.8, 0.85, 0.9, 0.95, 1.0), max_side=size.max_side, color=0.2),
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
        augment=AugmentConfig(short_sides=around(size, 0.875, 1.0), max_side=size.max_side, color=0.1),
    )
