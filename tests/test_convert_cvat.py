"""CVAT's XML: the example of its documentation, and a project's export.

tests/labels/cvat/task and video.xml are the examples of docs.cvat.ai, "XML annotation format" (MIT), shortened;
project is laid out as CVAT's exporter (dataset_manager/formats/cvat.py) writes a project of two tasks.
"""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from thingstuff.convert.cvat import open_source, recognise
from thingstuff.convert.formats import open_source as open_any
from thingstuff.convert.source import Source, SourceLabels, SourceObject, SourceOptions
from thingstuff.errors import InputError

LABELS = Path(__file__).parent / "labels" / "cvat"


def made(folder: Path, name: str, *pictures: tuple[str, int, int]) -> Path:
    """A copy of the fixture with pictures of (path, width, height)."""
    shutil.copytree(LABELS / name, folder / name)
    for picture, width, height in pictures:
        (folder / name / picture).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (width, height)).save(folder / name / picture)
    return folder / name


def task(folder: Path) -> Path:
    return made(folder, "task", ("images/filename000.jpg", 1600, 1200))


def project(folder: Path) -> Path:
    inner = "north/yard.png"
    return made(folder, "project", (f"images/Train/{inner}", 40, 30), (f"images/Validation/{inner}", 20, 10))


def opened(path: Path, pictures: Path | None = None) -> Source:
    return open_source(path, "", SourceOptions(pictures=pictures))


def changed(path: Path, old: str, new: str) -> Source:
    file = path / "annotations.xml"
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), encoding="utf-8")
    return opened(path)


def read(source: Source, number: int = 0) -> SourceLabels:
    sent = pickle.dumps((source.read, source.pictures[number]))
    reader, picture = pickle.loads(sent)  # noqa: S301 - as it goes to another process
    labels: SourceLabels = reader(picture)
    return labels


def mask(drawn: SourceObject, size: tuple[int, int]) -> np.ndarray:
    whole = np.zeros(size, dtype=np.bool_)
    drawn.region.paint(whole)
    return whole


def test_the_documented_example_gives_its_polygon_and_mask(tmp_path: Path) -> None:
    path = task(tmp_path)
    source = open_any(path)
    assert source.format == "cvat"
    assert source.reason == "annotations.xml begins with CVAT's <annotations>"
    assert [c.name for c in source.classes] == ["car", "traffic_line", "wheel", "plate"]  # neither skeletons nor joints
    (picture,) = source.pictures
    assert (picture.key, picture.split, picture.image_id) == ("filename000", None, 0)
    labels = read(source)
    assert labels.size == (1200, 1600)
    below, above = labels.objects
    assert (below.layer, above.layer) == (0, 1)
    assert (below.region.top, below.region.left, below.region.mask.shape) == (888, 707, (15, 13))
    runs = [3, 5, 7, 7, 5, 9, 3, 11, 2, 11, 2, 12, 1, 12, 1, 26, 1, 12, 1, 12, 2, 11, 3, 9, 5, 7, 7, 5, 3]
    assert below.region.area == sum(runs[1::2])
    assert below.region.mask[0].tolist() == [False] * 3 + [True] * 5 + [False] * 5
    assert above.region.top == pytest.approx(265, abs=1)
    assert above.region.left == pytest.approx(528, abs=1)
    assert sorted(labels.notes) == [
        "bounding box alone, which is no mask",
        "points, which are no mask",
        "polyline, which is no mask",
        "polyline, which is no mask",
        "skeleton, which is no mask",
        "tag of the whole picture, which is no mask",
    ]


def test_a_project_has_splits_groups_layers_and_colours(tmp_path: Path) -> None:
    source = opened(project(tmp_path))
    assert [(c.name, c.color) for c in source.classes] == [
        ("car", (0x3D, 0x3D, 0xF5)),
        ("pole", (0xFF, 0xCC, 0x33)),
        ("puddle", (0x32, 0xB7, 0xFA)),
    ]
    assert [(p.key, p.split) for p in source.pictures] == [
        ("train/north/yard", "train"),
        ("val/north/yard", "val"),
    ]
    assert all(p.picture.is_file() for p in source.pictures)
    labels = read(source)
    assert [(o.name, o.layer) for o in labels.objects] == [("puddle", -1), ("car", 0), ("car", 0), ("pole", 1)]
    size = (30, 40)
    pieces = np.zeros(size, dtype=np.bool_)
    pieces[10:20, 4:10] = True
    pieces[10, 12:20] = True
    pieces[11, 14:20] = True
    pieces[12, 16:20] = True
    np.testing.assert_array_equal(mask(labels.objects[1], size), pieces)  # joined by their group, the puddle not
    upright = mask(labels.objects[0], size)
    rows, columns = np.nonzero(upright)
    assert (columns.min(), columns.max()) == (21, 26)
    assert rows.min() == 16
    assert read(source, 1).objects == ()
    assert read(source, 1).size == (10, 20)


