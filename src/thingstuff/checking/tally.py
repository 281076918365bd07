"""What is counted over the pictures of a split, and what is odd about those counts."""

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from thingstuff.checking.findings import Finding
from thingstuff.checking.segments import SeenSegment
from thingstuff.evaluation.problems import clean, shown
from thingstuff.evaluation.segments import ImageId
from thingstuff.io import Size
from thingstuff.panoptic import Categories

IMBALANCE = 100
"""Segments of the most frequent class per segment of the rarest, above which it is told."""
FEW_VAL = 20
"""Pictures below which a val split is called tiny."""
_NAMED = 3  # image ids of two splits that are told


@dataclass
class Tally:
    """The counts of one split, by category_id where they concern a class; sizes in pixels.

    `shorts`, `longs`: sides of the pictures; `objects`: area of each thing over that of its picture; `read` pictures
    are those whose maps were read: `pixels` and `void` are of these.
    """

    split: str
    json: Path
    categories: Categories
    pictures: int = 0
    read: int = 0
    pixels: int = 0
    void: int = 0
    segments: Counter[int] = field(default_factory=Counter)
    areas: Counter[int] = field(default_factory=Counter)
    crowds: int = 0
    shorts: "array[int]" = field(default_factory=lambda: array("I"))
    longs: "array[int]" = field(default_factory=lambda: array("I"))
    objects: "array[float]" = field(default_factory=lambda: array("f"))
    ids: set[ImageId] = field(default_factory=set)
    _pictures: dict[str, str] = field(default_factory=dict)
    _maps: dict[str, str] = field(default_factory=dict)

    def add(self, image_id: ImageId, size: Size | None, segments: Iterable[SeenSegment], void: int | None) -> None:
        """Count a picture."""
        self.pictures += 1
        self.ids.add(image_id)
        pixels = size[0] * size[1] if size is not None else 0
        if size is not None:
            self.shorts.append(min(size))
            self.longs.append(max(size))
        if void is not None:
            self.read, self.pixels, self.void = self.read + 1, self.pixels + pixels, self.void + void
        for category_id, area, iscrowd in segments:
            self.segments[category_id] += 1
            self.areas[category_id] += area
            self.crowds += iscrowd
            if pixels and not iscrowd and self.categories.things[self.categories.label_of[category_id]]:
                self.objects.append(min(1.0, area / pixels))

    def add_names(self, image_id: ImageId, picture: str | None, map_name: str | None) -> Iterator[Finding]:
        """Take in a picture's file names; yield what is odd about them beside those that came before."""
        for name, seen, what in ((picture, self._pictures, "picture"), (map_name, self._maps, "map")):
            if name is None:
                continue
            twin = seen.setdefault(name.casefold(), "")
            if not twin:
                seen[name.casefold()] = name
            elif twin != name:
                message = f"the {what} {shown(name)} differs from {shown(twin)} in case alone"
                yield self.finding("names differ in case", message, image_id)
            elif what == "picture":  # maps that are shared are told by the index
                yield self.finding("shared picture", f"{shown(name)} is another entry's picture too", image_id)

    def lacking(self, everywhere: Mapping[int, int], told: set[int]) -> Iterator[Finding]:
        """Yield the classes without a segment here, given the segments of each in all splits.

        Classes without any are told once: their ids are added to `told`.
        """
        for category_id, name in zip(self.categories.ids, self.categories.names, strict=True):
            text, count = f"{name} (id {category_id})", everywhere.get(category_id, 0)
            if self.segments[category_id]:
                continue
            if not count and category_id not in told:
                told.add(category_id)
                yield self.finding("category without segments", f"{text} has no segment in any split that was read")
            elif count and is_train(self.split):
                yield self.finding("category not in train", f"{text} has {count:,} elsewhere, none here")
            elif count and is_val(self.split):
                yield self.finding("category not in val", f"{text} has no segment here")

    def alike(self, told: set[tuple[str, ...]]) -> Iterator[Finding]:
        """Yield the classes whose names differ in case or spaces alone; what was told is not told again."""
        by_letters: defaultdict[str, list[int]] = defaultdict(list)
        for label, name in enumerate(self.categories.names):
            by_letters["".join(name.split()).casefold()].append(label)
        for labels in by_letters.values():
            names = tuple(f"{shown(self.categories.names[i])} (id {self.categories.ids[i]})" for i in labels)
            if len(names) > 1 and names not in told:
                told.add(names)
                yield self.finding("class names alike", ", ".join(names))

    def imbalance(self) -> Iterator[Finding]:
        """Yield a finding where the numbers of segments per class differ very much."""
        there = sorted((count, category_id) for category_id, count in self.segments.items() if count)
        if there and there[-1][0] > IMBALANCE * there[0][0]:
            rare = ", ".join(self._counted(row) for row in there[:3])
            yield self.finding("class imbalance", f"segments: {self._counted(there[-1])}, but {rare}")

    def finding(self, kind: str, message: str, image_id: ImageId | None = None) -> Finding:
        """Return a finding that concerns the split's JSON."""
        return Finding(kind, self.split, clean(str(self.json)), image_id, None, clean(message))

    def to_json(self) -> dict[str, Any]:
        """Return the counts as plain JSON values."""
        classes = [
            {
                "id": i,
                "name": name,
                "isthing": int(thing),
                "segments": self.segments[i],
                "pixels": self.areas[i],
            }
            for i, name, thing in zip(self.categories.ids, self.categories.names, self.categories.things, strict=True)
        ]
        return {
            "pictures": self.pictures,
            "segments": self.segments.total(),
            "crowds": self.crowds,
            "void_share": self.void / self.pixels if self.pixels else None,
            "classes": classes,
        }

    def _counted(self, row: tuple[int, int]) -> str:
        return f"{self.categories.names[self.categories.label_of[row[1]]]} {row[0]:,}"


