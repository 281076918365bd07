"""A small faultless data set, and every way to damage it that a check tells of."""

import gc
import io
import json
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from thingstuff.checking.findings import Findings
from thingstuff.io import read_id_map, write_id_map
from thingstuff.panoptic import segment_boxes

CAT, CAR, SKY, SEA = 17, 3, 187, 155
CATEGORIES = [
    {"id": CAT, "name": "cat", "isthing": 1, "color": [250, 0, 0], "supercategory": "animal"},
    {"id": CAR, "name": "car", "isthing": 1},
    {"id": SKY, "name": "sky", "isthing": 0},
    {"id": SEA, "name": "sea", "isthing": 0},
]
HEIGHT, WIDTH = 24, 36
# ids of which red and blue, and palette and value, cannot be confused
SEGMENTS = {70000: SKY, 7: SEA, 40: CAT, 513: CAR}
COUNTS = {"train": 3, "val": 2}


_WRITTEN: dict[str, bytes] = {}  # the files of the set: every test begins with them


class MadeSet:
    """A faultless data set of noise pictures with the same four segments and some void, whose JSONs can be changed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.json: dict[str, dict[str, Any]] = {}
        for split in COUNTS:
            (root / split).mkdir(parents=True)
            (root / f"panoptic_{split}").mkdir()
        if not _WRITTEN:
            self._write()
            _WRITTEN.update(contents(root))
            return
        for name, data in _WRITTEN.items():
            (root / name).write_bytes(data)
        self.json = {split: json.loads(_WRITTEN[f"panoptic_{split}.json"]) for split in COUNTS}

    def _write(self) -> None:
        for split, count in COUNTS.items():
            lists: dict[str, Any] = {"images": [], "annotations": [], "categories": _copy(CATEGORIES)}
            self.json[split] = {"info": {"year": 2026}, **lists}
            for number in range(count):
                self._add(split, number)
        self.save()

    def _add(self, split: str, number: int) -> None:
        image_id: int | str = number if split == "train" else f"{split}-{number}"
        name = f"{split}_{number}"
        rng = np.random.default_rng([len(split), number])
        coarse = rng.integers(0, 256, (6, 9, 3)).astype(np.uint8)
        picture = Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
        picture.save(self.root / split / f"{name}.png")
        ids = made_map()
        write_id_map(self.root / f"panoptic_{split}" / f"{name}.png", ids)
        image = {"id": image_id, "file_name": f"{name}.png", "height": HEIGHT, "width": WIDTH, "license": 4}
        self.json[split]["images"].append(image)
        annotation = {"image_id": image_id, "file_name": f"{name}.png", "segments_info": infos_of(ids, SEGMENTS)}
        self.json[split]["annotations"].append(annotation)

    def save(self) -> None:
        for split, content in self.json.items():
            (self.root / f"panoptic_{split}.json").write_text(json.dumps(content))

    def picture(self, position: int = 0, split: str = "train") -> Path:
        return self.root / split / str(self.json[split]["images"][position]["file_name"])

    def map(self, position: int = 0, split: str = "train") -> Path:
        return self.root / f"panoptic_{split}" / str(self.json[split]["annotations"][position]["file_name"])

    def image(self, position: int = 0) -> dict[str, Any]:
        image: dict[str, Any] = self.json["train"]["images"][position]
        return image

    def annotation(self, position: int = 0) -> dict[str, Any]:
        annotation: dict[str, Any] = self.json["train"]["annotations"][position]
        return annotation

    def info(self, category_id: int, position: int = 0) -> dict[str, Any]:
        found: dict[str, Any] = next(
            i for i in self.annotation(position)["segments_info"] if i["category_id"] == category_id
        )
        return found

    def repaint(self, paint: Callable[[Any], object], classes: Mapping[int, int] = SEGMENTS, position: int = 0) -> None:
        """Change a map in place and list its segments anew."""
        ids = read_id_map(self.map(position))
        paint(ids)
        write_id_map(self.map(position), ids)
        present = {i: classes[i] for i in classes if (ids == i).any()}
        self.annotation(position)["segments_info"] = infos_of(ids, present)


def contents(folder: Path) -> dict[str, bytes]:
    """Return what every file in a folder holds."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def complaints_of_an_interrupt(run: Callable[[Callable[[int, int], None]], object]) -> list[object]:
    """Interrupt a run at its second picture; return what Python complains of once all that it held is let go of."""

    def stop(done: int, _: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    told: list[object] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "unraisablehook", told.append)
        with pytest.raises(KeyboardInterrupt):
            run(stop)
        gc.collect()
    return told


