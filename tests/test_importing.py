"""`thingstuff weights import`: published models become ours, with what their keys and shapes tell of them."""

import json
import pickle
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.models as tv
from safetensors.torch import save_file
from torch import Tensor

import thingstuff as ts
from detr_states import as_authors as detr_as_authors
from detr_states import as_hugging_face_file, small_model, without_masks
from thingstuff import checkpoint
from thingstuff.backbones import BackboneConfig
from thingstuff.cli import main
from thingstuff.coco_categories import COCO_PANOPTIC
from thingstuff.models import create
from thingstuff.models.base import PanopticModel, PreprocessConfig
from thingstuff.models.panoptic_fcn import PanopticFCN, PanopticFCNConfig
from thingstuff.panoptic import Categories
from thingstuff.panoptic_fcn_weights import AUTHORS_SETTINGS, panoptic_fcn_config, panoptic_fcn_from_authors
from thingstuff.pretrained import load_source
from thingstuff.recipes.panoptic_fcn import AUTHORS_MODEL

State = dict[str, Tensor]
OWN = Categories(("car", "road", "person", "sky", "tree"), (True, False, True, False, False), (7, 3, 9, 1, 2))
SMALL = PanopticFCNConfig(
    preprocess=PreprocessConfig(channel_order="BGR", std=(1, 1, 1)),
    backbone=BackboneConfig(stride_in_1x1=True, stem_channels=8, res2_channels=16, bottleneck_width=4),
    fpn_channels=16,
    semantic_channels=32,
    position_channels=64,
    kernel_channels=32,
    encoder_channels=8,
    unlabelled="negative",
    stuff_area_relative=False,
)
OTHERS: dict[str, dict[str, Any]] = {
    "star": {"encoder_deformable": True, "encoder_channels": 24},
    "plain": {"position_deformable": False, "position_convs": 1, "kernel_convs": 2, "encoder_convs": 4},
    "no coordinates": {"kernel_coordinates": False, "encoder_coordinates": False},
    "coordinates of kernels": {"encoder_coordinates": False},
    "no thing region": {"region_has_thing": False},
    "R101": {"backbone": {**SMALL.backbone.model_dump(), "depth": 101}},
    "R18": {"backbone": {"depth": 18, "stem_channels": 8, "res2_channels": 16, "stride_in_1x1": True}},
    "DCN": {"backbone": {**SMALL.backbone.model_dump(), "deformable_stages": (3, 4, 5)}},
    "DCN of one stage": {"backbone": {**SMALL.backbone.model_dump(), "deformable_stages": (4,)}},
    "four levels": {"level_ranges": ((1, 64), (32, 128), (64, 256), (128, 2048))},
    "three levels": {"level_ranges": ((1, 64), (32, 128), (64, 2048))},
}


def variant(**changes: Any) -> PanopticFCNConfig:
    return PanopticFCNConfig.model_validate({**SMALL.model_dump(), **changes})


def panoptic_fcn(config: PanopticFCNConfig = SMALL, categories: Categories = OWN) -> PanopticModel:
    """A Panoptic FCN whose every weight and buffer is random."""
    torch.manual_seed(0)
    model = create("panoptic-fcn-r50", categories, config).eval()
    for key, tensor in model.state_dict().items():
        noise = torch.rand_like(tensor)
        tensor.copy_(noise + 0.5 if key.endswith("running_var") else (noise - 0.5) * 0.5)
    return model


