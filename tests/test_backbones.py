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


@pytest.mark.parametrize(("depth", "res2_channels"), [(18, 64), (34, 64), (50, 256)])
@pytest.mark.parametrize("norm", ["frozen", "batch"])
@torch.no_grad()
def test_stages_are_torchvisions(depth: int, res2_channels: int, norm: str) -> None:
    theirs = getattr(tv, f"resnet{depth}")(weights=None).eval()
    random_statistics(theirs)
    ours = ResNet(BackboneConfig(depth=depth, norm=norm, weights="none", res2_channels=res2_channels)).eval()
    state = {k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")}
    if norm == "frozen":
        state = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    ours.load_state_dict(state)
    x = noise(1, 3, 64, 96)
    stages = ours(x)
    assert ours.channels == {s: y.shape[1] for s, y in stages.items()}
    for stage, expected in torchvision_stages(theirs, x).items():
        assert torch.equal(stages[stage], expected), stage


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


def test_a_depth_that_does_not_exist_is_refused() -> None:
    with pytest.raises(InputError, match="depth"):
        changed(BackboneConfig(), {"depth": 42})
