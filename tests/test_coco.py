"""COCO panoptic data sets: finding splits, what is read, and every way in which a data set can be wrong."""

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from thingstuff.data.coco import CocoPanoptic, Record, SegmentInfo, SplitPaths, locate, splits
from thingstuff.errors import InputError
from thingstuff.io import write_id_map

CATEGORIES = [
    {"id": 17, "name": "cat", "isthing": 1},
    {"id": 3, "name": "car", "isthing": 1},
    {"id": 187, "name": "sky", "isthing": 0, "color": [1, 2, 3]},
]
# image id -> segment id -> (category_id, iscrowd, (rows, columns)); everything else is void
SCENES: dict[Any, dict[int, tuple[int, int, tuple[slice, slice]]]] = {
    10: {70000: (17, 0, (slice(0, 2), slice(0, 3))), 5: (187, 0, (slice(2, 4), slice(0, 6)))},
    "b-2": {9: (3, 1, (slice(0, 1), slice(0, 6)))},  # things alone, all of them a crowd
    7: {1: (187, 0, (slice(0, 4), slice(0, 6)))},  # stuff alone
    8: {},
}
Edit = Callable[[dict[str, Any]], object]


def write_split(
    root: Path, pictures: str = "train", maps: str = "panoptic_train", json_file: str = "panoptic_train.json"
) -> dict[str, Any]:
    """Write the scenes in a layout and return the JSON's content."""
    for folder in (root / pictures, root / maps, (root / json_file).parent):
        folder.mkdir(parents=True, exist_ok=True)
    data: dict[str, Any] = {"images": [], "annotations": [], "categories": CATEGORIES}
    for image_id, segments in SCENES.items():
        ids = np.zeros((4, 6), np.int32)
        infos = []
        for segment_id, (category_id, iscrowd, region) in segments.items():
            ids[region] = segment_id
            area = int((ids == segment_id).sum())
            infos.append({"id": segment_id, "category_id": category_id, "iscrowd": iscrowd, "area": area})
        write_id_map(root / maps / f"{image_id}.png", ids)
        Image.new("RGB", (6, 4), (len(infos), 2, 3)).save(root / pictures / f"{image_id}.bmp")
        data["images"].append({"id": image_id, "file_name": f"{image_id}.bmp", "height": 4, "width": 6})
        data["annotations"].append({"image_id": image_id, "file_name": f"{image_id}.png", "segments_info": infos})
    (root / json_file).write_text(json.dumps(data))
    return data


def rewrite(root: Path, edit: Edit) -> None:
    path = root / "panoptic_train.json"
    data = json.loads(path.read_text())
    edit(data)
    path.write_text(json.dumps(data))


# Finding the files


def test_a_plain_folder_is_found(tmp_path: Path) -> None:
    write_split(tmp_path)
    write_split(tmp_path, "val", "panoptic_val", "panoptic_val.json")
    expected = SplitPaths(tmp_path / "val", tmp_path / "panoptic_val", tmp_path / "panoptic_val.json")
    assert locate(tmp_path, "val") == expected
    assert splits(tmp_path) == ("train", "val")


@pytest.mark.parametrize("maps", ["annotations/panoptic_val2017", "panoptic_val2017"])
def test_coco_s_own_tree_is_found(tmp_path: Path, maps: str) -> None:
    write_split(tmp_path, "val2017", maps, "annotations/panoptic_val2017.json")
    expected = SplitPaths(tmp_path / "val2017", tmp_path / maps, tmp_path / "annotations" / "panoptic_val2017.json")
    assert locate(tmp_path, "val") == locate(str(tmp_path), "val2017") == expected
    assert splits(tmp_path) == ("val2017",)
    assert len(CocoPanoptic.open(tmp_path, "val")) == len(SCENES)


def test_the_exact_name_goes_before_a_year_and_two_years_are_refused(tmp_path: Path) -> None:
    for year in ("2014", "2017"):
        write_split(tmp_path, f"val{year}", f"panoptic_val{year}", f"panoptic_val{year}.json")
    with pytest.raises(InputError, match=r"val2014 or val2017.*name one"):
        locate(tmp_path, "val")
    write_split(tmp_path, "val", "panoptic_val", "panoptic_val.json")
    assert locate(tmp_path, "val").pictures == tmp_path / "val"


