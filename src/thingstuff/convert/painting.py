"""Painting a picture's objects into one map: who lies on top, what is left of each, and who lost pixels to whom.

Letters: H W pixels of a picture, N objects.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int32, Int64

from thingstuff.convert.source import SourceClass, SourceLabels, SourceObject
from thingstuff.data.coco import FILLED
from thingstuff.data.map_runs import map_runs
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
    """An object to paint; what is drawn of a stuff class shares the `segment`, and what is filled in another."""

    drawn: SourceObject
    name: str
    segment: int
    position: int


def paint(labels: SourceLabels, rules: PaintRules) -> tuple[Painted, PaintReport]:
    """Paint a picture's objects: all stuff of a class is one segment, an object that is cut into pieces stays one.

    Segments that others cover wholly, or that have fewer than `min_area` pixels left, are dropped, and stuff that a
    model filled in beside what is drawn of its class; the pixels of dropped segments become void. Raises `InputError`
    where objects overlap and the rule is `Overlap.ERROR`.
    """
    report = PaintReport(Counter(), Counter())
    items = _items(labels.objects, rules, report)
    layers = _from_below(items, rules.overlap)
    tops = np.zeros(labels.size, dtype=np.int32)  # [H, W]: position plus one of the item on top
    visible = np.zeros(len(layers) + 1, dtype=np.int64)  # [N + 1]: the pixels where each is on top
    for number in range(1, len(layers) + 1):
        _lay(number, tops, visible, layers, report)
    if rules.overlap is Overlap.ERROR:
        _refuse_overlaps(report.overlaps)
    owners = np.array([0, *(item.segment for item in layers)], dtype=np.int32)
    areas = np.zeros(len(layers) + 1, dtype=np.int64)
    np.add.at(areas, owners, visible)
    firsts = {item.segment: item for item in reversed(items)}
    kept = _kept(firsts, areas, rules, report)
    ids = _segment_ids([(item.name, item.drawn.segment_id) for item in kept], rules.categories)
    table = np.zeros(len(areas), dtype=np.int32)
    table[[item.segment for item in kept]] = ids
    things = {rules.categories.names[label] for label in rules.categories.thing_labels}
    segments = [
        # a crowd is many things in one segment: of stuff there is but one segment anyway
        PaintedSegment(segment_id, item.name, item.drawn.iscrowd and item.name in things, dict(item.drawn.marks))
        for item, segment_id in zip(kept, ids, strict=True)
    ]
    table = table[owners]
    ignored = _ignored(labels, tops, (table == 0) & (visible > 0))
    return Painted(table[tops], tuple(segments), ignored), report


def with_background(painted: Painted, name: str, categories: Categories) -> Painted:
    """Give what nothing covers to a class of stuff: to its segment where there is one, else to a new one."""
    empty = painted.ids == 0
    if painted.ignored is not None:
        empty &= ~painted.ignored
    if not empty.any():
        return painted
    there = next((s for s in painted.segments if s.name == name and not s.iscrowd), None)
    if there is None:
        color = categories.colors[categories.names.index(name)]
        own = PaintedSegment(FreshIds(s.id for s in painted.segments).take(color), name)
        segments = (*painted.segments, own)
    else:
        # what a model filled in of the class is background without it as well: the rule's word, not the model's
        own = there._replace(marks={key: value for key, value in there.marks.items() if key != FILLED})
        segments = tuple(own if s is there else s for s in painted.segments)
    return Painted(np.where(empty, np.int32(own.id), painted.ids), segments, painted.ignored)


class FreshIds:
    """Ids for a picture's new segments, each near a colour: so that the map shows its classes in any viewer."""

    def __init__(self, taken: Iterable[int] = ()) -> None:
        self._taken = {*taken}
        self._near: dict[Color, Iterator[int]] = {}
        self._any = iter(range(1, LARGEST_ID + 1))

    def take(self, color: Color) -> int:
        """Return an id that is not taken, and take it."""
        # what was passed over is taken for good: each colour goes on where it stopped
        candidates = self._near.setdefault(color, chain(_near(color), self._any))
        found = next(value for value in candidates if value not in self._taken)
        self._taken.add(found)
        return found


