"""Reading COCO: instances as COCO, CVAT, Roboflow and we ourselves write them, and COCO panoptic."""

import json
import pickle
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from thingstuff.convert.classes import ClassRules, plan_classes
from thingstuff.convert.coco_instances import open_source as open_instances
from thingstuff.convert.coco_instances import recognise as recognise_instances
from thingstuff.convert.coco_panoptic import open_source as open_panoptic
from thingstuff.convert.coco_panoptic import read as read_panoptic
from thingstuff.convert.coco_panoptic import recognise as recognise_panoptic
from thingstuff.convert.converting import convert
from thingstuff.convert.exporting import export
from thingstuff.convert.painting import Overlap, PaintRules, paint, with_background
from thingstuff.convert.source import Source, SourceLabels, SourceObject, SourceOptions
from thingstuff.data.coco import locate, splits
from thingstuff.errors import InputError
from thingstuff.io import read_id_map, read_json, write_id_map

LABELS = Path(__file__).parent / "labels" / "coco"
SIZE = (24, 32)
NONE = SourceOptions()


def write_picture(path: Path, size: tuple[int, int] = SIZE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size[1], size[0])).save(path)
    return path


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def image(number: int = 1, name: str = "a.png", **further: Any) -> dict[str, Any]:
    return {"id": number, "file_name": name, "height": SIZE[0], "width": SIZE[1], **further}


def annotation(segmentation: Any, image_id: int = 1, category_id: int = 1, **further: Any) -> dict[str, Any]:
    fields = {"id": 5, "image_id": image_id, "category_id": category_id, "segmentation": segmentation}
    return {**fields, "area": 1.0, "bbox": [0, 0, 1, 1], "iscrowd": 0, **further}


def instances(
    annotations: Sequence[Any], images: Sequence[Any] | None = None, categories: Sequence[Any] | None = None
) -> dict[str, Any]:
    named = [{"id": 1, "name": "cat", "supercategory": "animal"}, {"id": 9, "name": "dog"}]
    return {"images": images or [image()], "annotations": annotations, "categories": categories or named}


def one_json(folder: Path, content: Any, name: str = "instances_val.json") -> Path:
    for entry in content["images"]:
        write_picture(folder / entry["file_name"])
    return write_json(folder / name, content)


def read_one(path: Path, options: SourceOptions = NONE) -> SourceLabels:
    source = open_instances(path, "named", options)
    return pickle.loads(pickle.dumps(source.read))(source.pictures[0])  # noqa: S301 (reading happens elsewhere)


def whole(drawn: SourceObject, size: tuple[int, int] = SIZE) -> npt.NDArray[np.bool_]:
    mask = np.zeros(size, dtype=np.bool_)
    drawn.region.paint(mask)
    return mask


SQUARE = [3.0, 2.0, 12.0, 2.0, 12.0, 9.0, 3.0, 9.0]
OTHER = [20.0, 12.0, 28.5, 12.0, 24.0, 20.0]


# Instances: masks


# The file was written by datumaro 1.13 (which CVAT exports COCO with) from two polygons of one object, a mask with a
# hole, a crowd, and a box.
def test_a_cvat_export_gives_polygons_masks_and_crowds(tmp_path: Path) -> None:
    path = tmp_path / "annotations" / "instances_default.json"
    path.parent.mkdir()
    shutil.copy(LABELS / "instances_default.json", path)
    write_picture(tmp_path / "images" / "default" / "a" / "one.jpg")
    write_picture(tmp_path / "images" / "default" / "two.jpg")
    assert recognise_instances(tmp_path) == "annotations/instances_default.json lists segmentations of images"
    source = open_instances(tmp_path, "named", NONE)
    assert [(p.key, p.image_id, p.split) for p in source.pictures] == [("a/one", 7, None), ("two", 9, None)]
    assert [(c.name, c.id, c.isthing) for c in source.classes] == [("cat", 1, True), ("dog", 2, True)]
    assert source.pictures[0].extra["license"] == 0
    assert source.header["info"]["contributor"] == ""
    labels = source.read(source.pictures[0])
    cat, dog, crowd = labels.objects
    expected = {name: np.zeros(SIZE, dtype=np.bool_) for name in ("cat", "dog", "crowd")}
    expected["cat"][2:10, 15:29] = expected["cat"][12, 20:24] = True
    expected["dog"][2:9, 3:12] = True
    expected["dog"][4, 5] = False
    expected["crowd"][14:22, 4:28] = True
    np.testing.assert_array_equal(whole(dog), expected["dog"])
    np.testing.assert_array_equal(whole(crowd), expected["crowd"])
    assert (whole(cat) ^ expected["cat"]).sum() <= 8  # half a pixel at the polygon's border
    assert [(o.name, o.iscrowd) for o in labels.objects] == [("cat", False), ("dog", True), ("dog", True)]
    assert dog.marks == {"attributes": {"occluded": True}}
    assert labels.notes == ("bounding box alone, which is no mask",)
    assert source.read(source.pictures[1]) == SourceLabels(SIZE, ())
    assert len(source.notes) == 1
    assert "2 of 4 annotations" in source.notes[0]


