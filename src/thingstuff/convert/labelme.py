"""Reading LabelMe: a JSON for each picture, written since version 2 in much the same form.

Fields as LabelMe's `_label_file.py` (6.3) and the files of its examples (versions 2 to 5) have them.
"""

import base64
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from thingstuff.convert.class_names import IGNORED_NAMES, UNLABELLED_NAMES, read_class_names
from thingstuff.convert.coco_files import ends_of
from thingstuff.convert.picture_files import (
    PICTURE_SUFFIXES,
    checked_size,
    find_pictures,
    given_pictures,
    key_of,
    picture_size,
    walk,
)
from thingstuff.convert.shapes import LARGEST_NUMBER, ellipse_region, polygon_region, rectangle_region, union
from thingstuff.convert.source import (
    Region,
    Size,
    Source,
    SourceClass,
    SourceLabels,
    SourceObject,
    SourceOptions,
    SourcePicture,
)
from thingstuff.errors import InputError, raise_problems
from thingstuff.io import UNREADABLE, Kind, field_fault, read_json

_FORMAT = "labelme"
_TEXT = Kind("a text", lambda v: type(v) is str and v.strip() != "")
_LIST = Kind("a list", lambda v: type(v) is list)
_SIDE = Kind("a whole number above 0", lambda v: type(v) is int and v > 0)
_GROUP = Kind("a whole number or null", lambda v: v is None or type(v) is int)
_POINTS = Kind("a list of points [x, y] of finite numbers", lambda v: type(v) is list and all(map(_is_point, v)))
_LINES = frozenset({"point", "points", "line", "linestrip"})
_IGNORE = "__ignore__"  # of LabelMe's converters: pixels that no class is to be learnt from
_LOOKED_AT = 8  # files, to find out whether a folder holds such JSONs
_EXPORT = "labelme_export_json {name}, which writes img.png"


class _Shape(NamedTuple):
    """A drawn shape; shapes of one label and group are one object."""

    label: str
    group: int | None
    region: Region


@dataclass(frozen=True)
class _Found:
    """The JSONs of a folder: labels in them, their pictures, and how many other JSONs there were."""

    labels: set[str]
    pictures: tuple[SourcePicture, ...]
    others: int


def recognise(path: Path) -> str | None:
    """Return why a path holds LabelMe's labels: a JSON that has shapes and an imagePath."""
    if path.is_file():
        return f"{path.name} has shapes and an imagePath" if _is_labelme(path) else None
    for position, json_path in enumerate(_jsons(path)):
        if _is_labelme(json_path):
            return f"{json_path.relative_to(path).as_posix()} has shapes and an imagePath"
        if position + 1 == _LOOKED_AT:
            break
    return None


def open_source(path: Path, reason: str, options: SourceOptions) -> Source:
    """Open a folder of JSONs, subfolders too, or a single one; the classes are the labels in them.

    Where `--names` gives LabelMe's labels.txt, the classes are those, in their order. What is wrong with one file, such
    as a picture that is not there, `read` tells. Raises `InputError` where no file can be used, two are of one picture,
    or labels are not among the names.
    """
    options.refuse_unused(_FORMAT, "pictures", "names")
    folder = path if path.is_dir() else path.parent
    found = _find(folder, [path] if path.is_file() else list(_jsons(path)), given_pictures(options))
    classes = _classes(found.labels, options.names)
    notes = []
    if found.others:
        notes.append(f"{found.others:,} JSON files have no shapes and imagePath of LabelMe and are left aside")
    if path.is_dir():
        spoken = {p.picture for p in found.pictures}
        # of a broken JSON the picture is not known, but is called like it
        named = {p.labels[0].with_suffix("") for p in found.pictures if p.payload is not None}
        all_pictures = find_pictures(options.pictures or folder)
        silent = sum(p not in spoken and p.with_suffix("") not in named for p in all_pictures)
        notes += [f"{silent:,} pictures have no JSON and are left aside"] if silent else []
    return Source(_FORMAT, reason, classes, found.pictures, read, notes=tuple(notes))


def read(picture: SourcePicture) -> SourceLabels:
    """Return a picture's objects, each in the place of its last piece.

    Polygons, rectangles, circles and masks have pixels; points and lines have none and are noted. Raises `InputError`
    where the JSON cannot be used or its picture is not there, and one for all faulty shapes.
    """
    if picture.payload is not None:
        raise InputError(picture.payload)
    path = picture.labels[0]
    data = read_json(path)
    size = _size(path, data, picture.picture)
    shapes: list[_Shape] = []
    notes: list[str] = []
    problems: list[str] = []
    for position, entry in enumerate(data["shapes"]):
        try:
            shape = _shape(entry, size, notes)
        except InputError as error:
            label = f" ({entry['label']})" if isinstance(entry, dict) and "label" in entry else ""
            problems.append(f"shapes[{position}]{label}: {error}")
            continue
        if shape is not None:
            shapes.append(shape)
    raise_problems(problems, f"{path} cannot be used; correct the shapes in LabelMe or remove them:")
    ignored = tuple(shape.region for shape in shapes if shape.label == _IGNORE)
    return SourceLabels(size, _objects(shapes), ignored, tuple(notes))


