"""DETR's mask branch: equal to its plain formula in values and gradients, and not as much work."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from detr_plain import plain_attention_maps, plain_masks
from thingstuff.backbones import BackboneConfig
from thingstuff.models import create, detr_mask_head
from thingstuff.models.detr import DETRConfig, DETROutput, DETRPanoptic
from thingstuff.models.detr_mask_head import MaskHead, doubled_conv, upsampled_conv
from thingstuff.panoptic import Categories

CATEGORIES = Categories(("road", "car"), (False, True), (1, 2))
SMALL = DETRConfig(
    backbone=BackboneConfig(weights="none", stem_channels=8, res2_channels=16, bottleneck_width=4),
    hidden=128,
    encoder_layers=1,
    decoder_layers=1,
    feedforward=32,
    queries=5,
)
Sizes = dict[int, tuple[int, int]]


def stage_sizes(height: int, width: int, dilated: bool = False) -> Sizes:
    """Sizes of the ResNet's stages for a canvas: each is half the one before, rounded up."""
    sizes = {}
    for stage in (2, 3, 4, 5):
        stride = 2 ** (stage - dilated * (stage == 5))
        sizes[stage] = (-(-height // stride), -(-width // stride))
    return sizes


def model_in_doubles(seed: int = 0) -> DETRPanoptic:
    torch.manual_seed(seed)
    model = create("detr-panoptic-r50", CATEGORIES, SMALL).double()
    assert isinstance(model, DETRPanoptic)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith(("attention_maps.", "mask_head.")):
                parameter.add_(0.1 * torch.randn_like(parameter))  # biases and norms that are no identity
    return model


def random_output(model: DETRPanoptic, sizes: Sizes, padded: bool = False) -> DETROutput:
    """What the mask branch reads, for two pictures; `padded` leaves the last third of the second's columns out."""
    random = torch.Generator().manual_seed(1)
    h, w = sizes[5]

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64).requires_grad_()

    valid = torch.ones(2, h, w, dtype=torch.bool)
    valid[1, :, -(-2 * w // 3) :] = False
    return DETROutput(
        logits=torch.zeros(1, 2, 5, 3, dtype=torch.float64),
        boxes=torch.zeros(1, 2, 5, 4, dtype=torch.float64),
        states=noise(2, 5, 128),
        memory=noise(2, 128, h, w),
        projected=noise(2, 128, h, w),
        stages={stage: noise(2, model.backbone.channels[stage], *sizes[stage]) for stage in (4, 3, 2)},
        valid=valid if padded else None,
        canvas=(4 * sizes[2][0], 4 * sizes[2][1]),
    )


def values_and_gradients(
    masks: Callable[[DETROutput, int, Tensor], Tensor], model: DETRPanoptic, output: DETROutput, queries: Tensor
) -> dict[str, Tensor]:
    """The masks of the second picture and the gradients of a random sum of them, by name."""
    parts = {n: p for n, p in model.named_parameters() if n.startswith(("attention_maps.", "mask_head."))}
    inputs = {"states": output.states, "memory": output.memory, "projected": output.projected}
    of = {**parts, **inputs, **{f"stage {stage}": x for stage, x in output.stages.items()}}
    logits = masks(output, 1, queries)
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(2), dtype=logits.dtype)
    gradients = torch.autograd.grad((logits * weights).sum(), list(of.values()))
    return {"masks": logits.detach(), **dict(zip(of, gradients, strict=True))}


def assert_plain(model: DETRPanoptic, output: DETROutput, queries: Tensor) -> None:
    """Ours and the plain formula give the same masks and gradients, to 1e-10 of each one's largest value."""
    plain = values_and_gradients(lambda o, b, q: plain_masks(model, o, b, q), model, output, queries)
    ours = values_and_gradients(model.masks, model, output, queries)
    for name, expected in plain.items():
        assert ours[name].shape == expected.shape, name
        if expected.numel():
            allowed = 1e-10 * (1 + float(expected.abs().max()))  # 1: a bias before its norm has but rounding errors
            torch.testing.assert_close(ours[name], expected, rtol=0, atol=allowed, msg=name)


SIZES = {
    "even": stage_sizes(64, 96),
    "odd": stage_sizes(68, 100),
    "odd at every stage": stage_sizes(132, 68),
    "odd rows": stage_sizes(68, 96),
    "odd columns": stage_sizes(64, 100),
    "dilated, even": stage_sizes(64, 96, dilated=True),
    "dilated, odd": stage_sizes(72, 100, dilated=True),
    "one row": stage_sizes(30, 90),
    "one column": stage_sizes(90, 20),
    "one cell": stage_sizes(8, 8),
}


@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_masks_and_gradients_are_the_plain_formulas(sizes: Sizes, padded: bool) -> None:
    model = model_in_doubles()
    output = random_output(model, sizes, padded and sizes[5][1] > 1)
    assert_plain(model, output, torch.tensor([3, 0, 4]))


@pytest.mark.parametrize("queries", [[], [2], [1, 1, 4, 0]], ids=["none", "one", "one twice"])
def test_any_number_of_queries(queries: list[int]) -> None:
    model = model_in_doubles()
    chosen = torch.tensor(queries, dtype=torch.long)
    assert_plain(model, random_output(model, SIZES["odd"], padded=True), chosen)


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_chunks_change_nothing(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_in_doubles()
    height, width = SIZES["odd"][2]
    monkeypatch.setattr(detr_mask_head, "CHUNK_VALUES", rows * 8 * height * width)
    taken: list[int] = []
    refine = MaskHead._refine
    monkeypatch.setattr(MaskHead, "_refine", lambda self, p, maps: taken.append(len(maps)) or refine(self, p, maps))
    assert_plain(model, random_output(model, SIZES["odd"]), torch.arange(5))
    assert taken == {1: [1, 1, 1, 1, 1], 2: [2, 2, 1], 3: [3, 2]}[rows]


def test_queries_and_pictures_do_not_see_each_other() -> None:
    model = model_in_doubles()
    output = random_output(model, SIZES["even"])
    masks = model.masks(output, 1, torch.arange(5))
    other = output.states.detach().clone()
    other[0] += 1
    other[1, 3] += 1
    changed = model.masks(replace(output, states=other), 1, torch.arange(5))
    same = [torch.allclose(a, b, rtol=0, atol=1e-12) for a, b in zip(masks, changed, strict=True)]
    assert same == [True, True, True, False, True]


def test_attention_maps_share_one_softmax_and_leave_padding_out() -> None:
    model = model_in_doubles()
    output = random_output(model, SIZES["even"], padded=True)
    assert output.valid is not None
    maps = model.attention_maps(output.states[1], output.memory[1], output.valid[1])
    assert maps.shape == (5, 8, 2, 3)
    torch.testing.assert_close(maps.sum((1, 2, 3)), torch.ones(5, dtype=torch.float64))
    assert not maps[:, :, ~output.valid[1]].any()
    assert (maps.flatten(2).sum(2) - 1 / 8).abs().max() > 0.01  # heads do not share alike
    plain = plain_attention_maps(model.attention_maps, output.states[1], output.memory[1], output.valid[1])
    torch.testing.assert_close(maps, plain, rtol=1e-12, atol=0)


# ---- the conv after an upsampling

SMALL_SIZES = [
    (h, w, H, W)
    for h in (1, 2, 3, 4)
    for w in (1, 2, 3, 5)
    for H in sorted({h, 2 * h - 1, 2 * h})
    for W in sorted({w, 2 * w - 1, 2 * w})
]


@pytest.mark.parametrize(("h", "w", "H", "W"), SMALL_SIZES)
def test_upsampled_conv_is_interpolation_and_conv(h: int, w: int, H: int, W: int) -> None:
    random = torch.Generator().manual_seed(0)
    x, weight, part = (
        torch.randn(*shape, generator=random, dtype=torch.float64).requires_grad_()
        for shape in ((2, 3, h, w), (4, 3, 3, 3), (1, 4, H, W))
    )
    ours = upsampled_conv(x, weight, part)
    plain = F.conv2d(F.interpolate(x, (H, W), mode="nearest"), weight, padding=1) + part
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-12)
    signs = torch.randn(plain.shape, generator=random, dtype=torch.float64)
    for a, b in zip(
        torch.autograd.grad(ours, (x, weight, part), signs),
        torch.autograd.grad(plain, (x, weight, part), signs),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_doubled_conv_has_the_taps_in_their_places() -> None:
    """One tap at a time, on a map whose values tell their cells."""
    x = torch.arange(6.0).view(1, 1, 2, 3) + 1
    for tap in range(9):
        weight = torch.zeros(1, 1, 9).index_fill(2, torch.tensor([tap]), 1.0).view(1, 1, 3, 3)
        expected = F.conv2d(x.repeat_interleave(2, 2).repeat_interleave(2, 3), weight, padding=1)
        assert torch.equal(doubled_conv(x, weight), expected)


# ---- work and memory

BIG: Sizes = stage_sizes(256, 320)
"""8 x 10 cells of the encoded image, 64 x 80 at stride 4."""


def big_case() -> tuple[DETRPanoptic, DETROutput]:
    model = model_in_doubles().requires_grad_(False)
    output = random_output(model, BIG)
    leaves = {name: getattr(output, name).detach() for name in ("states", "memory", "projected")}
    return model, replace(output, **leaves, stages={stage: x.detach() for stage, x in output.stages.items()})


def multiplications(function: Callable[[], Tensor]) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        function()
    return counter.get_total_flops() // 2


def test_a_query_costs_less_than_half_of_the_plain_formula() -> None:
    """What hangs on the picture alone is paid once, and a conv on a doubled map costs 4/9."""
    model, output = big_case()
    ours, plain = (
        [multiplications(lambda n=n, f=f: f(torch.arange(n) % 5)) for n in (1, 41)]
        for f in (lambda q: model.masks(output, 0, q), lambda q: plain_masks(model, output, 0, q))
    )
    a_query, plain_query = (ours[1] - ours[0]) / 40, (plain[1] - plain[0]) / 40
    (h, w), (H, W) = BIG[5], BIG[2]
    attention = 128 * 128 + 128 * h * w
    coarse = 9 * (8 * 136 + 136 * 64) * h * w  # the maps' share of the first conv, and the second
    widths = {5: 64 * 32, 4: 32 * 16, 3: 16 * 8}
    doubled = sum(4 * 4 * widths[stage] * (BIG[stage][0] + 1) * (BIG[stage][1] + 1) for stage in widths)
    assert a_query == pytest.approx(attention + coarse + doubled + 9 * 8 * H * W, rel=1e-3)
    assert a_query < plain_query / 2


class LargestTensor(TorchDispatchMode):
    """Measures the largest tensor that any operation makes, in values."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, Tensor):
                self.largest = max(self.largest, tensor.untyped_storage().nbytes() // tensor.element_size())
        return result


@torch.no_grad()
def test_nothing_but_the_result_grows_with_the_number_of_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    (model, output), queries = big_case(), torch.arange(100) % 5
    H, W = BIG[2]
    monkeypatch.setattr(detr_mask_head, "CHUNK_VALUES", 4 * 8 * H * W)  # four queries at once
    with LargestTensor() as ours:
        masks = model.masks(output, 0, queries)
    with LargestTensor() as plain:
        expected = plain_masks(model, output, 0, queries)
    torch.testing.assert_close(masks, expected)
    assert ours.largest == 100 * H * W  # the masks themselves
    assert plain.largest >= 100 * 16 * H * W  # the measure sees what it looks for
