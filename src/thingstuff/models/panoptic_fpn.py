"""Panoptic FPN (Kirillov et al., CVPR 2019b): Mask R-CNN and a semantic branch on one feature pyramid.

Mask R-CNN's parts are torchvision's. Its proposal and RoI modules do in their `forward` what the mode says, so their
parts are called here instead: `loss` samples and compares, `segments` detects, and neither looks at the mode.

Letters: B pictures, R semantic rows (0 is "some thing"), C channels, A anchors of a cell, N boxes, M cells along a
box's mask, h w a map.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads, maskrcnn_inference, project_masks_on_boxes
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead, concat_box_prediction_layers
from torchvision.ops import MultiScaleRoIAlign

from thingstuff.backbones import BackboneConfig, ResNet
from thingstuff.layers import FPN, SemanticFPN
from thingstuff.losses import count_over_processes
from thingstuff.merging import ThingsFirst, area_limit, merge_things_first
from thingstuff.models.base import ModelConfig, PanopticModel, PreprocessConfig, padded_to
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

Share = Annotated[float, Field(ge=0, le=1)]
LEVELS = (2, 3, 4, 5, 6)
"""Levels with anchors; boxes are pooled from all but the last."""
BOX_CELLS = 7
"""Cells along a box that the box head pools; the mask head pools twice as many and gives four times as many."""
SMOOTH = 1 / 9
"""Where the smooth L1 loss of boxes turns from squared to linear."""


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

    def __init__(self, config: PanopticFPNConfig, categories: Categories) -> None:
        super().__init__(config, categories)
        self.backbone = ResNet(config.backbone)
        self.fpn = FPN(self.backbone.channels, config.fpn_channels, last=5)
        self.semantic_fpn = SemanticFPN(config.fpn_channels, config.semantic_channels)
        self.semantic = nn.Conv2d(config.semantic_channels, len(categories.stuff_labels) + 1, 1)
        nn.init.normal_(self.semantic.weight, std=0.01)
        self.rpn = _proposal_network(config)
        self.roi_heads = _roi_heads(config, len(categories.thing_labels) + 1)

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

    def _anchors(self, output: PanopticFPNOutput) -> list[Float[Tensor, "_ 4"]]:
        """Return each level's anchors, the same for every picture.

        torchvision's forward would guess P6's stride, wrongly where P5 has an odd number of cells.
        """
        generator = self.rpn.anchor_generator
        generator.set_cell_anchors(torch.float32, output.semantic.device)
        strides = [[torch.tensor(2**level, device=output.semantic.device)] * 2 for level in LEVELS]
        anchors: list[Tensor] = generator.grid_anchors([m.shape[-2:] for m in output.objectness], strides)
        return anchors

    @torch.no_grad()
    def _proposals(self, output: PanopticFPNOutput, sizes: Sequence[Size], per_level: int) -> list[Tensor]:
        """Return each picture's proposals as XYXY boxes, best first."""
        boxes, scores = [], []
        for anchors, *maps in zip(self._anchors(output), output.objectness, output.deltas, strict=True):
            objectness, deltas = concat_box_prediction_layers(*([m] for m in maps))
            best, index = objectness.view(len(sizes), -1).topk(min(per_level, len(anchors)))
            chosen = deltas.view(len(sizes), -1, 4).gather(1, index[..., None].expand(-1, -1, 4))
            decoded = self.rpn.box_coder.decode_single(chosen.flatten(0, 1), anchors[index].flatten(0, 1))
            boxes.append(decoded.view(len(sizes), -1, 4))
            scores.append(best)
        counts = [level.shape[1] for level in scores]
        found: list[Tensor] = self.rpn.filter_proposals(torch.cat(boxes, 1), torch.cat(scores, 1), sizes, counts)[0]
        return found

    def _pooled(self, pool: nn.Module, output: PanopticFPNOutput, boxes: list[Tensor]) -> Float[Tensor, "N C M M"]:
        """Pool boxes of each picture from P2..P5, whose strides the canvas tells."""
        maps = {str(level): m for level, m in zip(LEVELS, output.pyramid, strict=True)}
        features: Tensor = pool(maps, boxes, [_canvas(output)] * len(boxes))
        return features

    def _classified(self, output: PanopticFPNOutput, boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the class logits and, per class, the box deltas of all pictures' boxes."""
        heads = self.roi_heads
        logits, deltas = heads.box_predictor(heads.box_head(self._pooled(heads.box_roi_pool, output, boxes)))
        return logits, deltas

    def _masks(self, output: PanopticFPNOutput, boxes: list[Tensor]) -> Float[Tensor, "N rows M M"]:
        """Return the mask logits of all pictures' boxes, one for each class."""
        heads = self.roi_heads
        masks: Tensor = heads.mask_predictor(heads.mask_head(self._pooled(heads.mask_roi_pool, output, boxes)))
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
        anchors = [torch.cat(self._anchors(output))] * len(things)
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
        c = self.config
        least = area_limit(c.stuff_area, c.stuff_area_relative, segments.frame.original)
        settings = ThingsFirst(c.thing_score, c.mask_threshold, c.overlap, least)
        return merge_things_first(segments, self.categories, settings)


def _proposal_network(config: PanopticFPNConfig) -> RegionProposalNetwork:
    """Build torchvision's parts of Faster R-CNN's first stage, with the thresholds of Ren et al. 2015."""
    sizes = tuple((size,) for size in config.anchor_sizes)
    # Its number per level would depend on the mode: it lets pass what was chosen before.
    per_level = max(config.proposals_learned, config.proposals_predicted)
    return RegionProposalNetwork(
        AnchorGenerator(sizes, (config.anchor_ratios,) * len(sizes)),
        RPNHead(config.fpn_channels, len(config.anchor_ratios)),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=config.anchor_samples,
        positive_fraction=0.5,
        pre_nms_top_n={"training": per_level, "testing": per_level},
        post_nms_top_n={"training": config.proposals, "testing": config.proposals},
        nms_thresh=config.proposal_overlap,
    )


def _roi_heads(config: PanopticFPNConfig, rows: int) -> RoIHeads:
    """Build torchvision's parts of Mask R-CNN's second stage; rows are the classes and, first, the background."""
    inputs, width = config.fpn_channels, config.mask_channels
    names = [str(level) for level in LEVELS[:-1]]
    pools = [MultiScaleRoIAlign(names, n, 2, canonical_scale=config.canonical_size) for n in (BOX_CELLS, 2 * BOX_CELLS)]
    boxes, masks = FastRCNNPredictor(config.box_channels, rows), MaskRCNNPredictor(width, width, rows)
    # Fast R-CNN's deviations (Girshick 2015, section 2.3): torchvision's own begin with losses of many times ln 2.
    for layer, deviation in ((boxes.cls_score, 0.01), (boxes.bbox_pred, 0.001), (masks.mask_fcn_logits, 0.001)):
        nn.init.normal_(layer.weight, std=deviation)
        nn.init.zeros_(layer.bias)
    return RoIHeads(
        box_roi_pool=pools[0],
        box_head=TwoMLPHead(inputs * BOX_CELLS**2, config.box_channels),
        box_predictor=boxes,
        fg_iou_thresh=0.5,
        bg_iou_thresh=0.5,
        batch_size_per_image=config.box_samples,
        positive_fraction=0.25,
        bbox_reg_weights=None,
        score_thresh=config.detection_score,
        nms_thresh=config.detection_overlap,
        detections_per_img=config.detections,
        mask_roi_pool=pools[1],
        mask_head=MaskRCNNHeads(inputs, (width,) * config.mask_convs, 1),
        mask_predictor=masks,
    )


def _canvas(output: PanopticFPNOutput) -> Size:
    return int(output.semantic.shape[-2]) * 4, int(output.semantic.shape[-1]) * 4


def paste(
    masks: Float[Tensor, "N M M"], boxes_xyxy: Float[Tensor, "N 4"], canvas: Size, stride: int
) -> Float[Tensor, "N h w"]:
    """Resize each mask to its box (bilinear, zero outside), on a map with a cell for each `stride` pixels.

    That is `grid_sample` at the cells' centres. A box has no rotation, so rows and columns are resized in turn, each by
    a matrix product, which needs no grid.
    """
    x0, y0, x1, y1 = boxes_xyxy.unbind(1)
    rows = _taps(y0, y1, masks.shape[1], canvas[0] // stride, stride)
    columns = _taps(x0, x1, masks.shape[2], canvas[1] // stride, stride)
    return rows @ masks @ columns.transpose(1, 2)


def _taps(
    low: Float[Tensor, "N"], high: Float[Tensor, "N"], cells: int, length: int, stride: int
) -> Float[Tensor, "N length cells"]:
    """Return the bilinear weight of each of a mask's cells for each cell of a map."""
    centres = (torch.arange(length, device=low.device) + 0.5) * stride
    side = (high - low).clamp(min=1e-6)
    at = (centres - low[:, None]) / side[:, None] * cells - 0.5  # [N, length]
    return (1 - (at[:, :, None] - torch.arange(cells, device=low.device)).abs()).clamp(min=0)


def _mean_where_best(probabilities: Float[Tensor, "R h w"]) -> Float[Tensor, "R"]:
    """Return each row's mean probability where it is the largest; 0 where it nowhere is."""
    flat = probabilities.flatten(1)
    won = flat.argmax(0) == torch.arange(len(flat), device=flat.device)[:, None]
    return (flat * won).sum(1) / won.sum(1).clamp(min=1)
