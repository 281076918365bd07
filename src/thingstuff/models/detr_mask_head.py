"""DETR's mask branch (Carion et al. 2020, section 4.4, Figure 8): attention maps of box embeddings, refined to masks.

Equal to running the whole head on every query, but a query costs little: convolution is linear, so what hangs on the
picture alone (the projected feature in the first conv, the ResNet maps in each sum) is convolved once a picture, and a
3x3 conv after a nearest x2 upsampling is four 2x2 convs on the small map.

Letters: N queries whose masks are wanted, M heads, d width, C D channels, h w the encoded image, H W stride 4.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from thingstuff.layers import conv1x1

GROUPS = 8
"""Groups of every group norm of the head."""
STAGES = (4, 3, 2)
"""ResNet stages in the order in which the head takes them in."""
CHUNK_VALUES = 4_000_000
"""Values of the finest map that pass through the head at once on a CPU, so that they stay in its cache."""


class AttentionMaps(nn.Module):
    """How much each box embedding attends to each cell of the encoded image, a map per head."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k = nn.Linear(width, width), nn.Linear(width, width)
        for linear in (self.q, self.k):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(
        self, states: Float[Tensor, "N d"], memory: Float[Tensor, "d h w"], valid: Bool[Tensor, "h w"] | None
    ) -> Float[Tensor, "N M h w"]:
        q = self.q(states).unflatten(-1, (self.heads, -1))
        k = self.k(memory.flatten(1).T).unflatten(-1, (self.heads, -1))
        scores = torch.einsum("nmc,smc->nms", q * q.shape[-1] ** -0.5, k)
        if valid is not None:
            scores = scores.masked_fill(~valid.flatten(), -torch.inf)
        # one softmax over heads and cells together, as in the authors' code
        return scores.flatten(1).softmax(-1).view(len(states), self.heads, *memory.shape[1:])


@dataclass(frozen=True)
class PictureParts:
    """What the head computes once for a picture: the first conv's share, and each sum's share after its conv."""

    first: Float[Tensor, "1 C h w"]
    sums: tuple[Float[Tensor, "1 _C _h _w"], ...]


