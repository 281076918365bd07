"""DETR's mask branch as its formula stands, in torch's ordinary operations: every query through the whole head.

What `thingstuff.models.detr_mask_head` must equal, and the baseline of its benchmark; letters as there.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from thingstuff.models.detr import DETROutput, DETRPanoptic
from thingstuff.models.detr_mask_head import STAGES, AttentionMaps, MaskHead


def plain_masks(model: DETRPanoptic, output: DETROutput, b: int, queries: Tensor) -> Tensor:
    """Return one picture's mask logits of chosen queries, [N, H, W] at stride 4 of the canvas."""
    valid = output.valid[b] if output.valid is not None else None
    maps = plain_attention_maps(model.attention_maps, output.states[b, queries], output.memory[b], valid)
    stages = {stage: output.stages[stage][b] for stage in STAGES}
    return plain_mask_head(model.mask_head, output.projected[b], stages, maps)


def plain_attention_maps(attention: AttentionMaps, states: Tensor, memory: Tensor, valid: Tensor | None) -> Tensor:
    """Return [N, M, h, w]: scaled dot products of each head, one softmax over heads and cells together."""
    N, (d, h, w), M = len(states), memory.shape, attention.heads
    q = F.linear(states, attention.q.weight, attention.q.bias).view(N, M, d // M)
    k = F.conv2d(memory[None], attention.k.weight[:, :, None, None], attention.k.bias).view(M, d // M, h, w)
    scores = torch.einsum("nmc,mchw->nmhw", q * (d // M) ** -0.5, k)
    if valid is not None:
        scores = scores.masked_fill(~valid, float("-inf"))
    return F.softmax(scores.flatten(1), dim=-1).view(N, M, h, w)


def plain_mask_head(head: MaskHead, projected: Tensor, stages: Mapping[int, Tensor], maps: Tensor) -> Tensor:
    """Return [N, H, W]: the picture's features are repeated for every query, next to the query's maps."""
    x = torch.cat([_repeated(projected, maps), maps], dim=1)
    for i in range(2):
        x = _conv_norm_relu(head, i, x)
    for i, stage in enumerate(STAGES, start=2):
        lateral = head.laterals[str(stage)]
        feature = F.conv2d(_repeated(stages[stage], maps), lateral.weight, lateral.bias)
        x = feature + F.interpolate(x, size=feature.shape[-2:], mode="nearest")
        x = _conv_norm_relu(head, i, x)
    return F.conv2d(x, head.out.weight, head.out.bias, padding=1)[:, 0]


def _repeated(feature: Tensor, maps: Tensor) -> Tensor:
    return feature[None].expand(len(maps), -1, -1, -1)


def _conv_norm_relu(head: MaskHead, i: int, x: Tensor) -> Tensor:
    conv, norm = head.convs[i], head.norms[i]
    x = F.conv2d(x, conv.weight, conv.bias, padding=1)
    return F.relu(F.group_norm(x, 8, norm.weight, norm.bias, 1e-5))
