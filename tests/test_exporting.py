"""COCO panoptic data sets in other formats: what others' tools read in them, and what our readers give back."""

import io
import json
import os
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import yaml
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from rich.console import Console

from thingstuff.convert.class_names import read_class_names
from thingstuff.convert.coco_instances_writer import run_lengths
from thingstuff.convert.exporting import ExportResult, export
from thingstuff.convert.formats import open_source
from thingstuff.convert.outlines import bridged, outlines
from thingstuff.convert.picture_links import place_picture
from thingstuff.convert.shapes import polygon_region
from thingstuff.convert.source import Region, Source, SourceOptions
from thingstuff.convert_command import Request, run
from thingstuff.data.coco import CocoPanoptic, splits
from thingstuff.errors import InputError
from thingstuff.io import read_id_map, write_id_map

Ids = npt.NDArray[np.int32]
MARK = {"by": "a-model", "score": 0.93}
# id in the map -> (category_id, iscrowd): a ring with a dot in its hole, two pieces, a crowd, two regions of stuff
SEGMENTS = {70001: (90, 0), 5: (3, 0), 6: (3, 0), 9: (90, 1), 300: (181, 0), 41: (200, 0)}
CATEGORIES = [
    {"id": 181, "name": "wall: brick", "isthing": 0, "color": [10, 20, 30]},
    {"id": 90, "name": "cat", "isthing": 1, "supercategory": "animal", "color": [200, 0, 0]},
    {"id": 3, "name": "car", "isthing": 1, "color": [0, 200, 0]},
    {"id": 200, "name": "sky", "isthing": 0, "color": [0, 0, 200]},
    {"id": 92, "name": "none of these", "isthing": 1, "color": [1, 2, 3]},
]
SIZE = (24, 40)


def drawing(shift: int = 0) -> Ids:
    ids = np.zeros(SIZE, np.int32)
    ids[:8] = 41
    ids[16:] = 300
    ids[2:14, 3:15] = 70001
    ids[5:11, 6:12] = 41
    ids[7:9, 8:10] = 5
    ids[3:6, 20:24] = ids[17:20, 25:30] = ids[20, 30] = 6  # the last meets the second at a corner
    ids[10:13, 30:40] = 9
    return np.roll(ids, shift, axis=1)


class Made:
    """A data set of two splits to change before it is written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.maps = {"train": {"a": drawing(), "deep/b": drawing(7)}, "val": {"c": drawing(3)}}
        self.jsons: dict[str, dict[str, Any]] = {split: self.json(split) for split in self.maps}

    def json(self, split: str) -> dict[str, Any]:
        images, annotations = [], []
        for image_id, (key, ids) in enumerate(self.maps[split].items(), 31):
            images.append({"id": image_id, "file_name": f"{key}.jpg", "height": 24, "width": 40, "license": 4})
            infos = [
                {"id": i, "category_id": c, "iscrowd": crowd, "area": int((ids == i).sum()), "bbox": [0, 0, 1, 1]}
                for i, (c, crowd) in SEGMENTS.items()
            ]
            infos[0]["filled"] = MARK
            annotations.append({"image_id": image_id, "file_name": f"{key}.png", "segments_info": infos})
        return {"info": {"year": 2026}, "images": images, "annotations": annotations, "categories": CATEGORIES}

    def save(self) -> Path:
        for split, content in self.jsons.items():
            for key, ids in self.maps[split].items():
                for place in (self.folder / split, self.folder / f"panoptic_{split}"):
                    (place / key).parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (40, 24), (90, 60, 30)).save(self.folder / split / f"{key}.jpg")
                write_id_map(self.folder / f"panoptic_{split}" / f"{key}.png", ids)
            (self.folder / f"panoptic_{split}.json").write_text(json.dumps(content))
        return self.folder


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path / "data")


def exported(made: Made, target: str, **options: Any) -> tuple[Path, ExportResult]:
    out = made.folder.parent / target
    return out, export(made.save(), out, target, **{"workers": 1, **options})


def painted(source: Source, key: str) -> tuple[Ids, dict[int, tuple[int | None, bool]]]:
    """Return a picture's map as a reader gives it back, and (category_id, iscrowd) by id; stuff below all else."""
    picture = next(p for p in source.pictures if p.key in (key, f"{p.split}/{key}"))
    labels = source.read(picture)
    ids, found = np.zeros(labels.size, np.int32), {}
    category_of = {c.name: c.id for c in source.classes}
    for number, drawn in enumerate(sorted(labels.objects, key=lambda d: d.layer), 1):
        own = drawn.segment_id or number
        ids[drawn.region.window][drawn.region.mask] = own
        found[own] = (category_of[drawn.name], drawn.iscrowd)
    return ids, found


