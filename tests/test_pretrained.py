"""`ts.load`: our checkpoints, files of published weights, and the hub, which here is a server on localhost."""

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import save, save_file

import thingstuff as ts
from detr_states import (
    SETTINGS,
    SMALL,
    State,
    as_authors,
    as_hugging_face_file,
    as_hugging_face_memory,
    hub_files,
    pickled,
    small_model,
    without_masks,
)
from hub_server import Hub, empty_cache, serving, use
from thingstuff import checkpoint
from thingstuff.checkpoint import TrainingState
from thingstuff.cli import main
from thingstuff.coco_categories import COCO_PANOPTIC
from thingstuff.data.scenes import SceneConfig, make_scenes
from thingstuff.models.base import PanopticModel
from thingstuff.models.detr import DETRConfig
from thingstuff.pretrained import PUBLISHED, load_changed, load_published, load_source

NAME = "detr-panoptic-r50"
REPOSITORY = PUBLISHED[NAME]


def same(model: PanopticModel, other: State) -> bool:
    ours = model.cpu().state_dict()
    return ours.keys() == other.keys() and all(torch.equal(ours[k], other[k]) for k in other)


# ---- files


@pytest.mark.parametrize("rename", [dict, as_authors, as_hugging_face_file, as_hugging_face_memory])
@pytest.mark.parametrize("suffix", [".pth", ".bin", ".safetensors"])
def test_files_of_published_weights_are_loaded(rename: type[State], suffix: str, tmp_path: Path) -> None:
    model = small_model()
    path = tmp_path / f"detr{suffix}"
    state = {k: v.clone() for k, v in rename(model.state_dict()).items()}
    if suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"model": state}, path)
    loaded = ts.load(path, "cpu")
    assert same(loaded, model.state_dict())
    assert (loaded.name, loaded.config, loaded.categories) == (NAME, SMALL, COCO_PANOPTIC)
    assert not loaded.training


def test_a_folder_of_hugging_face_s_is_loaded_with_its_settings(tmp_path: Path) -> None:
    for name, content in hub_files(small_model(), "model.safetensors").items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "config.json").write_text(json.dumps({**SETTINGS, "dilation": True}))
    loaded = ts.load(tmp_path, "cpu")
    assert (loaded.name, loaded.config.backbone.dilated) == ("detr-panoptic-r50-dc5", True)


def test_a_file_s_name_tells_dilation(tmp_path: Path) -> None:
    torch.save(as_authors(small_model().state_dict()), tmp_path / "detr-r50-dc5-panoptic-da08f1b1.pth")
    loaded = ts.load(tmp_path / "detr-r50-dc5-panoptic-da08f1b1.pth", "cpu")
    assert (loaded.name, loaded.config.backbone.dilated) == ("detr-panoptic-r50-dc5", True)


def test_a_folder_s_name_tells_dilation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "DETR-R50-DC5"
    folder.mkdir()
    torch.save(as_authors(small_model().state_dict()), folder / "detr.pth")
    monkeypatch.chdir(folder)
    for path in (folder / "detr.pth", "detr.pth"):
        loaded = ts.load(path, "cpu")
        assert (loaded.name, loaded.config.backbone.dilated) == ("detr-panoptic-r50-dc5", True)


@pytest.mark.parametrize(("learns", "refused"), [("boxes", True), ("masks", False), ("all", False), (None, False)])
def test_a_run_that_has_learned_boxes_alone_predicts_nothing(learns: str | None, refused: bool, tmp_path: Path) -> None:
    model = small_model()
    state = TrainingState(values={} if learns is None else {"stage": {"learns": learns}})
    checkpoint.save(tmp_path / "last.safetensors", model, state)
    if refused:
        wanted = f"--from {tmp_path} --recipe detr-masks --out OTHER"
        with pytest.raises(ts.InputError, match=rf"learned boxes only, no masks yet.*{re.escape(wanted)}"):
            ts.load(tmp_path)
    else:
        assert ts.load(tmp_path, "cpu").learning == "all"
    for opened in (load_source(tmp_path).model, checkpoint.load(tmp_path, "cpu")):
        assert same(opened, model.state_dict())
        assert opened.learning == "all"


