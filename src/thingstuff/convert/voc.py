"""VOC's pairs of PNGs: SegmentationClass holds a class for each pixel, SegmentationObject an object.

LabelMe's and CVAT's ("Segmentation mask 1.1") exports have the same folders. Everingham and Winn, The PASCAL Visual
Object Classes Challenge 2012 Development Kit. Letters: H W pixels of a picture.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, Integer

from thingstuff.convert.class_names import (
    IGNORED_NAMES,
    UNLABELLED_NAMES,
    Legend,
    NamedClass,
    legend_of,
    read_class_names,
    voc_color,
)
from thingstuff.convert.label_maps import class_values, color_code, read_label_map, refuse_missing, split_name
from thingstuff.convert.picture_files import by_key, find_pictures
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

VOC_NAMES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
"""VOC's classes by their value in the maps."""

CLASSES, OBJECTS = "SegmentationClass", "SegmentationObject"
NAME_FILES = ("labelmap.txt", "class_names.txt", "classes.txt", "labels.txt", "class_dict.csv")
"""Files of class names that tools put beside the maps."""

_PALETTE = {voc_color(index): index for index in range(256)}
_STRAY = 0.05  # share of an object's pixels: what two polygons' borders make, and no object of another class
_NO_OBJECT = "pixels of a class without an object became void"
_STRAYS = "stray pixels of another class in an object were given to its class"
_SPLIT = "an object's number that stands for several classes was taken for an object of each"


def recognise(path: Path) -> str | None:
    """Say why a path holds VOC pairs."""
    if not (_folder(path, CLASSES).is_dir() and _folder(path, OBJECTS).is_dir()):
        return None
    return f"{CLASSES} and {OBJECTS} lie side by side"


def open_source(path: Path, reason: str, options: SourceOptions) -> Source:
    """Open VOC pairs: pictures from JPEGImages, splits from ImageSets/Segmentation.

    Names come from `options.names`, else from labelmap.txt or class_names.txt in the folder, else they are VOC's own.
    Class 0 is unlabelled, 255 void. Raises `InputError` where folders, pictures or one map of a pair are missing.
    """
    options.refuse_unused("VOC", "pictures", "names")
    maps, objects = (_maps(path, name) for name in (CLASSES, OBJECTS))
    remedy = "export both maps, or convert the classes alone (--from semantic)"
    refuse_missing([key for key in maps if key not in objects], f"map in {OBJECTS}", path, remedy)
    pictures = find_voc_pictures(path, options)
    refuse_missing(
        [key for key in maps if key not in pictures], "picture", path, "give the folder of the pictures (--pictures)"
    )
    named, told = _names(path, options)
    legend = legend_of(named)
    splits, notes = image_sets(path, maps)
    payload = legend.digest()
    found = tuple(
        SourcePicture(key, pictures[key], (maps[key], objects[key]), splits.get(key), payload=payload) for key in maps
    )
    without = len(pictures) - len(maps)
    left = (f"{without} pictures have no map in {CLASSES} and are left out",) if without else ()
    isthing = True if told else None
    return Source("voc", reason, source_classes(named, isthing), found, _Read(legend), notes=(*told, *notes, *left))


def find_voc_pictures(path: Path, options: SourceOptions) -> dict[str, Path]:
    """Return the pictures of VOC's folders by key; raises `InputError` where their folder is not there."""
    folder = options.pictures or path / "JPEGImages"
    if not folder.is_dir():
        raise InputError(f"the folder of pictures {folder} is not there; name it (--pictures)")
    return by_key(find_pictures(folder), folder)


def image_sets(path: Path, maps: Mapping[str, Path]) -> tuple[dict[str, str | None], tuple[str, ...]]:
    """Return the split of each picture listed in ImageSets/Segmentation, and notes on who is only there or not there.

    trainval.txt counts where neither train.txt nor val.txt is there; default.txt (CVAT) names no split. Raises
    `InputError` for a picture in two lists.
    """
    lists = {file.stem: file for file in sorted((path / "ImageSets" / "Segmentation").glob("*.txt"))}
    if {"train", "val"} & {*lists}:
        lists.pop("trainval", None)
    splits: dict[str, str | None] = {}
    lists_of: dict[str, Path] = {}
    for stem, file in lists.items():
        for key in (line.strip().strip('"') for line in _lines(file)):
            twin = lists_of.setdefault(key, file) if key else file
            if twin != file:
                raise InputError(f"{key} is listed in {twin} and in {file.name}; remove it from one of them")
            splits[key] = None if stem == "default" else split_name(stem)
    lacking = [key for key in splits if key and key not in maps]
    notes = []
    if lacking:
        notes.append(f"{len(lacking)} pictures listed in ImageSets have no map in {CLASSES}, such as {lacking[:1]}")
    unlisted = [key for key in maps if key not in splits]
    if unlisted and any(splits.values()):
        notes.append(
            f"{len(unlisted)} pictures, such as {unlisted[0]}, are in no list of ImageSets/Segmentation: where nothing "
            "else says their split they go to train"
        )
    return splits, tuple(notes)