def _jsons(folder: Path) -> Iterator[Path]:
    """Return the JSON files in a folder and those in it."""
    return (path for path in walk(folder) if path.suffix.lower() == ".json")


def _is_labelme(path: Path) -> bool:
    ends = ends_of(path)
    # imageData may fill the middle of a file, and stood first in old ones
    return '"shapes"' in ends and '"imagePath"' in ends and '"segments_info"' not in ends


def _find(folder: Path, jsons: Sequence[Path], pictures: Path | None) -> _Found:
    """Read all JSONs: the labels stand nowhere else."""
    twins: list[str] = []
    broken: list[SourcePicture] = []
    labels, others = set[str](), 0
    found: dict[Path, SourcePicture] = {}
    keys: dict[str, Path] = {}
    for path in jsons:
        try:
            data = read_json(path)
            if not isinstance(data, dict) or not {"shapes", "imagePath"} <= {*data}:
                others += 1
                continue
            picture = _picture(path, data, folder, pictures)
        except InputError as error:
            broken.append(_broken(path, key_of(path, folder), error))
            continue
        twin = found.setdefault(picture.picture.resolve(), picture).labels[0]
        twin = keys.setdefault(picture.key, twin)
        if twin != path:
            twins.append(f"{twin} and {path} speak of one picture, or of two that differ in their suffix; keep one")
        labels |= {s["label"] for s in data["shapes"] if isinstance(s, dict) and _TEXT.holds(s.get("label"))}
    raise_problems(twins, f"labels in {folder} cannot be used:")
    # another JSON may speak of a picture that is called like a broken one
    broken = [b._replace(key=f"{b.key}.json") if b.key in keys else b for b in broken]
    pictures_found = (*found.values(), *broken)
    if all(p.payload is not None for p in pictures_found):
        raise_problems([p.payload for p in pictures_found], f"labels in {folder} cannot be used:")
        raise InputError(f"{folder} holds no JSON with shapes and imagePath, as LabelMe writes it; give its folder")
    return _Found(labels, pictures_found, others)


def _broken(path: Path, key: str, error: InputError) -> SourcePicture:
    """Return what stands for the picture of a JSON that cannot be used; `read` tells why."""
    return SourcePicture(key, path, (path,), payload=str(error))


def _picture(path: Path, data: Mapping[str, Any], folder: Path, pictures: Path | None) -> SourcePicture:
    fault = field_fault(data, {"shapes": _LIST, "imagePath": _TEXT})
    if fault:
        raise InputError(f"{path}: {fault}")
    # as LabelMe does: a path that Windows wrote reads with slashes elsewhere
    stated = PurePosixPath(PureWindowsPath(data["imagePath"]).as_posix())
    place = path.parent.relative_to(folder)
    near = [path.parent / stated, path.parent / stated.name]
    near += [path.with_suffix(suffix) for suffix in sorted(PICTURE_SUFFIXES)] if path.stem == stated.stem else []
    given = [pictures / place / stated.name, pictures / stated.name] if pictures is not None else []
    key = (PurePosixPath(place.as_posix()) / PureWindowsPath(data["imagePath"]).stem).as_posix()
    picture = next((candidate for candidate in given or near if candidate.is_file()), None)
    if picture is not None:
        return SourcePicture(key, picture, (path,))
    if data.get("imageData"):
        fault = (
            f"its picture {stated} is not there, but lies within the JSON (imageData); write it out with "
            f"{_EXPORT.format(name=path.name)}, or put {stated.name} there"
        )
    else:
        looked = " or ".join(map(str, dict.fromkeys(p.parent for p in given or near[:2])))
        fault = f"its picture {stated} is not in {looked}; put it there or name its folder (--pictures)"
    return _broken(path, key, InputError(f"{path}: {fault}"))


def _classes(labels: set[str], names: Path | None) -> tuple[SourceClass, ...]:
    labels = labels - {_IGNORE}
    if names is None:
        return tuple(map(SourceClass, sorted(labels)))
    named = read_class_names(names)
    strange = sorted(labels - {entry.name for entry in named})
    if strange:
        told = ", ".join(map(repr, strange[:5])) + (f" and {len(strange) - 5} more" if len(strange) > 5 else "")
        raise InputError(f"{names} lacks labels that were drawn: {told}; add them there or rename them in LabelMe")
    silent = UNLABELLED_NAMES | IGNORED_NAMES
    return tuple(
        SourceClass(entry.name, color=entry.color)
        for entry in named
        if entry.name in labels or entry.name.lower() not in silent
    )


