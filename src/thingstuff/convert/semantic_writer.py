"""Semantic PNGs: the class of each pixel, without telling instances apart."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from thingstuff.convert.export_target import (
    Done,
    PictureWriter,
    Task,
    key_of_record,
    read_regions,
    void_value,
    write_class_values,
    write_semantic,
)
from thingstuff.convert.picture_links import place_picture
from thingstuff.panoptic import Categories


@dataclass(frozen=True)
class SemanticWriter(PictureWriter):
    """Writes pictures in `images/{split}/`, their classes in `masks/{split}/` and the values' names in `classes.txt`.

    A pixel's value is its class's category_id; void is 255. Where an id exceeds 254 the PNGs have 16 bits and void is
    65535.
    """

    def work(self, split: str) -> Callable[[Task], Done]:
        """Return what places one picture and writes its classes."""
        return _ClassesOfPicture(self.out, split, self.categories, self.copy)

    def write_classes(self, splits: Sequence[str]) -> None:
        """Write which class a value is."""
        every = range(len(self.categories))
        write_class_values(self.out / "classes.txt", self.categories, every, void_value(self.categories, zero=False))


@dataclass(frozen=True)
class _ClassesOfPicture:
    out: Path
    split: str
    categories: Categories
    copy: bool

    def __call__(self, task: Task) -> Done:
        record = task.record
        regions = read_regions(task, self.categories)
        place_picture(record.picture, self.out / "images" / self.split / record.file_name, self.copy)
        path = self.out / "masks" / self.split / f"{key_of_record(record)}.png"
        size = record.height, record.width
        write_semantic(path, size, regions, self.categories, void_value(self.categories, zero=False))
        things = sum(self.categories.things[segment.label] for segment, _ in regions)
        return Done(
            (),
            {
                "segments of stuff": len(regions) - things,
                "objects and crowds, no longer told apart": things,
            },
        )
