"""ImageNet backbones: whose keys they have, what they ask of pictures, and that models get it without being told."""

import json
import pickle
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision.models as tv
from safetensors.torch import load_file, save_file
from torch import Tensor

from thingstuff.backbone_weights import (
    EPS,
    MSRA_MEAN,
    backbone_kind,
    convert_backbone,
    read_settings,
    told_by_backbone,
)
from thingstuff.backbones import BackboneConfig, ResNet
from thingstuff.errors import InputError
from thingstuff.importing import import_weights
from thingstuff.models.base import PreprocessConfig
from thingstuff.models.panoptic_fcn import PanopticFCNConfig
from thingstuff.runs import command_of, make_config, read_config
from thingstuff.weights import load_backbone

State = dict[str, Tensor]
TINY = {"stem_channels": 8, "res2_channels": 16, "bottleneck_width": 4}
MSRA = {
    "backbone.stride_in_1x1": True,
    "preprocess.channel_order": "BGR",
    "preprocess.mean": [103.53, 116.28, 123.675],
    "preprocess.std": [1, 1, 1],
}


CHANNELS = {f"backbone.{field}": value for field, value in TINY.items()}


def backbone(depth: int = 50, stride_in_1x1: bool = False, **changes: Any) -> ResNet:
    """A small ResNet whose every weight and buffer is random."""
    width = {"stem_channels": 8, "res2_channels": 16} if depth in (18, 34) else TINY
    torch.manual_seed(depth)
    model = ResNet(BackboneConfig(depth=depth, stride_in_1x1=stride_in_1x1, weights="none", **width, **changes)).eval()
    for key, tensor in model.state_dict().items():
        noise = torch.rand_like(tensor)
        tensor.copy_(noise + 0.5 if key.endswith(("var", "bn1.weight")) else (noise - 0.5) * 0.5)
    return model


def folded(model: ResNet) -> State:
    """The state of the same network with norms that scale and shift alone, as caffe's are."""
    state = dict(model.state_dict())
    for key in list(state):
        if key.endswith("running_mean"):
            place = key.removesuffix("running_mean")
            scale = state[f"{place}weight"] / (state[f"{place}running_var"] + EPS).sqrt()
            state[f"{place}bias"] = state[f"{place}bias"] - state[key] * scale
            state[f"{place}weight"] = scale
            del state[key], state[f"{place}running_var"]
    return state


def as_caffe(state: State, norm: dict[str, str]) -> dict[str, np.ndarray]:
    """caffe2's names: blocks' convs are branch2a, b, c, the shortcut branch1."""
    result = {}
    for key, value in state.items():
        place, kind = key.rsplit(".", 1)
        if place in ("conv1", "bn1"):
            name = "conv1_w" if place == "conv1" else f"res_conv1_bn_{norm[kind]}"
        else:
            layer, block, part = re.fullmatch(r"layer(\d)\.(\d+)\.(.*)", place).groups()  # type: ignore[union-attr]
            branch = "1" if part.startswith("downsample") else "2" + "abc"[int(part[-1]) - 1]
            is_conv = part.startswith("conv") or part == "downsample.0"
            name = f"res{int(layer) + 1}_{block}_branch{branch}_{'w' if is_conv else f'bn_{norm[kind]}'}"
        result[name] = value.numpy()
    return result


FOLDED = {"weight": "s", "bias": "b"}
MODEL_ZOO = {"weight": "gamma", "bias": "beta", "running_mean": "running_mean", "running_var": "running_var"}


