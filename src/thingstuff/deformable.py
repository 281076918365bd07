"""Modulated deformable 3x3 convolution (Zhu et al. 2019): as a layer, and faster on CPUs than torchvision's.

Letters: B pictures, C channels of the input and D of the output, H W its map and h w the output's, P output pixels, N
pixels of a picture's input.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.ops import deform_conv2d

TAPS = 9
FEW = 1 << 15
"""Where a picture gathers fewer input values than these (pixels x taps x channels), torchvision's is faster."""
GATHERED = 1 << 22
"""Most input values that are gathered at once, about what caches hold."""
GATHERED_TO_LEARN = 1 << 25
"""The same where gradients follow, whose making runs over the whole input each time."""


class DeformableConv2d(nn.Module):
    """A modulated deformable 3x3 convolution: its own conv gives each tap's shift and weight.

    `zero_offsets` starts that conv at zero, so that nothing is shifted and every tap weighs a half.
    """

    def __init__(self, inputs: int, outputs: int, bias: bool, stride: int = 1, zero_offsets: bool = False) -> None:
        super().__init__()
        self.stride = stride
        self.offset = nn.Conv2d(inputs, 3 * TAPS, 3, stride, padding=1)
        self.weight = nn.Parameter(torch.empty(outputs, inputs, 3, 3))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        nn.init.kaiming_uniform_(self.weight, nonlinearity="relu")
        if zero_offsets:
            assert self.offset.bias is not None
            nn.init.zeros_(self.offset.weight)
            nn.init.zeros_(self.offset.bias)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        return self.run(x, self.weight, self.bias)

    def run(
        self, x: Float[Tensor, "B C H W"], weight: Float[Tensor, "D C 3 3"], bias: Float[Tensor, "D"] | None
    ) -> Float[Tensor, "B D h w"]:
        """Convolve with another weight and bias, for norms that are folded into them; the taps lie as ever."""
        offset = self.offset(x)  # 9 taps of (dy, dx), row-major, then 9 modulations
        with torch.autocast(x.device.type, enabled=False):  # torchvision has no mixed precision for it on CPUs
            x, offset = x.to(weight.dtype), offset.to(weight.dtype)
            mask = offset[:, 2 * TAPS :].sigmoid()
            return deform_conv(x, offset[:, : 2 * TAPS], mask, weight, bias, self.stride)


def deform_conv(
    x: Float[Tensor, "B C H W"],
    offset: Float[Tensor, "B 18 h w"],
    mask: Float[Tensor, "B 9 h w"],
    weight: Float[Tensor, "D C 3 3"],
    bias: Float[Tensor, "D"] | None,
    stride: int = 1,
) -> Float[Tensor, "B D h w"]:
    """Return a modulated deformable 3x3 convolution, padded by 1: each tap reads bilinearly where its offset points.

    `offset` holds the taps' (dy, dx) in pixels, row-major; beyond the map all is zero. What torchvision's
    `deform_conv2d` computes, which is taken on GPUs and for tiny maps; else it is slower, above all its gradients.
    """
    gathered = offset.shape[2] * offset.shape[3] * TAPS * x.shape[1]
    if x.device.type != "cpu" or gathered < FEW or not len(x):
        y: Tensor = deform_conv2d(x, offset, weight, bias, stride=stride, padding=1, mask=mask)
        return y
    return _deform_conv_cpu(x, offset, mask, weight, bias, stride)


def _deform_conv_cpu(
    x: Float[Tensor, "B C H W"],
    offset: Float[Tensor, "B 18 h w"],
    mask: Float[Tensor, "B 9 h w"],
    weight: Float[Tensor, "D C 3 3"],
    bias: Float[Tensor, "D"] | None,
    stride: int,
) -> Float[Tensor, "B D h w"]:
    """Gather every tap's four neighbours as one weighted bag of pixels, then multiply by the weights as one matrix."""
    (C, H, W), (h, w) = x.shape[1:], offset.shape[2:]
    matrix = weight.permute(2, 3, 1, 0).reshape(TAPS * C, -1)
    inputs = (x, offset, mask, weight, *(() if bias is None else (bias,)))
    learns = torch.is_grad_enabled() and any(t.requires_grad for t in inputs)
    step = max(1, (GATHERED_TO_LEARN if learns else GATHERED) // (TAPS * C))
    pictures = []
    for b in range(len(x)):
        pixels, taps = _by_pixel(x[b]), torch.cat([_by_pixel(offset[b]), _by_pixel(mask[b])], dim=1)
        taps = _placed(taps, w, stride)
        parts = []
        for part in torch.split(taps, step):
            # what was gathered is many times the input, so it is gathered again when gradients are made
            parts.append(
                checkpoint(_taps_times, pixels, part, matrix, (H, W), use_reentrant=False)
                if learns
                else _taps_times(pixels, part, matrix, (H, W))
            )
        pictures.append(torch.cat(parts) if len(parts) > 1 else parts[0])
    y = torch.stack(pictures) if len(pictures) > 1 else pictures[0][None]
    y = y if bias is None else y + bias
    return y.view(len(x), h, w, -1).permute(0, 3, 1, 2)


def _by_pixel(maps: Float[Tensor, "C H W"]) -> Float[Tensor, "N C"]:
    """Return a map's pixels as rows, without a copy where channels come last already."""
    return maps.flatten(1).t().contiguous()


def _placed(taps: Float[Tensor, "P 27"], columns: int, stride: int) -> Float[Tensor, "P 9 3"]:
    """Return where each tap of each output pixel reads, (row, column, modulation), from shifts and modulations."""
    pixel = torch.arange(len(taps), device=taps.device)
    corner = torch.stack([pixel // columns, pixel % columns], dim=1) * stride - 1
    tap = torch.arange(TAPS, device=taps.device)
    place = corner[:, None] + torch.stack([tap // 3, tap % 3], dim=1)
    return torch.cat([taps[:, : 2 * TAPS].view(-1, TAPS, 2) + place, taps[:, 2 * TAPS :, None]], dim=2)


def _taps_times(
    pixels: Float[Tensor, "N C"], taps: Float[Tensor, "P 9 3"], matrix: Float[Tensor, "_ D"], size: tuple[int, int]
) -> Float[Tensor, "P D"]:
    rows, row_weights = _neighbours(taps[..., 0], size[0])
    columns, column_weights = _neighbours(taps[..., 1], size[1])
    row_weights = row_weights * taps[..., 2, None]
    index = (rows * size[1])[..., :, None] + columns[..., None, :]
    weights = row_weights[..., :, None] * column_weights[..., None, :]
    read = F.embedding_bag(index.view(-1, 4), pixels, mode="sum", per_sample_weights=weights.view(-1, 4))
    return read.view(len(taps), -1) @ matrix


def _neighbours(at: Float[Tensor, "P 9"], length: int) -> tuple[Int[Tensor, "P 9 2"], Float[Tensor, "P 9 2"]]:
    """Return the two cells around a coordinate, and how much of each is read: nothing of one outside."""
    low = at.detach().floor()
    beyond = at - low
    first = low.clamp(-2, length).int()
    cells = torch.stack([first, first + 1], dim=-1)
    inside = (cells >= 0) & (cells < length)
    return cells.clamp(0, length - 1), torch.stack([1 - beyond, beyond], dim=-1) * inside