def test_masks_are_those_of_cocos_own_tool(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    mask = np.asfortranarray(random.random(SIZE) < 0.4, dtype=np.uint8)
    packed = {**coco_mask.encode(mask), "size": list(SIZE)}
    packed["counts"] = packed["counts"].decode()
    polygons = [SQUARE, (random.random(14) * 24).tolist()]
    path = one_json(tmp_path, instances([annotation(packed), annotation(polygons, category_id=9)]))
    first, second = read_one(path).objects
    np.testing.assert_array_equal(whole(first), mask)
    np.testing.assert_array_equal(
        whole(second), coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, *SIZE)))
    )
    assert (first.name, second.name) == ("cat", "dog")


def test_pieces_that_are_lines_are_left_out_and_noted(tmp_path: Path) -> None:
    path = one_json(tmp_path, instances([annotation([SQUARE, [1, 1, 5, 5]]), annotation([[1, 1, 5, 5]])]))
    labels = read_one(path)
    assert len(labels.objects) == 1
    assert labels.notes == ("polygon of less than three corners",) * 2


def test_our_own_fields_and_unknown_ones_are_kept(tmp_path: Path) -> None:
    marks = {"filled": {"by": "detr", "score": 0.93}, "note": "x"}
    path = one_json(tmp_path, instances([annotation([SQUARE], segment_id=70000, **marks), annotation([SQUARE])]))
    first, second = read_one(path).objects
    assert (first.segment_id, first.marks) == (70000, marks)
    assert (second.segment_id, second.marks) == (None, {})


def test_a_size_that_the_json_leaves_out_is_the_pictures(tmp_path: Path) -> None:
    path = one_json(tmp_path, instances([annotation([SQUARE])], [{"id": 1, "file_name": "a.png"}]))
    assert read_one(path).size == SIZE


def mend(content: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {**content, "annotations": [{**content["annotations"][0], **changes}]}


@pytest.mark.parametrize(
    ("segmentation", "told"),
    [
        ([[1, 2, 3, 4, 5, 6, 7]], "a polygon of 7 numbers"),
        ([["a", 2, 3, 4, 5, 6]], "no list of finite numbers"),
        ([[float("nan"), 2, 3, 4, 5, 6]], "no list of finite numbers"),
        ([[10**400, 2, 3, 4, 5, 6]], "no list of finite numbers"),
        ([[1e9, 2, 3, 4, 5, 6]], "a polygon that reaches 1e+09 in a picture of 32 x 24"),
        ([[10**15, 2, 3, 4, 5, 6]], "a polygon that reaches 1e+15 in a picture of 32 x 24"),
        ([SQUARE, {"x": 1}], "no list of finite numbers"),
        ("text", "neither polygons nor run lengths"),
        ({"counts": [700, 68]}, "of the size None"),
        ({"counts": [700, 68], "size": [32, 24]}, "of the size [32, 24]"),
        ({"size": [24, 32]}, "need 'counts'"),
        ({"counts": [700], "size": [24, 32]}, "do not fill 32 x 24 pixels"),
        ({"counts": "Zz", "size": [24, 32]}, "do not fill 32 x 24 pixels"),
        ({"counts": "\ud800", "size": [24, 32]}, "need 'counts'"),
    ],
)
def test_broken_segmentations_are_told_with_annotation_and_image(tmp_path: Path, segmentation: Any, told: str) -> None:
    path = one_json(tmp_path, instances([annotation(segmentation), annotation(segmentation, id=6)]))
    with pytest.raises(InputError) as error:
        read_one(path)
    text = str(error.value)
    assert all(part in text for part in (str(path), "image 1", "annotation 5", "annotation 6", told)), text


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"annotations": "none"}, "an object with the lists images, annotations, categories"),
        ({"images": []}, "the list of images is empty"),
        ({"categories": []}, "the list of categories is empty"),
        ({"images": [{"id": 1}]}, "images[0]: 'file_name' is missing"),
        ({"images": [{"id": 1, "file_name": "a.png", "height": 24}]}, "images[0]: 'width' is missing"),
        ({"images": [image(), image(name="b.png")]}, "image 1: stands twice"),
        ({"images": [image(), image(2, "a.jpg")]}, "'a.png' and 'a.jpg' are one or differ in their suffix"),
        ({"categories": [{"id": 1, "name": ""}]}, "categories[0]: name ''"),
        ({"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}, "category 1: stands twice"),
        ({"categories": [{"id": 1, "name": "a", "isthing": "yes"}]}, "isthing 'yes' is not 0 or 1"),
        ({"annotations": [annotation([SQUARE], image_id=8)]}, "annotations[0] (id 5): image_id 8 is not in images"),
        ({"annotations": [annotation([SQUARE], category_id=8)]}, "category_id 8 is not in categories"),
        ({"annotations": [annotation([SQUARE], iscrowd=2)]}, "iscrowd 2 is not 0 or 1"),
        ({"annotations": [annotation([SQUARE], segment_id=0)]}, "segment_id 0 is not a whole number from 1"),
        ({"annotations": [7] * 12}, "and 2 more"),
    ],
)
def test_broken_files_are_told_when_they_are_opened(tmp_path: Path, changes: Mapping[str, Any], told: str) -> None:
    write_picture(tmp_path / "a.png")
    write_picture(tmp_path / "a.jpg")
    path = write_json(tmp_path / "instances_val.json", {**instances([annotation([SQUARE])]), **changes})
    with pytest.raises(InputError) as error:
        open_instances(path, "named", NONE)
    assert str(path) in str(error.value)
    assert told in str(error.value)


