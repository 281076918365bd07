"""ResNets: equal to torchvision's, with frozen norms, frozen stages and the other stride placement."""

from typing import Any

import pytest
import torch
import torchvision.models as tv
from torch import nn

from thingstuff.backbones import BackboneConfig, FrozenBatchNorm2d, ResNet
from thingstuff.config import changed
from thingstuff.errors import InputError

TINY: dict[str, Any] = {"weights": "none", "stem_channels": 8, "res2_channels": 16, "bottleneck_width": 4}


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def random_statistics(model: nn.Module) -> None:
    for i, module in enumerate(m for m in model.modules() if isinstance(m, nn.BatchNorm2d | FrozenBatchNorm2d)):
        channels = module.running_mean.shape[0]
        with torch.no_grad():
            module.running_mean.copy_(0.1 * noise(channels, seed=4 * i))
            module.running_var.copy_(0.5 + noise(channels, seed=4 * i + 1).square())
            module.weight.copy_(1 + 0.1 * noise(channels, seed=4 * i + 2))
            module.bias.copy_(0.1 * noise(channels, seed=4 * i + 3))


def torchvision_stages(model: Any, x: torch.Tensor) -> dict[int, torch.Tensor]:
    x = model.maxpool(model.relu(model.bn1(model.conv1(x))))
    stages = {}
    for stage, layer in zip((2, 3, 4, 5), (model.layer1, model.layer2, model.layer3, model.layer4), strict=True):
        x = stages[stage] = layer(x)
    return stages


DILATED = {"replace_stride_with_dilation": [False, False, True]}


@pytest.mark.parametrize(
    ("depth", "res2_channels", "dilated"),
    [(18, 64, False), (34, 64, False), (50, 256, False), (50, 256, True), (101, 256, True)],
)
@pytest.mark.parametrize("norm", ["frozen", "batch"])
@torch.no_grad()
def test_stages_are_torchvisions(depth: int, res2_channels: int, dilated: bool, norm: str) -> None:
    theirs = getattr(tv, f"resnet{depth}")(weights=None, **(DILATED if dilated else {})).double().eval()
    random_statistics(theirs)
    config = BackboneConfig(depth=depth, norm=norm, weights="none", res2_channels=res2_channels, dilated=dilated)
    ours = ResNet(config).double().eval()
    state = {k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")}
    if norm == "frozen":
        state = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    ours.load_state_dict(state)
    x = noise(1, 3, 64, 90).double()
    stages = ours(x)
    assert ours.channels == {s: y.shape[1] for s, y in stages.items()}
    assert (stages[5].shape[2:] == stages[4].shape[2:]) == dilated
    assert config.strides == {s: round(64 / y.shape[2]) for s, y in stages.items()}
    for stage, expected in torchvision_stages(theirs, x).items():
        assert expected.abs().max() > 0.1
        torch.testing.assert_close(stages[stage], expected, rtol=0, atol=1e-11 * float(expected.abs().max()))


@pytest.mark.parametrize("norm", ["frozen", "batch"])
@pytest.mark.parametrize("changes", [{}, {"dilated": True}, {"stride_in_1x1": True}], ids=["plain", "dilated", "caffe"])
def test_norms_folded_into_convs_change_nothing(norm: str, changes: dict[str, Any]) -> None:
    """Without gradients nothing is normed by itself; with them everything is."""
    resnet = ResNet(BackboneConfig(**TINY, norm=norm, frozen_stages=0, **changes)).double().eval()
    random_statistics(resnet)
    normed: list[str] = []
    for name, module in resnet.named_modules():
        if isinstance(module, nn.BatchNorm2d | FrozenBatchNorm2d):
            module.register_forward_hook(lambda _module, _inputs, _output, name=name: normed.append(name))
    x = noise(2, 3, 70, 64).double()
    plain = resnet(x)
    assert len(normed) == 1 + 3 * 16 + 4
    assert all(stage.requires_grad for stage in plain.values())
    normed.clear()
    with torch.no_grad():
        folded = resnet(x)
    assert normed == []
    for stage, expected in plain.items():
        allowed = 1e-11 * float(expected.detach().abs().max())
        torch.testing.assert_close(folded[stage], expected.detach(), rtol=0, atol=allowed)


def test_frozen_stages_are_folded_and_learning_ones_are_not() -> None:
    resnet = ResNet(BackboneConfig(**TINY, frozen_stages=3)).double().train()
    random_statistics(resnet)
    x = noise(1, 3, 64, 64).double()
    stages = resnet(x)
    assert [stage for stage, value in stages.items() if value.requires_grad] == [4, 5]
    stages[5].square().sum().backward()
    ours = {name: p.grad for name, p in resnet.named_parameters() if p.grad is not None}
    assert {name.split(".")[0] for name in ours} == {"layer3", "layer4"}
    resnet.requires_grad_(True)
    resnet.zero_grad()
    resnet(x)[5].square().sum().backward()
    for name, grad in ours.items():
        expected = resnet.get_parameter(name).grad
        assert expected is not None
        torch.testing.assert_close(grad, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))


def test_batch_norm_that_learns_is_not_folded() -> None:
    """Even without gradients its statistics move, as in torchvision's."""
    resnet = ResNet(BackboneConfig(**TINY, norm="batch", frozen_stages=0)).train()
    with torch.no_grad():
        resnet(noise(2, 3, 64, 64) + 1)
    assert resnet.bn1.running_mean.any()
    assert int(resnet.bn1.num_batches_tracked) == 1


