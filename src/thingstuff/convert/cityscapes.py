"""Cityscapes: leftImg8bit/{split}/{city}/ and gtFine/{split}/{city}/*_gtFine_instanceIds.png.

Cordts et al., The Cityscapes Dataset for Semantic Urban Scene Understanding (CVPR 2016), and its published table of
labels. Letters: H W pixels of a picture.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from thingstuff.convert.label_maps import read_label_map, refuse_missing
from thingstuff.convert.picture_files import keys_apart
from thingstuff.convert.shapes import distinct, regions_of_numbers
from thingstuff.convert.source import (
    Region,
    Source,
    SourceClass,
    SourceLabels,
    SourceObject,
    SourceOptions,
    SourcePicture,
)
from thingstuff.errors import InputError
from thingstuff.panoptic import Color

PICTURES, LABELS = "leftImg8bit", "gtFine"


class CityLabel(NamedTuple):
    """A row of Cityscapes' table; what is not evaluated is ignored."""

    name: str
    id: int
    isthing: bool
    evaluated: bool
    color: Color


def _label(number: int, name: str, color: Color, isthing: bool = False, evaluated: bool = True) -> CityLabel:
    return CityLabel(name, number, isthing, evaluated, color)


CITY_LABELS = (
    _label(0, "unlabeled", (0, 0, 0), evaluated=False),
    _label(1, "ego vehicle", (0, 0, 0), evaluated=False),
    _label(2, "rectification border", (0, 0, 0), evaluated=False),
    _label(3, "out of roi", (0, 0, 0), evaluated=False),
    _label(4, "static", (0, 0, 0), evaluated=False),
    _label(5, "dynamic", (111, 74, 0), evaluated=False),
    _label(6, "ground", (81, 0, 81), evaluated=False),
    _label(7, "road", (128, 64, 128)),
    _label(8, "sidewalk", (244, 35, 232)),
    _label(9, "parking", (250, 170, 160), evaluated=False),
    _label(10, "rail track", (230, 150, 140), evaluated=False),
    _label(11, "building", (70, 70, 70)),
    _label(12, "wall", (102, 102, 156)),
    _label(13, "fence", (190, 153, 153)),
    _label(14, "guard rail", (180, 165, 180), evaluated=False),
    _label(15, "bridge", (150, 100, 100), evaluated=False),
    _label(16, "tunnel", (150, 120, 90), evaluated=False),
    _label(17, "pole", (153, 153, 153)),
    _label(18, "polegroup", (153, 153, 153), evaluated=False),
    _label(19, "traffic light", (250, 170, 30)),
    _label(20, "traffic sign", (220, 220, 0)),
    _label(21, "vegetation", (107, 142, 35)),
    _label(22, "terrain", (152, 251, 152)),
    _label(23, "sky", (70, 130, 180)),
    _label(24, "person", (220, 20, 60), isthing=True),
    _label(25, "rider", (255, 0, 0), isthing=True),
    _label(26, "car", (0, 0, 142), isthing=True),
    _label(27, "truck", (0, 0, 70), isthing=True),
    _label(28, "bus", (0, 60, 100), isthing=True),
    _label(29, "caravan", (0, 0, 90), isthing=True, evaluated=False),
    _label(30, "trailer", (0, 0, 110), isthing=True, evaluated=False),
    _label(31, "train", (0, 80, 100), isthing=True),
    _label(32, "motorcycle", (0, 0, 230), isthing=True),
    _label(33, "bicycle", (119, 11, 32), isthing=True),
)
"""Cityscapes' 34 labels by id."""

_PICTURE_END = "_leftImg8bit.png"
_MAP_END = "_gtFine_instanceIds.png"
_PER_CLASS = 1000  # an instance's value is 1000 times its label's id, plus its number


def recognise(path: Path) -> str | None:
    """Say why a path holds Cityscapes."""
    if not ((path / LABELS).is_dir() and (path / PICTURES).is_dir()):
        return None
    return f"{PICTURES} and {LABELS} lie side by side"


