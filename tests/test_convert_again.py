"""What the readers of all formats must hold to, so that a second conversion finds what the first one made.

Keys hang on the layout alone, fingerprints on all that labels are read from, and nothing that came out goes in again.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from thingstuff.convert.converting import convert
from thingstuff.convert.formats import open_source
from thingstuff.convert.ledger import fingerprint
from thingstuff.convert.source import Source, SourceOptions
from thingstuff.errors import InputError

SIZE = (30, 40)
TRIANGLE = [1, 1, 9, 1, 9, 9]
YAML = "train: images/train\nval: images/val\nnames: {0: a, 1: b}\n"


def picture(path: Path, pixels: Any = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros(SIZE, np.uint8) if pixels is None else np.array(pixels, np.uint8)).save(path)
    return path


def text(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def as_json(path: Path, content: Any) -> Path:
    return text(path, json.dumps(content))


def images(*names: str) -> list[dict[str, Any]]:
    return [{"id": n, "file_name": name, "width": 40, "height": 30} for n, name in enumerate(names, 1)]


def coco(folder: Path, split: str, *names: str, classes: Any = ("car", "road")) -> None:
    """Write a JSON of instances and its pictures: one car in the first."""
    for name in names:
        picture(folder / split / name)
    drawn = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [TRIANGLE], "iscrowd": 0}
    categories = [{"id": n, "name": name} for n, name in enumerate(classes, 1)]
    content = {"images": images(*names), "annotations": [drawn], "categories": categories}
    as_json(folder / f"instances_{split}.json", content)


def yolo(folder: Path, *places: str, names: str = YAML) -> None:
    for place in places:
        picture(folder / "images" / f"{place}.png")
        text(folder / "labels" / f"{place}.txt", "0 0.1 0.1 0.9 0.1 0.9 0.9\n")
    text(folder / "data.yaml", names)


def masks(folder: Path, *places: str) -> None:
    for place in places:
        picture(folder / "images" / f"{place}.jpg")
        picture(folder / "masks" / f"{place}.png", np.ones(SIZE))
    text(folder / "classes.txt", "unlabelled\nroad\n")


def cvat(folder: Path, *entries: tuple[str, str], width: int = 40) -> None:
    """Write CVAT's XML of pictures, each given by subset and name."""
    shape = '<polygon label="car" points="1,1;9,1;9,9"/>'
    rows = [
        f'<image id="{n}" name="{name}" subset="{subset}" width="{width}" height="30">{shape}</image>'
        for n, (subset, name) in enumerate(entries)
    ]
    for subset, name in entries:
        picture(folder / "images" / subset / name)
    text(folder / "annotations.xml", f"<annotations><version>1.1</version>{''.join(rows)}</annotations>")


def label_studio(folder: Path, *names: str, width: int = 40) -> None:
    shape = {"type": "polygonlabels", "id": "r", "original_width": width, "original_height": 30}
    shape["value"] = {"points": [[1, 1], [50, 1], [50, 50]], "polygonlabels": ["car"]}
    for name in names:
        picture(folder / name)
    tasks = [
        {"id": n, "data": {"image": name}, "annotations": [{"id": n, "was_cancelled": False, "result": [shape]}]}
        for n, name in enumerate(names, 1)
    ]
    as_json(folder / "export.json", tasks)


def labelme(folder: Path, *names: str, stated: str | None = None) -> None:
    for name in names:
        picture(folder / f"{name}.png")
        points = [[1, 1], [9, 1], [9, 9]]
        shapes = [{"label": "car", "points": points, "group_id": None, "shape_type": "polygon", "flags": {}}]
        content = {"version": "5.0.0", "flags": {}, "shapes": shapes, "imagePath": stated or f"{name}.png"}
        as_json(folder / f"{name}.json", {**content, "imageData": None, "imageHeight": 30, "imageWidth": 40})


def two_channel(folder: Path, *names: str, category: str = "car") -> None:
    pixels = np.zeros((*SIZE, 3), np.uint8)
    pixels[:9, :9, 0] = 1
    for name in names:
        if ".." not in name:
            picture(folder / "input_images" / name)
            picture(folder / "maps" / Path(name).with_suffix(".png"), pixels)
    as_json(folder / "categories.json", [{"id": 1, "name": category, "isthing": 1}])
    as_json(folder / "image_info_train.json", {"images": images(*names)})


def cityscapes(folder: Path, *places: str) -> None:
    for place in places:
        picture(folder / "leftImg8bit" / f"{place}_leftImg8bit.png")
        picture(folder / "gtFine" / f"{place}_gtFine_instanceIds.png", np.full(SIZE, 7))


def keys(source: Source) -> dict[Path, str]:
    return {p.picture.relative_to(source.path or Path()): p.key for p in source.pictures}


# Keys