RENAMED = (
    (r"backbone\.conv1\.", "backbone.bottom_up.stem.conv1."),
    (r"backbone\.bn1\.", "backbone.bottom_up.stem.conv1.norm."),
    (r"backbone\.layer1", "backbone.bottom_up.res2"),
    (r"backbone\.layer2", "backbone.bottom_up.res3"),
    (r"backbone\.layer3", "backbone.bottom_up.res4"),
    (r"backbone\.layer4", "backbone.bottom_up.res5"),
    (r"downsample\.0", "shortcut"),
    (r"downsample\.1", "shortcut.norm"),
    (r"\.bn(\d)\.", r".conv\1.norm."),
    (r"conv2\.offset\.", "conv2_offset."),
    (r"^fpn\.(lateral|output)\.(\d)", r"backbone.fpn_\1\2"),
    (r"^fpn\.(p\d)", r"backbone.top_block.\1"),
    (r"semantic_fpn\.levels\.(\d)\.(\d)\.", lambda m: f"semantic_fpn.p{m[1]}.{2 * int(m[2])}."),
    (r"(semantic_fpn.*)\.conv\.", r"\1."),
    (r"centres", "out_inst"),
    (r"regions", "out_sem"),
    (r"kernel_head\.out\.", "kernel_head.out_conv."),
    (r"(thing|stuff)_embedding", r"\1_generator.embed_extractor"),
)


def as_authors(ours: State) -> State:
    """Return our Panoptic FCN's state dict with the authors' keys."""
    result = {}
    for key, value in ours.items():
        block = re.fullmatch(r"(\w+)\.blocks\.(\d)\.(.*)", key)
        if block:
            head, number, rest = block.groups()
            name = {"feature_encoder": "encode_head"}.get(head, head)
            deformable = f"{head}.blocks.{number}.conv.offset.weight" in ours
            rest = rest.replace("conv.offset.", "offset_mask_conv.").replace(
                "conv.", "" if not deformable else "dcnv2.", 1
            )
            if deformable:
                rest = rest.replace("offset_mask_dcnv2.", "offset_mask_conv.").replace("norm.", "dcnv2.norm.")
            result[f"{head}.{name}.{name}_head_{int(number) + 1}.{rest}"] = value
            continue
        name = key
        for pattern, new in RENAMED:
            name = re.sub(pattern, new, name)
        result[name] = value[:, :, None, None] if key.endswith("_embedding.weight") else value
    return result


def save(path: Path, state: State) -> Path:
    """Write a file as detectron2's checkpointer does."""
    beside = {
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.01}]},
        "scheduler": {"last_epoch": 9},
        "iteration": 9,
    }
    torch.save({"model": state, **beside}, path)
    return path


def categories_file(path: Path, categories: Categories = OWN) -> Path:
    path.write_text(json.dumps({"images": [], "categories": categories.to_coco()}))
    return path


def call(*arguments: object) -> int:
    """Run the command in this process and return its exit code."""
    before = sys.argv
    sys.argv = ["thingstuff", *map(str, arguments)]
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    finally:
        sys.argv = before
    return 0


def same(model: PanopticModel, other: PanopticModel) -> bool:
    ours, theirs = model.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in theirs)


# ---- Panoptic FCN


def test_the_authors_names_here_are_the_authors(tmp_path: Path) -> None:
    ours = panoptic_fcn(variant(encoder_deformable=True)).state_dict()
    theirs = as_authors(ours)
    assert {
        "backbone.bottom_up.res4.5.conv2.norm.running_var",
        "backbone.top_block.p7.bias",
        "semantic_fpn.p5.4.norm.weight",
        "position_head.position_head.position_head_head_3.dcnv2.norm.bias",
        "position_head.position_head.position_head_head_1.offset_mask_conv.weight",
        "kernel_head.kernel_head.kernel_head_head_1.norm.weight",
        "kernel_head.kernel_head.kernel_head_head_2.weight",
        "feature_encoder.encode_head.encode_head_head_1.dcnv2.bias",
        "stuff_generator.embed_extractor.weight",
    } <= theirs.keys()
    back = panoptic_fcn_from_authors(theirs)
    assert back.keys() == ours.keys()
    assert all(torch.equal(back[key], ours[key]) for key in ours)


@pytest.mark.parametrize("changes", [{}, *OTHERS.values()], ids=["base", *OTHERS])
def test_keys_and_shapes_tell_the_config(changes: dict[str, Any]) -> None:
    config = variant(**changes)
    with torch.device("meta"):
        state = panoptic_fcn_from_authors(as_authors(PanopticFCN(config, OWN).state_dict()))
    assert panoptic_fcn_config(state, OWN) == config


