"""Small models, random maps and a canvas for the tests of Panoptic FCN's switches."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from models_contract import CATEGORIES
from thingstuff.models import create
from thingstuff.models.panoptic_fcn import PanopticFCN, PanopticFCNOutput
from thingstuff.structures import Frame, Images, Segments

SMALL: dict[str, Any] = {
    "preprocess.short_side": 64,
    "preprocess.max_side": 128,
    "backbone.stem_channels": 8,
    "backbone.res2_channels": 8,
    "backbone.bottleneck_width": 4,
    "fpn_channels": 16,
    "semantic_channels": 32,
    "position_channels": 32,
    "kernel_channels": 32,
    "encoder_channels": 8,
    "level_ranges": ((1, 64), (32, 128), (64, 256), (128, 512), (256, 2048)),
    "stuff_threshold": 0.05,
    "thing_score": 0.2,
    "unlabelled": "negative",
    "position_weight": 1.0,
}
SHAPES = ((16, 32), (8, 16), (4, 8), (2, 4), (1, 2))
"""Levels of a canvas of 128 x 256."""
FRAME = Frame((128, 256), (128, 256), (128, 256))


def model(**changes: Any) -> PanopticFCN:
    """A small model; every parameter that starts at 0 or 1 is moved off it."""
    torch.manual_seed(0)
    net = create("panoptic-fcn-tiny", CATEGORIES, **{**SMALL, **changes})
    assert isinstance(net, PanopticFCN)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if parameter.ndim == 1 and not name.startswith("backbone"):
                parameter.add_(0.3 * torch.randn(parameter.shape))
        for conv in (net.position_head.centres, net.position_head.regions, net.kernel_head.out):
            conv.weight.mul_(10)
    return net.eval()


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def canvas(batch: int = 1, height: int = 128, width: int = 256) -> Images:
    return Images(noise(batch, 3, height, width), ((height, width),) * batch, ((height, width),) * batch)


def maps_of(seed: int = 0, regions: int = 3, batch: int = 1) -> PanopticFCNOutput:
    """Random maps of the canvas."""
    random = torch.Generator().manual_seed(seed)
    return PanopticFCNOutput(
        centres=tuple(torch.randn(batch, 2, *shape, generator=random) - 1 for shape in SHAPES),
        regions=tuple(torch.randn(batch, regions, *shape, generator=random) for shape in SHAPES),
        kernels=tuple(torch.randn(batch, 32, *shape, generator=random) for shape in SHAPES),
        feature=torch.rand(batch, 8, 32, 64, generator=random),
    )


def assert_found(ours: Segments, expected: Sequence[tuple[int, float, Tensor]]) -> None:
    assert ours.labels.tolist() == [label for label, _, _ in expected]
    assert ours.scores.tolist() == pytest.approx([score for _, score, _ in expected], abs=1e-5)
    torch.testing.assert_close(ours.masks.double(), torch.stack([m for _, _, m in expected]), atol=1e-5, rtol=0)


def things_in(found: Segments) -> int:
    return sum(label in CATEGORIES.thing_labels for label in found.labels.tolist())