def test_a_picture_of_another_size_is_told(tmp_path: Path) -> None:
    path = one_json(tmp_path, instances([annotation([SQUARE])]))
    write_picture(tmp_path / "a.png", (10, 11))
    with pytest.raises(InputError, match=r"11 wide and 10 high, but 32 wide and 24 high was expected"):
        read_one(path)


# Instances: layouts, splits, classes


def test_cocos_own_tree_gives_splits_without_years_and_leaves_keypoints_aside(tmp_path: Path) -> None:
    for number, split in enumerate(("train2017", "val2017"), 1):
        content = instances([annotation([SQUARE], number)], [image(number, f"{number:012}.jpg", license=4)])
        write_json(tmp_path / "annotations" / f"instances_{split}.json", {"info": {"year": 2017}, **content})
        write_json(tmp_path / "annotations" / f"person_keypoints_{split}.json", content)
        write_picture(tmp_path / split / f"{number:012}.jpg")
    source = open_instances(tmp_path, "named", NONE)
    assert [(p.key, p.split, p.image_id) for p in source.pictures] == [
        ("train/000000000001", "train", 1),
        ("val/000000000002", "val", 2),
    ]
    assert source.pictures[0].picture == tmp_path / "train2017" / "000000000001.jpg"
    assert source.pictures[0].extra == {"license": 4}
    assert source.header == {"info": {"year": 2017}}
    alone = open_instances(tmp_path / "annotations" / "instances_val2017.json", "named", NONE)
    assert [(p.key, p.split) for p in alone.pictures] == [("000000000002", "val")]


def test_years_stay_where_two_splits_would_be_one(tmp_path: Path) -> None:
    for number, split in enumerate(("train2014", "train2017"), 1):
        one_json(tmp_path, instances([], [image(number, f"{number}.png")]), f"instances_{split}.json")
    assert {p.split for p in open_instances(tmp_path, "named", NONE).pictures} == {"train2014", "train2017"}


# Roboflow's form as its exports in public repositories have it (chroma-core/chroma, cocodetection.tsx, for one): a
# category 0 for the project, here of the same name as its only class, pictures beside the JSON, ids from 0 in each
def test_a_roboflow_export_is_read_with_its_pictures_beside(tmp_path: Path) -> None:
    twins = [
        {"id": 0, "name": "ice", "supercategory": "none"},
        {"id": 1, "name": "ice", "supercategory": "ice"},
    ]
    for split in ("train", "valid", "test"):
        name = "0001_jpg.rf.8c2a.jpg"
        content = instances([annotation([SQUARE], 0)], [image(0, name, extra={"name": "0001.jpg"})], twins)
        write_json(tmp_path / split / "_annotations.coco.json", content)
        write_picture(tmp_path / split / name)
    assert recognise_instances(tmp_path) == "test/_annotations.coco.json lists segmentations of images"
    source = open_instances(tmp_path, "named", NONE)
    assert [(c.name, c.id) for c in source.classes] == [("ice", 1)]
    assert len(source.notes) == 3
    assert source.notes[0].startswith("category 0 in ")
    assert "is named 'ice' as another one is, no annotation uses it" in source.notes[0]
    assert [(p.split, p.image_id, p.picture.parent.name) for p in source.pictures] == [
        ("test", 0, "test"),
        ("train", 0, "train"),
        ("val", 0, "valid"),
    ]
    # one name in all splits: the key is one picture's alone
    assert [p.key for p in source.pictures] == [f"{s}/0001_jpg.rf.8c2a" for s in ("test", "train", "val")]
    assert all(len(source.read(p).objects) == 1 for p in source.pictures)


