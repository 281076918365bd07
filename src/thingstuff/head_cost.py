"""What a mask costs at each stride: multiply-adds and memory of the models' own mask heads, at other strides too.

The heads run on PyTorch's meta device, which knows shapes and holds no numbers, so that what is counted is what the
models compute. At stride 4 that is the head as it is; the other strides add or leave out stages like its last one.

Letters: C channels, E encoded channels, N masks, h w a map.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from thingstuff.coarse_maps import reduced_size
from thingstuff.errors import InputError
from thingstuff.layers import ConvBlock
from thingstuff.models.base import PanopticModel
from thingstuff.models.detr import DETRPanoptic
from thingstuff.models.detr_mask_head import GROUPS, STAGES, MaskHead, PictureParts
from thingstuff.models.panoptic_fcn import PanopticFCN, mask_probabilities
from thingstuff.structures import Size

STRIDES = (1, 2, 4, 8)
"""Strides at which a head can be told: its own is 4."""


@dataclass(frozen=True)
class Work:
    """Multiply-adds of a piece of work, and the bytes of fp32 that a training keeps of it to learn from."""

    multiply_adds: int
    bytes: int

    def without(self, part: "Work") -> "Work":
        """Return what is left where a part is not done."""
        return Work(self.multiply_adds - part.multiply_adds, self.bytes - part.bytes)


@dataclass(frozen=True)
class HeadCost:
    """The cost of a model's masks at one stride: once a picture, and for each further `mask` (a query, a kernel)."""

    head: str
    stride: int
    once: Work
    mask: str
    each: Work


def head_cost(model: PanopticModel, canvas: Size, stride: int) -> HeadCost | None:
    """Return the cost of a model's masks for a canvas (height, width) at a stride of 1, 2, 4 or 8.

    None for a model whose masks have as many cells whatever the stride (Panoptic FPN). The model's weights may lie on
    the meta device. Raises `InputError` for another stride.
    """
    if stride not in STRIDES:
        raise InputError(f"stride {stride}: a mask head can end at {', '.join(map(str, STRIDES))}; give one of these")
    with torch.device("meta"):
        if isinstance(model, DETRPanoptic):
            return _detr_cost(model, canvas, stride)
        if isinstance(model, PanopticFCN):
            return _panoptic_fcn_cost(model, canvas, stride)
    return None


def measured(work: Callable[[], Tensor]) -> Work:
    """Count a piece of work: its multiply-adds, and what autograd keeps of it besides parameters."""
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with FlopCounterMode(display=False) as counter, torch.enable_grad(), saved_tensors_hooks(keep, lambda t: t):
        work()
    return Work(counter.get_total_flops() // 2, sum(t.untyped_storage().nbytes() for t in kept.values()))


def _each(work: Callable[[int], Tensor]) -> Work:
    """Return what one more mask adds to work on some."""
    return measured(lambda: work(2)).without(measured(lambda: work(1)))


# ---- DETR


def _detr_cost(model: DETRPanoptic, canvas: Size, stride: int) -> HeadCost:
    c, channels = model.config, model.backbone.channels
    encoded = reduced_size(canvas, 16 if c.backbone.dilated else 32)
    projected = torch.empty(1, c.hidden, *encoded)
    stages = {s: torch.empty(1, channels[s], *reduced_size(canvas, 2**s)) for s in STAGES}
    head = MaskHead(c.hidden, c.heads, channels)
    once = measured(lambda: _joined(head.picture_parts(projected, stages)))
    parts = head.picture_parts(projected, stages)
    if stride == 8:
        last = head.convs[-1]
        once = once.without(measured(lambda: last(head.adapted(2, stages[2]))))
        parts = PictureParts(parts.first, parts.sums[:-1])
    elif stride < 4:
        parts = _with_finer_stages(head, parts, canvas, stride)
    width = int(parts.sums[-1].shape[1])
    head.out = nn.Conv2d(width, 1, 3, padding=1)
    return HeadCost("DETR", stride, once, "query", _each(lambda n: head(parts, torch.empty(n, c.heads, *encoded))))


def _joined(parts: PictureParts) -> Tensor:
    return torch.cat([t.flatten() for t in (parts.first, *parts.sums)])


def _with_finer_stages(head: MaskHead, parts: PictureParts, canvas: Size, stride: int) -> PictureParts:
    """Append stages of the last one's width to the head (upsampling, conv, norm, ReLU), which no ResNet map joins."""
    sums = list(parts.sums)
    width = int(sums[-1].shape[1])
    finer = 2
    while finer >= stride:
        head.convs.append(nn.Conv2d(width, width, 3, padding=1))
        head.norms.append(nn.GroupNorm(GROUPS, width))
        sums.append(torch.empty(1, width, *reduced_size(canvas, finer)))
        finer //= 2
    return PictureParts(parts.first, tuple(sums))


# ---- Panoptic FCN


def _panoptic_fcn_cost(model: PanopticFCN, canvas: Size, stride: int) -> HeadCost:
    c = model.config
    channels = c.semantic_channels if c.feature_type == "semantic" else c.fpn_channels
    stages = [ConvBlock(channels, channels) for finer in (2, 1) if finer >= stride]
    x = torch.empty(1, channels, *reduced_size(canvas, max(stride, 4)))

    def feature() -> Tensor:
        finer = x
        for stage in stages:
            finer = F.interpolate(stage(finer), scale_factor=2.0, mode="bilinear", align_corners=False)
        encoded: Tensor = model.feature_encoder(finer)
        return encoded

    (encoded,) = feature()
    kernels = nn.Parameter(torch.empty(2, c.encoder_channels))
    each = _each(lambda n: mask_probabilities(kernels[:n], [encoded]))
    return HeadCost("Panoptic FCN", stride, measured(feature), "kernel", each)
