"""Panoptic FCN's heads: positions and kernels on each level, and the encoder of the one feature (section 3.2).

Letters: B pictures, C channels, K kernel channels, E encoded channels, H W the stride-4 map, h w a level's map.
"""

from jaxtyping import Float
from torch import Tensor, nn

from thingstuff.layers import ConvBlock, with_coordinates
from thingstuff.models.panoptic_fcn_config import PanopticFCNConfig


def _blocks(inputs: int, channels: int, count: int, *, norm: bool = True, deformable: bool = False) -> nn.Sequential:
    blocks = [
        ConvBlock(inputs if i == 0 else channels, channels, norm=norm, deformable=deformable) for i in range(count)
    ]
    return nn.Sequential(*blocks)


class PositionHead(nn.Module):
    """Where things have their centres and stuff its regions, on one level."""

    def __init__(self, config: PanopticFCNConfig, thing_classes: int, region_classes: int) -> None:
        super().__init__()
        width = config.position_channels
        self.blocks = _blocks(config.fpn_channels, width, config.position_convs, deformable=config.position_deformable)
        self.centres = nn.Conv2d(width, thing_classes, 3, padding=1)
        self.regions = nn.Conv2d(width, region_classes, 3, padding=1)
        for conv in (self.centres, self.regions):
            nn.init.normal_(conv.weight, std=0.01)
            assert conv.bias is not None
            nn.init.constant_(conv.bias, -2.19)
            conv.requires_grad_(conv.out_channels > 0)  # none would be left without a gradient, which DDP refuses

    def forward(self, x: Float[Tensor, "B C h w"]) -> tuple[Tensor, Tensor]:
        x = self.blocks(x)
        return _outputs(self.centres, x), _outputs(self.regions, x)


def _outputs(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Apply a conv that may have no outputs (categories without things), which torch's own refuses."""
    y: Tensor = conv(x) if conv.out_channels else x.new_zeros((len(x), 0, *x.shape[2:]))
    return y


class KernelHead(nn.Module):
    """The kernel of every cell of a level."""

    def __init__(self, config: PanopticFCNConfig) -> None:
        super().__init__()
        self.coordinates = config.kernel_coordinates
        width = config.kernel_channels
        self.blocks = _blocks(config.fpn_channels + 2 * self.coordinates, width, config.kernel_convs)
        self.out = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B K h w"]:
        kernels: Tensor = self.out(self.blocks(with_coordinates(x) if self.coordinates else x))
        return kernels


class FeatureEncoder(nn.Module):
    """The one high-resolution feature that every kernel is convolved with."""

    def __init__(self, config: PanopticFCNConfig) -> None:
        super().__init__()
        self.coordinates = config.encoder_coordinates
        inputs = config.semantic_channels if config.feature_type == "semantic" else config.fpn_channels
        self.blocks = _blocks(
            inputs + 2 * self.coordinates,
            config.encoder_channels,
            config.encoder_convs,
            norm=False,
            deformable=config.encoder_deformable,
        )

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B E H W"]:
        feature: Tensor = self.blocks(with_coordinates(x) if self.coordinates else x)
        return feature
