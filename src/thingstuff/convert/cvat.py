"""CVAT for images 1.1: annotations.xml, and beside it images/ with the pictures.

The format: docs.cvat.ai, "XML annotation format", and CVAT's own exporter. What lies on top is said by z_order, before
any rule for overlaps, which decides within a layer. Letters: H W pixels of a picture.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from xml.etree.ElementTree import Element, ParseError

import numpy as np
from defusedxml.ElementTree import iterparse

from thingstuff.convert.picture_files import PICTURE_SUFFIXES, checked_size, given_pictures, keys_apart, path_below
from thingstuff.convert.shapes import ellipse_region, polygon_region, union
from thingstuff.convert.source import (
    BOX_ALONE,
    Region,
    Size,
    Source,
    SourceClass,
    SourceLabels,
    SourceObject,
    SourceOptions,
    SourcePicture,
)
from thingstuff.errors import InputError
from thingstuff.panoptic import Color

_NAME = "annotations.xml"
_EXPORT = "export it as 'CVAT for images 1.1'"
_GEOMETRY = {
    "polygon": ("points",),
    "mask": ("rle", "left", "top", "width", "height"),
    "ellipse": ("cx", "cy", "rx", "ry", "rotation"),
}
"""The shapes that have pixels -> the attributes that say which."""
_WITHOUT_PIXELS = {
    "box": BOX_ALONE,
    "polyline": "polyline, which is no mask",
    "points": "points, which are no mask",
    "cuboid": "cuboid, which is no mask",
    "skeleton": "skeleton, which is no mask",
    "tag": "tag of the whole picture, which is no mask",
}
_TYPES_WITH_PIXELS = frozenset({"any", "polygon", "mask", "ellipse"})
_SPLITS = {"training": "train", "validation": "val", "valid": "val", "testing": "test"}


class Shape(NamedTuple):
    """A shape as the XML has it, its attributes still text; `geometry` in the order of its kind's attributes."""

    kind: str
    label: str | None
    z_order: str
    group: str
    geometry: tuple[str | None, ...]


class Drawn(NamedTuple):
    """What the XML says of a picture: its width and height, its shapes, and what is left out of it."""

    size: tuple[str | None, str | None]
    shapes: tuple[Shape, ...]
    notes: tuple[str, ...]


def recognise(path: Path) -> str | None:
    """Say why a path holds labels of CVAT."""
    file = path / _NAME if path.is_dir() else path
    if file.suffix.lower() != ".xml":
        return None
    try:
        with file.open("rb") as stream:
            begin = stream.read(4096)
    except OSError:
        return None
    if not re.search(rb"<annotations[\s>]", begin) or not re.search(rb"<(version|meta|image|track)[\s>]", begin):
        return None
    return f"{file.name} begins with CVAT's <annotations>"


def open_source(path: Path, reason: str, options: SourceOptions) -> Source:
    """Open CVAT's XML: a task's, a job's or a project's, whose subsets are the splits.

    Classes are the labels that can have a mask, in the XML's order. Raises `InputError` where the XML is missing,
    damaged or one of "CVAT for video", or where none of its pictures is to be found.
    """
    options.refuse_unused("CVAT", "pictures")
    file = path / _NAME if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"{file} is not there; {_EXPORT}, and unpack it there")
    given = given_pictures(options)
    labels, entries = _parse(file)
    used = {shape.label for _, drawn in entries for shape in drawn.shapes if shape.label}
    classes = {c.name: c for c in labels}
    for name in sorted(used - classes.keys()):
        classes[name] = SourceClass(name)
    bases = [given] if given else [file.parent / "images", file.parent]
    pictures = _pictures(file, entries, bases)
    return Source("cvat", reason, tuple(classes.values()), pictures, Reader(file))