def source_classes(named: tuple[NamedClass, ...], isthing: bool | None) -> tuple[SourceClass, ...]:
    """Return the classes among named values; their value is the id, unless colours alone tell them apart."""
    legend = legend_of(named)
    by_color = bool(legend.colors) and 0 in legend.names
    return tuple(
        SourceClass(entry.name, None if by_color else entry.index, isthing, entry.color)
        for entry in named
        if entry.index in legend.names
    )


@dataclass(frozen=True)
class _Read:
    """Reads one pair."""

    legend: Legend

    def __call__(self, picture: SourcePicture) -> SourceLabels:
        class_path, object_path = picture.labels
        classes = class_values(class_path, self.legend.colors, _PALETTE)
        objects, numbered = _object_ids(object_path)
        if classes.shape != objects.shape:
            sizes = " and ".join(f"{shape[1]} x {shape[0]}" for shape in (classes.shape, objects.shape))
            raise InputError(f"{class_path} and {object_path} differ in size ({sizes}); export both anew")
        values, class_places = distinct(classes)
        ids, object_places = distinct(objects)
        self.legend.refuse_unnamed(values.tolist(), class_path)
        pairs = class_places * len(ids) + object_places
        areas = np.bincount(pairs.ravel(), minlength=len(values) * len(ids)).reshape(len(values), len(ids))
        numbering = _number(areas, values.tolist(), ids.tolist(), self.legend)
        numbers = numbering.table.ravel()[pairs]
        regions = regions_of_numbers(np.maximum(numbers, 0))
        found = [
            SourceObject(self.legend.names[value], regions[number], segment_id=own if numbered else None)
            for number, (value, own) in enumerate(numbering.drawn, 1)
        ]
        ignored = Region.of(numbers < 0)
        size = (classes.shape[0], classes.shape[1])
        return SourceLabels(size, tuple(found), (ignored,) if ignored.mask.size else (), numbering.notes)


class _Numbering(NamedTuple):
    """For each class and object id the number of its segment, 0 for none, -1 for void; the segments' class and id."""

    table: Int32[np.ndarray, "classes objects"]
    drawn: list[tuple[int, int | None]]
    notes: tuple[str, ...]


def _number(
    areas: Integer[np.ndarray, "classes objects"], values: list[int], ids: list[int], legend: Legend
) -> _Numbering:
    """Say which pixels are one segment, by the pixels of each pair of class and object."""
    table = np.zeros(areas.shape, dtype=np.int32)
    table[[value in legend.ignored for value in values]] = -1
    named = [row for row, value in enumerate(values) if value in legend.names]
    drawn: list[tuple[int, int | None]] = []
    notes = set()
    for column, own in enumerate(ids):
        rows = sorted((row for row in named if areas[row, column]), key=lambda row: -int(areas[row, column]))
        strays = sum(int(areas[row, column]) for row in rows[1:])
        if not rows:
            continue
        if own <= 0:
            table[rows, column] = -1
            notes.add(_NO_OBJECT)
        elif strays <= _STRAY * int(areas[rows, column].sum()):
            drawn.append((values[rows[0]], own))
            table[rows, column] = len(drawn)
            notes.update((_STRAYS,) if strays else ())
        else:
            for row in rows:
                drawn.append((values[row], None))
                table[row, column] = len(drawn)
            notes.add(_SPLIT)
    return _Numbering(table, drawn, tuple(sorted(notes)))


def _object_ids(path: Path) -> tuple[Int32[np.ndarray, "H W"], bool]:
    """Return object ids (0: none, -1: void) and whether they are numbers of their own, not colours'."""
    found = read_label_map(path)
    values = found.values
    # a map with larger numbers is of 16 bits, and 255 one of them
    void = color_code(voc_color(255)) if found.rgb else 255 if values.max(initial=0) <= 255 else -1
    return np.where(values == void, np.int32(-1), values), not found.rgb


def _folder(path: Path, name: str) -> Path:
    """Return the folder of maps; LabelMe's older exports have arrays in it and PNGs in another one."""
    return older if (older := path / f"{name}PNG").is_dir() else path / name


def _maps(path: Path, name: str) -> dict[str, Path]:
    folder = _folder(path, name)
    if not folder.is_dir():
        raise InputError(f"the folder {folder} is not there; VOC pairs lie in {CLASSES} and {OBJECTS}")
    return by_key(find_pictures(folder), folder)


def _names(path: Path, options: SourceOptions) -> tuple[tuple[NamedClass, ...], tuple[str, ...]]:
    """Return the named values, and a note where nobody named them."""
    beside = next((path / name for name in NAME_FILES if (path / name).is_file()), None)
    file = options.names or beside
    if file is None:
        named = tuple(NamedClass(name, index) for index, name in enumerate(VOC_NAMES))
        return named, ("no class names were given, and VOC's own twenty were taken (--names)",)
    named = read_class_names(file)
    first = named[0]
    if first.index == 0 and first.color is None and first.name.lower() not in UNLABELLED_NAMES | IGNORED_NAMES:
        raise InputError(
            f"{file}: value 0 is the background in VOC's maps, and here it is {first.name!r}; put _background_ on the "
            "first line, or number the classes ('1: cat')"
        )
    return named, ()


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}); give a list of pictures' names, one a line") from None
