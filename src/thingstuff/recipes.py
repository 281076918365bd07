"""Training recipes by name: functions that give a `TrainConfig`."""

from collections.abc import Callable

from thingstuff.data.transforms import AugmentConfig
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


def fine_tune() -> TrainConfig:
    """Return a short recipe for one's own pictures on one small GPU, from pretrained weights."""
    return TrainConfig(
        steps=4000,
        batch_size=4,
        optim=OptimConfig(kind="adamw", lr=2e-4, backbone_lr=0.25, weight_decay=0.02, warmup_steps=200, clip="norm"),
        augment=AugmentConfig(short_sides=(480, 512, 544, 576, 608, 640), max_side=1066, color=0.2),
    )


def scratch() -> TrainConfig:
    """Return a recipe for a small model without pretrained weights, on a CPU too."""
    return TrainConfig(
        steps=1500,
        batch_size=8,
        optim=OptimConfig(
            kind="adamw", lr=2e-3, weight_decay=0.02, schedule="cosine", warmup_steps=50, clip="norm", clip_at=20.0
        ),
        augment=AugmentConfig(short_sides=(112, 128, 144), max_side=256, color=0.2),
    )


RECIPES: dict[str, Callable[[], TrainConfig]] = {
    "scratch": scratch,
    "fine-tune": fine_tune,
    "panoptic-fcn-1x": lambda: panoptic_fcn_paper("1x"),
    "panoptic-fcn-3x": lambda: panoptic_fcn_paper("3x"),
}
"""Name -> function."""
