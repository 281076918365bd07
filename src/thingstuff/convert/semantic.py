"""Semantic maps: a folder of pictures and a folder of PNGs that hold a class for each pixel.

Letters: H W pixels of a picture.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from thingstuff.convert import two_channel
from thingstuff.convert.class_names import Legend, NamedClass, legend_of, read_class_names
from thingstuff.convert.label_maps import (
    LabelMap,
    class_values,
    color_text,
    read_label_map,
    refuse_missing,
    split_name,
)
from thingstuff.convert.picture_files import PICTURE_SUFFIXES, by_key, find_pictures, key_of, keys_apart, walk
from thingstuff.convert.shapes import component_regions, distinct, regions_of_numbers
from thingstuff.convert.source import (
    Region,
    Source,
    SourceLabels,
    SourceObject,
    SourceOptions,
    SourcePicture,
)
from thingstuff.convert.voc import CLASSES, NAME_FILES, OBJECTS, image_sets, source_classes
from thingstuff.errors import InputError

_PICTURE_FOLDERS = ("images", "JPEGImages", "img_dir", "imgs")
_MAP_FOLDERS = ("masks", "labels", "annotations", CLASSES, "ann_dir")
_SPLIT_FOLDERS = ("train", "training", "val", "valid", "validation", "test", "testing")
_SPLIT_TAILS = ("_labels", "_masks", "annot")  # train/ with train_labels/, or with trainannot/
_MAP_TAILS = ("_mask", "_label", "_labels", "_seg", "_gt", "_L")  # x.jpg with x_mask.png
_LOOKED_AT = 20
_SUFFIXES = tuple(s for suffix in sorted(PICTURE_SUFFIXES) for s in (suffix, suffix.upper(), suffix.title()))
_SHOWN = 30  # values
_BESIDE_MAPS = frozenset({".png", ".txt", ".csv", ".yaml", ".yml"})


class _Layout(NamedTuple):
    """A folder of pictures with its maps; `split` where the folder is named after one."""

    pictures: Path
    maps: Path
    split: str | None = None


def recognise(path: Path) -> str | None:
    """Say why a path holds semantic maps: maps lie in folders of known names and are called like pictures."""
    if (path / OBJECTS).is_dir() or two_channel.recognise(path):
        return None
    for layout in _layouts(path):
        for file in islice(_picture_files(layout.maps), _LOOKED_AT):
            names = _picture_keys(key_of(file, layout.maps))
            if any((layout.pictures / f"{name}{suffix}").is_file() for name in names for suffix in _SUFFIXES):
                shown = [folder.relative_to(path).as_posix() for folder in (file, layout.pictures)]
                return f"{shown[0]} is called like a picture in {shown[1]}"
    return None


def recognise_maps(path: Path, pictures: Path) -> str | None:
    """Say why a path holds semantic maps whose pictures a person says to lie elsewhere: PNGs and names are all it has.

    To be asked where no format recognised the path: PNGs may be anything.
    """
    if not path.is_dir() or not pictures.is_dir() or path.resolve() == pictures.resolve():
        return None
    suffixes = {file.suffix.lower() for file in islice(walk(path), _LOOKED_AT)}
    return f"it holds PNGs, whose pictures are in {pictures}" if ".png" in suffixes <= _BESIDE_MAPS else None


def open_source(path: Path, reason: str, options: SourceOptions) -> Source:
    """Open semantic maps, in `images` with `masks`, `labels` or `annotations`, or in a folder with `options.pictures`.

    Values are named by `options.names`, else by labelmap.txt, class_names.txt or their like in the folder; 0 is
    unlabelled, 255 and 65535 are void unless they are named. Every class is stuff but those of `options.things`, whose
    instances are the 8-connected components (`options.components`). Maps without a picture and pictures without a map
    are left out. Raises `InputError` where folders or names lack, or no map has a picture.
    """
    options.refuse_unused("semantic", "pictures", "names", "components")
    layouts = _given_layout(path, options) if options.pictures else list(_layouts(path))
    if not layouts:
        raise InputError(
            f"{path} has no folders {' or '.join(_PICTURE_FOLDERS)} with {', '.join(_MAP_FOLDERS)} beside; give the "
            "folder of the maps, and that of the pictures (--pictures)"
        )
    named = _names(path, layouts, options)
    legend = legend_of(named)
    _refuse_binary(layouts[0].maps, legend)
    things = _things(legend, options)
    read = _Read(legend, things)
    pictures: list[SourcePicture] = []
    notes: list[str] = []
    for layout in layouts:
        found, told = _pictures(path, layout, read.digest())
        pictures.extend(found)
        notes.extend(told)
    splits = {split for layout in layouts for split in _splits_in(layout)}
    classes = tuple(c._replace(isthing=c.name in options.things) for c in source_classes(named, False))
    return Source("semantic", reason, classes, keys_apart(pictures, splits), read, notes=tuple(notes))


@dataclass(frozen=True)
class _Read:
    """Reads one map; of `things` each connected component is an object."""

    legend: Legend
    things: frozenset[int]

    def __call__(self, picture: SourcePicture) -> SourceLabels:
        path = picture.labels[0]
        values, places = distinct(class_values(path, self.legend.colors))
        self.legend.refuse_unnamed(values.tolist(), path)
        named = [row for row, value in enumerate(values.tolist()) if value in self.legend.names]
        table = np.zeros(len(values), dtype=np.int32)
        table[named] = np.arange(1, len(named) + 1)
        regions = regions_of_numbers(table[places])
        objects: list[SourceObject] = []
        for number, row in enumerate(named, 1):
            value = int(values[row])
            pieces = _components(regions[number]) if value in self.things else [regions[number]]
            objects.extend(SourceObject(self.legend.names[value], piece) for piece in pieces)
        void = np.array([value in self.legend.ignored for value in values.tolist()], dtype=np.bool_)
        ignored = Region.of(void[places])
        size = (places.shape[0], places.shape[1])
        return SourceLabels(size, tuple(objects), (ignored,) if ignored.mask.size else ())

    def digest(self) -> str:
        """Return a text that is another one where the same file would be read otherwise."""
        return f"{self.legend.digest()} {sorted(self.things)}"


def _components(region: Region) -> list[Region]:
    found = component_regions(region.mask)
    return [Region(region.top + piece.top, region.left + piece.left, piece.mask) for piece in found]


def _layouts(path: Path) -> Iterator[_Layout]:
    """Yield the pairs of folders there are: in the path itself, or else in folders named after splits."""
    own = _pair_in(path, None)
    if own:
        yield own
        return
    for name in _SPLIT_FOLDERS:
        split = split_name(name)
        beside = (path / f"{name}{tail}" for tail in _SPLIT_TAILS if (path / name).is_dir())
        maps = next((folder for folder in beside if folder.is_dir()), None)
        found = _Layout(path / name, maps, split) if maps else _pair_in(path / name, split)
        if found:
            yield found


def _pair_in(path: Path, split: str | None) -> _Layout | None:
    pictures = next((path / name for name in _PICTURE_FOLDERS if (path / name).is_dir()), None)
    maps = (path / name for name in _MAP_FOLDERS if next(_picture_files(path / name), None))
    found = next(maps, None) if pictures else None
    return _Layout(pictures, found, split) if pictures and found else None


def _given_layout(path: Path, options: SourceOptions) -> list[_Layout]:
    assert options.pictures
    for what, folder in (("maps", path), ("pictures", options.pictures)):
        if not folder.is_dir():
            raise InputError(f"{folder} is no folder of {what}; give one")
    inner = (path / name for name in _MAP_FOLDERS)
    return [_Layout(options.pictures, next((folder for folder in inner if folder.is_dir()), path))]


def _picture_files(folder: Path) -> Iterator[Path]:
    return (file for file in walk(folder) if file.suffix.lower() in PICTURE_SUFFIXES)


def _picture_keys(key: str) -> list[str]:
    """Return how the picture of a map may be called."""
    return [key, *(key.removesuffix(tail) for tail in _MAP_TAILS if key.endswith(tail))]


def _names(path: Path, layouts: Sequence[_Layout], options: SourceOptions) -> tuple[NamedClass, ...]:
    folders = dict.fromkeys(folder for layout in layouts for folder in (path, layout.maps, layout.maps.parent))
    beside = next((folder / n for folder in folders for n in NAME_FILES if (folder / n).is_file()), None)
    file = options.names or beside
    if file:
        return read_class_names(file)
    maps = _first_maps(layouts[0].maps)
    by_color = bool(maps) and maps[0].rgb
    seen = [color_text(value) if by_color else str(value) for value in sorted(_values(maps))]
    told = ", ".join(seen[:_SHOWN]) + (f" and {len(seen) - _SHOWN} more" if len(seen) > _SHOWN else "")
    shown = f" (the first {len(maps)} maps hold {'the colours ' if by_color else ''}{told})" if maps else ""
    remedy = "such as 'road:128,64,128'" if by_color else "from 0 or numbered such as '7: road'"
    raise InputError(
        f"{layouts[0].maps}: nothing says what the {'colours' if by_color else 'values'} mean{shown}; give their names "
        f"(--names FILE), a line each {remedy}"
    )


def _refuse_binary(folder: Path, legend: Legend) -> None:
    """Raise `InputError` where nothing but void would be left of masks that are black and white."""
    if 255 in legend.names or legend.colors:
        return
    maps = _first_maps(folder)
    if maps and not maps[0].rgb and _values(maps) == {0, 255}:
        name = next(iter(legend.names.values()), "crack")
        raise InputError(
            f"the first maps of {folder} hold 0 and 255 alone, and 255 is void unless it is named; give its name "
            f"(--names FILE), such as '255: {name}'"
        )


def _first_maps(folder: Path) -> list[LabelMap]:
    """Read a few maps, other than lossy or broken ones: those are told of by name when their picture's turn comes."""
    found = []
    for file in islice(_picture_files(folder), _LOOKED_AT):
        with suppress(InputError):
            found.append(read_label_map(file))
    return found


