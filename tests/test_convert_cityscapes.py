"""Cityscapes' layout, and the same pictures by three routes."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from thingstuff.convert import cityscapes, semantic
from thingstuff.convert.source import Source, SourceLabels, SourceOptions
from thingstuff.data.coco import CocoPanoptic
from thingstuff.errors import InputError

# camvid_cityscapes_layout_mini's README says which class of CamVid has which label of Cityscapes.
CAMVID = {
    "sky": "sky", "building": "building", "pole": "pole", "road": "road", "sidewalk": "pavement",
    "vegetation": "tree", "traffic sign": "sign_symbol", "fence": "fence", "car": "car", "person": "pedestrian",
    "rider": "bicyclist",
}  # fmt: skip


def opened(folder: Path) -> Source:
    return cityscapes.open_source(folder, "for the test", SourceOptions())


def made(folder: Path, values: list[list[int]], split: str = "val") -> Path:
    """Write one picture and its map of instances."""
    picture, labels = folder / "leftImg8bit" / split / "ulm", folder / "gtFine" / split / "ulm"
    picture.mkdir(parents=True)
    labels.mkdir(parents=True)
    Image.new("RGB", (len(values[0]), len(values))).save(picture / "ulm_000001_000019_leftImg8bit.png")
    Image.fromarray(np.array(values, dtype=np.uint16)).save(labels / "ulm_000001_000019_gtFine_instanceIds.png")
    return folder


def test_instances_groups_stuff_and_what_is_ignored(tmp_path: Path) -> None:
    folder = made(tmp_path, [[7, 26000, 26001, 26, 24, 29003, 1, 0]])
    assert cityscapes.recognise(folder) == "leftImg8bit and gtFine lie side by side"
    source = opened(folder)
    (picture,) = source.pictures
    assert (picture.key, picture.split, picture.image_id) == ("ulm/ulm_000001_000019", "val", "ulm_000001_000019")
    labels = source.read(picture)
    assert [(o.name, o.segment_id, o.iscrowd, o.region.left) for o in labels.objects] == [
        ("road", 7, False, 0),
        ("person", 24, True, 4),
        ("car", 26, True, 3),
        ("car", 26000, False, 1),
        ("car", 26001, False, 2),
    ]
    assert [(r.left, r.area) for r in labels.ignored] == [(5, 3)]


def test_the_classes_are_the_nineteen_that_are_evaluated(tmp_path: Path) -> None:
    classes = opened(made(tmp_path, [[7]])).classes
    assert len(classes) == 19
    assert [c.id for c in classes if c.isthing] == [24, 25, 26, 27, 28, 31, 32, 33]
    assert [c.id for c in classes if not c.isthing] == [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23]
    assert [label.id for label in cityscapes.CITY_LABELS] == list(range(34))


def test_a_test_split_without_labels(tmp_path: Path) -> None:
    made(tmp_path, [[0, 3]], split="test")
    extra = tmp_path / "leftImg8bit" / "test" / "bonn"
    extra.mkdir()
    Image.new("RGB", (2, 1)).save(extra / "bonn_1_2_leftImg8bit.png")
    source = opened(tmp_path)
    assert "1 pictures have no *_gtFine_instanceIds.png" in source.notes[0]
    labels = source.read(source.pictures[0])
    assert not labels.objects
    assert labels.ignored[0].area == 2


@pytest.mark.parametrize("value", [34, 999, 34001])
def test_a_value_without_a_label_is_refused(tmp_path: Path, value: int) -> None:
    source = opened(made(tmp_path, [[7, value]]))
    with pytest.raises(InputError, match=rf"instanceIds.png holds the values {value}, which no label has"):
        source.read(source.pictures[0])


def test_what_lacks_is_named(tmp_path: Path) -> None:
    folder = made(tmp_path, [[7]])
    for path in folder.rglob("*_leftImg8bit.png"):
        path.unlink()
    with pytest.raises(InputError, match="val/ulm/ulm_000001_000019: no picture"):
        opened(folder)
    for path in folder.rglob("*_instanceIds.png"):
        path.rename(path.with_name(path.name.replace("instanceIds", "labelIds")))
    with pytest.raises(InputError, match="--from semantic"):
        opened(folder)


def segments(labels: SourceLabels) -> set[tuple[str, bytes]]:
    """Return the name and pixels of every object, as something that compares."""
    found = set()
    for entry in labels.objects:
        mask = np.zeros(labels.size, dtype=np.bool_)
        entry.region.paint(mask)
        found.add((CAMVID[entry.name], np.packbits(mask).tobytes()))
    assert len(found) == len(labels.objects)
    return found


def panoptic_segments(data: CocoPanoptic, stem: str) -> tuple[set[tuple[str, bytes]], np.ndarray]:
    """Return the same of a picture of a COCO panoptic data set, and its void."""
    index = next(i for i, r in enumerate(data.records) if r.picture.stem == stem)
    panoptic = data.panoptic(index)
    names = data.categories.names
    found = {(names[s.label], np.packbits(panoptic.ids == s.id).tobytes()) for s in panoptic.segments}
    return found, panoptic.ids == 0


def test_two_routes_give_the_same_maps(shared_data: Path) -> None:
    source = opened(shared_data / "camvid_cityscapes_layout_mini")
    assert len(source.pictures) == 32
    compared = 0
    for split in ("train", "val"):
        data = CocoPanoptic.open(shared_data / "camvid_panoptic_mini", split)
        stems = {r.picture.stem for r in data.records}
        for picture in source.pictures:
            sequence, frame, _ = picture.key.split("/")[-1].split("_")
            stem = next((s for s in stems if s.lower() == f"{sequence}_{int(frame):05d}"), None)
            if stem is None or picture.split != split:
                continue
            labels = source.read(picture)
            expected, void = panoptic_segments(data, stem)
            assert segments(labels) == expected
            ignored = np.zeros(labels.size, dtype=np.bool_)
            for region in labels.ignored:
                region.paint(ignored)
            assert np.array_equal(ignored, void)
            compared += 1
    assert compared >= 5


def test_label_ids_with_components_give_the_same_instances(shared_data: Path, tmp_path: Path) -> None:
    cities = shared_data / "camvid_cityscapes_layout_mini"
    by_instances = {p.key.split("/")[-1]: p for p in opened(cities).pictures if p.split == "val"}
    things = ("car", "person", "rider")
    names = "\n".join(f"{c.id}: {c.name}" for c in cityscapes.CITY_LABELS if c.evaluated)
    (tmp_path / "names.yaml").write_text(names)
    for name, picture in by_instances.items():
        for folder, path in (
            ("images", picture.picture),
            ("masks", picture.labels[0].with_name(f"{name}_gtFine_labelIds.png")),
        ):
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / f"{name}.png").symlink_to(path)
    options = SourceOptions(names=tmp_path / "names.yaml", components=True, things=things)
    source = semantic.open_source(tmp_path, "for the test", options)
    assert {c.name for c in source.classes if c.isthing} == {*things}
    for picture in source.pictures:
        labels = source.read(picture)
        # the data set's maker left out smaller pieces
        large = tuple(o for o in labels.objects if o.name not in things or o.region.area >= 25)
        assert segments(labels._replace(objects=large)) == segments(cityscapes.read(by_instances[picture.key]))
