"""Real data sets there and back, and by two routes: ids, areas, categories and every pixel survive."""

import itertools
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from thingstuff.convert.classes import ClassRules
from thingstuff.convert.converting import ConvertRules, convert
from thingstuff.convert.exporting import export
from thingstuff.convert.formats import open_source
from thingstuff.convert.source import SourceOptions
from thingstuff.data.coco import CocoPanoptic, splits
from thingstuff.io import read_json
from thingstuff.panoptic import Panoptic

SETS = ("coco_panoptic_samples", "coco_things_openlicence_mini", "fruits_nuts")


def pictures(data: CocoPanoptic) -> dict[str, Panoptic]:
    """Return maps by the picture's name without its suffix."""
    return {Path(r.file_name).with_suffix("").as_posix(): data.panoptic(n) for n, r in enumerate(data.records)}


def described(panoptic: Panoptic) -> Counter[tuple[str, bool, int, bytes]]:
    """Return a map's segments without their ids: class, crowd, area and pixels."""
    return Counter(
        (panoptic.name(s), s.iscrowd, s.area, np.packbits(panoptic.mask(s)).tobytes()) for s in panoptic.segments
    )


def few(data: Path, folder: Path, count: int) -> Path:
    """Return a set of the first pictures of each split, with links to everything."""
    folder.mkdir()
    for split in splits(data):
        content = read_json(data / f"panoptic_{split}.json")
        content["annotations"] = content["annotations"][:count]
        ids = {a["image_id"] for a in content["annotations"]}
        content["images"] = [i for i in content["images"] if i["id"] in ids]
        (folder / f"panoptic_{split}.json").write_text(json.dumps(content))
        for name in (split, f"panoptic_{split}"):
            (folder / name).symlink_to(data / name)
    return folder


@pytest.mark.parametrize("name", SETS)
def test_panoptic_to_panoptic_changes_nothing(shared_data: Path, tmp_path: Path, name: str) -> None:
    data = few(shared_data / name, tmp_path / "few", 8)
    convert(open_source(data), tmp_path / "out", workers=1)
    for split in splits(data):
        before, after = CocoPanoptic.open(data, split), CocoPanoptic.open(tmp_path / "out", split)
        assert before.categories == after.categories
        assert [r.image_id for r in before.records] == [r.image_id for r in after.records]
        for n in range(len(before)):
            assert np.array_equal(before.panoptic(n).ids, after.panoptic(n).ids)
            assert before.panoptic(n).segments == after.panoptic(n).segments
        images = [read_json(folder / f"panoptic_{split}.json")["images"] for folder in (data, tmp_path / "out")]
        for old, new in zip(*images, strict=True):
            assert {k: v for k, v in old.items() if k in new} == {k: v for k, v in new.items() if k in old}
            assert old.keys() <= new.keys(), "licences and addresses go along"


@pytest.mark.parametrize("name", SETS)
def test_instances_and_semantic_pngs_there_and_back(shared_data: Path, tmp_path: Path, name: str) -> None:
    data = few(shared_data / name, tmp_path / "few", 8)
    export(data, tmp_path / "instances", "coco-instances", workers=1)
    source = open_source(tmp_path / "instances", options=SourceOptions(semantic=tmp_path / "instances"))
    assert source.format == "coco-instances"
    convert(source, tmp_path / "back", workers=1)
    for split in splits(data):
        before, after = CocoPanoptic.open(data, split), CocoPanoptic.open(tmp_path / "back", split)
        kinds = {c["name"]: (c["id"], c["isthing"]) for c in before.categories.to_coco()}
        assert kinds == {c["name"]: (c["id"], c["isthing"]) for c in after.categories.to_coco()}
        for name_, panoptic in pictures(before).items():
            assert described(panoptic) == described(pictures(after)[name_]), name_


def test_semantic_pngs_there_and_back(shared_data: Path, tmp_path: Path) -> None:
    # instances of this set are connected components of 25 pixels and more, so that nothing at all is lost
    data = few(shared_data / "camvid_panoptic_mini", tmp_path / "few", 6)
    export(data, tmp_path / "semantic", "semantic", workers=1)
    categories = CocoPanoptic.open(data, splits(data)[0]).categories
    things = tuple(categories.names[label] for label in categories.thing_labels)
    source = open_source(tmp_path / "semantic", options=SourceOptions(components=True, things=things))
    convert(source, tmp_path / "back", ConvertRules(ClassRules(things=things)), workers=1)
    for split in splits(data):
        before, after = pictures(CocoPanoptic.open(data, split)), pictures(CocoPanoptic.open(tmp_path / "back", split))
        for name in before:
            assert described(before[name]) == described(after[name]), name


