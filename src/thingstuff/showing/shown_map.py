"""A picture's map as the page has it: every id in it owned by a segment, listed or not, and the pixels as runs.

Letters: H W the map, h w the size it is shown at. A *place* is a segment's position plus one; place 0 is void.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32

from thingstuff.convert.painting import areas_and_boxes
from thingstuff.drawing import colour_map, place_runs, segment_places
from thingstuff.evaluation.problems import clean
from thingstuff.io import LARGEST_ID, Kind, Size, field_fault
from thingstuff.panoptic import Categories, Panoptic, Segment
from thingstuff.showing.entries import ShownClasses

CROWD, FILLED, NOT_LISTED, NO_PIXELS = 1, 2, 4, 8
"""What a segment may be besides; the numbers add up."""

_ID = Kind(f"a whole number from 1 to {LARGEST_ID}", lambda v: type(v) is int and 0 < v <= LARGEST_ID)
_CATEGORY = Kind("a whole number", lambda v: type(v) is int)
# a map that was saved lossily holds thousands of ids that nobody listed: they share a segment then
_NOT_LISTED_APART = 200
_FAULTS_TOLD = 12


class ShownSegment(NamedTuple):
    """A segment: `id` in the map (0: the ids that are too many to tell apart), pixels and [x, y, width, height] there.

    `note` says who filled it in.
    """

    id: int
    label: int
    area: int
    box: tuple[int, int, int, int]
    flags: int
    note: str


@dataclass(frozen=True, eq=False)
class ShownMap:
    """A map with its segments: things first, by class, the largest first, crowds last."""

    ids: Int32[np.ndarray, "H W"]
    segments: tuple[ShownSegment, ...]
    categories: Categories

    def at(self, size: Size) -> Panoptic:
        """Return the map at another (height, width), nearest pixels; its ids are the places."""
        rows = (np.arange(size[0]) + 0.5) * self.ids.shape[0] / size[0]
        columns = (np.arange(size[1]) + 0.5) * self.ids.shape[1] / size[1]
        ids = self.ids[np.ix_(rows.astype(np.int64), columns.astype(np.int64))]
        own = [Segment(s.id, s.label, s.area) for s in self.segments]
        places = segment_places(Panoptic(ids, tuple(own), self.categories))
        for place, segment in enumerate(self.segments, 1):
            if segment.id == 0:
                places = np.where((places == 0) & (ids != 0), place, places)
        return Panoptic(places.astype(np.int32), self._by_place(), self.categories)

    def colors(self) -> list[tuple[int, int, int]]:
        """Return each segment's colour, as a drawing of the map has it."""
        if not self.segments:
            return []
        row = np.arange(1, len(self.segments) + 1, dtype=np.int32)[None]
        drawn = colour_map(Panoptic(row, self._by_place(), self.categories))[0]
        return [(int(r), int(g), int(b)) for r, g, b in drawn]

    def _by_place(self) -> tuple[Segment, ...]:
        rows = enumerate(self.segments, 1)
        return tuple(Segment(place, s.label, s.area, iscrowd=bool(s.flags & CROWD)) for place, s in rows)


def shown_map(
    ids: Int32[np.ndarray, "H W"], infos: Sequence[Any], split: str, classes: ShownClasses, faults: list[str]
) -> ShownMap:
    """Bring together a map and what its segments_info says, whatever it says; what does not agree goes to `faults`."""
    told: list[str] = []
    listed = _listed(infos, classes.label_of[split], classes.no_class, told)
    flat = ids.ravel()
    present = {*np.unique(flat[np.concatenate(([True], flat[1:] != flat[:-1]))]).tolist()} - {0}
    strangers = sorted(present - listed.keys())
    if strangers:
        told.append(f"the map holds {_some(strangers)}, not in segments_info")
    absent = sorted(listed.keys() - present)
    if absent:
        told.append(f"segments_info lists {_some(absent)}, without a pixel in the map")
    for segment_id in strangers[:_NOT_LISTED_APART]:
        listed[segment_id] = ShownSegment(segment_id, classes.not_listed, 0, (0, 0, 0, 0), NOT_LISTED, "")
    measured = areas_and_boxes(ids, list(listed))
    segments = [
        s._replace(area=area, box=box, flags=s.flags | (0 if area else NO_PIXELS))
        for s, (area, box) in zip(listed.values(), measured, strict=True)
    ]
    if len(strangers) > _NOT_LISTED_APART:
        rest = int(np.count_nonzero(flat)) - sum(s.area for s in segments)
        H, W = ids.shape
        note = f"{len(strangers) - _NOT_LISTED_APART:,} further ids"
        segments.append(ShownSegment(0, classes.not_listed, rest, (0, 0, W, H), NOT_LISTED, note))
    things = classes.categories.things
    segments.sort(key=lambda s: (not things[s.label], s.label, s.flags & CROWD, -s.area, s.id))
    faults += told[:_FAULTS_TOLD]
    if len(told) > _FAULTS_TOLD:
        faults.append(f"and {len(told) - _FAULTS_TOLD:,} more")
    return ShownMap(ids, tuple(segments), classes.categories)


def runs(panoptic: Panoptic) -> list[int]:
    """Return the pixels of a map whose ids are places row by row as place, length, place, length, ..."""
    pairs: list[int] = place_runs(panoptic.ids).tolist()
    return pairs


def _listed(infos: Sequence[Any], label_of: Any, no_class: int, told: list[str]) -> dict[int, ShownSegment]:
    """Return the usable entries of a segments_info by their ids, not measured yet."""
    listed: dict[int, ShownSegment] = {}
    for position, info in enumerate(infos):
        fault = field_fault(info, {"id": _ID})
        if fault:
            told.append(f"segments_info[{position}]: {fault}")
            continue
        if info["id"] in listed:
            told.append(f"segment {info['id']} stands twice in segments_info")
            continue
        label, fault = no_class, field_fault(info, {"category_id": _CATEGORY})
        if fault is None:
            label = label_of.get(info["category_id"], no_class)
            fault = f"category_id {info['category_id']} is none of the classes" if label == no_class else None
        if fault:
            told.append(f"segment {info['id']}: {fault}")
        crowd = CROWD if info.get("iscrowd") in (1, True) else 0
        filled = info.get("filled")
        flags = crowd | (FILLED if filled else 0)
        listed[info["id"]] = ShownSegment(info["id"], label, 0, (0, 0, 0, 0), flags, _filled_words(filled))
    return listed


def _filled_words(mark: Any) -> str:
    if not mark:
        return ""
    if not isinstance(mark, dict):
        return "filled in"
    parts = [f"{key} {value:.2f}" if isinstance(value, float) else f"{key} {value}" for key, value in mark.items()]
    return clean(f"filled in {', '.join(parts)}"[:200])


def _some(ids: Sequence[int]) -> str:
    more = f" and {len(ids) - 5:,} more" if len(ids) > 5 else ""
    return f"id{'s' if len(ids) > 1 else ''} {', '.join(map(str, ids[:5]))}{more}"
