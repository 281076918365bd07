"""The models by name: `MODELS` maps each to its config and class; `create` builds one."""

from typing import Any

from thingstuff.backbones import BackboneConfig
from thingstuff.errors import InputError
from thingstuff.models.base import ModelConfig, PanopticModel, PreprocessConfig
from thingstuff.models.detr import DETRConfig, DETRPanoptic
from thingstuff.models.panoptic_fcn import PanopticFCN, PanopticFCNConfig
from thingstuff.models.panoptic_fpn import PanopticFPN, PanopticFPNConfig
from thingstuff.panoptic import Categories

_TINY_FCN = PanopticFCNConfig(
    preprocess=PreprocessConfig(short_side=128, max_side=1333),
    backbone=BackboneConfig(
        depth=18, norm="batch", weights="none", frozen_stages=0, stem_channels=32, res2_channels=32
    ),
    fpn_channels=64,
    semantic_channels=64,
    position_channels=64,
    position_convs=2,
    position_deformable=False,
    kernel_channels=64,
    kernel_convs=2,
    encoder_channels=32,
    encoder_convs=2,
    # Three levels, since P6 and P7 of small pictures are a few cells; positions weigh more and scores less, since from
    # scratch and in minutes they are learned last.
    level_ranges=((1, 40), (28, 80), (56, 2048)),
    position_weight=4.0,
    thing_score=0.1,
    stuff_threshold=0.2,
)

_TINY_DETR = DETRConfig(
    preprocess=PreprocessConfig(short_side=128, max_side=1333, divisor=32),
    backbone=BackboneConfig(
        depth=18, norm="batch", weights="none", frozen_stages=0, stem_channels=32, res2_channels=32
    ),
    hidden=128,
    encoder_layers=2,
    decoder_layers=3,
    feedforward=256,
    queries=25,
    dropout=0.0,
    # What lets masks be learned in minutes: see the field; and masks weigh as much as boxes.
    attention_gain=2000.0,
    focal_weight=5.0,
    dice_weight=5.0,
    threshold=0.15,  # classes are learned last, and are never sure in so short a training
)

_TINY_FPN = PanopticFPNConfig(
    preprocess=PreprocessConfig(short_side=128, max_side=1333),
    backbone=BackboneConfig(
        depth=18, norm="batch", weights="none", frozen_stages=0, stem_channels=32, res2_channels=32
    ),
    fpn_channels=64,
    semantic_channels=64,
    anchor_sizes=(8, 16, 32, 64, 128),  # a quarter of the usual, since pictures are small
    canonical_size=56,  # likewise
    box_channels=128,
    mask_channels=64,
    mask_convs=2,
    box_samples=64,
    anchor_samples=128,
    proposals_learned=200,
    proposals_predicted=200,
    proposals=200,
    mask_stride=1,
)

MODELS: dict[str, tuple[ModelConfig, type[PanopticModel]]] = {
    "panoptic-fcn-r50": (PanopticFCNConfig(), PanopticFCN),
    "panoptic-fcn-r101": (PanopticFCNConfig(backbone=BackboneConfig(depth=101)), PanopticFCN),
    "panoptic-fcn-r18": (PanopticFCNConfig(backbone=BackboneConfig(depth=18)), PanopticFCN),
    "panoptic-fcn-tiny": (_TINY_FCN, PanopticFCN),
    "panoptic-fpn-r50": (PanopticFPNConfig(), PanopticFPN),
    "panoptic-fpn-tiny": (_TINY_FPN, PanopticFPN),
    "detr-panoptic-r50": (DETRConfig(), DETRPanoptic),
    "detr-panoptic-r101": (DETRConfig(backbone=BackboneConfig(depth=101)), DETRPanoptic),
    "detr-panoptic-r50-dc5": (DETRConfig(backbone=BackboneConfig(dilated=True)), DETRPanoptic),
    "detr-panoptic-tiny": (_TINY_DETR, DETRPanoptic),
}


def find(name: str) -> tuple[ModelConfig, type[PanopticModel]]:
    """Return a model's default config and class; raises `InputError` naming the known ones."""
    if name not in MODELS:
        raise InputError(f"unknown model {name!r}; known are {', '.join(MODELS)}")
    return MODELS[name]


def create(name: str, categories: Categories, config: ModelConfig | None = None, **changes: Any) -> PanopticModel:
    """Build a model with random weights for these categories.

    `config` replaces the preset's; `changes` replace single fields of it. Raises `InputError` for an unknown name or
    field.
    """
    from thingstuff.config import changed

    preset, model_class = find(name)
    model: PanopticModel = model_class(changed(config or preset, changes), categories)
    model.name = name
    return model
