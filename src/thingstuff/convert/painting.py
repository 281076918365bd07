"""Painting a picture's objects into one map: who lies on top, what is left of each, and who lost pixels to whom.

Letters: H W pixels of a picture, R runs of equal ids in its rows.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int32

from thingstuff.convert.source import SourceClass, SourceLabels, SourceObject
from thingstuff.errors import InputError
from thingstuff.io import LARGEST_ID
from thingstuff.panoptic import Categories, Color

_CLASHES_TOLD = 5


class Overlap(str, Enum):
    """Which of two objects gets the pixels that both have; crowds lie below all others."""

    SMALLER_ON_TOP = "smaller-on-top"
    LARGER_ON_TOP = "larger-on-top"
    LAST = "last"
    FIRST = "first"
    ERROR = "error"


class PaintedSegment(NamedTuple):
    """One segment of a painted map: its id there (> 0), the name of its category, further fields for its entry."""

    id: int
    name: str
    iscrowd: bool = False
    marks: Mapping[str, Any] = {}


@dataclass(frozen=True, eq=False)
class Painted:
    """A picture's map [H, W] (0: nothing), its segments, and the pixels that are to stay void (None: none are)."""

    ids: Int32[np.ndarray, "H W"]
    segments: tuple[PaintedSegment, ...]
    ignored: Bool[np.ndarray, "H W"] | None = None


@runtime_checkable
class Filler(Protocol):
    """What gives segments to pixels that nobody labelled; called in one process, picture after picture."""

    classes: tuple[SourceClass, ...]
    """What it may bring, by the name of the category, things and stuff told apart."""
    fingerprint: str
    """Another text wherever the result would be another."""

    def __call__(self, picture: Path, painted: Painted) -> Painted:
        """Return the map with more segments; what is there stays as it is."""
        ...


class PaintRules(NamedTuple):
    """How objects become a map: names by source class (a class that is not there is left out), colours for new ids."""

    names: Mapping[str, str]
    categories: Categories
    overlap: Overlap
    min_area: int


@dataclass(frozen=True)
class PaintReport:
    """Pixels by (class that lost them, class on top), and segments left out by (class, reason)."""

    overlaps: Counter[tuple[str, str]]
    dropped: Counter[tuple[str, str]]


class _Item(NamedTuple):
    """An object to paint; all of a stuff class share the `segment`."""

    drawn: SourceObject
    name: str
    segment: int
    position: int


def paint(labels: SourceLabels, rules: PaintRules) -> tuple[Painted, PaintReport]:
    """Paint a picture's objects: all stuff of a class is one segment, an object that is cut into pieces stays one.

    Segments that others cover wholly, or that have fewer than `min_area` pixels left, are dropped; the latter's pixels
    become void. Raises `InputError` where objects overlap and the rule is `Overlap.ERROR`.
    """
    report = PaintReport(Counter(), Counter())
    items = _items(labels.objects, rules, report)
    layers = _from_below(items, rules.overlap)
    tops = np.zeros(labels.size, dtype=np.int32)  # [H, W]: position plus one of the item on top
    for number in range(1, len(layers) + 1):
        _lay(number, tops, layers, report)
    if rules.overlap is Overlap.ERROR:
        _refuse_overlaps(report.overlaps)
    places = np.array([0, *(item.segment for item in layers)], dtype=np.int32)[tops]
    names = {item.segment: item.name for item in items}
    firsts = {item.segment: item.drawn for item in reversed(items)}
    areas = np.bincount(places.ravel(), minlength=len(firsts) + 1)
    ignored = _ignored(labels, places)
    kept = []
    for segment, name in sorted(names.items()):
        if areas[segment] >= max(rules.min_area, 1):
            kept.append(segment)
            continue
        report.dropped[name, "below --min-area" if areas[segment] else "wholly covered by others"] += 1
        if areas[segment]:
            small = places == segment
            ignored = small if ignored is None else ignored | small
    ids = _segment_ids([(names[s], firsts[s].segment_id) for s in kept], rules.categories)
    table = np.zeros(len(areas), dtype=np.int32)
    table[kept] = ids
    segments = [
        PaintedSegment(segment_id, names[s], firsts[s].iscrowd, dict(firsts[s].marks))
        for s, segment_id in zip(kept, ids, strict=True)
    ]
    return Painted(table[places], tuple(segments), ignored), report


def with_background(painted: Painted, name: str, categories: Categories) -> Painted:
    """Give what nothing covers to a class of stuff: to its segment where there is one, else to a new one."""
    empty = painted.ids == 0
    if painted.ignored is not None:
        empty &= ~painted.ignored
    if not empty.any():
        return painted
    own = next((s.id for s in painted.segments if s.name == name), None)
    segments = painted.segments
    if own is None:
        own = fresh_id(categories.colors[categories.names.index(name)], {s.id for s in segments})
        segments = (*segments, PaintedSegment(own, name))
    return Painted(np.where(empty, np.int32(own), painted.ids), segments, painted.ignored)


