"""Bringing the masks of boxes to a map of the canvas.

Letters: N boxes, M cells along a box's mask, h w a map.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from thingstuff.structures import Size


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
