"""YOLO segmentation, made by the packages that write it.

tests/labels/yolo/ultralytics: the text file of ultralytics 8.4.190 (`convert_coco` with segments) for a car of two
rectangles and a tree of three corners in a picture of 80 x 60; label_studio: the YOLO export of label-studio-sdk 2.1.2
(`Converter.convert_to_yolo`) for a region of two labels and a box in a picture of 40 x 24.
"""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from thingstuff.convert.formats import open_source as open_any
from thingstuff.convert.source import Source, SourceLabels, SourceObject, SourceOptions
from thingstuff.convert.yolo import label_path, open_source, recognise
from thingstuff.errors import InputError

LABELS = Path(__file__).parent / "labels" / "yolo"


def picture(path: Path, width: int = 80, height: int = 60, turned: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    if turned:
        exif[0x0112] = turned
    Image.new("L", (width, height)).save(path, exif=exif)
    return path


def street(folder: Path) -> Path:
    shutil.copytree(LABELS / "ultralytics", folder / "set")
    picture(folder / "set" / "images" / "val" / "street.jpg")
    return folder / "set"


def text(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def opened(path: Path, names: Path | None = None) -> Source:
    return open_source(path, "", SourceOptions(names=names))


def read(source: Source, number: int = 0) -> SourceLabels:
    sent = pickle.dumps((source.read, source.pictures[number]))
    reader, found = pickle.loads(sent)  # noqa: S301 - as it goes to another process
    labels: SourceLabels = reader(found)
    return labels


def mask(drawn: SourceObject, size: tuple[int, int]) -> np.ndarray:
    whole = np.zeros(size, dtype=np.bool_)
    drawn.region.paint(whole)
    return whole


def test_an_object_of_two_pieces_is_one_and_its_bridge_has_no_pixels(tmp_path: Path) -> None:
    source = open_any(street(tmp_path))
    assert source.format == "yolo"
    assert source.reason == "data.yaml names classes and the pictures of splits"
    assert [(c.name, c.id) for c in source.classes] == [("car", 1), ("tree", 2)]
    assert [(p.key, p.split) for p in source.pictures] == [("street", "val")]
    assert source.notes == ("data.yaml names images/test for test, which is not there",)
    labels = read(source)
    assert labels.size == (60, 80)
    assert [o.name for o in labels.objects] == ["car", "tree"]
    car, tree = (mask(o, (60, 80)) for o in labels.objects)
    pieces = np.zeros((60, 80), dtype=np.bool_)
    pieces[12:36, 8:24] = True
    pieces[18:30, 40:64] = True
    np.testing.assert_array_equal(car, pieces)
    assert int(tree.sum()) == pytest.approx(32 * 15 / 2, rel=0.05)


def test_label_studios_export_has_its_classes_in_a_text_file(tmp_path: Path) -> None:
    shutil.copytree(LABELS / "label_studio", tmp_path / "set")
    picture(tmp_path / "set" / "images" / "1a2b3c4d-space.png", 40, 24)
    source = open_any(tmp_path / "set")
    assert source.reason == "labels/1a2b3c4d-space.txt holds lines of a class and shares"
    assert [(c.name, c.id) for c in source.classes] == [("cloud", 1), ("planet", 2), ("sky", 3)]
    assert source.pictures[0].split is None
    labels = read(source)
    assert [o.name for o in labels.objects] == ["sky", "cloud"]
    assert labels.notes == ("bounding box alone, which is no mask",)
    np.testing.assert_array_equal(np.argwhere(mask(labels.objects[0], (24, 40)))[[0, -1]], [[0, 20], [5, 39]])
    (tmp_path / "set" / "classes.txt").rename(tmp_path / "names.txt")
    with pytest.raises(InputError, match=r"has no classes.txt.*--names"):
        opened(tmp_path / "set")
    assert len(opened(tmp_path / "set", tmp_path / "names.txt").classes) == 3


def test_roboflows_layout_has_folders_of_splits_with_pictures_of_one_name(tmp_path: Path) -> None:
    text(tmp_path / "data.yaml", "train: ../train/images\nval: ../valid/images\n\nnc: 1\nnames: ['date']\n")
    for split in ("train", "valid"):
        picture(tmp_path / split / "images" / "a.1.rf.jpg")
        text(tmp_path / split / "labels" / "a.1.rf.txt", "0 0.25 0.25 0.75 0.25 0.75 0.75\n")
    source = opened(tmp_path)
    assert [(p.key, p.split) for p in source.pictures] == [("train/a.1.rf", "train"), ("val/a.1.rf", "val")]
    assert [len(read(source, n).objects) for n in (0, 1)] == [1, 1]


def test_lists_of_pictures_are_read_as_cvat_writes_them(tmp_path: Path) -> None:
    """docs.cvat.ai, "Ultralytics YOLO": train.txt beside data.yaml."""
    text(tmp_path / "data.yaml", "path: ./\ntrain: train.txt\nnames:\n  0: person\n")
    text(tmp_path / "train.txt", "images/train/one.png\n./images/train/inner/two.png\n")
    picture(tmp_path / "images" / "train" / "one.png")
    picture(tmp_path / "images" / "train" / "inner" / "two.png")
    picture(tmp_path / "images" / "train" / "not_listed.png")
    text(tmp_path / "labels" / "train" / "one.txt", "0 0.1 0.1 0.5 0.1 0.5 0.5\n")
    source = opened(tmp_path / "data.yaml")
    assert [p.key for p in source.pictures] == ["one", "inner/two"]
    assert read(source, 1) == SourceLabels((60, 80), ())  # without a text file: no objects
    text(tmp_path / "train.txt", "images/train/one.png\nimages/train/gone.png\n")
    with pytest.raises(InputError, match=r"train.txt names pictures that are not there(.|\n)*gone.png"):
        opened(tmp_path)


def test_several_folders_and_other_names_of_splits(tmp_path: Path) -> None:
    text(tmp_path / "data.yaml", "train: [images/a, images/b]\nval:\nextra: images/c\nnames: [x]\nlicense: CC0\n")
    for name in "abc":
        picture(tmp_path / "images" / name / "1.jpg")
    text(tmp_path / "labels" / "b" / "1.txt", "0 0.1 0.1 0.5 0.1 0.5 0.5")
    source = opened(tmp_path)
    assert [(p.key, p.split) for p in source.pictures] == [
        ("train/a/1", "train"),
        ("train/b/1", "train"),
        ("extra/1", "extra"),
    ]


def test_shares_are_of_the_upright_picture(tmp_path: Path) -> None:
    path = street(tmp_path)
    picture(path / "images" / "val" / "street.jpg", 60, 80, turned=6)
    assert read(opened(path)).size == (60, 80)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2 0.1 0.1 0.5 0.1 0.5 0.5", "class 2 is none of the 2 that are named"),
        ("0.5 0.1 0.1 0.5 0.1 0.5 0.5", "class 0.5 is none"),
        ("car 0.1 0.1 0.5 0.1 0.5 0.5", "'car' is no index of a class"),
        ("nan 0.1 0.1 0.5 0.1 0.5 0.5", "class nan is none"),
        ("0 0.1 0.1 0.5 0.1 0.5 0.5 0.93", "7 numbers after the class are no pairs; leave out a confidence"),
        ("0 0.1 0.1 0.5 x 0.5 0.5", "could not convert string to float: 'x'"),
        ("0 0.1 nan 0.5 0.1 0.5 0.5", "nan is no share"),
        ("0 10 10 50 10 50 40", "10 is no share of the picture from 0 to 1; divide pixels"),
        ("0 0.1 0.1", "a polygon of 2 numbers"),
    ],
)
def test_broken_lines_are_named(tmp_path: Path, line: str, message: str) -> None:
    path = street(tmp_path)
    text(path / "labels" / "val" / "street.txt", f"1 0.1 0.1 0.5 0.1 0.5 0.5\n\n{line}\n")
    with pytest.raises(InputError, match=message) as caught:
        read(opened(path))
    assert "street.txt: line 3" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("train: images/gone\nnames: [car]", "train: images/gone is not there"),
        ("val: images/val\nnames: [car]\nkpt_shape: [17, 3]", "kpt_shape: its labels are keypoints"),
        ("val: 7\nnames: [car]", "val: 7 is neither a path nor a list"),
        ("val: images/val\nnames: []", "names no class"),
        ("val: labels\nnames: [car]", "leads to no picture"),
    ],
)
def test_a_broken_yaml_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = street(tmp_path)
    text(path / "data.yaml", content)
    with pytest.raises(InputError, match=message):
        opened(path)