def test_published_weights_become_a_checkpoint_of_ours(tmp_path: Path) -> None:
    torch.save(as_authors(small_model().state_dict()), tmp_path / "detr.pth")
    loaded = ts.load(tmp_path / "detr.pth", "cpu")
    checkpoint.save(tmp_path / "best.safetensors", loaded)
    for place in (tmp_path, tmp_path / "best.safetensors", str(tmp_path)):
        again = ts.load(place, "cpu")
        assert same(again, loaded.state_dict())
        assert (again.name, again.config, again.categories) == (loaded.name, loaded.config, loaded.categories)


def test_weights_of_other_classes_need_categories(tmp_path: Path) -> None:
    categories = ts.Categories(("cat", "sky"), (True, False), (1, 2))
    for outputs, ours in ((2, None), (3, 3)):
        state = small_model().state_dict()
        state |= {k: state[k][: outputs + 1] for k in ("class_head.weight", "class_head.bias")}
        torch.save(as_authors(state), tmp_path / "own.pth")
        with pytest.raises(ts.InputError, match=rf"own\.pth: the weights have {outputs} classes"):
            ts.load(tmp_path / "own.pth")
        loaded = load_published(tmp_path / "own.pth", categories)
        assert isinstance(loaded.config, DETRConfig)
        assert loaded.config.outputs == ours
        assert loaded.categories == categories
        assert same(loaded, state)


def test_weights_that_do_not_fit_name_the_first_keys(tmp_path: Path) -> None:
    state = as_authors(small_model().state_dict())
    del state["detr.bbox_embed.layers.1.bias"]
    state["detr.input_proj.weight"] = torch.ones(128, 64, 1, 1)
    state["detr.bbox_embed.layers.3.bias"] = torch.ones(4)
    torch.save(state, tmp_path / "detr.pth")
    wanted = (
        r"detr\.pth lacks box_head\.layers\.1\.bias; has the unknown box_head\.layers\.3\.bias; "
        r"has another shape in projection\.weight \(\[128, 64, 1, 1\] instead of \[128, 128, 1, 1\]\)$"
    )
    with pytest.raises(ts.InputError, match=wanted):
        ts.load(tmp_path / "detr.pth")


def test_weights_for_boxes_alone_lack_the_masks_part(tmp_path: Path) -> None:
    torch.save(without_masks(as_authors(small_model().state_dict())), tmp_path / "detr.pth")
    with pytest.raises(ts.InputError, match=r"detr\.pth lacks attention_maps\.q\.weight, .* and \d+ more; .*--from"):
        ts.load(tmp_path / "detr.pth")


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"conv1.weight": torch.ones(1), "fc.bias": torch.ones(1)}, "no model that is known here .*conv1.weight"),
        ({"position_head.out_inst.weight": torch.ones(1)}, r"position_head\.centres\.weight of the shape \[1\]"),
        ({**as_authors(small_model().state_dict()), "swin.x": torch.ones(1)}, "unknown keys swin.x"),
        ({}, "first keys none"),
    ],
)
def test_weights_of_other_models_are_refused(state: State, message: str, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(ts.InputError, match=rf"other\.pth.*{message}"):
        ts.load(tmp_path / "other.pth")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_truncated_file_is_refused(suffix: str, tmp_path: Path) -> None:
    state = {k: v.contiguous() for k, v in as_authors(small_model().state_dict()).items()}
    whole = save(state) if suffix == ".safetensors" else pickled(state)
    path = tmp_path / f"detr{suffix}"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ts.InputError, match=re.escape(str(path))):
        ts.load(path)


def test_what_is_neither_a_path_nor_a_name_is_refused(tmp_path: Path) -> None:
    for weights in ("detr-panoptic-r5", tmp_path / "none.pth"):
        with pytest.raises(ts.InputError, match=rf"{re.escape(str(weights))}: no such weights; .*{NAME}, "):
            ts.load(weights)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ts.InputError, match="empty holds no checkpoint"):
        ts.load(tmp_path / "empty")
    torch.save(as_authors(small_model().state_dict()), tmp_path / "detr.pth")
    with pytest.raises(ts.InputError, match=r"revision='x' is for weights from the hub"):
        ts.load(tmp_path / "detr.pth", revision="x")


