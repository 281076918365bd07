"""The settings of DETR with its mask head."""

from typing import Literal

from pydantic import Field, model_validator

from thingstuff.backbones import BackboneConfig
from thingstuff.models.base import ModelConfig, PreprocessConfig


class DETRConfig(ModelConfig):
    """Every setting of DETR; the defaults are the paper's except where a line says so."""

    preprocess: PreprocessConfig = PreprocessConfig(divisor=1)
    """Size rule, normalisation; batches are padded to their largest picture."""
    backbone: BackboneConfig = BackboneConfig()
    """The ResNet."""
    hidden: int = Field(default=256, ge=128, multiple_of=128)
    """Width of the transformer (d), a multiple of 128: the mask head's last norm has 8 groups of d / 16 channels."""
    heads: int = Field(default=8, ge=8, multiple_of=8)
    """Attention heads, of the transformer and of the attention maps: a multiple of 8 (the mask head's groups) that
    divides `hidden`."""
    encoder_layers: int = Field(default=6, ge=1)
    """Layers of the encoder."""
    decoder_layers: int = Field(default=6, ge=1)
    """Layers of the decoder."""
    feedforward: int = Field(default=2048, ge=1)
    """Width inside the feed-forward parts."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Dropout of the transformer."""
    queries: int = Field(default=100, ge=1)
    """Queries: most segments of a picture."""
    outputs: int | None = Field(default=None, ge=1)
    """null: one class output per category, in order. A number (250 in the published weights): an output's position is
    the category's id, and outputs that are no category's cannot survive."""

    attention_gain: float = Field(default=1.0, gt=0)
    """First weights of the mask head's attention channels, times this. The authors' is 1, and needs 10^5 steps: an
    attention map sums to 1 over heads and cells, so at first it is nothing beside the features. From scratch in minutes
    give about as many as there are heads x cells."""
    unlabelled: Literal["ignored", "negative"] = "ignored"
    """Unlabelled pixels and crowds: left out of the losses, or background and ordinary targets (authors' code)."""
    no_object_weight: float = Field(default=0.1, gt=0)
    """Weight of queries without a target in the class loss."""
    cost_class: float = Field(default=1.0, ge=0)
    """Weight of the class probability in the matching cost."""
    cost_l1: float = Field(default=5.0, ge=0)
    """Weight of the boxes' L1 distance in the matching cost."""
    cost_giou: float = Field(default=2.0, ge=0)
    """Weight of the boxes' generalised IoU in the matching cost."""
    class_weight: float = Field(default=1.0, ge=0)
    """Weight of the class loss."""
    l1_weight: float = Field(default=5.0, ge=0)
    """Weight of the boxes' L1 loss."""
    giou_weight: float = Field(default=2.0, ge=0)
    """Weight of the boxes' generalised IoU loss."""
    focal_weight: float = Field(default=1.0, ge=0)
    """Weight of the masks' focal loss."""
    dice_weight: float = Field(default=1.0, ge=0)
    """Weight of the masks' DICE loss."""
    focal_alpha: float = 0.25
    """Focal loss's weight of positives."""
    focal_gamma: float = 2.0
    """Focal loss's exponent."""

    threshold: float = Field(default=0.85, ge=0, lt=1)
    """Queries at or below this class probability give no segment."""
    min_area: int = Field(default=4, ge=0)
    """Segments of so many pixels or fewer are dropped."""
    as_released: bool = False
    """Two faults of the released code: masks are squeezed by the padding, and merged stuff loses its pixels."""

    @model_validator(mode="after")
    def _heads_divide(self) -> "DETRConfig":
        if self.hidden % self.heads:
            raise ValueError(f"heads={self.heads} do not divide hidden={self.hidden}")
        return self