@pytest.mark.parametrize(
    ("write", "also"),
    [
        (lambda f, *more: (coco(f, "train", "a.png"), coco(f, "val", "b.png", *more)), ("a.png",)),
        (lambda f, *more: yolo(f, "train/a", "val/b", *more), ("val/a",)),
        (lambda f, *more: masks(f, "train/a", "val/b", *more), ("val/a",)),
        (lambda f, *more: cvat(f, ("train", "a.png"), ("val", "b.png"), *more), (("val", "a.png"),)),
        (lambda f, *more: cityscapes(f, "train/ulm/a", "val/ulm/b", *more), ("val/ulm/a",)),
    ],
    ids=["coco", "yolo", "semantic", "cvat", "cityscapes"],
)
def test_a_picture_more_changes_no_other_key(tmp_path: Path, write: Callable[..., Any], also: tuple[Any, ...]) -> None:
    write(tmp_path)
    before = keys(open_source(tmp_path))
    assert sorted(key.split("/")[0] for key in before.values()) == ["train", "val"]
    write(tmp_path, *also)
    after = keys(open_source(tmp_path))
    assert len(after) == len(before) + 1
    assert {path: after[path] for path in before} == before


def test_with_one_split_keys_are_without_it(tmp_path: Path) -> None:
    coco(tmp_path / "coco", "train", "a.png")
    yolo(tmp_path / "yolo", "train/a", names="train: images/train\nnames: [a]\n")
    masks(tmp_path / "masks", "train/a")
    cvat(tmp_path / "cvat", ("train", "a.png"))
    for folder in ("coco", "yolo", "masks", "cvat"):
        (found,) = open_source(tmp_path / folder).pictures
        assert (found.key, found.split) == ("a", "train"), folder


def test_a_list_of_pictures_takes_one_from_anywhere(tmp_path: Path) -> None:
    text(tmp_path / "train.txt", "images/train/a.png\n")
    yolo(tmp_path, "train/a", names="train: train.txt\nnames: [a]\n")
    before = keys(open_source(tmp_path))
    assert before == {Path("images/train/a.png"): "a"}
    yolo(tmp_path, "more/deep/b", names="train: train.txt\nnames: [a]\n")
    picture(tmp_path / "beside" / "c.png")
    text(tmp_path / "train.txt", "images/train/a.png\nimages/more/deep/b.png\nbeside/c.png\n")
    after = {"images/train/a.png": "a", "images/more/deep/b.png": "more/deep/b", "beside/c.png": "beside/c"}
    assert keys(open_source(tmp_path)) == {Path(path): key for path, key in after.items()}


def test_a_picture_beside_yolos_folders_of_splits_changes_no_split(tmp_path: Path) -> None:
    yolo(tmp_path, "train/a", "val/b")
    (tmp_path / "data.yaml").unlink()
    text(tmp_path / "classes.txt", "a\n")
    picture(tmp_path / "images" / "loose.png")
    found = [(p.key, p.split) for p in open_source(tmp_path).pictures]
    assert found == [("loose", None), ("train/a", "train"), ("val/b", "val")]


def test_pictures_without_a_split_have_none_in_their_key(tmp_path: Path) -> None:
    coco(tmp_path, "train", "a.png")
    coco(tmp_path, "default", "b.png")
    assert {p.key: p.split for p in open_source(tmp_path).pictures} == {"b": None, "train/a": "train"}


@pytest.mark.parametrize(("stated", "key"), [("train/a.png", "train/a"), ("a.png", "train/a")])
def test_a_split_that_names_already_state_is_not_said_twice(tmp_path: Path, stated: str, key: str) -> None:
    coco(tmp_path, "val", "a.png")
    coco(tmp_path, "train", "a.png")
    content = json.loads((tmp_path / "instances_train.json").read_text())
    content["images"][0]["file_name"] = stated
    as_json(tmp_path / "instances_train.json", content)
    assert sorted(p.key for p in open_source(tmp_path).pictures) == [key, "val/a"]


def test_a_path_that_leads_out_is_refused_or_left_to_the_picture(tmp_path: Path) -> None:
    picture(tmp_path / "victim.png")
    two_channel(tmp_path / "two", "a.png", "../victim.png")
    with pytest.raises(InputError, match=r"images\[1\].*file_name.*path below the pictures"):
        open_source(tmp_path / "two")
    coco(tmp_path / "coco", "train", "../../victim.png")
    labelme(tmp_path / "labelme", "a", stated="..\\victim.png")
    for folder in ("coco", "labelme"):
        assert [p.key for p in open_source(tmp_path / folder).pictures] == ["victim"]
    cvat(tmp_path / "cvat", ("..", "a.png"))
    with pytest.raises(InputError, match=r"the split '\.\.' of .*a\.png cannot name a folder"):
        open_source(tmp_path / "cvat")


# Fingerprints


