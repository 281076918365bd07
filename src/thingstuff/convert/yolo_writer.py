"""YOLO segmentation: a text file of outlines for each picture, in shares of its width and height."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from thingstuff.convert.export_target import Done, PictureWriter, Task, key_of_record, read_regions
from thingstuff.convert.outlines import bridged, outlines
from thingstuff.convert.picture_links import place_picture
from thingstuff.convert.source import Region, Size
from thingstuff.panoptic import Categories

_PLACES = {"train": "train", "val": "val", "valid": "val", "test": "test"}
"""What a split's name begins with -> what Ultralytics calls it."""


@dataclass(frozen=True)
class YoloWriter(PictureWriter):
    """Writes `data.yaml`, pictures in `images/{split}/` and outlines of the things in `labels/{split}/`.

    Outlines run along the borders of pixels, so that who fills them by COCO's rule gets the very pixels back. The
    format has one outline for an object and none for holes: pieces and holes are joined by bridges of no width. (What
    fills outlines as OpenCV's fillPoly does, such as Ultralytics' training, adds their right and lower borders and the
    bridges, whoever wrote them.) Crowds and stuff are left out. Classes are numbered in the order of the things in the
    list of categories.
    """

    def work(self, split: str) -> Callable[[Task], Done]:
        """Return what places one picture and writes its outlines."""
        return _OutlinesOfPicture(self.out, split, self.categories, self.copy)

    def write_classes(self, splits: Sequence[str]) -> None:
        """Write `data.yaml`; without a path in it, what it names lies in its own folder."""
        names = {number: self.categories.names[label] for number, label in enumerate(self.categories.thing_labels)}
        content = {**{key: f"images/{split}" for key, split in split_keys(splits).items()}, "names": names}
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
        (self.out / "data.yaml").write_text(text, encoding="utf-8")


def split_keys(splits: Sequence[str]) -> dict[str, str]:
    """Return the splits by the keys of `data.yaml`: train, val and test where that says which is which, else as named.

    COCO's `train2017` becomes `train`.
    """
    keys = [next((key for begin, key in _PLACES.items() if split.startswith(begin)), split) for split in splits]
    return dict(zip(keys if len({*keys}) == len(keys) else splits, splits, strict=True))


@dataclass(frozen=True)
class _OutlinesOfPicture:
    out: Path
    split: str
    categories: Categories
    copy: bool

    def __call__(self, task: Task) -> Done:
        record, categories = task.record, self.categories
        found = read_regions(task, categories)
        things = [(segment, region) for segment, region in found if categories.things[segment.label]]
        number_of = {label: number for number, label in enumerate(categories.thing_labels)}
        lines, joined = [], 0
        for segment, region in things:
            if not segment.iscrowd:
                line, rings = outline_text(region, (record.height, record.width))
                lines.append(f"{number_of[segment.label]} {line}\n")
                joined += rings > 1
        place_picture(record.picture, self.out / "images" / self.split / record.file_name, self.copy)
        path = self.out / "labels" / self.split / f"{key_of_record(record)}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(lines), encoding="utf-8")
        return Done(
            (),
            {
                "objects": len(lines),
                "of these of several pieces or with holes, joined by bridges": joined,
                "crowds left out": len(things) - len(lines),
                "segments of stuff left out": len(found) - len(things),
            },
        )


def outline_text(region: Region, size: Size) -> tuple[str, int]:
    """Return a region's outline as shares of a picture's width and height, and how many outlines it was joined of."""
    rings = outlines(region.mask)
    corners = (bridged(rings) + np.array([region.left, region.top])) / np.array([size[1], size[0]])
    shares = (f"{share:.6f}".rstrip("0").rstrip(".") for share in corners.ravel().tolist())
    return " ".join(shares), len(rings)
