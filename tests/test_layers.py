"""Shared layers: coordinates, deformable convolution, the two pyramids."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from thingstuff.layers import FPN, ConvBlock, DeformableConv2d, SemanticFPN, with_coordinates


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_coordinates_follow_the_features_vertical_first() -> None:
    x = noise(2, 3, 3, 5)
    y = with_coordinates(x)
    assert torch.equal(y[:, :3], x)
    for b in range(2):
        assert y[b, 3].tolist() == [[-1.0] * 5, [0.0] * 5, [1.0] * 5]
        assert y[b, 4].tolist() == [[-1.0, -0.5, 0.0, 0.5, 1.0]] * 3


def test_a_single_row_lies_at_minus_one() -> None:
    y = with_coordinates(torch.zeros(1, 1, 1, 2))
    assert y[0, 1].tolist() == [[-1.0, -1.0]]
    assert y[0, 2].tolist() == [[-1.0, 1.0]]


@pytest.mark.parametrize("bias", [True, False])
def test_a_deformable_conv_that_shifts_nothing_is_half_a_conv(bias: bool) -> None:
    conv, x = DeformableConv2d(4, 6, bias=bias), noise(2, 4, 7, 9)
    nn.init.zeros_(conv.offset.weight)
    nn.init.zeros_(conv.offset.bias)  # no shift, and every tap weighs sigmoid(0)
    plain = F.conv2d(x, conv.weight, padding=1) / 2
    if conv.bias is not None:
        nn.init.constant_(conv.bias, 0.7)
        plain = plain + 0.7
    torch.testing.assert_close(conv(x), plain)


def test_a_deformable_conv_takes_shifts_as_row_then_column_per_tap() -> None:
    conv, x = DeformableConv2d(2, 3, bias=False), noise(1, 2, 8, 10)
    nn.init.zeros_(conv.offset.weight)
    with torch.no_grad():
        shifts = conv.offset.bias[:18].view(9, 2)
        shifts[:, 0], shifts[:, 1] = 2.0, -1.0  # every tap two rows down, one column to the left
        conv.offset.bias[18:] = 50.0
    moved = torch.roll(x, (-2, 1), (2, 3))
    inner = (slice(None), slice(None), slice(1, 5), slice(2, 9))
    torch.testing.assert_close(conv(x)[inner], F.conv2d(moved, conv.weight, padding=1)[inner])


def test_a_deformable_conv_weighs_its_taps_row_major() -> None:
    conv, x = DeformableConv2d(1, 1, bias=False), noise(1, 1, 6, 6)
    nn.init.zeros_(conv.offset.weight)
    with torch.no_grad():
        conv.offset.bias.zero_()
        conv.offset.bias[18:] = -50.0
        conv.offset.bias[18 + 1] = 50.0  # only the tap in the first row, second column
    kernel = torch.zeros_like(conv.weight)
    kernel[0, 0, 0, 1] = conv.weight[0, 0, 0, 1]
    torch.testing.assert_close(conv(x), F.conv2d(x, kernel, padding=1))


@pytest.mark.parametrize("deformable", [True, False])
@pytest.mark.parametrize("norm", [True, False])
def test_a_block_has_a_norm_or_a_bias_and_ends_in_relu(norm: bool, deformable: bool) -> None:
    block, x = ConvBlock(3, 64, norm=norm, deformable=deformable), noise(2, 3, 8, 8)
    assert (block.conv.bias is None) == norm
    expected = block.conv(x)
    if norm:
        expected = F.group_norm(expected, 32, block.norm.weight, block.norm.bias)
    torch.testing.assert_close(block(x), expected.relu())
    assert (block(x) == 0).any()


def test_a_block_on_a_single_cell_gives_its_norm_s_bias() -> None:
    """The last level of one small picture: a group of one value has no variance, and is its own mean."""
    block = ConvBlock(3, 32)
    nn.init.constant_(block.norm.bias, 0.5)
    torch.testing.assert_close(block(noise(1, 3, 1, 1)), torch.full((1, 32, 1, 1), 0.5))


def stages_of(channels: dict[int, int], height: int, width: int) -> dict[int, torch.Tensor]:
    return {s: noise(2, c, height >> s, width >> s, seed=s) for s, c in channels.items()}


CHANNELS = {2: 4, 3: 8, 4: 12, 5: 16}


@pytest.mark.parametrize("last", [5, 6, 7])
def test_fpn_halves_upwards_with_the_odd_cell_kept(last: int) -> None:
    fpn = FPN(CHANNELS, 10, last)
    pyramid = fpn(stages_of(CHANNELS, 416, 160))
    shapes = {2: (104, 40), 3: (52, 20), 4: (26, 10), 5: (13, 5), 6: (7, 3), 7: (4, 2)}
    assert {s: tuple(p.shape) for s, p in pyramid.items()} == {
        s: (2, 10, *shape) for s, shape in shapes.items() if s <= last
    }


def test_fpn_is_the_sum_of_laterals_from_above() -> None:
    fpn = FPN(CHANNELS, 6, 7)
    stages = stages_of(CHANNELS, 64, 96)
    pyramid = fpn(stages)
    above = torch.zeros(2, 6, 1, 1)
    for s in (5, 4, 3, 2):
        lateral = F.conv2d(stages[s], fpn.lateral[str(s)].weight, fpn.lateral[str(s)].bias)
        above = lateral + (above.repeat_interleave(2, 2).repeat_interleave(2, 3) if s < 5 else 0)
        expected = F.conv2d(above, fpn.output[str(s)].weight, fpn.output[str(s)].bias, padding=1)
        torch.testing.assert_close(pyramid[s], expected)


def test_p6_comes_from_p5_and_p7_from_the_positive_part_of_p6() -> None:
    fpn = FPN(CHANNELS, 6, 7)
    pyramid = fpn(stages_of(CHANNELS, 192, 192))
    p6 = F.conv2d(pyramid[5], fpn.p6.weight, fpn.p6.bias, stride=2, padding=1)
    p7 = F.conv2d(p6.relu(), fpn.p7.weight, fpn.p7.bias, stride=2, padding=1)
    assert (pyramid[6] < 0).any()
    torch.testing.assert_close(pyramid[6], p6)
    torch.testing.assert_close(pyramid[7], p7)


def test_semantic_fpn_brings_every_level_to_stride_4() -> None:
    semantic = SemanticFPN(6, 32)
    assert {s: len(blocks) for s, blocks in semantic.levels.items()} == {"2": 1, "3": 1, "4": 2, "5": 3}
    pyramid = {s: noise(1, 6, 96 >> s, 64 >> s, seed=s) for s in (2, 3, 4, 5)}
    result = semantic(pyramid)
    assert result.shape == (1, 32, 24, 16)
    expected = semantic.levels["2"][0](pyramid[2])
    for s in (3, 4, 5):
        x = pyramid[s]
        for block in semantic.levels[str(s)]:
            x = F.interpolate(block(x), scale_factor=2.0, mode="bilinear")
        expected = expected + x
    torch.testing.assert_close(result, expected)
