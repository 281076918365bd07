"""What a conversion tells: segments and pixels per class, who lost pixels to whom, void, what was dropped and why."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from thingstuff.convert.ledger import Done
from thingstuff.convert.source import Source
from thingstuff.data.coco import FILLED
from thingstuff.io import atomic_write
from thingstuff.panoptic import Categories

if TYPE_CHECKING:
    from rich.table import Table

_OVERLAPS_SHOWN, _NOTES_SHOWN = 12, 12


class ClassRow(NamedTuple):
    """A category: its pictures, segments, and share of all pixels (0 to 1); `filled` of the segments a model drew."""

    category_id: int
    name: str
    thing: bool
    pictures: int
    segments: int
    filled: int
    crowds: int
    pixels: int
    share: float


class SplitRow(NamedTuple):
    """A split: its pictures, its segments, and the share of its pixels that is void (0 to 1)."""

    name: str
    pictures: int
    segments: int
    void: float


class OverlapRow(NamedTuple):
    """Pixels that a class lost to another that lay above it."""

    lost_by: str
    given_to: str
    pixels: int


class CountRow(NamedTuple):
    """How often something was left out, in words."""

    what: str
    times: int


@dataclass(frozen=True)
class ConversionReport:
    """All of it, as rows."""

    format: str
    reason: str
    splits: tuple[SplitRow, ...]
    classes: tuple[ClassRow, ...]
    overlaps: tuple[OverlapRow, ...]
    dropped: tuple[CountRow, ...]
    notes: tuple[CountRow, ...]
    broken: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        rows = {
            name: [row._asdict() for row in getattr(self, name)]
            for name in ("splits", "classes", "overlaps", "dropped", "notes")
        }
        return {"format": self.format, "reason": self.reason, **rows, "broken": list(self.broken)}

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        atomic_write(path, json.dumps(self.to_json(), indent=1))

    def tables(self) -> "list[Table]":
        """Return what a terminal shows."""
        tables = [_splits_table(self.splits), _class_table(self.classes)]
        if self.overlaps:
            tables.append(_overlap_table(self.overlaps))
        counts = (*self.dropped, *self.notes)
        if counts:
            tables.append(_count_table(counts))
        return tables


def report_of(
    source: Source, categories: Categories, pictures: Sequence[Done], broken: Sequence[str]
) -> ConversionReport:
    """Add up what the pictures' conversions tell."""
    overlaps: Counter[tuple[str, str]] = Counter()
    dropped: Counter[str] = Counter()
    notes: Counter[str] = Counter(source.notes)
    for done in pictures:
        for lost, given, count in done.report["overlaps"]:
            overlaps[lost, given] += count
        for name, why, count in done.report["dropped"]:
            dropped[f"{name}: {why}"] += count
        notes.update(done.report["notes"])
    splits = sorted({done.split for done in pictures})
    return ConversionReport(
        source.format,
        source.reason,
        tuple(_split_row(name, [d for d in pictures if d.split == name]) for name in splits),
        _class_rows(categories, pictures),
        tuple(OverlapRow(*pair, n) for pair, n in overlaps.most_common()),
        tuple(CountRow(*entry) for entry in dropped.most_common()),
        tuple(CountRow(*entry) for entry in notes.most_common()),
        tuple(broken),
    )


def _pixels(done: Done) -> int:
    return int(done.image["width"]) * int(done.image["height"])


def _split_row(name: str, pictures: Sequence[Done]) -> SplitRow:
    void = sum(d.report["void"] for d in pictures)
    segments = sum(len(d.segments) for d in pictures)
    return SplitRow(name, len(pictures), segments, void / max(1, sum(map(_pixels, pictures))))


def _class_rows(categories: Categories, pictures: Sequence[Done]) -> tuple[ClassRow, ...]:
    counts: dict[str, Counter[str]] = {name: Counter() for name in categories.names}
    for done in pictures:
        for name in {s["category_id"] for s in done.segments}:
            counts[name]["pictures"] += 1
        for segment in done.segments:
            own = counts[segment["category_id"]]
            own.update(segments=1, pixels=segment["area"], crowds=segment["iscrowd"], filled=bool(segment.get(FILLED)))
    total = max(1, sum(map(_pixels, pictures)))
    rows = []
    for category_id, name, thing in zip(categories.ids, categories.names, categories.things, strict=True):
        own = counts[name]
        numbers = (own["pictures"], own["segments"], own["filled"], own["crowds"], own["pixels"])
        rows.append(ClassRow(category_id, name, thing, *numbers, own["pixels"] / total))
    return tuple(rows)


def _table(title: str, *columns: str) -> "Table":
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for place, column in enumerate(columns):
        table.add_column(column, justify="left" if place == 0 else "right", overflow="fold")
    return table


def _shown(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _splits_table(rows: Sequence[SplitRow]) -> "Table":
    table = _table("Splits", "split", "pictures", "segments", "void")
    for row in rows:
        table.add_row(_shown(row.name), f"{row.pictures:,}", f"{row.segments:,}", f"{row.void:.1%}")
    return table


def _class_table(rows: Sequence[ClassRow]) -> "Table":
    filled, crowds = any(r.filled for r in rows), any(r.crowds for r in rows)
    extra = [name for name, there in (("filled", filled), ("crowds", crowds)) if there]
    table = _table("Classes", "class", "id", "kind", "pictures", "segments", *extra, "pixels")
    for row in rows:
        numbers = [f"{row.pictures:,}", f"{row.segments:,}", *(f"{getattr(row, name):,}" for name in extra)]
        kind = "thing" if row.thing else "stuff"
        table.add_row(_shown(row.name), str(row.category_id), kind, *numbers, f"{row.share:.2%}")
    return table


def _overlap_table(rows: Sequence[OverlapRow]) -> "Table":
    table = _table("Overlaps", "lost by", "given to", "pixels")
    for row in rows[:_OVERLAPS_SHOWN]:
        table.add_row(_shown(row.lost_by), _shown(row.given_to), f"{row.pixels:,}")
    if rest := rows[_OVERLAPS_SHOWN:]:
        table.add_row(f"{len(rest):,} more pairs", "", f"{sum(r.pixels for r in rest):,}")
    return table


def _count_table(rows: Sequence[CountRow]) -> "Table":
    table = _table("Told", "what", "count")
    for row in rows[:_NOTES_SHOWN]:
        table.add_row(_shown(row.what), f"{row.times:,}")
    if rest := rows[_NOTES_SHOWN:]:
        table.add_row(f"{len(rest):,} more kinds", f"{sum(r.times for r in rest):,}")
    return table
