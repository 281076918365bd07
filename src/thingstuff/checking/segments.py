"""What is odd about the segments of one map, beyond what evaluation refuses."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from thingstuff.checking.pieces import Box, Pieces, boxes_of, far_apart
from thingstuff.evaluation.problems import shown
from thingstuff.evaluation.segments import TruthSegment
from thingstuff.panoptic import Categories

Told = tuple[str, int, str]
"""The kind of a finding, the segment's id, the message."""
TINY = 4
"""Pixels below which a segment is told of."""


class SeenSegment(NamedTuple):
    """What is counted of a segment; `area` in pixels."""

    category_id: int
    area: int
    iscrowd: bool


def segment_faults(
    infos: Sequence[Any], segments: Mapping[int, TruthSegment], pieces: Pieces, categories: Categories
) -> Iterator[Told]:
    """Yield what is odd about the usable segments of a picture, given its entry's `segments_info` and its map."""
    yield from _box_faults(infos, segments, boxes_of(pieces))
    seen = [(i, SeenSegment(s.category_id, int(s.area), s.iscrowd)) for i, s in segments.items()]
    yield from stated_faults(seen, categories)
    things = sorted(i for i, s in segments.items() if categories.things[categories.label_of[s.category_id]])
    yield from _piece_faults([i for i in things if not segments[i].iscrowd], pieces)


def stated_faults(segments: Iterable[tuple[int, SeenSegment]], categories: Categories) -> Iterator[Told]:
    """Yield what is odd about a picture's segments, by their ids, that no map is needed for: their sizes and kinds."""
    stuff: dict[int, list[int]] = defaultdict(list)
    for segment_id, segment in segments:
        if segment.area < TINY:
            yield "tiny segment", segment_id, f"has {segment.area} pixel{'s' * (segment.area != 1)}"
        if not categories.things[categories.label_of[segment.category_id]]:
            stuff[segment.category_id].append(segment_id)
            if segment.iscrowd:
                name = categories.names[categories.label_of[segment.category_id]]
                yield "crowd of stuff", segment_id, f"has iscrowd 1, and {name} is stuff"
    for category_id, ids in stuff.items():
        if len(ids) > 1:
            name = categories.names[categories.label_of[category_id]]
            yield "stuff in several segments", ids[0], f"{name} has {len(ids)} segments here"


def isthing_faults(infos: Sequence[Any], categories: Categories) -> Iterator[Told]:
    """Yield the segments of an entry's `segments_info` whose `isthing` contradicts their class."""
    for info in infos:
        if isinstance(info, dict) and type(info.get("id")) is int and contradicts(info, categories):
            name = categories.names[categories.label_of[info["category_id"]]]
            yield "isthing of a segment", info["id"], f"isthing is {shown(info['isthing'])}, against that of {name}"


def contradicts(info: Mapping[str, Any], categories: Categories) -> bool:
    """Whether a segment states another `isthing` than its class has; False where it states none or has no class."""
    category_id = info.get("category_id")
    label = categories.label_of.get(category_id) if type(category_id) is int else None
    return label is not None and "isthing" in info and info["isthing"] != categories.things[label]


def _box_faults(infos: Sequence[Any], segments: Mapping[int, TruthSegment], boxes: Mapping[int, Box]) -> Iterator[Told]:
    for info in infos:
        segment_id = info.get("id") if isinstance(info, dict) else None
        if type(segment_id) is not int or segment_id not in segments:
            continue
        box = list(boxes[segment_id])
        if "bbox" not in info:
            yield "no box", segment_id, "has no bbox"
        elif info["bbox"] != box:
            yield "wrong box", segment_id, f"its bbox is {shown(info['bbox'])} in the JSON, {box} in the map"


def _piece_faults(things: Sequence[int], pieces: Pieces) -> Iterator[Told]:
    starts = np.searchsorted(pieces.ids, things).tolist()
    ends = np.searchsorted(pieces.ids, things, side="right").tolist()
    for segment_id, start, end in zip(things, starts, ends, strict=True):
        if end - start < 2:
            continue
        areas = [f"{area:,}" for area in pieces.areas[start : min(end, start + 3)].tolist()]
        more = f" and {end - start - 3} more" if end - start > 3 else ""
        message = f"is in {end - start} pieces, of {', '.join(areas)}{more} pixels"
        yield "possibly merged objects" if far_apart(pieces, start) else "thing in pieces", segment_id, message
