"""convert, check and show as a person calls them: what is printed, exit codes, and what is said of wrong turns."""

import json
from pathlib import Path

import pytest
import torch

from command_line import call
from made_labels import make_labels
from thingstuff import checkpoint
from thingstuff.data.coco import CocoPanoptic
from thingstuff.io import read_json
from thingstuff.models import create
from thingstuff.panoptic import Categories


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_labels(tmp_path_factory.mktemp("labels") / "labels", 4)


@pytest.fixture
def labels(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of labels as `labels` in an empty current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "labels").symlink_to(original)
    return Path("labels")


def test_convert_says_what_it_recognised_and_what_came_of_it(labels: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rules = ["--merge", "round=disc", "--drop", "star", "--stuff", "box", "--background", "ground", "--copy"]
    assert call("convert", labels, "--to", "data", *rules, "--workers", 1) == 0
    shown = capsys.readouterr().out
    for part in (
        "format: labelme (",
        "found:  4 pictures, 3 classes",
        "Splits",
        "Overlaps",
        "next:    thingstuff check data",
    ):
        assert part in shown
    categories = CocoPanoptic.open("data", "train").categories
    kinds = dict(zip(categories.names, categories.things, strict=True))
    assert kinds == {"box": False, "ground": False, "round": True}
    assert call("check", "data") == 0
    assert call("show", "data", "--out", "pages", "--workers", 1) == 0
    assert "page: pages/index.html" in capsys.readouterr().out


def test_rules_of_a_file_and_of_the_command_line(labels: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("classes.yaml").write_text("merge: {shape: [box, star]}\nids: {shape: 40}\nbackground: rest\n")
    assert (
        call("convert", labels, "--to", "data", "--classes", "classes.yaml", "--things", "shape", "--workers", 1) == 0
    )
    entries = read_json("data/panoptic_train.json")["categories"]
    assert {e["name"]: (e["id"], e["isthing"]) for e in entries} == {"disc": (1, 1), "rest": (2, 0), "shape": (40, 1)}


def test_few_pictures_that_stray_from_the_share_are_told(labels: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("convert", labels, "--to", "data", "--split", "0.99", "--workers", 1) == 0
    shares = {path.stem: len(read_json(path)["images"]) for path in Path("data").glob("panoptic_*.json")}
    told = "of the pictures fell to train, 99% were asked for" in " ".join(capsys.readouterr().out.split())
    assert told == (shares != {"panoptic_train": 4} or len(shares) == 1)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("nowhere", "--to", "out"), "nowhere is not there"),
        (("labels", "--to", "out", "--from", "cvt"), "--from cvt: no such format; there are coco-panoptic"),
        (("labels", "--to", "out", "--overlap", "top"), "--overlap top: give one of smaller-on-top"),
        (("labels", "--to", "out", "--merge", "disc"), "--merge 'disc' is not of the form NEW=OLD1,OLD2"),
        (("labels", "--to", "out", "--drop", "dics"), "did you mean 'disc'"),
        (("labels", "--to", "out", "--split", "80"), "--split 80"),
        (("labels", "--to", "out", "--group", "a"), "give --split too"),
        (("labels", "--to", "out", "--rim", "3"), "--rim speaks of filling in"),
        (("labels", "--to", "out", "--fill-things"), "--fill-things speaks of filling in"),
        (("labels", "--to", "out", "--fill-stuff-with", "nothing/here"), "nothing/here"),
        (("labels", "--to", "out", "--background", "disc"), "'disc' is a class of things already"),
        (("labels", "--to", "out", "--drop-filled"), "labelme labels do not say what a model filled in"),
        (("labels", "--to", "out", "--components"), "--components says nothing of labelme labels"),
        (("labels", "--to", "labels"), "would be written over"),
        (("labels", "--to", "out", "--as", "voc"), "--as voc: no such format to write; there are coco-panoptic"),
        (("labels", "--to", "out", "--as", "yolo", "--drop", "disc"), "convert with --drop to coco-panoptic first"),
        (("labels", "--to", "out", "--as", "yolo", "--from", "labelme"), "reads coco-panoptic alone"),
    ],
)
def test_wrong_turns_are_one_message(
    labels: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], told: str
) -> None:
    assert call("convert", *words) == 2
    assert told in capsys.readouterr().err
    assert not Path("out").exists(), "nothing is written before the arguments are known to be right"


def test_broken_pictures_are_told_and_left_out_on_request(labels: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine").mkdir()
    for path in labels.iterdir():
        (Path("mine") / path.name).write_bytes(path.read_bytes())
    Path("mine/001.json").write_text("{")
    assert call("convert", "mine", "--to", "data", "--workers", 1) == 2
    assert "1 of 4 pictures cannot be converted" in capsys.readouterr().err
    assert call("convert", "mine", "--to", "data", "--workers", 1, "--skip-broken") == 0
    shown = capsys.readouterr().out
    assert "left out: 1 picture that" in shown
    assert "mine/001.json: broken JSON" in shown


def test_stuff_is_filled_in_left_out_and_filled_again(labels: Path, capsys: pytest.CaptureFixture[str]) -> None:
    categories = Categories(("disc", "sea", "sky"), (True, False, False), (1, 2, 3))
    torch.manual_seed(0)
    model = create("panoptic-fpn-tiny", categories)
    checkpoint.save(Path("w.safetensors"), model)
    fill = ["--fill-stuff-with", "w.safetensors", "--min-score", 0, "--rim", 2, "--workers", 1]
    assert call("convert", labels, "--to", "filled", *fill, "--fill-map", "sea=water") == 0
    marked = [
        s for a in read_json("filled/panoptic_train.json")["annotations"] for s in a["segments_info"] if "filled" in s
    ]
    assert marked
    assert all(s["filled"]["by"] == "w.safetensors" for s in marked)
    assert call("convert", "filled", "--to", "drawn", "--drop-filled", "--workers", 1) == 0
    left = [s for a in read_json("drawn/panoptic_train.json")["annotations"] for s in a["segments_info"]]
    assert left
    assert not [s for s in left if "filled" in s]


def test_check_and_show_end_as_they_should(labels: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("convert", labels, "--to", "data", "--workers", 1) == 0
    path = Path("data/panoptic_train.json")
    content = read_json(path)
    content["annotations"][0]["segments_info"][0]["area"] += 1
    path.write_text(json.dumps(content))
    assert call("check", "data", "--json", "found.json") == 1
    assert "wrong area (1)" in capsys.readouterr().out
    assert call("show", "data", "--findings", "found.json", "--workers", 1) == 0
    assert call("show", "data", "--findings", "found.json", "--no-check") == 2
    assert call("check", "data", "--fix", "checked") == 0
    assert call("check", "checked") == 0
    for words, told in ((("check", "nowhere"), "is not there"), (("show", "labels"), "no split")):
        capsys.readouterr()
        assert call(*words) == 2
        assert told in capsys.readouterr().err