def open_source(path: Path, reason: str, options: SourceOptions) -> Source:
    """Open Cityscapes' fine labels, every split; the 19 classes that are evaluated keep their id.

    Pictures without labels, such as those of a test split, are left out and told of. Raises `InputError` where folders,
    instance maps or pictures are missing.
    """
    options.refuse_unused("Cityscapes", "pictures")
    labels, folder = path / LABELS, options.pictures or path / PICTURES
    for what, needed in (("labels", labels), ("pictures", folder)):
        if not needed.is_dir():
            raise InputError(f"the folder of {what} {needed} is not there; unpack {PICTURES} and {LABELS} side by side")
    maps = _found(labels, _MAP_END)
    pictures = _found(folder, _PICTURE_END)
    if not maps:
        raise InputError(
            f"{labels} holds no {{split}}/{{city}}/*{_MAP_END}; maps of label ids alone tell no instances apart: "
            "convert them with --from semantic"
        )
    lacking = ["/".join(place) for place in maps if place not in pictures]
    refuse_missing(
        lacking, f"picture *{_PICTURE_END}", folder, "put the pictures there, or name their folder (--pictures)"
    )
    found = [_picture(place, pictures[place], maps[place]) for place in sorted(maps)]
    classes = tuple(SourceClass(c.name, c.id, c.isthing, c.color) for c in CITY_LABELS if c.evaluated)
    without = len(pictures.keys() - maps.keys())
    notes = (f"{without} pictures have no *{_MAP_END} and are left out",) if without else ()
    apart = keys_apart(found, [folder.name for folder in labels.iterdir() if folder.is_dir()])
    return Source("cityscapes", reason, classes, apart, read, notes=notes)


def read(picture: SourcePicture) -> SourceLabels:
    """Read the map of instances: 1000 times the label's id plus a number, or the id alone for stuff and for groups.

    A value in the map is the segment's id, as in Cityscapes' own conversion. Raises `InputError` for values that stand
    for no label.
    """
    path = picture.labels[0]
    found = read_label_map(path)
    if found.rgb:
        raise InputError(f"{path} is an RGB picture; the map of instances is grey with 16 bits: unpack {LABELS} anew")
    values, places = distinct(found.values)
    labels = [_label_of(value) for value in values.tolist()]
    strange = [str(value) for value, label in zip(values.tolist(), labels, strict=True) if label is None]
    if strange:
        raise InputError(f"{path} holds the values {', '.join(strange[:5])}, which no label has; unpack {LABELS} anew")
    table = np.zeros(len(values), dtype=np.int32)
    kept = [row for row, label in enumerate(labels) if label is not None and label.evaluated]
    table[kept] = np.arange(1, len(kept) + 1)
    regions = regions_of_numbers(table[places])
    objects = tuple(_object(int(values[row]), regions[number]) for number, row in enumerate(kept, 1))
    ignored = Region.of((table == 0)[places])
    return SourceLabels((places.shape[0], places.shape[1]), objects, (ignored,) if ignored.mask.size else ())


def _object(value: int, region: Region) -> SourceObject:
    label = CITY_LABELS[value // _PER_CLASS or value]
    group = label.isthing and value < _PER_CLASS
    return SourceObject(label.name, region, iscrowd=group, segment_id=value)


def _label_of(value: int) -> CityLabel | None:
    """Return a value's label, None where none has it."""
    number = value // _PER_CLASS if value >= _PER_CLASS else value
    return CITY_LABELS[number] if 0 <= number < len(CITY_LABELS) else None


def _found(folder: Path, end: str) -> dict[tuple[str, ...], Path]:
    """Return files {split}/{city}/{name}{end} by split, city and name."""
    paths: Iterable[Path] = sorted(folder.glob(f"*/*/*{end}"))
    return {(*path.relative_to(folder).parts[:-1], path.name.removesuffix(end)): path for path in paths}


def _picture(place: tuple[str, ...], picture: Path, map_path: Path) -> SourcePicture:
    split, city, name = place
    return SourcePicture(f"{city}/{name}", picture, (map_path,), split, image_id=name)
