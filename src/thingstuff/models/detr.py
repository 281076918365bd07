"""DETR for panoptic segmentation (Carion et al., ECCV 2020): boxes of things and stuff, and a mask from each.

Letters: B pictures, Q queries, L decoder layers, K outputs with "no object" last, d width, n matched pairs, T targets,
N wanted masks, h w the encoded image, H W the canvas.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torchvision.ops import box_convert

from thingstuff.backbones import ResNet
from thingstuff.boxes import paired_giou
from thingstuff.errors import InputError
from thingstuff.head_cost import HeadCost
from thingstuff.instances import MOST_INSTANCES
from thingstuff.losses import count_over_processes, mean_over_processes, sigmoid_focal_loss
from thingstuff.matching import CostWeights, Matches, hungarian, matching_cost
from thingstuff.merging import merge_by_argmax, merge_by_argmax_as_released
from thingstuff.models.base import ModelConfig, PanopticModel
from thingstuff.models.detr_config import DETRConfig
from thingstuff.models.detr_mask_head import STAGES, AttentionMaps, MaskHead
from thingstuff.panoptic import VOID, Categories, Panoptic
from thingstuff.sizes import detr_resized_size
from thingstuff.structures import Frame, Images, Segments, Size, Target
from thingstuff.transformer import Decoder, Encoder, sine_positions
from thingstuff.walk import Seen, Step
from thingstuff.watching import Watched

__all__ = ["Boxes", "DETRConfig", "DETROutput", "DETRPanoptic", "relative_boxes", "to_level"]

HALF = (torch.bfloat16, torch.half)


@dataclass(frozen=True)
class DETROutput:
    """Class logits and boxes (cx, cy, w, h relative to each picture) of every layer, and what masks are made from."""

    logits: Float[Tensor, "L B Q K"]
    boxes: Float[Tensor, "L B Q 4"]
    states: Float[Tensor, "B Q d"]
    memory: Float[Tensor, "B d h w"]
    projected: Float[Tensor, "B d h w"]
    stages: dict[int, Tensor]
    valid: Bool[Tensor, "B h w"] | None
    canvas: Size

    def in_full_precision(self) -> "DETROutput":
        """Return it with logits and boxes in fp32 where they are of half precision."""
        if self.logits.dtype not in HALF:
            return self
        return replace(self, logits=self.logits.float(), boxes=self.boxes.float())


@dataclass(frozen=True)
class Boxes:
    """One picture's boxes, a row per query: XYXY in picture pixels, best label (`VOID` for no category), its score."""

    boxes_xyxy: Float[Tensor, "Q 4"]
    labels: Int[Tensor, "Q"]
    scores: Float[Tensor, "Q"]