@pytest.mark.parametrize("feature", ["p2", "summed"])
def test_without_semantic_fpn_the_feature_is_asked_for(
    feature: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = panoptic_fcn(variant(feature_type=feature, semantic_channels=256))
    file, names = save(tmp_path / "m.pth", as_authors(model.state_dict())), categories_file(tmp_path / "c.json")
    command = ("weights", "import", file, "--categories", names, "--out", tmp_path / "w")
    assert call(*command) == 2
    assert "--set feature_type=p2 or --set feature_type=summed" in capsys.readouterr().err
    assert call(*command, "--set", f"feature_type={feature}") == 0
    loaded = ts.load(tmp_path / "w", "cpu")
    assert loaded.config == model.config
    assert same(loaded, model)


def test_the_authors_settings_agree_with_their_recipe_s() -> None:
    assert AUTHORS_MODEL.items() <= AUTHORS_SETTINGS.items()


@pytest.mark.parametrize("name", ["base", "star", "DCN"])
def test_an_imported_model_is_the_original(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = panoptic_fcn(variant(**OTHERS.get(name, {})))
    file, names = (
        save(tmp_path / "model_final.pth", as_authors(model.state_dict())),
        categories_file(tmp_path / "c.json"),
    )
    out = tmp_path / "w"
    assert call("weights", "import", file, "--out", out, "--categories", names) == 0
    told = capsys.readouterr().out
    count = len(model.state_dict())
    assert "Panoptic FCN (authors' keys), ResNet-50, 2 things + 3 stuff (car, road, person and 2 more), FPN to" in told
    assert f"{count} of {count} tensors" in told
    deformable = {"base": "position head", "star": "position head, encoder", "DCN": "position head, res3, res4, res5"}
    assert f"deformable: {deformable[name]};" in told
    assert f"written: {out / 'best.safetensors'}" in told
    assert f"thingstuff predict PICTURES --weights {out} --out predictions" in told
    loaded = ts.load(out, "cpu")
    assert (loaded.name, loaded.config, loaded.categories) == ("panoptic-fcn-r50", model.config, OWN)
    assert same(loaded, model)
    picture = np.random.default_rng(0).integers(0, 255, (96, 130, 3), dtype=np.uint8)
    images = model.pad([picture], [(96, 130)])
    with torch.no_grad():
        ours, theirs = loaded(images), model(images)
        assert torch.equal(ours.feature, theirs.feature)
        assert torch.equal(loaded.segments(ours, images)[0].masks, model.segments(theirs, images)[0].masks)
    assert len(loaded.segments(ours, images)[0].labels)
    np.testing.assert_array_equal(loaded.predict(picture).ids, model.predict(picture).ids)


def test_coco_s_sizes_need_no_categories(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for has_thing in (True, False):
        model = panoptic_fcn(variant(region_has_thing=has_thing), COCO_PANOPTIC)
        file = save(tmp_path / "m.pth", as_authors(model.state_dict()))
        assert call("weights", "import", file, "--out", tmp_path / "w", "--overwrite") == 0
        assert "80 things + 53 stuff (COCO panoptic)" in capsys.readouterr().out
        for loaded in (ts.load(tmp_path / "w", "cpu"), ts.load(file, "cpu"), load_source(file).model):
            assert (loaded.config, loaded.categories) == (model.config, COCO_PANOPTIC)
            assert same(loaded, model)
    changed = ts.load(file, "cpu", thing_threshold=0.2)
    assert changed.config == variant(region_has_thing=False, thing_threshold=0.2)


def test_coco_s_classes_are_in_the_order_of_their_ids() -> None:
    for labels, count in ((COCO_PANOPTIC.thing_labels, 80), (COCO_PANOPTIC.stuff_labels, 53)):
        ids = [COCO_PANOPTIC.ids[label] for label in labels]
        assert ids == sorted(ids)
        assert len(ids) == count


def test_settings_are_changed_on_import(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = save(tmp_path / "m.pth", as_authors(panoptic_fcn().state_dict()))
    command = ("weights", "import", file, "--categories", categories_file(tmp_path / "c.json"), "--out", tmp_path / "w")
    assert call(*command, "--set", "preprocess.short_side=400", "--set", "preprocess.max_side=666") == 0
    assert "set:     preprocess.short_side=400, preprocess.max_side=666\n" in capsys.readouterr().out
    size = ts.load(tmp_path / "w", "cpu").config.preprocess
    assert (size.short_side, size.max_side, size.channel_order) == (400, 666, "BGR")
    for setting, message in (
        ("encoder_channels=16", "was not trained with encoder_channels=16: it has another shape in feature_encoder"),
        ("treshold=1", "unknown setting 'treshold'"),
    ):
        assert call(*command, "--overwrite", "--set", setting) == 2
        assert message in capsys.readouterr().err


def test_what_is_set_is_not_assumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = save(tmp_path / "m.pth", as_authors(panoptic_fcn().state_dict()))
    command = ("weights", "import", file, "--categories", categories_file(tmp_path / "c.json"), "--out", tmp_path / "w")

    def told(*settings: str) -> dict[str, str]:
        capsys.readouterr()
        assert call(*command, "--overwrite", *(word for setting in settings for word in ("--set", setting))) == 0
        lines = capsys.readouterr().out.splitlines()
        return {
            name: line.removeprefix(name).strip() for line in lines for name in ("set:", "assumed:") if name in line
        }

    full = "as the full models (FAST: docs/weights.md)"
    assert told() == {
        "assumed:": "BGR pictures, mean 123.675, 116.28, 103.53, std 1, 1, 1, strides in 1x1 convs, not dilated, thing "
        f"threshold 0.05 {full}, stuff threshold 0.05 {full}, pictures' short side 800, their long side at most 1333"
    }
    told_now = told("preprocess.channel_order=RGB", "backbone.dilated=true", "thing_threshold=0.2", "flip=true")
    assert told_now == {
        "set:": "preprocess.channel_order=RGB, backbone.dilated=True, thing_threshold=0.2, flip=True",
        "assumed:": "mean 123.675, 116.28, 103.53, std 1, 1, 1, strides in 1x1 convs, "
        f"stuff threshold 0.05 {full}, pictures' short side 800, their long side at most 1333",
    }
    everything = ("preprocess.mean=[1,2,3]", "preprocess.std=[4,5,6]", "backbone.stride_in_1x1=false")
    assert "convs" not in told(*everything)["assumed:"]
    assert "mean" not in told(*everything)["assumed:"]


def test_a_training_begins_with_imported_weights(tmp_path: Path) -> None:
    model = panoptic_fcn()
    file = save(tmp_path / "m.pth", as_authors(model.state_dict()))
    assert call("weights", "import", file, "--categories", categories_file(tmp_path / "c.json"), "--out", tmp_path) == 2
    assert (
        call("weights", "import", file, "--categories", tmp_path / "c.json", "--out", tmp_path, "--overwrite") == 0
    )  # beside its own file
    assert file.exists()
    assert same(load_source(tmp_path).model, model)


# ---- DETR


@pytest.mark.parametrize("rename", [detr_as_authors, as_hugging_face_file])
def test_detr_is_imported(rename: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = small_model()
    torch.save(rename(model.state_dict()), tmp_path / "detr.pth")
    assert call("weights", "import", tmp_path / "detr.pth", "--out", tmp_path / "w") == 0
    told = capsys.readouterr().out
    assert re.search(
        r"^assumed: \d attention heads, not dilated \(else .*\), pictures' short side \d+, their", told, re.M
    )
    keys = "authors'" if rename is detr_as_authors else "Hugging Face's"
    assert f'DETR ({keys} keys), ResNet-50, 80 things + 53 stuff (COCO panoptic), 250 outputs and "no object"' in told
    loaded = ts.load(tmp_path / "w", "cpu")
    assert same(loaded, model)
    assert (loaded.config, loaded.categories) == (model.config, COCO_PANOPTIC)


def test_detr_of_other_classes_takes_categories(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = small_model().state_dict()
    state |= {key: state[key][:6] for key in ("class_head.weight", "class_head.bias")}
    torch.save(detr_as_authors(state), tmp_path / "detr.pth")
    command = ("weights", "import", tmp_path / "detr.pth", "--out", tmp_path / "w")
    assert call(*command) == 2
    assert "the weights have 5 classes" in capsys.readouterr().err
    assert call(*command, "--categories", categories_file(tmp_path / "c.json")) == 0
    assert ts.load(tmp_path / "w", "cpu").categories == OWN
    larger = Categories(("a", "b"), (True, False), (1, 7))
    assert call(*command, "--overwrite", "--categories", categories_file(tmp_path / "c.json", larger)) == 2
    assert "detr.pth" in capsys.readouterr().err


def test_detr_without_masks_is_for_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(without_masks(detr_as_authors(small_model().state_dict())), tmp_path / "detr.pth")
    assert call("weights", "import", tmp_path / "detr.pth", "--out", tmp_path / "w") == 2
    assert "it knows boxes alone: learn masks by thingstuff train DATA --from" in capsys.readouterr().err
    assert not (tmp_path / "w").exists()


# ---- what is refused


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert call("weights", "import", *arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Traceback" not in printed.err
    return printed.err


def without(state: State, *keys: str) -> State:
    return {key: value for key, value in state.items() if key not in keys}


def test_other_models_are_refused_by_the_first_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fcn, detr = as_authors(panoptic_fcn(SMALL, COCO_PANOPTIC).state_dict()), detr_as_authors(small_model().state_dict())
    rcnn = {key: value for key, value in fcn.items() if key.startswith("backbone.")}
    rcnn |= {f"roi_heads.{name}.weight": torch.ones(1) for name in "abcde"}
    cases: list[tuple[State, str]] = [
        (rcnn, r"nearest is Panoptic FCN \(authors' keys\), with 285 of 290 keys; first differences: unknown "
         r"roi_heads\.a\.weight, roi_heads\.b\.weight, roi_heads\.c\.weight and 2 more; lacking "
         r"position_head\.out_inst\.weight, position_head\.out_sem\.weight, kernel_head\.out_conv\.weight$"),
        (without(fcn, "position_head.out_inst.weight"), r"nearest is Panoptic FCN.*lacking position_head\.out_inst"),
        ({**fcn, "mask_head.x": torch.ones(1)}, r"not Panoptic FCN's weights: unknown keys mask_head\.x$"),
        (without(fcn, "kernel_head.out_conv.bias"), r"lacks kernel_head\.out\.bias$"),
        (without(fcn, "position_head.out_sem.weight"), r"lack position_head\.regions\.weight$"),
        (without(detr, "detr.transformer.decoder.norm.weight"), r"nearest is DETR \(authors' keys\).*lacking transf"),
        ({**detr, "swin.a": torch.ones(1)}, r"unknown keys swin\.a$"),
        ({"class_token": torch.ones(1), "conv_proj.weight": torch.ones(1)},
         r"no key \(class_token, conv_proj\.weight\) is of weights that are known: Panoptic FCN"),
        ({}, r"no key \(there is none\)"),
        (dict(tv.mobilenet_v3_small(weights=None).state_dict()), r"no key \(.*\) is of weights that are known"),
        (dict(tv.resnet18(weights=None).state_dict()) | {"layer1.0.se.weight": torch.ones(1)},
         r"no ResNet \(torchvision's keys\): unknown keys layer1\.0\.se\.weight$"),
    ]  # fmt: skip
    for state, message in cases:
        torch.save(state, tmp_path / "other.pth")
        told = refused(capsys, tmp_path / "other.pth", "--out", tmp_path / "w")
        assert re.search(message, told.strip()), told
        assert told.startswith(f"thingstuff: {tmp_path / 'other.pth'}")
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("position_head.out_inst.weight", torch.ones(3)),
        ("position_head.out_sem.weight", torch.ones(())),
        ("thing_generator.embed_extractor.weight", torch.ones(3)),
        ("backbone.fpn_lateral2.weight", torch.ones(0, 16, 1, 1)),
        ("backbone.bottom_up.stem.conv1.weight", torch.ones(())),
        ("kernel_head.kernel_head.kernel_head_head_1.weight", torch.ones(32, 21, 3, 3)),
        ("kernel_head.kernel_head.kernel_head_head_1.offset_mask_conv.weight", torch.ones(27, 18, 3, 3)),
        ("feature_encoder.encode_head.encode_head_head_2.weight", torch.ones(8, 9, 3, 3)),
        ("position_head.position_head.position_head_head_7.dcnv2.weight", torch.ones(64, 64, 3, 3)),
        ("backbone.bottom_up.res9.0.conv1.weight", torch.ones(1)),
        ("semantic_fpn.p2.0.weight", torch.ones(31, 16, 3, 3)),
    ],
)
def test_odd_shapes_are_one_message(
    key: str, value: Tensor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = save(tmp_path / "m.pth", {**as_authors(panoptic_fcn().state_dict()), key: value})
    told = refused(capsys, file, "--out", tmp_path / "w", "--categories", categories_file(tmp_path / "c.json"))
    assert str(file) in told


def test_categories_that_do_not_fit_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, names = save(tmp_path / "m.pth", as_authors(panoptic_fcn().state_dict())), tmp_path / "c.json"
    where = (file, "--out", tmp_path / "w")
    sizes = '2 thing outputs and 4 region outputs (3 stuff and "some thing", or 4 stuff)'
    told = refused(capsys, *where)
    assert f"{sizes}, which are not COCO's 80 and 54" in told
    assert "--categories" in told
    for things, stuff in ((1, 3), (3, 3), (2, 2), (2, 5), (0, 0)):
        count = things + stuff
        other = Categories(tuple(map(str, range(count))), (True,) * things + (False,) * stuff, tuple(range(count)))
        told = refused(capsys, *where, "--categories", categories_file(names, other))
        assert f"{things} thing and {stuff} stuff categories do not fit weights with {sizes}" in told
    for content, message in (
        ("{", "broken JSON"),
        ("3", "holds no list of categories"),
        ('{"categories": {}}', "holds no list of categories"),
        ('[{"id": 1, "name": "a"}]', "has no 'isthing'"),
        ('[{"id": 1, "name": "a", "isthing": 1}, {"id": 1, "name": "b", "isthing": 1}]', "stands more than once"),
    ):
        names.write_text(content)
        told = refused(capsys, *where, "--categories", names)
        assert message in told
        assert str(names) in told
    assert "not there" in refused(capsys, *where, "--categories", tmp_path / "none.json")


def test_files_that_are_no_weights_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "w"
    assert "no such weights file" in refused(capsys, tmp_path / "none.pth", "--out", out)
    assert "no such weights file" in refused(capsys, tmp_path / "none.pkl", "--out", out)
    (tmp_path / "folder").mkdir()
    assert "is a folder" in refused(capsys, tmp_path / "folder", "--out", out)
    for name in ("text.pth", "text.pkl", "text.safetensors", "text.txt", "text"):
        (tmp_path / name).write_text("no weights at all")
        assert f"{tmp_path / name} cannot be read" in refused(capsys, tmp_path / name, "--out", out)
        (tmp_path / name).write_bytes(b"")
        assert f"{tmp_path / name} cannot be read" in refused(capsys, tmp_path / name, "--out", out)
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps({"model": Path("a")}, 2))
    assert "is refused: it holds 'pathlib." in refused(capsys, tmp_path / "evil.pkl", "--out", out)
    assert not out.exists()


def test_what_is_ours_already_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint.save(tmp_path / "best.safetensors", panoptic_fcn())
    told = refused(capsys, tmp_path / "best.safetensors", "--out", tmp_path / "w")
    assert f"is a checkpoint of thingstuff already; use it by --weights {tmp_path / 'best.safetensors'}" in told
    torch.save(tv.resnet18(weights=None).state_dict(), tmp_path / "r18.pth")
    assert call("weights", "import", tmp_path / "r18.pth", "--out", tmp_path / "b") == 0
    capsys.readouterr()
    told = refused(capsys, tmp_path / "b" / "backbone.safetensors", "--out", tmp_path / "w")
    assert "use it by backbone.weights=" in told


def test_folders_in_use_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(tv.resnet18(weights=None).state_dict(), tmp_path / "r18.pth")
    out = tmp_path / "w"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    assert "w is not empty" in refused(capsys, tmp_path / "r18.pth", "--out", out)
    assert call("weights", "import", tmp_path / "r18.pth", "--out", out, "--overwrite") == 0
    told = capsys.readouterr().out
    assert f"thingstuff train DATA backbone.weights={out} --model panoptic-fcn-r18 --out runs/a" in told
    assert sorted(path.name for path in out.iterdir()) == ["backbone.safetensors", "notes.txt"]
    (out / "config.yaml").write_text("")
    assert "w is the folder of a run" in refused(capsys, tmp_path / "r18.pth", "--out", out, "--overwrite")
    for place in (tmp_path / "r18.pth", tmp_path / "r18.pth" / "x", tmp_path / "r18.pth" / "x" / "y"):
        assert f"{tmp_path / 'r18.pth'} is a file; give a folder" in refused(
            capsys, tmp_path / "r18.pth", "--out", place
        )


def test_the_newer_weights_of_a_folder_are_its_only_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(tv.resnet18(weights=None).state_dict(), tmp_path / "r18.pth")
    file, names = (
        save(tmp_path / "m.pth", as_authors(panoptic_fcn().state_dict())),
        categories_file(tmp_path / "c.json"),
    )
    out = tmp_path / "w"
    assert call("weights", "import", tmp_path / "r18.pth", "--out", out) == 0
    capsys.readouterr()
    assert call("predict", tmp_path, "--weights", out) == 2
    for load in (ts.load, load_source):
        for place in (out, out / "backbone.safetensors"):
            with pytest.raises(ts.InputError, match=rf"^{place} holds a backbone alone, .*backbone\.weights={place}$"):
                load(place)
    assert call("weights", "import", file, "--categories", names, "--out", out, "--overwrite") == 0
    assert [path.name for path in out.iterdir()] == ["best.safetensors"]
    assert call("weights", "import", tmp_path / "r18.pth", "--out", out, "--overwrite") == 0
    assert [path.name for path in out.iterdir()] == ["backbone.safetensors"]


def test_a_backbone_has_neither_categories_nor_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(tv.resnet18(weights=None).state_dict(), tmp_path / "r18.pth")
    names = categories_file(tmp_path / "c.json")
    for words in (("--categories", names), ("--set", "positives=3")):
        told = refused(capsys, tmp_path / "r18.pth", "--out", tmp_path / "w", *words)
        assert "holds a backbone alone: leave out --categories and --set" in told


def test_a_full_disk_is_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file(dict(tv.resnet18(weights=None).state_dict()), tmp_path / "r18.safetensors")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device", str(tmp_path / "w"))

    monkeypatch.setattr("thingstuff.io.os.fsync", full)
    told = refused(capsys, tmp_path / "r18.safetensors", "--out", tmp_path / "w")
    assert "No space left on device" in told
    assert not list((tmp_path / "w").iterdir())
    shutil.rmtree(tmp_path / "w")