def test_a_checkpoint_whose_weights_are_not_its_config_s_names_the_keys(tmp_path: Path) -> None:
    model = small_model()
    path = tmp_path / "best.safetensors"
    del model.box_head.layers[2]  # type: ignore[union-attr]
    model.queries = torch.nn.Embedding(4, 128)
    model.extra = torch.nn.Linear(1, 1)
    checkpoint.save(path, model)
    wanted = (
        r"best\.safetensors does not fit its own config: it lacks box_head\.layers\.2\.weight, "
        r"box_head\.layers\.2\.bias; has the unknown extra\.\w+, extra\.\w+; has another shape in queries\.weight"
    )
    with pytest.raises(ts.InputError, match=wanted):
        ts.load(path)


# ---- settings


def test_settings_are_changed_and_weights_kept(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "last.safetensors", small_model())
    loaded = ts.load(tmp_path, "cpu", as_released=True, threshold=0.5, **{"preprocess.short_side": 64})
    assert isinstance(loaded.config, DETRConfig)
    assert (loaded.config.as_released, loaded.config.threshold) == (True, 0.5)
    assert loaded.network_size((100, 100)) == (64, 64)
    assert (loaded.name, loaded.training) == (NAME, False)
    assert same(loaded, small_model().state_dict())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"treshold": 0.5}, "unknown setting 'treshold' .* did you mean 'threshold'"),
        ({"threshold": 2}, "threshold=2: "),
        ({"queries": 7}, r"was not trained with queries=7: it has another shape in queries\.weight"),
        ({"encoder_layers": 2}, r"not trained with encoder_layers=2: it lacks encoder\.layers\.1"),
        ({"device": "cpu", "weights": "x", "revision": "y"}, "unknown setting 'device'"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "last.safetensors", small_model())
    with pytest.raises(ts.InputError, match=message):
        load_changed(tmp_path, changes)


# ---- odd files


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("detr.query_embed.weight", (5,)),
        ("detr.class_embed.weight", ()),
        ("detr.class_embed.weight", (0, 128)),
        ("detr.class_embed.weight", (1, 128)),
        ("detr.transformer.encoder.layers.0.linear1.weight", ()),
        ("detr.transformer.encoder.layers.0.self_attn.in_proj_weight", ()),
        ("detr.transformer.encoder.layers.0.self_attn.in_proj_bias", (4,)),
        ("detr.backbone.0.body.conv1.weight", ()),
        ("detr.backbone.0.body.layer1.0.conv3.weight", (16,)),
    ],
)
def test_mis_shaped_weights_are_one_message(key: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    state = as_authors(small_model().state_dict())
    assert key in state
    torch.save({**state, key: torch.ones(shape)}, tmp_path / "detr.pth")
    for load in (ts.load, load_source):
        with pytest.raises(ts.InputError, match=r"detr\.pth: "):
            load(tmp_path / "detr.pth")


@pytest.mark.parametrize("settings", [{"id2label": ["a"]}, {"backbone_config": "resnet50"}, {"backbone_kwargs": [16]}])
def test_odd_settings_are_left_aside(settings: dict[str, object], tmp_path: Path) -> None:
    for name, content in hub_files(small_model(), "model.safetensors").items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "config.json").write_text(json.dumps(settings))
    assert ts.load(tmp_path, "cpu").config == SMALL


def test_a_training_checkpoint_of_the_authors_is_loaded(tmp_path: Path) -> None:
    state = as_authors(small_model().state_dict())
    arguments = argparse.Namespace(lr=1e-4, masks=True, output_dir="")
    torch.save({"model": state, "optimizer": {"state": {}}, "epoch": 24, "args": arguments}, tmp_path / "c.pth")
    assert same(ts.load(tmp_path / "c.pth", "cpu"), small_model().state_dict())


# ---- the hub


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return empty_cache(tmp_path / "cache", monkeypatch)


@pytest.fixture
def hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving(
        Hub({REPOSITORY: {"main": hub_files(small_model(), "model.safetensors", "pytorch_model.bin")}})
    ) as hub:
        use(hub.endpoint, monkeypatch)
        yield hub


NOWHERE = "http://127.0.0.1:9"