def test_two_used_categories_of_one_name_are_refused(tmp_path: Path) -> None:
    twins = [{"id": 0, "name": "ice"}, {"id": 1, "name": "ice"}]
    used = [annotation([SQUARE], category_id=0), annotation([SQUARE], category_id=1)]
    path = one_json(tmp_path, instances(used, None, twins))
    with pytest.raises(InputError, match="categories 0 and 1 are both named 'ice'"):
        open_instances(path, "named", NONE)


@pytest.mark.parametrize(
    ("file_name", "where", "key"),
    [
        ("images\\b.png", "images/b.png", "images/b"),
        ("C:\\work\\b.png", "b.png", "b"),
        ("/data/somebody/b.png", "images/b.png", "b"),
        ("../data/b.png", "images/b.png", "b"),
        ("deep/b.png", "images/val/deep/b.png", "deep/b"),
    ],
)
def test_names_from_other_machines_find_their_pictures(tmp_path: Path, file_name: str, where: str, key: str) -> None:
    write_picture(tmp_path / where)
    path = write_json(tmp_path / "instances_val.json", instances([], [image(1, file_name)]))
    (picture,) = open_instances(path, "named", NONE).pictures
    assert (picture.key, picture.picture) == (key, tmp_path / where)


def test_missing_pictures_are_counted_and_can_be_given(tmp_path: Path) -> None:
    images = [image(number, f"{number}.png") for number in range(6)]
    path = write_json(tmp_path / "set" / "instances_val.json", instances([], images))
    with pytest.raises(InputError, match=r"not there: 0.png, 1.png, 2.png and 3 more; .*--pictures"):
        open_instances(path, "named", NONE)
    for number in range(6):
        write_picture(tmp_path / "elsewhere" / f"{number}.png")
    source = open_instances(path, "named", SourceOptions(pictures=tmp_path / "elsewhere"))
    assert len(source.pictures) == 6


def test_one_missing_picture_is_that_pictures_fault(tmp_path: Path) -> None:
    images = [image(number, f"{number}.png") for number in range(3)]
    path = write_json(tmp_path / "annotations" / "instances_val.json", instances([], images))
    for number in (0, 2):
        write_picture(tmp_path / "val" / f"{number}.png")
    source = open_instances(tmp_path, "named", NONE)
    assert [p.key for p in source.pictures] == ["0", "1", "2"]
    gone = tmp_path / "val" / "1.png"
    with pytest.raises(InputError, match=rf"{gone} is not there; .*--pictures"):
        source.read(source.pictures[1])
    assert [source.read(source.pictures[n]).size for n in (0, 2)] == [SIZE, SIZE]
    with pytest.raises(InputError, match=r"1 of 3 pictures cannot be converted(.|\n)*1\.png is not there"):
        convert(source, tmp_path / "out", workers=1)
    assert len(convert(source, tmp_path / "out", skip_broken=True, workers=1).report.broken) == 1
    assert len(read_json(tmp_path / "out" / "panoptic_val.json")["images"]) == 2
    write_picture(gone)
    assert convert(open_instances(path, "named", NONE), tmp_path / "out", workers=1).earlier == 2


def test_a_missing_picture_of_a_panoptic_set_is_that_pictures_fault(tmp_path: Path) -> None:
    write_panoptic(tmp_path)
    content = read_json(tmp_path / "panoptic_val.json")
    content["images"].append(image(31, "b.jpg"))
    content["annotations"].append({**content["annotations"][0], "image_id": 31})
    write_json(tmp_path / "panoptic_val.json", content)
    source = open_panoptic(tmp_path, "named", NONE)
    assert len(source.read(source.pictures[0]).objects) == 3
    with pytest.raises(InputError, match=r"val.b\.jpg is not there"):
        source.read(source.pictures[1])