def test_pictures_are_found_in_a_given_folder_and_without_a_suffix(tmp_path: Path) -> None:
    path = task(tmp_path)
    other = tmp_path / "elsewhere"
    (path / "images").rename(other)
    with pytest.raises(InputError, match=r"none of its 1 pictures, such as filename000.jpg.*--pictures"):
        opened(path)
    assert opened(path, other).pictures[0].picture == other / "filename000.jpg"
    Image.new("L", (1600, 1200)).save(other / "frame_000000.PNG")
    (path / "annotations.xml").write_text(
        (path / "annotations.xml").read_text(encoding="utf-8").replace("filename000.jpg", "frame_000000"),
        encoding="utf-8",
    )
    assert opened(path, other).pictures[0].picture.name.lower() == "frame_000000.png"
    assert opened(path, other).pictures[0].key == "frame_000000"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('width="40"', 'width="wide"', "width 'wide' is no whole number"),
        ('label="pole" ', "", "polygon 1 of None: label is missing"),
        (
            "10.00,0.00;12.00,0.00;12.00,30.00;10.00,30.00",
            "10.00,0.00;12.00,0.00",
            "polygon 1 of 'pole': a polygon of 4",
        ),
        ("10.00,0.00;12.00", "ten,0.00;12.00", "points 'ten' is no number"),
        ('rle="0, 8,', 'rle="0, 9,', "rle speaks of 25 pixels, not of 8 x 3"),
        ('rle="0, 8,', 'rle="0, -8,', "rle speaks of 8 pixels"),
        ('rle="0, 8,', 'rle="0, x,', "something else than whole numbers"),
        ('left="12"', 'left="33"', r"a mask of 8 x 3 at \(33, 10\) that does not lie in a picture of 40 x 30"),
        ('z_order="1"', 'z_order="up"', "z_order 'up' is no whole number"),
    ],
)
def test_broken_shapes_are_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    source = changed(project(tmp_path), old, new)
    with pytest.raises(InputError, match=message) as caught:
        read(source)
    assert "annotations.xml: image 'train/north/yard'" in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("</annotations>", "", "cannot be read as XML"),
        ("<annotations>", '<!DOCTYPE a [<!ENTITY e "x">]><annotations>', "cannot be read as XML"),
        ('name="north/yard.png" subset="Train"', 'name="../yard.png" subset="Train"', "is no path below the pictures"),
        ('subset="Validation"', 'subset="Train"', "stand twice(.|\n)*- north/yard: "),
        ("<name>pole</name>", "", "a <label> of <meta> has no <name>"),
    ],
)
def test_a_broken_file_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        changed(project(tmp_path), old, new)


def test_tracks_of_a_video_are_refused_with_the_export_to_choose(tmp_path: Path) -> None:
    assert recognise(LABELS / "video.xml")
    with pytest.raises(InputError, match=r"'CVAT for video'.*'CVAT for images 1.1'"):
        opened(LABELS / "video.xml")
    with pytest.raises(InputError, match="is not there"):
        opened(tmp_path)


def test_the_xml_itself_can_be_named_and_others_are_not_claimed(tmp_path: Path) -> None:
    path = task(tmp_path)
    assert len(opened(path / "annotations.xml").pictures) == 1
    voc = tmp_path / "voc.xml"
    voc.write_text("<annotation><folder>x</folder></annotation>", encoding="utf-8")
    assert recognise(voc) is None
    assert recognise(tmp_path) is None
    assert recognise(path / "images") is None


def test_a_label_that_no_meta_names_is_a_class(tmp_path: Path) -> None:
    source = changed(project(tmp_path), 'polygon label="pole"', 'polygon label="mast"')
    assert [c.name for c in source.classes] == ["car", "pole", "puddle", "mast"]
    size = (30, 40)
    expected = np.zeros(size, dtype=np.bool_)
    expected[:, 10:12] = True
    np.testing.assert_array_equal(mask(read(source).objects[-1], size), expected)
