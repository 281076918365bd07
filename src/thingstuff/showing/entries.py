"""The pictures of a data set as its JSON speaks of them, right or wrong: to be looked at, not to be relied on."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from thingstuff.data.coco import SplitPaths, locate
from thingstuff.evaluation.file_categories import read_categories
from thingstuff.evaluation.picture_side import leads_out
from thingstuff.evaluation.problems import ProblemFile, shown
from thingstuff.io import Kind, Size, field_fault, read_sections
from thingstuff.panoptic import Categories, Color

_IMAGE_ID = Kind("a whole number or text", lambda v: type(v) in (int, str))
_TEXT = Kind("a text", lambda v: type(v) is str and v != "")
_LIST = Kind("a list", lambda v: type(v) is list)
_SIDE = Kind("a whole number above 0", lambda v: type(v) is int and v > 0)
_NOT_LISTED: Color = (255, 0, 200)
_NO_CLASS: Color = (255, 120, 0)


class Entry(NamedTuple):
    """A picture with what the JSON says of it; what it does not say, or says wrongly, is None or empty.

    `size` is the stated (height, width), `infos` the annotation's segments_info as it stands there, unchecked;
    `faults` say what is wrong so far, in words.
    """

    split: str
    image_id: int | str | None
    name: str
    picture: Path | None
    map: Path | None
    size: Size | None
    infos: tuple[Any, ...]
    faults: tuple[str, ...]


@dataclass(frozen=True)
class ShownClasses:
    """The classes of all splits in one list, whose ids are its labels; `label_of` has them by split and category_id.

    The last two stand for ids that a map has and the JSON does not list, and for segments of a class there is not.
    """

    categories: Categories
    label_of: Mapping[str, Mapping[int, int]]

    @property
    def not_listed(self) -> int:
        """The label of what segments_info lacks."""
        return len(self.categories) - 2

    @property
    def no_class(self) -> int:
        """The label of segments whose category_id is none of the classes."""
        return len(self.categories) - 1


def join_classes(by_split: Mapping[str, Categories]) -> ShownClasses:
    """Join the classes of the splits: one that has the same id, name and kind in two of them is the same."""
    labels: dict[tuple[int, str, bool], int] = {}
    names: list[str] = []
    colors: list[Color] = []
    label_of: dict[str, dict[int, int]] = {}
    for split, categories in by_split.items():
        label_of[split] = {}
        rows = zip(categories.ids, categories.names, categories.things, categories.colors, strict=True)
        for category_id, name, thing, color in rows:
            key = (category_id, name, thing)
            if key not in labels:
                labels[key] = len(labels)
                names.append(_free_name(f"{name} ({category_id})" if name in names else name, names))
                colors.append(color)
            label_of[split][category_id] = labels[key]
    names += [_free_name("not listed", names), _free_name("no such class", names)]
    things = (*(thing for _, _, thing in labels), False, False)
    joined = Categories(tuple(names), things, tuple(range(len(names))), (*colors, _NOT_LISTED, _NO_CLASS))
    return ShownClasses(joined, label_of)


def read_entries(data: Path, split: str) -> tuple[Categories, list[Entry]]:
    """Read a split's usable classes and all its pictures, in the order of the JSON.

    Raises `InputError` where the split is not there or its JSON is none of COCO panoptic's.
    """
    paths = locate(data, split)
    images, annotations, classes = read_sections(paths.json, ("images", "annotations", "categories"))
    categories = read_categories(classes, ProblemFile([], paths.json)).categories
    labelled, strays = _by_picture(annotations)
    entries, seen = [], set()
    for position, image in enumerate(images):
        image_id = image["id"] if field_fault(image, {"id": _IMAGE_ID}) is None else None
        if image_id is not None and image_id in seen:
            continue
        seen.add(image_id)
        entries.append(_entry(paths, split, position, image, image_id, labelled.get(image_id)))
    others = [a for image_id, a in labelled.items() if image_id not in seen]
    entries += [_without_picture(paths, split, annotation) for annotation in (*others, *strays)]
    return categories, entries


def _free_name(name: str, taken: Iterable[str]) -> str:
    while name in taken:
        name = f"{name}'"
    return name


def _by_picture(
    annotations: Sequence[Any],
) -> tuple[dict[int | str | None, Mapping[str, Any]], list[Mapping[str, Any]]]:
    """Return the first annotation of each picture, and those that name none."""
    labelled: dict[int | str | None, Mapping[str, Any]] = {}
    strays: list[Mapping[str, Any]] = []
    for annotation in annotations:
        if field_fault(annotation, {"image_id": _IMAGE_ID}) is None:
            labelled.setdefault(annotation["image_id"], annotation)
        elif isinstance(annotation, dict):
            strays.append(annotation)
    return labelled, strays


def _entry(
    paths: SplitPaths,
    split: str,
    position: int,
    image: Any,
    image_id: int | str | None,
    annotation: Mapping[str, Any] | None,
) -> Entry:
    expected = {"id": _IMAGE_ID, "file_name": _TEXT, "height": _SIDE, "width": _SIDE}
    fault = field_fault(image, expected)
    faults = [f"{paths.json}: images[{position}]: {fault}"] if fault else []
    picture = _file(paths.pictures, image, faults) if isinstance(image, dict) else None
    size = None
    if isinstance(image, dict) and field_fault(image, {"height": _SIDE, "width": _SIDE}) is None:
        size = (image["height"], image["width"])
    if annotation is None:
        faults.append(f"{paths.json}: the picture has no annotation; add one (segments_info may be [])")
    map_path, infos = _labels(paths, annotation, faults)
    name = _name(image) or _name(annotation) or f"images[{position}]"
    return Entry(split, image_id, name, picture, map_path, size, infos, tuple(faults))


def _without_picture(paths: SplitPaths, split: str, annotation: Mapping[str, Any]) -> Entry:
    faults = [f"{paths.json}: the annotation's picture is not in images; add it there or remove the annotation"]
    map_path, infos = _labels(paths, annotation, faults)
    image_id = annotation.get("image_id")
    usable = image_id if _IMAGE_ID.holds(image_id) else None
    return Entry(split, usable, _name(annotation) or shown(image_id), None, map_path, None, infos, tuple(faults))


def _labels(
    paths: SplitPaths, annotation: Mapping[str, Any] | None, faults: list[str]
) -> tuple[Path | None, tuple[Any, ...]]:
    if annotation is None:
        return None, ()
    fault = field_fault(annotation, {"file_name": _TEXT, "segments_info": _LIST})
    if fault:
        faults.append(f"{paths.json}: annotation: {fault}")
    infos = annotation.get("segments_info")
    return _file(paths.maps, annotation, faults), tuple(infos) if isinstance(infos, list) else ()


def _file(folder: Path, entry: Mapping[str, Any], faults: list[str]) -> Path | None:
    """Return the file that an entry names, None where it names none; what lies outside of the folder is left alone."""
    name = _name(entry)
    if name is None:
        return None
    if leads_out(name):
        faults.append(f"file_name {shown(name)} leads out of {folder}; correct it")
        return None
    return folder / name


def _name(entry: Any) -> str | None:
    return entry["file_name"] if isinstance(entry, dict) and _TEXT.holds(entry.get("file_name")) else None