def as_detectron2(state: State) -> dict[str, np.ndarray]:
    result = {}
    for key, value in state.items():
        name = re.sub(r"^layer(\d)", lambda m: f"res{int(m[1]) + 1}", key)
        name = name if name.startswith("res") else f"stem.{name}"
        name = re.sub(r"bn(\d)", r"conv\1.norm", name)
        result[name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")] = value.numpy()
    return result


def write(path: Path, arrays: dict[str, Any], wrapped: bool = True) -> Path:
    content = {"model": arrays, "__author__": "somebody", "matching_heuristics": True} if wrapped else arrays
    path.write_bytes(pickle.dumps(content, 2))
    return path


def imported(path: Path, depth: int, **changes: Any) -> ResNet:
    """A backbone with imported weights, of the strides that these ask for."""
    settings = read_settings(str(path))
    assert settings is not None
    width = {"stem_channels": 8, "res2_channels": 16} if depth in (18, 34) else TINY
    strides = settings.stride_in_1x1
    model = ResNet(BackboneConfig(depth=depth, stride_in_1x1=strides, weights=str(path), **width, **changes))
    assert load_backbone(model) == f"backbone from {path}"
    return model.eval()


def assert_same_network(ours: ResNet, theirs: ResNet) -> None:
    pixels = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(5)) * 4 - 2
    with torch.no_grad():
        for a, b in zip(ours(pixels).values(), theirs(pixels).values(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * float(b.abs().max()))
            assert b.abs().max() > 1e-3


# ---- whose they are


@pytest.mark.parametrize("depth", [18, 50, 101])
def test_torchvision_s_are_imported(depth: int, tmp_path: Path) -> None:
    model = backbone(depth)
    state = {**model.state_dict(), "fc.weight": torch.ones(3, 4), "fc.bias": torch.ones(3)}
    state["bn1.num_batches_tracked"] = torch.tensor(7)
    torch.save(state, tmp_path / "resnet.pth")
    result = import_weights(tmp_path / "resnet.pth", tmp_path / "w")
    assert f"ResNet-{depth} (torchvision's keys)" in result.lines[0]
    assert f"{len(state) - 2} of {len(state)} tensors" in result.lines[0]
    assert "fc.weight, fc.bias" in result.lines[2]
    settings = read_settings(str(tmp_path / "w"))
    assert settings is not None
    usual = PreprocessConfig()
    assert {key: value for key, value in settings.by_key().items() if key not in CHANNELS} == {
        "backbone.stride_in_1x1": False,
        "preprocess.channel_order": "RGB",
        "preprocess.mean": list(usual.mean),
        "preprocess.std": list(usual.std),
    }
    ours = load_file(tmp_path / "w" / "backbone.safetensors")
    assert ours.keys() == model.state_dict().keys()
    assert all(torch.equal(ours[key], value) for key, value in model.state_dict().items())
    assert_same_network(imported(tmp_path / "w", depth), model)


@pytest.mark.parametrize("depth", [50, 101])
@pytest.mark.parametrize("wrapped", [True, False])
def test_msra_s_folded_norms_are_imported(depth: int, wrapped: bool, tmp_path: Path) -> None:
    model = backbone(depth, stride_in_1x1=True)
    arrays = as_caffe(folded(model), FOLDED)
    assert {"conv1_w", "res_conv1_bn_s", "res_conv1_bn_b", "res2_0_branch2a_w", "res2_0_branch1_bn_b"} <= arrays.keys()
    aside = {name: np.ones(3, np.float32) for name in ("fc1000_w", "fc1000_b", "conv1_b", "pred_w", "conv1_w_momentum")}
    write(tmp_path / "R.pkl", {**arrays, **aside}, wrapped)
    result = import_weights(tmp_path / "R.pkl", tmp_path / "w")
    assert result.path == tmp_path / "w" / "backbone.safetensors"
    assert f"ResNet-{depth} (caffe2's keys), as MSRA trained it" in result.lines[0]
    assert f"{len(arrays)} of {len(arrays) + 5} tensors" in result.lines[0]
    assert "BGR pictures, mean 103.53, 116.28, 123.675, std 1, 1, 1; strides in 1x1" in result.lines[1]
    assert "fc1000_w, fc1000_b, conv1_b and 2 more" in result.lines[2]
    told = told_by_backbone(str(tmp_path / "w"), depth)
    assert told == MSRA | CHANNELS | ({"backbone.bottleneck_width": 64} if depth == 18 else {})
    assert_same_network(imported(tmp_path / "w", depth), model)


def test_msra_s_norms_with_statistics_are_imported(tmp_path: Path) -> None:
    model = backbone(stride_in_1x1=True)
    for names in (MODEL_ZOO, {"weight": "s", "bias": "b", "running_mean": "rm", "running_var": "riv"}):
        write(tmp_path / "R-50.pkl", as_caffe(dict(model.state_dict()), names))
        import_weights(tmp_path / "R-50.pkl", tmp_path / "w", overwrite=True)
        assert told_by_backbone(str(tmp_path / "w"), 50) == MSRA | CHANNELS
        assert_same_network(imported(tmp_path / "w", 50), model)


def test_detectron2_s_keys_are_torchvision_s_or_msra_s(tmp_path: Path) -> None:
    model = backbone()
    arrays = {**as_detectron2(dict(model.state_dict())), "stem.fc.weight": np.ones((2, 2)), "stem.fc.bias": np.ones(2)}
    assert {"stem.conv1.norm.weight", "res2.0.conv1.norm.running_mean", "res3.0.shortcut.norm.bias"} <= arrays.keys()
    write(tmp_path / "R-50.pkl", arrays)
    result = import_weights(tmp_path / "R-50.pkl", tmp_path / "w")
    assert "as torchvision trained it" in result.lines[0]
    assert_same_network(imported(tmp_path / "w", 50), model)
    msra = backbone(stride_in_1x1=True)
    trivial = {
        k: torch.zeros_like(v) if k.endswith("mean") else torch.full_like(v, 1 - EPS)
        for k, v in msra.state_dict().items()
        if k.endswith(("running_mean", "running_var"))
    }
    for state in (folded(msra), {**folded(msra), **trivial}):
        write(tmp_path / "R-50.pkl", as_detectron2(state))
        assert "as MSRA trained it" in import_weights(tmp_path / "R-50.pkl", tmp_path / "m", overwrite=True).lines[0]
        assert told_by_backbone(str(tmp_path / "m"), 50) == MSRA | CHANNELS
        assert_same_network(imported(tmp_path / "m", 50), msra)


def test_norms_without_statistics_scale_and_shift_alone() -> None:
    state = {key: torch.from_numpy(value) for key, value in as_caffe(folded(backbone()), FOLDED).items()}
    converted = convert_backbone(state, "ResNet (caffe2's keys)").state
    x = torch.randn(1, 8, 3, 3)
    norm = [converted[f"bn1.{kind}"] for kind in ("running_mean", "running_var", "weight", "bias")]
    by_hand = x * state["res_conv1_bn_s"][:, None, None] + state["res_conv1_bn_b"][:, None, None]
    torch.testing.assert_close(F.batch_norm(x, *norm, eps=EPS), by_hand, rtol=1e-6, atol=1e-6)


# ---- what is refused


def changed_arrays(change: Callable[[dict[str, np.ndarray]], Any]) -> dict[str, np.ndarray]:
    arrays = as_caffe(folded(backbone()), FOLDED)
    change(arrays)
    return arrays


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.update(res2_0_branch2d_w=np.ones(1)), "unknown keys res2_0_branch2d_w"),
        (lambda a: a.update(rpn_w=np.ones(1), conv1_gn_s=np.ones(1)), "unknown keys rpn_w, conv1_gn_s"),
        (lambda a: a.pop("res3_1_branch2b_bn_b"), r"lacks layer2\.1\.bn2\.bias"),
        (lambda a: a.pop("conv1_w"), r"lack conv1\.weight"),
        (
            lambda a: a.update(res2_0_branch2b_w=np.ones((4, 2, 3, 3), np.float32)),
            r"another shape in layer1\.0\.conv2\.weight \(\[4, 2, 3, 3\] instead of \[4, 4, 3, 3\]\)",
        ),
        (lambda a: [a.pop(k) for k in list(a) if k.startswith("res5_2")], r"\(3, 4, 6, 2\) bottleneck blocks"),
        (lambda a: a.update(conv1_w=np.ones(3)), r"conv1\.weight of the shape \[3\]"),
    ],
)
def test_what_does_not_fit_is_named(change: Any, message: str, tmp_path: Path) -> None:
    write(tmp_path / "R-50.pkl", changed_arrays(change))
    with pytest.raises(InputError, match=rf"R-50\.pkl: .*{message}"):
        import_weights(tmp_path / "R-50.pkl", tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_kinds_are_told_by_keys() -> None:
    assert backbone_kind(backbone().state_dict()) == "ResNet (torchvision's keys)"
    assert backbone_kind({"res2.0.conv1.weight": 1}) == "ResNet (detectron2's keys)"
    assert backbone_kind({"res2_0_branch2a_w": 1}) == "ResNet (caffe2's keys)"
    assert backbone_kind({"backbone.layer1.0.conv1.weight": 1}) is None


def test_a_pkl_is_imported_first(tmp_path: Path) -> None:
    write(tmp_path / "R-50.pkl", as_caffe(folded(backbone()), FOLDED))
    model = ResNet(BackboneConfig(weights=str(tmp_path / "R-50.pkl"), **TINY))
    with pytest.raises(InputError, match=r"R-50\.pkl is read by: thingstuff weights import .*R-50\.pkl --out w"):
        load_backbone(model)


# ---- what models get from it


@pytest.fixture
def msra(tmp_path: Path) -> Path:
    write(tmp_path / "R-50.pkl", as_caffe(folded(backbone(stride_in_1x1=True)), FOLDED))
    return import_weights(tmp_path / "R-50.pkl", tmp_path / "msra").path.parent


def test_a_model_gets_what_its_backbone_asks_for(msra: Path, tmp_path: Path) -> None:
    for place in (msra, msra / "backbone.safetensors"):
        config = make_config("data", "panoptic-fcn-r50", {"backbone.weights": str(place)})
        model = config.model.model_dump()
        assert model["backbone"]["stride_in_1x1"] is True
        assert model["backbone"]["weights"] == str(place)
        assert model["preprocess"]["channel_order"] == "BGR"
        assert model["preprocess"]["mean"] == MSRA_MEAN
        assert model["preprocess"]["std"] == (1, 1, 1)
        (tmp_path / "config.yaml").write_text(json.dumps(config.model_dump(mode="json")))
        assert read_config(tmp_path) == config
    assert "preprocess" not in command_of(config, tmp_path)
    plain = make_config("data", "panoptic-fcn-r50", {}).model.model_dump()
    assert (plain["backbone"]["stride_in_1x1"], plain["preprocess"]["channel_order"]) == (False, "RGB")


def test_a_wide_backbone_fits_the_model_without_being_told(tmp_path: Path) -> None:
    torch.save(tv.wide_resnet50_2(weights=None).state_dict(), tmp_path / "wide.pth")
    imported = import_weights(tmp_path / "wide.pth", tmp_path / "w")
    assert (
        "ResNet-50 (torchvision's keys); stem_channels 64, res2_channels 256, bottleneck_width 128, "
        in imported.lines[0]
    )
    words = shlex.split(imported.next)
    assert words[:4] == ["thingstuff", "train", "DATA", f"backbone.weights={tmp_path / 'w'}"]
    config = make_config("DATA", words[words.index("--model") + 1], {"backbone.weights": str(tmp_path / "w")}).model
    assert isinstance(config, PanopticFCNConfig)
    assert config.backbone.bottleneck_width == 128
    assert "backbone from" in load_backbone(ResNet(config.backbone))


def test_usual_channels_are_not_told(tmp_path: Path) -> None:
    torch.save(tv.resnet50(weights=None).state_dict(), tmp_path / "r50.pth")
    imported = import_weights(tmp_path / "r50.pth", tmp_path / "w")
    assert "channels" not in imported.lines[0]
    assert told_by_backbone(str(tmp_path / "w"), 50).keys() == MSRA.keys()


def test_what_the_user_sets_goes_before(msra: Path) -> None:
    own = {"backbone.weights": str(msra), "backbone.stride_in_1x1": False, "preprocess.mean": [1, 2, 3]}
    model = make_config("data", "panoptic-fcn-r50", own).model.model_dump()
    assert model["backbone"]["stride_in_1x1"] is False
    assert model["preprocess"]["mean"] == (1, 2, 3)
    assert model["preprocess"]["channel_order"] == "BGR"


def test_a_backbone_of_another_depth_is_refused(msra: Path) -> None:
    message = r"are those of a ResNet-50, the model's backbone is a ResNet-101; set backbone\.depth=50"
    with pytest.raises(InputError, match=message):
        make_config("data", "panoptic-fcn-r101", {"backbone.weights": str(msra)})
    config = make_config("data", "panoptic-fcn-r101", {"backbone.weights": str(msra), "backbone.depth": 50})
    assert config.model.model_dump()["backbone"]["stride_in_1x1"] is True


def test_other_files_tell_nothing(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "a.safetensors")
    (tmp_path / "a.pth").write_bytes(b"no weights")
    for weights in ("imagenet", "none", None, str(tmp_path / "a.safetensors"), str(tmp_path / "a.pth"), str(tmp_path)):
        assert told_by_backbone(weights, 50) == {}


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"format_version": "2"}, "another version of thingstuff"),
        ({"depth": "deep"}, "cannot be read"),
        ({"preprocess": "[1]"}, "cannot be read"),
        ({"channels": "[1]"}, "cannot be read"),
        ({"channels": '{"stem_channels": "x"}'}, "cannot be read"),
        ({"preprocess": "{}"}, "cannot be read"),
    ],
)
def test_a_file_that_tells_oddly_is_refused(metadata: dict[str, str], message: str, tmp_path: Path) -> None:
    told = {"format": "thingstuff-backbone", "format_version": "1", "depth": "50", "stride_in_1x1": "true"}
    seen = json.dumps({"channel_order": "BGR", "mean": [1, 2, 3], "std": [1, 1, 1]})
    save_file({"a": torch.ones(1)}, tmp_path / "backbone.safetensors", {**told, "preprocess": seen})
    assert read_settings(str(tmp_path)) is not None
    save_file({"a": torch.ones(1)}, tmp_path / "backbone.safetensors", {**told, "preprocess": seen, **metadata})
    with pytest.raises(InputError, match=rf"backbone\.safetensors.*{message}"):
        read_settings(str(tmp_path))


def test_deformable_stages_begin_as_plain_ones(msra: Path) -> None:
    model = imported(msra, 50, deformable_stages=(4, 5))
    offsets = [value for key, value in model.state_dict().items() if ".offset." in key]
    assert len(offsets) == 2 * (6 + 3)
    assert not any(offset.any() for offset in offsets)
