"""Reading LabelMe's JSONs: of versions 2 to 6, all shapes, pictures elsewhere."""

import base64
import json
import pickle
import shutil
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from thingstuff.convert.converting import convert
from thingstuff.convert.labelme import open_source, recognise
from thingstuff.convert.shapes import polygon_region
from thingstuff.convert.source import SourceLabels, SourceObject, SourceOptions
from thingstuff.errors import InputError

# Written by labelme 6.3.1's own `write_label_file` from shapes as its window hands them on; the picture path as Windows
# has it.
SHAPES = Path(__file__).parent / "labels" / "labelme" / "shapes.json"
SIZE = (48, 64)
NONE = SourceOptions()
TRIANGLE = [[2.0, 2.0], [20.0, 2.0], [2.0, 20.0]]


def write_picture(path: Path, size: tuple[int, int] = SIZE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size[1], size[0])).save(path)
    return path


def shape(points: Any = TRIANGLE, label: str = "cat", **further: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "group_id": None, "shape_type": "polygon", "flags": {}, **further}


def labelled(path: Path, *shapes: Any, picture: str | None = None, **changes: Any) -> Path:
    """Write a JSON, and the picture beside it unless another one is named."""
    if picture is None:
        write_picture(path.with_suffix(".jpg"))
    content = {
        "version": "5.2.1",
        "flags": {},
        "shapes": list(shapes),
        "imagePath": picture or path.with_suffix(".jpg").name,
        "imageData": None,
        "imageHeight": SIZE[0],
        "imageWidth": SIZE[1],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**content, **changes}), encoding="utf-8")
    return path


def read_one(path: Path) -> SourceLabels:
    source = open_source(path, "named", NONE)
    return pickle.loads(pickle.dumps(source.read))(source.pictures[0])  # noqa: S301 (reading happens elsewhere)


def whole(drawn: SourceObject, size: tuple[int, int] = SIZE) -> npt.NDArray[np.bool_]:
    mask = np.zeros(size, dtype=np.bool_)
    drawn.region.paint(mask)
    return mask


def png(mask: npt.NDArray[Any]) -> str:
    buffer = BytesIO()
    Image.fromarray(mask).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def rectangle(top: int, bottom: int, left: int, right: int) -> npt.NDArray[np.bool_]:
    mask = np.zeros(SIZE, dtype=np.bool_)
    mask[top:bottom, left:right] = True
    return mask


