"""What the writers of other formats have in common: a picture's work, what comes of it, and values for classes.

Letters: H W pixels of a picture.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from thingstuff.convert.class_names import IGNORED_NAMES
from thingstuff.convert.painting import areas_and_boxes
from thingstuff.convert.source import Region
from thingstuff.data.coco import CocoPanoptic, Record, SplitPaths
from thingstuff.errors import InputError
from thingstuff.panoptic import Categories, Segment

_SMALL_VOID, _LARGE_VOID = 255, 65535  # in semantic PNGs of 8 and of 16 bits


class Task(NamedTuple):
    """A picture to export; `marks` are further fields of its segments, by their id."""

    paths: SplitPaths
    record: Record
    marks: Mapping[int, Mapping[str, Any]] = {}


class Done(NamedTuple):
    """What became of a picture: entries for a JSON, and how many of what were written or left out, in words."""

    entries: Sequence[Mapping[str, Any]]
    counts: Mapping[str, int]


class Writer(Protocol):
    """Writes a data set in another format into a folder."""

    def tasks(self, data: CocoPanoptic) -> Sequence[Task]:
        """Return the pictures of a split."""
        ...

    def work(self, split: str) -> Callable[[Task], Done]:
        """Return what writes the files of one picture, in any process."""
        ...

    def write_split(self, split: str, data: CocoPanoptic, done: Iterable[Done]) -> None:
        """Write the files that a split's pictures share, as these come."""
        ...

    def write_classes(self, splits: Sequence[str]) -> None:
        """Write the files that all splits share."""
        ...


@dataclass(frozen=True)
class PictureWriter:
    """What writers have in common whose pictures share nothing within a split; `out` is the folder, `copy` no links."""

    out: Path
    categories: Categories
    copy: bool

    def tasks(self, data: CocoPanoptic) -> Sequence[Task]:
        """Return the pictures of a split, without further fields of their segments."""
        return [Task(data.paths, record) for record in data.records]

    def write_split(self, split: str, data: CocoPanoptic, done: Iterable[Done]) -> None:
        """Let the pictures be written."""
        for _ in done:
            continue


def read_regions(task: Task, categories: Categories) -> list[tuple[Segment, Region]]:
    """Read a picture's map; return its segments with their pixels. Raises `InputError` as `CocoPanoptic` does."""
    panoptic = CocoPanoptic(task.paths, categories, (task.record,)).panoptic(0)
    measured = areas_and_boxes(panoptic.ids, [segment.id for segment in panoptic.segments])
    return [
        (segment, Region(y, x, panoptic.ids[y : y + height, x : x + width] == segment.id))
        for segment, (_, (x, y, width, height)) in zip(panoptic.segments, measured, strict=True)
    ]


def key_of_record(record: Record) -> str:
    """Return a picture's name without its suffix, folders with forward slashes."""
    return PurePosixPath(record.file_name).with_suffix("").as_posix()


def class_values(categories: Categories) -> dict[int, int]:
    """Return the value of each category_id in semantic PNGs: the id where all fit, else its place, from 1."""
    if all(0 <= i < _LARGE_VOID for i in categories.ids):
        return {i: i for i in categories.ids}
    return {i: place for place, i in enumerate(categories.ids, 1)}


def void_value(categories: Categories, zero: bool) -> int:
    """Return the value of void: 255, or 65535 where that takes 16 bits; 0 where `zero` and no class has that."""
    values = class_values(categories).values()
    if zero and 0 not in values:
        return 0
    return _SMALL_VOID if max(values) < _SMALL_VOID else _LARGE_VOID


def write_class_values(path: Path, categories: Categories, labels: Iterable[int], void: int) -> None:
    """Write a line `7: road` for each label, as `read_class_names` reads it; one for void too where it is 65535."""
    values = class_values(categories)
    rows = sorted((values[categories.ids[i]], " ".join(categories.names[i].split())) for i in labels)
    if void == _LARGE_VOID:  # of 0 and 255 everybody takes it for granted
        rows.append((void, min(IGNORED_NAMES - {*categories.names})))
    path.write_text("".join(f"{value}: {name}\n" for value, name in rows), encoding="utf-8")


def write_semantic(
    path: Path, size: tuple[int, int], regions: Iterable[tuple[Segment, Region]], categories: Categories, void: int
) -> None:
    """Write a PNG with the value of the class of each pixel, `void` where there is none.

    8 bits with a palette of the classes' colours where the values fit, else 16-bit grey.
    """
    values = class_values(categories)
    small = max(values.values()) < _SMALL_VOID
    pixels = np.full(size, void, dtype=np.uint8 if small else np.uint16)
    for segment, region in regions:
        pixels[region.window][region.mask] = values[categories.ids[segment.label]]
    image = Image.fromarray(pixels)
    if small:
        image.putpalette(_palette(values, categories).ravel().tolist())
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def _palette(values: Mapping[int, int], categories: Categories) -> npt.NDArray[np.uint8]:
    palette = np.zeros((256, 3), dtype=np.uint8)
    for category_id, color in zip(categories.ids, categories.colors, strict=True):
        palette[values[category_id]] = color
    return palette


def check_names(data: CocoPanoptic) -> None:
    """Raise `InputError` where two pictures would get one name, or one lies outside of the folder of pictures."""
    seen: dict[str, str] = {}
    for record in data.records:
        name = PurePosixPath(record.file_name)
        if name.is_absolute() or ".." in name.parts or "\\" in record.file_name:
            raise InputError(
                f"{data.paths.json}: image {record.image_id}: file_name {record.file_name!r} leads out of the folder "
                "of pictures; put the picture there and correct the name"
            )
        key = key_of_record(record)
        if key in seen:
            raise InputError(
                f"{data.paths.json}: the pictures {seen[key]} and {record.file_name} would share their labels' file "
                f"({key}); rename one of them"
            )
        seen[key] = record.file_name