def fresh_id(color: Color, taken: Collection[int]) -> int:
    """Return an id that is not taken, near a colour: so that the map shows its classes in any viewer."""
    for step in range(512):
        # steps of other lengths for the channels, so that the first ids differ from each other to the eye
        moves = ((step * stride) % 61 - 30 * (step > 0) for stride in (7, 11, 17))
        red, green, blue = (min(max(c + move, 0), 255) for c, move in zip(color, moves, strict=True))
        value = red + 256 * green + 65536 * blue
        if value and value not in taken:
            return value
    return next(value for value in range(1, LARGEST_ID + 1) if value not in taken)


def areas_and_boxes(
    ids: Int32[np.ndarray, "H W"], wanted: Sequence[int]
) -> list[tuple[int, tuple[int, int, int, int]]]:
    """Return each wanted id's pixels and [x, y, width, height]; all zeros for one that has no pixel."""
    if not wanted or not ids.size:
        return [(0, (0, 0, 0, 0)) for _ in wanted]
    H, W = ids.shape
    flat = ids.ravel()
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    starts = np.union1d(changes, np.arange(0, H * W, W))  # [R]: a run ends with its row
    lengths = np.diff(starts, append=H * W)
    known = np.array(wanted)
    order = np.argsort(known)
    nearest = np.searchsorted(known[order], flat[starts]).clip(max=len(known) - 1)
    hit = known[order][nearest] == flat[starts]
    owner, starts, lengths = order[nearest][hit], starts[hit], lengths[hit]
    rows, columns = np.divmod(starts, W)
    areas = np.bincount(owner, lengths, len(known)).astype(np.int64)
    first = np.full((2, len(known)), H + W)
    last = np.zeros((2, len(known)), dtype=np.int64)
    for axis, (low, high) in enumerate(((columns, columns + lengths), (rows, rows + 1))):
        np.minimum.at(first[axis], owner, low)
        np.maximum.at(last[axis], owner, high)
    return [
        (int(area), (int(x), int(y), int(right - x), int(bottom - y)) if area else (0, 0, 0, 0))
        for area, x, y, right, bottom in zip(areas, *first, *last, strict=True)
    ]


def _items(objects: Iterable[SourceObject], rules: PaintRules, report: PaintReport) -> list[_Item]:
    categories = rules.categories
    things = dict(zip(categories.names, categories.things, strict=True))
    stuff: dict[tuple[str, bool], int] = {}
    items: list[_Item] = []
    segments = 0
    for position, drawn in enumerate(objects):
        name = rules.names.get(drawn.name)
        if name is None:
            continue
        if not drawn.region.mask.any():
            report.dropped[name, "without a pixel in the picture"] += 1
            continue
        if things[name]:
            segment = segments = segments + 1
        else:
            segment = stuff.setdefault((name, drawn.iscrowd), segments + 1)
            segments = max(segments, segment)
        items.append(_Item(drawn, name, segment, position))
    return items


def _from_below(items: Iterable[_Item], overlap: Overlap) -> list[_Item]:
    def height(item: _Item) -> tuple[int, bool, int, int]:
        by_area = {Overlap.SMALLER_ON_TOP: -1, Overlap.LARGER_ON_TOP: 1}.get(overlap, 0)
        area = by_area * item.drawn.region.area if by_area else 0
        position = -item.position if overlap is Overlap.FIRST else item.position
        return item.drawn.layer, not item.drawn.iscrowd, area, position

    return sorted(items, key=height)


def _lay(number: int, tops: Int32[np.ndarray, "H W"], layers: Sequence[_Item], report: PaintReport) -> None:
    item = layers[number - 1]
    region = item.drawn.region
    window = tops[region.window]
    covered = np.bincount(window[region.mask])
    for position in np.flatnonzero(covered[1:]):
        below = layers[int(position)]
        if below.segment != item.segment and below.drawn.layer == item.drawn.layer:
            report.overlaps[below.name, item.name] += int(covered[position + 1])
    window[region.mask] = number


def _refuse_overlaps(overlaps: Mapping[tuple[str, str], int]) -> None:
    if not overlaps:
        return
    told = [f"{a} and {b} share {n:,} pixels" for (a, b), n in Counter(overlaps).most_common(_CLASHES_TOLD)]
    more = f" and {len(overlaps) - _CLASHES_TOLD} more pairs" if len(overlaps) > _CLASHES_TOLD else ""
    raise InputError(f"objects overlap: {', '.join(told)}{more}; mend the labels or choose another --overlap")


def _ignored(labels: SourceLabels, places: Int32[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"] | None:
    if not labels.ignored:
        return None
    ignored = np.zeros(labels.size, dtype=np.bool_)
    for region in labels.ignored:
        region.paint(ignored)
    ignored &= places == 0
    return ignored if ignored.any() else None


def _segment_ids(wanted: Sequence[tuple[str, int | None]], categories: Categories) -> list[int]:
    """Return ids for segments of (category, id to keep): kept ones first, so that no other takes theirs."""
    color_of = dict(zip(categories.names, categories.colors, strict=True))
    ids: list[int] = [0] * len(wanted)
    taken: set[int] = set()
    for position, (_, kept) in enumerate(wanted):
        if kept is not None and 0 < kept <= LARGEST_ID and kept not in taken:
            ids[position] = kept
            taken.add(kept)
    for position, (name, _) in enumerate(wanted):
        if not ids[position]:
            ids[position] = fresh_id(color_of[name], taken)
            taken.add(ids[position])
    return ids