def counts(findings: Findings) -> dict[str, int]:
    """Return how many findings there are of each kind."""
    return {kind.name: findings.count(kind.name) for kind in findings.kinds()}


def made_map() -> Any:
    ids = np.zeros((HEIGHT, WIDTH), np.int32)
    ids[:10], ids[10:22] = 70000, 7
    ids[4:14, 3:12], ids[12:20, 20:32] = 40, 513
    return ids


def infos_of(ids: Any, classes: Mapping[int, int]) -> list[dict[str, Any]]:
    boxes = segment_boxes(ids, list(classes))
    rows = zip(classes.items(), boxes, strict=True)
    return [
        {"id": i, "category_id": c, "area": int((ids == i).sum()), "bbox": list(box), "iscrowd": 0}
        for (i, c), box in rows
    ]


def _copy(value: Any) -> Any:
    return json.loads(json.dumps(value))


class Damage(NamedTuple):
    """What is done to a set, what is found then and in a repaired copy, and how many pictures of train that has."""

    do: Callable[[MadeSet], object]
    found: dict[str, int]
    remain: Mapping[str, int] = MappingProxyType({})
    pictures: int = COUNTS["train"]


def as_exif(made: MadeSet, orientation: int, size: tuple[int, int], suffix: str = ".jpg") -> None:
    """Store the first picture as JPEG of (height, width) with an EXIF orientation."""
    path = made.picture()
    picture = Image.open(path).convert("RGB").resize(size[::-1])
    path.unlink()
    made.image()["file_name"] = path.with_suffix(suffix).name
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture.save(path.with_suffix(suffix), exif=exif, quality=95)


def _as_jpeg(made: MadeSet) -> None:
    """Save the first map through JPEG under its own name."""
    data = io.BytesIO()
    Image.open(made.map()).save(data, format="JPEG", quality=80)
    made.map().write_bytes(data.getvalue())


def _through_jpeg(made: MadeSet) -> None:
    """Save the first map through JPEG as PNG again."""
    _as_jpeg(made)
    Image.open(io.BytesIO(made.map().read_bytes())).save(made.map(), format="PNG")


def _as_palette(made: MadeSet) -> None:
    Image.open(made.map()).convert("P", palette=Image.Palette.ADAPTIVE, colors=16).save(made.map())


def _as_indices(made: MadeSet) -> None:
    """Save the first map as grey PNG whose values are the ids."""
    classes = {70: SKY, 7: SEA, 40: CAT, 13: CAR}

    def small(ids: Any) -> None:
        ids[ids == 70000], ids[ids == 513] = 70, 13

    made.repaint(small, classes)
    Image.fromarray(read_id_map(made.map()).astype(np.uint8)).save(made.map())


def _no_category(made: MadeSet) -> None:
    del made.info(CAT)["category_id"]


def _swap(made: MadeSet) -> None:
    colours = np.asarray(Image.open(made.map()))
    Image.fromarray(np.ascontiguousarray(colours[..., ::-1])).save(made.map())


def _rename_map(made: MadeSet) -> None:
    target = made.map(1).with_name(made.map(0).name.upper())
    made.map(1).rename(target)
    made.annotation(1)["file_name"] = target.name


def _share_picture(made: MadeSet) -> None:
    made.image(1)["file_name"] = made.image(0)["file_name"]


def _split_cat(ids: Any) -> None:
    ids[ids == 40] = 7
    ids[4:8, :4], ids[18:22, 32:] = 40, 40


def _cut_cat(ids: Any) -> None:
    ids[8, 3:12] = 70000


def _two_skies(ids: Any) -> None:
    ids[:10, 20:][ids[:10, 20:] == 70000] = 90


def _dot(ids: Any) -> None:
    ids[ids == 40] = 7
    ids[5, 5] = 40


def _void(ids: Any) -> None:
    ids[1:] = 0


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def _drop_class(made: MadeSet, split: str, category_id: int) -> None:
    """Give a class's pixels of a split to the sea."""
    segment_id = next(i for i, c in SEGMENTS.items() if c == category_id)
    for position, annotation in enumerate(made.json[split]["annotations"]):
        ids = read_id_map(made.map(position, split))
        ids[ids == segment_id] = 7
        write_id_map(made.map(position, split), ids)
        annotation["segments_info"] = infos_of(ids, {i: c for i, c in SEGMENTS.items() if i != segment_id})


