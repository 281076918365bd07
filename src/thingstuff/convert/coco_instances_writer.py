"""COCO instances: a JSON of the things with exact run lengths, and semantic PNGs of the stuff beside it."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from thingstuff.convert.export_target import (
    Done,
    Task,
    class_values,
    key_of_record,
    read_regions,
    void_value,
    write_class_values,
    write_semantic,
)
from thingstuff.convert.picture_links import place_picture
from thingstuff.convert.source import Region, Size
from thingstuff.data.coco import CocoPanoptic, Record
from thingstuff.io import read_json
from thingstuff.panoptic import Categories, Segment

_KEPT_LISTS = ("images", "annotations", "categories")
_OWN = frozenset({"id", "category_id", "area", "bbox", "iscrowd", "isthing"})
"""Fields of `segments_info` that the export states anew; the others are marks of the segment."""


@dataclass(frozen=True)
class CocoInstancesWriter:
    """Writes `instances_{split}.json`, the pictures in `{split}/` and the stuff in `semantic_{split}/`.

    An object's mask is written as compressed run lengths, as COCO writes crowds: a polygon would lose pixels, and
    pycocotools reads either. `segment_id` keeps the id that it has in the panoptic map. The value of a semantic PNG is
    the class's category_id, and void, or 0 where no class has that, anywhere else. Where ids do not fit into 16 bits,
    values are the classes' places (`classes.txt` names them), and the JSON lists the classes of stuff too, with
    `isthing` 0, so that their ids are not lost; elsewhere it lists things alone, as COCO's own and its readers have it.
    """

    out: Path
    categories: Categories
    copy: bool

    def tasks(self, data: CocoPanoptic) -> Sequence[Task]:
        """Return the pictures of a split with the marks of their segments."""
        marks = {entry["image_id"]: _marks(entry) for entry in read_json(data.paths.json)["annotations"]}
        return [Task(data.paths, record, marks[record.image_id]) for record in data.records]

    def work(self, split: str) -> Callable[[Task], Done]:
        """Return what places one picture, and writes its stuff."""
        return _InstancesOfPicture(self.out, split, self.categories, self.copy)

    def write_split(self, split: str, data: CocoPanoptic, done: Iterable[Done]) -> None:
        """Write the split's JSON while its pictures come; what else the old one says of them is kept."""
        old = read_json(data.paths.json)
        known = {record.image_id for record in data.records}
        head = {key: value for key, value in old.items() if key not in _KEPT_LISTS}
        head["images"] = [entry for entry in old["images"] if entry["id"] in known]
        values_are_ids = all(i == value for i, value in class_values(self.categories).items())
        head["categories"] = [entry for entry in old["categories"] if entry["isthing"] or not values_are_ids]
        with (self.out / f"instances_{split}.json").open("w", encoding="utf-8") as file:
            file.write(f'{json.dumps(head)[:-1]}, "annotations": [')
            number = 0
            for picture in done:
                for entry in picture.entries:
                    number += 1  # pycocotools takes an annotation with the id 0 for none
                    file.write(",\n" if number > 1 else "\n")
                    file.write(json.dumps({"id": number, **entry}))
            file.write("]}\n")

    def write_classes(self, splits: Sequence[str]) -> None:
        """Write which class a value of the semantic PNGs is, if there are any."""
        if self.categories.stuff_labels:
            void = void_value(self.categories, zero=True)
            write_class_values(self.out / "classes.txt", self.categories, self.categories.stuff_labels, void)


@dataclass(frozen=True)
class _InstancesOfPicture:
    out: Path
    split: str
    categories: Categories
    copy: bool

    def __call__(self, task: Task) -> Done:
        record, categories = task.record, self.categories
        found = read_regions(task, categories)
        things = [(segment, region) for segment, region in found if categories.things[segment.label]]
        stuff = [(segment, region) for segment, region in found if not categories.things[segment.label]]
        place_picture(record.picture, self.out / self.split / record.file_name, self.copy)
        if categories.stuff_labels:
            path = self.out / f"semantic_{self.split}" / f"{key_of_record(record)}.png"
            size = record.height, record.width
            write_semantic(path, size, stuff, categories, void_value(categories, zero=True))
        entries = [_annotation(record, segment, region, task, categories) for segment, region in things]
        crowds = sum(segment.iscrowd for segment, _ in things)
        return Done(
            entries,
            {
                "objects": len(things) - crowds,
                "crowds": crowds,
                "segments of stuff, in the semantic PNGs": len(stuff),
            },
        )


def _marks(annotation: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    infos = annotation["segments_info"]
    marks = {info["id"]: {key: value for key, value in info.items() if key not in _OWN} for info in infos}
    return {segment_id: own for segment_id, own in marks.items() if own}


def _annotation(record: Record, segment: Segment, region: Region, task: Task, categories: Categories) -> dict[str, Any]:
    height, width = region.mask.shape
    return {
        **task.marks.get(segment.id, {}),
        "image_id": record.image_id,
        "category_id": categories.ids[segment.label],
        "segmentation": run_lengths(region, (record.height, record.width)),
        "area": segment.area,
        "bbox": [region.left, region.top, width, height],
        "iscrowd": int(segment.iscrowd),
        "segment_id": segment.id,
    }


def run_lengths(region: Region, size: Size) -> dict[str, Any]:
    """Return COCO's compressed run lengths of a region in a picture of that (height, width)."""
    height, width = size
    columns = np.zeros((region.mask.shape[1], region.mask.shape[0] + 2), dtype=np.int8)
    columns[:, 1:-1] = region.mask.T
    column, row = np.nonzero(np.diff(columns, axis=1))
    places = (column + region.left) * height + row + region.top  # begins and ends of runs, in turns
    # a run that ends at the bottom and one that begins at the top of the next column are one
    joined = np.flatnonzero(places[1:] == places[:-1])
    places = np.delete(places, np.concatenate([joined, joined + 1]))
    counts = np.diff(places, prepend=0, append=height * width).tolist()
    # pycocotools ends with the last run that has a pixel
    plain = {"size": [height, width], "counts": counts if counts[-1] else counts[:-1]}
    packed = coco_mask.frPyObjects(plain, height, width)
    return {"size": [height, width], "counts": packed["counts"].decode()}