class BoxHead(nn.Module):
    """A box from a decoder state: three linear layers, then sigmoid."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, out) for out in (width, width, 4))

    def forward(self, x: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows 4"]:
        for layer in self.layers[:-1]:
            x = F.relu(layer(x), inplace=True)
        return torch.sigmoid(self.layers[-1](x))


class DETRPanoptic(PanopticModel):
    """DETR with its mask head; `categories` set the number of class outputs where `outputs` is null."""

    config: DETRConfig
    config_class: ClassVar[type[ModelConfig]] = DETRConfig
    PARTS: ClassVar[tuple[str, ...]] = ("all", "boxes", "masks")
    fine_tune_recipe: ClassVar[str] = "detr-fine-tune"
    backbone_recipe: ClassVar[str] = "detr-two-step"
    scratch_recipe: ClassVar[str] = "detr-scratch"

    def __init__(self, config: DETRConfig, categories: Categories) -> None:
        super().__init__(config, categories)
        if config.outputs is not None and max(categories.ids, default=0) >= config.outputs:
            raise InputError(
                f"categories: id {max(categories.ids)} is beyond the model's {config.outputs} class outputs, whose "
                "position is the id; leave `outputs` out to have one output per category"
            )
        c, d = config, config.hidden
        self.backbone = ResNet(c.backbone)
        self.projection = nn.Conv2d(self.backbone.channels[5], d, 1)
        self.encoder = Encoder(c.encoder_layers, d, c.heads, c.feedforward, c.dropout)
        self.decoder = Decoder(c.decoder_layers, d, c.heads, c.feedforward, c.dropout)
        self.queries = nn.Embedding(c.queries, d)
        self.class_head = nn.Linear(d, len(self.labels_of_outputs()) + 1)
        self.box_head = BoxHead(d)
        self.attention_maps = AttentionMaps(d, c.heads)
        self.mask_head = MaskHead(d, c.heads, self.backbone.channels, c.attention_gain)

    def labels_of_outputs(self) -> list[int]:
        """Return the label of each class output but the last ("no object"); `VOID` for one that is no category's."""
        if self.config.outputs is None:
            return list(range(len(self.categories)))
        return [self.categories.label_of.get(i, VOID) for i in range(self.config.outputs)]

    def class_rows(self) -> dict[str, list[str | None]]:
        names = [None if label == VOID else self.categories.names[label] for label in self.labels_of_outputs()]
        return {key: [*names, "(no object)"] for key in ("class_head.weight", "class_head.bias")}

    def network_size(self, size: Size) -> Size:
        rule = self.config.preprocess
        return detr_resized_size(size, rule.short_side, rule.max_side)

    def parameters_of(self, part: str) -> Iterable[str]:
        """Return the names of the parameters that a part trains: boxes (with all they come from), or masks."""
        of_masks = {name for name, _ in self.named_parameters() if name.startswith(("attention_maps.", "mask_head."))}
        return of_masks if part == "masks" else {name for name, _ in self.named_parameters()} - of_masks

    @property
    def measurable(self) -> bool:
        return self.learning != "boxes"

    def forward(self, images: Images) -> DETROutput:
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.learning != "masks"):
            stages = self.backbone(images.pixels.contiguous(memory_format=torch.channels_last))
            projected = self.projection(stages[5])  # [B, d, h, w]
            h, w = projected.shape[-2:]
            padded = any(size != images.canvas for size in images.sizes)
            valid = to_level(~images.padding, (h, w)) if padded else None
            everywhere = valid if valid is not None else torch.ones_like(projected[:, 0], dtype=torch.bool)
            positions = sine_positions(everywhere, self.config.hidden).to(projected.dtype).flatten(1, 2)
            allowed = valid.flatten(1) if valid is not None else None
            memory = self.encoder(projected.flatten(2).transpose(1, 2), positions, allowed)  # [B, h w, d]
            states = self.decoder(self.queries.weight, memory, positions, allowed)  # [L, B, Q, d]
            return DETROutput(
                logits=self.class_head(states),
                boxes=self.box_head(states),
                states=states[-1],
                memory=memory.transpose(1, 2).unflatten(-1, (h, w)),
                projected=projected,
                stages={stage: stages[stage] for stage in STAGES},
                valid=valid,
                canvas=images.canvas,
            )

    def masks(self, output: DETROutput, b: int, queries: Int[Tensor, "N"]) -> Float[Tensor, "N h4 w4"]:
        """Return one picture's mask logits of chosen queries, at stride 4 of the canvas (section 4.4)."""
        valid = output.valid[b] if output.valid is not None else None
        features = output.projected
        half = features.dtype in HALF  # the loss is computed without autocast, which the convs of the head want
        with torch.autocast(features.device.type, features.dtype, enabled=half):
            maps = self.attention_maps(output.states[b, queries], output.memory[b], valid)
            own = slice(b, b + 1)  # an index would lose the memory format, and with it half of the time
            stages = {stage: x[own] for stage, x in output.stages.items()}
            parts = self.mask_head.picture_parts(features[own], stages)
            logits: Tensor = self.mask_head(parts, maps)
        return logits.float() if half else logits  # in half precision neighbours tie once they are resized

    def watched(self) -> tuple[Watched, ...]:
        from thingstuff.models.detr_steps import watched_modules

        return watched_modules(self)

    def steps(self, seen: Seen) -> list[Step]:
        from thingstuff.models.detr_steps import detr_steps

        return detr_steps(self, seen)

    def mask_cost(self, canvas: Size, stride: int) -> HeadCost:
        from thingstuff.models.detr_mask_cost import detr_mask_cost

        return detr_mask_cost(self, canvas, stride)

    # ---- learning

    def loss(self, output: DETROutput, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Return the weighted losses; `_aux` is the sum over the decoder's layers but the last (section 3.1).

        While boxes are learnt alone there are no mask losses.
        """
        output = output.in_full_precision()
        taught = [self._taught(t) for t in targets]
        matches = self.match(output, taught)
        count = count_over_processes(sum(len(t.labels) for t in taught), output.logits.device)
        per_layer = {
            "class": self.config.class_weight * self.class_losses(output, taught, matches),
            **self.box_losses(output, taught, matches, count),
        }
        losses = {name: values[-1] for name, values in per_layer.items()}
        if len(output.logits) > 1:
            losses |= {f"{name}_aux": values[:-1].sum() for name, values in per_layer.items()}
        return losses if self.learning == "boxes" else losses | self.mask_losses(output, taught, matches, count)

    def _taught(self, target: Target) -> Target:
        """Leave out crowds, whose pixels become unlabelled, unless they are ordinary targets."""
        if self.config.unlabelled == "negative":
            return target
        kept = ~target.crowd
        unlabelled = target.unlabelled | target.masks[target.crowd].any(0)
        return Target(target.masks[kept], target.labels[kept], target.boxes_xyxy[kept], target.crowd[kept], unlabelled)

    def _outputs_of(self, labels: Int[Tensor, "T"]) -> Int[Tensor, "T"]:
        """Return the class outputs of labels."""
        return labels if self.config.outputs is None else labels.new_tensor(self.categories.ids)[labels]

    def match(self, output: DETROutput, targets: Sequence[Target]) -> list[Matches]:
        """Return each picture's assignment of queries to targets in every layer (equation 1)."""
        c = self.config
        weights = CostWeights(c.cost_class, c.cost_l1, c.cost_giou)
        return hungarian(
            [
                matching_cost(
                    output.logits[:, b], output.boxes[:, b], self._outputs_of(t.labels), relative_boxes(t), weights
                )
                for b, t in enumerate(targets)
            ]
        )

    def class_losses(
        self, output: DETROutput, targets: Sequence[Target], matches: Sequence[Matches]
    ) -> Float[Tensor, "L"]:
        """Return each layer's cross-entropy, averaged with `no_object_weight` for queries without a target.

        The average is over all processes; the authors' is each process's own.
        """
        log_p = output.logits.log_softmax(-1)
        L, B, Q, K = log_p.shape
        wanted = torch.full((L, B, Q), K - 1, device=log_p.device)
        for b, (target, match) in enumerate(zip(targets, matches, strict=True)):
            wanted[:, b].scatter_(1, match.query, self._outputs_of(target.labels)[match.target])
        weights = torch.where(wanted == K - 1, self.config.no_object_weight, 1.0).to(log_p.dtype)
        losses = -log_p.gather(-1, wanted[..., None])[..., 0] * weights
        return losses.sum((1, 2)) / mean_over_processes(weights.sum((1, 2)))

    def box_losses(
        self, output: DETROutput, targets: Sequence[Target], matches: Sequence[Matches], count: Tensor
    ) -> dict[str, Float[Tensor, "L"]]:
        """Return each layer's weighted L1 and generalised IoU losses of matched boxes, over the number of targets."""
        layer = torch.arange(len(output.boxes), device=output.boxes.device)[:, None]
        ours = torch.cat([output.boxes[layer, b, m.query] for b, m in enumerate(matches)], dim=1)  # [L, n, 4]
        boxes = [relative_boxes(t)[m.target] for t, m in zip(targets, matches, strict=True)]
        wanted = torch.cat(boxes, dim=1).to(ours.dtype)
        giou = paired_giou(box_convert(ours, "cxcywh", "xyxy"), box_convert(wanted, "cxcywh", "xyxy"))
        return {
            "box_l1": self.config.l1_weight * (ours - wanted).abs().sum((1, 2)) / count,
            "box_giou": self.config.giou_weight * (1 - giou).sum(1) / count,
        }

    def mask_losses(
        self, output: DETROutput, targets: Sequence[Target], matches: Sequence[Matches], count: Tensor
    ) -> dict[str, Tensor]:
        """Return the weighted focal and DICE losses of the last layer's matched masks, on the canvas (section 4.4).

        Padding counts as background, as in the authors' code.
        """
        focal: list[Tensor] = []
        dice: list[Tensor] = []
        for b, (target, match) in enumerate(zip(targets, matches, strict=True)):
            if len(match.query[-1]) == 0 and (focal or b + 1 < len(targets)):
                continue  # at least one picture takes part, so that no parameter is left without a gradient
            logits = self.masks(output, b, match.query[-1])
            logits = F.interpolate(logits[:, None], output.canvas, mode="bilinear")[:, 0]
            pad = (0, output.canvas[1] - target.masks.shape[2], 0, output.canvas[0] - target.masks.shape[1])
            wanted = F.pad(target.masks[match.target[-1]], pad).to(logits.dtype).flatten(1)
            counted = None
            if self.config.unlabelled == "ignored" and bool(target.unlabelled.any()):
                counted = (~F.pad(target.unlabelled, pad)).to(logits.dtype).flatten()
            of_focal, of_dice = self._mask_losses(logits.flatten(1), wanted, counted)
            focal.append(of_focal)
            dice.append(of_dice)
        return {
            "mask_focal": self.config.focal_weight * torch.stack(focal).sum() / count,
            "mask_dice": self.config.dice_weight * torch.stack(dice).sum() / count,
        }

    def _mask_losses(
        self, logits: Float[Tensor, "N P"], wanted: Float[Tensor, "N P"], counted: Float[Tensor, "P"] | None
    ) -> tuple[Tensor, Tensor]:
        """Return the sums over masks of the mean focal loss and of the DICE loss, over the pixels that count."""
        focal = sigmoid_focal_loss(logits, wanted, self.config.focal_alpha, self.config.focal_gamma)
        p = logits.sigmoid()
        if counted is None:
            mean = focal.mean(1)
        else:
            mean, p, wanted = focal @ counted / counted.sum().clamp(min=1), p * counted, wanted * counted
        # DICE with 1 added to both sides of the fraction, and no squares
        dice = 1 - (2 * (p * wanted).sum(1) + 1) / (p.sum(1) + wanted.sum(1) + 1)
        return mean.sum(), dice.sum()

    # ---- predicting

    def segments(self, output: DETROutput, images: Images) -> list[Segments]:
        """Return each picture's segments in the order of their queries: masks as logits, of confident queries only."""
        scores, labels, kept = self.confident_queries(output)
        result = []
        for b in range(len(images)):
            queries = kept[b].nonzero()[:, 0]
            masks = self._masks_of(output, b, queries)
            result.append(Segments(masks, labels[b, queries], scores[b, queries], self._frame(images, b)))
        return result

    def confident_queries(
        self, output: DETROutput
    ) -> tuple[Float[Tensor, "B Q"], Int[Tensor, "B Q"], Bool[Tensor, "B Q"]]:
        """Return each query's best class probability, its label, and whether it gives a segment."""
        scores, best = output.in_full_precision().logits[-1].softmax(-1).max(-1)  # "no object" too, which is VOID here
        labels = torch.tensor([*self.labels_of_outputs(), VOID], device=best.device)[best]
        return scores, labels, (labels != VOID) & (scores > self.config.threshold)

    @property
    def instance_threshold(self) -> float:
        return 0.0  # of logits

    def instance_candidates(self, output: DETROutput, images: Images, segments: Sequence[Segments]) -> list[Segments]:
        """Return each picture's best things of all queries, unsure ones too, with the best class but "no object".

        So the authors' code ranks them; it shrinks or widens masks to picture size by nearest neighbours, though.
        """
        result = []
        for b, boxes in enumerate(self.boxes(output, images)):
            is_thing = torch.tensor([*self.categories.things, False], device=boxes.labels.device)[boxes.labels]
            queries = is_thing.nonzero()[:, 0]
            queries = queries[boxes.scores[queries].argsort(descending=True, stable=True)[:MOST_INSTANCES]]
            masks = self._masks_of(output, b, queries)
            result.append(Segments(masks, boxes.labels[queries], boxes.scores[queries], images.frame(b)))
        return result

    def _masks_of(self, output: DETROutput, b: int, queries: Int[Tensor, "N"]) -> Float[Tensor, "N h4 w4"]:
        if len(queries):
            return self.masks(output, b, queries)
        h, w = (-(-side // 4) for side in output.canvas)
        return output.in_full_precision().logits.new_zeros(0, h, w)

    def _frame(self, images: Images, b: int) -> Frame:
        frame = images.frame(b)
        # as released, the masks of the padded canvas are taken for those of the picture
        return Frame(frame.size, frame.size, frame.original) if self.config.as_released else frame

    def merge(self, segments: Segments) -> Panoptic:
        """Give each pixel to the largest logit, make stuff of one class one segment, drop tiny ones (section 4.4)."""
        rule = merge_by_argmax_as_released if self.config.as_released else merge_by_argmax
        return rule(segments, self.categories, self.config.min_area)

    def boxes(self, output: DETROutput, images: Images) -> list[Boxes]:
        """Return each picture's boxes with the best class other than "no object"; nothing is left out."""
        scores, best = output.in_full_precision().logits[-1].softmax(-1)[..., :-1].max(-1)
        labels = torch.tensor(self.labels_of_outputs(), device=best.device)[best]
        corners = box_convert(output.boxes[-1], "cxcywh", "xyxy")
        result = []
        for b, (height, width) in enumerate(images.original):
            scale = corners.new_tensor([width, height, width, height])
            result.append(Boxes(corners[b] * scale, labels[b], scores[b]))
        return result


def to_level(valid: Bool[Tensor, "B H W"], size: Size) -> Bool[Tensor, "B h w"]:
    """Return which cells of a feature map are valid: nearest resize of the pixels that are."""
    return F.interpolate(valid[:, None].float(), size, mode="nearest")[:, 0] > 0.5


def relative_boxes(target: Target) -> Float[Tensor, "T 4"]:
    """Return a target's boxes as cx, cy, w, h relative to its picture."""
    height, width = target.masks.shape[1:]
    scale = target.boxes_xyxy.new_tensor([width, height, width, height])
    relative: Tensor = box_convert(target.boxes_xyxy / scale, "xyxy", "cxcywh")
    return relative
