"""Backbones with deformable stages (DCN) against plain convolutions, torchvision's, and each other."""

import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision.models as tv
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from thingstuff.backbones import BackboneConfig, FrozenBatchNorm2d, ResNet
from thingstuff.config import changed
from thingstuff.errors import InputError

TINY: dict[str, Any] = {
    "weights": "none",
    "stem_channels": 8,
    "res2_channels": 16,
    "bottleneck_width": 4,
    "frozen_stages": 0,
}
COUNTS = {2: 3, 3: 4, 4: 6, 5: 3}
SIZE = (70, 96)
"""Odd maps on the way: a stride of 2 must round up."""


def built(*stages: int, **changes: Any) -> ResNet:
    torch.manual_seed(0)
    resnet = ResNet(BackboneConfig(**{**TINY, **changes}, deformable_stages=stages)).eval()
    for module in resnet.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2.0)
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_(0, 0.1)
    return resnet


def shifted(resnet: ResNet) -> ResNet:
    """Give the offset convs random weights."""
    with torch.no_grad():
        for name, parameter in resnet.named_parameters():
            if ".offset." in name:
                parameter.normal_(0, 0.3)
    return resnet


def pixels(seed: int = 0) -> Tensor:
    return torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(seed))


def deformable(*stages: int) -> list[str]:
    return [f"layer{stage - 1}.{i}.conv2" for stage in stages for i in range(COUNTS[stage])]


def calls_of(resnet: ResNet, names: list[str]) -> dict[str, tuple[Tensor, Tensor]]:
    """Run a picture through; return what each of these modules saw and gave, and check that each was called."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def keep(name: str) -> Any:
        return lambda _module, inputs, output: seen.update({name: (inputs[0].detach(), output.detach().clone())})

    hooks = [resnet.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    resnet(pixels())
    for hook in hooks:
        hook.remove()
    assert list(seen) == names
    return seen


def strides(stride_in_1x1: bool, stages: tuple[int, ...]) -> dict[str, int]:
    """The stride of each 3x3 conv: 2 in a stage's first block, unless its 1x1 conv has it; never in Res2."""
    return {name: 2 if ".0." in name and not stride_in_1x1 else 1 for name in deformable(*stages)}


@pytest.mark.parametrize("stages", [(3, 4, 5), (5,), (4, 5), (3,)])
def test_the_3x3_convs_of_the_named_stages_are_deformable(stages: tuple[int, ...]) -> None:
    state, ordinary = built(*stages).state_dict(), built().state_dict()
    extra = {f"{name}.offset.{kind}" for name in deformable(*stages) for kind in ("weight", "bias")}
    assert set(state) - set(ordinary) == extra
    assert set(ordinary) <= set(state)
    assert all(state[key].shape == value.shape for key, value in ordinary.items())
    for name in deformable(*stages):
        width = ordinary[f"{name}.weight"].shape[1]
        assert state[f"{name}.offset.weight"].shape == (27, width, 3, 3)
        assert state[f"{name}.offset.bias"].shape == (27,)
    assert not any(state[key].any() for key in extra)


def test_torchvisions_keys_are_all_there() -> None:
    with torch.device("meta"):
        theirs = tv.resnet50(weights=None).state_dict()
        ours = ResNet(BackboneConfig(weights="none", deformable_stages=(3, 4, 5), norm="batch")).state_dict()
    wanted = {key: value.shape for key, value in theirs.items() if not key.startswith("fc.")}
    assert {key: ours[key].shape for key in wanted if key in ours} == wanted
    assert all(re.fullmatch(r"layer[234]\.\d\.conv2\.offset\.(weight|bias)", key) for key in set(ours) - set(wanted))


@pytest.mark.parametrize("stride_in_1x1", [False, True])
def test_at_first_each_is_half_the_plain_conv(stride_in_1x1: bool) -> None:
    stages = (3, 4, 5)
    resnet = built(*stages, stride_in_1x1=stride_in_1x1)
    for name, (x, y) in calls_of(resnet, deformable(*stages)).items():
        weight = resnet.get_parameter(f"{name}.weight").detach()
        expected = 0.5 * F.conv2d(x, weight, stride=strides(stride_in_1x1, stages)[name], padding=1)
        assert expected.abs().max() > 0.01
        torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("stride_in_1x1", [False, True])
