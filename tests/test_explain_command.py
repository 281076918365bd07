"""`thingstuff explain` as a person calls it: what it prints and writes, ground truth, and wrong turns."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from command_line import call
from html_pages import Page
from models_contract import CATEGORIES, panoptic, scene
from thingstuff import checkpoint
from thingstuff.errors import InputError
from thingstuff.explain_command import find_truth
from thingstuff.io import write_id_map
from thingstuff.models import create

NAME = "panoptic-fcn-tiny"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of a model that has learned nothing."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("run")
    checkpoint.save(folder / "best.safetensors", create(NAME, CATEGORIES))
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data set of one scene in each of two splits, under the same name."""
    for split in ("train", "val"):
        write_split(tmp_path / "data", split)
    return tmp_path / "data"


def write_split(data: Path, split: str, name: str = "scene.png") -> None:
    picture, truth = scene(shift=4 if split == "val" else 0)
    (data / split / name).parent.mkdir(parents=True, exist_ok=True)
    (data / f"panoptic_{split}").mkdir(exist_ok=True)
    Image.fromarray(picture).save(data / split / name)
    write_id_map(data / f"panoptic_{split}" / "scene.png", truth.ids)
    content = {
        "images": [{"id": 1, "file_name": name, "height": truth.size[0], "width": truth.size[1]}],
        "annotations": [truth.to_coco("scene.png", 1)],
        "categories": CATEGORIES.to_coco(),
    }
    (data / f"panoptic_{split}.json").write_text(json.dumps(content))


def test_it_writes_a_page_and_figures(weights: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, figures = data.parent / "pages" / "page.html", data.parent / "figures"
    words = ["explain", data / "val" / "scene.png", "--weights", weights, "--out", out, "--truth", data]
    words += ["--set", "thing_threshold=0.01"]
    assert call(*words, "--figures", figures) == 0
    printed = capsys.readouterr().out
    assert "steps through PanopticFCN" in printed
    assert f"page: {out} (" in printed
    drawn = list(figures.glob("*.png"))
    assert f"figures: {figures} ({len(drawn)} PNGs, " in printed
    assert len(drawn) > 20
    text = " ".join(Page(out).text.values())
    assert "scene.png" in text
    assert "arget" in text, "ground truth gives targets to look at"
    before = out.read_bytes()
    assert call(*words) == 2
    assert "page.html is there already; give another file for the page, or --overwrite" in capsys.readouterr().err
    assert call(*words, "--overwrite") == 0
    assert out.read_bytes() == before, "the same model and picture give the same bytes"


def test_wrong_turns_are_told_in_one_line(weights: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture, out = data / "val" / "scene.png", data.parent / "page.html"
    (data.parent / "file").write_text("")
    for words, message in (
        ((data / "none.jpg",), "none.jpg is not there"),
        ((picture, "--truth", data / "none.json"), "none.json is not there"),
        ((picture, "--truth", data.parent / "none"), "none is not there"),
        ((picture, "--figures", data.parent / "file"), "file is a file; give a folder for the figures"),
        ((picture, "--set", "no.such=1"), "no.such"),
        ((picture, "--out", data), "data is a folder; give a file for the page"),
    ):
        assert call("explain", *words, "--weights", weights, *(() if "--out" in words else ("--out", out))) == 2
        error = capsys.readouterr().err
        assert message in error
        assert "Traceback" not in error
    assert not out.exists()


def test_ground_truth_of_other_categories_is_refused(
    weights: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    json_path = data / "panoptic_val.json"
    json_path.write_text(json_path.read_text().replace('"disc"', '"disk"'))
    picture = data / "val" / "scene.png"
    assert call("explain", picture, "--weights", weights, "--truth", json_path, "--out", data / "page.html") == 2
    assert "the data lack disc; the weights lack disk" in capsys.readouterr().err


def test_ground_truth_is_that_of_the_picture_s_own_split(data: Path) -> None:
    for split, shift in (("train", 0), ("val", 4)):
        found = find_truth(data, data / split / "scene.png")
        assert (found.panoptic(0).ids == panoptic(scene(shift=shift)[1].semantic()).ids).all()
    shutil.rmtree(data / "train")
    alone = find_truth(data / "panoptic_train.json", data / "val" / "scene.png")
    assert (alone.panoptic(0).ids == scene()[1].ids).all(), "without its pictures a JSON is taken at its word"


def test_another_picture_of_the_name_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"lists .*train.scene\.png, and .*val.scene\.png is another picture"):
        find_truth(data / "panoptic_train.json", data / "val" / "scene.png")
    copy = tmp_path / "scene.png"
    shutil.copy(data / "train" / "scene.png", copy)
    assert find_truth(data / "panoptic_train.json", copy).paths.json == data / "panoptic_train.json"


def test_a_picture_that_may_be_several_is_refused(data: Path, tmp_path: Path) -> None:
    stray = tmp_path / "scene.png"
    shutil.copy(data / "val" / "scene.png", stray)
    with pytest.raises(InputError, match=r"several pictures named scene\.png"):
        find_truth(data, stray)
    with pytest.raises(InputError, match=r"lists no picture named other\.png"):
        find_truth(data, tmp_path / "other.png")
    with pytest.raises(InputError, match=r"no panoptic_\*\.json"):
        find_truth(data / "val", stray)


def test_folders_in_names_tell_pictures_apart(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_split(data, "val", "a/scene.png")
    content = json.loads((data / "panoptic_val.json").read_text())
    content["images"].append({**content["images"][0], "id": 2, "file_name": "b/scene.png"})
    (data / "panoptic_val.json").write_text(json.dumps(content))
    elsewhere = tmp_path / "a" / "scene.png"
    elsewhere.parent.mkdir()
    shutil.copy(data / "val" / "a" / "scene.png", elsewhere)
    for picture in (data / "val" / "a" / "scene.png", elsewhere):
        assert find_truth(data / "panoptic_val.json", picture).records[0].image_id == 1
    (data / "val" / "b").mkdir()
    shutil.copy(elsewhere, data / "val" / "b")
    with pytest.raises(InputError, match="has no usable annotation"):
        find_truth(data, data / "val" / "b" / "scene.png")


def test_faults_of_other_pictures_do_not_matter(data: Path) -> None:
    path = data / "panoptic_val.json"
    content = json.loads(path.read_text())
    content["images"] += ["nothing", {"id": 1.5, "file_name": "x.png"}]
    content["annotations"].append({"image_id": 77})
    path.write_text(json.dumps(content))
    assert len(find_truth(path, data / "val" / "scene.png")) == 1
