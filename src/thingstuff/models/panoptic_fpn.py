"""Panoptic FPN (Kirillov et al., CVPR 2019b): Mask R-CNN and a semantic branch on one feature pyramid.

Mask R-CNN's parts are torchvision's. Its proposal and RoI modules do in their `forward` what the mode says, so their
parts are called here instead: `loss` samples and compares, `segments` detects, and neither looks at the mode.

Letters: B pictures, R semantic rows (0 is "some thing"), C channels, A anchors of a cell, N boxes, M cells along a
box's mask, h w a map.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models.detection.roi_heads import maskrcnn_inference, project_masks_on_boxes
from torchvision.models.detection.rpn import concat_box_prediction_layers

from thingstuff.backbones import ResNet
from thingstuff.layers import FPN, SemanticFPN
from thingstuff.losses import count_over_processes
from thingstuff.merging import ThingsFirst, area_limit, merge_things_first
from thingstuff.models.base import ModelConfig, PanopticModel
from thingstuff.models.panoptic_fpn_config import PanopticFPNConfig
from thingstuff.models.panoptic_fpn_heads import LEVELS, proposal_network, roi_heads
from thingstuff.models.panoptic_fpn_pasting import paste
from thingstuff.models.panoptic_fpn_targets import (
    NO_CLASS,
    BoxSamples,
    ThingTarget,
    semantic_target,
    thing_target,
    without_ignored,
)
from thingstuff.panoptic import VOID, Categories, Panoptic
from thingstuff.structures import Images, Segments, Size, Target
from thingstuff.walk import Seen, Step
from thingstuff.watching import Watched

__all__ = ["PanopticFPN", "PanopticFPNConfig", "PanopticFPNOutput", "paste"]

SMOOTH = 1 / 9
"""Where the smooth L1 loss of boxes turns from squared to linear."""


@dataclass(frozen=True)
class PanopticFPNOutput:
    """P2..P6, each level's objectness logits and box deltas, and the semantic logits at stride 4."""

    pyramid: tuple[Float[Tensor, "B C _h _w"], ...]
    objectness: tuple[Float[Tensor, "B A _h _w"], ...]
    deltas: tuple[Float[Tensor, "B 4*A _h _w"], ...]
    semantic: Float[Tensor, "B R h w"]

    def float(self) -> "PanopticFPNOutput":
        """Return it in fp32, for sums over many pixels."""
        pyramid, scores, deltas = (tuple(t.float() for t in m) for m in (self.pyramid, self.objectness, self.deltas))
        return PanopticFPNOutput(pyramid, scores, deltas, self.semantic.float())