def test_a_yaml_file_names_the_paths(tmp_path: Path) -> None:
    write_split(tmp_path / "set", "pictures", "ids", "all.json")
    path = tmp_path / "data.yaml"
    path.write_text("train: {pictures: set/pictures, maps: set/ids, json: set/all.json}\n")
    expected = SplitPaths(tmp_path / "set/pictures", tmp_path / "set/ids", tmp_path / "set/all.json")
    assert locate(path, "train") == expected
    assert splits(path) == ("train",)
    with pytest.raises(InputError, match=r"data\.yaml has no split 'val'; it names train"):
        locate(path, "val")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("data.yaml", "train: {pictures: a, maps: b}", "split 'train' must name exactly three paths"),
        ("data.yaml", "train: {pictures: a, maps: b, json: c, masks: d}", "exactly three paths"),
        ("data.yaml", "train: {pictures: a, maps: b, json: 3}", "exactly three paths"),
        ("data.yml", "- train", "names no splits"),
        ("data.yaml", "train: {", "is no YAML"),
        ("data.json", "{}", "neither a folder nor a YAML file"),
        ("data.yaml", "train: {pictures: a, maps: b, json: c}", "folder of pictures .*a is not there"),
    ],
)
def test_a_wrong_yaml_file_is_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message) as error:
        locate(tmp_path / name, "train")
    assert name in str(error.value)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none is not there"):
        locate(tmp_path / "none", "train")
    with pytest.raises(InputError, match="Splits found: none"):
        locate(tmp_path, "train")
    write_split(tmp_path)
    with pytest.raises(InputError, match=r"no split 'val'.*panoptic_val\.json.*annotations/.*Splits found: train"):
        locate(tmp_path, "val")
    for folder in ("train", "panoptic_train"):
        (tmp_path / folder).rename(tmp_path / "away")
        with pytest.raises(InputError, match=f"{folder} is not there"):
            locate(tmp_path, "train")
        (tmp_path / "away").rename(tmp_path / folder)
    (tmp_path / "data.yaml").write_text("train: {pictures: train, maps: panoptic_train, json: other.json}")
    with pytest.raises(InputError, match=r"JSON .*other\.json is not there"):
        locate(tmp_path / "data.yaml", "train")


# Reading


def test_records_and_categories(tmp_path: Path) -> None:
    write_split(tmp_path)
    data = CocoPanoptic.open(tmp_path, "train")
    assert data.categories.ids == (17, 3, 187)
    assert len(data) == 4
    assert [record.image_id for record in data.records] == list(SCENES)
    segments = (SegmentInfo(70000, 0, False, 6), SegmentInfo(5, 2, False, 12))
    picture, path = tmp_path / "train" / "10.bmp", tmp_path / "panoptic_train" / "10.png"
    assert data.records[0] == Record(10, "10.bmp", 4, 6, picture, path, segments)
    data.check_files()
    data.check_files(fast=False)


def test_pictures_and_ground_truth(tmp_path: Path) -> None:
    write_split(tmp_path)
    data = pickle.loads(pickle.dumps(CocoPanoptic.open(tmp_path, "train")))  # noqa: S301 - as it goes to a worker
    for index, (image_id, expected) in enumerate(SCENES.items()):
        picture, truth = data.picture(index), data.panoptic(index)
        assert data.records[index].image_id == image_id
        assert (picture.shape, picture.dtype, picture[0, 0].tolist()) == ((4, 6, 3), np.uint8, [len(expected), 2, 3])
        assert truth.size == (4, 6)
        for segment, (segment_id, (category_id, iscrowd, region)) in zip(truth.segments, expected.items(), strict=True):
            assert (segment.id, segment.iscrowd, segment.score) == (segment_id, bool(iscrowd), None)
            assert data.categories.ids[segment.label] == category_id
            assert (truth.ids[region] == segment_id).all()
            assert segment.area == (truth.ids == segment_id).sum() > 0


def test_areas_are_counted_in_the_map(tmp_path: Path) -> None:
    write_split(tmp_path)
    rewrite(tmp_path, lambda d: d["annotations"][0]["segments_info"][0].update(area=9999))
    data = CocoPanoptic.open(tmp_path, "train")
    assert data.records[0].segments[0].area == 9999
    assert data.panoptic(0).segments[0].area == 6


def test_grey_and_turned_pictures(tmp_path: Path) -> None:
    write_split(tmp_path)
    rewrite(tmp_path, lambda d: d["images"][1].update(file_name="turned.jpg"))
    Image.new("L", (6, 4), 90).save(tmp_path / "train" / "10.bmp")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (4, 6), (200, 0, 0)).save(tmp_path / "train" / "turned.jpg", exif=exif)
    data = CocoPanoptic.open(tmp_path, "train")
    data.check_files()
    assert (data.picture(0) == 90).all()
    assert data.picture(1).shape == (4, 6, 3)