def _size(path: Path, data: Mapping[str, Any], picture: Path) -> Size:
    """Return the picture's (height, width); the JSON's, where it has one and the picture agrees."""
    stated = {key: data.get(key) for key in ("imageHeight", "imageWidth")}
    if None in stated.values():
        return picture_size(picture)
    fault = field_fault(stated, {"imageHeight": _SIDE, "imageWidth": _SIDE})
    if fault:
        raise InputError(f"{path}: {fault}")
    return checked_size(picture, (data["imageHeight"], data["imageWidth"]), f"{path}: imageHeight and imageWidth")


def _shape(entry: Any, size: Size, notes: list[str]) -> _Shape | None:
    fault = field_fault(entry, {"label": _TEXT, "points": _POINTS})
    fault = fault or field_fault({"group_id": None, **entry}, {"group_id": _GROUP})
    if fault:
        raise InputError(fault)
    kind, points = entry.get("shape_type") or "polygon", [[float(v) for v in point] for point in entry["points"]]
    if type(kind) is not str:
        raise InputError(f"shape_type {kind!r:.60} is no text")
    if kind in _LINES:
        notes.append(f"{kind}, which has no area")
        return None
    if kind in ("polygon", "oriented_rectangle") and len(points) < 3:
        notes.append("polygon of less than three corners")
        return None
    return _Shape(entry["label"], entry.get("group_id"), _region(kind, points, entry, size))


def _region(kind: str, points: Sequence[Sequence[float]], entry: Mapping[str, Any], size: Size) -> Region:
    if kind in ("polygon", "oriented_rectangle") or (kind == "rectangle" and len(points) == 4):
        return polygon_region([[v for point in points for v in point]], size)
    if kind not in ("rectangle", "circle", "mask"):
        raise InputError(f"shape_type {kind!r:.60} is none that LabelMe writes")
    if len(points) != 2:
        raise InputError(f"a {kind} has two points, this one {len(points)}")
    (x0, y0), (x1, y1) = points
    if kind == "rectangle":
        return rectangle_region(min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1), size)
    if kind == "circle":  # its centre and a point of its border
        radius = math.hypot(x1 - x0, y1 - y0)
        return ellipse_region(x0, y0, radius, radius, size)
    return _placed(_mask(entry.get("mask")), points, size)


def _mask(text: Any) -> npt.NDArray[np.bool_]:
    """Return the pixels of a mask: a PNG in base64, anything but 0 is the object."""
    if type(text) is not str:
        raise InputError(f"mask {text!r:.60} is no PNG in base64")
    try:
        with Image.open(BytesIO(base64.b64decode(text, validate=True)), formats=("PNG",)) as image:
            pixels = np.asarray(image)
    except UNREADABLE:
        raise InputError("mask cannot be read as a PNG in base64") from None
    if pixels.ndim != 2:
        raise InputError("mask is a PNG with colours; one value for each pixel was expected")
    return pixels.astype(np.bool_)


def _placed(mask: npt.NDArray[np.bool_], points: Sequence[Sequence[float]], size: Size) -> Region:
    """Return a mask's pixels in the picture: its corner pixels are the points, both of them within."""
    (left, top), (right, bottom) = ((int(x), int(y)) for x, y in points)
    height, width = mask.shape
    # other tools write the corner after the last pixel
    if not all(0 <= side - (high - low) <= 1 for side, low, high in ((width, left, right), (height, top, bottom))):
        raise InputError(f"mask is {width} wide and {height} high, but its points span {points}")
    whole = np.zeros(size, dtype=np.bool_)
    inside = mask[max(0, -top) : max(0, size[0] - top), max(0, -left) : max(0, size[1] - left)]
    if inside.size:
        y, x = max(0, top), max(0, left)
        whole[y : y + inside.shape[0], x : x + inside.shape[1]] = inside
    return Region.of(whole)


def _objects(shapes: Sequence[_Shape]) -> tuple[SourceObject, ...]:
    pieces: dict[Any, list[_Shape]] = {}
    for position, shape in enumerate(shapes):
        if shape.label != _IGNORE:
            key = (shape.label, position) if shape.group is None else (shape.label, "group", shape.group)
            pieces[key] = [*pieces.pop(key, []), shape]  # moved to the end: an object lies where its last piece does
    return tuple(SourceObject(own[0].label, union([shape.region for shape in own])) for own in pieces.values())


def _is_point(value: Any) -> bool:
    pair = type(value) is list and len(value) == 2
    return pair and all(type(v) in (int, float) and abs(v) < LARGEST_NUMBER for v in value)
