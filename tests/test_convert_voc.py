"""Pairs of class and object PNGs, as VOC, LabelMe and CVAT have them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from thingstuff.convert import voc
from thingstuff.convert.class_names import voc_color
from thingstuff.convert.source import Source, SourceLabels, SourceOptions
from thingstuff.errors import InputError

# Written by datumaro 1.13.12 (`voc_segmentation` with apply_colormap and label_map=source), which is what CVAT's
# "Segmentation mask 1.1" calls: a rectangle each of cat, dog, cat in a/one (train), one of dog in two (val).
CVAT = Path(__file__).parent / "labels" / "cvat_masks"


def opened(folder: Path, **options: object) -> Source:
    return voc.open_source(folder, "for the test", SourceOptions(**options))  # type: ignore[arg-type]


def drawn(labels: SourceLabels) -> list[tuple[str, int | None, int]]:
    """Return (name, id, pixels) of each object."""
    return [(o.name, o.segment_id, o.region.area) for o in labels.objects]


def read_first(folder: Path) -> None:
    source = opened(folder)
    source.read(source.pictures[0])


def pair(folder: Path, classes: list[list[int]], objects: list[list[int]], palette: bool = True) -> Path:
    """Write one pair of PNGs and its picture, x."""
    for name, values in (("SegmentationClass", classes), ("SegmentationObject", objects)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(np.array(values, dtype=np.uint8))
        if palette:
            image.putpalette([part for index in range(256) for part in voc_color(index)])
        image.save(folder / name / "x.png")
    (folder / "JPEGImages").mkdir(exist_ok=True)
    Image.new("RGB", (len(classes[0]), len(classes))).save(folder / "JPEGImages" / "x.jpg")
    return folder


def test_cvats_masks_are_read_by_the_label_maps_colours() -> None:
    assert voc.recognise(CVAT) == "SegmentationClass and SegmentationObject lie side by side"
    source = opened(CVAT)
    classes = [(c.name, c.id, c.isthing, c.color) for c in source.classes]
    assert classes == [("cat", 1, None, (48, 112, 32)), ("dog", 2, None, (176, 112, 32))]
    assert [(p.key, p.split) for p in source.pictures] == [("a/one", "train"), ("two", "val")]
    one, two = map(source.read, source.pictures)
    assert one.size == (12, 16)
    assert drawn(one) == [("cat", None, 16), ("dog", None, 30), ("cat", None, 48)]
    assert drawn(two) == [("dog", None, 48)]
    dog = next(o.region for o in one.objects if o.name == "dog")
    assert (dog.top, dog.left, dog.mask.shape) == (3, 4, (6, 6))
    assert not one.ignored
    assert not one.notes


def test_labelmes_real_export(shared_data: Path) -> None:
    source = opened(shared_data / "labelme_voc_pairs")
    assert len(source.classes) == 20
    assert source.classes[-1].name == "tv/monitor"
    assert source.classes[-1].id == 20
    labels = {p.key: source.read(p) for p in source.pictures}
    assert drawn(labels["2011_000025"]) == [("bus", 1, 102450), ("bus", 2, 15781), ("car", 3, 7256)]
    classes = np.asarray(Image.open(shared_data / "labelme_voc_pairs/SegmentationClass/2011_000006.png"))
    painted = np.zeros_like(classes)
    ids = {c.name: c.id for c in source.classes}
    for entry in labels["2011_000006"].objects:
        painted[entry.region.window][entry.region.mask] = ids[entry.name]
    (ignored,) = labels["2011_000006"].ignored
    painted[ignored.window][ignored.mask] = 255
    assert np.array_equal(painted, classes)


def test_vocs_own_names_where_nothing_names_them(tmp_path: Path) -> None:
    source = opened(pair(tmp_path, [[15, 15, 0, 255]], [[1, 2, 0, 255]]))
    assert source.classes[14][:3] == ("person", 15, True)
    assert "VOC's own twenty" in source.notes[0]
    labels = source.read(source.pictures[0])
    assert drawn(labels) == [("person", 1, 1), ("person", 2, 1)]
    assert [(r.left, r.area) for r in labels.ignored] == [(3, 1)]


def test_numbers_count_where_the_palette_is_another(tmp_path: Path) -> None:
    folder = pair(tmp_path, [[2, 2, 0]], [[1, 1, 0]], palette=False)
    image = Image.open(folder / "SegmentationClass/x.png")
    image.load()
    image.putpalette([0, 0, 0, 9, 9, 9, *voc_color(1)])  # colour of 1, number 2
    image.save(folder / "SegmentationClass/x.png")
    source = opened(folder)
    assert drawn(source.read(source.pictures[0])) == [("bicycle", 1, 2)]


def test_an_object_of_several_classes(tmp_path: Path) -> None:
    strays = opened(pair(tmp_path / "a", [[7] * 39 + [15]], [[1] * 40]))
    labels = strays.read(strays.pictures[0])
    assert drawn(labels) == [("car", 1, 40)]
    assert labels.notes == ("stray pixels of another class in an object were given to its class",)
    # numbers that begin anew in each class
    anew = opened(pair(tmp_path / "b", [[7, 7, 7, 15, 15]], [[1, 1, 2, 1, 1]]))
    labels = anew.read(anew.pictures[0])
    assert sorted(drawn(labels), key=str) == [("car", 2, 1), ("car", None, 2), ("person", None, 2)]
    assert len(labels.notes) == 1
    assert "stands for several classes" in labels.notes[0]


def test_a_class_without_an_object_becomes_void(tmp_path: Path) -> None:
    source = opened(pair(tmp_path, [[7, 7, 0, 0]], [[0, 1, 1, 0]]))
    labels = source.read(source.pictures[0])
    assert drawn(labels) == [("car", 1, 1)]
    assert [(r.left, r.area) for r in labels.ignored] == [(0, 1)]
    assert labels.notes == ("pixels of a class without an object became void",)


def test_lists_give_splits(tmp_path: Path) -> None:
    folder = pair(tmp_path, [[7]], [[1]])
    lists = folder / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "trainval.txt").write_text("x\ny\n")
    assert opened(folder).pictures[0].split == "trainval"
    (lists / "val.txt").write_text("x\ny\n")
    source = opened(folder)
    assert source.pictures[0].split == "val"
    assert "1 pictures listed in ImageSets have no map" in source.notes[1]
    (lists / "val.txt").write_text("y\n")
    source = opened(folder)
    assert source.pictures[0].split is None
    assert source.notes[-1].startswith("1 pictures, such as x, are in no list of ImageSets/Segmentation: ")
    (lists / "val.txt").write_text("x\ny\n")
    (lists / "train.txt").write_text("x\n")
    with pytest.raises(InputError, match=r"x is listed in .*train.txt and in val.txt; remove it"):
        opened(folder)


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ("cat\ndog\n", "value 0 is the background in VOC's maps, and here it is 'cat'"),
        ("_background_\ncat\n", "holds the value 7, and no class has that number"),
    ],
)
def test_names_that_do_not_fit_are_refused(tmp_path: Path, names: str, told: str) -> None:
    folder = pair(tmp_path, [[7]], [[1]])
    (folder / "class_names.txt").write_text(names)
    with pytest.raises(InputError, match=told):
        read_first(folder)


def test_what_lacks_is_named(tmp_path: Path) -> None:
    folder = pair(tmp_path, [[7]], [[1]])
    with pytest.raises(InputError, match=r"name it \(--pictures\)"):
        opened(folder, pictures=tmp_path / "elsewhere")
    with pytest.raises(InputError, match="--semantic says nothing of VOC labels"):
        opened(folder, semantic=tmp_path)
    (folder / "JPEGImages/x.jpg").unlink()
    with pytest.raises(InputError, match="x: no picture"):
        opened(folder)
    (folder / "SegmentationObject/x.png").unlink()
    with pytest.raises(InputError, match="x: no map in SegmentationObject"):
        opened(folder)


def test_maps_of_different_sizes_are_refused(tmp_path: Path) -> None:
    source = opened(pair(tmp_path, [[7, 7]], [[1]]))
    with pytest.raises(InputError, match=r"differ in size \(2 x 1 and 1 x 1\)"):
        source.read(source.pictures[0])
