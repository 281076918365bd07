"""Parts that several models share: coordinate channels, modulated deformable conv, FPN, semantic FPN.

Letters: B pictures, C channels, H W a map.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from thingstuff.deformable import DeformableConv2d as DeformableConv2d

GROUPS = 32
"""Groups of every group norm (Wu and He 2018)."""


def with_coordinates(x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C+2 H W"]:
    """Append two coordinate channels from -1 to 1, the vertical one first (Liu et al. 2018, CoordConv)."""
    B, _, H, W = x.shape
    rows = torch.linspace(-1, 1, H, device=x.device, dtype=x.dtype)[:, None].expand(H, W)
    columns = torch.linspace(-1, 1, W, device=x.device, dtype=x.dtype).expand(H, W)
    return torch.cat([x, torch.stack([rows, columns]).expand(B, 2, H, W)], dim=1)


def conv1x1(
    x: Float[Tensor, "B C H W"], weight: Float[Tensor, "D C 1 1"], bias: Float[Tensor, "D"] | None, stride: int = 1
) -> Float[Tensor, "B D _H _W"]:
    """Return a 1x1 convolution.

    A dilation means nothing to a single tap, but with one PyTorch takes oneDNN for one picture on one thread too, which
    is a quarter faster there than its own routine.
    """
    return F.conv2d(x, weight, bias, stride, dilation=2 if x.device.type == "cpu" else 1)


class _GroupNorm(nn.GroupNorm):
    """Group norm that also takes a single value per group, which `F.group_norm` refuses: it becomes the bias."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


class ConvBlock(nn.Module):
    """3x3 conv, group norm where asked for, ReLU; without the norm the conv has a bias."""

    def __init__(self, inputs: int, outputs: int, *, norm: bool = True, deformable: bool = False) -> None:
        super().__init__()
        if deformable:
            self.conv: nn.Module = DeformableConv2d(inputs, outputs, bias=not norm)
        else:
            self.conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=not norm)
        self.norm = _GroupNorm(GROUPS, outputs) if norm else nn.Identity()

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        return F.relu(self.norm(self.conv(x)), inplace=True)


class FPN(nn.Module):
    """Feature pyramid (Lin et al. 2017a): C2..C5 -> P2..P7, top-down by nearest x2; P6, P7 by strided convs on P5.

    `last` is the coarsest level that is made, 5 to 7.
    """

    def __init__(self, channels: dict[int, int], outputs: int, last: int = 7) -> None:
        super().__init__()
        self.lateral = nn.ModuleDict({str(s): nn.Conv2d(c, outputs, 1) for s, c in channels.items()})
        self.output = nn.ModuleDict({str(s): nn.Conv2d(outputs, outputs, 3, padding=1) for s in channels})
        self.extra = [f"p{level}" for level in range(6, last + 1)]
        for name in self.extra:
            self.add_module(name, nn.Conv2d(outputs, outputs, 3, stride=2, padding=1))
        for conv in self.modules():
            if not isinstance(conv, nn.Conv2d):
                continue
            assert conv.bias is not None
            nn.init.kaiming_uniform_(conv.weight, a=1)
            nn.init.zeros_(conv.bias)

    def forward(self, stages: dict[int, Tensor]) -> dict[int, Tensor]:
        summed: Tensor | None = None
        pyramid = {}
        for s in sorted(stages, reverse=True):
            lateral = self.lateral[str(s)](stages[s])
            summed = lateral if summed is None else lateral + F.interpolate(summed, scale_factor=2.0, mode="nearest")
            pyramid[s] = self.output[str(s)](summed)
        for level, name in enumerate(self.extra, start=6):
            below = pyramid[level - 1]
            pyramid[level] = self.get_submodule(name)(below if level == 6 else F.relu(below))
        return pyramid


class SemanticFPN(nn.Module):
    """P2..P5 brought to stride 4 and added (Kirillov et al. 2019b, Panoptic FPN, Figure 3)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.levels = nn.ModuleDict()
        for s in (2, 3, 4, 5):
            blocks = [ConvBlock(inputs if i == 0 else outputs, outputs) for i in range(max(1, s - 2))]
            for block in blocks:
                assert isinstance(block.conv, nn.Conv2d)
                nn.init.kaiming_normal_(block.conv.weight, mode="fan_out", nonlinearity="relu")
            self.levels[str(s)] = nn.ModuleList(blocks)

    def forward(self, pyramid: dict[int, Tensor]) -> Float[Tensor, "B C H W"]:
        total: Tensor | None = None
        for s in (2, 3, 4, 5):
            x = pyramid[s]
            blocks = self.levels[str(s)]
            assert isinstance(blocks, nn.ModuleList)
            for block in blocks:
                x = block(x)
                if s > 2:
                    x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
            total = x if total is None else total + x
        assert total is not None
        return total


def sum_of_levels(pyramid: dict[int, Tensor]) -> Float[Tensor, "B C H W"]:
    """Return P2..P5, each resized to the size of P2 (bilinear), added: a semantic FPN without convolutions."""
    size = pyramid[2].shape[-2:]
    total = pyramid[2]
    for s in (3, 4, 5):
        total = total + F.interpolate(pyramid[s], size, mode="bilinear", align_corners=False)
    return total
