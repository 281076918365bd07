"""Semantic maps in the layouts people have them, and files of class names."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from thingstuff.convert import cityscapes, semantic, voc
from thingstuff.convert.class_names import NamedClass, legend_of, read_class_names, voc_color
from thingstuff.convert.formats import open_source as open_any
from thingstuff.convert.label_maps import read_label_map
from thingstuff.convert.shapes import distinct
from thingstuff.convert.source import Source, SourceLabels, SourceOptions
from thingstuff.errors import InputError

VALUES = [[0, 1, 1, 2], [2, 1, 0, 255]]


def write(path: Path, values: Any, dtype: type = np.uint8) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(values, dtype=dtype)).save(path)
    return path


def laid_out(folder: Path, picture: str, label_map: str, values: Any = VALUES, dtype: type = np.uint8) -> Path:
    """Write one picture, its map, and class names."""
    values = np.array(values)
    write(folder / picture, np.zeros((*values.shape[:2], 3)))
    write(folder / label_map, values, dtype)
    (folder / "classes.txt").write_text("background\nroad\ntree\n")
    return folder


def opened(folder: Path, **options: Any) -> Source:
    return semantic.open_source(folder, "for the test", SourceOptions(**options))


def drawn(labels: SourceLabels) -> list[tuple[str, int]]:
    return [(o.name, o.region.area) for o in labels.objects]


@pytest.mark.parametrize(
    ("picture", "label_map", "key", "split"),
    [
        ("images/a/x.jpg", "masks/a/x.png", "a/x", None),
        ("images/training/x.jpg", "annotations/training/x.png", "x", "train"),
        ("images/validation/x.jpg", "annotations/validation/x.png", "x", "val"),
        ("img_dir/test/x.jpg", "ann_dir/test/x.png", "test", "test"),
        ("JPEGImages/x.jpg", "SegmentationClass/x.png", "x", None),
        ("images/x.jpg", "labels/x_mask.png", "x", None),
        ("train/images/x.jpg", "train/masks/x.png", "x", "train"),
        ("val/x.png", "val_labels/x_L.png", "x", "val"),
    ],
)
def test_layouts(tmp_path: Path, picture: str, label_map: str, key: str, split: str | None) -> None:
    folder = laid_out(tmp_path, picture, label_map)
    assert semantic.recognise(folder)
    source = opened(folder)
    assert [(c.name, c.id, c.isthing) for c in source.classes] == [("road", 1, False), ("tree", 2, False)]
    (found,) = source.pictures
    assert found.split == split
    assert found.key == ("x" if key == "test" else key)
    labels = source.read(found)
    assert labels.size == (2, 4)
    assert drawn(labels) == [("road", 3), ("tree", 2)]
    assert [(r.top, r.left, r.area) for r in labels.ignored] == [(1, 3, 1)]


def test_equal_names_in_two_splits_keep_their_folder(tmp_path: Path) -> None:
    for split in ("train", "val"):
        laid_out(tmp_path, f"images/{split}/x.jpg", f"masks/{split}/x.png")
    assert [(p.key, p.split) for p in opened(tmp_path).pictures] == [("train/x", "train"), ("val/x", "val")]


def test_maps_and_pictures_in_folders_of_any_name(tmp_path: Path) -> None:
    laid_out(tmp_path, "photos/x.jpg", "painted/x.png")
    assert semantic.recognise(tmp_path) is None
    options = {"pictures": tmp_path / "photos", "names": tmp_path / "classes.txt"}
    source = opened(tmp_path / "painted", **options)
    assert source.pictures[0].picture == tmp_path / "photos/x.jpg"
    with pytest.raises(InputError, match="has no folders images"):
        opened(tmp_path)


@pytest.mark.parametrize("suffix", [".JPG", ".Png", ".TIFF"])
def test_suffixes_in_capitals(tmp_path: Path, suffix: str) -> None:
    image_format = {".Png": "png", ".TIFF": "tiff"}.get(suffix, "jpeg")
    folder = laid_out(tmp_path, "images/x.png", "masks/x.png")
    with Image.open(folder / "images/x.png") as image:
        image.save(folder / f"images/x{suffix}", format=image_format)
    (folder / "images/x.png").unlink()
    assert semantic.recognise(folder) == "masks/x.png is called like a picture in images"
    (picture,) = opened(folder).pictures
    assert picture.picture.suffix == suffix


def test_a_folder_of_maps_is_recognised_where_the_pictures_are_given(tmp_path: Path) -> None:
    folder = laid_out(tmp_path, "photos/x.JPG", "painted/x.png")
    options = SourceOptions(pictures=folder / "photos", names=folder / "classes.txt")
    source = open_any(folder / "painted", options=options)
    assert (source.format, source.reason) == ("semantic", f"it holds PNGs, whose pictures are in {folder / 'photos'}")
    assert drawn(source.read(source.pictures[0])) == [("road", 3), ("tree", 2)]
    for other in (folder / "photos", folder, folder / "painted" / "x.png"):
        with pytest.raises(InputError, match="of no format that could be recognised"):
            open_any(other, options=options)
    with pytest.raises(InputError, match="of no format that could be recognised"):
        open_any(folder / "painted")
    # what a format recognises stays that format
    write(folder / "pairs/SegmentationClass/x.png", VALUES)
    write(folder / "pairs/SegmentationObject/x.png", VALUES)
    assert open_any(folder / "pairs", options=options).format == "voc"


def test_other_formats_are_not_taken(tmp_path: Path) -> None:
    made = laid_out(tmp_path / "voc", "JPEGImages/x.jpg", "SegmentationClass/x.png")
    write(made / "SegmentationObject/x.png", VALUES)
    write(tmp_path / "city/leftImg8bit/val/a/a_1_2_leftImg8bit.png", VALUES)
    write(tmp_path / "city/gtFine/val/a/a_1_2_gtFine_instanceIds.png", VALUES)
    write(tmp_path / "yolo/images/train/x.jpg", VALUES)
    (tmp_path / "yolo/labels/train").mkdir(parents=True)
    (tmp_path / "yolo/labels/train/x.txt").write_text("0 0.1 0.1 0.2 0.2 0.3 0.1\n")
    write(tmp_path / "coco/images/x.jpg", VALUES)
    write(tmp_path / "coco/annotations/panoptic_val/x.png", VALUES)
    for name in ("voc", "city", "yolo", "coco", "nothing"):
        assert semantic.recognise(tmp_path / name) is None
    assert [bool(voc.recognise(tmp_path / n)) for n in ("voc", "city", "yolo", "coco")] == [True, False, False, False]
    assert cityscapes.recognise(tmp_path / "voc") is None


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_number_above_255_needs_16_bits(tmp_path: Path, dtype: type) -> None:
    high = 300 if dtype is np.uint16 else 200
    void = np.iinfo(dtype).max
    folder = laid_out(tmp_path, "images/x.jpg", "masks/x.png", [[high, 0, 7, void]], dtype)
    (folder / "names.yaml").write_text(f"{{7: road, {high}: wall}}")
    source = opened(folder, names=folder / "names.yaml")
    labels = source.read(source.pictures[0])
    assert drawn(labels) == [("road", 1), ("wall", 1)]
    assert [r.left for r in labels.ignored] == [3]


def test_named_values_are_classes_even_0_and_255(tmp_path: Path) -> None:
    folder = laid_out(tmp_path, "images/x.jpg", "masks/x.png")
    (folder / "names.txt").write_text("0: water\n1: road\n2: void\n255: crack\n")
    source = opened(folder, names=folder / "names.txt")
    assert [c.id for c in source.classes] == [0, 1, 255]
    labels = source.read(source.pictures[0])
    assert drawn(labels) == [("water", 2), ("road", 3), ("crack", 1)]
    assert labels.ignored[0].area == 2


def test_colours_by_a_label_map(tmp_path: Path) -> None:
    colors = np.array([(0, 0, 0), (48, 112, 32), (176, 112, 32)])
    pixels = colors[np.array([[0, 1, 1, 2]])]
    folder = laid_out(tmp_path, "images/x.jpg", "masks/x.png", pixels)
    # as CVAT writes it: in no certain order (its issue 2032)
    (folder / "labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\nCat:48,112,32::\nbackground:0,0,0::\nDog:176,112,32::\n"
    )
    source = opened(folder)
    assert [(c.name, c.id) for c in source.classes] == [("Cat", None), ("Dog", None)]
    assert drawn(source.read(source.pictures[0])) == [("Cat", 2), ("Dog", 1)]
    palette = Image.fromarray(np.array([[5, 6, 6, 7]], dtype=np.uint8))
    palette.putpalette([0] * 15 + colors[[1, 2, 0]].ravel().tolist())
    palette.save(folder / "masks/x.png")
    assert drawn(source.read(source.pictures[0])) == [("Cat", 1), ("Dog", 2)]
    write(folder / "masks/x.png", pixels + np.array([1, 0, 0]))
    told = r"x.png holds the RGB colour \(1, 0, 0\), \(49, 112, 32\), .*a line such as 'road:128,64,128'"
    with pytest.raises(InputError, match=told):
        source.read(source.pictures[0])


def test_colours_that_nothing_names_are_shown_with_the_remedy(tmp_path: Path) -> None:
    pixels = np.array([[(0, 0, 0), (128, 64, 128), (70, 130, 180)]])
    folder = laid_out(tmp_path, "images/x.jpg", "masks/x.png", pixels)
    (folder / "classes.txt").unlink()
    seen = r"the colours \(0, 0, 0\), \(128, 64, 128\), \(70, 130, 180\)"
    with pytest.raises(InputError, match=rf"what the colours mean .*{seen}.*a line each such as 'road:128,64,128'"):
        opened(folder)
    (folder / "names.txt").write_text("road:128,64,128\nsky: 70, 130, 180\n")
    (folder / "names.yaml").write_text("names:\n  road: [128, 64, 128]\n  sky: [70, 130, 180]\n")
    for names in ("names.txt", "names.yaml"):
        source = opened(folder, names=folder / names)
        assert drawn(source.read(source.pictures[0])) == [("road", 1), ("sky", 1)]
        assert [c.color for c in source.classes] == [(128, 64, 128), (70, 130, 180)]
    for wrong in ("road: [128, 64]", "road: [128, 64, 256]", "road: [a, b, c]"):
        (folder / "names.yaml").write_text(wrong)
        with pytest.raises(InputError, match="is no name with red, green and blue up to 255"):
            opened(folder, names=folder / "names.yaml")


def test_pictures_in_no_list_of_splits_are_noted(tmp_path: Path) -> None:
    for name in "xyz":
        laid_out(tmp_path, f"JPEGImages/{name}.jpg", f"SegmentationClass/{name}.png")
    (tmp_path / "ImageSets/Segmentation").mkdir(parents=True)
    (tmp_path / "ImageSets/Segmentation/val.txt").write_text("x\n")
    source = opened(tmp_path)
    assert [p.split for p in source.pictures] == ["val", None, None]
    (note,) = source.notes
    assert note.startswith("2 pictures, such as y, are in no list of ImageSets/Segmentation: ")


def test_things_are_connected_components_on_request(tmp_path: Path) -> None:
    values = [[1, 0, 2, 1], [0, 1, 2, 0], [0, 0, 0, 1]]  # the first and second 1 touch at a corner
    folder = laid_out(tmp_path, "images/x.jpg", "masks/x.png", values)
    source = opened(folder, components=True, things=("road",))
    assert [(c.name, c.isthing) for c in source.classes] == [("road", True), ("tree", False)]
    labels = source.read(source.pictures[0])
    assert [(o.name, o.region.top, o.region.left, o.region.area) for o in labels.objects] == [
        ("road", 0, 0, 2),
        ("road", 0, 3, 1),
        ("road", 2, 3, 1),
        ("tree", 0, 2, 2),
    ]
    with pytest.raises(InputError, match=r"'road' apart; take each connected piece for one \(--components\)"):
        opened(folder, things=("road",))
    with pytest.raises(InputError, match="name those classes"):
        opened(folder, components=True)
    assert opened(folder).pictures[0].payload != source.pictures[0].payload


def test_a_lossy_map_is_refused(tmp_path: Path) -> None:
    folder = laid_out(tmp_path, "images/x.jpg", "masks/x.jpg")
    assert semantic.recognise(folder)
    source = opened(folder)
    with pytest.raises(InputError, match=r"masks.x.jpg is compressed as JPEG .* export the labels as PNG"):
        source.read(source.pictures[0])


def test_masks_of_0_and_255_alone_want_a_name_for_255(tmp_path: Path) -> None:
    folder = laid_out(tmp_path, "images/x.jpg", "masks/x.png", [[0, 255]])
    with pytest.raises(InputError, match=r"hold 0 and 255 alone, and 255 is void unless it is named; .* '255: road'"):
        opened(folder)
    (folder / "classes.txt").write_text("255: crack")
    source = opened(folder)
    assert drawn(source.read(source.pictures[0])) == [("crack", 1)]


def test_what_lacks_is_named(tmp_path: Path) -> None:
    folder = laid_out(tmp_path, "images/x.jpg", "masks/x.png", [[0, 1, 7, 9]])
    source = opened(folder)
    with pytest.raises(InputError, match=r"x\.png holds the values 7, 9, and no class has that number"):
        source.read(source.pictures[0])
    write(folder / "images/y.jpg", VALUES)
    assert opened(folder).notes == ("1 pictures in images have no map and are left out",)
    write(folder / "masks/z.png", VALUES)
    source = opened(folder)
    assert [p.key for p in source.pictures] == ["x"]
    assert "1 maps in masks, such as z, have no picture and are left out" in source.notes
    (folder / "images/x.jpg").rename(folder / "images/w.jpg")
    with pytest.raises(InputError, match=r"x: no picture\n.*z: no picture"):
        opened(folder)
    (folder / "images/w.jpg").rename(folder / "images/x.jpg")
    (folder / "masks/z.png").unlink()
    write(folder / "masks/x_mask.png", VALUES)
    with pytest.raises(InputError, match="are both maps of"):
        opened(folder)
    (folder / "classes.txt").unlink()
    with pytest.raises(InputError, match=r"the first 2 maps hold 0, 1, 2, 7, 9, 255\); give their names"):
        opened(folder)


@pytest.mark.parametrize(("depth", "values"), [(1, [0, 1, 1]), (2, [0, 1, 3]), (4, [0, 7, 15])])
def test_few_bits_of_grey_hold_small_numbers(tmp_path: Path, depth: int, values: list[int]) -> None:
    # Pillow writes no grey of 2 or 4 bits: a PNG by the specification (W3C, 2003), one row
    import struct
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    bits = "".join(format(value, f"0{depth}b") for value in values).ljust(16, "0")
    header = struct.pack(">IIBBBBB", len(values), 1, depth, 0, 0, 0, 0)
    row = zlib.compress(b"\0" + int(bits, 2).to_bytes(2, "big")[: -(-len(values) * depth // 8)])
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", row), chunk(b"IEND", b""))
    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    assert read_label_map(tmp_path / "x.png").values.tolist() == [values]


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n"])
def test_a_broken_map_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(InputError, match=r"x\.png cannot be read"):
        read_label_map(tmp_path / "x.png")
    with pytest.raises(InputError, match=r"y\.png is not there"):
        read_label_map(tmp_path / "y.png")


def test_distinct_is_numpys_unique() -> None:
    values = np.random.default_rng(0).integers(0, 5, (13, 17)).astype(np.int32)
    present, places = distinct(values)
    assert np.array_equal(present, np.unique(values))
    assert np.array_equal(present[places], values)
    assert distinct(values[:0])[1].shape == (0, 17)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.txt", "cat\ndog\n\n", [("cat", 0, None), ("dog", 1, None)]),
        ("a.txt", "__ignore__\n_background_\ncat\n", [("_background_", 0, None), ("cat", 1, None)]),
        ("a.txt", "0: unlabeled\n13: stop sign\n", [("unlabeled", 0, None), ("stop sign", 13, None)]),
        ("a.txt", "# label:color_rgb:parts:actions\na:1,2,3::\nb:::\n", [("a", 0, (1, 2, 3)), ("b", 1, None)]),
        ("a.csv", "name,r,g,b\na b,1,2,3\nc, 4, 5, 6\n", [("a b", 0, (1, 2, 3)), ("c", 1, (4, 5, 6))]),
        ("a.yaml", "[cat, dog]", [("cat", 0, None), ("dog", 1, None)]),
        ("a.yaml", "path: x\nnames:\n  3: cat\n  1: dog\n", [("dog", 1, None), ("cat", 3, None)]),
        ("a.json", '{"2": "cat"}', [("cat", 2, None)]),
    ],
)
def test_files_of_class_names(tmp_path: Path, name: str, text: str, expected: list[tuple[Any, ...]]) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8-sig")
    assert read_class_names(tmp_path / name) == tuple(NamedClass(*entry) for entry in expected)


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.txt", "", "names no class"),
        ("a.txt", "cat\n\ndog\n", "line 2 is empty"),
        ("a.txt", "cat\ncat\n", "the name cat stands more than once"),
        ("a.txt", "1: cat\n1: dog\n", "the number 1 stands more than once"),
        ("a.txt", "a:1,2,3::\nb:1,2,3::\n", r"the colour \(1, 2, 3\) stands more than once"),
        ("a.txt", "a:1,2,300::\n", "is no name with red, green and blue up to 255"),
        ("a.txt", "Idx\tName\n1\twall\n", "is a row of a table"),
        ("a.yaml", "[cat, no]", "class 1: False is no name; put it in quotes"),
        ("a.yaml", "{-1: cat}", "-1 is no number of a class"),
        ("a.yaml", "cat", "neither a list of names nor names by number"),
        ("a.yaml", "[", "is no YAML"),
    ],
)
def test_broken_files_of_class_names(tmp_path: Path, name: str, text: str, told: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=told):
        read_class_names(tmp_path / name)


def test_vocs_palette() -> None:
    # from the development kit's figure: background, aeroplane, bicycle, person, border
    colors = [voc_color(index) for index in (0, 1, 2, 15, 255)]
    assert colors == [(0, 0, 0), (128, 0, 0), (0, 128, 0), (192, 128, 128), (224, 224, 192)]
    legend = legend_of([NamedClass("_background_", 0), NamedClass("cat", 1), NamedClass("void", 2)])
    assert legend.names == {1: "cat"}
    assert 0 in legend.unlabelled
    assert {2, 255} <= legend.ignored
