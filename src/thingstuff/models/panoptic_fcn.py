"""Panoptic FCN (Li et al., CVPR 2021): a kernel per object or stuff region, convolved with one feature, is its mask.

Letters: B pictures, T thing classes, R region classes, C channels, K kernel channels, E encoded channels, P
(instance, level) pairs, k positives of a pair, H W the stride-4 map, h w a level's map.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from thingstuff.backbones import ResNet
from thingstuff.head_cost import HeadCost
from thingstuff.layers import FPN, SemanticFPN, sum_of_levels
from thingstuff.losses import count_over_processes, dice_loss, sigmoid_focal_loss, weighted_dice_loss
from thingstuff.merging import ThingsFirst, area_limit, merge_things_first
from thingstuff.models.base import ModelConfig, PanopticModel
from thingstuff.models.panoptic_fcn_config import PanopticFCNConfig
from thingstuff.models.panoptic_fcn_heads import FeatureEncoder, KernelHead, PositionHead
from thingstuff.models.panoptic_fcn_kernels import (
    Kernels,
    Peaks,
    Rescored,
    by_score,
    concatenate,
    find_peaks,
    fuse_stuff,
    fuse_things,
    pooled,
    rescore,
    stuff_regions,
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
from thingstuff.walk import Seen, Step
from thingstuff.watching import Watched

__all__ = ["PanopticFCN", "PanopticFCNConfig", "PanopticFCNOutput", "positive_kernels"]

FIRST_LEVEL = 3


@dataclass(frozen=True)
class PanopticFCNOutput:
    """Logits of object centres and stuff regions, kernel maps (one of each per level), and the encoded feature."""

    centres: tuple[Float[Tensor, "B T _h _w"], ...]
    regions: tuple[Float[Tensor, "B R _h _w"], ...]
    kernels: tuple[Float[Tensor, "B K _h _w"], ...]
    feature: Float[Tensor, "B E H W"]
    mirrored: "PanopticFCNOutput | None" = None
    """What the mirrored canvas gave, mirrored back, where predictions look at both (`flip`)."""

    def float(self) -> "PanopticFCNOutput":
        """Return it in fp32, for sums over many pixels."""
        centres, regions, kernels = (tuple(t.float() for t in m) for m in (self.centres, self.regions, self.kernels))
        mirrored = self.mirrored.float() if self.mirrored else None
        return PanopticFCNOutput(centres, regions, kernels, self.feature.float(), mirrored)

    def cpu(self) -> "PanopticFCNOutput":
        """Return it on the CPU."""
        centres, regions, kernels = (tuple(t.cpu() for t in m) for m in (self.centres, self.regions, self.kernels))
        mirrored = self.mirrored.cpu() if self.mirrored else None
        return PanopticFCNOutput(centres, regions, kernels, self.feature.cpu(), mirrored)

    def mirror(self) -> "PanopticFCNOutput":
        """Return every map with left and right exchanged."""
        centres, regions, kernels = (tuple(t.flip(-1) for t in m) for m in (self.centres, self.regions, self.kernels))
        return PanopticFCNOutput(centres, regions, kernels, self.feature.flip(-1))

    @property
    def views(self) -> "list[PanopticFCNOutput]":
        """The picture's output, and the mirrored one's where there is one."""
        return [self, self.mirrored] if self.mirrored else [self]


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
        if config.feature_type == "semantic":
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
        return TargetSettings(
            level_ranges=c.level_ranges,
            min_overlap=c.gaussian_overlap,
            sigma=c.gaussian_sigma,
            centre=c.centre,
            region_has_thing=c.region_has_thing,
            ignore_unlabelled=c.unlabelled == "ignored",
        )

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
            feature=self.feature_encoder(self._high_resolution(pyramid)),
        )

    def _high_resolution(self, pyramid: dict[int, Tensor]) -> Float[Tensor, "B C H W"]:
        """Return the stride-4 map that is encoded (section 4.1, feature type)."""
        if self.config.feature_type == "semantic":
            feature: Tensor = self.semantic_fpn(pyramid)
            return feature
        return pyramid[2] if self.config.feature_type == "p2" else sum_of_levels(pyramid)

    def look(self, images: Images) -> PanopticFCNOutput:
        output: PanopticFCNOutput = super().look(images)
        if not self.config.flip:
            return output
        mirrored: PanopticFCNOutput = super().look(replace(images, pixels=images.pixels.flip(-1)))
        return replace(output, mirrored=mirrored.mirror())

    def watched(self) -> tuple[Watched, ...]:
        from thingstuff.models.panoptic_fcn_steps import watched_modules

        return watched_modules(self)

    def steps(self, seen: Seen) -> list[Step]:
        from thingstuff.models.panoptic_fcn_steps import panoptic_fcn_steps

        return panoptic_fcn_steps(self, seen)

    def mask_cost(self, canvas: Size, stride: int) -> HeadCost:
        from thingstuff.models.panoptic_fcn_mask_cost import panoptic_fcn_mask_cost

        return panoptic_fcn_mask_cost(self, canvas, stride)

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
            if self.config.weighted
            else centre_kernels(kernels, level)
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
        features = [view.feature[b] for view in output.views]
        masks = mask_probabilities(torch.cat([things.vectors, stuff.vectors]), features)
        of_things, of_stuff = masks[: len(things.labels)], masks[len(things.labels) :]
        rescored = self.rescored(things, of_things)
        names = torch.tensor(self.categories.thing_labels, dtype=torch.long, device=masks.device)
        return Segments(
            masks=torch.cat([of_things[rescored.order], of_stuff]),
            labels=torch.cat([names[things.labels[rescored.order]], self.region_labels(masks.device)[stuff.labels]]),
            scores=torch.cat([rescored.scores, stuff.scores]),
            frame=images.frame(b),
        )

    def rescored(self, things: Kernels, masks: Float[Tensor, "N H W"]) -> Rescored:
        """Return what the masks make of the things' scores, and which things are left."""
        c = self.config
        return rescore(things.scores, things.labels, masks, c.mask_threshold, c.nms, c.rescored_threshold, c.candidates)

    def kernels(self, output: PanopticFCNOutput, b: int) -> tuple[Kernels, Kernels]:
        """Return one picture's embedded and fused kernels: of things by falling score, of stuff by ascending class.

        With the mirrored picture a kernel's vector is followed by that of the same place there; the picture's own
        decides which are fused.
        """
        return self.fused(*self.embedded(*self.candidates(output, b)))

    def candidates(self, output: PanopticFCNOutput, b: int) -> tuple[Kernels, Kernels]:
        """Return the kernels of one picture's levels as they are read: of things by falling score, and of stuff."""
        things, stuff = concatenate(self.thing_candidates(output, b)), concatenate(self.stuff_candidates(output, b))
        return things.pick(by_score(things.scores)), stuff

    def embedded(self, things: Kernels, stuff: Kernels) -> tuple[Kernels, Kernels]:
        """Return the kernels with as many channels as the encoded feature has."""
        return _embedded(things, self.thing_embedding), _embedded(stuff, self.stuff_embedding)

    def fused(self, things: Kernels, stuff: Kernels) -> tuple[Kernels, Kernels]:
        """Return one kernel for each object, where `kernel_fusion` is on, and for each region class."""
        c = self.config
        if c.kernel_fusion:
            things = fuse_things(things, c.similarity, c.class_aware, compared=c.encoder_channels)
        return things, fuse_stuff(stuff)

    def thing_candidates(self, output: PanopticFCNOutput, b: int) -> list[Kernels]:
        """Return the kernels at one picture's object centres, a list entry per level."""
        maps = zip(self.peaks(output, b), _kernel_maps(output, b), strict=True)
        return [peaks.read(kernels) for peaks, kernels in maps]

    def peaks(self, output: PanopticFCNOutput, b: int) -> list[Peaks]:
        """Return one picture's object centres, a list entry per level."""
        c = self.config
        return [
            find_peaks(centres[b], self.smoothing(level), c.candidates // 2, c.thing_threshold)
            for level, centres in zip(self.levels, output.centres, strict=True)
        ]

    def smoothing(self, level: int) -> int:
        """Return over how many cells along each side a level's centre probabilities are averaged."""
        return 3 if level < 6 else 5

    def stuff_candidates(self, output: PanopticFCNOutput, b: int) -> list[Kernels]:
        """Return the kernels of one picture's stuff regions, a list entry per level."""
        return [
            stuff_regions(regions[b], kernels, self.config.stuff_threshold)
            for regions, kernels in zip(output.regions, _kernel_maps(output, b), strict=True)
        ]

    @property
    def instance_threshold(self) -> float:
        return self.config.mask_threshold

    def merge(self, segments: Segments) -> Panoptic:
        """Paste things by falling score, then give what is left to stuff by argmax."""
        return merge_things_first(segments, self.categories, self.merge_settings(segments.frame.original))

    def merge_settings(self, size: Size) -> ThingsFirst:
        """Return the settings of the merge for a picture of (height, width)."""
        c = self.config
        least = area_limit(c.stuff_area, c.stuff_area_relative, size)
        return ThingsFirst(c.thing_score, c.mask_threshold, c.overlap, least)

    def region_labels(self, device: torch.device) -> Int[Tensor, "R"]:
        """Return the label of each region class, `VOID` for "some thing"."""
        names = [VOID, *self.categories.stuff_labels] if self.config.region_has_thing else self.categories.stuff_labels
        return torch.tensor(names, dtype=torch.long, device=device)


def _shape(maps: Tensor) -> Size:
    return int(maps.shape[-2]), int(maps.shape[-1])


def _kernel_maps(output: PanopticFCNOutput, b: int) -> list[Float[Tensor, "_ h w"]]:
    """Return one picture's kernel map of each level, the views' channels one after the other."""
    if not output.mirrored:
        return [maps[b] for maps in output.kernels]
    return [torch.cat([maps[b] for maps in level]) for level in zip(*(v.kernels for v in output.views), strict=True)]


def _embedded(kernels: Kernels, embedding: nn.Linear) -> Kernels:
    """Embed the vectors, each view's part of them by itself."""
    views = kernels.vectors.shape[1] // embedding.in_features
    parts = kernels.vectors.view(len(kernels.labels), views, embedding.in_features)
    return Kernels(embedding(parts).flatten(1), kernels.labels, kernels.scores)


def mask_probabilities(
    vectors: Float[Tensor, "N VE"], features: Sequence[Float[Tensor, "E H W"]]
) -> Float[Tensor, "N H W"]:
    """Return the mean over views of sigmoid(kernel * feature), each view's feature with its part of the vectors."""
    E, H, W = features[0].shape
    parts = torch.split(vectors, E, dim=1)
    masks = [(part @ f.reshape(E, -1)).sigmoid_() for part, f in zip(parts, features, strict=True)]
    mean = masks[0] if len(masks) == 1 else torch.stack(masks).mean(0)
    return mean.view(-1, H, W)


def centre_kernels(
    kernels: Float[Tensor, "B K h w"], level: LevelTargets
) -> tuple[Float[Tensor, "P 1"], Float[Tensor, "P 1 K"]]:
    """Return, per (instance, level) pair, the weight 1 and the kernel at the object's centre (unweighted DICE)."""
    last = torch.tensor(_shape(kernels), device=kernels.device) - 1
    row, column = level.cell.minimum(last).unbind(1)  # the stored cell may be one past the map
    return kernels.new_ones((len(row), 1)), kernels[level.picture, :, row, column][:, None]


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