def test_classes_of_splits_are_joined_by_name(tmp_path: Path) -> None:
    first = [{"id": 1, "name": "cat", "color": [1, 2, 3]}, {"id": 2, "name": "sky", "isthing": 0}]
    second = [{"id": 2, "name": "cat"}, {"id": 1, "name": "dog"}]
    for split, number, categories in (("train", 1, first), ("val", 2, second)):
        content = instances([annotation([SQUARE], number)], [image(number, f"{number}.png")], categories)
        one_json(tmp_path, content, f"instances_{split}.json")
    source = open_instances(tmp_path, "named", NONE)
    assert [tuple(c) for c in source.classes] == [
        ("cat", 1, True, (1, 2, 3)),
        ("sky", 2, False, None),
        ("dog", None, True, None),
    ]
    assert [source.read(p).objects[0].name for p in source.pictures] == ["cat", "dog"]
    assert any("'cat' has the id 2" in note for note in source.notes)
    assert any("the id 1 of 'dog'" in note for note in source.notes)


def test_two_jsons_of_one_split_are_refused(tmp_path: Path) -> None:
    for place in ("", "annotations"):
        one_json(tmp_path / place, instances([]))
    with pytest.raises(InputError, match="are both of split 'val'"):
        open_instances(tmp_path, "named", NONE)


def test_what_is_no_coco_instances_is_not_recognised(tmp_path: Path) -> None:
    write_json(tmp_path / "list.json", [annotation([SQUARE])])
    write_json(tmp_path / "other.json", {"shapes": [], "imagePath": "a.png"})
    write_json(tmp_path / "panoptic_val.json", {"annotations": [{"segments_info": [], "image_id": 1}]})
    (tmp_path / "broken.json").write_bytes(b"\xff\xfe\x00")
    assert recognise_instances(tmp_path) is None
    assert [recognise_instances(path) for path in sorted(tmp_path.iterdir())] == [None] * 4
    write_json(tmp_path / "train.json", instances([annotation([SQUARE])]))
    assert recognise_instances(tmp_path) == "train.json lists segmentations of images"
    with pytest.raises(InputError, match="no COCO instances JSON"):
        open_instances(tmp_path / "list.json", "named", NONE)
    with pytest.raises(InputError, match="holds no JSON of COCO instances"):
        open_instances(LABELS.parent / "labelme", "named", NONE)


# Instances with stuff from semantic PNGs


def with_semantic(folder: Path, values: npt.NDArray[Any], categories: Sequence[Any] | None = None) -> Path:
    path = one_json(folder, instances([annotation([SQUARE])], None, categories))
    (folder / "semantic").mkdir()
    Image.fromarray(values).save(folder / "semantic" / "a.png")
    return path


def test_stuff_of_semantic_pngs_lies_below(tmp_path: Path) -> None:
    values = np.zeros(SIZE, dtype=np.uint8)  # COCO-Stuff: the value is the category id, 0 is unlabelled
    values[:10], values[10:16], values[16:20, :4], values[20:, 3:] = 92, 1, 255, 93
    listed = [{"id": 1, "name": "cat"}, {"id": 92, "name": "banner"}, {"id": 93, "name": "blanket", "isthing": 0}]
    path = with_semantic(tmp_path, values, listed)
    options = SourceOptions(semantic=tmp_path / "semantic")
    source = open_instances(path, "named", options)
    assert [(c.name, c.id, c.isthing) for c in source.classes] == [
        ("cat", 1, True),
        ("banner", 92, False),
        ("blanket", 93, False),
    ]
    assert source.pictures[0].labels == (tmp_path / "semantic" / "a.png",)
    labels = read_one(path, options)
    assert [(o.name, o.layer) for o in labels.objects] == [("banner", -1), ("blanket", -1), ("cat", 0)]
    np.testing.assert_array_equal(whole(labels.objects[0]), values == 92)
    np.testing.assert_array_equal(whole(labels.objects[1]), values == 93)
    # where the PNG sees a cat that no instance covers there is no background: it is void, as what is ignored
    assert sorted(region.area for region in labels.ignored) == [16, 6 * 32]
    plan = plan_classes(source.classes, ClassRules(background="ground"))
    drawn = paint(labels, PaintRules(plan.names, plan.categories, Overlap.SMALLER_ON_TOP, 0))[0]
    ids = with_background(drawn, "ground", plan.categories).ids
    assert not ids[10:16][~whole(labels.objects[2])[10:16]].any()
    assert ids[22, 0]
    assert labels.notes == ("class of things in the semantic PNG, left to the instances; where none is, it is void",)