def test_only_bottlenecks_dilate() -> None:
    with pytest.raises(InputError, match="dilated"):
        changed(BackboneConfig(), {"depth": 18, "dilated": True})


def test_stages_halve_with_the_odd_cell_kept() -> None:
    stages = ResNet(BackboneConfig(**TINY)).eval()(noise(2, 3, 100, 70))
    assert {s: tuple(y.shape) for s, y in stages.items()} == {
        2: (2, 16, 25, 18),
        3: (2, 32, 13, 9),
        4: (2, 64, 7, 5),
        5: (2, 128, 4, 3),
    }


def test_a_frozen_norm_is_batch_norm_with_or_without_gradient() -> None:
    frozen, batch = FrozenBatchNorm2d(6), nn.BatchNorm2d(6).eval()
    random_statistics(nn.ModuleList([frozen]))
    batch.load_state_dict({**frozen.state_dict(), "num_batches_tracked": torch.tensor(0)})
    x = noise(2, 6, 5, 5)
    learning = x.clone().requires_grad_()
    affine = frozen(learning)
    torch.testing.assert_close(frozen(x), batch(x), rtol=0, atol=0)
    torch.testing.assert_close(affine, frozen(x), rtol=1e-5, atol=1e-6)
    (grad,) = torch.autograd.grad(affine.square().sum(), learning)
    reference = x.clone().requires_grad_()
    torch.testing.assert_close(grad, torch.autograd.grad(batch(reference).square().sum(), reference)[0])


def test_a_frozen_norm_learns_nothing_in_training() -> None:
    frozen = FrozenBatchNorm2d(4).train()
    before = {k: v.clone() for k, v in frozen.state_dict().items()}
    frozen(noise(2, 4, 3, 3) + 5)
    assert list(frozen.parameters()) == []
    assert all(torch.equal(before[k], v) for k, v in frozen.state_dict().items())


@pytest.mark.parametrize("stride_in_1x1", [True, False])
def test_bottlenecks_halve_in_one_of_two_convs(stride_in_1x1: bool) -> None:
    resnet = ResNet(BackboneConfig(**TINY, stride_in_1x1=stride_in_1x1))
    for layer in (resnet.layer2, resnet.layer3, resnet.layer4):
        first, second = (2, 1) if stride_in_1x1 else (1, 2)
        assert layer[0].conv1.stride == (first, first)
        assert layer[0].conv2.stride == (second, second)
        assert layer[0].downsample[0].stride == (2, 2)
        assert all(block.conv1.stride == block.conv2.stride == (1, 1) for block in layer[1:])
    assert resnet.layer1[0].conv1.stride == resnet.layer1[0].conv2.stride == (1, 1)


def test_the_stride_placement_changes_what_is_computed() -> None:
    torch.manual_seed(0)
    inside, before = (ResNet(BackboneConfig(**TINY, stride_in_1x1=flag)).eval() for flag in (False, True))
    before.load_state_dict(inside.state_dict())
    x = noise(1, 3, 64, 64)
    assert torch.equal(inside(x)[2], before(x)[2])
    assert inside(x)[3].shape == before(x)[3].shape
    assert not torch.allclose(inside(x)[3], before(x)[3])


@pytest.mark.parametrize("frozen_stages", [0, 1, 2, 3, 4, 5])
def test_stages_are_frozen_from_below(frozen_stages: int) -> None:
    resnet = ResNet(BackboneConfig(**TINY, norm="group", frozen_stages=frozen_stages))
    stage_of = {"conv1": 1, "bn1": 1, "layer1": 2, "layer2": 3, "layer3": 4, "layer4": 5}
    for name, parameter in resnet.named_parameters():
        assert parameter.requires_grad == (stage_of[name.split(".")[0]] > frozen_stages), name


@pytest.mark.parametrize(("norm", "kind"), [("batch", nn.BatchNorm2d), ("group", nn.GroupNorm)])
def test_norms_from_scratch_are_trainable(norm: str, kind: type[nn.Module]) -> None:
    resnet = ResNet(BackboneConfig(**TINY, norm=norm, frozen_stages=0))
    norms = [m for m in resnet.modules() if isinstance(m, kind)]
    assert len(norms) == 1 + 3 * 16 + 4
    assert all(m.weight.requires_grad for m in norms)
    assert not any(isinstance(m, FrozenBatchNorm2d) for m in resnet.modules())


def test_batch_norms_of_frozen_stages_keep_their_statistics() -> None:
    resnet = ResNet(BackboneConfig(**TINY, norm="batch", frozen_stages=2)).train()
    before = {key: value.clone() for key, value in resnet.state_dict().items() if "running_mean" in key}
    resnet(noise(2, 3, 64, 64))
    moved = {key.split(".")[0] for key, value in before.items() if not value.equal(resnet.state_dict()[key])}
    assert moved == {"layer2", "layer3", "layer4"}
    assert not resnet.layer1.training
    assert resnet.eval().train().layer2.training


def test_a_depth_that_does_not_exist_is_refused() -> None:
    with pytest.raises(InputError, match="depth"):
        changed(BackboneConfig(), {"depth": 42})
