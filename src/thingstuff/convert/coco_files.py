"""What COCO's JSON files have in common: recognising them, their splits, categories and pictures."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

from thingstuff.convert.source import SourceClass, SourcePicture
from thingstuff.errors import InputError, raise_problems
from thingstuff.io import Kind, field_fault, read_json

WHOLE = Kind("a whole number", lambda v: type(v) is int)
TEXT = Kind("a text", lambda v: type(v) is str and v.strip() != "")
IMAGE_ID = Kind("a whole number or text", lambda v: type(v) in (int, str))
LISTS = ("images", "annotations", "categories")
STANDARD_IMAGE_FIELDS = frozenset({"id", "file_name", "width", "height"})
_SIDE = Kind("a whole number above 0", lambda v: type(v) is int and v > 0)
_THING = Kind("0 or 1", lambda v: type(v) in (int, bool) and v in (0, 1))
_END = 1 << 16  # bytes read from a file's either end to recognise it
_YEAR = re.compile(r"(?<=[a-z])20\d\d$")
_TOLD = 3


class CocoImage(NamedTuple):
    """A picture as a JSON lists it; its size is None where the JSON does not say, `extra` are its further fields."""

    id: int | str
    file_name: str
    size: tuple[int, int] | None
    extra: Mapping[str, Any]


class Classes(NamedTuple):
    """The classes of several JSONs, joined by name; what differs between the JSONs stands in `notes`."""

    classes: tuple[SourceClass, ...]
    notes: tuple[str, ...]


def ends_of(path: Path) -> str:
    """Return a file's first and last 64 KiB as text, nothing where it cannot be read."""
    try:
        if not path.is_file():
            return ""
        with path.open("rb") as file:
            first = file.read(_END)
            length = file.seek(0, 2)
            file.seek(max(len(first), length - _END))
            return (first + file.read(_END)).decode("utf-8", errors="replace")
    except OSError:
        return ""


def split_names(names: Iterable[str]) -> dict[str, str]:
    """Return what each split is called: without its year (train2017: train), unless two would then be one."""
    bare = {name: _YEAR.sub("", name) for name in names}
    return bare if len({*bare.values()}) == len(bare) else {name: name for name in bare}


def read_lists(path: Path, what: str) -> dict[str, Any]:
    """Return a JSON with the lists `LISTS`; raises `InputError`, in which `what` names the format, where it is not."""
    data = read_json(path)
    if not isinstance(data, dict) or not all(isinstance(data.get(key), list) for key in LISTS):
        raise InputError(f"{path} is no {what} JSON: an object with the lists {', '.join(LISTS)} was expected")
    return data


def read_images(path: Path, entries: Sequence[Any]) -> dict[int | str, CocoImage]:
    """Return the `images` of a JSON by their id.

    Raises one `InputError` that lists up to ten faulty entries and counts the rest.
    """
    problems: list[str] = []
    found: dict[int | str, CocoImage] = {}
    for position, entry in enumerate(entries):
        fault = field_fault(entry, {"id": IMAGE_ID, "file_name": TEXT})
        if not fault and not {"height", "width"}.isdisjoint(entry):
            fault = field_fault(entry, {"height": _SIDE, "width": _SIDE})
        if fault:
            problems.append(f"{path}: images[{position}]: {fault}")
        elif entry["id"] in found:
            problems.append(f"{path}: image {entry['id']}: stands twice in images; keep one")
        else:
            size = (entry["height"], entry["width"]) if "height" in entry else None
            extra = {key: value for key, value in entry.items() if key not in STANDARD_IMAGE_FIELDS}
            found[entry["id"]] = CocoImage(entry["id"], entry["file_name"], size, extra)
    raise_problems(problems, f"{path} cannot be used:")
    return found


def read_classes(path: Path, entries: Sequence[Any]) -> dict[int, SourceClass]:
    """Return the `categories` of a JSON by their id; names may still repeat.

    Raises one `InputError` that lists up to ten faulty entries and counts the rest.
    """
    problems: list[str] = []
    found: dict[int, SourceClass] = {}
    for position, entry in enumerate(entries):
        fault = field_fault(entry, {"id": WHOLE, "name": TEXT})
        if not fault and entry.get("isthing") is not None:
            fault = field_fault(entry, {"isthing": _THING})
        if fault:
            problems.append(f"{path}: categories[{position}]: {fault}")
        elif entry["id"] in found:
            problems.append(f"{path}: category {entry['id']}: stands twice in categories; give each its own id")
        else:
            isthing = entry.get("isthing")
            color = entry.get("color")
            drawn = type(color) is list and len(color) == 3 and all(type(c) is int and 0 <= c <= 255 for c in color)
            found[entry["id"]] = SourceClass(
                entry["name"], entry["id"], None if isthing is None else bool(isthing), tuple(color) if drawn else None
            )
    raise_problems(problems, f"{path} cannot be used:")
    return found


