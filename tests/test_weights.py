"""Reading weights: safely, strictly, and with a message that says what to do."""

import argparse
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision.models as tv
from safetensors.torch import save_file
from torch import Tensor

from thingstuff import weights
from thingstuff.backbones import BackboneConfig, ResNet
from thingstuff.errors import InputError
from thingstuff.panoptic_fcn_weights import PANOPTIC_FCN_RULES, panoptic_fcn_from_authors
from thingstuff.weights import load_backbone, read_state, renamed

STATE = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(2)}


def same(ours: dict[str, Any], other: dict[str, Tensor]) -> bool:
    return ours.keys() == other.keys() and all(torch.equal(ours[k], other[k]) for k in other)


# ---- files


@pytest.mark.parametrize("wrapper", [None, "model", "state_dict"])
def test_tensors_are_read_from_pth_files_wrapped_or_not(wrapper: str | None, tmp_path: Path) -> None:
    content = STATE if wrapper is None else {wrapper: STATE, "iteration": 5, "optimizer": {"state": {}}}
    torch.save(content, tmp_path / "w.pth")
    assert same(read_state(tmp_path / "w.pth"), STATE)


def test_tensors_are_read_from_safetensors(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "w.safetensors")
    assert same(read_state(tmp_path / "w.safetensors"), STATE)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.pth", tmp_path):
        with pytest.raises(InputError, match=re.escape(str(path))):
            read_state(path)


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize("content", [b"", b"no weights at all", b"PK\x03\x04 cut off"])
def test_a_broken_file_is_named(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=re.escape(str(tmp_path / name))):
        read_state(tmp_path / name)


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "w.pth")
    whole = (tmp_path / "w.pth").read_bytes()
    (tmp_path / "w.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"w\.pth cannot be read as weights"):
        read_state(tmp_path / "w.pth")


class _Code:
    """Pickles as a call that leaves a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.trace,))


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_is_refused_and_not_run(zipped: bool, tmp_path: Path) -> None:
    content = {"model": {**STATE, "evil": _Code(tmp_path / "trace")}}
    if zipped:
        torch.save(content, tmp_path / "w.pth")
    else:
        (tmp_path / "w.pth").write_bytes(pickle.dumps({"evil": _Code(tmp_path / "trace")}, protocol=2))
    with pytest.raises(InputError, match=r"w\.pth"):
        read_state(tmp_path / "w.pth")
    assert not (tmp_path / "trace").exists()


def test_arguments_beside_tensors_are_accepted_and_nothing_else(tmp_path: Path) -> None:
    torch.save({"model": STATE, "args": argparse.Namespace(lr=1e-4)}, tmp_path / "w.pth")
    assert same(read_state(tmp_path / "w.pth"), STATE)
    content = {"model": STATE, "args": argparse.Namespace(evil=_Code(tmp_path / "trace"))}
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"w\.pth cannot be read") as caught:
        read_state(tmp_path / "w.pth")
    assert str(caught.value).isprintable()
    assert not (tmp_path / "trace").exists()
    assert argparse.Namespace not in torch.serialization.get_safe_globals()


@pytest.mark.parametrize(
    "content", [{1: torch.ones(2)}, {"model": {"a": 1}}, {"a": "text"}, torch.ones(2), [torch.ones(2)]]
)
def test_what_is_no_state_dict_is_refused(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(InputError, match="holds no state dict"):
        read_state(tmp_path / "w.pth")


# ---- names


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("backbone.fpn_lateral3.weight", "fpn.lateral.3.weight"),
        ("backbone.top_block.p6.bias", "fpn.p6.bias"),
        ("backbone.bottom_up.stem.conv1.norm.running_var", "backbone.bn1.running_var"),
        ("backbone.bottom_up.res2.0.shortcut.weight", "backbone.layer1.0.downsample.0.weight"),
        ("backbone.bottom_up.res5.2.conv3.norm.bias", "backbone.layer4.2.bn3.bias"),
        ("semantic_fpn.p5.4.norm.weight", "semantic_fpn.levels.5.2.norm.weight"),
        ("position_head.out_inst.bias", "position_head.centres.bias"),
        ("position_head.position_head.position_head_head_2.dcnv2.weight", "position_head.blocks.1.conv.weight"),
        ("position_head.position_head.position_head_head_1.dcnv2.norm.weight", "position_head.blocks.0.norm.weight"),
        (
            "position_head.position_head.position_head_head_3.offset_mask_conv.bias",
            "position_head.blocks.2.conv.offset.bias",
        ),
        ("kernel_head.kernel_head.kernel_head_head_1.norm.bias", "kernel_head.blocks.0.norm.bias"),
        ("feature_encoder.encode_head.encode_head_head_3.bias", "feature_encoder.blocks.2.conv.bias"),
    ],
)
def test_the_authors_names_become_ours(theirs: str, ours: str) -> None:
    value = torch.ones(1)
    assert panoptic_fcn_from_authors({theirs: value}) == {ours: value}


def test_embeddings_become_linear_layers() -> None:
    weight = torch.arange(12.0).view(3, 4, 1, 1)
    (ours,) = panoptic_fcn_from_authors({"thing_generator.embed_extractor.weight": weight}).values()
    assert torch.equal(ours, weight[:, :, 0, 0])


def test_other_models_weights_are_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"not Panoptic FCN's weights.*transformer\.encoder"):
        panoptic_fcn_from_authors({"transformer.encoder.weight": torch.ones(1)})
    assert renamed("transformer.encoder.weight", PANOPTIC_FCN_RULES) is None


# ---- backbones

SMALL = BackboneConfig(depth=18, norm="frozen", res2_channels=64)


def resnet18(changes: dict[str, Tensor | None] | None = None) -> dict[str, Tensor]:
    torch.manual_seed(0)
    state = {**tv.resnet18(weights=None).state_dict(), **(changes or {})}
    return {key: value for key, value in state.items() if value is not None}


def load(config: BackboneConfig) -> ResNet:
    backbone = ResNet(config)
    assert load_backbone(backbone)
    return backbone


def test_a_file_of_torchvision_s_is_loaded(tmp_path: Path) -> None:
    state = resnet18()
    torch.save(state, tmp_path / "r18.pth")
    config = SMALL.model_copy(update={"weights": str(tmp_path / "r18.pth")})
    ours = load(config).state_dict()
    assert same(ours, {k: v for k, v in state.items() if k in ours})
    assert len(ours) > 60


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer1.0.conv1.weight": None}, "lacks layer1.0.conv1.weight"),
        ({"layer9.weight": torch.ones(1)}, "has the unknown layer9.weight"),
        ({"conv1.weight": torch.ones(64, 4, 7, 7)}, "has another shape in conv1.weight"),
    ],
)
def test_a_backbone_that_does_not_fit_is_refused(
    changes: dict[str, Tensor | None], message: str, tmp_path: Path
) -> None:
    torch.save(resnet18(changes), tmp_path / "r18.pth")
    config = SMALL.model_copy(update={"weights": str(tmp_path / "r18.pth")})
    with pytest.raises(InputError, match=rf"r18\.pth {re.escape(message)}"):
        load(config)


def test_a_backbone_without_weights_cannot_be_frozen() -> None:
    for settings in ({"norm": "frozen", "frozen_stages": 0}, {"norm": "group", "frozen_stages": 2}):
        with pytest.raises(InputError, match=r"backbone\.norm=group .*backbone\.frozen_stages=0"):
            load(BackboneConfig(depth=18, res2_channels=64, weights="none", **settings))
    load(BackboneConfig(depth=18, res2_channels=64, weights="none", norm="group", frozen_stages=0))


def test_imagenet_weights_are_torchvision_s(monkeypatch: pytest.MonkeyPatch) -> None:
    state = resnet18()
    monkeypatch.setattr(tv.ResNet18_Weights, "get_state_dict", lambda self, **_: state)
    ours = load(SMALL).state_dict()
    assert torch.equal(ours["layer4.1.conv2.weight"], state["layer4.1.conv2.weight"])


@pytest.mark.parametrize("failure", [OSError("no route to host"), RuntimeError("invalid hash value")])
def test_offline_imagenet_weights_say_how_to_go_on(monkeypatch: pytest.MonkeyPatch, failure: Exception) -> None:
    def refuse(self: Any, **_: Any) -> None:
        raise failure

    monkeypatch.setattr(tv.ResNet18_Weights, "get_state_dict", refuse)
    with pytest.raises(InputError, match=rf"ResNet-18.*{failure}.*backbone\.weights=none") as caught:
        weights.imagenet_state(18)
    assert "https://" in str(caught.value)
