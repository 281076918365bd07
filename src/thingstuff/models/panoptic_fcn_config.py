"""The settings of Panoptic FCN: every switch of the paper's ablation tables and variants is a field here."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from thingstuff.backbones import BackboneConfig
from thingstuff.models.base import ModelConfig, PreprocessConfig, padded_to
from thingstuff.models.panoptic_fcn_targets import TargetSettings


class PanopticFCNConfig(ModelConfig):
    """Every setting of Panoptic FCN; the defaults are the paper's except where a line says so."""

    preprocess: Annotated[PreprocessConfig, padded_to(32)] = PreprocessConfig()
    """Size rule, normalisation, padding (to multiples of 32, since each level of the FPN is the double of the next)."""
    backbone: BackboneConfig = BackboneConfig()
    """The ResNet."""
    fpn_channels: int = Field(default=256, ge=1)
    """Channels of P2..P7."""
    semantic_channels: int = Field(default=256, ge=32, multiple_of=32)
    """Channels of the semantic FPN, a multiple of 32."""
    position_channels: int = Field(default=256, ge=32, multiple_of=32)
    """Channels of the position head, a multiple of 32."""
    position_convs: int = Field(default=3, ge=1, le=4)
    """3x3 blocks of the position head."""
    position_deformable: bool = True
    """Those blocks are modulated deformable convolutions."""
    kernel_channels: int = Field(default=256, ge=32, multiple_of=32)
    """Channels of the kernel head, a multiple of 32."""
    kernel_convs: int = Field(default=3, ge=1, le=4)
    """3x3 blocks of the kernel head."""
    kernel_coordinates: bool = True
    """Coordinates at the kernel head's entry (coord_w in the paper)."""
    feature_type: Literal["semantic", "p2", "summed"] = "semantic"
    """What the feature encoder sees: the semantic FPN, P2 alone, or P2..P5 resized to stride 4 and added."""
    encoder_channels: int = Field(default=64, ge=1)
    """Channels of the encoded feature and of the embedded kernels."""
    encoder_convs: int = Field(default=3, ge=1, le=4)
    """3x3 blocks of the feature encoder."""
    encoder_deformable: bool = False
    """Those blocks are modulated deformable convolutions."""
    encoder_coordinates: bool = True
    """Coordinates at the feature encoder's entry (coord_f in the paper)."""

    region_has_thing: bool = True
    """Region class 0 is "some thing"."""
    level_ranges: tuple[tuple[float, float], ...] = Field(
        default=TargetSettings.level_ranges, min_length=3, max_length=5
    )
    """sqrt(box area) in network-input pixels, from and to, that each of P3, P4, ... (to P7) learns; may overlap."""
    centre: Literal["mass", "box"] = "mass"
    """What an object's centre is: the mean of its mask's cells, or the middle of its box."""
    gaussian_overlap: float = Field(default=0.7, gt=0, lt=1)
    """IoU that a box shifted by the Gaussian's radius keeps with the object's."""
    gaussian_sigma: float = Field(default=3.0, gt=0)
    """A centre's Gaussian of radius r has the standard deviation (2 r + 1) / this."""
    weighted: bool = True
    """Weighted DICE over the best positions of an object; else plain DICE of the kernel at its centre."""
    positives: int = Field(default=7, ge=1)
    """Positions of an object on a level whose kernels learn its mask (k of the weighted DICE)."""
    unlabelled: Literal["ignored", "negative"] = "ignored"
    """Unlabelled pixels and crowds: left out of the losses, or negatives as in the authors' code (paper recipes)."""
    focal_alpha: float = 0.25
    """Focal loss's weight of positives."""
    focal_gamma: float = 2.0
    """Focal loss's exponent."""
    position_weight: float = 1.0
    """Weight of the two position losses."""
    mask_weight: float = 3.0
    """Weight of the two mask losses."""

    thing_threshold: float = Field(default=0.05, ge=0, le=1)
    """Centres below this probability are no candidates (0.2 in the FAST variants)."""
    stuff_threshold: float = Field(default=0.05, ge=0, le=1)
    """Regions below this mean probability are none (0.1 in the FAST variants)."""
    candidates: int = Field(default=100, ge=2)
    """Most things of a picture; half as many from each level."""
    kernel_fusion: bool = True
    """Kernels of one object are averaged; else each decoded one gives a thing (stuff is averaged by class always)."""
    similarity: float = Field(default=0.9, ge=0, le=1)
    """Cosine from which kernels are fused; 1 fuses those that differ by rounding alone (1e-6)."""
    class_aware: bool = True
    """Only kernels of one class are fused."""
    nms: bool = False
    """Matrix NMS among the rescored things of a class."""
    flip: bool = False
    """Look at the mirrored picture too, and average the mask probabilities of both."""
    mask_threshold: float = Field(default=0.4, ge=0, le=1)
    """A pixel is in a thing's mask above this probability."""
    rescored_threshold: float = Field(default=0.05, ge=0, le=1)
    """Things below this score times mean mask probability are dropped."""
    thing_score: float = Field(default=0.2, ge=0, le=1)
    """Things below this score take no part in the merge."""
    overlap: float = Field(default=0.5, ge=0, le=1)
    """A thing of whose mask more than this share is taken by better ones is dropped."""
    stuff_area: float = 4096
    """Stuff with fewer pixels is dropped ..."""
    stuff_area_relative: bool = True
    """... scaled by picture area / (640 x 480), so that small and large pictures lose alike (authors: off)."""

    @field_validator("level_ranges")
    @classmethod
    def _ranges_rise(cls, ranges: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
        if any(not 0 <= low < high for low, high in ranges):
            raise ValueError("each range goes from a smaller size to a larger one")
        return ranges