def test_names_say_what_values_of_semantic_pngs_are(tmp_path: Path) -> None:
    values = np.arange(SIZE[0], dtype=np.uint8).repeat(SIZE[1]).reshape(SIZE) // 6
    path = with_semantic(tmp_path, values)
    (tmp_path / "names.txt").write_text("unlabelled\ncat\nsky\nignore\n")
    options = SourceOptions(semantic=tmp_path / "semantic", names=tmp_path / "names.txt")
    source = open_instances(path, "named", options)
    # "dog" (id 9) is not used and its kind not said
    assert [(c.name, c.id, c.isthing) for c in source.classes] == [
        ("cat", 1, True),
        ("dog", 9, False),
        ("sky", 2, False),
    ]
    labels = source.read(source.pictures[0])
    assert [(o.name, o.region.area) for o in labels.objects if o.layer] == [("sky", 6 * 32)]
    assert [(r.top, r.area) for r in labels.ignored] == [(6, 6 * 32), (18, 6 * 32)]  # a cat without instance, too


def test_faulty_semantic_pngs_are_told(tmp_path: Path) -> None:
    path = with_semantic(tmp_path, np.full(SIZE, 77, dtype=np.uint8))
    options = SourceOptions(semantic=tmp_path / "semantic")
    with pytest.raises(InputError, match=r"a\.png holds the value 77.*--names"):
        read_one(path, options)
    Image.fromarray(np.zeros((3, 4), dtype=np.uint8)).save(tmp_path / "semantic" / "a.png")
    with pytest.raises(InputError, match="is 4 wide and 3 high, its picture 32 wide and 24 high"):
        read_one(path, options)
    (tmp_path / "semantic" / "a.png").unlink()
    with pytest.raises(InputError, match="has no PNG for any picture"):
        open_instances(path, "named", options)
    with pytest.raises(InputError, match="--names says nothing of coco-instances"):
        open_instances(path, "named", SourceOptions(names=tmp_path / "names.txt"))


def test_pictures_without_a_semantic_png_are_noted(tmp_path: Path) -> None:
    path = one_json(tmp_path, instances([], [image(), image(2, "b.png")]))
    (tmp_path / "val").mkdir()
    Image.fromarray(np.zeros(SIZE, dtype=np.uint8)).save(tmp_path / "val" / "b.png")
    source = open_instances(path, "named", SourceOptions(semantic=tmp_path))
    assert [len(p.labels) for p in source.pictures] == [0, 1]
    assert source.notes == (f"1 pictures have no semantic PNG in {tmp_path}: their stuff stays unlabelled",)


# Panoptic


def write_panoptic(folder: Path, split: str = "val", json_in: str = "") -> npt.NDArray[np.int32]:
    """Write one picture with a person, a crowd and filled sky; further fields in all places."""
    ids = np.zeros(SIZE, dtype=np.int32)
    ids[2:8, 2:8], ids[10:14], ids[20:] = 70000, 3, 16000000
    write_picture(folder / split / "deep" / "a.jpg")
    (folder / json_in / f"panoptic_{split}").mkdir(parents=True)
    write_id_map(folder / json_in / f"panoptic_{split}" / "a_map.png", ids)
    infos = [
        {"id": 70000, "category_id": 7, "area": 36, "bbox": [2, 2, 6, 6], "iscrowd": 0},
        {"id": 3, "category_id": 7, "area": 128, "bbox": [0, 10, 32, 4], "iscrowd": 1},
        {
            "id": 16000000,
            "category_id": 2,
            "area": 128,
            "iscrowd": 0,
            "isthing": 0,
            "filled": {"by": "m", "score": 0.9},
        },
    ]
    content = {
        "info": {"year": 2020},
        "images": [image(30, "deep/a.jpg", flickr_url="x")],
        "annotations": [{"image_id": 30, "file_name": "a_map.png", "segments_info": infos}],
        "categories": [
            {"id": 7, "name": "person", "isthing": 1, "color": [220, 20, 60]},
            {"id": 2, "name": "sky", "isthing": 0},
        ],
    }
    write_json(folder / json_in / f"panoptic_{split}.json", content)
    return ids


def painted(labels: SourceLabels) -> npt.NDArray[np.int32]:
    ids = np.zeros(labels.size, dtype=np.int32)
    for drawn in labels.objects:
        ids[drawn.region.window][drawn.region.mask] = drawn.segment_id
    return ids


