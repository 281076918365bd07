"""The settings of Panoptic FPN."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from thingstuff.backbones import BackboneConfig
from thingstuff.models.base import ModelConfig, PreprocessConfig, padded_to

Share = Annotated[float, Field(ge=0, le=1)]


class PanopticFPNConfig(ModelConfig):
    """Every setting of Panoptic FPN; the defaults are the paper's except where a line says so."""

    preprocess: Annotated[PreprocessConfig, padded_to(32)] = PreprocessConfig()
    """Size rule, normalisation, padding (to multiples of 32, since each level of the FPN is the double of the next)."""
    backbone: BackboneConfig = BackboneConfig()
    """The ResNet."""
    fpn_channels: int = Field(default=256, ge=1)
    """Channels of P2..P6; P6 is every other cell of P5."""
    semantic_channels: int = Field(default=128, ge=32, multiple_of=32)
    """Channels of the semantic FPN, a multiple of 32."""
    anchor_sizes: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt, PositiveInt] = (32, 64, 128, 256, 512)
    """Side of the square anchor of each of P2..P6, in pixels of the network input."""
    anchor_ratios: tuple[PositiveFloat, ...] = Field(default=(0.5, 1.0, 2.0), min_length=1)
    """Height / width of a cell's anchors, which have the square one's area."""
    canonical_size: int = Field(default=224, ge=1)
    """Boxes of sqrt(area) from this on are pooled from P4; half of it from P3, twice as much from P5."""
    box_channels: int = Field(default=1024, ge=1)
    """Width of the box head's two layers."""
    mask_channels: int = Field(default=256, ge=1)
    """Channels of the mask head."""
    mask_convs: int = Field(default=4, ge=1)
    """3x3 convs of the mask head."""

    unlabelled: Literal["ignored", "negative"] = "ignored"
    """Unlabelled pixels and crowds: left out, or background of boxes and masks as in published code (paper recipes)."""
    anchor_samples: int = Field(default=256, ge=2)
    """Anchors of a picture that objectness is learned from, half of them on things where there are enough."""
    box_samples: int = Field(default=512, ge=4)
    """Proposals of a picture that classes are learned from, a quarter of them on things where there are enough."""
    proposals_learned: int = Field(default=2000, ge=1)
    """Best boxes of each level that non-maximum suppression chooses from, in a loss ..."""
    proposals_predicted: int = Field(default=1000, ge=1)
    """... and in a prediction."""
    thing_weight: float = 1.0
    """Weight of the losses of Mask R-CNN."""
    semantic_weight: float = 0.5
    """Weight of the semantic loss."""

    proposals: int = Field(default=1000, ge=1)
    """Most proposals of a picture."""
    proposal_overlap: Share = 0.7
    """IoU from which the lesser of two proposals is dropped."""
    detection_score: Share = 0.05
    """Detections below this score are dropped."""
    detection_overlap: Share = 0.5
    """IoU from which the lesser of two detections of a class is dropped."""
    detections: int = Field(default=100, ge=1)
    """Most things of a picture."""
    mask_stride: Literal[1, 2, 4] = 2
    """Pixels of the network input to a cell of the masks that compete; the paper's 1 takes four times the memory."""
    mask_threshold: Share = 0.5
    """A pixel is in a thing's mask above this probability."""
    thing_score: Share = 0.5
    """Things below this score take no part in the merge."""
    overlap: Share = 0.5
    """A thing of whose mask more than this share is taken by better ones is dropped."""
    stuff_area: float = 4096
    """Stuff with fewer pixels is dropped ..."""
    stuff_area_relative: bool = True
    """... scaled by picture area / (640 x 480), so that small and large pictures lose alike (published code: off)."""
