"""Recipes of Panoptic FPN: detectron2's schedules, whose models the baseline is measured against."""

from thingstuff.data.transforms import AugmentConfig
from thingstuff.optim import OptimConfig
from thingstuff.recipes.base import Recipe, shared
from thingstuff.training import TrainConfig

SCHEDULES = {"1x": (90_000, 60_000, 80_000), "3x": (270_000, 210_000, 250_000)}
"""Steps, and the two after which the learning rate falls to a tenth."""

DETECTRON2_MODEL = {"unlabelled": "negative", "stuff_area_relative": False, "mask_stride": 1}
"""Settings in which detectron2's Panoptic FPN differs from the default, which is for one's own pictures."""


def panoptic_fpn_paper(schedule: str = "1x", batch_size: int = 16) -> TrainConfig:
    """Return detectron2's training of Panoptic FPN (its COCO-PanopticSegmentation configs), 640 to 800 pixels.

    With another batch size than their 16 the learning rate is scaled with it.
    """
    steps, *drops = SCHEDULES[schedule]
    return TrainConfig(
        steps=steps,
        batch_size=batch_size,
        evaluate_every=10_000,
        save_every=10_000,
        optim=OptimConfig(
            lr=0.02 * batch_size / 16,
            schedule="step",
            drop_at=tuple(drop / steps for drop in drops),
            clip="none",
        ),
        augment=AugmentConfig(),
    )


def panoptic_fpn_recipe(schedule: str, about: str) -> Recipe:
    """Return the recipe of a schedule with the 16 pictures of a step shared by the processes there are."""
    return Recipe(shared(panoptic_fpn_paper(schedule)), DETECTRON2_MODEL, model_name="panoptic-fpn-r50", about=about)