def test_real_samples_open(shared_data: Path) -> None:
    data = CocoPanoptic.open(shared_data / "coco_panoptic_samples", "val")
    data.check_files(fast=False)
    assert (len(data), len(data.categories)) == (3, 133)
    for index, record in enumerate(data.records):
        assert [s.area for s in data.panoptic(index).segments] == [s.area for s in record.segments]


# What is wrong in the JSON


def first(data: dict[str, Any]) -> dict[str, Any]:
    return data["annotations"][0]["segments_info"][0]


def another(data: dict[str, Any], key: str, position: int) -> None:
    data[key].append(copy.deepcopy(data[key][position]))


WRONG: list[tuple[Edit, str]] = [
    (lambda d: first(d).update(category_id=4), "image 10: segment 70000: category_id 4 is not in .*categories; add"),
    (lambda d: first(d).update(category_id="17"), "image 10.*segment 70000.*category_id '17' is not a whole number"),
    (lambda d: first(d).pop("category_id"), "image 10.*segment 70000.*'category_id' is missing; add"),
    (lambda d: first(d).pop("id"), r"image 10: segments_info\[0\]: 'id' is missing"),
    (lambda d: first(d).update(id=0), r"image 10.*id 0 is not a whole number from 1 to 16777215 \(0 is void\)"),
    (lambda d: first(d).update(id=2**24), "id 16777216 is not a whole number from 1"),
    (lambda d: first(d).update(id=5), "image 10: segment 5: stands twice"),
    (lambda d: first(d).update(id=True), "id True is not a whole number"),
    (lambda d: first(d).pop("iscrowd"), "image 10: segment 70000: 'iscrowd' is missing"),
    (lambda d: first(d).update(iscrowd=2), "segment 70000: iscrowd 2 is not 0 or 1"),
    (lambda d: first(d).pop("area"), "image 10: segment 70000: 'area' is missing"),
    (lambda d: first(d).update(area=-3), "segment 70000: area -3 is not a number of pixels"),
    (lambda d: first(d).update(area=2.5), "segment 70000: area 2.5 is not a number of pixels"),
    (lambda d: first(d).update(area="6"), "segment 70000: area '6' is not a number of pixels"),
    (lambda d: d["annotations"][0]["segments_info"].append(3), r"image 10: segments_info\[2\]: 3 is no object"),
    (lambda d: d["annotations"][0].update(segments_info={}), r"annotations\[0\] \(image 10\): segments_info {} is not"),
    (lambda d: d["annotations"][0].pop("file_name"), r"annotations\[0\] \(image 10\): 'file_name' is missing"),
    (lambda d: d["annotations"][0].pop("image_id"), r"annotations\[0\]: 'image_id' is missing"),
    (lambda d: d["annotations"][0].update(image_id=99), "image 99: has an annotation but is not in images"),
    (lambda d: d["annotations"].pop(0), "image 10: has no usable annotation; add one"),
    (lambda d: another(d, "annotations", 0), "image 10: has two annotations; keep one"),
    (lambda d: another(d, "images", 0), "image 10: stands twice in images; keep one"),
    (lambda d: d["images"].append([]), r"images\[4\]: \[\] is no object"),
    (lambda d: d["images"][0].pop("height"), r"images\[0\] \(image 10\): 'height' is missing"),
    (lambda d: d["images"][0].update(width="6"), "width '6' is not a whole number above 0"),
    (lambda d: d["images"][0].update(width=0), "width 0 is not a whole number above 0"),
    (lambda d: d["images"][0].update(file_name=""), "file_name '' is not a text"),
    (lambda d: d["images"][0].update(id=None), r"images\[0\] \(image None\): id None is not a whole number or text"),
    (lambda d: d.update(images=[], annotations=[]), "the list of images is empty; add"),
    (lambda d: d.pop("images"), "'images' is missing"),
    (lambda d: d.update(annotations={}), "'annotations' is no list"),
    (lambda d: d["categories"][0].pop("isthing"), r"categories\[0\] has no 'isthing'"),
    (lambda d: d.update(categories=[]), "the list of categories is empty"),
    (lambda d: d["categories"][0].update(id=3), "id 3 stands more than once"),
]