def test_a_class_named_background_is_a_class(shared_data: Path, tmp_path: Path) -> None:
    data = few(shared_data / "fruits_nuts", tmp_path / "few", 2)
    export(data, tmp_path / "semantic", "semantic", workers=1)
    convert(open_source(tmp_path / "semantic"), tmp_path / "back", workers=1)
    for split in splits(data):
        before, after = pictures(CocoPanoptic.open(data, split)), pictures(CocoPanoptic.open(tmp_path / "back", split))
        for name, old in before.items():
            names = np.array([*old.categories.names, "void"]), np.array([*after[name].categories.names, "void"])
            assert np.array_equal(names[0][old.semantic()], names[1][after[name].semantic()])


def test_yolo_there_and_back(shared_data: Path, tmp_path: Path) -> None:
    data = few(shared_data / "fruits_nuts", tmp_path / "few", 3)
    export(data, tmp_path / "yolo", "yolo", workers=1)
    source = open_source(tmp_path / "yolo")
    assert source.format == "yolo"
    convert(source, tmp_path / "back", ConvertRules(ClassRules(background="background")), workers=1)
    least = 1.0
    for split in splits(data):
        before, after = pictures(CocoPanoptic.open(data, split)), pictures(CocoPanoptic.open(tmp_path / "back", split))
        for name, old in before.items():
            for segment in (s for s in old.segments if old.categories.things[s.label]):
                mask = old.mask(segment)
                ious = [iou(mask, after[name].mask(s)) for s in after[name].segments]
                least = min(least, max(ious))
    assert least > 0.98


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


def test_voc_pairs_are_what_their_pixels_say(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "labelme_voc_pairs"
    source = open_source(folder)
    assert source.format == "voc"
    convert(source, tmp_path / "out", workers=1)
    names = [line.strip() for line in (folder / "class_names.txt").read_text().splitlines() if line.strip()]
    names = [name for name in names if name != "__ignore__"]
    for name, panoptic in pictures(CocoPanoptic.open(tmp_path / "out", "train")).items():
        classes = np.asarray(Image.open(folder / "SegmentationClass" / f"{name}.png"))
        objects = np.asarray(Image.open(folder / "SegmentationObject" / f"{name}.png"))
        pairs = Counter(zip(classes.ravel().tolist(), objects.ravel().tolist(), strict=True))
        expected = Counter({(names[c], n): 1 for (c, o), n in pairs.items() if c not in (0, 255) and o not in (0, 255)})
        assert Counter((panoptic.name(s), s.area) for s in panoptic.segments) == expected


def test_two_routes_give_the_same_maps(shared_data: Path, tmp_path: Path) -> None:
    """The pictures that two sets share, from Cityscapes' layout and from COCO panoptic's."""
    city = open_source(shared_data / "camvid_cityscapes_layout_mini")
    assert city.format == "cityscapes"
    convert(city, tmp_path / "city", workers=1)
    merged = {"sidewalk": "pavement", "vegetation": "tree", "traffic sign": "sign_symbol", "person": "pedestrian"}
    one: dict[str, Panoptic] = {}
    for split in splits(tmp_path / "city"):
        one.update(pictures(CocoPanoptic.open(tmp_path / "city", split)))
    other: dict[str, Panoptic] = {}
    for split in splits(shared_data / "camvid_panoptic_mini"):
        other.update(pictures(CocoPanoptic.open(shared_data / "camvid_panoptic_mini", split)))
    shared = 0
    for (a, panoptic), (b, twin) in itertools.product(one.items(), other.items()):
        if frame(a) != frame(b):
            continue
        shared += 1
        renamed = Counter(
            (merged.get(name, "bicyclist" if name == "rider" else name), crowd, area, pixels)
            for name, crowd, area, pixels in described(panoptic).elements()
        )
        assert renamed == described(twin), (a, b)
    assert shared >= 5


def frame(name: str) -> tuple[str, int]:
    """Return the sequence and the frame's number, which either set has in its names."""
    sequence, number = name.rsplit("/", 1)[-1].lower().split("_")[:2]
    return sequence, int(re.sub(r"\D", "", number))
