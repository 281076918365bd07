"""Recipes of Panoptic FCN: the authors' schedules, and every variant of their config files and paper by name."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from thingstuff.data.transforms import AugmentConfig
from thingstuff.models.base import PreprocessConfig
from thingstuff.optim import OptimConfig
from thingstuff.recipes.base import Recipe, shared
from thingstuff.training import TrainConfig

PAPER_STEPS = {"1x": 90_000, "2x": 180_000, "3x": 270_000}
AUTHORS_MODEL = {"unlabelled": "negative", "stuff_area_relative": False}
"""Settings in which the authors' Panoptic FCN differs from the default, which is for one's own pictures."""
AUTHORS_MEAN = (123.675, 116.28, 103.53)
"""Subtracted from blue, green and red in the authors' code: red's mean from blue, and the other way round."""
FAST = {"thing_threshold": 0.2, "stuff_threshold": 0.1}
"""The FAST variants: fewer candidates; the training is the same."""
STAR = {"encoder_deformable": True, "encoder_channels": 256}
"""The variant that the authors mark with a star."""
DCN = {"backbone.deformable_stages": [3, 4, 5]}
"""The paper's backbones with deformable convolutions."""
SMALL_SIDES = tuple(range(352, 513, 32))


@dataclass(frozen=True)
class Variant:
    """A model of the authors': its schedule, its model settings, and the sizes of its training pictures."""

    about: str
    schedule: str = "3x"
    model_name: str = "panoptic-fcn-r50"
    model: Mapping[str, Any] = field(default_factory=dict)
    augment: AugmentConfig = field(default_factory=AugmentConfig)


def _small(about: str, short_sides: tuple[int, ...], train_max: int, test: tuple[int, int], positives: int) -> Variant:
    """Return a variant for smaller pictures; `test` is the (short, longest) side of test pictures."""
    size = {"preprocess.short_side": test[0], "preprocess.max_side": test[1]}
    augment = AugmentConfig(short_sides=short_sides, max_side=train_max)
    return Variant(about, model={**size, "positives": positives}, augment=augment)


_RELEASED = {
    "r50-1x": Variant("ResNet-50, 12 epochs", "1x"),
    "r50-3x": Variant("ResNet-50, 37 epochs"),
    "r50-400-3x": _small("test pictures of 400 pixels", SMALL_SIDES, 854, (400, 666), 3),
    "r50-512-3x": _small("test pictures of 512 pixels", SMALL_SIDES, 854, (512, 854), 3),
    "r50-600-3x": _small("test pictures of 600 pixels", tuple(range(440, 601, 32)), 1000, (600, 1000), 5),
    "star-r50-3x": Variant("deformable encoder of 256 channels", model=STAR),
}
"""The authors' config files, each of which they have with FAST thresholds too."""

_OF_THE_PAPER = {
    "r50-2x": Variant("ResNet-50, 24 epochs", "2x"),
    "r101-3x": Variant("ResNet-101", model_name="panoptic-fcn-r101"),
    "r50-dcn-3x": Variant("ResNet-50 with deformable stages", model=DCN),
    "r101-dcn-3x": Variant("ResNet-101 with deformable stages", model_name="panoptic-fcn-r101", model=DCN),
    "star-r101-dcn-3x": Variant(
        "deformable encoder, ResNet-101 with deformable stages",
        model_name="panoptic-fcn-r101",
        model={**STAR, **DCN},
    ),
}
"""What the paper has and the released config files have not."""


def _fast(variant: Variant) -> Variant:
    return Variant(
        "the same with FAST thresholds",
        variant.schedule,
        variant.model_name,
        {**variant.model, **FAST},
        variant.augment,
    )


VARIANTS: dict[str, Variant] = {
    f"panoptic-fcn-{name}{ending}": made
    for name, variant in _RELEASED.items()
    for ending, made in (("", variant), ("-fast", _fast(variant)))
} | {f"panoptic-fcn-{name}": variant for name, variant in _OF_THE_PAPER.items()}
"""Every variant by the name of its recipe."""


def panoptic_fcn_paper(schedule: str = "1x", batch_size: int = 16, augment: AugmentConfig | None = None) -> TrainConfig:
    """Return the authors' recipe of Panoptic FCN: SGD, warm-up, poly, value clipping, 640 to 800 pixels (section 4.1).

    With another batch size than their 16 the learning rate is scaled with it; `augment` has other sizes of pictures.
    """
    return TrainConfig(
        steps=PAPER_STEPS[schedule],
        batch_size=batch_size,
        evaluate_every=10_000,
        save_every=10_000,
        optim=OptimConfig(lr=0.01 * batch_size / 16),
        augment=augment or AugmentConfig(),
    )


def variant_recipe(variant: Variant, size: PreprocessConfig) -> Recipe:
    """Return a variant's recipe with the authors' 16 pictures a step shared by the processes there are.

    Where the backbone wants BGR pictures, as MSRA's does, they get the means that the authors trained with.
    """
    train = panoptic_fcn_paper(variant.schedule, augment=variant.augment)
    means = {"preprocess.mean": list(AUTHORS_MEAN)} if size.channel_order == "BGR" else {}
    settings = {**AUTHORS_MODEL, **means, **variant.model}
    return Recipe(shared(train), settings, variant.model_name, about=variant.about)


def schedule_recipe(schedule: str, size: PreprocessConfig) -> Recipe:
    """Return the authors' schedule for any Panoptic FCN."""
    return variant_recipe(Variant(f"the authors' {schedule} schedule for any Panoptic FCN", schedule), size)