def _values(maps: Sequence[LabelMap]) -> set[int]:
    return {value for found in maps for value in distinct(found.values)[0].tolist()}


def _things(legend: Legend, options: SourceOptions) -> frozenset[int]:
    things = frozenset(value for value, name in legend.names.items() if name in options.things)
    if things and not options.components:
        raise InputError(
            f"semantic maps do not tell the instances of {legend.names[min(things)]!r} apart; take each connected "
            "piece for one (--components), or leave the class to be stuff"
        )
    if options.components and not things:
        raise InputError("--components looks for the instances of things; name those classes (--things)")
    return things


def _splits_in(layout: _Layout) -> list[str]:
    """Return the splits that a layout's folders are named after: its own, or those in its folder of pictures."""
    if layout.split:
        return [layout.split]
    inner = (split_name(folder.name) for folder in layout.pictures.iterdir() if folder.is_dir())
    return [split for split in inner if split in ("train", "val", "test")]


def _pictures(path: Path, layout: _Layout, digest: str) -> tuple[list[SourcePicture], list[str]]:
    pictures = by_key(find_pictures(layout.pictures), layout.pictures)
    maps = by_key(find_pictures(layout.maps), layout.maps)
    of_picture, lacking = _matched(maps, pictures, layout)
    listed, notes = image_sets(path, {key: maps[name] for key, name in of_picture.items()})
    if lacking:
        notes = (
            *notes,
            f"{len(lacking):,} maps in {layout.maps.name}, such as {lacking[0]}, have no picture and are left out",
        )
    without = len(pictures) - len(of_picture)
    if without:
        notes = (*notes, f"{without} pictures in {layout.pictures.name} have no map and are left out")
    splits = [] if layout.split else _splits_in(layout)
    found = []
    for key, name in sorted(of_picture.items()):
        folder, _, inner = key.partition("/")
        named = split_name(folder) if inner and split_name(folder) in splits else None
        split = layout.split or named or listed.get(key)
        found.append(SourcePicture(inner if named else key, pictures[key], (maps[name],), split, payload=digest))
    return found, list(notes)


def _matched(
    maps: Mapping[str, Path], pictures: Mapping[str, Path], layout: _Layout
) -> tuple[dict[str, str], list[str]]:
    """Return the key of each picture's map, and those of maps without a picture.

    Raises `InputError` where no map has one, and for two maps of one picture.
    """
    found: dict[str, str] = {}
    lacking = []
    for name in maps:
        key = next((key for key in _picture_keys(name) if key in pictures), None)
        if key is None:
            lacking.append(name)
        elif found.setdefault(key, name) != name:
            raise InputError(f"{maps[found[key]]} and {maps[name]} are both maps of {pictures[key]}; remove one")
    if not found:
        remedy = "put the pictures there under the maps' names, or name their folder (--pictures)"
        refuse_missing(lacking, "picture", layout.pictures, remedy)
        raise InputError(f"{layout.maps} holds no map; put the PNGs of labels there")
    return found, lacking