@dataclass(frozen=True)
class Reader:
    """Reads a picture's shapes, those of a higher z_order above the others, pieces of a group as one object."""

    file: Path

    def __call__(self, picture: SourcePicture) -> SourceLabels:
        """Return a picture's labels; raises `InputError` that names the XML, the picture and the shape."""
        drawn: Drawn = picture.payload
        at = f"{self.file}: image {picture.key!r}"
        try:
            size = checked_size(picture.picture, _size(drawn.size), "width and height")
        except InputError as error:
            raise InputError(f"{at}: {error}") from None
        found: dict[tuple[str, str], list[tuple[int, Region]]] = {}
        for number, shape in enumerate(drawn.shapes):
            try:
                name, z_order, group = _header(shape)
                region = _region(shape, size)
            except InputError as error:
                raise InputError(f"{at}: {shape.kind} {number + 1} of {shape.label!r}: {error}; correct it") from None
            key = f"group {group}" if group else f"shape {number}"
            found.setdefault((name, key), []).append((z_order, region))
        objects = [
            SourceObject(name, union([region for _, region in pieces]), layer=max(z for z, _ in pieces))
            for (name, _), pieces in found.items()
        ]
        # the one drawn later lies above the others of its layer, as in CVAT
        return SourceLabels(size, tuple(sorted(objects, key=lambda o: o.layer)), notes=drawn.notes)


def _parse(file: Path) -> tuple[list[SourceClass], list[tuple[dict[str, str], Drawn]]]:
    """Return the classes and, of each picture, its attributes and what is drawn on it; the XML is read as a stream."""
    classes: list[SourceClass] = []
    subset = None
    entries: list[tuple[dict[str, str], Drawn]] = []
    root: Element | None = None
    for event, element in _events(file):
        if event == "start":
            root = element if root is None else root
            if element.tag == "track":
                raise InputError(f"{file} is of 'CVAT for video', with tracks instead of pictures; {_EXPORT} instead")
        elif element.tag == "meta":
            classes = _classes(file, element)
            subset = element.findtext("*/subset")
        elif element.tag == "image" and root is not None:
            entries.append(({"subset": subset or "", **element.attrib}, _drawn(element)))
            root.clear()  # a large XML does not fit into memory as a tree
    if root is None or root.tag != "annotations" or not entries:
        raise InputError(f"{file} holds no <image> in <annotations>; {_EXPORT}")
    return classes, entries


def _events(file: Path) -> Iterator[tuple[str, Element]]:
    try:
        yield from iterparse(str(file), events=("start", "end"))
    except (ParseError, ValueError, LookupError) as error:  # ValueError: entities, which may do harm; odd encodings
        raise InputError(f"{file} cannot be read as XML ({error}); {_EXPORT} again") from None
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror or error}); give a readable file") from None


def _classes(file: Path, meta: Element) -> list[SourceClass]:
    found: dict[str, SourceClass] = {}
    for label in meta.iter("label"):
        name, kind = (label.findtext("name") or "").strip(), label.findtext("type") or "any"
        if not name:
            raise InputError(f"{file}: a <label> of <meta> has no <name>; {_EXPORT} again")
        # a skeleton's points are labels too, with the skeleton as parent
        if kind in _TYPES_WITH_PIXELS and label.find("parent") is None:
            found.setdefault(name, SourceClass(name, color=_color(label.findtext("color"))))
    return [*found.values()]


def _color(text: str | None) -> Color | None:
    match = re.fullmatch(r"#([0-9a-fA-F]{2})([0-9a-fA-F]{2})([0-9a-fA-F]{2})", (text or "").strip())
    return (int(match[1], 16), int(match[2], 16), int(match[3], 16)) if match else None


def _drawn(image: Element) -> Drawn:
    shapes, notes = [], []
    for element in image:
        get = element.attrib.get
        if element.tag in _GEOMETRY:
            geometry = tuple(get(name) for name in _GEOMETRY[element.tag])
            shapes.append(Shape(element.tag, get("label"), get("z_order", "0"), get("group_id", "0"), geometry))
        else:
            notes.append(_WITHOUT_PIXELS.get(element.tag, f"<{element.tag}>, of which nothing is known"))
    return Drawn((image.get("width"), image.get("height")), tuple(shapes), tuple(notes))