def same_but_ids(left: Ids, right: Ids) -> bool:
    pairs = {(a, b) for a, b in zip(left.ravel().tolist(), right.ravel().tolist(), strict=True)}
    return len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})


# COCO instances


def test_pycocotools_reads_every_pixel_of_the_things(made: Made) -> None:
    out, result = exported(made, "coco-instances")
    assert result.text() == "\n".join(
        ["3 pictures", "9 objects", "3 crowds", "6 segments of stuff, in the semantic PNGs"]
    )
    for split, pictures in made.maps.items():
        with redirect_stdout(io.StringIO()):
            coco = COCO(out / f"instances_{split}.json")
        assert coco.dataset["info"] == {"year": 2026}
        assert [c["name"] for c in coco.dataset["categories"]] == ["cat", "car", "none of these"]
        assert coco.dataset["categories"][0]["supercategory"] == "animal"
        assert coco.dataset["images"] == made.jsons[split]["images"]
        entries = coco.dataset["annotations"]
        assert [entry["id"] for entry in entries] == list(range(1, len(entries) + 1))
        assert len(entries) == 4 * len(pictures)
        for image, ids in zip(coco.dataset["images"], pictures.values(), strict=True):
            for entry in coco.imgToAnns[image["id"]]:
                mask = ids == entry["segment_id"]
                assert np.array_equal(coco.annToMask(entry), mask)
                assert (entry["category_id"], entry["iscrowd"]) == SEGMENTS[entry["segment_id"]]
                assert entry["area"] == mask.sum()
                y, x = np.nonzero(mask)
                box = [x.min(), y.min(), x.max() - x.min() + 1, y.max() - y.min() + 1]
                assert entry["bbox"] == box
                assert entry.get("filled") == (MARK if entry["segment_id"] == 70001 else None)


def test_instances_and_stuff_give_the_same_maps_again(made: Made) -> None:
    out, _ = exported(made, "coco-instances")
    options = SourceOptions(semantic=out, names=out / "classes.txt")
    source = open_source(out, options=options)
    assert source.format == "coco-instances"
    assert {(c.name, c.id, c.isthing) for c in source.classes} == {
        (str(c["name"]), c["id"], bool(c["isthing"])) for c in CATEGORIES
    }
    assert {p.split: [] for p in source.pictures} == {"train": [], "val": []}
    for pictures in made.maps.values():
        for key, ids in pictures.items():
            again, found = painted(source, key)
            assert same_but_ids(again, ids)
            for own in (70001, 5, 6, 9):
                assert np.array_equal(again == own, ids == own)
            assert sorted(found.values()) == sorted((c, bool(crowd)) for c, crowd in SEGMENTS.values())


def test_stuff_beside_instances_is_its_category_id(made: Made) -> None:
    out, _ = exported(made, "coco-instances")
    values = np.asarray(Image.open(out / "semantic_train" / "deep" / "b.png"))
    ids = made.maps["train"]["deep/b"]
    assert np.array_equal(values, np.select([ids == 300, ids == 41], [181, 200], 0))
    assert (out / "classes.txt").read_text() == "181: wall: brick\n200: sky\n"


def test_run_lengths_are_those_of_pycocotools() -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        height, width = (int(n) for n in rng.integers(1, 12, 2))
        mask = rng.random((height, width)) < rng.choice([0.1, 0.5, 0.9, 1.0])
        wanted = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
        found = run_lengths(Region.of(mask), (height, width))
        assert found == {"size": [height, width], "counts": wanted["counts"].decode()}


# Semantic PNGs