def test_pictures_without_any_text_file_are_refused(tmp_path: Path) -> None:
    path = street(tmp_path)
    (path / "labels" / "val" / "street.txt").unlink()
    with pytest.raises(InputError, match=r"labels/val/street.txt is not there, nor is a text file for any other"):
        opened(path)


def test_other_folders_are_not_claimed(tmp_path: Path) -> None:
    text(tmp_path / "panoptic.yaml", "train: {pictures: train, maps: panoptic_train, json: panoptic_train.json}\n")
    assert recognise(tmp_path) is None
    assert recognise(tmp_path / "panoptic.yaml") is None
    text(tmp_path / "broken.yaml", "names: [")
    assert recognise(tmp_path) is None
    picture(tmp_path / "images" / "a.png")
    text(tmp_path / "labels" / "a.txt", "some words\n")
    assert recognise(tmp_path) is None
    with pytest.raises(InputError, match=r"broken.yaml: line 1: it is no YAML .*; correct it"):
        opened(tmp_path / "broken.yaml")
    text(tmp_path / "list.yaml", "- names\n")
    with pytest.raises(InputError, match="names no classes and splits"):
        opened(tmp_path / "list.yaml")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("val: images/val\nnames:\n\t0: car\n", "line 3: it is no YAML .*character.*; correct it"),
        ("val: images/val\nnames: [car, tree\n", "line 3: it is no YAML"),
        ("val: images/val\nnames\n  0: car\n", "line 3: it is no YAML"),
        ("val: [\n", "line 2: it is no YAML"),
        ("val: images/val\nnames: [car\x07]\n", "is no YAML .*special characters"),
    ],
)
@pytest.mark.parametrize("folder", [True, False])
def test_a_yaml_that_is_none_is_told_with_its_line(tmp_path: Path, content: str, told: str, folder: bool) -> None:
    path = street(tmp_path)
    text(path / "data.yaml", content)
    with pytest.raises(InputError, match=rf"data\.yaml:? {told}"):
        open_any(path if folder else path / "data.yaml")


def test_a_yaml_of_16_bits_is_told(tmp_path: Path) -> None:
    path = street(tmp_path)
    (path / "data.yaml").write_text("val: images/val\nnames: [car]\n", encoding="utf-16")
    with pytest.raises(InputError, match=r"data\.yaml is no UTF-8 text .*; write it anew"):
        open_any(path)


def test_folders_of_splits_without_a_yaml(tmp_path: Path) -> None:
    text(tmp_path / "classes.txt", "date\n")
    for split in ("train", "valid"):
        picture(tmp_path / "images" / split / f"{split}.png")
    text(tmp_path / "labels" / "train" / "train.txt", "0 0.1 0.1 0.5 0.1 0.5 0.5")
    assert [(p.key, p.split) for p in opened(tmp_path).pictures] == [("train/train", "train"), ("val/valid", "val")]
    assert label_path(Path("/images/a/images/b/c.1.png")) == Path("/images/a/labels/b/c.1.txt")
