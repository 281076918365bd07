"""ResNets that give their stages as {2: C2, ..., 5: C5}, built from torchvision's blocks under its key names."""

from collections.abc import Callable
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import AfterValidator, BaseModel, ConfigDict, model_validator
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from thingstuff.layers import DeformableConv2d, conv1x1

NormKind = Literal["frozen", "batch", "group"]
_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


def _ascending(stages: tuple[Literal[3, 4, 5], ...]) -> tuple[Literal[3, 4, 5], ...]:
    return tuple(sorted(set(stages)))


class BackboneConfig(BaseModel):
    """A ResNet's shape, its norms, and where its first weights come from."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    depth: Literal[18, 34, 50, 101] = 50
    """Layers; 18 and 34 have basic blocks, 50 and 101 bottlenecks."""
    norm: NormKind = "frozen"
    """`frozen` for pretrained weights; trainable `batch` or `group` (32 groups) from scratch."""
    weights: str = "imagenet"
    """`imagenet` (torchvision's, fetched by name), `none`, or a file of a ResNet's state dict."""
    stride_in_1x1: bool = False
    """Bottlenecks halve the size in their first 1x1 conv (caffe, MSRA) instead of the 3x3 (torchvision); 18 and 34 have
    none, so nothing changes there."""
    frozen_stages: Literal[0, 1, 2, 3, 4, 5] = 2
    """Stages without gradient, whose batch norms keep their statistics: 1 is the stem, 2 adds Res2, ... 5 all."""
    stem_channels: int = 64
    """Channels of the stem."""
    res2_channels: int | None = None
    """Channels of C2; each later stage has twice as many. null is torchvision's: 64 for 18 and 34, 256 for 50, 101."""
    bottleneck_width: int = 64
    """Channels inside the bottlenecks of Res2; each later stage has twice as many."""
    dilated: bool = False
    """Res5 is dilated instead of strided, so C5 has stride 16 (DC5); depth 50 or 101."""
    deformable_stages: Annotated[tuple[Literal[3, 4, 5], ...], AfterValidator(_ascending)] = ()
    """Stages whose 3x3 convs are modulated deformable ones (DCN; [3, 4, 5] in the papers); depth 50 or 101. At first
    every tap lies where a plain conv's does and weighs a half."""

    @property
    def strides(self) -> dict[int, int]:
        """Pixels of the input to a cell of each stage, 2 to 5."""
        return {2: 4, 3: 8, 4: 16, 5: 16 if self.dilated else 32}

    @model_validator(mode="after")
    def _bottlenecks(self) -> "BackboneConfig":
        for field in ("dilated", "deformable_stages"):
            if getattr(self, field) and self.depth in (18, 34):
                raise ValueError(f"{field} needs bottlenecks: depth 50 or 101")
        if self.dilated and 5 in self.deformable_stages:
            raise ValueError("dilated and deformable_stages with 5 exclude each other")
        if any(stage <= self.frozen_stages for stage in self.deformable_stages):
            raise ValueError("deformable_stages have to learn: set frozen_stages below the first of them")
        return self


class FrozenBatchNorm2d(nn.Module):
    """Batch norm whose statistics and affine terms never change.

    With a gradient to pass on, the affine form x * scale + shift keeps autograd from saving what batch norm would;
    without, `batch_norm` itself. The two differ in the last bits only.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        if not x.requires_grad:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, eps=self.eps)
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale.to(x.dtype)[:, None, None] + shift.to(x.dtype)[:, None, None]


def _norm(kind: NormKind) -> Callable[[int], nn.Module]:
    kinds: dict[str, Callable[[int], nn.Module]] = {
        "frozen": FrozenBatchNorm2d,
        "batch": nn.BatchNorm2d,
        "group": lambda channels: nn.GroupNorm(min(32, channels), channels),
    }
    return kinds[kind]


class ResNet(nn.Module):
    """A ResNet without its classifier (He et al. 2016); keys are torchvision's: conv1, bn1, layer1 ... layer4."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.config = config
        self.folds = True
        """Norms of fixed statistics are folded into their convs where no gradient is recorded: equal up to rounding."""
        norm = _norm(config.norm)
        self.conv1 = nn.Conv2d(3, config.stem_channels, 7, stride=2, padding=3, bias=False)
        self.bn1 = norm(config.stem_channels)
        inputs = config.stem_channels
        self.channels: dict[int, int] = {}
        for stage, count in zip((2, 3, 4, 5), _BLOCKS[config.depth], strict=True):
            blocks, inputs = _stage(config, stage, count, inputs, norm)
            self.add_module(f"layer{stage - 1}", blocks)
            self.channels[stage] = inputs
        self._initialise()
        for module in self._frozen():
            module.requires_grad_(False)
        self.train()

    def _initialise(self) -> None:
        offsets = {module.offset for module in self.modules() if isinstance(module, DeformableConv2d)}
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module not in offsets:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def _frozen(self) -> list[nn.Module]:
        names = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")
        stages = [self.get_submodule(name) for name in names]
        return stages[: self.config.frozen_stages + 1 if self.config.frozen_stages else 0]

    def train(self, mode: bool = True) -> "ResNet":
        """Set the mode; frozen stages stay in eval mode, or their batch norms would go on changing."""
        super().train(mode)
        for module in self._frozen():
            module.eval()
        return self

    def forward(self, pixels: Float[Tensor, "B 3 H W"]) -> dict[int, Tensor]:
        fold = self.folds and not torch.is_grad_enabled()
        x = F.max_pool2d(_conv_norm(self.conv1, self.bn1, pixels, fold).relu_(), kernel_size=3, stride=2, padding=1)
        stages = {}
        for stage in (2, 3, 4, 5):
            for block in self.get_submodule(f"layer{stage - 1}").children():
                x = _block(block, x, fold)
            stages[stage] = x
        return stages


def _block(block: nn.Module, x: Tensor, fold: bool) -> Tensor:
    """Apply a residual block of torchvision's."""
    assert isinstance(block, (BasicBlock, Bottleneck))
    y = _conv_norm(block.conv1, block.bn1, x, fold).relu_()
    y = _conv_norm(block.conv2, block.bn2, y, fold)
    if isinstance(block, Bottleneck):
        y = _conv_norm(block.conv3, block.bn3, y.relu_(), fold)
    if block.downsample is not None:
        x = _conv_norm(block.downsample[0], block.downsample[1], x, fold)
    return y.add_(x).relu_()


def _conv_norm(conv: nn.Conv2d | DeformableConv2d, norm: nn.Module, x: Tensor, fold: bool) -> Tensor:
    """Apply a conv and its norm; with `fold` as one conv, where the norm's statistics are fixed."""
    fixed = isinstance(norm, FrozenBatchNorm2d) or (isinstance(norm, nn.BatchNorm2d) and not norm.training)
    if not fold or not fixed:
        y: Tensor = norm(conv(x))
        return y
    assert isinstance(norm, (FrozenBatchNorm2d, nn.BatchNorm2d))
    assert norm.running_var is not None
    assert norm.running_mean is not None
    scale = norm.weight.detach() * (norm.running_var + norm.eps).rsqrt()
    shift = norm.bias.detach() - norm.running_mean * scale
    weight = conv.weight.detach() * scale[:, None, None, None]
    if isinstance(conv, DeformableConv2d):
        return conv.run(x, weight, shift)
    if conv.kernel_size == (1, 1):
        return conv1x1(x, weight, shift, conv.stride[0])
    return F.conv2d(x, weight, shift, conv.stride, conv.padding, conv.dilation, conv.groups)


def _stage(
    config: BackboneConfig, stage: int, count: int, inputs: int, norm: Callable[[int], nn.Module]
) -> tuple[nn.Sequential, int]:
    factor, dilate = 2 ** (stage - 2), config.dilated and stage == 5
    stride = 1 if stage == 2 or dilate else 2
    basic = config.depth in (18, 34)
    outputs = (config.res2_channels or (64 if basic else 256)) * factor
    blocks = []
    for position in range(count):
        step, source = (stride, inputs) if position == 0 else (1, outputs)
        shortcut = None
        if step != 1 or source != outputs:
            shortcut = nn.Sequential(nn.Conv2d(source, outputs, 1, stride=step, bias=False), norm(outputs))
        if basic:
            blocks.append(BasicBlock(source, outputs, step, shortcut, norm_layer=norm))
            continue
        planes = outputs // 4
        base_width = 64 * config.bottleneck_width * factor / planes  # torchvision's width is planes * base_width / 64
        dilation = 2 if dilate and position > 0 else 1
        block = Bottleneck(source, planes, step, shortcut, base_width=base_width, dilation=dilation, norm_layer=norm)
        if config.stride_in_1x1:
            block.conv1.stride, block.conv2.stride = (step, step), (1, 1)
        if stage in config.deformable_stages:
            width = block.conv2.in_channels
            block.conv2 = DeformableConv2d(width, width, bias=False, stride=block.conv2.stride[0], zero_offsets=True)
        blocks.append(block)
    return nn.Sequential(*blocks), outputs
