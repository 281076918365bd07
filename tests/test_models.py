"""Every model in MODELS keeps the contract of tests/models_contract.py."""

from typing import Any, ClassVar

import pytest
import torch

from models_contract import CATEGORIES, ModelContract, scene
from thingstuff.errors import InputError
from thingstuff.models import MODELS, create
from thingstuff.models.base import PanopticModel
from thingstuff.models.detr import DETRPanoptic
from thingstuff.models.panoptic_fcn import PanopticFCN
from thingstuff.models.panoptic_fpn import PanopticFPN
from thingstuff.structures import Frame, Images


def names_of(model_class: type[PanopticModel]) -> list[str]:
    return [name for name, (_, kind) in MODELS.items() if kind is model_class]


@pytest.mark.parametrize("name", names_of(PanopticFCN))
class TestPanopticFCN(ModelContract):
    changes: ClassVar[dict[str, Any]] = {
        "preprocess.short_side": 96,
        "preprocess.max_side": 160,
        "backbone.weights": "none",
        "backbone.norm": "group",
        "backbone.frozen_stages": 0,
        "backbone.stem_channels": 16,
        "backbone.bottleneck_width": 8,
        "fpn_channels": 32,
        "semantic_channels": 64,
        "position_channels": 64,
        "kernel_channels": 64,
        "encoder_channels": 32,
    }

    @classmethod
    def build(cls, name: str, *args: Any, **changes: Any) -> PanopticModel:
        bottlenecks = name in ("panoptic-fcn-r50", "panoptic-fcn-r101")
        return super().build(name, *args, **{"backbone.res2_channels": 32 if bottlenecks else 16, **changes})

    @classmethod
    def silence(cls, model: PanopticModel) -> None:
        assert isinstance(model, PanopticFCN)
        for conv in (model.position_head.centres, model.position_head.regions):
            torch.nn.init.constant_(conv.bias, -20.0)


@pytest.mark.parametrize("name", names_of(PanopticFPN))
class TestPanopticFPN(ModelContract):
    changes: ClassVar[dict[str, Any]] = {
        "preprocess.short_side": 96,
        "preprocess.max_side": 160,
        "backbone.weights": "none",
        "backbone.norm": "group",
        "backbone.frozen_stages": 0,
        "backbone.stem_channels": 16,
        "backbone.bottleneck_width": 8,
        "fpn_channels": 32,
        "semantic_channels": 32,
        "anchor_sizes": (8, 16, 32, 64, 128),
        "canonical_size": 56,
        "box_channels": 64,
        "mask_channels": 32,
        "mask_convs": 2,
        "box_samples": 32,
        "anchor_samples": 64,
        "proposals_learned": 100,
        "proposals_predicted": 100,
    }

    @classmethod
    def build(cls, name: str, *args: Any, **changes: Any) -> PanopticModel:
        return super().build(name, *args, **{"backbone.res2_channels": 16 if name.endswith("tiny") else 32, **changes})

    @classmethod
    def silence(cls, model: PanopticModel) -> None:
        """Every box is background, every pixel some thing's."""
        assert isinstance(model, PanopticFPN)
        for bias in (model.roi_heads.box_predictor.cls_score.bias, model.semantic.bias):
            torch.nn.init.constant_(bias[:1], 20.0)


@pytest.mark.parametrize("name", names_of(DETRPanoptic))
class TestDETRPanoptic(ModelContract):
    changes: ClassVar[dict[str, Any]] = {
        "preprocess.short_side": 96,
        "preprocess.max_side": 160,
        "preprocess.divisor": 32,
        "backbone.weights": "none",
        "backbone.norm": "group",
        "backbone.frozen_stages": 0,
        "backbone.stem_channels": 16,
        "backbone.bottleneck_width": 8,
        "hidden": 128,
        "encoder_layers": 1,
        "decoder_layers": 2,
        "feedforward": 64,
        "queries": 10,
        "dropout": 0.0,
        "dice_weight": 5.0,
        "focal_weight": 5.0,
        "threshold": 0.5,
    }
    steps: ClassVar[int] = 400
    rate: ClassVar[float] = 0.001
    first_seeds: ClassVar[dict[str, int]] = {"detr-panoptic-r50-dc5": 2}
    # The first self-attention sees nothing but zeros, which its biases, zero at first, leave as they are.
    idle: ClassVar[str] = r"decoder\.layers\.0\.(self_attention\.([qk]\..*|(v|out)\.weight)|norm1\.weight)"

    @classmethod
    def build(cls, name: str, *args: Any, **changes: Any) -> PanopticModel:
        return super().build(name, *args, **{"backbone.res2_channels": 16 if name.endswith("tiny") else 32, **changes})

    @classmethod
    def silence(cls, model: PanopticModel) -> None:
        assert isinstance(model, DETRPanoptic)
        torch.nn.init.constant_(model.class_head.bias[-1:], 20.0)


CONTRACTS = (TestPanopticFCN, TestPanopticFPN, TestDETRPanoptic)


def test_every_model_is_under_contract() -> None:
    tested = {name for contract in CONTRACTS for mark in contract.pytestmark for name in mark.args[1]}
    assert tested == set(MODELS)


def test_an_unknown_model_is_named_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"'panoptic-fcn-r5'.*panoptic-fcn-r50"):
        create("panoptic-fcn-r5", CATEGORIES)


def test_a_frame_crops_the_padding_before_it_resizes() -> None:
    frame = Frame(canvas=(64, 96), size=(40, 80), original=(80, 160))
    maps = torch.zeros(2, 16, 24)
    maps[0, :5, :10] = 1  # a quarter of the picture's 10 x 20 cells
    maps[1, 10:] = 1  # only padding, from row 40 on
    maps[1, :, 20:] = 1
    restored = frame.restore(maps)
    assert restored.shape == (2, 80, 160)
    inside = restored[0] > 0.5
    assert inside[:38, :78].all()
    assert not inside[42:].any()
    assert not inside[:, 82:].any()
    assert not restored[1, :72, :152].any()  # what bleeds in stays within a cell of the border


def test_a_frame_gives_another_size_when_asked_and_nothing_for_nothing() -> None:
    frame = Frame(canvas=(32, 32), size=(32, 32), original=(64, 64))
    assert frame.restore(torch.ones(1, 8, 8), original=(20, 30)).shape == (1, 20, 30)
    assert frame.restore(torch.zeros(0, 8, 8)).shape == (0, 64, 64)


def test_a_compiled_network_is_used_for_predictions(monkeypatch: pytest.MonkeyPatch) -> None:
    model = TestDETRPanoptic.build("detr-panoptic-tiny").eval()
    calls: list[tuple[int, int]] = []

    def compiled(forward: Any) -> Any:
        def run(images: Images) -> Any:
            calls.append(images.canvas)
            return forward(images)

        return run

    monkeypatch.setattr(torch, "compile", compiled)
    model.speed_up(compiled=True).predict(scene()[0])
    assert calls == [(96, 128)]
    model.speed_up().predict(scene()[0])
    assert len(calls) == 1
