"""Panoptic FCN (Li et al., CVPR 2021): a kernel per object or stuff region, convolved with one feature, is its mask.

Letters: B pictures, T thing classes, R region classes, C channels, K kernel channels, E encoded channels, P
(instance, level) pairs, k positives of a pair, H W the stride-4 map, h w a level's map.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field, field_validator
from torch import Tensor, nn

from thingstuff.backbones import BackboneConfig, ResNet
from thingstuff.layers import FPN, ConvBlock, SemanticFPN, with_coordinates
from thingstuff.losses import count_over_processes, dice_loss, sigmoid_focal_loss, weighted_dice_loss
from thingstuff.merging import ThingsFirst, merge_things_first
from thingstuff.models.base import ModelConfig, PanopticModel, PreprocessConfig, padded_to
from thingstuff.models.panoptic_fcn_kernels import (
    Kernels,
    concatenate,
    fuse_stuff,
    fuse_things,
    pooled,
    stuff_regions,
    thing_peaks,
)
from thingstuff.models.panoptic_fcn_targets import (
    LevelTargets,
    MaskTargets,
    TargetSettings,
    level_targets,
    mask_targets,
    to_level,
)
from thingstuff.panoptic import VOID, Categories, Panoptic
from thingstuff.structures import Images, Segments, Size, Target

FIRST_LEVEL = 3
REFERENCE_AREA = 640 * 480
"""Pixels of the pictures that `stuff_area` is meant for, where it is relative."""


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

    thing_threshold: float = 0.05
    """Centres below this probability are no candidates (0.2 in the FAST variants)."""
    stuff_threshold: float = 0.05
    """Regions below this mean probability are none (0.1 in the FAST variants)."""
    candidates: int = Field(default=100, ge=2)
    """Most things of a picture; half as many from each level."""
    similarity: float = 0.9
    """Cosine from which kernels are fused."""
    class_aware: bool = True
    """Only kernels of one class are fused."""
    mask_threshold: float = 0.4
    """A pixel is in a thing's mask above this probability."""
    rescored_threshold: float = 0.05
    """Things below this score times mean mask probability are dropped."""
    thing_score: float = 0.2
    """Things below this score take no part in the merge."""
    overlap: float = 0.5
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


@dataclass(frozen=True)
class PanopticFCNOutput:
    """Logits of object centres and stuff regions, kernel maps (one of each per level), and the encoded feature."""

    centres: tuple[Float[Tensor, "B T _h _w"], ...]
    regions: tuple[Float[Tensor, "B R _h _w"], ...]
    kernels: tuple[Float[Tensor, "B K _h _w"], ...]
    feature: Float[Tensor, "B E H W"]

    def float(self) -> "PanopticFCNOutput":
        """Return it in fp32, for sums over many pixels."""
        centres, regions, kernels = (tuple(t.float() for t in m) for m in (self.centres, self.regions, self.kernels))
        return PanopticFCNOutput(centres, regions, kernels, self.feature.float())


def _blocks(inputs: int, channels: int, count: int, *, norm: bool = True, deformable: bool = False) -> nn.Sequential:
    blocks = [
        ConvBlock(inputs if i == 0 else channels, channels, norm=norm, deformable=deformable) for i in range(count)
    ]
    return nn.Sequential(*blocks)


class PositionHead(nn.Module):
    """Where things have their centres and stuff its regions, on one level."""

    def __init__(self, config: PanopticFCNConfig, thing_classes: int, region_classes: int) -> None:
        super().__init__()
        width = config.position_channels
        self.blocks = _blocks(config.fpn_channels, width, config.position_convs, deformable=config.position_deformable)
        self.centres = nn.Conv2d(width, thing_classes, 3, padding=1)
        self.regions = nn.Conv2d(width, region_classes, 3, padding=1)
        for conv in (self.centres, self.regions):
            nn.init.normal_(conv.weight, std=0.01)
            assert conv.bias is not None
            nn.init.constant_(conv.bias, -2.19)
            conv.requires_grad_(conv.out_channels > 0)  # none would be left without a gradient, which DDP refuses

    def forward(self, x: Float[Tensor, "B C h w"]) -> tuple[Tensor, Tensor]:
        x = self.blocks(x)
        return _outputs(self.centres, x), _outputs(self.regions, x)


