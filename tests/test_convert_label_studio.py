"""Label Studio's exports, made by its own packages, decoded against what those say.

tests/labels/label_studio/export.json: a task as Label Studio writes it, its first brush region packed by
@thi.ng/rle-pack 3.2.12 (the packer of Label Studio's editor) from an antialiased disc, the second by label-studio-sdk
2.1.2 (`brush.image2annotation`) from a square with a hole; export_min.json: the same through that package's
`Converter.convert_to_json_min`.
"""

import base64
import json
import pickle
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from thingstuff.convert import label_studio_runs
from thingstuff.convert.formats import open_source as open_any
from thingstuff.convert.label_studio import open_source, recognise
from thingstuff.convert.label_studio_masks import brush_region, png_region
from thingstuff.convert.source import Source, SourceLabels, SourceObject, SourceOptions
from thingstuff.errors import InputError

LABELS = Path(__file__).parent / "labels" / "label_studio"
SIZE = (24, 40)


def written(folder: Path, name: str = "export.json", picture: str = "images/space.png") -> Path:
    (folder / picture).parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", SIZE[::-1]).save(folder / picture)
    path = folder / name
    path.write_bytes((LABELS / name).read_bytes())
    return path


def changed(path: Path, change: Callable[[Any], None]) -> Path:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def opened(path: Path, pictures: Path | None = None) -> Source:
    return open_source(path, "", SourceOptions(pictures=pictures))


def read(source: Source, number: int = 0) -> SourceLabels:
    sent = pickle.dumps((source.read, source.pictures[number]))
    reader, picture = pickle.loads(sent)  # noqa: S301 - as it goes to another process
    labels: SourceLabels = reader(picture)
    return labels


def mask(drawn: SourceObject) -> np.ndarray:
    whole = np.zeros(SIZE, dtype=np.bool_)
    drawn.region.paint(whole)
    return whole


def disc() -> np.ndarray:
    """The share of each pixel that the packed disc covers, sampled at 8 x 8 points, is more than half."""
    y, x = np.mgrid[0 : SIZE[0] * 8, 0 : SIZE[1] * 8] / 8 + 1 / 16
    inside = ((x - 20.3) / 13.2) ** 2 + ((y - 11.6) / 8.1) ** 2 <= 1
    drawn: np.ndarray = np.round(inside.reshape(SIZE[0], 8, SIZE[1], 8).mean((1, 3)) * 255) > 127
    return drawn


