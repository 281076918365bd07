"""Recipes of DETR: the paper's stages, and short ones for one's own pictures."""

from typing import Any

from thingstuff.data.transforms import AugmentConfig, WindowConfig
from thingstuff.models.base import PreprocessConfig
from thingstuff.optim import OptimConfig
from thingstuff.recipes.base import Recipe, around, shared
from thingstuff.stages import StageConfig
from thingstuff.training import TrainConfig


def detr_paper_boxes() -> StageConfig:
    """Return the paper's training of boxes (things and stuff): 300 epochs, the last third at a tenth (section 4)."""
    return StageConfig(learns="boxes", epochs=300, optim=_detr_optim(drop_at=200 / 300))


def detr_paper_masks() -> StageConfig:
    """Return the paper's training of masks on learned boxes: 25 epochs, the last ten at a tenth (section 4.4)."""
    return StageConfig(learns="masks", epochs=25, optim=_detr_optim(drop_at=15 / 25))


def detr_paper_joint() -> StageConfig:
    """Return the paper's schedule of boxes with everything learned at once."""
    return StageConfig(learns="all", epochs=300, optim=_detr_optim(drop_at=200 / 300))


def detr_paper(first: StageConfig, then: StageConfig | None = None, batch_size: int = 16) -> TrainConfig:
    """Return a training of DETR in the paper's stages, with its sizes and windows; they have 16 pictures a step."""
    return TrainConfig(
        **_fields(first),
        then=then,
        batch_size=batch_size,
        evaluate_every=10_000,
        save_every=10_000,
        augment=AugmentConfig(short_sides=tuple(range(480, 801, 32)), max_side=1333, window=WindowConfig()),
    )


def _detr_optim(drop_at: float) -> OptimConfig:
    return OptimConfig(
        kind="adamw",
        lr=1e-4,
        backbone_lr=0.1,
        weight_decay=1e-4,
        norm_decay=1e-4,
        schedule="step",
        drop=0.1,
        drop_at=drop_at,
        warmup_steps=0,
        clip="norm",
        clip_at=0.1,
    )


def _fields(stage: StageConfig) -> dict[str, Any]:
    """Return a stage's fields, to make the first stage of a training of them."""
    return {name: getattr(stage, name) for name in StageConfig.model_fields}


def detr_fine_tune(size: PreprocessConfig) -> TrainConfig:
    """Return a short recipe of DETR for one's own pictures on one small GPU, from pretrained weights."""
    return TrainConfig(
        steps=4000,
        batch_size=2,
        optim=OptimConfig(
            kind="adamw", lr=1e-4, backbone_lr=0.1, schedule="cosine", warmup_steps=200, clip="norm", clip_at=0.1
        ),
        augment=AugmentConfig(short_sides=around(size, 0.8, 0.85, 0.9, 0.95, 1.0), max_side=size.max_side, color=0.2),
    )


def detr_scratch(size: PreprocessConfig) -> TrainConfig:
    """Return a recipe in two stages for a small DETR without pretrained weights, on a CPU too."""
    optim = OptimConfig(
        kind="adamw",
        lr=4e-4,
        backbone_lr=2.5,  # convolutions from scratch bear more than attention does
        schedule="cosine",
        warmup_steps=200,
        clip="norm",
        clip_at=1.0,
    )
    return TrainConfig(
        learns="boxes",
        steps=6000,
        batch_size=8,
        workers=0,  # as in `scratch`
        optim=optim,
        augment=AugmentConfig(short_sides=around(size, 0.875, 1.0), max_side=size.max_side, color=0.1),
        then=StageConfig(
            learns="masks",
            steps=1000,
            optim=optim.model_copy(update={"lr": 1e-3, "backbone_lr": 1.0, "warmup_steps": 50}),
        ),
    )


def detr_recipe(first: StageConfig, then: StageConfig | None = None, about: str = "") -> Recipe:
    """Return the paper's recipe of DETR; its code takes crowds for ordinary targets and the unlabelled for none."""
    return Recipe(
        shared(detr_paper(first, then)),
        {"unlabelled": "negative"},
        "detr-panoptic-r50",
        other_classes=True,
        about=about,
    )