def _outputs(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Apply a conv that may have no outputs (categories without things), which torch's own refuses."""
    y: Tensor = conv(x) if conv.out_channels else x.new_zeros((len(x), 0, *x.shape[2:]))
    return y


class KernelHead(nn.Module):
    """The kernel of every cell of a level."""

    def __init__(self, config: PanopticFCNConfig) -> None:
        super().__init__()
        self.coordinates = config.kernel_coordinates
        width = config.kernel_channels
        self.blocks = _blocks(config.fpn_channels + 2 * self.coordinates, width, config.kernel_convs)
        self.out = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B K h w"]:
        kernels: Tensor = self.out(self.blocks(with_coordinates(x) if self.coordinates else x))
        return kernels


class FeatureEncoder(nn.Module):
    """The one high-resolution feature that every kernel is convolved with."""

    def __init__(self, config: PanopticFCNConfig) -> None:
        super().__init__()
        self.coordinates = config.encoder_coordinates
        self.blocks = _blocks(
            config.semantic_channels + 2 * self.coordinates,
            config.encoder_channels,
            config.encoder_convs,
            norm=False,
            deformable=config.encoder_deformable,
        )

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B E H W"]:
        feature: Tensor = self.blocks(with_coordinates(x) if self.coordinates else x)
        return feature


class PanopticFCN(PanopticModel):
    """Panoptic FCN; `categories` set the number of centre and region channels."""

    config: PanopticFCNConfig
    config_class: ClassVar[type[ModelConfig]] = PanopticFCNConfig

    def __init__(self, config: PanopticFCNConfig, categories: Categories) -> None:
        super().__init__(config, categories)
        regions = len(categories.stuff_labels) + config.region_has_thing
        self.backbone = ResNet(config.backbone)
        self.levels = tuple(range(FIRST_LEVEL, FIRST_LEVEL + len(config.level_ranges)))
        self.fpn = FPN(self.backbone.channels, config.fpn_channels, self.levels[-1])
        self.semantic_fpn = SemanticFPN(config.fpn_channels, config.semantic_channels)
        self.position_head = PositionHead(config, len(categories.thing_labels), regions)
        self.kernel_head = KernelHead(config)
        self.feature_encoder = FeatureEncoder(config)
        self.thing_embedding = nn.Linear(config.kernel_channels, config.encoder_channels)
        self.stuff_embedding = nn.Linear(config.kernel_channels, config.encoder_channels)

    @property
    def target_settings(self) -> TargetSettings:
        """How targets are made."""
        c = self.config
        ignored = c.unlabelled == "ignored"
        return TargetSettings(c.level_ranges, region_has_thing=c.region_has_thing, ignore_unlabelled=ignored)

    def class_rows(self) -> dict[str, list[str | None]]:
        c = self.categories
        things: list[str | None] = [c.names[label] for label in c.thing_labels]
        stuff: list[str | None] = [c.names[label] for label in c.stuff_labels]
        regions = ["(some thing)", *stuff] if self.config.region_has_thing else stuff
        rows = {"position_head.centres": things, "position_head.regions": regions}
        return {f"{place}.{kind}": names for place, names in rows.items() for kind in ("weight", "bias")}

    def forward(self, images: Images) -> PanopticFCNOutput:
        pyramid = self.fpn(self.backbone(images.pixels))
        positions = [self.position_head(pyramid[level]) for level in self.levels]
        return PanopticFCNOutput(
            centres=tuple(centres for centres, _ in positions),
            regions=tuple(regions for _, regions in positions),
            kernels=tuple(self.kernel_head(pyramid[level]) for level in self.levels),
            feature=self.feature_encoder(self.semantic_fpn(pyramid)),
        )

    # ---- learning

    def loss(self, output: PanopticFCNOutput, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Return the position losses (focal) and mask losses (DICE) of things and stuff (section 3.3)."""
        output = output.float()
        canvas = (output.feature.shape[-2] * 4, output.feature.shape[-1] * 4)
        masks = mask_targets(targets, self.categories, canvas, self.target_settings)
        shapes = [_shape(c) for c in output.centres]
        levels = level_targets(masks, shapes, canvas, self.target_settings)
        pairs = count_over_processes(sum(len(level.picture) for level in levels), masks.valid.device)
        c = self.config
        position_things, position_stuff = self._position_losses(output, levels)
        return {
            "position_things": c.position_weight * position_things / pairs,
            "position_stuff": c.position_weight * position_stuff / len(targets),
            "mask_things": c.mask_weight * self._thing_mask_loss(output, masks, levels) / pairs,
            "mask_stuff": c.mask_weight * self._stuff_mask_loss(output, masks, levels),
        }

    def _position_losses(self, output: PanopticFCNOutput, levels: list[LevelTargets]) -> tuple[Tensor, Tensor]:
        """Focal loss: summed over centres; of regions the mean over cells, summed over pictures and classes."""
        alpha, gamma = self.config.focal_alpha, self.config.focal_gamma
        things, stuff = [], []
        for centres, regions, level in zip(output.centres, output.regions, levels, strict=True):
            loss = sigmoid_focal_loss(centres, level.centres, alpha, gamma)
            things.append((loss * level.valid_centres).sum())
            loss = sigmoid_focal_loss(regions, level.regions, alpha, gamma) * level.valid[:, None]
            cells = level.valid.flatten(1).sum(1).clamp(min=1)
            stuff.append((loss.flatten(2).sum(2) / cells[:, None]).sum())
        return torch.stack(things).sum(), torch.stack(stuff).sum()

    def _thing_mask_loss(self, output: PanopticFCNOutput, masks: MaskTargets, levels: list[LevelTargets]) -> Tensor:
        """Weighted DICE, summed over (instance, level) pairs; each pair's kernels come from its best positions."""
        chosen = [
            positive_kernels(centres, kernels, masks, level, self.config.positives)
            for centres, kernels, level in zip(output.centres, output.kernels, levels, strict=True)
        ]
        losses = []
        for b, things in enumerate(masks.things):
            feature = output.feature[b].flatten(1)
            valid = masks.valid[b].flatten()
            for (guidance, vectors), level in zip(chosen, levels, strict=True):
                rows = (level.picture == b).nonzero()[:, 0]
                kernels = self.thing_embedding(vectors[rows])
                p = (kernels @ feature).sigmoid() * valid  # [P, k, H W]
                target = things[level.instance[rows]].flatten(1) * valid
                losses.append(weighted_dice_loss(p, target, guidance[rows]).sum())
        return torch.stack(losses).sum()

    def _stuff_mask_loss(self, output: PanopticFCNOutput, masks: MaskTargets, levels: list[LevelTargets]) -> Tensor:
        """DICE, averaged over the (region class, level) pairs that are present in a picture."""
        losses, count = [], 0
        for b in range(len(masks.things)):
            feature = output.feature[b].flatten(1)
            valid = masks.valid[b].flatten()
            for kernels, level in zip(output.kernels, levels, strict=True):
                present = level.regions[b].flatten(1).any(1).nonzero()[:, 0]
                count += len(present)
                vectors = pooled((level.regions[b, present] > 0).float(), kernels[b])
                p = (self.stuff_embedding(vectors) @ feature).sigmoid() * valid  # [S, H W]
                losses.append(dice_loss(p, masks.regions[b, present].flatten(1) * valid).sum())
        return torch.stack(losses).sum() / count_over_processes(count, masks.valid.device)

    # ---- predicting

    def segments(self, output: PanopticFCNOutput, images: Images) -> list[Segments]:
        """Return each picture's things by falling score, then stuff by ascending label, `VOID` (some thing) first."""
        output = output.float()
        return [self._picture_segments(output, images, b) for b in range(len(images))]

    def _picture_segments(self, output: PanopticFCNOutput, images: Images, b: int) -> Segments:
        things, stuff = self.kernels(output, b)
        feature = output.feature[b]
        E, H, W = feature.shape
        masks = (torch.cat([things.vectors, stuff.vectors]) @ feature.view(E, -1)).sigmoid().view(-1, H, W)
        of_things, of_stuff = masks[: len(things.labels)], masks[len(things.labels) :]
        scores = things.scores * _mean_inside(of_things, self.config.mask_threshold)
        scores, order = scores.sort(descending=True)
        order = order[scores >= self.config.rescored_threshold][: self.config.candidates]
        names = torch.tensor(self.categories.thing_labels, dtype=torch.long, device=feature.device)
        return Segments(
            masks=torch.cat([of_things[order], of_stuff]),
            labels=torch.cat([names[things.labels[order]], self._stuff_names(feature.device)[stuff.labels]]),
            scores=torch.cat([scores[: len(order)], stuff.scores]),
            frame=images.frame(b),
        )

    def kernels(self, output: PanopticFCNOutput, b: int) -> tuple[Kernels, Kernels]:
        """Return one picture's embedded and fused kernels: of things by falling score, of stuff by ascending class."""
        c = self.config
        things, stuff = concatenate(self.thing_candidates(output, b)), concatenate(self.stuff_candidates(output, b))
        things = things.pick(things.scores.argsort(descending=True, stable=True))
        things = Kernels(self.thing_embedding(things.vectors), things.labels, things.scores)
        stuff = Kernels(self.stuff_embedding(stuff.vectors), stuff.labels, stuff.scores)
        return fuse_things(things, c.similarity, c.class_aware), fuse_stuff(stuff)

    def thing_candidates(self, output: PanopticFCNOutput, b: int) -> list[Kernels]:
        """Return the kernels at one picture's object centres, a list entry per level."""
        c = self.config
        return [
            thing_peaks(centres[b], kernels[b], 3 if level < 6 else 5, c.candidates // 2, c.thing_threshold)
            for level, centres, kernels in zip(self.levels, output.centres, output.kernels, strict=True)
        ]

    def stuff_candidates(self, output: PanopticFCNOutput, b: int) -> list[Kernels]:
        """Return the kernels of one picture's stuff regions, a list entry per level."""
        return [
            stuff_regions(regions[b], kernels[b], self.config.stuff_threshold)
            for regions, kernels in zip(output.regions, output.kernels, strict=True)
        ]

    def merge(self, segments: Segments) -> Panoptic:
        """Paste things by falling score, then give what is left to stuff by argmax."""
        c = self.config
        height, width = segments.frame.original
        scale = height * width / REFERENCE_AREA if c.stuff_area_relative else 1.0
        settings = ThingsFirst(c.thing_score, c.mask_threshold, c.overlap, c.stuff_area * scale)
        return merge_things_first(segments, self.categories, settings)

    def _stuff_names(self, device: torch.device) -> Tensor:
        names = [VOID, *self.categories.stuff_labels] if self.config.region_has_thing else self.categories.stuff_labels
        return torch.tensor(names, dtype=torch.long, device=device)


def _shape(maps: Tensor) -> Size:
    return int(maps.shape[-2]), int(maps.shape[-1])


def positive_kernels(
    centres: Float[Tensor, "B T h w"],
    kernels: Float[Tensor, "B K h w"],
    masks: MaskTargets,
    level: LevelTargets,
    positives: int,
) -> tuple[Float[Tensor, "P k"], Float[Tensor, "P k K"]]:
    """Return, per (instance, level) pair, the centre probabilities of its best positions and the kernels there.

    A position counts inside the instance's mask (above 0.1 on the level). k is `positives`, or the level's cells
    where it has fewer. Gradients flow through the probabilities, which weight the pair's DICE losses.
    """
    shape = _shape(centres)
    soft = [to_level(things[None], shape)[0] for things in masks.things]
    offsets = torch.tensor([0, *(len(s) for s in soft)], device=level.instance.device).cumsum(0)
    inside = torch.cat(soft)[offsets[level.picture] + level.instance] > 0.1
    guidance = centres[level.picture, level.label].sigmoid() * inside
    values, cells = guidance.flatten(1).topk(min(positives, shape[0] * shape[1]), dim=1)
    flat = kernels.flatten(2).transpose(1, 2)  # [B, h w, K]
    return values, flat[level.picture[:, None], cells]


def _mean_inside(masks: Float[Tensor, "N H W"], threshold: float) -> Float[Tensor, "N"]:
    """Return each mask's mean probability where it is above the threshold."""
    inside = masks > threshold
    return (masks * inside).flatten(1).sum(1) / (inside.flatten(1).sum(1) + 1e-6)
