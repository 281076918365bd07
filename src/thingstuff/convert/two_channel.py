"""panopticapi's format of two channels: PNGs whose red is the category_id and whose green is the number of an instance.

A folder holds what its converter asks for (CONVERTERS.md of cocodataset/panopticapi): the PNGs in a folder of any name;
one or more JSONs with `images` and no `annotations`; a JSON that is the list of categories (id, name, isthing), unless
one with images has it; and the pictures, in `images` or `input_images` or beside, unless they are elsewhere. Letters:
H W pixels of a picture.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from thingstuff.convert.class_names import digest_of
from thingstuff.convert.label_maps import refuse_missing, split_name
from thingstuff.convert.picture_files import given_pictures, is_converted, path_below, walk
from thingstuff.convert.shapes import distinct, regions_of_numbers
from thingstuff.convert.source import Source, SourceClass, SourceLabels, SourceObject, SourceOptions, SourcePicture
from thingstuff.errors import InputError, raise_problems
from thingstuff.io import Kind, field_fault, read_id_map, read_json
from thingstuff.panoptic import Categories

_CHANNEL = 256
_MOST_BYTES = 1_000_000  # of a list of categories
_MOST_JSONS = 20
_BEGIN = 4096
_PICTURE_FOLDERS = ("images", "input_images")
_IMAGE = {
    "id": Kind("a whole number or text", lambda v: type(v) in (int, str)),
    "file_name": Kind("a path below the pictures", lambda v: type(v) is str and path_below(v) is not None),
    "height": Kind("a whole number above 0", lambda v: type(v) is int and v > 0),
    "width": Kind("a whole number above 0", lambda v: type(v) is int and v > 0),
}


class _Files(NamedTuple):
    """What lies in a folder of this format."""

    categories: Path
    images: tuple[Path, ...]
    maps: Path


def recognise(path: Path) -> str | None:
    """Say why a path holds two-channel PNGs: a list of categories, a list of images, and a PNG without any blue."""
    try:
        files = _files(path)
    except (OSError, ValueError):  # what cannot be read is not recognised
        return None
    return files and f"{files.categories.name} lists categories, and the PNGs in {files.maps.name} have no blue"


def open_source(path: Path, reason: str, options: SourceOptions) -> Source:
    """Open two-channel PNGs; category_ids, image ids and every other field of an image are kept.

    A JSON's split is the last word of its name that is train, val or test, with a year or without. Raises `InputError`
    where a file is missing, a JSON is something else, or pictures or maps are not there.
    """
    options.refuse_unused("two-channel", "pictures")
    files = _files(path)
    if files is None:
        raise InputError(
            f"{path} is no folder of two-channel labels: it needs a JSON that is a list of categories (id, name, "
            "isthing), a JSON with images, and a folder of RGB PNGs without blue"
        )
    entries = _categories(files.categories)
    categories = Categories.from_coco(entries, str(files.categories))
    rows = zip(entries, categories.to_coco(), strict=True)
    classes = tuple(
        SourceClass(c["name"], c["id"], bool(c["isthing"]), tuple(c["color"]) if "color" in given else None)
        for given, c in rows
    )
    listed, header = _listed(files.images)
    names = {c.id: c.name for c in classes if c.id is not None}
    told = digest_of(sorted(names.items()))
    pictures = _pictures(path, files.maps, listed, given_pictures(options), told)
    return Source("two-channel", reason, classes, pictures, _Read(names), header)


@dataclass(frozen=True)
class _Read:
    """Reads one PNG; every pair of category and instance is a segment, category 0 is unlabelled."""

    names: Mapping[int, str]

    def __call__(self, picture: SourcePicture) -> SourceLabels:
        path = picture.labels[0]
        ids = read_id_map(path)
        size = (ids.shape[0], ids.shape[1])
        height, width, _ = picture.payload
        if size != (height, width):
            raise InputError(
                f"{path} is {size[1]} wide and {size[0]} high, but its JSON says {width} and {height}; correct either"
            )
        values, places = distinct(ids)
        if values.max(initial=0) >= _CHANNEL**2:
            raise InputError(f"{path} has blue pixels, and only red (category) and green (instance) mean something")
        drawn = [(row, value % _CHANNEL) for row, value in enumerate(values.tolist()) if value % _CHANNEL]
        unknown = sorted({category for _, category in drawn} - {*self.names})
        if unknown:
            raise InputError(f"{path}: red {unknown[:5]} is no category_id of the list of categories; add it there")
        table = np.zeros(len(values), dtype=np.int32)
        table[[row for row, _ in drawn]] = np.arange(1, len(drawn) + 1)
        regions = regions_of_numbers(table[places])
        objects = (SourceObject(self.names[c], regions[number]) for number, (_, c) in enumerate(drawn, 1))
        return SourceLabels(size, tuple(objects))


def _files(path: Path) -> _Files | None:
    """Find the files of the format by their beginnings."""
    if not path.is_dir():
        return None
    jsons = sorted(path.glob("*.json"))
    if len(jsons) > _MOST_JSONS:  # one for each picture, which is another format
        return None
    categories = next((file for file in jsons if _categories(file)), None)
    images = tuple(file for file in jsons if _begins(file) == b"{")
    if categories is None or not images:
        return None
    inner = [f for f in sorted(path.iterdir()) if f.is_dir() and f.name not in _PICTURE_FOLDERS and not is_converted(f)]
    firsts = [(folder, next((p for p in walk(folder) if p.suffix.lower() == ".png"), None)) for folder in inner]
    firsts.append((path, next(path.glob("*.png"), None)))
    maps = next((folder for folder, first in firsts if first and _without_blue(first)), None)
    return _Files(categories, images, maps) if maps else None


def _begins(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(_BEGIN).lstrip()[:1]


def _categories(file: Path) -> Any:
    """Return the list of categories that a JSON is, or has beside images; None where it has none."""
    if file.stat().st_size > _MOST_BYTES:
        return None
    content = read_json(file)
    if isinstance(content, dict) and "images" in content and "annotations" not in content:
        content = content.get("categories")
    listed = isinstance(content, list) and content and all(isinstance(e, dict) and "isthing" in e for e in content)
    return content if listed else None


def _without_blue(file: Path) -> bool:
    """Whether a PNG is RGB and has red or green pixels, but no blue ones."""
    try:
        return 0 < int(read_id_map(file).max(initial=0)) < _CHANNEL**2
    except InputError:
        return False


def _listed(files: Sequence[Path]) -> tuple[list[tuple[dict[str, Any], str | None]], dict[str, Any]]:
    """Return the images of the JSONs without annotations, each with its split, and what else the first one says."""
    found: list[tuple[dict[str, Any], str | None]] = []
    header: dict[str, Any] = {}
    problems = []
    for file in files:
        content = read_json(file)
        if not isinstance(content.get("images"), list) or "annotations" in content:
            continue
        header = header or {key: content[key] for key in ("info", "licenses") if key in content}
        split = _split_of(file)
        for position, entry in enumerate(content["images"]):
            fault = field_fault(entry, _IMAGE)
            problems += [f"{file}: images[{position}]: {fault}"] if fault else []
            found.append((entry, split))
    raise_problems(problems, "the list of images cannot be used:")
    if not found:
        names = ", ".join(file.name for file in files)
        raise InputError(
            f"none of {names} lists images without annotations; give COCO's JSON of images beside the PNGs"
        )
    return found, header


def _split_of(file: Path) -> str | None:
    words = (word.rstrip("0123456789") for word in reversed(file.stem.split("_")))
    return next((split_name(word) for word in words if split_name(word) in ("train", "val", "test")), None)


def _pictures(
    path: Path, maps: Path, listed: Sequence[tuple[dict[str, Any], str | None]], given: Path | None, classes: str
) -> tuple[SourcePicture, ...]:
    usual = next((path / name for name in _PICTURE_FOLDERS if (path / name).is_dir()), path)
    folder = given or usual
    known: dict[str, SourcePicture] = {}
    lacking, unmapped = [], []
    for entry, split in listed:
        stated = PurePosixPath(path_below(entry["file_name"]) or "")
        name, key = str(stated), stated.with_suffix("").as_posix()
        # the converter itself cuts at the first point
        map_path = next((m for stem in (key, name.split(".")[0]) if (m := maps / f"{stem}.png").is_file()), None)
        if not (folder / name).is_file():
            lacking.append(name)
        elif map_path is None:
            unmapped.append(name)
        elif key in known:
            raise InputError(f"{path}: {name!r} stands twice in the lists of images; keep one")
        else:
            extra = {field: value for field, value in entry.items() if field not in _IMAGE}
            payload = (entry["height"], entry["width"], classes)
            known[key] = SourcePicture(key, folder / name, (map_path,), split, entry["id"], payload, extra)
    refuse_missing(lacking, "picture", folder, "put the pictures there, or name their folder (--pictures)")
    refuse_missing(unmapped, "PNG of labels", maps, "put them there, or take their entries out of the list of images")
    return tuple(known.values())
