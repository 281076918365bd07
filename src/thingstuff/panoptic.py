"""What every part of the package speaks of: categories, segments, and a picture's panoptic map (no torch here)."""

import colorsys
import importlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from thingstuff.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

VOID = -1
"""The label of what belongs to no category: it competes for pixels and is then dropped."""

Color = tuple[int, int, int]


def default_colors(count: int) -> tuple[Color, ...]:
    """Return `count` RGB colours that stay apart from their neighbours in the list (golden-angle hues)."""
    colors = []
    for i in range(count):
        value, saturation = (0.95, 0.72, 0.85)[i % 3], (0.65, 0.85, 0.5)[(i // 3) % 3]
        r, g, b = colorsys.hsv_to_rgb((0.02 + i * 0.61803398875) % 1.0, saturation, value)
        colors.append((round(r * 255), round(g * 255), round(b * 255)))
    return tuple(colors)


@dataclass(frozen=True)
class Categories:
    """The classes of a data set or model: position in these tuples is the *label*, `ids` holds the *category_id*.

    Things and stuff may stand in any order, ids may have gaps. A value: saved in every checkpoint.
    Raises `InputError` where ids or names repeat or the tuples differ in length.
    """

    names: tuple[str, ...]
    things: tuple[bool, ...]
    ids: tuple[int, ...]
    colors: tuple[Color, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        if not self.colors:
            object.__setattr__(self, "colors", default_colors(len(self.names)))
        if not len(self.names) == len(self.things) == len(self.ids) == len(self.colors):
            raise InputError("categories: names, things, ids and colors must have the same length")
        for what, values in (("id", self.ids), ("name", self.names)):
            double = sorted({str(v) for v in values if list(values).count(v) > 1})
            if double:
                raise InputError(f"categories: {what} {', '.join(double)} stands more than once; give each its own")

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def label_of(self) -> Mapping[int, int]:
        """category_id -> label."""
        return {category_id: label for label, category_id in enumerate(self.ids)}

    @cached_property
    def thing_labels(self) -> tuple[int, ...]:
        """Labels of the things, ascending."""
        return tuple(label for label, thing in enumerate(self.things) if thing)

    @cached_property
    def stuff_labels(self) -> tuple[int, ...]:
        """Labels of the stuff, ascending."""
        return tuple(label for label, thing in enumerate(self.things) if not thing)

    @classmethod
    def from_coco(cls, entries: Iterable[Mapping[str, Any]], where: str = "categories") -> "Categories":
        """Read COCO panoptic's `categories` list (id, name, isthing, colour optional), kept in its order.

        `where` names the file in errors. Raises `InputError` on a missing or wrong field.
        """
        names, things, ids, colors = [], [], [], []
        entries = list(entries)
        spare = default_colors(len(entries))
        for position, entry in enumerate(entries):
            at = f"{where}: categories[{position}]"
            if not isinstance(entry, Mapping):
                raise InputError(f"{at} is no object with id, name and isthing")
            for key, kinds in (("id", int), ("name", str), ("isthing", (bool, int))):
                if key not in entry:
                    raise InputError(f"{at} has no '{key}'; COCO panoptic categories need id, name and isthing")
                if not isinstance(entry[key], kinds) or (key == "id" and isinstance(entry[key], bool)):
                    raise InputError(
                        f"{at}: {key} {entry[key]!r} is not a {'text' if key == 'name' else 'whole number'}"
                    )
            color = entry.get("color", spare[position])
            if not (
                isinstance(color, Sequence) and len(color) == 3 and all(type(c) is int and 0 <= c <= 255 for c in color)
            ):
                raise InputError(f"{at}: color {color!r} is not three numbers from 0 to 255")
            names.append(entry["name"])
            things.append(bool(entry["isthing"]))
            ids.append(entry["id"])
            colors.append((int(color[0]), int(color[1]), int(color[2])))
        try:
            return cls(tuple(names), tuple(things), tuple(ids), tuple(colors))
        except InputError as error:
            raise InputError(f"{where}: {error}") from None

    def to_coco(self) -> list[dict[str, Any]]:
        """Return COCO panoptic's `categories` list."""
        rows = zip(self.ids, self.names, self.things, self.colors, strict=True)
        return [{"id": i, "name": n, "isthing": int(t), "color": list(c)} for i, n, t, c in rows]


@dataclass(frozen=True)
class Segment:
    """One segment of a panoptic map.

    `id` is its value in the map (> 0), `label` its position in `Categories`, `area` its pixels in the map; `score` is a
    model's confidence (None in ground truth) and `source` the row of the model's `Segments` it came from.
    """

    id: int
    label: int
    area: int
    score: float | None = None
    iscrowd: bool = False
    source: int | None = None


@dataclass(frozen=True, eq=False)
class Panoptic:
    """A picture's panoptic map, ground truth or prediction: `ids` [H, W] int32 (0 is void) and its segments."""

    ids: npt.NDArray[np.int32]
    segments: tuple[Segment, ...]
    categories: Categories = field(repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", np.ascontiguousarray(self.ids, dtype=np.int32))

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.ids.shape[0], self.ids.shape[1]

    def name(self, segment: Segment) -> str:
        """Return the category name of one of the segments."""
        return self.categories.names[segment.label]

    def mask(self, segment: Segment) -> npt.NDArray[np.bool_]:
        """Return the pixels [H, W] of one of the segments."""
        mask: npt.NDArray[np.bool_] = self.ids == segment.id
        return mask

    def semantic(self) -> npt.NDArray[np.int32]:
        """Return the label of each pixel [H, W], `VOID` (-1) where there is none."""
        ids = np.array([0, *(s.id for s in self.segments)])
        labels = np.array([VOID, *(s.label for s in self.segments)], dtype=np.int32)
        order = np.argsort(ids)
        position = np.searchsorted(ids[order], self.ids).clip(max=len(ids) - 1)
        known = ids[order][position] == self.ids
        result: npt.NDArray[np.int32] = np.where(known, labels[order][position], np.int32(VOID)).astype(np.int32)
        return result

    def to_coco(self, file_name: str, image_id: int | str) -> dict[str, Any]:
        """Return the picture's entry in COCO panoptic's `annotations`; boxes are [x, y, width, height]."""
        boxes = segment_boxes(self.ids, [s.id for s in self.segments])
        infos = []
        for s, box in zip(self.segments, boxes, strict=True):
            info = {
                "id": s.id,
                "category_id": self.categories.ids[s.label],
                "area": s.area,
                "bbox": list(box),
                "iscrowd": int(s.iscrowd),
                "isthing": self.categories.things[s.label],
            }
            infos.append(info if s.score is None else {**info, "score": round(s.score, 6)})
        return {"image_id": image_id, "file_name": file_name, "segments_info": infos}

    def draw(
        self,
        picture: "str | Path | Image.Image | npt.NDArray[np.uint8] | None" = None,
        *,
        alpha: float = 0.55,
        legend: bool = False,
        labels: bool = True,
        borders: bool = True,
    ) -> "Image.Image":
        """Draw the map over its picture (or alone): a colour per class, a shade per instance, borders and names.

        `alpha` is how much of the colours covers the picture, 0 to 1; a `legend` goes below. Void is hatched. Lettering
        is ASCII: accents are left out, and names in other scripts are told by their category id (class 7). Raises
        `InputError` where the picture's size is not the map's, or alpha is out of range.
        """
        from thingstuff.drawing import overlay

        return overlay(self, picture, alpha, legend=legend, labels=labels, borders=borders)

    def to_supervision(self, *, things_only: bool = False) -> Any:
        """Return the segments as `supervision.Detections`, for that package's annotators, trackers and zones.

        `xyxy` [N, 4] in pixels, right and lower end excluded; `mask` [N, H, W] bool; `class_id` [N] the label, which
        counts from 0 as `categories.names` does; `confidence` [N] where every segment has a score, else None; `data`
        holds class_name, category_id, segment_id, is_thing and is_crowd. A segment without a pixel is left out. Raises
        `InputError` where the package supervision (pip install supervision) is missing.
        """
        try:
            supervision = importlib.import_module("supervision")
        except ImportError as error:
            raise InputError(f"to_supervision needs a package ({error}); pip install supervision") from None
        return supervision.Detections(**_detections(self, things_only))

    def save(self, folder: "str | Path", stem: str = "picture", overwrite: bool = False) -> Path:
        """Write `folder`/panoptic/`stem`.png and `folder`/panoptic.json (COCO panoptic) and return the JSON's path.

        Raises `InputError` where the folder already holds one, unless `overwrite`.
        """
        from thingstuff.coco_writing import write_coco_panoptic

        return write_coco_panoptic(folder, {stem: self}, overwrite=overwrite)


def _detections(panoptic: Panoptic, things_only: bool) -> dict[str, Any]:
    """Return what `supervision.Detections` is built of; see `Panoptic.to_supervision`."""
    categories, (height, width) = panoptic.categories, panoptic.size
    boxes = segment_boxes(panoptic.ids, [s.id for s in panoptic.segments])
    kept = [
        (segment, box)
        for segment, box in zip(panoptic.segments, boxes, strict=True)
        if box[2] and (categories.things[segment.label] or not things_only)
    ]
    masks = np.zeros((len(kept), height, width), dtype=np.bool_)
    for mask, (segment, _) in zip(masks, kept, strict=True):
        np.equal(panoptic.ids, segment.id, out=mask)
    scores = [s.score for s, _ in kept if s.score is not None]
    return {
        "xyxy": np.array([(x, y, x + w, y + h) for _, (x, y, w, h) in kept], dtype=np.float32).reshape(-1, 4),
        "mask": masks,
        "confidence": np.array(scores, dtype=np.float32) if len(scores) == len(kept) else None,
        "class_id": np.array([s.label for s, _ in kept], dtype=np.int64),
        "data": {
            "class_name": np.array([panoptic.name(s) for s, _ in kept], dtype=np.str_),
            "category_id": np.array([categories.ids[s.label] for s, _ in kept], dtype=np.int64),
            "segment_id": np.array([s.id for s, _ in kept], dtype=np.int64),
            "is_thing": np.array([categories.things[s.label] for s, _ in kept], dtype=np.bool_),
            "is_crowd": np.array([s.iscrowd for s, _ in kept], dtype=np.bool_),
        },
    }


def segment_boxes(ids: npt.NDArray[np.int32], wanted: Sequence[int]) -> list[tuple[int, int, int, int]]:
    """Return the [x, y, width, height] of each wanted id of a map [H, W]; all zeros for one that has no pixel."""
    boxes = []
    for value in wanted:
        mask = ids == value
        columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
        if not len(rows):
            boxes.append((0, 0, 0, 0))
            continue
        x, y = int(columns[0]), int(rows[0])
        boxes.append((x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1))
    return boxes