def is_train(split: str) -> bool:
    """Whether a split is one to learn from, by its name."""
    return split.startswith("train")


def is_val(split: str) -> bool:
    """Whether a split is one to measure on while training, by its name."""
    return split.startswith("val")


def class_findings(tallies: Sequence[Tally]) -> Iterator[Finding]:
    """Yield what is odd about the classes: their names, and the numbers of segments of each."""
    everywhere, told, alike = Counter[int](), set[int](), set[tuple[str, ...]]()
    for tally in tallies:
        everywhere.update(tally.segments)
    for tally in tallies:
        yield from tally.alike(alike)
        yield from tally.lacking(everywhere, told)
        if not is_val(tally.split):
            yield from tally.imbalance()


def split_findings(tallies: Sequence[Tally]) -> Iterator[Finding]:
    """Yield what is odd about splits beside each other, given all that a data set has."""
    for first, other in combinations(tallies, 2):
        if shared := sorted(first.ids & other.ids, key=lambda i: (type(i) is str, i)):
            some = ", ".join(shown(image_id) for image_id in shared[:_NAMED])
            which = f"{some} and {len(shared) - _NAMED:,} more" if len(shared) > _NAMED else some
            count = f"{len(shared):,} id{'s' * (len(shared) > 1)}"
            yield other.finding("image id in two splits", f"shares {count} with {first.split}: {which}")
    for other in tallies[1:]:
        if message := _difference(tallies[0].categories, other.categories):
            yield other.finding("different categories", f"beside {clean(str(tallies[0].json))}: {message}")
    vals = [tally for tally in tallies if is_val(tally.split)]
    if not vals and any(is_train(tally.split) for tally in tallies):
        yield tallies[0].finding("no val split", f"splits: {', '.join(tally.split for tally in tallies)}")
    for tally in vals:
        if tally.pictures < FEW_VAL:
            yield tally.finding("tiny val split", f"{tally.pictures} picture{'s' * (tally.pictures != 1)}")


def _difference(first: Categories, other: Categories) -> str | None:
    """Say in what two lists of categories differ, None where they are the same."""
    if first == other:
        return None
    rows: list[Mapping[int, tuple[str, bool]]] = [
        dict(zip(c.ids, zip(c.names, c.things, strict=True), strict=True)) for c in (first, other)
    ]
    changed = [i for i in rows[0].keys() & rows[1].keys() if rows[0][i] != rows[1][i]]
    parts = []
    for what, ids in (
        ("lacks", rows[0].keys() - rows[1].keys()),
        ("adds", rows[1].keys() - rows[0].keys()),
        ("has otherwise", changed),
    ):
        if ids:
            parts.append(f"{what} the ids {', '.join(map(str, sorted(ids)[:5]))}" + ("..." if len(ids) > 5 else ""))
    return "; ".join(parts) or "the same classes in another order"