def joined_classes(parts: Sequence[tuple[Path, Iterable[SourceClass]]]) -> Classes:
    """Join the classes of several JSONs by name: the first that speaks of a class gives its id, kind and colour.

    Raises `InputError` where a class is a thing in one and stuff in another.
    """
    found: dict[str, tuple[Path, SourceClass]] = {}
    notes: list[str] = []
    for path, classes in parts:
        for entry in classes:
            first_path, first = found.setdefault(entry.name, (path, entry))
            if first.isthing != entry.isthing and None not in (first.isthing, entry.isthing):
                kinds = " and ".join(
                    f"{'a thing' if c.isthing else 'stuff'} in {p}" for p, c in ((first_path, first), (path, entry))
                )
                raise InputError(f"category {entry.name!r} is {kinds}; correct isthing in one of them")
            if first.id != entry.id:
                notes.append(
                    f"{entry.name!r} has the id {entry.id} in {path}, {first.id} in {first_path}, which is kept"
                )
            if first.isthing is None:
                found[entry.name] = (first_path, first._replace(isthing=entry.isthing))
    taken: dict[int | None, str] = {}
    kept = []
    for name, (path, entry) in found.items():
        holder = taken.setdefault(entry.id, name)
        if entry.id is not None and holder != name:
            notes.append(f"the id {entry.id} of {name!r} in {path} is that of {holder!r} elsewhere: it gets another")
            entry = entry._replace(id=None)
        kept.append(entry)
    return Classes(tuple(kept), tuple(notes))


def find_pictures_of(
    json_path: Path, images: Iterable[CocoImage], bases: Sequence[Path], split: str | None
) -> dict[int | str, tuple[str, Path]]:
    """Return the key and the file of each picture by its image id; it lies in the first of the folders that has it.

    Some JSONs state their split's folder with each name; it is no part of the key. Of one that is in none of them the
    file is where most others lie, which `refuse_absent` tells when its turn comes.
    Raises `InputError` where that is so of all pictures, or two would have the same key.
    """
    found: dict[int | str, tuple[str, Path]] = {}
    names: dict[str, str] = {}
    missing: dict[int | str, PurePosixPath] = {}
    lie_in = Counter[Path]()
    for image in images:
        name = _relative(image.file_name)
        places = [(base, base / inner) for inner in (name, PurePosixPath(name.name)) for base in bases]
        base, picture = next((place for place in places if place[1].is_file()), (None, Path(name)))
        if base is None:
            missing[image.id] = name
        else:
            lie_in[base] += 1
        key = (PurePosixPath(name.name) if ".." in name.parts else name).with_suffix("").as_posix()
        key = key.removeprefix(f"{split}/")
        if key in names:
            told = f"{names[key]!r} and {image.file_name!r}"
            raise InputError(f"{json_path}: the pictures {told} are one or differ in their suffix alone; keep one")
        names[key] = image.file_name
        found[image.id] = (key, picture)
    if missing and not lie_in:
        told = ", ".join(map(str, [*missing.values()][:_TOLD]))
        more = f" and {len(missing) - _TOLD} more" if len(missing) > _TOLD else ""
        raise InputError(
            f"{json_path}: pictures are not there: {told}{more}; looked for in {', '.join(map(str, bases))}; put them "
            "there, take them out of the JSON, or name their folder (--pictures)"
        )
    return found | {i: (found[i][0], lie_in.most_common(1)[0][0] / name) for i, name in missing.items()}


def refuse_absent(picture: SourcePicture) -> None:
    """Raise `InputError` where a picture that a JSON lists is not there."""
    if not picture.picture.is_file():
        raise InputError(
            f"{picture.picture} is not there; put it there, take it out of the JSON, or name the folder of the "
            "pictures (--pictures)"
        )


def bases_of(root: Path, beside: Path, names: Iterable[str | None], given: Path | None) -> list[Path]:
    """Return the folders in which a JSON's pictures may lie: the one given alone, else those of the known layouts.

    `root` is the data set's folder, `beside` the JSON's, `names` what the split is called.
    """
    named = [name for name in dict.fromkeys(names) if name]
    if given is not None:
        folders = [*(given / name for name in named), given]
    else:
        images = [root / "images", root / "JPEGImages"]
        folders = [beside, *(root / n for n in named), *(i / n for i in images for n in named), *images, root]
    return [folder for folder in dict.fromkeys(folders) if folder.is_dir()]


def _relative(file_name: str) -> PurePosixPath:
    """Return a file name as a path with forward slashes; of one from another machine's root only the name."""
    path = PureWindowsPath(file_name)
    return PurePosixPath(path.name if path.anchor else path.as_posix())