def test_panoptic_keeps_everything(tmp_path: Path) -> None:
    ids = write_panoptic(tmp_path)
    assert recognise_panoptic(tmp_path) == "panoptic_val.json lies with its folder of id maps"
    source = open_panoptic(tmp_path, "named", NONE)
    assert [tuple(c) for c in source.classes] == [("person", 7, True, (220, 20, 60)), ("sky", 2, False, None)]
    assert source.header == {"info": {"year": 2020}}
    (picture,) = source.pictures
    assert (picture.key, picture.split, picture.image_id) == ("deep/a", "val", 30)
    assert picture.extra == {"flickr_url": "x"}
    labels = source.read(picture)
    np.testing.assert_array_equal(painted(labels), ids)
    assert [(o.name, o.iscrowd, o.segment_id, o.marks) for o in labels.objects] == [
        ("person", False, 70000, {}),
        ("person", True, 3, {}),
        ("sky", False, 16000000, {"filled": {"by": "m", "score": 0.9}}),
    ]
    assert labels.ignored == ()  # void is what nobody labelled


def test_panoptic_is_found_in_cocos_tree_by_yaml_and_by_its_json(tmp_path: Path) -> None:
    write_panoptic(tmp_path, "val2017", "annotations")
    json_path = tmp_path / "annotations" / "panoptic_val2017.json"
    places = {
        "pictures": "val2017",
        "maps": "annotations/panoptic_val2017",
        "json": "annotations/panoptic_val2017.json",
    }
    yaml_path = write_json(tmp_path / "data.yaml", {"mine": places})
    found = [open_panoptic(path, "named", NONE).pictures[0] for path in (tmp_path, json_path, yaml_path)]
    assert [(p.key, p.split) for p in found] == [("deep/a", "val"), ("deep/a", "val"), ("deep/a", "mine")]
    assert all(recognise_panoptic(path) for path in (tmp_path, json_path, yaml_path))
    moved = tmp_path / "elsewhere"
    (tmp_path / "val2017").rename(moved)
    with pytest.raises(InputError, match=r"pictures are not there: deep/a\.jpg.*--pictures"):
        open_panoptic(tmp_path, "named", NONE)
    (picture,) = open_panoptic(tmp_path, "named", SourceOptions(pictures=moved)).pictures
    assert picture.picture == moved / "deep" / "a.jpg"


def test_panoptic_of_other_formats_is_not_recognised(tmp_path: Path) -> None:
    one_json(tmp_path, instances([annotation([SQUARE])]))
    write_json(tmp_path / "panoptic_val.json", {})  # without maps
    write_json(tmp_path / "data.yaml", {"path": "x", "train": "images/train", "names": ["a"]})
    assert recognise_panoptic(tmp_path) is None
    assert recognise_panoptic(tmp_path / "instances_val.json") is None
    assert recognise_panoptic(tmp_path / "data.yaml") is None
    with pytest.raises(InputError, match=r"folder of id maps .*panoptic_val of .* is not there"):
        open_panoptic(tmp_path, "named", NONE)


def test_maps_that_disagree_with_the_json_are_told(tmp_path: Path) -> None:
    ids = write_panoptic(tmp_path)
    (picture,) = open_panoptic(tmp_path, "named", NONE).pictures
    ids[0, 0], ids[10:14] = 5, 0
    write_id_map(picture.labels[0], ids)
    with pytest.raises(InputError) as error:
        read_panoptic(picture)
    assert "holds id 5, not in segments_info" in str(error.value)
    assert "lists id 3, without a pixel" in str(error.value)
    assert "image 30" in str(error.value)
    write_id_map(picture.labels[0], ids[:3])
    with pytest.raises(InputError, match="32 wide and 3 high, but the JSON says 32 wide and 24 high"):
        read_panoptic(picture)


REAL = ("camvid_panoptic_mini", "coco_things_openlicence_mini", "coco_panoptic_samples", "fruits_nuts")


