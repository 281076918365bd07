"""The deformable convolution on CPUs against torchvision's, values and gradients."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from thingstuff import deformable
from thingstuff.deformable import DeformableConv2d, deform_conv


def operands(
    shape: tuple[int, int, int, int], stride: int = 1, spread: float = 1.0, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    """Input, offsets, modulations, weight and bias for 5 outputs; `spread` is how far the taps go, in pixels."""
    random = torch.Generator().manual_seed(sum(shape))
    B, C, H, W = shape
    h, w = -(-H // stride), -(-W // stride)
    offset = spread * torch.randn(B, 18, h, w, generator=random, dtype=dtype)
    mask = torch.rand(B, 9, h, w, generator=random, dtype=dtype)
    x = torch.randn(*shape, generator=random, dtype=dtype)
    weight = torch.randn(5, C, 3, 3, generator=random, dtype=dtype) / (3 * C**0.5)
    return [x, offset, mask, weight, torch.randn(5, generator=random, dtype=dtype)]


def theirs(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor | None, stride: int = 1) -> Tensor:
    result: Tensor = deform_conv2d(x, offset, weight, bias, stride=stride, padding=1, mask=mask)
    return result


@pytest.fixture(autouse=True)
def ours_for_every_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deformable, "FEW", 0)


def gradients(function: object, given: list[Tensor], stride: int) -> list[Tensor]:
    """The result and the gradients of all that was given."""
    leaves = [t.clone().requires_grad_() for t in given]
    y = function(*leaves, stride=stride)  # type: ignore[operator]
    pull = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)
    return [y, *torch.autograd.grad(y, leaves, pull)]


SHAPES = [(1, 8, 9, 13), (2, 3, 7, 5), (3, 16, 1, 6), (1, 4, 6, 1)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("spread", [0.0, 1.0, 6.0])  # 0: all taps on cells; 6: many beyond the map
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_torchvision_s(shape: tuple[int, int, int, int], stride: int, spread: float, dtype: torch.dtype) -> None:
    given = operands(shape, stride, spread, dtype)
    assert (given[1].abs() > 7).any() == (spread > 2)
    close = {"rtol": 1e-5, "atol": 2e-5} if dtype == torch.float32 else {"rtol": 1e-10, "atol": 1e-12}
    ours, reference = deform_conv(*given, stride=stride), theirs(*given, stride=stride)
    assert ours.dtype == dtype
    torch.testing.assert_close(ours, reference, **close)
    torch.testing.assert_close(deform_conv(*given[:4], None, stride), theirs(*given[:4], None, stride), **close)
    if spread:  # on a cell the slope has a kink, where either side's is right
        for a, b in zip(gradients(deform_conv, given, stride), gradients(theirs, given, stride), strict=True):
            torch.testing.assert_close(a, b, **{**close, "atol": 10 * close["atol"]})


def test_its_gradients_are_slopes() -> None:
    """By finite differences, so that an error both sides might share would show."""
    leaves = [t.requires_grad_() for t in operands((2, 2, 3, 4), 1, 0.7, torch.float64)]
    assert torch.autograd.gradcheck(deform_conv, leaves)


@pytest.mark.parametrize("place", [-1.0, -0.999, -0.5, 4.999, 5.0, 5.5, 6.0, 1e6, -1e6])
def test_a_tap_at_the_border_reads_zeros_beyond_it(place: float) -> None:
    """Every tap of every pixel reads at one place, that of a column of a map that is 6 wide."""
    x, _, mask, weight, bias = operands((1, 2, 4, 6))
    offset = torch.zeros(1, 9, 2, 4, 6)
    tap, column = torch.arange(9) % 3 - 1, torch.arange(6)
    offset[0, :, 1] = place - (tap[:, None, None] + column)
    offset = offset.view(1, 18, 4, 6)
    torch.testing.assert_close(
        deform_conv(x, offset, mask, weight, bias), theirs(x, offset, mask, weight, bias), atol=1e-4, rtol=1e-5
    )


def test_memory_format_and_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    given = operands((2, 8, 9, 13))
    whole = gradients(deform_conv, given, 1)
    last = [t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t for t in given]
    for a, b in zip(whole, gradients(deform_conv, last, 1), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    monkeypatch.setattr(deformable, "GATHERED", 10 * 9 * 8)  # ten pixels at once, of 117
    monkeypatch.setattr(deformable, "GATHERED_TO_LEARN", 50 * 9 * 8)
    torch.testing.assert_close(deform_conv(*given), whole[0], atol=1e-5, rtol=1e-5)
    for a, b in zip(whole, gradients(deform_conv, given, 1), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_tiny_maps_are_torchvision_s(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counted(*arguments: object, **named: object) -> Tensor:
        calls.append(arguments)
        return deform_conv2d(*arguments, **named)

    monkeypatch.setattr(deformable, "deform_conv2d", counted)
    monkeypatch.setattr(deformable, "FEW", 9 * 8 * 9 * 13)
    deform_conv(*operands((1, 8, 9, 13)))
    assert not calls
    deform_conv(*operands((1, 8, 9, 12)))
    assert len(calls) == 1


# ---- the layer


@pytest.mark.parametrize(("stride", "size"), [(1, (7, 9)), (2, (4, 5))])
def test_the_layer_starts_as_half_a_conv_where_its_offsets_are_zero(stride: int, size: tuple[int, int]) -> None:
    conv = DeformableConv2d(4, 6, bias=True, stride=stride, zero_offsets=True)
    nn.init.constant_(conv.bias, 0.7)
    x = operands((2, 4, 7, 9))[0]
    torch.testing.assert_close(conv(x), F.conv2d(x, conv.weight, stride=stride, padding=1) / 2 + 0.7)
    assert conv(x).shape[2:] == size
    assert DeformableConv2d(4, 6, bias=True).offset.weight.any()


def test_another_weight_runs_at_the_same_taps() -> None:
    """A norm after it may be folded into weight and bias."""
    conv, x = DeformableConv2d(4, 6, bias=False), operands((2, 4, 7, 9))[0]
    scale, shift = torch.linspace(0.5, 2, 6), torch.linspace(-1, 1, 6)
    folded = conv.run(x, conv.weight * scale[:, None, None, None], shift)
    torch.testing.assert_close(folded, conv(x) * scale[:, None, None] + shift[:, None, None])


def test_mixed_precision_leaves_the_gathering_in_full() -> None:
    conv, x = DeformableConv2d(4, 6, bias=True), operands((2, 4, 7, 9))[0]
    with torch.autocast("cpu", torch.bfloat16):
        y = conv(x.bfloat16())
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, conv(x), atol=0.1, rtol=0.1)


def test_no_pictures_give_no_pictures() -> None:
    x, offset, mask = torch.zeros(0, 8, 40, 40), torch.zeros(0, 18, 40, 40), torch.zeros(0, 9, 40, 40)
    assert deform_conv(x, offset, mask, torch.zeros(4, 8, 3, 3), None).shape == (0, 4, 40, 40)
