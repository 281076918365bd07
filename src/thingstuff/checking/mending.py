"""One picture of a data set repaired: its entry, its map, and the stated size; what is left cannot be decided safely.

Letters: H W pixels of a map.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int32

from thingstuff.checking.pieces import areas_of, boxes_of, pieces_of
from thingstuff.checking.segments import contradicts
from thingstuff.evaluation.file_categories import FileCategories
from thingstuff.evaluation.picture_side import whole_number
from thingstuff.evaluation.problems import shown
from thingstuff.io import LARGEST_ID

Change = tuple[str, int | None, str]
"""The kind of finding that was repaired, the segment's id, what was done."""


@dataclass(frozen=True, eq=False)
class MendedSegments:
    """A picture's map [H, W] and `segments_info`, repaired, and all that was changed."""

    ids: Int32[np.ndarray, "H W"]
    infos: tuple[Any, ...]
    changes: tuple[Change, ...]


def mend_segments(
    ids: Int32[np.ndarray, "H W"], infos: Sequence[Any], classes: FileCategories, min_area: int = 0
) -> MendedSegments:
    """Repair a map and its `segments_info` so that they agree: the map decides.

    Numbers become numbers, iscrowd is filled in, isthing is that of the class; second entries of an id and segments
    without pixels are removed, ids that are not listed become void, stuff of one class becomes one segment, segments
    below `min_area` pixels void. Where an entry has no usable id, ids that are not listed stay: they may be its own.
    Areas and boxes are measured.
    """
    work = _Work(ids.copy(), classes)
    for position, info in enumerate(infos):
        work.take(position, info)
    work.match_map()
    work.merge_stuff()
    work.drop_small(min_area)
    work.measure()
    return MendedSegments(work.ids, (*work.infos.values(), *work.unusable), tuple(work.changes))


class _Work:
    """A picture's segments on the way: `infos` by id, entries that cannot be used, what was changed."""

    def __init__(self, ids: Int32[np.ndarray, "H W"], classes: FileCategories) -> None:
        self.ids, self.classes = ids, classes
        self.infos: dict[int, dict[str, Any]] = {}
        self.unusable: list[Any] = []
        self.merged: set[int] = set()
        self.changes: list[Change] = []

    def take(self, position: int, info: Any) -> None:
        """Take in an entry with its numbers made numbers."""
        segment_id = whole_number(info.get("id")) if isinstance(info, dict) else None
        if segment_id is None or not 0 < segment_id <= LARGEST_ID:
            self.unusable.append(info)
            return
        if segment_id in self.infos:
            self.changes.append(("duplicate segment", segment_id, f"segments_info[{position}] is removed"))
            return
        mended = dict(info)
        for name in ("id", "category_id", "iscrowd"):
            number = whole_number(mended.get(name))
            if number is not None and type(mended[name]) is not int:
                self.changes.append(
                    ("number written otherwise", segment_id, f"{name} {shown(mended[name])} is written as {number}")
                )
                mended[name] = number
        if mended.get("iscrowd") not in (0, 1):
            self.changes.append(
                ("faulty iscrowd", segment_id, f"iscrowd is 0 instead of {shown(mended.get('iscrowd'))}")
            )
            mended["iscrowd"] = 0
        categories = self.classes.categories
        if contradicts(mended, categories):
            stated, thing = mended["isthing"], categories.things[categories.label_of[mended["category_id"]]]
            mended["isthing"] = thing if type(stated) is bool else int(thing)
            message = f"isthing is {mended['isthing']} instead of {shown(stated)}"
            self.changes.append(("isthing of a segment", segment_id, message))
        self.infos[segment_id] = mended

    def match_map(self) -> None:
        """Remove what only the entry or only the map has."""
        present = {i for i in np.unique(self.ids).tolist() if i}
        for segment_id in [i for i in self.infos if i not in present]:
            self.changes.append(("segment without pixels", segment_id, "is removed from segments_info"))
            del self.infos[segment_id]
        unlisted = sorted(present - self.infos.keys()) if not self.unusable else []
        for segment_id in unlisted:
            self.changes.append(("unlisted id", segment_id, "is void in the map"))
        if unlisted:
            self.ids[np.isin(self.ids, unlisted)] = 0

    def merge_stuff(self) -> None:
        """Give all stuff of a class the id of its first segment, and the fields that all of its segments share."""
        categories = self.classes.categories
        firsts: dict[int, int] = {}
        for segment_id, info in list(self.infos.items()):
            label = categories.label_of.get(info["category_id"]) if type(info.get("category_id")) is int else None
            if label is None or categories.things[label]:
                continue
            first = firsts.setdefault(info["category_id"], segment_id)
            if first == segment_id:
                continue
            own = self.infos[first]
            shared = {k: v for k, v in own.items() if k in _OF_ANY or (k in info and info[k] == v)}
            self.infos[first] = {**shared, "iscrowd": min(own["iscrowd"], info["iscrowd"])}
            self.merged.add(first)
            del self.infos[segment_id]
            self.ids[self.ids == segment_id] = first
            name = categories.names[label]
            self.changes.append(("stuff in several segments", segment_id, f"is part of segment {first} now ({name})"))

    def drop_small(self, min_area: int) -> None:
        """Make segments of fewer pixels void."""
        if min_area <= 1:
            return
        values, counts = np.unique(self.ids, return_counts=True)
        for segment_id, area in zip(values.tolist(), counts.tolist(), strict=True):
            if segment_id in self.infos and area < min_area:
                self.changes.append(("tiny segment", segment_id, f"is void now: {area} pixels"))
                del self.infos[segment_id]
                self.ids[self.ids == segment_id] = 0

    def measure(self) -> None:
        """Write areas and boxes as they are in the map."""
        pieces = pieces_of(self.ids)
        areas, boxes = areas_of(pieces), boxes_of(pieces)
        for segment_id, info in self.infos.items():
            stated, area, box = info.get("area"), areas[segment_id], list(boxes[segment_id])
            if segment_id in self.merged:
                info |= {"area": area, "bbox": box}
                continue
            if type(stated) not in (int, float) or stated != area:
                self.changes.append(("wrong area", segment_id, f"area is {area} instead of {shown(stated)}"))
            if "bbox" not in info:
                self.changes.append(("no box", segment_id, f"bbox is {box}"))
            elif info["bbox"] != box:
                self.changes.append(("wrong box", segment_id, f"bbox is {box} instead of {shown(info['bbox'])}"))
            info |= {"area": area, "bbox": box}


_OF_ANY = ("id", "category_id", "iscrowd")  # what a merged segment has in any case


def mended_categories(entries: Sequence[Any], classes: FileCategories) -> list[Any]:
    """Return a JSON's `categories` with a name and colour for each usable class, once each; others stay as they are."""
    categories = classes.categories
    kept: list[Any] = []
    seen: set[int] = set()
    for entry in entries:
        category_id = entry.get("id") if isinstance(entry, Mapping) else None
        label = categories.label_of.get(category_id) if type(category_id) is int else None
        if label is None or category_id is None:
            kept.append(entry)
            continue
        if category_id in seen:
            continue
        seen.add(category_id)
        mended = {**entry, "isthing": int(categories.things[label])}
        if category_id in classes.renamed:
            mended["name"] = categories.names[label]
        if "color" in entry:
            mended["color"] = list(categories.colors[label])
        kept.append(mended)
    return kept