def test_a_name_is_fetched_once(hub: Hub) -> None:
    for _ in range(2):
        loaded = ts.load(NAME, "cpu")
        assert same(loaded, small_model().state_dict())
        assert (loaded.name, loaded.categories) == (NAME, COCO_PANOPTIC)
    assert sorted(hub.downloads()) == ["config.json", "model.safetensors"]


def test_what_was_fetched_works_without_the_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    ts.load(NAME, "cpu")
    use(NOWHERE, monkeypatch)
    assert same(ts.load(NAME, "cpu"), small_model().state_dict())


@pytest.mark.parametrize("how", ["unreachable", "offline", "failing"])
def test_settings_that_were_not_fetched_are_done_without(how: str, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = hub.repositories[REPOSITORY]["main"].pop("config.json")
    ts.load(NAME, "cpu")
    hub.repositories[REPOSITORY]["main"]["config.json"] = settings
    for known_missing in Path(constants.HF_HUB_CACHE).rglob(".no_exist/*/config.json"):
        known_missing.unlink()
    if how == "unreachable":
        use(NOWHERE, monkeypatch)
    elif how == "offline":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    else:
        hub.status = 500
    assert same(ts.load(NAME, "cpu"), small_model().state_dict())


def test_where_there_are_no_safetensors_the_pickled_tensors_are_read(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repositories[REPOSITORY]["main"].pop("model.safetensors")
    assert same(ts.load(NAME, "cpu"), small_model().state_dict())
    assert sorted(hub.downloads()) == ["config.json", "pytorch_model.bin"]
    use(NOWHERE, monkeypatch)
    assert same(ts.load(NAME, "cpu"), small_model().state_dict())


def test_settings_may_be_missing(hub: Hub) -> None:
    hub.repositories[REPOSITORY]["main"].pop("config.json")
    assert same(ts.load(NAME, "cpu"), small_model().state_dict())


def test_a_revision_is_honoured(hub: Hub) -> None:
    other = small_model(seed=1)
    hub.repositories[REPOSITORY]["v2"] = hub_files(other, "model.safetensors")
    assert same(ts.load(NAME, "cpu", revision="v2"), other.state_dict())
    assert same(ts.load(NAME, "cpu"), small_model().state_dict())
    with pytest.raises(ts.InputError, match=r"revision v3\).*no such revision"):
        ts.load(NAME, revision="v3")


def test_a_new_version_on_the_hub_is_fetched(hub: Hub) -> None:
    ts.load(NAME, "cpu")
    other = small_model(seed=1)
    hub.repositories[REPOSITORY]["main"] = hub_files(other, "model.safetensors")
    assert same(ts.load(NAME, "cpu"), other.state_dict())


def test_names_of_dilated_models_make_them_dilated(hub: Hub) -> None:
    name = "detr-panoptic-r50-dc5"
    hub.repositories[PUBLISHED[name]] = {"main": hub_files(small_model(), "model.safetensors")}
    loaded = ts.load(name, "cpu")
    assert (loaded.name, loaded.config.backbone.dilated) == (name, True)


def test_a_path_goes_before_a_name(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / NAME).mkdir()
    other = small_model(seed=1)
    checkpoint.save(tmp_path / NAME / "last.safetensors", other)
    assert same(ts.load(NAME, "cpu"), other.state_dict())
    assert not hub.requests


@pytest.mark.parametrize(
    ("status", "reason"),
    [(401, "no such repository, or it asks for a login"), (403, "403"), (500, "500"), (503, "503")],
)
def test_a_hub_that_refuses_is_one_message(hub: Hub, status: int, reason: str) -> None:
    hub.status = status
    check_message(hub.endpoint, reason)


def test_a_missing_repository_is_one_message(hub: Hub) -> None:
    hub.repositories.clear()
    check_message(hub.endpoint, "no such repository")


def test_a_repository_without_weights_is_one_message(hub: Hub) -> None:
    files = hub.repositories[REPOSITORY]["main"]
    hub.repositories[REPOSITORY]["main"] = {"config.json": files["config.json"]}
    check_message(hub.endpoint, "no such file", "model.safetensors or pytorch_model.bin")


def test_without_network_and_cache_one_message_says_how_to_go_on(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(NOWHERE, monkeypatch)
    message = check_message(NOWHERE, "")
    assert str(cache) in message


def test_offline_mode_without_cache_is_one_message(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    check_message(hub.endpoint, "offline")
    assert not hub.requests


def check_message(endpoint: str, reason: str, file: str = "model.safetensors") -> str:
    with pytest.raises(ts.InputError) as caught:
        ts.load(NAME)
    message = str(caught.value)
    assert f"{file} of {REPOSITORY} (revision main) from {endpoint}: " in message
    assert reason in message
    assert "--weights FILE" in message
    assert "\n" not in message
    return message


def test_a_download_that_is_cut_short_is_refused_and_not_kept(hub: Hub) -> None:
    hub.cut_short = True
    with pytest.raises(ts.InputError, match=r"model\.safetensors of .* should be of size"):
        ts.load(NAME)
    hub.cut_short = False
    assert same(ts.load(NAME, "cpu"), small_model().state_dict())


def test_broken_weights_on_the_hub_name_the_file_to_delete(hub: Hub) -> None:
    files = hub.repositories[REPOSITORY]["main"]
    files["model.safetensors"] = files["model.safetensors"][:-1000]
    with pytest.raises(ts.InputError, match=rf"{REPOSITORY} .*model\.safetensors cannot be read.*delete the file"):
        ts.load(NAME)


# ---- the command


def test_predict_without_weights_offline_is_one_message(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use(NOWHERE, monkeypatch)
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save("a.png")
    monkeypatch.setattr(sys, "argv", ["thingstuff", "predict", "a.png"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("thingstuff: weights could not be fetched: model.safetensors of")
    assert "Traceback" not in message
    assert not Path("predictions").exists()


def test_predict_without_weights_fetches_from_the_environment_s_hub(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(tmp_path / "a.png")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    with serving(Hub({REPOSITORY: {"main": hub_files(small_model(), "model.safetensors")}})) as hub:
        environment |= {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home")}
        program = [sys.executable, "-m", "thingstuff.cli", "predict", "a.png"]
        done = subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert sorted(hub.downloads()) == ["config.json", "model.safetensors"]
    assert list((tmp_path / "home").rglob("model.safetensors"))
    (entry,) = json.loads((tmp_path / "predictions" / "panoptic.json").read_text())["annotations"]
    assert entry["file_name"] == "a.png"


@pytest.mark.parametrize("precision", ["fp64", "fp16"])
def test_a_wrong_precision_is_refused_before_weights_are_fetched(
    precision: str, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    message = refused_predict(tmp_path, monkeypatch, capsys, "--precision", precision)
    assert f"precision {precision}" in message.replace("'", "")
    assert not hub.requests


def test_predict_takes_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "a.safetensors"
    checkpoint.save(weights, small_model())
    for settings, message in ((["treshold=1"], "'threshold'"), (["min_area=0", "queries=7"], "queries=7")):
        options = [word for setting in settings for word in ("--set", setting)]
        assert message in refused_predict(tmp_path, monkeypatch, capsys, "--weights", str(weights), *options)
    monkeypatch.setattr(sys, "argv", ["thingstuff", "predict", "a.png", "--weights", str(weights), *SMALL_PICTURES])
    sizes = []
    batch = PanopticModel.batch
    monkeypatch.setattr(PanopticModel, "batch", lambda *args: sizes.append((made := batch(*args)).sizes) or made)
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    assert sizes == [((32, 42),)]  # rounded down


def test_evaluate_takes_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_scenes(tmp_path / "data", train=1, val=1, config=SceneConfig(size=(64, 80)))
    weights = tmp_path / "a.safetensors"
    checkpoint.save(weights, small_model())
    words = ["evaluate", str(tmp_path / "data"), "--weights", str(weights), "--set", "queries=7"]
    assert "queries=7" in refused(monkeypatch, capsys, *words)
    words = ["evaluate", "--gt", "a.json", "--pred", "b.json", "--set", "queries=7"]
    assert "give either DATA --weights" in refused(monkeypatch, capsys, *words)


SMALL_PICTURES = ("--set", "preprocess.short_side=32", "--set", "threshold=0.5")


def refused_predict(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *options: str
) -> str:
    monkeypatch.chdir(folder)
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save("a.png")
    return refused(monkeypatch, capsys, "predict", "a.png", *options)


def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    monkeypatch.setattr(sys, "argv", ["thingstuff", *words])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    return capsys.readouterr().err
