"""Boxes of masks, and what torchvision.ops lacks."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def boxes_of_masks(masks: Bool[Tensor, "N H W"]) -> Float[Tensor, "N 4"]:
    """Return each mask's XYXY box in pixels, half-open (last + 1); all zeros for an empty mask."""
    if masks.numel() == 0:
        return torch.zeros((len(masks), 4), device=masks.device)
    columns, rows = masks.any(1), masks.any(2)
    height, width = masks.shape[-2:]
    x0, y0 = columns.int().argmax(1), rows.int().argmax(1)
    x1 = width - columns.flip(1).int().argmax(1)
    y1 = height - rows.flip(1).int().argmax(1)
    boxes = torch.stack([x0, y0, x1, y1], dim=1).float()
    return boxes * columns.any(1, keepdim=True)


def paired_giou(a: Float[Tensor, "*rows 4"], b: Float[Tensor, "*rows 4"]) -> Float[Tensor, "*rows"]:
    """Return the generalised IoU of each row's two XYXY boxes (Rezatofighi et al. 2019)."""
    inner = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - inner
    hull = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).prod(-1)
    tiny = torch.finfo(a.dtype).tiny  # both may be empty
    return inner / union.clamp(min=tiny) - (hull - union) / hull.clamp(min=tiny)