def test_semantic_pngs_hold_category_ids_and_colours(made: Made) -> None:
    out, result = exported(made, "semantic")
    assert result.counts == {"segments of stuff": 6, "objects and crowds, no longer told apart": 12}
    with Image.open(out / "masks" / "val" / "c.png") as image:
        assert image.mode == "P"
        colors = np.asarray(image.convert("RGB"))
        values = np.asarray(image)
    ids = made.maps["val"]["c"]
    wanted = np.full(SIZE, 255)
    for own, (category_id, _) in SEGMENTS.items():
        wanted[ids == own] = category_id
    assert np.array_equal(values, wanted)
    assert {tuple(color) for color in colors[values == 90].tolist()} == {(200, 0, 0)}
    assert [(c.index, c.name) for c in read_class_names(out / "classes.txt")] == sorted(
        (c["id"], c["name"]) for c in CATEGORIES
    )


@pytest.mark.parametrize(
    ("moved", "mode", "value", "void"),
    [(0, "P", 0, 255), (254, "P", 254, 255), (255, "I;16", 255, 65535), (70_000, "P", 1, 255)],
)
def test_semantic_pngs_of_any_ids_are_read_again(made: Made, moved: int, mode: str, value: int, void: int) -> None:
    for content in made.jsons.values():
        content["categories"] = [{**c, "id": moved if c["id"] == 181 else c["id"]} for c in CATEGORIES]
        for annotation in content["annotations"]:
            annotation["segments_info"][4]["category_id"] = moved
    out, _ = exported(made, "semantic")
    with Image.open(out / "masks" / "train" / "a.png") as image:
        assert image.mode == mode
        values = np.asarray(image)
    ids = made.maps["train"]["a"]
    assert set(values[ids == 300].tolist()) == {value}
    assert set(values[ids == 0].tolist()) == {void}
    source = open_source(out)
    assert source.format == "semantic"
    again, found = painted(source, "a")
    # of one class are the car's two instances, and the cat and the crowd of cats
    joined = np.select([ids == 5, ids == 9], [6, 70001], ids)
    assert same_but_ids(again, joined)
    assert len(found) == 4


# YOLO


def test_yolo_outlines_give_the_pixels_back(made: Made) -> None:
    out, result = exported(made, "yolo")
    assert result.text().splitlines() == [
        "3 pictures",
        "9 objects",
        "6 of these of several pieces or with holes, joined by bridges",
        "3 crowds left out",
        "6 segments of stuff left out",
    ]
    data = yaml.safe_load((out / "data.yaml").read_text())
    assert data == {
        "train": "images/train",
        "val": "images/val",
        "names": {0: "cat", 1: "car", 2: "none of these"},
    }
    for split, pictures in made.maps.items():
        for key, ids in pictures.items():
            lines = (out / "labels" / split / f"{key}.txt").read_text().splitlines()
            numbers = [line.split() for line in lines]
            assert [int(first) for first, *_ in numbers] == [0, 1, 1]
            for own, (_, *shares) in zip((70001, 5, 6), numbers, strict=True):
                corners = np.array(shares, float).reshape(-1, 2) * [40, 24]
                region = polygon_region([corners.ravel().tolist()], SIZE)
                mask = np.zeros(SIZE, np.bool_)
                region.paint(mask)
                assert np.array_equal(mask, ids == own)
                assert np.array_equal(within(corners, SIZE), ids == own)


def test_our_reader_of_yolo_gives_the_same_objects(made: Made) -> None:
    out, _ = exported(made, "yolo")
    source = open_source(out)
    assert source.format == "yolo"
    assert {p.split for p in source.pictures} == {"train", "val"}
    for pictures in made.maps.values():
        for key, ids in pictures.items():
            again, _ = painted(source, key)
            assert same_but_ids(again, np.where(np.isin(ids, (70001, 5, 6)), ids, 0).astype(np.int32))


def test_splits_of_yolo_are_called_as_ultralytics_does(made: Made) -> None:
    made.maps = {"train2017": made.maps["train"], "extra": made.maps["val"]}
    made.jsons = {split: made.json(split) for split in made.maps}
    out, _ = exported(made, "yolo")
    data = yaml.safe_load((out / "data.yaml").read_text())
    assert (data["train"], data["extra"]) == ("images/train2017", "images/extra")
    assert (out / data["train"] / "deep" / "b.jpg").is_file()