def _pictures(
    file: Path, entries: Sequence[tuple[Mapping[str, str], Drawn]], bases: Sequence[Path]
) -> tuple[SourcePicture, ...]:
    names = [_picture_name(file, attributes) for attributes, _ in entries]
    last_parts = Counter(name.name for name in names)
    found = []
    for name, (attributes, drawn) in zip(names, entries, strict=True):
        subset = attributes["subset"]
        alone = last_parts[name.name] == 1
        picture = _find(bases, [subset, ""] if subset else [""], [str(name), name.name] if alone else [str(name)])
        key = name.with_suffix("") if name.suffix.lower() in PICTURE_SUFFIXES else name
        number = attributes.get("id", "")
        found.append(
            SourcePicture(
                key.as_posix(),
                picture or bases[0] / name,
                split=_split(subset),
                image_id=int(number) if number.isdecimal() else None,
                payload=drawn,
            )
        )
    if not any(p.picture.is_file() for p in found):
        looked = " nor ".join(map(str, bases))
        raise InputError(
            f"{file}: none of its {len(found)} pictures, such as {names[0]}, is in {looked}; name their folder "
            "(--pictures), or export them too ('Save images')"
        )
    return keys_apart(found, [p.split for p in found])


def _picture_name(file: Path, attributes: Mapping[str, str]) -> PurePosixPath:
    stated = attributes.get("name")
    name = path_below(stated or "")
    if name is None:
        raise InputError(
            f"{file}: image {attributes.get('id')}: name {stated!r} is no path below the pictures; correct it"
        )
    return name


def _find(bases: Sequence[Path], subsets: Sequence[str], names: Sequence[str]) -> Path | None:
    """Return the first file there is; CVAT names frames of a video without the suffix that it saves them with."""
    endings = [""]
    if PurePosixPath(names[0]).suffix.lower() not in PICTURE_SUFFIXES:
        endings += [e for suffix in sorted(PICTURE_SUFFIXES) for e in (suffix, suffix.upper())]
    for base in bases:
        for subset in subsets:
            for name in names:
                for ending in endings:
                    path = base / subset / (name + ending)
                    if path.is_file():
                        return path
    return None


def _split(subset: str) -> str | None:
    name = subset.strip().lower()
    return None if name in ("", "default") else _SPLITS.get(name, name)


def _size(stated: tuple[str | None, str | None]) -> Size:
    width, height = (_whole(name, text) for name, text in zip(("width", "height"), stated, strict=True))
    if width < 1 or height < 1:
        raise InputError(f"a size of {width} x {height}; correct width and height")
    return height, width


def _header(shape: Shape) -> tuple[str, int, int]:
    """Return a shape's label, layer and group."""
    if not shape.label:
        raise InputError("label is missing")
    return shape.label, _whole("z_order", shape.z_order), _whole("group_id", shape.group)


def _region(shape: Shape, size: Size) -> Region:
    values: dict[str, str | None] = dict(zip(_GEOMETRY[shape.kind], shape.geometry, strict=True))
    if shape.kind == "polygon":
        points = values["points"] or ""
        return polygon_region([[_number("points", n) for n in re.split("[,;]", points)]], size)
    if shape.kind == "ellipse":
        x, y, radius_x, radius_y = (_number(name, values[name]) for name in ("cx", "cy", "rx", "ry"))
        return ellipse_region(x, y, radius_x, radius_y, size, _number("rotation", values["rotation"] or "0"))
    return _mask_region(values, size)


def _mask_region(values: Mapping[str, str | None], size: Size) -> Region:
    """Return a mask of run lengths within its box: rows one after the other, the first run outside."""
    left, top, width, height = (_whole(name, values[name]) for name in ("left", "top", "width", "height"))
    if not (0 <= left <= left + width <= size[1] and 0 <= top <= top + height <= size[0]):
        raise InputError(
            f"a mask of {width} x {height} at ({left}, {top}) that does not lie in a picture of {size[1]} x {size[0]}"
        )
    try:
        runs = np.array((values["rle"] or "").split(","), dtype=np.int64)
    except (ValueError, OverflowError):
        raise InputError(f"rle {values['rle']!r:.60} holds something else than whole numbers") from None
    if runs.min() < 0 or runs.max() > width * height or int(runs.sum()) != width * height:
        raise InputError(f"rle speaks of {int(runs.sum())} pixels, not of {width} x {height}")
    inside = np.arange(len(runs)) % 2 == 1
    return Region(top, left, np.repeat(inside, runs).reshape(height, width))


def _whole(name: str, text: Any) -> int:
    try:
        return int(text)
    except (TypeError, ValueError):
        raise InputError(f"{name} {text!r:.60} is no whole number") from None


def _number(name: str, text: str | None) -> float:
    try:
        return float(text or "")
    except ValueError:
        raise InputError(f"{name} {text!r:.60} is no number") from None