def test_with_offsets_each_is_torchvisions_deformable_conv(stride_in_1x1: bool) -> None:
    stages = (3, 4, 5)
    resnet = shifted(built(*stages, stride_in_1x1=stride_in_1x1))
    for name, (x, y) in calls_of(resnet, deformable(*stages)).items():
        stride = strides(stride_in_1x1, stages)[name]
        parts = {key: p.detach() for key, p in resnet.get_submodule(name).named_parameters()}
        assert set(parts) == {"weight", "offset.weight", "offset.bias"}
        maps = F.conv2d(x, parts["offset.weight"], parts["offset.bias"], stride=stride, padding=1)
        offsets, mask = maps[:, :18], torch.sigmoid(maps[:, 18:])
        expected = deform_conv2d(x, offsets, parts["weight"], stride=stride, padding=1, mask=mask)
        assert offsets.abs().max() > 0.5
        torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("stride_in_1x1", [False, True])
def test_stages_keep_their_sizes(stride_in_1x1: bool) -> None:
    sizes = {s: tuple(y.shape) for s, y in built(3, 4, 5, stride_in_1x1=stride_in_1x1)(pixels()).items()}
    assert sizes == {2: (2, 16, 18, 24), 3: (2, 32, 9, 12), 4: (2, 64, 5, 6), 5: (2, 128, 3, 3)}


def test_stages_that_are_not_named_are_as_ever() -> None:
    plain, resnet = built(), built(5)
    missing = resnet.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert all(".offset." in key for key in missing)
    ours, theirs = shifted(resnet)(pixels()), plain(pixels())
    assert all(torch.equal(ours[stage], theirs[stage]) for stage in (2, 3, 4))
    assert not torch.allclose(ours[5], theirs[5], rtol=1e-2)


@pytest.mark.parametrize("norm", ["frozen", "batch"])
@pytest.mark.parametrize("stride_in_1x1", [False, True])
def test_folded_norms_change_nothing(norm: str, stride_in_1x1: bool) -> None:
    resnet = shifted(built(3, 4, 5, norm=norm, stride_in_1x1=stride_in_1x1)).double()
    normed: list[str] = []
    for name, module in resnet.named_modules():
        if isinstance(module, FrozenBatchNorm2d | nn.BatchNorm2d):
            module.register_forward_hook(lambda _module, _inputs, _output, name=name: normed.append(name))
    unfolded = resnet(pixels().double())
    assert len(normed) == 1 + 3 * 16 + 4
    normed.clear()
    with torch.no_grad():
        folded = resnet(pixels().double())
    assert normed == []
    for stage, expected in unfolded.items():
        allowed = 1e-9 * float(expected.detach().abs().max())
        torch.testing.assert_close(folded[stage], expected.detach(), rtol=0, atol=allowed)


def test_offsets_learn_from_zero_on() -> None:
    resnet = built(3, 4, 5).train()
    resnet(pixels())[5].square().sum().backward()
    for name in deformable(3, 4, 5):
        grad = resnet.get_parameter(f"{name}.offset.weight").grad
        assert grad is not None
        assert grad[:18].any(), name
        assert grad[18:].any(), name


def test_stages_are_named_in_any_order() -> None:
    assert BackboneConfig(deformable_stages=(5, 4, 4, 3)) == BackboneConfig(deformable_stages=(3, 4, 5))


@pytest.mark.parametrize(
    "changes",
    [
        {"depth": 18, "deformable_stages": (5,)},
        {"depth": 34, "deformable_stages": (3, 4, 5)},
        {"dilated": True, "deformable_stages": (4, 5)},
        {"deformable_stages": (2,)},
        {"deformable_stages": (3, 4, 5), "frozen_stages": 3},  # its taps would weigh a half for ever
    ],
)
def test_what_cannot_be_deformable_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="deformable_stages"):
        changed(BackboneConfig(), changes)


def test_a_dilated_last_stage_may_follow_deformable_ones() -> None:
    stages = built(3, 4, dilated=True)(pixels())
    assert stages[5].shape[2:] == stages[4].shape[2:]