def test_a_file_of_labelmes_own_gives_all_its_shapes(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    shutil.copy(SHAPES, tmp_path / "labels" / "street.json")
    picture = write_picture(tmp_path / "pictures" / "street.png")
    assert recognise(tmp_path) == "labels/street.json has shapes and an imagePath"
    source = open_source(tmp_path / "labels", "named", NONE)
    assert [c.name for c in source.classes] == ["car", "dog", "lorry", "nose", "sign", "wheel", "wire"]
    assert source.pictures[0].picture.resolve() == picture.resolve()
    assert (source.pictures[0].key, source.pictures[0].split) == ("street", None)
    labels = source.read(source.pictures[0])
    assert labels.size == SIZE
    # the two cars are pieces of one, which lies where its second piece does
    assert [o.name for o in labels.objects] == ["lorry", "car", "wheel", "dog", "sign"]
    lorry, car, wheel, dog, sign = labels.objects
    np.testing.assert_array_equal(whole(lorry), rectangle(20, 40, 2, 30))
    cars = rectangle(4, 14, 4, 20) | rectangle(4, 14, 24, 30)
    assert not (whole(car) ^ cars)[:, :20].any()
    assert (whole(car) ^ cars).sum() <= 10  # half a pixel at the first one's border
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    distance = np.hypot(columns - 45, rows - 20)
    assert whole(wheel)[distance < 9].all()
    assert not whole(wheel)[distance > 11].any()
    mask = np.zeros(SIZE, dtype=np.bool_)
    mask[36:40, 42:48] = mask[35, 40] = mask[40, 48] = True
    np.testing.assert_array_equal(whole(dog), mask)
    corners = [50.0, 2.0, 58.0, 6.0, 56.0, 10.0, 48.0, 6.0]
    assert sign.region.area == polygon_region([corners], SIZE).area > 20
    assert [r.area for r in labels.ignored] == [15 * 8]
    assert labels.notes == tuple(f"{kind}, which has no area" for kind in ("point", "line", "linestrip"))


# Fields as version 2 wrote them (wkentaro/labelme, examples/instance_segmentation/data_annotated/2011_000025.json at
# 28de423): no version, no shape_type, no size, colours, imageData first.
def test_files_of_version_2_are_read(tmp_path: Path) -> None:
    drawn = {"fill_color": None, "line_color": None, "label": "bus-1", "points": TRIANGLE}
    old = {"imageData": None, "shapes": [drawn], "fillColor": [255, 0, 0, 128], "imagePath": "a.jpg"}
    write_picture(tmp_path / "a.jpg")
    (tmp_path / "a.json").write_text(json.dumps(old))
    assert recognise(tmp_path / "a.json") == "a.json has shapes and an imagePath"
    labels = read_one(tmp_path)
    assert labels.size == SIZE
    assert [o.name for o in labels.objects] == ["bus-1"]
    expected = polygon_region([[v for point in TRIANGLE for v in point]], SIZE)
    np.testing.assert_array_equal(labels.objects[0].region.mask, expected.mask)


def test_a_json_with_megabytes_of_image_data_first_is_recognised(tmp_path: Path) -> None:
    old = {"imageData": "A" * 300_000, "shapes": [], "imagePath": "a.jpg"}
    (tmp_path / "a.json").write_text(json.dumps(old))
    assert recognise(tmp_path) == "a.json has shapes and an imagePath"


def test_groups_join_shapes_of_one_label_alone(tmp_path: Path) -> None:
    far = [[30.0, 30.0], [40.0, 30.0], [30.0, 40.0]]
    pieces = [(TRIANGLE, "cat", 1), (far, "dog", 1), (far, "cat", 1), (far, "cat", None), (TRIANGLE, "cat", None)]
    shapes = [shape(points, label, group_id=group) for points, label, group in pieces]
    labels = read_one(labelled(tmp_path / "a.json", *shapes))
    areas = [polygon_region([[v for point in points for v in point]], SIZE).area for points in (TRIANGLE, far)]
    assert [(o.name, o.region.area) for o in labels.objects] == [
        ("dog", areas[1]),
        ("cat", sum(areas)),
        ("cat", areas[1]),
        ("cat", areas[0]),
    ]


@pytest.mark.parametrize("corner", [[13, 12], [14, 13]])  # LabelMe's last pixel, and the one after it of other tools
def test_masks_are_cut_at_the_pictures_border(tmp_path: Path, corner: list[int]) -> None:
    mask = np.ones((16, 18), dtype=np.uint8)
    drawn = shape([[-4.0, -3.0], [float(v) for v in corner]], shape_type="mask", mask=png(mask))
    outside = shape([[100.0, 0.0], [117.0, 15.0]], shape_type="mask", mask=png(mask))
    inside, empty = read_one(labelled(tmp_path / "a.json", drawn, outside)).objects
    np.testing.assert_array_equal(whole(inside), rectangle(0, 13, 0, 14))
    assert empty.region.area == 0


def test_rectangles_may_be_drawn_from_any_corner(tmp_path: Path) -> None:
    turned = shape([[30.0, 40.0], [2.0, 20.0]], shape_type="rectangle")
    four = shape([[2.0, 20.0], [30.0, 20.0], [30.0, 40.0], [2.0, 40.0]], shape_type="rectangle")
    for drawn in read_one(labelled(tmp_path / "a.json", turned, four)).objects:
        np.testing.assert_array_equal(whole(drawn), rectangle(20, 40, 2, 30))


@pytest.mark.parametrize(
    ("faulty", "told"),
    [
        (7, "7 is no object"),
        (shape(label=""), "label '' is not a text"),
        (shape([[1, 2], [3]]), "is not a list of points [x, y] of finite numbers"),
        (shape([[1, 2], [3, float("nan")], [5, 6]]), "finite numbers"),
        (shape([[1, 2], [3, 10**400], [5, 6]]), "finite numbers"),
        (shape([[1, 2], [3, 100_000], [5, 6]]), "a polygon that reaches 1e+05"),
        (shape([[1, 2], [3, 1e9], [5, 6]]), "a polygon that reaches 1e+09 in a picture of 64 x 48"),
        (shape(group_id="a"), "group_id 'a' is not a whole number or null"),
        (shape(shape_type="cuboid"), "shape_type 'cuboid' is none that LabelMe writes"),
        (shape(shape_type=[1]), "shape_type [1] is no text"),
        (shape(shape_type="circle"), "a circle has two points, this one 3"),
        (shape([[0, 0], [1, 1]], shape_type="mask"), "mask None is no PNG in base64"),
        (shape([[0, 0], [1, 1]], shape_type="mask", mask="?"), "mask cannot be read as a PNG in base64"),
        (
            shape([[0, 0], [9, 9]], shape_type="mask", mask=png(np.ones((4, 10), np.uint8))),
            "mask is 10 wide and 4 high",
        ),
        (shape([[0, 0], [1, 1]], shape_type="mask", mask=png(np.ones((2, 2, 3), np.uint8))), "a PNG with colours"),
    ],
)
def test_faulty_shapes_are_told_with_file_and_place(tmp_path: Path, faulty: Any, told: str) -> None:
    path = labelled(tmp_path / "a.json", shape(), faulty, faulty)
    with pytest.raises(InputError) as error:
        read_one(path)
    assert all(part in str(error.value) for part in (str(path), "shapes[1]", "shapes[2]", told)), str(error.value)


def test_lines_drawn_as_polygons_are_noted(tmp_path: Path) -> None:
    labels = read_one(labelled(tmp_path / "a.json", shape([[1.0, 1.0], [9.0, 9.0]]), shape([], shape_type="points")))
    assert labels.objects == ()
    assert labels.notes == ("polygon of less than three corners", "points, which has no area")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"imageHeight": 47}, "imageHeight and imageWidth: .* is 64 wide and 48 high, but 64 wide and 47 high was"),
        ({"imageWidth": "64"}, "imageWidth '64' is not a whole number above 0"),
    ],
)
def test_sizes_are_checked(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    path = labelled(tmp_path / "a.json", shape(), **changes)
    with pytest.raises(InputError, match=told):
        read_one(path)


# Folders


def test_folders_within_are_read_and_what_has_no_labels_is_noted(tmp_path: Path) -> None:
    labelled(tmp_path / "b.json", shape(label="dog"))
    labelled(tmp_path / "deep" / "er" / "a.v2.json", shape(), shape(label="bird", group_id=3))
    labelled(tmp_path / ".trash" / "c.json", shape(label="ghost"))
    write_picture(tmp_path / "deep" / "alone.png")
    (tmp_path / "settings.json").write_text("[1, 2]")
    source = open_source(tmp_path, "named", NONE)
    assert [(p.key, p.picture.name) for p in source.pictures] == [("b", "b.jpg"), ("deep/er/a.v2", "a.v2.jpg")]
    assert [tuple(c) for c in source.classes] == [(name, None, None, None) for name in ("bird", "cat", "dog")]
    assert source.notes == (
        "1 JSON files have no shapes and imagePath of LabelMe and are left aside",
        "1 pictures have no JSON and are left aside",
    )


@pytest.mark.parametrize(
    ("stated", "where"),
    [
        ("../pictures/a.png", "pictures/a.png"),
        ("..\\pictures\\a.png", "pictures/a.png"),
        ("C:\\Users\\me\\a.png", "labels/a.png"),
        ("/data/me/a.png", "labels/a.png"),
        ("a.jpg", "labels/a.png"),  # the pictures were turned into another kind since
    ],
)
def test_pictures_are_found_from_other_machines(tmp_path: Path, stated: str, where: str) -> None:
    labelled(tmp_path / "labels" / "a.json", shape(), picture=stated)
    write_picture(tmp_path / where)
    (picture,) = open_source(tmp_path / "labels", "named", NONE).pictures
    assert picture.picture.resolve() == (tmp_path / where).resolve()
    assert picture.key == "a"


def test_pictures_may_lie_in_a_folder_of_their_own(tmp_path: Path) -> None:
    labelled(tmp_path / "labels" / "one" / "a.json", shape(), picture="a.png")
    labelled(tmp_path / "labels" / "b.json", shape(), picture="b.png")
    with pytest.raises(InputError) as error:
        open_source(tmp_path / "labels", "named", NONE)
    assert str(error.value).count("put it there or name its folder (--pictures)") == 2
    write_picture(tmp_path / "pictures" / "one" / "a.png")
    write_picture(tmp_path / "pictures" / "b.png")
    source = open_source(tmp_path / "labels", "named", SourceOptions(pictures=tmp_path / "pictures"))
    assert [p.picture for p in source.pictures] == [
        tmp_path / "pictures" / "b.png",
        tmp_path / "pictures" / "one" / "a.png",
    ]
    assert source.notes == ()


def test_a_picture_that_lies_within_the_json_is_told_how_to_write_out(tmp_path: Path) -> None:
    labelled(tmp_path / "a.json", shape(), picture="lost.jpg", imageData="AAAA")
    with pytest.raises(
        InputError, match=r"lost\.jpg is not there, but lies within the JSON .*labelme_export_json a\.json"
    ):
        open_source(tmp_path, "named", NONE)


def test_two_jsons_of_one_picture_are_told(tmp_path: Path) -> None:
    labelled(tmp_path / "a.json", shape())
    labelled(tmp_path / "b.json", shape(), picture="a.jpg")
    with pytest.raises(InputError, match=r"a\.json and .*b\.json speak of one picture"):
        open_source(tmp_path, "named", NONE)
    write_picture(tmp_path / "a.png")
    labelled(tmp_path / "b.json", shape(), picture="a.png")
    with pytest.raises(InputError, match="two that differ in their suffix"):
        open_source(tmp_path, "named", NONE)


def test_what_is_wrong_with_one_file_leaves_the_others_be(tmp_path: Path) -> None:
    labelled(tmp_path / "a.json", shape())
    good = labelled(tmp_path / "z.json", shape(label="dog"))
    (tmp_path / "cut.json").write_text(good.read_text()[:50])
    write_picture(tmp_path / "cut.jpg")
    (tmp_path / "empty.json").write_text("")
    (tmp_path / "wide.json").write_text(good.read_text(), encoding="utf-16")
    labelled(tmp_path / "list.json", shapes="none")
    labelled(tmp_path / "lost.json", shape(label="bird"), picture="lost.jpg")
    labelled(tmp_path / "unnamed.json", shape(label=" "), shape(label=""))
    faults = {
        "cut": "cut.json: broken JSON at line 1",
        "empty": "empty.json: broken JSON at line 1",
        "list": "list.json: shapes 'none' is not a list",
        "lost": "lost.json: its picture lost.jpg is not in",
        "unnamed": "unnamed.json cannot be used",
        "wide": "wide.json is no UTF-8 text",
    }
    source = open_source(tmp_path, "named", NONE)
    assert {c.name for c in source.classes} == {"bird", "cat", "dog"}
    assert source.notes == ()
    assert sorted(p.key for p in source.pictures) == ["a", *faults, "z"]
    for picture in source.pictures:
        if picture.key in faults:
            with pytest.raises(InputError, match=faults[picture.key]):
                source.read(picture)
    out = tmp_path.parent / "out"
    with pytest.raises(InputError, match="6 of 8 pictures cannot be converted"):
        convert(source, out, workers=1)
    assert len(convert(source, out, skip_broken=True, workers=1).report.broken) == 6
    shutil.copy(good, tmp_path / "cut.json")  # mended, but it speaks of another one's picture
    with pytest.raises(InputError, match="speak of one picture"):
        open_source(tmp_path, "named", NONE)
    labelled(tmp_path / "cut.json", shape())
    assert convert(open_source(tmp_path, "named", NONE), out, skip_broken=True, workers=1).earlier == 2
    assert sorted(p.name for p in (out / "panoptic_train").iterdir()) == ["a.png", "cut.png", "z.png"]


def test_a_broken_json_may_be_called_like_another_ones_picture(tmp_path: Path) -> None:
    labelled(tmp_path / "a.json", shape(), picture="b.jpg")
    write_picture(tmp_path / "b.jpg")
    (tmp_path / "b.json").write_text("{")
    assert [p.key for p in open_source(tmp_path, "named", NONE).pictures] == ["b", "b.json"]


def test_broken_jsons_are_told_all_at_once_where_there_are_no_others(tmp_path: Path) -> None:
    for number in range(12):
        (tmp_path / f"broken{number}.json").write_text("{")
    labelled(tmp_path / "c.json", shape(), shapes="none")
    with pytest.raises(InputError) as error:
        open_source(tmp_path, "named", NONE)
    assert "broken0.json: broken JSON at line 1" in str(error.value)
    assert "and 3 more" in str(error.value)


def test_names_give_the_classes_their_order(tmp_path: Path) -> None:
    labelled(tmp_path / "a.json", shape(label="sky"), shape())
    # as in LabelMe's examples: the first line is for pixels to ignore, the second for what nobody drew
    (tmp_path / "labels.txt").write_text("__ignore__\n_background_\nsky\ndog\ncat\n")
    options = SourceOptions(names=tmp_path / "labels.txt")
    assert [c.name for c in open_source(tmp_path, "named", options).classes] == ["sky", "dog", "cat"]
    (tmp_path / "labels.txt").write_text("sky\ndog\n")
    with pytest.raises(InputError, match="lacks labels that were drawn: 'cat'"):
        open_source(tmp_path, "named", options)


def test_what_is_not_labelme_is_not_recognised(tmp_path: Path) -> None:
    (tmp_path / "coco.json").write_text(json.dumps({"images": [], "annotations": [], "categories": []}))
    (tmp_path / "bytes.json").write_bytes(b"\xff\x00")
    assert recognise(tmp_path) is None
    assert recognise(tmp_path / "bytes.json") is None
    with pytest.raises(InputError, match="cannot be used"):
        open_source(tmp_path, "named", NONE)
    (tmp_path / "bytes.json").unlink()
    with pytest.raises(InputError, match="holds no JSON with shapes and imagePath"):
        open_source(tmp_path, "named", NONE)


# The same pictures as VOC's pairs: LabelMe's converter painted these polygons with its own rule (any pixel that the
# outline touches), ours with COCO's (half of it), so that borders differ.
def test_a_real_polygon_covers_what_labelmes_converter_painted(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "labelme_voc_pairs"
    objects = np.asarray(Image.open(next(folder.rglob("SegmentationObject*/2011_000025.png"))))
    picture = next(folder.rglob("2011_000025.jpg"))
    car = [[413.9, 168.6], [497.9, 168.6], [497.9, 256.6], [431.9, 258.6], [430.9, 236.6], [408.9, 218.6]]
    height, width = objects.shape
    labelled(tmp_path / "a.json", shape(car), picture=str(picture), imageHeight=height, imageWidth=width)
    mask = whole(read_one(tmp_path / "a.json").objects[0], (height, width))
    overlaps = [
        (mask & (objects == n)).sum() / (mask | (objects == n)).sum() for n in np.unique(objects) if 0 < n < 255
    ]
    assert max(overlaps) > 0.97