def within(corners: npt.NDArray[np.float64], size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Return the pixels whose centres lie within an outline: right of an odd number of its borders."""
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    inside = np.zeros(size, np.bool_)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if y0 != y1:
            inside ^= ((y0 > y) != (y1 > y)) & (x > x0 + (y - y0) / (y1 - y0) * (x1 - x0))
    return inside


def test_outlines_of_any_mask_are_exact() -> None:
    rng = np.random.default_rng(1)
    for density in (0.1, 0.4, 0.6, 0.9) * 25:
        mask = rng.random(tuple(rng.integers(1, 14, 2))) < density
        if not mask.any():
            continue
        rings = outlines(mask)
        for outline in (bridged(rings), *rings):
            steps = np.roll(outline, -1, axis=0) - outline
            assert np.issubdtype(outline.dtype, np.integer)
            assert steps.any(axis=1).all(), "no corner comes twice in a row"
        for ring in rings:
            across, down = (np.roll(ring, -1, axis=0) - ring).T
            assert ((across == 0) != (down == 0)).all(), "along the borders of pixels"
        assert np.array_equal(within(bridged(rings).astype(float), mask.shape), mask)


def test_pixels_that_meet_at_a_corner_have_one_outline() -> None:
    for mask in (np.eye(3, dtype=np.bool_), np.eye(3, dtype=np.bool_)[::-1]):
        (ring,) = outlines(np.ascontiguousarray(mask))
        assert len(ring) == 12


def test_bridges_are_as_short_as_can_be() -> None:
    mask = np.zeros((1, 40), np.bool_)
    mask[0, [0, 1, 2, 10, 20, 21, 22]] = True
    path = bridged(outlines(mask))
    lengths = np.abs(np.roll(path, -1, axis=0) - path).sum(axis=1)
    assert sorted(lengths.tolist())[-4:] == [7, 7, 9, 9]


# All


@pytest.mark.parametrize("name", ["coco_panoptic_samples", "fruits_nuts"])
def test_real_data_there_and_back(shared_data: Path, tmp_path: Path, name: str) -> None:
    data = shared_data / name
    export(data, tmp_path / "coco", "coco-instances", workers=1)
    source = open_source(
        tmp_path / "coco", options=SourceOptions(semantic=tmp_path / "coco", names=tmp_path / "coco" / "classes.txt")
    )
    for split in splits(data):
        opened = CocoPanoptic.open(data, split)
        for record in opened.records[:3]:
            again, found = painted(source, Path(record.file_name).stem)
            ids = read_id_map(record.map)
            assert same_but_ids(again, ids)
            listed = [(opened.categories.ids[s.label], s.iscrowd) for s in record.segments]
            assert sorted(found.values(), key=str) == sorted(listed, key=str)


def test_an_export_replaces_nothing(tmp_path: Path) -> None:
    words = r"--overwrite replaces an earlier conversion to coco-panoptic alone; with --as yolo name a new folder"
    with pytest.raises(InputError, match=words):
        run(Request(tmp_path / "in", tmp_path / "out", as_format="yolo", overwrite=True), Console(quiet=True))


def test_pictures_are_linked_or_copied(made: Made) -> None:
    for target, place in (("coco-instances", "train"), ("semantic", "images/train"), ("yolo", "images/train")):
        out, _ = exported(made, target)
        link = out / place / "deep" / "b.jpg"
        assert Path(os.readlink(link)) == (made.folder / "train" / "deep" / "b.jpg").resolve()
    copy = made.folder.parent / "copy"
    export(made.folder, copy, "yolo", copy=True, workers=1)
    assert not (copy / "images" / "val" / "c.jpg").is_symlink()
    assert (copy / "images" / "val" / "c.jpg").read_bytes() == (made.folder / "val" / "c.jpg").read_bytes()


def test_processes_write_what_one_writes(made: Made) -> None:
    made.maps["train"] |= {f"p{i}": drawing(i) for i in range(6)}
    made.jsons["train"] = made.json("train")
    told: list[tuple[int, int]] = []
    one, first = exported(made, "coco-instances", progress=lambda *counts: told.append(counts))
    two = made.folder.parent / "two"
    second = export(made.folder, two, "coco-instances", workers=2)
    assert told == [(n, 9) for n in range(1, 10)]
    assert first.counts == second.counts
    files = [sorted(p.relative_to(out) for p in out.rglob("*") if p.is_file()) for out in (one, two)]
    assert files[0] == files[1]
    assert len(files[0]) == 9 + 9 + 2 + 1
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in files[0])


def test_nothing_is_left_of_an_export_that_fails(made: Made) -> None:
    made.maps["val"]["c"] = np.where(drawing() == 6, 7, drawing()).astype(np.int32)
    for target in ("coco-instances", "semantic", "yolo"):
        with pytest.raises(InputError, match=r"map and JSON disagree:\n.*holds id 7"):
            exported(made, target)
    (made.folder / "train" / "a.jpg").unlink()
    assert sorted(p.name for p in made.folder.parent.iterdir()) == ["data"]


def test_a_picture_that_is_not_there_is_told(made: Made) -> None:
    data = made.save()
    (data / "train" / "a.jpg").unlink()
    for copy in (False, True):
        with pytest.raises(InputError, match=r"a\.jpg is not there; put the picture there"):
            export(data, data.parent / "out", "yolo", copy=copy, workers=1)
    assert not (data.parent / "out").exists()


def test_what_is_there_is_not_overwritten(made: Made) -> None:
    data, out = made.save(), made.folder.parent / "out"
    out.mkdir()
    export(data, out, "yolo", workers=1)
    before = sorted(out.rglob("*"))
    with pytest.raises(InputError, match="is there already and not empty; nothing is overwritten: give another --to"):
        export(data, out, "semantic", workers=1)
    with pytest.raises(InputError, match="is there already"):
        export(data, data / "train" / "a.jpg", "semantic", workers=1)
    assert sorted(out.rglob("*")) == before


def rename(made: Made, name: str) -> None:
    made.jsons["train"]["images"][0]["file_name"] = name


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda made: rename(made, "../a.jpg"), "'../a.jpg' leads out of the folder of pictures"),
        (
            lambda made: rename(made, "deep/b.png"),
            r"deep/b.png and deep/b.jpg would share their labels' file \(deep/b\)",
        ),
        (
            lambda made: made.jsons["val"].update(categories=CATEGORIES[::-1]),
            "categories of val are not those of train",
        ),
        (
            lambda made: [j.update(categories=[{**c, "isthing": 0} for c in CATEGORIES]) for j in made.jsons.values()],
            "has no class of things",
        ),
        (lambda made: made.jsons.clear(), "has no split"),
    ],
    ids=["leading out", "twins", "categories", "no things", "no split"],
)
def test_what_cannot_be_exported(made: Made, change: Any, words: str) -> None:
    change(made)
    made.folder.mkdir()
    with pytest.raises(InputError, match=words):
        exported(made, "yolo")
    assert not (made.folder.parent / "yolo").exists()


def test_a_format_that_is_none(made: Made) -> None:
    with pytest.raises(InputError, match="--as png: no such format to write; there are coco-instances, semantic, yolo"):
        exported(made, "png")


def test_a_placed_picture_replaces_an_older_one(tmp_path: Path) -> None:
    old, new, target = tmp_path / "old", tmp_path / "new", tmp_path / "there" / "p.jpg"
    old.write_bytes(b"old")
    new.write_bytes(b"new")
    place_picture(old, target, copy=False)
    before = target.lstat().st_ino
    place_picture(old, target, copy=False)
    assert target.lstat().st_ino == before, "the right link is left as it is"
    place_picture(new, target, copy=True)
    assert (target.is_symlink(), target.read_bytes(), old.read_bytes()) == (False, b"new", b"old")
    place_picture(old, target, copy=False)
    assert (target.is_symlink(), target.read_bytes(), new.read_bytes()) == (True, b"old", b"new")
    assert [p.name for p in target.parent.iterdir()] == ["p.jpg"]


def test_without_links_pictures_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "symlink", refuse)
    (tmp_path / "old").write_bytes(b"old")
    place_picture(tmp_path / "old", tmp_path / "new", copy=False)
    assert (tmp_path / "new").read_bytes() == b"old"
    assert not (tmp_path / "new").is_symlink()