class PanopticFPN(PanopticModel):
    """Panoptic FPN; `categories` set the rows of the box, mask and semantic classifiers."""

    config: PanopticFPNConfig
    config_class: ClassVar[type[ModelConfig]] = PanopticFPNConfig
    uncounted_masks: ClassVar[str] = "a thing's mask is 28 x 28 cells of its box, and costs the same at every stride"

    def __init__(self, config: PanopticFPNConfig, categories: Categories) -> None:
        super().__init__(config, categories)
        self.backbone = ResNet(config.backbone)
        self.fpn = FPN(self.backbone.channels, config.fpn_channels, last=5)
        self.semantic_fpn = SemanticFPN(config.fpn_channels, config.semantic_channels)
        self.semantic = nn.Conv2d(config.semantic_channels, len(categories.stuff_labels) + 1, 1)
        nn.init.normal_(self.semantic.weight, std=0.01)
        self.rpn = proposal_network(config)
        self.roi_heads = roi_heads(config, len(categories.thing_labels) + 1)

    def class_rows(self) -> dict[str, list[str | None]]:
        names = self.categories.names
        things: list[str | None] = ["(none)", *(names[label] for label in self.categories.thing_labels)]
        deltas: list[str | None] = [f"{name} ({side})" for name in things for side in ("x", "y", "width", "height")]
        rows: dict[str, list[str | None]] = {
            "roi_heads.box_predictor.cls_score": things,
            "roi_heads.box_predictor.bbox_pred": deltas,
            "roi_heads.mask_predictor.mask_fcn_logits": things,
            "semantic": ["(some thing)", *(names[label] for label in self.categories.stuff_labels)],
        }
        return {f"{place}.{kind}": rows[place] for place in rows for kind in ("weight", "bias")}

    def forward(self, images: Images) -> PanopticFPNOutput:
        pyramid = self.fpn(self.backbone(images.pixels))
        semantic = self.semantic(self.semantic_fpn(pyramid))
        maps = (*(pyramid[level] for level in LEVELS[:-1]), F.max_pool2d(pyramid[5], 1, stride=2))
        objectness, deltas = self.rpn.head(list(maps))
        return PanopticFPNOutput(maps, tuple(objectness), tuple(deltas), semantic)

    def watched(self) -> tuple[Watched, ...]:
        from thingstuff.models.panoptic_fpn_steps import watched_modules

        return watched_modules(self)

    def steps(self, seen: Seen) -> list[Step]:
        from thingstuff.models.panoptic_fpn_steps import panoptic_fpn_steps

        return panoptic_fpn_steps(self, seen)

    def anchors(self, output: PanopticFPNOutput) -> list[Float[Tensor, "_ 4"]]:
        """Return each level's anchors, the same for every picture.

        torchvision's forward would guess P6's stride, wrongly where P5 has an odd number of cells.
        """
        generator = self.rpn.anchor_generator
        generator.set_cell_anchors(torch.float32, output.semantic.device)
        strides = [[torch.tensor(2**level, device=output.semantic.device)] * 2 for level in LEVELS]
        anchors: list[Tensor] = generator.grid_anchors([m.shape[-2:] for m in output.objectness], strides)
        return anchors

    def likely_boxes(self, output: PanopticFPNOutput, per_level: int) -> tuple[Tensor, Tensor, list[int]]:
        """Return the boxes that the best anchors of each level become, [B, K, 4], their logits, and each level's count.

        Boxes are XYXY and may reach out of the canvas; levels follow each other.
        """
        batch = len(output.semantic)
        boxes, scores = [], []
        for anchors, *maps in zip(self.anchors(output), output.objectness, output.deltas, strict=True):
            objectness, deltas = concat_box_prediction_layers(*([m] for m in maps))
            best, index = objectness.view(batch, -1).topk(min(per_level, len(anchors)))
            chosen = deltas.view(batch, -1, 4).gather(1, index[..., None].expand(-1, -1, 4))
            decoded = self.rpn.box_coder.decode_single(chosen.flatten(0, 1), anchors[index].flatten(0, 1))
            boxes.append(decoded.view(batch, -1, 4))
            scores.append(best)
        return torch.cat(boxes, 1), torch.cat(scores, 1), [level.shape[1] for level in scores]

    @torch.no_grad()
    def _proposals(self, output: PanopticFPNOutput, sizes: Sequence[Size], per_level: int) -> list[Tensor]:
        """Return each picture's proposals as XYXY boxes, best first."""
        boxes, scores, counts = self.likely_boxes(output, per_level)
        found: list[Tensor] = self.rpn.filter_proposals(boxes, scores, sizes, counts)[0]
        return found

    def pooled(self, pool: nn.Module, output: PanopticFPNOutput, boxes: list[Tensor]) -> Float[Tensor, "N C M M"]:
        """Pool boxes of each picture from P2..P5, whose strides the canvas tells."""
        maps = {str(level): m for level, m in zip(LEVELS, output.pyramid, strict=True)}
        features: Tensor = pool(maps, boxes, [_canvas(output)] * len(boxes))
        return features

    def _classified(self, output: PanopticFPNOutput, boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the class logits and, per class, the box deltas of all pictures' boxes."""
        heads = self.roi_heads
        logits, deltas = heads.box_predictor(heads.box_head(self.pooled(heads.box_roi_pool, output, boxes)))
        return logits, deltas

    def _masks(self, output: PanopticFPNOutput, boxes: list[Tensor]) -> Float[Tensor, "N rows M M"]:
        """Return the mask logits of all pictures' boxes, one for each class."""
        heads = self.roi_heads
        masks: Tensor = heads.mask_predictor(heads.mask_head(self.pooled(heads.mask_roi_pool, output, boxes)))
        return masks

    # ---- learning

    def loss(self, output: PanopticFPNOutput, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Return Mask R-CNN's five losses and the semantic one (section 3.2)."""
        output = output.float()
        c = self.config
        things = [thing_target(target, self.categories, c.unlabelled == "ignored") for target in targets]
        sizes = [(int(t.ignored.shape[0]), int(t.ignored.shape[1])) for t in things]
        objectness, rpn_box = self._proposal_losses(output, things)
        samples = self._sampled(self._proposals(output, sizes, c.proposals_learned), things)
        of_class, box = self._box_losses(output, samples)
        return {
            "rpn_objectness": c.thing_weight * objectness,
            "rpn_box": c.thing_weight * rpn_box,
            "class": c.thing_weight * of_class,
            "box": c.thing_weight * box,
            "mask": c.thing_weight * self._mask_loss(output, samples, things),
            "semantic": c.semantic_weight * self._semantic_loss(output, targets),
        }

    def _proposal_losses(self, output: PanopticFPNOutput, things: list[ThingTarget]) -> tuple[Tensor, Tensor]:
        """Cross-entropy of sampled anchors, and smooth L1 of those on things; both divided by the samples."""
        anchors = [torch.cat(self.anchors(output))] * len(things)
        labels, matched = self.rpn.assign_targets_to_anchors(anchors, [{"boxes": t.boxes_xyxy} for t in things])
        labels = without_ignored(labels, anchors, things)
        goals = torch.cat(self.rpn.box_coder.encode(matched, anchors))
        positive, negative = (torch.cat(picked) > 0 for picked in self.rpn.fg_bg_sampler(labels))
        objectness, deltas = concat_box_prediction_layers(list(output.objectness), list(output.deltas))
        sampled = positive | negative
        count = count_over_processes(int(sampled.sum()), goals.device)
        truth = torch.cat(labels)[sampled]
        of_class = F.binary_cross_entropy_with_logits(objectness[:, 0][sampled], truth, reduction="sum")
        of_box = F.smooth_l1_loss(deltas[positive], goals[positive], beta=SMOOTH, reduction="sum")
        return of_class / count, of_box / count

    def _sampled(self, proposals: list[Tensor], things: list[ThingTarget]) -> BoxSamples:
        """Sample proposals, true boxes among them: at first hardly one proposal is near a thing."""
        heads = self.roi_heads
        true_boxes = [t.boxes_xyxy for t in things]
        boxes = heads.add_gt_proposals(proposals, true_boxes)
        instances, labels = heads.assign_targets_to_proposals(boxes, true_boxes, [t.labels for t in things])
        chosen = heads.subsample(without_ignored(labels, boxes, things))
        boxes, labels, instances = (
            [t[index] for t, index in zip(rows, chosen, strict=True)] for rows in (boxes, labels, instances)
        )
        # A picture without things has no box to be near to; its samples, all background, have no use for one.
        matched = [true[row] if len(true) else own for true, row, own in zip(true_boxes, instances, boxes, strict=True)]
        goals = torch.cat(heads.box_coder.encode(matched, boxes))
        return BoxSamples(boxes, labels, instances, goals)

    def _box_losses(self, output: PanopticFPNOutput, samples: BoxSamples) -> tuple[Tensor, Tensor]:
        """Cross-entropy of the samples, and smooth L1 of those on things; both divided by the samples."""
        logits, deltas = self._classified(output, samples.boxes_xyxy)
        labels = torch.cat(samples.labels)
        count = count_over_processes(len(labels), labels.device)
        positive = labels.nonzero()[:, 0]
        own = deltas.view(*logits.shape, 4)[positive, labels[positive]]
        of_box = F.smooth_l1_loss(own, samples.goals[positive], beta=SMOOTH, reduction="sum")
        return F.cross_entropy(logits, labels, reduction="sum") / count, of_box / count

    def _mask_loss(self, output: PanopticFPNOutput, samples: BoxSamples, things: list[ThingTarget]) -> Tensor:
        """Mean cross-entropy over the labelled cells of the masks of samples on things, for their own class."""
        boxes, labels, instances = samples.of_things()
        logits = self._masks(output, boxes)
        own = logits[torch.arange(len(logits), device=logits.device), torch.cat(labels)]
        cells = own.shape[-1]
        truth, known = [], []
        for of_picture, rows, thing in zip(boxes, instances, things, strict=True):
            truth.append(project_masks_on_boxes(thing.masks, of_picture, rows, cells))
            known.append(project_masks_on_boxes(thing.known[None], of_picture, torch.zeros_like(rows), cells) > 0.5)
        weight = torch.cat(known)
        count = count_over_processes(int(weight.sum()), logits.device)
        loss = F.binary_cross_entropy_with_logits(own, torch.cat(truth), reduction="none")
        return (loss * weight).sum() / count

    def _semantic_loss(self, output: PanopticFPNOutput, targets: Sequence[Target]) -> Tensor:
        """Mean cross-entropy over the labelled pixels of the network input (section 3.1)."""
        canvas = _canvas(output)
        rows = torch.stack([semantic_target(target, self.categories, canvas) for target in targets])
        logits = F.interpolate(output.semantic, canvas, mode="bilinear", align_corners=False)
        loss = F.cross_entropy(logits, rows, ignore_index=NO_CLASS, reduction="sum")
        return loss / count_over_processes(int((rows != NO_CLASS).sum()), rows.device)

    # ---- predicting

    def segments(self, output: PanopticFPNOutput, images: Images) -> list[Segments]:
        """Return each picture's detections by falling score, then stuff by ascending label, `VOID` (some thing) first.

        The masks have a cell for each `mask_stride` pixels of the canvas.
        """
        output = output.float()
        sizes, stride = list(images.sizes), self.config.mask_stride
        proposals = self._proposals(output, sizes, self.config.proposals_predicted)
        logits, deltas = self._classified(output, proposals)
        boxes, scores, labels = self.roi_heads.postprocess_detections(logits, deltas, proposals, sizes)
        masks = maskrcnn_inference(self._masks(output, boxes), labels)
        both = (self.categories.thing_labels, self.categories.stuff_labels)
        names, stuff = (torch.tensor([VOID, *kind], dtype=torch.long, device=logits.device) for kind in both)
        found = []
        for b, (height, width) in enumerate(sizes):
            things = paste(masks[b][:, 0], boxes[b], images.canvas, stride)
            semantic = F.interpolate(output.semantic[b : b + 1], things.shape[1:], mode="bilinear", align_corners=False)
            regions = semantic[0].softmax(0)
            inside = regions[:, : -(-height // stride), : -(-width // stride)]
            all_scores = torch.cat([scores[b], _mean_where_best(inside)])
            all_labels = torch.cat([names[labels[b]], stuff])
            found.append(Segments(torch.cat([things, regions]), all_labels, all_scores, images.frame(b)))
        return found

    @property
    def instance_threshold(self) -> float:
        """See the base; published code pastes masks at picture size, here they come by way of `mask_stride`."""
        return self.config.mask_threshold

    def merge(self, segments: Segments) -> Panoptic:
        """Paste things by falling score, then give what is left to stuff by argmax (section 4.1)."""
        return merge_things_first(segments, self.categories, self.merge_settings(segments.frame.original))

    def merge_settings(self, size: Size) -> ThingsFirst:
        """Return the settings of the merge for a picture of (height, width)."""
        c = self.config
        least = area_limit(c.stuff_area, c.stuff_area_relative, size)
        return ThingsFirst(c.thing_score, c.mask_threshold, c.overlap, least)


def _canvas(output: PanopticFPNOutput) -> Size:
    return int(output.semantic.shape[-2]) * 4, int(output.semantic.shape[-1]) * 4


def _mean_where_best(probabilities: Float[Tensor, "R h w"]) -> Float[Tensor, "R"]:
    """Return each row's mean probability where it is the largest; 0 where it nowhere is."""
    flat = probabilities.flatten(1)
    won = flat.argmax(0) == torch.arange(len(flat), device=flat.device)[:, None]
    return (flat * won).sum(1) / won.sum(1).clamp(min=1)
