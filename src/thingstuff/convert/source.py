"""What a reader of foreign labels gives: the classes, the pictures, and of each picture the objects drawn on it.

Letters: H W pixels of a picture, h w those of a region in it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool

from thingstuff.errors import InputError
from thingstuff.panoptic import Color

Size = tuple[int, int]
"""(height, width) in pixels."""

BOX_ALONE = "bounding box alone, which is no mask"
"""What readers note of a box, whatever the tool."""


class SourceClass(NamedTuple):
    """A class as the source has it: its category_id, kind and colour are None where the format does not say."""

    name: str
    id: int | None = None
    isthing: bool | None = None
    color: Color | None = None


class SourcePicture(NamedTuple):
    """A picture and where its labels are, found without reading them.

    `key` is the picture's path in the source with forward slashes, its suffix left out: one picture's alone. `labels`
    are the files that hold this picture's labels and no other's; `payload` is whatever else the reader needs, as plain
    values whose `repr` changes when the labels do. `extra` are further fields for COCO's entry in `images`.
    """

    key: str
    picture: Path
    labels: tuple[Path, ...] = ()
    split: str | None = None
    image_id: int | str | None = None
    payload: Any = None
    extra: Mapping[str, Any] = {}


@dataclass(frozen=True, eq=False)
class Region:
    """Some pixels of a picture: `mask` [h, w], whose upper left corner lies at (`top`, `left`)."""

    top: int
    left: int
    mask: Bool[np.ndarray, "h w"]

    @property
    def area(self) -> int:
        """Pixels."""
        return int(np.count_nonzero(self.mask))

    @property
    def window(self) -> tuple[slice, slice]:
        """Where the region lies, as an index of the picture."""
        height, width = self.mask.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)

    def paint(self, onto: npt.NDArray[np.bool_]) -> None:
        """Set the region's pixels in a mask of the whole picture [H, W]."""
        onto[self.window] |= self.mask

    @classmethod
    def of(cls, mask: npt.NDArray[np.bool_]) -> "Region":
        """Return the region of the pixels that are true in a mask of the whole picture [H, W]; it may be empty."""
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if not len(rows):
            return cls(0, 0, np.zeros((0, 0), dtype=np.bool_))
        top, left = int(rows[0]), int(columns[0])
        inside = mask[top : int(rows[-1]) + 1, left : int(columns[-1]) + 1]
        return cls(top, left, np.ascontiguousarray(inside, dtype=np.bool_))


class SourceObject(NamedTuple):
    """One object (all its pieces) or one region of stuff; `name` is that of a `SourceClass`.

    `segment_id` is the id to keep in the map, where the source has one that a map can hold. Objects of a lower `layer`
    lie below all of a higher one, whatever the rule for overlaps. `marks` are further fields for its `segments_info`.
    """

    name: str
    region: Region
    iscrowd: bool = False
    segment_id: int | None = None
    layer: int = 0
    marks: Mapping[str, Any] = {}


class SourceLabels(NamedTuple):
    """A picture's labels: objects in the order they were drawn, the last on top where the tool does so.

    `ignored` pixels are void even where others become background, unless an object covers them. `notes` say what was
    left out, in words that are the same for every case of a kind, so that they can be counted.
    """

    size: Size
    objects: tuple[SourceObject, ...]
    ignored: tuple[Region, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """Foreign labels, opened: nothing but names and paths is read yet.

    `reason` says why this was taken for the format. `read` gives a picture's labels, in any process (a function of a
    module, or a frozen dataclass with `__call__`), and raises `InputError` that names file, field and remedy. `header`
    is what COCO's JSON carries beside its lists (info, licenses). `notes` say what was left aside in words. `path` is
    what was opened (`formats.open_source` fills it in).
    """

    format: str
    reason: str
    classes: tuple[SourceClass, ...]
    pictures: tuple[SourcePicture, ...]
    read: Callable[[SourcePicture], SourceLabels]
    header: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    path: Path | None = None


@dataclass(frozen=True)
class SourceOptions:
    """What a person says of the source beyond its path; a reader refuses what it cannot use (see `refuse_unused`)."""

    pictures: Path | None = None
    """Folder of the pictures, where they do not lie where the format has them (`--pictures`)."""
    semantic: Path | None = None
    """Folder of semantic PNGs that give the stuff below the instances (`--semantic`)."""
    names: Path | None = None
    """File of class names: a line each, or YAML (`--names`)."""
    components: bool = False
    """Whether instances of thing classes are the connected components of their pixels (`--components`)."""
    things: tuple[str, ...] = ()
    """Names of the classes that the person calls things: what `components` are looked for in."""

    def refuse_unused(self, format: str, *used: str) -> None:
        """Raise `InputError` where something is given that a format cannot use; `used` are the fields it does use."""
        for name in ("pictures", "semantic", "names", "components"):
            if getattr(self, name) and name not in used:
                raise InputError(f"--{name} says nothing of {format} labels; leave it out")