def results(content: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = content[0]["annotations"][0]["result"]
    return found


def test_an_export_gives_brush_ellipse_and_polygon(tmp_path: Path) -> None:
    source = open_any(written(tmp_path))
    assert source.format == "label-studio"
    assert source.reason == "export.json is a list of Label Studio's tasks"
    assert [c.name for c in source.classes] == ["car", "moon", "planet", "sky"]
    (picture,) = source.pictures
    assert (picture.key, picture.image_id) == ("space", 11)
    assert picture.picture == tmp_path / "images" / "space.png"  # the upload's prefix left out
    labels = read(source)
    assert labels.size == SIZE
    assert [o.name for o in labels.objects] == ["planet", "car", "moon", "sky"]
    planet, car, moon, sky = map(mask, labels.objects)
    np.testing.assert_array_equal(planet, disc())
    square = np.zeros(SIZE, dtype=np.bool_)
    square[4:20, 30:38] = True
    square[8:12, 32:35] = False
    np.testing.assert_array_equal(car, square)
    rows, columns = np.nonzero(moon)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (7, 16, 5, 14)  # radius 5 around (10, 12)
    assert int(moon.sum()) == pytest.approx(25 * np.pi, rel=0.05)
    np.testing.assert_array_equal(np.argwhere(sky)[[0, -1]], [[0, 20], [5, 39]])
    assert sorted(labels.notes) == [
        "answer that draws nothing (choice, text, relation)",
        "bounding box alone, which is no mask",
        "second label of a region, which keeps its first",
    ]


def test_the_minimal_export_gives_the_same(tmp_path: Path) -> None:
    full, least = read(opened(written(tmp_path))), read(opened(written(tmp_path, "export_min.json")))
    assert recognise(LABELS / "export_min.json")
    assert [o.name for o in least.objects] == [o.name for o in full.objects]
    for one, other in zip(full.objects, least.objects, strict=True):
        np.testing.assert_array_equal(mask(one), mask(other))
    assert opened(tmp_path / "export_min.json").pictures[0].image_id == 11


@pytest.mark.parametrize("name", ["export.json", "export_min.json"])
def test_a_region_told_of_by_several_controls_is_one(tmp_path: Path, name: str) -> None:
    """<Brush> with <Labels>, and smart tools, write a region once for each control, with the same geometry."""

    def change(content: Any) -> None:
        if name == "export_min.json":
            stated = content[0].pop("tag")[1]
            bare = {k: v for k, v in stated.items() if k != "brushlabels"}
            content[0] |= {"brush": [bare], "labels": [{**bare, "labels": ["car"]}], "ellipse": [], "polygon": []}
        else:
            own = results(content)
            bare = {k: v for k, v in own[1]["value"].items() if k != "brushlabels"}
            choice = {"choices": ["blurred"], **bare}
            own[:] = [
                {**own[1], "type": "brush", "value": bare},
                {**own[1], "type": "keypointlabels", "value": {**bare, "labels": ["car"]}},
                {**own[1], "type": "choices", "value": choice},
            ]

    labels = read(opened(changed(written(tmp_path, name), change)))
    assert [(o.name, o.region.area) for o in labels.objects] == [("car", 16 * 8 - 4 * 3)]


def test_the_latest_annotation_that_was_not_cancelled_counts(tmp_path: Path) -> None:
    def change(content: Any) -> None:
        (task,) = content
        newest = task["annotations"][0]
        older = {**newest, "result": [], "updated_at": "2023-01-01T00:00:00Z"}
        cancelled = {**newest, "result": [], "was_cancelled": True, "updated_at": "2025-01-01T00:00:00Z"}
        task["annotations"] = [newest, older, cancelled]
        task["predictions"] = [{"result": results(content)}]
        content.append({**task, "id": 12, "annotations": [cancelled]})
        content.append({**task, "id": 13, "annotations": []})

    source = opened(changed(written(tmp_path), change))
    assert [p.image_id for p in source.pictures] == [11]
    assert source.notes == ("2 tasks without a finished annotation, left out",)
    labels = read(source)
    assert len(labels.objects) == 4
    assert labels.notes[:2] == (
        "annotation that is not the latest of its task",
        "prediction of a model, not accepted by anybody",
    )


@pytest.mark.parametrize(
    ("stated", "picture"),
    [
        ("/data/upload/3/1a2b3c4d-space.png", "images/1a2b3c4d-space.png"),
        ("/data/upload/3/1a2b3c4d-deep%20space%20%C3%A9.png", "images/deep space é.png"),
        ("/data/upload/3/1a2b3c4d-50%25.png", "images/1a2b3c4d-50%.png"),
        ("https://example.org/all/deep%20space.png?x=1", "images/deep space.png"),
        ("https://example.org/deep%20space.png", "images/deep%20space.png"),  # saved under the URL's name
        ("deep%20space.png", "images/deep%20space.png"),
        ("/data/local-files/?d=scans%5Cnorth%5Cspace.png", "images/north/space.png"),
        ("s3://bucket/scans/space.png", "images/space.png"),
        ("https://example.org/a%20b/space%20one.png?token=x.jpg", "images/space one.png"),
        ("space#1.png", "images/space#1.png"),
    ],
)
def test_pictures_are_found_by_their_name(tmp_path: Path, stated: str, picture: str) -> None:
    written(tmp_path, picture="images/other.png")
    path = changed(written(tmp_path, picture=picture), lambda content: content[0]["data"].update(image=stated))
    assert opened(path).pictures[0].picture == tmp_path / picture


def test_of_two_pictures_of_a_name_the_folder_decides(tmp_path: Path) -> None:
    path = changed(written(tmp_path, picture="images/north/space.png"), lambda c: c[0].update(id=5))
    written(tmp_path, "export_min.json", picture="images/south/space.png")
    with pytest.raises(InputError, match="may both be its picture"):
        opened(path)
    changed(path, lambda c: c[0]["data"].update(image="/data/local-files/?d=all/south/space.png"))
    assert opened(path).pictures[0].key == "south/space"
    other = tmp_path / "empty"
    other.mkdir()
    with pytest.raises(InputError, match=r"none of its 1 pictures, such as space.png.*\(--pictures\)"):
        opened(path, other)
    with pytest.raises(InputError, match="correct --pictures"):
        opened(path, tmp_path / "nowhere")


def test_regions_without_pixels_and_unfinished_ones_are_noted(tmp_path: Path) -> None:
    def change(content: Any) -> None:
        own = results(content)
        polygon = own[3]
        own[:] = [
            {**polygon, "id": "1", "value": {**polygon["value"], "closed": False}},
            {**polygon, "id": "2", "value": {"points": polygon["value"]["points"], "polygonlabels": []}},
            {**polygon, "id": "3", "value": {"x": 1, "y": 2, "width": 0.3, "keypointlabels": ["nose"]}},
            {**polygon, "id": "4", "value": {"vertices": [], "vectorlabels": ["wire"]}},
        ]

    source = opened(changed(written(tmp_path), change))
    assert source.classes == ()
    assert read(source).notes == (
        "polygon that was not closed",
        "region without a label",
        "points, which are no mask",
        "vector path, which is no mask",
    )


def broken_points(content: Any) -> None:
    results(content)[3]["value"]["points"] = [[1, 2], [3, "x"], [4, 5]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (broken_points, r"task 11: polygon 4: points\[1\] 'x' is no finite number"),
        (lambda c: results(c)[3]["value"].update(points=[1]), "polygon 4: points are no list of pairs"),
        (lambda c: results(c)[3]["value"].update(points=[[1, 1], [2, 2]]), "polygon 4: a polygon of 4 numbers"),
        (lambda c: results(c)[0]["value"].update(rle=[0, 300]), "brush 1: rle is no list of bytes"),
        (lambda c: results(c)[0]["value"]["rle"].__delitem__(slice(900, None)), "brush 1: rle is cut off or damaged"),
        (lambda c: results(c)[2]["value"].update(x=None), "ellipse 3: x None is no finite number"),
        (lambda c: results(c)[2]["value"].update(x=10**400), "ellipse 3: x 1000.* is no finite number"),
        (lambda c: results(c)[2]["value"].update(x=1e9), "ellipse 3: a polygon that reaches 4e\\+08"),
        (lambda c: results(c)[2].update(image_rotation=90), "ellipse 3: its picture was turned by 90 degrees"),
        (lambda c: results(c)[2].update(original_width=41), "several sizes"),
        (lambda c: results(c)[2]["value"].update(ellipselabels=[7]), "ellipse 3: its label 7 is no name"),
    ],
)
def test_broken_regions_are_named(tmp_path: Path, change: Callable[[Any], None], message: str) -> None:
    source = opened(changed(written(tmp_path), change))
    with pytest.raises(InputError, match=message) as caught:
        read(source)
    assert "export.json: task 11" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c[0].update(data=3), "task 11: 'data' or 'annotations' is not"),
        (lambda c: c[0]["annotations"][0].update(result="x"), "task 11: 'result' is no list"),
        (lambda c: c.append(7), r"\[1\] is no task"),
        (lambda c: c.append({**c[0], "id": 12}), "tasks 11, 12: all are of the picture space"),
        (lambda c: c[0]["data"].update(back="b.png", image="front"), None),
        (lambda c: c[0].update(data={"front": "a.png", "back": "b.png"}), r"name several pictures \(front, back\)"),
        (lambda c: c[0].update(data={"pages": ["a.png", "b.png"]}), "it has several pictures"),
        (lambda c: c[0].update(data={"text": "hello"}, file_upload="list.json"), r"data \(text\) name no picture file"),
    ],
)
def test_a_broken_export_is_refused(tmp_path: Path, change: Callable[[Any], None], message: str | None) -> None:
    path = changed(written(tmp_path, picture="images/b.png"), change)
    written(tmp_path, "export_min.json")
    if message is None:
        assert opened(path).pictures[0].key == "b"
        return
    with pytest.raises(InputError, match=message):
        opened(path)