def areas_and_boxes(
    ids: Int32[np.ndarray, "H W"], wanted: Sequence[int]
) -> list[tuple[int, tuple[int, int, int, int]]]:
    """Return each wanted id's pixels and [x, y, width, height]; all zeros for one that has no pixel."""
    runs = map_runs(ids)
    corners = runs.boxes().astype(np.int64)
    corners[:, 2:] -= corners[:, :2]
    rows = zip(runs.ids.tolist(), runs.areas().tolist(), map(tuple, corners.tolist()), strict=True)
    measured = {own: (area, box) for own, area, box in rows}
    return [measured.get(own, (0, (0, 0, 0, 0))) for own in wanted]


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
            segment = stuff.setdefault((name, bool(drawn.marks.get(FILLED))), segments + 1)
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


def _lay(
    number: int,
    tops: Int32[np.ndarray, "H W"],
    visible: Int64[np.ndarray, "N"],
    layers: Sequence[_Item],
    report: PaintReport,
) -> None:
    item = layers[number - 1]
    region = item.drawn.region
    window = tops[region.window]
    covered = np.bincount(window[region.mask])
    for position in np.flatnonzero(covered[1:]):
        below = layers[int(position)]
        if below.segment != item.segment and below.drawn.layer == item.drawn.layer:
            report.overlaps[below.name, item.name] += int(covered[position + 1])
    visible[1 : len(covered)] -= covered[1:]
    visible[number] = covered.sum()
    window[region.mask] = number


def _kept(
    firsts: Mapping[int, _Item], areas: Int64[np.ndarray, "N"], rules: PaintRules, report: PaintReport
) -> list[_Item]:
    """Return the first item of each segment that stays, in the order of the segments."""
    kept = []
    for segment, item in sorted(firsts.items()):
        if areas[segment] >= max(rules.min_area, 1):
            kept.append(item)
        else:
            reason = "below --min-area" if areas[segment] else "wholly covered by others"
            report.dropped[item.name, reason] += 1
    things = dict(zip(rules.categories.names, rules.categories.things, strict=True))
    drawn = {item.name for item in kept if not (item.drawn.marks.get(FILLED) or things[item.name])}
    # a segment half drawn and half filled could be neither reviewed nor left out nor filled again
    beside = {item.segment: item.name for item in kept if item.drawn.marks.get(FILLED) and item.name in drawn}
    report.dropped.update((name, "filled in beside what is drawn of its class") for name in beside.values())
    return [item for item in kept if item.segment not in beside]


def _refuse_overlaps(overlaps: Mapping[tuple[str, str], int]) -> None:
    if not overlaps:
        return
    told = [f"{a} and {b} share {n:,} pixels" for (a, b), n in Counter(overlaps).most_common(_CLASHES_TOLD)]
    more = f" and {len(overlaps) - _CLASHES_TOLD} more pairs" if len(overlaps) > _CLASHES_TOLD else ""
    raise InputError(f"objects overlap: {', '.join(told)}{more}; mend the labels or choose another --overlap")


def _ignored(
    labels: SourceLabels, tops: Int32[np.ndarray, "H W"], dropped: Bool[np.ndarray, "N"]
) -> Bool[np.ndarray, "H W"] | None:
    """Return what is ignored and lies under no object, and the pixels of the items of dropped segments."""
    ignored = np.zeros(labels.size, dtype=np.bool_)
    for region in labels.ignored:
        region.paint(ignored)
    if labels.ignored:
        ignored &= tops == 0
    if dropped.any():
        ignored |= dropped[tops]
    return ignored if ignored.any() else None


def _segment_ids(wanted: Sequence[tuple[str, int | None]], categories: Categories) -> list[int]:
    """Return ids for segments of (category, id to keep): kept ones first, so that no other takes theirs."""
    color_of = dict(zip(categories.names, categories.colors, strict=True))
    first_with: dict[int, int] = {}
    for position, (_, own) in enumerate(wanted):
        if own is not None and 0 < own <= LARGEST_ID:
            first_with.setdefault(own, position)
    kept = {position: own for own, position in first_with.items()}
    fresh = FreshIds(first_with)
    return [kept[p] if p in kept else fresh.take(color_of[name]) for p, (name, _) in enumerate(wanted)]


def _near(color: Color) -> Iterator[int]:
    """Give ids whose colours lie near one, that of the colour itself first; some may be given twice."""
    for step in range(512):
        # steps of other lengths for the channels, so that the first ids differ from each other to the eye
        moves = ((step * stride) % 61 - 30 * (step > 0) for stride in (7, 11, 17))
        red, green, blue = (min(max(c + move, 0), 255) for c, move in zip(color, moves, strict=True))
        if value := red + 256 * green + 65536 * blue:
            yield value
