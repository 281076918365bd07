"""One picture's way from foreign labels to a map, in any process: read, painted, measured, written."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from thingstuff.convert.ledger import Done, fingerprint, stamp
from thingstuff.convert.painting import Painted, PaintReport, PaintRules, areas_and_boxes, paint, with_background
from thingstuff.convert.picture_links import place_picture
from thingstuff.convert.source import SourceLabels, SourcePicture
from thingstuff.data.coco import FILLED
from thingstuff.errors import InputError
from thingstuff.io import check_picture_size, write_id_map
from thingstuff.panoptic import Categories


class Task(NamedTuple):
    """A picture to convert: its split, and the image id that it gets."""

    picture: SourcePicture
    split: str
    image_id: int | str


@dataclass(frozen=True)
class Work:
    """A picture's way from labels to a map, in any process; returns what is wrong in words where it cannot be done."""

    read: Callable[[SourcePicture], SourceLabels]
    rules: PaintRules
    drop_filled: bool

    def __call__(self, task: Task) -> "Drawn | str":
        picture = task.picture
        try:
            labels = self.read(picture)
            check_picture_size(picture.picture, labels.size)
            if self.drop_filled:
                kept = tuple(o for o in labels.objects if not o.marks.get(FILLED))
                labels = labels._replace(objects=kept)
            painted, report = paint(labels, self.rules)
        except InputError as error:
            text = str(error)
            named = any(str(path) in text for path in (picture.picture, *picture.labels))
            return text if named else f"{(picture.labels or (picture.picture,))[0]}: {picture.key}: {text}"
        return Drawn(task, painted, report, labels.notes)


class Drawn(NamedTuple):
    """A painted picture that is not yet written."""

    task: Task
    painted: Painted
    report: PaintReport
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Finish:
    """Writes a painted picture's files and returns its entry for the ledger."""

    out: Path
    copy: bool
    background: str | None
    categories: Categories

    def __call__(self, drawn: Drawn) -> Done:
        task, painted = drawn.task, drawn.painted
        if self.background is not None:
            painted = with_background(painted, self.background, self.categories)
        picture, map_name = _names(task)
        (self.out / map_name).parent.mkdir(parents=True, exist_ok=True)
        write_id_map(self.out / map_name, painted.ids)
        place_picture(task.picture.picture, self.out / picture, self.copy)
        measured = areas_and_boxes(painted.ids, [s.id for s in painted.segments])
        segments: list[dict[str, Any]] = []
        things = dict(zip(self.categories.names, self.categories.things, strict=True))
        for segment, (area, box) in zip(painted.segments, measured, strict=True):
            entry = {"id": segment.id, "category_id": segment.name, "area": area, "bbox": list(box)}
            kind = {"iscrowd": int(segment.iscrowd), "isthing": int(things[segment.name])}
            segments.append({**segment.marks, **entry, **kind})
        height, width = painted.ids.shape
        image = {**task.picture.extra, "id": task.image_id, "file_name": _inner(picture)}
        return Done(
            task.picture.key,
            fingerprint(task.picture),
            task.split,
            picture,
            map_name,
            stamp(self.out / map_name),
            {**image, "width": width, "height": height},
            segments,
            {
                "overlaps": [[*pair, n] for pair, n in drawn.report.overlaps.items()],
                "dropped": [[*what, n] for what, n in drawn.report.dropped.items()],
                "notes": list(drawn.notes),
                "void": int(np.count_nonzero(painted.ids == 0)),
            },
        )


@dataclass(frozen=True)
class WorkAndFinish:
    """Both in one process, where nothing has to happen between."""

    work: Work
    finish: Finish

    def __call__(self, task: Task) -> Done | str:
        drawn = self.work(task)
        return drawn if isinstance(drawn, str) else self.finish(drawn)


@dataclass(frozen=True)
class Trial:
    """Says what is wrong with a picture, and writes nothing."""

    work: Work

    def __call__(self, task: Task) -> str | None:
        drawn = self.work(task)
        return drawn if isinstance(drawn, str) else None


def name_in_split(picture: SourcePicture, split: str) -> str:
    """Return a picture's name in the folder of its split, without its suffix."""
    # a source whose splits share names has the split in its keys, and the folder says it already
    return picture.key.removeprefix(f"{split}/") if split == picture.split else picture.key


def _names(task: Task) -> tuple[str, str]:
    """Return where a picture and its map go, as paths in the data set's folder."""
    name, suffix = name_in_split(task.picture, task.split), task.picture.picture.suffix
    return f"{task.split}/{name}{suffix}", f"panoptic_{task.split}/{name}.png"


def _inner(name: str) -> str:
    """Return a path in a split's folder."""
    return name.partition("/")[2]