class MaskHead(nn.Module):
    """From attention maps to mask logits at stride 4: 3x3 conv, group norm, ReLU, with Res4, Res3, Res2 joining in."""

    def __init__(self, width: int, heads: int, channels: Mapping[int, int], attention_gain: float = 1.0) -> None:
        super().__init__()
        widths = [width + heads, width + heads, width // 2, width // 4, width // 8, width // 16]
        self.width = width
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(widths))
        self.norms = nn.ModuleList(nn.GroupNorm(GROUPS, c) for c in widths[1:])
        laterals = zip(STAGES, widths[2:], strict=False)
        self.laterals = nn.ModuleDict({str(stage): nn.Conv2d(channels[stage], c, 1) for stage, c in laterals})
        self.out = nn.Conv2d(widths[-1], 1, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                assert module.bias is not None
                nn.init.kaiming_uniform_(module.weight, a=1)
                nn.init.zeros_(module.bias)
        with torch.no_grad():
            self._conv(0).weight[:, width:] *= attention_gain

    def picture_parts(self, projected: Float[Tensor, "1 d h w"], stages: Mapping[int, Tensor]) -> PictureParts:
        """Return the shares of one picture; `stages` are its C4, C3 and C2 as [1, C, h, w]."""
        first = self._conv(0)
        sums = []
        for i, stage in enumerate(STAGES, start=2):
            x = self.adapted(stage, stages[stage])
            sums.append(F.conv2d(x, self._conv(i).weight, self._conv(i).bias, padding=1))
        shared = F.conv2d(projected, first.weight[:, : self.width], first.bias, padding=1)
        return PictureParts(shared, tuple(sums))

    def adapted(self, stage: int, features: Float[Tensor, "1 C h w"]) -> Float[Tensor, "1 D h w"]:
        """Return what a stage of the ResNet adds, through its 1x1 adapter, to every query's features."""
        lateral = self.laterals[str(stage)]
        assert isinstance(lateral, nn.Conv2d)
        return conv1x1(features, lateral.weight, lateral.bias)

    def forward(self, parts: PictureParts, maps: Float[Tensor, "N M h w"]) -> Float[Tensor, "N H W"]:
        finest = parts.sums[-1]
        chunk = max(1, CHUNK_VALUES // finest.numel()) if maps.device.type == "cpu" else max(1, len(maps))
        maps = maps.contiguous(memory_format=torch.channels_last)
        masks = [self._refine(parts, rows) for rows in torch.split(maps, chunk)]
        return torch.cat(masks) if len(masks) > 1 else masks[0]

    def _refine(self, parts: PictureParts, maps: Float[Tensor, "N M h w"]) -> Float[Tensor, "N H W"]:
        x = F.conv2d(maps, self._conv(0).weight[:, self.width :], padding=1) + parts.first
        x = F.relu(self.norms[0](x), inplace=True)
        x = F.relu(self.norms[1](self._conv(1)(x)), inplace=True)
        for i, part in enumerate(parts.sums, start=2):
            x = upsampled_conv(x, self._conv(i).weight, part)
            x = F.relu(self.norms[i](x), inplace=True)
        assert self.out.bias is not None
        return conv_to_one(x, self.out.weight) + self.out.bias

    def _conv(self, index: int) -> nn.Conv2d:
        conv = self.convs[index]
        assert isinstance(conv, nn.Conv2d)
        return conv


def upsampled_conv(
    x: Float[Tensor, "N C h w"], weight: Float[Tensor, "D C 3 3"], part: Float[Tensor, "1 D H W"]
) -> Float[Tensor, "N D H W"]:
    """Return conv3x3(nearest upsampling of x to H x W) + part, without making the upsampled map where H W allow it.

    They do where each is twice that of x or one less, as for stages of a ResNet.
    """
    (h, w), (H, W) = x.shape[2:], part.shape[2:]
    if not (2 * h - 1 <= H <= 2 * h and 2 * w - 1 <= W <= 2 * w and min(h, w) > 1):
        return F.conv2d(F.interpolate(x, (H, W), mode="nearest"), weight, padding=1) + part
    y = doubled_conv(x, weight)[:, :, :H, :W] + part
    if 2 * h > H:  # the zeros beyond the border lie where the doubled map has its last row
        y[:, :, -1:] = _last_rows(x[:, :, -2:], weight, W) + part[:, :, -1:]
    if 2 * w > W:
        columns = _last_rows(x[:, :, :, -2:].transpose(2, 3), weight.transpose(2, 3), H)
        y[:, :, :, -1:] = columns.transpose(2, 3) + part[:, :, :, -1:]
    return y


def _last_rows(x: Float[Tensor, "N C 2 w"], weight: Float[Tensor, "D C 3 3"], W: int) -> Float[Tensor, "N D 1 W"]:
    """Return the last row of conv3x3 on the last two rows doubled, the fourth of which is left out."""
    rows = F.interpolate(x, scale_factor=2.0, mode="nearest")[:, :, 1:3, :W]
    return F.conv2d(F.pad(rows, (1, 1)), weight[:, :, :2])


def doubled_conv(x: Float[Tensor, "N C h w"], weight: Float[Tensor, "D C 3 3"]) -> Float[Tensor, "N D 2*h 2*w"]:
    """Return conv3x3(x doubled by nearest upsampling) from four 2x2 convs on x, one per place in a 2x2 cell.

    In an even row the tap above falls on the row before, the other two on the row itself; in an odd row it is the
    lower tap that falls on the next. Columns likewise.
    """
    (h, w), D = x.shape[2:], len(weight)
    y = F.conv2d(x, phase_weights(weight), padding=1)  # [N, 4 D, h + 1, w + 1]
    places = y.permute(0, 2, 3, 1).reshape(len(x), h + 1, w + 1, 2, 2, D)
    rows = [torch.stack([places[:, p : p + h, q : q + w, p, q] for q in (0, 1)], dim=3) for p in (0, 1)]
    return torch.stack(rows, dim=2).view(len(x), 2 * h, 2 * w, D).permute(0, 3, 1, 2)


def phase_weights(weight: Float[Tensor, "D C 3 3"]) -> Float[Tensor, "4*D C 2 2"]:
    """Return the 2x2 kernels of the four places of a doubled cell: even-even, even-odd, odd-even, odd-odd."""
    taps = weight.new_tensor([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]])  # [place, tap, of the three]
    return torch.einsum("pay,qbx,dcyx->pqdcab", taps, taps, weight).flatten(0, 2)


def conv_to_one(x: Float[Tensor, "N C H W"], weight: Float[Tensor, "1 C 3 3"]) -> Float[Tensor, "N H W"]:
    """Return conv3x3 to one channel: each tap's map by one matrix product, then the nine shifted and added.

    Convolution routines leave most of a vector unit idle for a single output.
    """
    taps = weight[0].flip(1, 2).flatten(1).T  # the sum scatters where the convolution gathers
    cells = x.permute(0, 2, 3, 1).flatten(1, 2).transpose(1, 2)  # [N, C, H W], no copy for channels-last maps
    return F.fold(torch.matmul(taps, cells), x.shape[2:], kernel_size=3, padding=1)[:, 0]
