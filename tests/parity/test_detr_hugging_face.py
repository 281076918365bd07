"""Our DETR against Hugging Face's `DetrForSegmentation` with random weights, through the loader that users call."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import thingstuff as ts
from thingstuff.models.detr import DETROutput, DETRPanoptic
from thingstuff.structures import Images

transformers = pytest.importorskip("transformers")

TIMM = {
    "model_type": "timm_backbone",
    "backbone": "resnet50",
    "num_channels": 3,
    "features_only": True,
    "use_pretrained_backbone": False,
    "out_indices": [1, 2, 3, 4],
}
THEIR_RESNET = {
    "model_type": "resnet",
    "embedding_size": 8,
    "hidden_sizes": [32, 64, 128, 256],
    "depths": [3, 4, 6, 3],
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}
SIZES = ((96, 128), (83, 110))
"""The second is padded to the first."""
CANVAS = (96, 128)


def their_model(backbone: dict[str, Any], **changes: Any) -> Any:
    """Return Hugging Face's model with random weights and norms that are no identity."""
    config = transformers.DetrConfig(
        backbone_config=backbone,
        d_model=128,
        encoder_layers=2,
        decoder_layers=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        num_queries=6,
        num_labels=250,
        **changes,
    )
    torch.manual_seed(0)
    model = transformers.DetrForSegmentation(config).eval()
    for name, tensor in model.state_dict().items():
        if name.endswith(("running_mean", "running_var")) or ".bn" in name or "normalization" in name:
            tensor.add_(0.1 * torch.rand_like(tensor))
    return model


def in_memory(model: Any, folder: Path) -> Path:
    """Write the state dict under the names that it has in memory."""
    path = folder / "memory.safetensors"
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, path)
    return path


def as_file(model: Any, folder: Path) -> Path:
    """Write the folder that Hugging Face writes, with config.json."""
    model.save_pretrained(folder / "saved")
    return folder / "saved"


def loaded(path: Path) -> DETRPanoptic:
    model = ts.load(path, "cpu")
    assert isinstance(model, DETRPanoptic)
    return model


@pytest.fixture(scope="module")
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Random pixels of two pictures, the second padded, and which pixels are no padding."""
    generator = torch.Generator().manual_seed(1)
    pixels, inside = torch.zeros(2, 3, *CANVAS), torch.zeros(2, *CANVAS, dtype=torch.long)
    for b, (height, width) in enumerate(SIZES):
        pixels[b, :, :height, :width] = torch.randn(3, height, width, generator=generator)
        inside[b, :height, :width] = 1
    return pixels, inside


def check(theirs: Any, ours: DETRPanoptic, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Compare logits, boxes and all queries' masks: to 1e-4 of the largest, the noise of fp32 in the masks' part."""
    pixels, inside = batch
    with torch.no_grad():
        expected = theirs(pixel_values=pixels, pixel_mask=inside)
        output: DETROutput = ours(Images(pixels, SIZES, SIZES))
        queries = torch.arange(ours.config.queries)
        masks = torch.stack([ours.masks(output, b, queries) for b in range(len(pixels))])
    for what, value, wanted in (
        ("logits", output.logits[-1], expected.logits),
        ("boxes", output.boxes[-1], expected.pred_boxes),
        ("masks", masks, expected.pred_masks),
    ):
        assert value.shape == wanted.shape, what
        difference = (value - wanted).abs().max() / wanted.abs().max()
        assert difference < 1e-4, f"{what}: {difference:.1e} of the largest"
        assert wanted.std() > 0, f"{what} are all the same, which compares nothing"


@pytest.mark.parametrize("write", [in_memory, as_file])
@pytest.mark.parametrize("backbone", [TIMM, THEIR_RESNET], ids=["timm", "own"])
def test_outputs_are_hugging_face_s(
    backbone: dict[str, Any],
    write: Callable[[Any, Path], Path],
    batch: tuple[torch.Tensor, torch.Tensor],
    tmp_path: Path,
) -> None:
    if backbone is TIMM:
        pytest.importorskip("timm")
    theirs = their_model(backbone)
    check(theirs, loaded(write(theirs, tmp_path)), batch)


def test_dilation_and_heads_come_from_the_settings(batch: tuple[torch.Tensor, torch.Tensor], tmp_path: Path) -> None:
    pytest.importorskip("timm")
    heads = {"encoder_attention_heads": 16, "decoder_attention_heads": 16}
    theirs = their_model({**TIMM, "output_stride": 16}, dilation=True, **heads)
    ours = loaded(as_file(theirs, tmp_path))
    assert (ours.config.backbone.dilated, ours.config.heads, ours.name) == (True, 16, "detr-panoptic-r50-dc5")
    check(theirs, ours, batch)