def test_a_folder_may_hold_one_export(tmp_path: Path) -> None:
    written(tmp_path)
    (tmp_path / "a.json").write_text('{"shapes": []}', encoding="utf-8")
    assert recognise(tmp_path) == "export.json is a list of Label Studio's tasks"
    assert len(opened(tmp_path).pictures) == 1
    written(tmp_path, "export_min.json")
    with pytest.raises(InputError, match=r"holds 2 exports .*name the JSON"):
        opened(tmp_path)
    assert recognise(tmp_path / "a.json") is None
    (tmp_path / "coco.json").write_text('[{"image_id": 1, "category_id": 2, "segmentation": {}}]', encoding="utf-8")
    assert recognise(tmp_path / "coco.json") is None


def test_the_packages_own_example_of_run_lengths_is_decoded() -> None:
    """label-studio-converter 0.0.59, tests/test_brush.py: 18 numbers; here as the first ones of five pixels."""
    packed = bytes([0, 0, 0, 18, 57, 27, 252, 96, 32, 1, 0, 6, 0, 40, 0, 192, 3, 128, 17, 56, 32])
    with pytest.raises(InputError, match="rle speaks of 18 words of 8 bits, not of 20"):
        brush_region(packed, (1, 5))
    as_16 = bytes([0, 0, 0, 16, *packed[4:]])  # its last run of 8 then has two too many
    with pytest.raises(InputError, match="cut off or damaged: 6 of 16"):
        brush_region(as_16, (2, 2))
    with pytest.raises(InputError, match="rle of 3 bytes is cut off"):
        brush_region(b"abc", (1, 1))


