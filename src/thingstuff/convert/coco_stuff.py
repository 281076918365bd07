"""Stuff from semantic PNGs below COCO's instances.

Letters: H W pixels of a picture.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32

from thingstuff.convert.class_names import IGNORED_NAMES, UNLABELLED_NAMES, digest_of, read_class_names
from thingstuff.convert.label_maps import class_values
from thingstuff.convert.painting import areas_and_boxes
from thingstuff.convert.shapes import distinct
from thingstuff.convert.source import Region, Size, SourceClass, SourceLabels, SourceObject, SourcePicture
from thingstuff.errors import InputError
from thingstuff.panoptic import Color

_BELOW = -1  # the layer: whatever the rule for overlaps, the instances lie on top
_UNLABELLED = 0  # COCO-Stuff's pixel maps: category ids, 0 where there is none or a thing
_IGNORED = (255, 65535)
_LEFT_OUT = "class of things in the semantic PNG, left to the instances; where none is, it is void"
_TOLD = 5


@dataclass(frozen=True)
class SemanticStuff:
    """Reads semantic PNGs: `names` are the classes of stuff by value, `things` the values that instances speak of."""

    names: Mapping[int, str]
    things: frozenset[int] = frozenset()
    unlabelled: frozenset[int] = frozenset()
    ignored: frozenset[int] = frozenset()
    colors: Mapping[Color, int] = field(default_factory=dict)

    def digest(self) -> str:
        """Return a short text that is another one where the same map would be read otherwise."""
        named, colors = sorted(self.names.items()), sorted(self.colors.items())
        return digest_of(named, sorted(self.things), sorted(self.unlabelled), sorted(self.ignored), colors)

    def read(self, path: Path, size: Size) -> SourceLabels:
        """Return the stuff of a map, one object for each class; raises `InputError` for a wrong size or value."""
        values = class_values(path, self.colors)
        if values.shape != size:
            raise InputError(
                f"{path} is {values.shape[1]} wide and {values.shape[0]} high, its picture {size[1]} wide and "
                f"{size[0]} high; put the right map there"
            )
        regions = _regions(values)
        known = {*self.names, *self.things, *self.unlabelled, *self.ignored}
        strange = [value for value in regions if value not in known]
        if strange:
            told = ", ".join(map(str, strange[:_TOLD])) + (" and more" if len(strange) > _TOLD else "")
            raise InputError(
                f"{path} holds the value {told}, which is neither a category id of the JSON nor named; give a file of "
                "names (--names)"
            )
        objects = [SourceObject(self.names[v], r, layer=_BELOW) for v, r in regions.items() if v in self.names]
        notes = [_LEFT_OUT for value in regions if value in self.things]
        # somebody saw a thing there: whatever it is that no instance covers, the background it is not
        ignored = tuple(region for value, region in regions.items() if value in self.ignored | self.things)
        return SourceLabels(size, tuple(objects), ignored, tuple(notes))


class FoundMaps(NamedTuple):
    """Pictures with their semantic PNG in `labels`, and what is to be told of those that have none."""

    pictures: tuple[SourcePicture, ...]
    notes: tuple[str, ...]


def exported_maps(folder: Path, names: Sequence[str | None]) -> tuple[Path, ...]:
    """Return the folders of semantic PNGs that our own export wrote beside its JSONs, which are called `names`."""
    if names_in(folder) is None:
        return ()
    return tuple(path for name in names if name and (path := folder / f"semantic_{name}").is_dir())


def names_in(folder: Path) -> Path | None:
    """Return the classes.txt that lies with semantic PNGs, as our own export writes it; None where there is none."""
    path = folder / "classes.txt"
    return path if path.is_file() else None


def stuff_of(
    classes: Sequence[SourceClass], used: Collection[str], names: Path | None
) -> tuple[SemanticStuff, tuple[SourceClass, ...]]:
    """Return what reads the semantic PNGs, and all classes: those of the JSONs and those that only the PNGs have.

    Values are category ids, or as the file `names` says. A class of the JSONs whose kind they do not tell is a thing
    where an annotation is `used` for it, else stuff; one that only the PNGs have is stuff. 0 is unlabelled, 255 and
    65535 are ignored, unless they have a name.
    """
    every = {c.name: c if c.isthing is not None else c._replace(isthing=c.name in used) for c in classes}
    colors: dict[Color, int] = {}
    if names is None:
        of = {c.id: c.name for c in classes if c.id is not None}
    else:
        of = {}
        ids = {c.id for c in classes}
        for entry in read_class_names(names):
            of[entry.index] = entry.name
            if entry.color is not None:
                colors[entry.color] = entry.index
            own = entry.index if entry.index not in ids else None
            if not _is_silent(entry.index, entry.name) and entry.name.lower() not in IGNORED_NAMES:
                every.setdefault(entry.name, SourceClass(entry.name, own, False, entry.color))
    silent = {v for v, name in of.items() if name not in every and _is_silent(v, name)}
    void = {v for v, name in of.items() if name not in every and name.lower() in IGNORED_NAMES}
    stuff = SemanticStuff(
        {v: name for v, name in of.items() if name in every and not every[name].isthing},
        frozenset(v for v, name in of.items() if name in every and every[name].isthing),
        frozenset(silent | ({_UNLABELLED} - {*of})),
        frozenset(void | ({*_IGNORED} - {*of})),
        colors,
    )
    return stuff, tuple(every.values())


def _regions(values: Int32[np.ndarray, "H W"]) -> dict[int, Region]:
    present = distinct(values)[0].tolist()
    boxes = [box for _, box in areas_and_boxes(values, present)]
    return {
        value: Region(y, x, values[y : y + height, x : x + width] == value)
        for value, (x, y, width, height) in zip(present, boxes, strict=True)
    }


def _is_silent(value: int, name: str) -> bool:
    # a background that somebody gave a number of its own is a class like any other
    return value == _UNLABELLED and name.lower() in UNLABELLED_NAMES


def find_maps(folder: Path, pictures: Sequence[SourcePicture], names: Mapping[str | None, str | None]) -> FoundMaps:
    """Give each picture its semantic PNG: {key}.png in the folder, or in one there that is named after the split.

    `names` are what the splits are called in the files. Raises `InputError` where no picture has one.
    """
    if not folder.is_dir():
        raise InputError(f"--semantic {folder} is no folder; give the folder of the semantic PNGs")
    found, lacking = [], 0
    for picture in pictures:
        map_path = _map_of(folder, picture, names.get(picture.split))
        lacking += map_path is None
        found.append(picture if map_path is None else picture._replace(labels=(map_path,)))
    if lacking == len(pictures):
        raise InputError(f"--semantic {folder} has no PNG for any picture, such as {pictures[0].key}.png")
    note = f"{lacking:,} pictures have no semantic PNG in {folder}: their stuff stays unlabelled"
    return FoundMaps(tuple(found), (note,) if lacking else ())


def _map_of(folder: Path, picture: SourcePicture, name: str | None) -> Path | None:
    called = dict.fromkeys(n for n in (name, picture.split) if n)
    inner = picture.key.removeprefix(f"{picture.split}/")
    folders = [folder / place for n in called for place in (f"semantic_{n}", n)]
    candidates = [folder / f"{picture.key}.png", *(f / f"{inner}.png" for f in folders), folder / f"{inner}.png"]
    # a picture that is a PNG may lie where its map would
    return next((path for path in candidates if path != picture.picture and path.is_file()), None)