@pytest.mark.parametrize(("edit", "message"), WRONG, ids=[message[:50] for _, message in WRONG])
def test_a_wrong_json_is_refused(tmp_path: Path, edit: Edit, message: str) -> None:
    write_split(tmp_path)
    rewrite(tmp_path, edit)
    with pytest.raises(InputError, match=message) as error:
        CocoPanoptic.open(tmp_path, "train")
    assert str(tmp_path / "panoptic_train.json") in str(error.value)


def test_a_json_that_is_no_object_is_refused(tmp_path: Path) -> None:
    write_split(tmp_path)
    path = tmp_path / "panoptic_train.json"
    path.write_text("[]")
    with pytest.raises(InputError, match="no COCO panoptic JSON"):
        CocoPanoptic.open(tmp_path, "train")
    path.write_text('{"images": [}')
    with pytest.raises(InputError, match=r"panoptic_train\.json: broken JSON at line 1, column 13"):
        CocoPanoptic.open(tmp_path, "train")


def test_many_problems_come_in_one_error(tmp_path: Path) -> None:
    write_split(tmp_path)
    extra = [{"id": 100 + i, "category_id": 4, "iscrowd": 0, "area": 1} for i in range(12)]
    rewrite(tmp_path, lambda d: d["annotations"][3].update(segments_info=extra))
    rewrite(tmp_path, lambda d: first(d).update(id=0))
    with pytest.raises(InputError) as error:
        CocoPanoptic.open(tmp_path, "train")
    lines = str(error.value).splitlines()
    assert len(lines) == 12
    assert "image 10" in lines[1]
    assert "image 8: segment 100:" in lines[2]
    assert lines[-1].strip() == "and 3 more"


# What is wrong in the files


def test_files_that_disagree_are_refused_one_by_one_and_together(tmp_path: Path) -> None:
    write_split(tmp_path)
    Image.new("RGB", (6, 5)).save(tmp_path / "train" / "10.bmp")
    (tmp_path / "train" / "b-2.bmp").unlink()
    write_id_map(tmp_path / "panoptic_train" / "7.png", np.ones((6, 4), np.int32))
    Image.new("L", (6, 4)).save(tmp_path / "panoptic_train" / "8.png")
    data = CocoPanoptic.open(tmp_path, "train")
    expected = [
        (lambda: data.picture(0), r"image 10: .*10\.bmp is 6 wide and 5 high, but 6 wide and 4 high"),
        (lambda: data.picture(1), r"image b-2: .*b-2\.bmp is not there"),
        (lambda: data.panoptic(2), r"image 7: .*7\.png is 4 wide and 6 high, but the JSON says 6 wide and 4 high"),
        (lambda: data.panoptic(3), r"image 8: .*8\.png is a PNG of 8-bit grey"),
    ]
    for read, message in expected:
        with pytest.raises(InputError, match=message):
            read()
        for fast in (True, False):
            with pytest.raises(InputError, match=message) as error:
                data.check_files(fast=fast)
            assert len(str(error.value).splitlines()) == 5


def test_ids_that_disagree_are_refused(tmp_path: Path) -> None:
    write_split(tmp_path)
    ids = np.zeros((4, 6), np.int32)
    ids[0, :3] = (77, 78, 5)
    write_id_map(tmp_path / "panoptic_train" / "10.png", ids)
    data = CocoPanoptic.open(tmp_path, "train")
    data.check_files()
    for read in (lambda: data.panoptic(0), lambda: data.check_files(fast=False)):
        with pytest.raises(InputError, match=r"image 10: .*") as error:
            read()
        assert "10.png holds ids 77, 78, not in segments_info" in str(error.value)
        assert "segments_info lists id 70000, without a pixel in" in str(error.value)


def test_truncated_files_are_refused(tmp_path: Path) -> None:
    write_split(tmp_path)
    data = CocoPanoptic.open(tmp_path, "train")
    for path in (data.records[0].picture, data.records[0].map):
        path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InputError, match=r"image 10: .*10\.bmp cannot be read"):
        data.picture(0)
    with pytest.raises(InputError, match=r"image 10: .*10\.png cannot be read"):
        data.panoptic(0)
    with pytest.raises(InputError, match=r"10\.bmp cannot be read(.|\n)*10\.png cannot be read"):
        data.check_files(fast=False)


def test_many_wrong_files_are_counted(tmp_path: Path) -> None:
    write_split(tmp_path)
    data = CocoPanoptic.open(tmp_path, "train")
    many = CocoPanoptic(data.paths, data.categories, data.records * 4)
    for record in data.records:
        record.picture.unlink()
    with pytest.raises(InputError, match="and 6 more"):
        many.check_files()
