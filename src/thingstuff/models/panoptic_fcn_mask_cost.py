"""What Panoptic FCN's masks cost at each stride: its feature encoder, and each kernel convolved with the feature.

Letters: C channels, E encoded channels, N masks, h w a map.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from thingstuff.head_cost import HeadCost, check_stride, measured, one_more, reduced_size
from thingstuff.layers import ConvBlock
from thingstuff.models.panoptic_fcn import PanopticFCN, mask_probabilities
from thingstuff.models.panoptic_fcn_heads import FeatureEncoder
from thingstuff.structures import Size


def panoptic_fcn_mask_cost(model: PanopticFCN, canvas: Size, stride: int) -> HeadCost:
    """Return the cost of a canvas's masks: once a picture, and each kernel's; see `PanopticModel.mask_cost`.

    Stride 4 is the feature encoder as it is; for 2 and 1 a block and an upsampling of the semantic FPN come before it.
    """
    check_stride(stride)
    c = model.config
    channels = c.semantic_channels if c.feature_type == "semantic" else c.fpn_channels
    with torch.device("meta"):
        encoder = FeatureEncoder(c)
        stages = [ConvBlock(channels, channels) for finer in (2, 1) if finer >= stride]
        x = torch.empty(1, channels, *reduced_size(canvas, max(stride, 4)))

        def feature() -> Tensor:
            finer = x
            for stage in stages:
                finer = F.interpolate(stage(finer), scale_factor=2.0, mode="bilinear", align_corners=False)
            encoded: Tensor = encoder(finer)
            return encoded

        (encoded,) = feature()
        kernels = nn.Parameter(torch.empty(2, c.encoder_channels))
        each = one_more(lambda n: mask_probabilities(kernels[:n], [encoded]))
        return HeadCost("Panoptic FCN", stride, measured(feature), "kernel", each)
