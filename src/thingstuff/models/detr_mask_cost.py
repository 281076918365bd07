"""What DETR's masks cost at each stride: its own mask head at stride 4, with stages added or left out at the others.

Letters: h w a map.
"""

import torch
from torch import Tensor, nn

from thingstuff.head_cost import HeadCost, check_stride, measured, one_more, reduced_size
from thingstuff.models.detr import DETRPanoptic
from thingstuff.models.detr_mask_head import GROUPS, STAGES, MaskHead, PictureParts
from thingstuff.structures import Size


def detr_mask_cost(model: DETRPanoptic, canvas: Size, stride: int) -> HeadCost:
    """Return the cost of a canvas's masks: once a picture, and each query's; see `PanopticModel.mask_cost`."""
    check_stride(stride)
    c, channels = model.config, model.backbone.channels
    with torch.device("meta"):
        encoded = reduced_size(canvas, c.backbone.strides[5])
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
        head.out = nn.Conv2d(int(parts.sums[-1].shape[1]), 1, 3, padding=1)
        each = one_more(lambda n: head(parts, torch.empty(n, c.heads, *encoded)))
    return HeadCost("DETR", stride, once, "query", each)


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