def _other_lists(made: MadeSet) -> None:
    made.json["val"]["categories"][0]["name"] = "dog"


def _upright(made: MadeSet) -> None:
    as_exif(made, 6, (WIDTH, HEIGHT))


def _against(made: MadeSet) -> None:
    as_exif(made, 6, (HEIGHT, WIDTH))


def _against_stated(made: MadeSet) -> None:
    _against(made)
    made.image().update(height=WIDTH, width=HEIGHT)


DAMAGES: dict[str, Damage] = {
    "nothing": Damage(lambda s: None, {}),
    # what evaluation refuses
    "wrong area": Damage(lambda s: s.info(CAT).update(area=5), {"wrong area": 1}),
    "area as text": Damage(lambda s: s.info(CAT).update(area="90"), {"wrong area": 1}),
    "id as text": Damage(lambda s: s.info(CAT).update(id="40"), {"number written otherwise": 1}),
    "category as float": Damage(lambda s: s.info(CAT).update(category_id=17.0), {"number written otherwise": 1}),
    "no iscrowd": Damage(lambda s: s.info(CAR).pop("iscrowd"), {"faulty iscrowd": 1}),
    "twice": Damage(lambda s: s.annotation()["segments_info"].append(s.info(CAT)), {"duplicate segment": 1}),
    "without pixels": Damage(
        lambda s: s.annotation()["segments_info"].append({**s.info(CAT), "id": 9}), {"segment without pixels": 1}
    ),
    "unlisted": Damage(lambda s: s.annotation()["segments_info"].remove(s.info(CAT)), {"unlisted id": 1}),
    "unknown": Damage(lambda s: s.info(CAT).update(category_id=99), {"unknown category": 1}, {"unknown category": 1}),
    "no id": Damage(
        lambda s: s.info(CAT).pop("id"),
        {"faulty segment": 1, "unlisted id": 1},
        {"faulty segment": 1, "unlisted id": 1},
    ),
    "no category": Damage(_no_category, {"faulty category_id": 1}, {"faulty category_id": 1}),
    "wrong size": Damage(lambda s: s.image().update(height=HEIGHT + 1), {"wrong size": 1}),
    "size as text": Damage(lambda s: s.image().update(height=str(HEIGHT)), {"faulty picture entry": 1}),
    "picture twice": Damage(lambda s: s.json["train"]["images"].append(s.image()), {"duplicate picture": 1}),
    "annotation twice": Damage(
        lambda s: s.json["train"]["annotations"].append(s.annotation()), {"duplicate annotation": 1}
    ),
    "text and number": Damage(lambda s: s.image(2).update(id="2"), {"text and number": 1}),
    "no name": Damage(
        lambda s: [s.json[split]["categories"][0].update(name="") for split in COUNTS], {"category name": 2}
    ),
    "category twice": Damage(lambda s: s.json["train"]["categories"].append(CATEGORIES[0]), {"duplicate category": 1}),
    "colour": Damage(lambda s: s.json["train"]["categories"][0].update(color="red"), {"category colour": 1}),
    "isthing": Damage(
        lambda s: s.json["train"]["categories"][0].pop("isthing"),
        {"faulty category": 1, "different categories": 1},
        {"faulty category": 1, "different categories": 1},
    ),
    "not annotated": Damage(
        lambda s: s.json["train"]["annotations"].pop(), {"picture without annotation": 1}, pictures=2
    ),
    "not in images": Damage(lambda s: s.json["train"]["images"].pop(), {"annotation without picture": 1}, pictures=2),
    "outside": Damage(lambda s: s.image().update(file_name="../a.png"), {"outside the folder": 1}, pictures=2),
    "map outside": Damage(lambda s: s.annotation().update(file_name="../a.png"), {"outside the folder": 1}, pictures=2),
    "no map": Damage(lambda s: s.map().unlink(), {"missing map": 1}, pictures=2),
    "cut map": Damage(lambda s: s.map().write_bytes(s.map().read_bytes()[:60]), {"unreadable map": 1}, pictures=2),
    # beyond that
    "wrong box": Damage(lambda s: s.info(CAT).update(bbox=[0, 0, 1, 1]), {"wrong box": 1}),
    "box of text": Damage(lambda s: s.info(CAT).update(bbox="none"), {"wrong box": 1}),
    "no box": Damage(lambda s: s.info(CAT).pop("bbox"), {"no box": 1}),
    "no picture": Damage(lambda s: s.picture().unlink(), {"missing picture": 1}, pictures=2),
    "cut picture": Damage(lambda s: _truncate(s.picture()), {"unreadable picture": 1}, pictures=2),
    "picture size": Damage(
        lambda s: Image.new("RGB", (9, 9)).save(s.picture()), {"picture size": 1}, {"picture size": 1}
    ),
    "palette": Damage(_as_palette, {"palette map": 1}),
    "indices": Damage(_as_indices, {"palette map": 1}),
    "BGR": Damage(_swap, {"swapped channels": 1}),
    "JPEG": Damage(_as_jpeg, {"lossy map": 1}, pictures=2),
    "through JPEG": Damage(_through_jpeg, {"lossy map": 1}, pictures=2),
    "two skies": Damage(lambda s: s.repaint(_two_skies, {**SEGMENTS, 90: SKY}), {"stuff in several segments": 1}),
    "crowd of stuff": Damage(lambda s: s.info(SKY).update(iscrowd=1), {"crowd of stuff": 1}, {"crowd of stuff": 1}),
    "isthing of stuff": Damage(lambda s: s.info(SKY).update(isthing=1), {"isthing of a segment": 1}),
    "isthing of a thing": Damage(lambda s: s.info(CAT).update(isthing=False), {"isthing of a segment": 1}),
    "isthing as text": Damage(lambda s: s.info(CAT).update(isthing="1"), {"isthing of a segment": 1}),
    "isthing as it is": Damage(lambda s: [s.info(CAT).update(isthing=True), s.info(SKY).update(isthing=0)], {}),
    "dot": Damage(lambda s: s.repaint(_dot), {"tiny segment": 1}, {"tiny segment": 1}),
    "merged cats": Damage(
        lambda s: s.repaint(_split_cat), {"possibly merged objects": 1}, {"possibly merged objects": 1}
    ),
    "cut cat": Damage(lambda s: s.repaint(_cut_cat), {"thing in pieces": 1}, {"thing in pieces": 1}),
    "nothing listed": Damage(
        lambda s: s.repaint(lambda ids: ids.fill(0)), {"picture without segments": 1}, {"picture without segments": 1}
    ),
    "void": Damage(lambda s: s.repaint(_void), {"nearly all void": 1}, {"nearly all void": 1}),
    "shared map": Damage(lambda s: s.annotation(1).update(file_name=s.annotation()["file_name"]), {"shared map": 1}),
    "shared picture": Damage(_share_picture, {"shared picture": 1}, {"shared picture": 1}),
    "case": Damage(_rename_map, {"names differ in case": 1}),
    "upright": Damage(_upright, {"upright by EXIF": 1}, {"upright by EXIF": 1}),
    "against its map": Damage(_against, {"turned by EXIF": 1}, {"upright by EXIF": 1}),
    "against, stated upright": Damage(_against_stated, {"turned by EXIF": 1, "wrong size": 1}, {"upright by EXIF": 1}),
    "upside down": Damage(
        lambda s: as_exif(s, 3, (HEIGHT, WIDTH)), {"orientation unclear": 1}, {"orientation unclear": 1}
    ),
    "no cat": Damage(
        lambda s: [_drop_class(s, split, CAT) for split in COUNTS],
        {"category without segments": 1},
        {"category without segments": 1},
    ),
    "cat not learned": Damage(
        lambda s: _drop_class(s, "train", CAT), {"category not in train": 1}, {"category not in train": 1}
    ),
    "cat not measured": Damage(
        lambda s: _drop_class(s, "val", CAT), {"category not in val": 1}, {"category not in val": 1}
    ),
    "lists": Damage(_other_lists, {"different categories": 1}, {"different categories": 1}),
    "names in other letters": Damage(
        lambda s: [s.json[split]["categories"][1].update(name="Cat ") for split in COUNTS],
        {"class names alike": 1},
        {"class names alike": 1},
    ),
    "ids": Damage(
        lambda s: [
            entry.update({key: 1})
            for entry, key in ((s.json["val"]["images"][0], "id"), (s.json["val"]["annotations"][0], "image_id"))
        ],
        {"image id in two splits": 1},
        {"image id in two splits": 1},
    ),
    "a copy": Damage(
        lambda s: shutil.copy(s.picture(0), s.picture(1)), {"duplicate in a split": 1}, {"duplicate in a split": 1}
    ),
    "a copy in val": Damage(
        lambda s: shutil.copy(s.picture(0), s.picture(1, "val")),
        {"duplicate across splits": 1},
        {"duplicate across splits": 1},
    ),
}