def test_much_of_it_is_unpacked_by_the_compiled_loop_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    values = results(json.loads((LABELS / "export.json").read_text(encoding="utf-8")))[:2]
    packed = [bytes(result["value"]["rle"]) for result in values]
    plain = [brush_region(data, SIZE) for data in packed]
    monkeypatch.setattr(label_studio_runs, "_MUCH", 0)
    for data, expected in zip(packed, plain, strict=True):
        region = brush_region(data, SIZE)
        assert region.window == expected.window
        np.testing.assert_array_equal(region.mask, expected.mask)
        for length in range(7, len(data), 40):
            with pytest.raises(InputError, match="cut off"):
                brush_region(data[:length], SIZE)


def test_a_mask_of_ones_is_decoded_too() -> None:
    """`brush.mask2rle` of label-studio-sdk 2.1.2 on [[0, 1], [1, 1]]: alpha is 1, not 255."""
    packed = bytes([0, 0, 0, 16, 57, 27, 252, 96, 22, 192, 64])
    assert brush_region(packed, (2, 2)).mask.tolist() == [[False, True], [True, True]]


def test_a_bitmask_is_what_is_not_transparent() -> None:
    image = Image.new("RGBA", (4, 3))
    image.putpixel((2, 1), (0, 0, 0, 255))
    stream = BytesIO()
    image.save(stream, "PNG")
    url = "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
    region = png_region(url, (3, 4))
    assert (region.top, region.left, region.area) == (1, 2, 1)
    for broken, size, message in (
        (url, (4, 4), "a mask of 4 x 3, not of 4 x 4"),
        (url[:60], (3, 4), "cannot be decoded"),
        ("https://example.org/mask.png", (3, 4), "no picture in base64"),
    ):
        with pytest.raises(InputError, match=message):
            png_region(broken, size)