@pytest.mark.parametrize("name", REAL)
def test_real_panoptic_sets_give_back_their_maps(shared_data: Path, name: str) -> None:
    source = open_panoptic(shared_data / name, "named", NONE)
    assert {p.split for p in source.pictures} == {*splits(shared_data / name)}
    for split in splits(shared_data / name):
        paths = locate(shared_data / name, split)
        raw = read_json(paths.json)
        assert [tuple(c[:3]) for c in source.classes] == [
            (c["name"], c["id"], bool(c["isthing"])) for c in raw["categories"]
        ]
        infos = {a["image_id"]: a["segments_info"] for a in raw["annotations"]}
        class_ids = {c.name: c.id for c in source.classes}
        own = [p for p in source.pictures if p.split == split]
        assert len(own) == len(raw["images"])
        for picture in own[:25]:
            labels = source.read(picture)
            np.testing.assert_array_equal(painted(labels), read_id_map(picture.labels[0]))
            told = [(o.segment_id, class_ids[o.name], int(o.iscrowd), o.region.area) for o in labels.objects]
            assert told == [(s["id"], s["category_id"], s["iscrowd"], s["area"]) for s in infos[picture.image_id]]


# There and back


def test_stuff_that_our_export_put_beside_instances_is_read_unasked(tmp_path: Path) -> None:
    write_panoptic(tmp_path / "set")
    out = tmp_path / "out"
    export(tmp_path / "set", out, "coco-instances", copy=False, workers=1)
    reason = recognise_instances(out) or ""
    source = open_instances(out, reason, NONE)
    assert source.reason == "instances_val.json lists segmentations of images, with stuff from semantic_val/"
    asked = open_instances(out, reason, SourceOptions(semantic=out))
    assert (source.classes, source.pictures) == (asked.classes, asked.pictures)
    assert [o.name for o in source.read(source.pictures[0]).objects] == ["sky", "person", "person"]
    assert open_instances(out / "instances_val.json", "named", NONE).classes == asked.classes
    (out / "classes.txt").unlink()  # without it nobody knows what the values are
    assert [c.name for c in open_instances(out, reason, NONE).classes] == ["person"]


def maps_by_class(source: Source) -> dict[str, npt.NDArray[Any]]:
    """Return for each picture what each pixel is: category id, and the segment's id where it is a thing."""
    kinds = {c.name: c for c in source.classes}
    found = {}
    for picture in source.pictures:
        labels = source.read(picture)
        pixels = np.zeros((2, *labels.size), dtype=np.int32)
        for drawn in sorted(labels.objects, key=lambda o: o.layer):
            kind = kinds[drawn.name]
            pixels[0][drawn.region.window][drawn.region.mask] = kind.id
            pixels[1][drawn.region.window][drawn.region.mask] = drawn.segment_id if kind.isthing else 0
        found[f"{picture.split} {picture.key}"] = pixels
    return found


@pytest.mark.parametrize("name", ["fruits_nuts", "coco_panoptic_samples"])
def test_instances_with_semantic_pngs_give_back_the_panoptic_set(shared_data: Path, tmp_path: Path, name: str) -> None:
    there = open_panoptic(shared_data / name, "named", NONE)
    export(shared_data / name, tmp_path / "out", "coco-instances", copy=False, workers=1)
    back = open_instances(tmp_path / "out", "named", SourceOptions(semantic=tmp_path / "out"))
    wanted, found = maps_by_class(there), maps_by_class(back)
    assert {*wanted} == {*found}
    for key, pixels in wanted.items():
        np.testing.assert_array_equal(found[key], pixels)
    images = {p.key: (p.image_id, p.extra) for p in there.pictures}
    assert {p.key: (p.image_id, p.extra) for p in back.pictures} == images


def test_ids_of_stuff_that_fit_no_semantic_png_survive(tmp_path: Path) -> None:
    write_panoptic(tmp_path / "there")
    path = tmp_path / "there" / "panoptic_val.json"
    before = path.read_text()
    for number, listed in ((70001, ["person", "sky"]), (2, ["person"])):
        changed = before.replace('"id": 2, "name"', f'"id": {number}, "name"')
        path.write_text(changed.replace('"category_id": 2,', f'"category_id": {number},'))
        out = tmp_path / f"back_{number}"
        export(tmp_path / "there", out, "coco-instances", workers=1)
        assert [c["name"] for c in read_json(out / "instances_val.json")["categories"]] == listed
        back = open_instances(out, "named", SourceOptions(semantic=out))
        assert {(c.name, c.id, c.isthing) for c in back.classes} == {("person", 7, True), ("sky", number, False)}
        assert sorted(o.name for o in back.read(back.pictures[0]).objects) == ["person", "person", "sky"]


def test_a_panoptic_json_is_parsed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_panoptic(tmp_path)
    parsed: list[int] = []
    loads = json.loads
    monkeypatch.setattr(json, "loads", lambda text: (parsed.append(len(text)), loads(text))[1])
    open_panoptic(tmp_path, "named", NONE)
    assert parsed == [(tmp_path / "panoptic_val.json").stat().st_size]