def yolo_named(folder: Path, names: str) -> SourceOptions:
    yolo(folder, "train/a", names=f"train: images/train\nnames: {names}\n")
    return SourceOptions()


def coco_named(folder: Path, names: str) -> SourceOptions:
    coco(folder, "train", "a.png", classes=json.loads(names))
    return SourceOptions()


def coco_with_stuff(folder: Path, names: str) -> SourceOptions:
    coco(folder, "train", "a.png", classes=json.loads(names))
    picture(folder / "stuff" / "a.png", np.full(SIZE, 2))
    return SourceOptions(semantic=folder / "stuff")


def coco_with_names(folder: Path, names: str) -> SourceOptions:
    coco(folder, "train", "a.png")
    picture(folder / "stuff" / "a.png", np.full(SIZE, 2))
    lines = "".join(f"{n}: {name}\n" for n, name in enumerate(json.loads(names), 1))
    return SourceOptions(semantic=folder / "stuff", names=text(folder / "names.txt", lines))


def yolo_with_names(folder: Path, names: str) -> SourceOptions:
    yolo(folder, "train/a")
    (folder / "images" / "val").mkdir(exist_ok=True)
    return SourceOptions(names=text(folder / "names.txt", "\n".join(json.loads(names))))


def two_channel_named(folder: Path, names: str) -> SourceOptions:
    two_channel(folder, "a.png", category=json.loads(names)[0])
    return SourceOptions()


def panoptic_named(folder: Path, names: str) -> SourceOptions:
    picture(folder / "train" / "a.png")
    pixels = np.zeros((*SIZE, 3), np.uint8)
    pixels[..., 0] = 7
    picture(folder / "panoptic_train" / "a.png", pixels)
    segment = {"id": 7, "category_id": 1, "area": 1200, "bbox": [0, 0, 40, 30], "iscrowd": 0}
    content = {"images": images("a.png"), "annotations": [{"image_id": 1, "file_name": "a.png"}]}
    content["annotations"][0]["segments_info"] = [segment]
    content["categories"] = [{"id": n, "name": name, "isthing": 1} for n, name in enumerate(json.loads(names), 1)]
    as_json(folder / "panoptic_train.json", content)
    return SourceOptions()


@pytest.mark.parametrize(
    "write",
    [yolo_named, yolo_with_names, coco_named, coco_with_stuff, coco_with_names, two_channel_named, panoptic_named],
)
def test_other_names_are_other_fingerprints(tmp_path: Path, write: Callable[[Path, str], SourceOptions]) -> None:
    def printed(names: str) -> str:
        (only,) = open_source(tmp_path, options=write(tmp_path, names)).pictures
        # its files were written anew, with the same pixels at another time
        return fingerprint(only._replace(picture=tmp_path / "none", labels=()))

    first = printed('["car", "road"]')
    assert printed('["car", "road"]') == first
    assert printed('["road", "car"]') != first
    assert printed('["lorry", "street"]') != first


def test_renamed_classes_are_converted_anew(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    yolo(source, "train/a", names="train: images/train\nnames: {0: a, 1: b}\n")
    convert(open_source(source), out, workers=1)
    text(source / "data.yaml", "train: images/train\nnames: {0: b, 1: a}\n")
    assert convert(open_source(source), out, workers=1).earlier == 0
    written = json.loads((out / "panoptic_train.json").read_text())
    (segment,) = written["annotations"][0]["segments_info"]
    assert {c["id"]: c["name"] for c in written["categories"]}[segment["category_id"]] == "b"


# Sizes


@pytest.mark.parametrize("write", [cvat, label_studio])
def test_a_stated_size_is_checked_before_a_mask_is_made(tmp_path: Path, write: Callable[..., None]) -> None:
    write(tmp_path, ("", "a.png") if write is cvat else "a.png", width=41)
    source = open_source(tmp_path)
    with pytest.raises(InputError, match=r"width and .*height: .*a\.png is 40 wide and 30 high, but 41 wide"):
        source.read(source.pictures[0])


# What came out does not go in again


@pytest.mark.parametrize(
    ("write", "names"),
    [(label_studio, ("a.png", "b.png")), (labelme, ("a", "b")), (two_channel, ("a.png", "b.png"))],
)
def test_a_conversion_within_its_source_is_no_source(
    tmp_path: Path, write: Callable[..., None], names: tuple[str, ...]
) -> None:
    write(tmp_path, *names)
    out = tmp_path / "a_first_folder"
    assert convert(open_source(tmp_path), out, workers=1).earlier == 0
    again = open_source(tmp_path)
    assert again.notes == ()
    assert not any(path.is_relative_to(out) for p in again.pictures for path in (p.picture, *p.labels))
    assert convert(again, out, workers=1).earlier == 2
    assert len(open_source(out).pictures) == 2  # itself it can be read
