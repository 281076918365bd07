"""Reading COCO instances: polygons, run lengths, crowds; of stuff too where a folder of semantic PNGs gives it.

Layouts: annotations/instances_{split}.json with {split}/ or images/ (COCO, CVAT, Label Studio), instances_{split}.json
beside {split}/, {split}/_annotations.coco.json beside its pictures (Roboflow), any other such JSON by itself.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from thingstuff.convert.coco_files import (
    IMAGE_ID,
    LISTS,
    WHOLE,
    CocoImage,
    bases_of,
    ends_of,
    find_pictures_of,
    joined_classes,
    read_classes,
    read_images,
    read_lists,
    refuse_absent,
    split_names,
)
from thingstuff.convert.coco_stuff import SemanticStuff, exported_maps, find_maps, names_in, stuff_of
from thingstuff.convert.label_maps import split_name
from thingstuff.convert.picture_files import keys_apart, picture_size
from thingstuff.convert.shapes import LARGEST_NUMBER, polygon_region, rle_region
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
from thingstuff.errors import InputError, raise_problems
from thingstuff.io import LARGEST_ID, Kind, check_picture_size, field_fault

_FORMAT = "coco-instances"
_FLAG = Kind("0 or 1", lambda v: type(v) in (int, bool) and v in (0, 1))
_SEGMENT_ID = Kind(f"a whole number from 1 to {LARGEST_ID}", lambda v: type(v) is int and 0 < v <= LARGEST_ID)
_ROBOFLOW = "_annotations.coco.json"
_CALLED = re.compile(r"(?:train|training|val|valid|validation|test|testing)(?:20\d\d)?", re.IGNORECASE)
_UNSPLIT = "default"  # of CVAT's export, where nobody named subsets
_CROWDED = 0.1  # of COCO's own annotations 1 in 100 is a crowd
_MASKS_AS_CROWDS = (
    "are crowds (iscrowd), which evaluation leaves aside; CVAT's COCO export says so of every brushed mask: are they "
    "single objects, export 'CVAT for images' instead"
)
_MANY = 20  # JSONs in a folder: no longer a file for each split
# what COCO's own annotations have, and what we take elsewhere; the rest is kept as marks
_STANDARD_FIELDS = frozenset(
    {"id", "image_id", "category_id", "segmentation", "area", "bbox", "iscrowd", "isthing", "segment_id"}
    | {"keypoints", "num_keypoints", "ignore"}
)
_LINE = "polygon of less than three corners"


class _Json(NamedTuple):
    """A JSON, and its split as its name has it (instances_train2017: train2017) and as we call it (train)."""

    path: Path
    name: str | None
    split: str | None


class _Opened(NamedTuple):
    """What a JSON holds: its pictures, its classes, the names of those that annotations use, and its other fields."""

    pictures: list[SourcePicture]
    classes: list[SourceClass]
    used: set[str]
    header: dict[str, Any]
    notes: tuple[str, ...]


class _Grouped(NamedTuple):
    """Each picture's annotations as JSON text, the category ids that they use, and how many of them are crowds."""

    texts: dict[int | str, str]
    used: set[int]
    crowds: int


class Payload(NamedTuple):
    """A picture's (height, width), None where the JSON does not say, and its annotations as JSON text.

    As text they take a fraction of the memory, and of the time to another process, that lists of numbers take. `stuff`
    is another text where the picture's semantic PNG is to be read otherwise.
    """

    size: Size | None
    annotations: str
    stuff: str = ""


@dataclass(frozen=True)
class Reader:
    """Reads a picture's annotations, and its stuff where there are semantic PNGs; `jsons` are the files by split."""

    jsons: Mapping[str | None, Path]
    stuff: SemanticStuff | None

    def __call__(self, picture: SourcePicture) -> SourceLabels:
        """Return a picture's objects; raises one `InputError` for all annotations that cannot be used."""
        payload: Payload = picture.payload
        refuse_absent(picture)
        size = payload.size or picture_size(picture.picture)
        check_picture_size(picture.picture, size)  # first: a wrong one may be larger than memory
        objects: list[SourceObject] = []
        ignored: tuple[Region, ...] = ()
        notes: list[str] = []
        problems: list[str] = []
        if self.stuff is not None and picture.labels:
            below = self.stuff.read(picture.labels[0], size)
            objects, ignored, notes = [*below.objects], below.ignored, [*below.notes]
        for entry in json.loads(payload.annotations):
            try:
                region = _region(entry["segmentation"], size, notes)
            except InputError as error:
                problems.append(f"annotation {entry['id']}: segmentation: {error}; correct or remove it")
                continue
            if region is not None:
                crowd, own = bool(entry["iscrowd"]), entry["segment_id"]
                objects.append(SourceObject(entry["name"], region, crowd, own, marks=entry["marks"]))
        raise_problems(problems, f"{self.jsons[picture.split]}: image {picture.image_id} cannot be used:")
        return SourceLabels(size, tuple(objects), ignored, tuple(notes))


def recognise(path: Path) -> str | None:
    """Return why a path holds COCO instances: the first JSON that has polygons or run lengths of images."""
    if path.is_file():
        return f"{path.name} lists segmentations of images" if _is_instances(path) else None
    found = next((json_path for json_path in _candidates(path) if _is_instances(json_path)), None)
    return f"{found.relative_to(path).as_posix()} lists segmentations of images" if found else None


def open_source(path: Path, reason: str, options: SourceOptions) -> Source:
    """Open a JSON, or all those of a folder, one for each split; stuff that our own export put beside it is read too.

    Raises `InputError` where there is none, one is faulty (up to ten faults told, the rest counted), two are of one
    split, or all pictures are missing.
    """
    jsons = _jsons(path)
    exported = exported_maps(jsons[0].path.parent, [entry.name for entry in jsons]) if not options.semantic else ()
    semantic = jsons[0].path.parent if exported else options.semantic
    if exported:
        reason = f"{reason}, with stuff from {', '.join(f'{folder.name}/' for folder in exported)}"
    options.refuse_unused(_FORMAT, "pictures", *(("semantic", "names") if semantic else ()))
    opened = [_open(entry, options.pictures) for entry in jsons]
    joined = joined_classes([(e.path, o.classes) for e, o in zip(jsons, opened, strict=True)])
    pictures = keys_apart([picture for part in opened for picture in part.pictures], [entry.split for entry in jsons])
    header = {key: value for part in reversed(opened) for key, value in part.header.items()}
    notes = (*joined.notes, *(note for part in opened for note in part.notes))
    paths = {entry.split: entry.path for entry in jsons}
    if semantic is None:
        classes = tuple(c if c.isthing is not None else c._replace(isthing=True) for c in joined.classes)
        return Source(_FORMAT, reason, classes, pictures, Reader(paths, None), header, notes)
    used = {name for part in opened for name in part.used}
    stuff, classes = stuff_of(joined.classes, used, options.names or names_in(semantic))
    told = stuff.digest()
    pictures = tuple(p._replace(payload=p.payload._replace(stuff=told)) for p in pictures)
    found = find_maps(semantic, pictures, {entry.split: entry.name for entry in jsons})
    return Source(_FORMAT, reason, classes, found.pictures, Reader(paths, stuff), header, notes + found.notes)


def _candidates(folder: Path) -> list[Path]:
    """Return the JSONs of a folder that are named as COCO's or Roboflow's, else the few there are that look so."""
    places = [folder / "annotations", folder]
    named = [path for place in places for path in sorted(place.glob("instances_*.json"))]
    named = named or [path for pattern in (_ROBOFLOW, f"*/{_ROBOFLOW}") for path in sorted(folder.glob(pattern))]
    if named:
        return named
    every = [path for place in places for path in sorted(place.glob("*.json"))]
    return [path for path in every if _is_instances(path)] if len(every) <= _MANY else []


def _is_instances(path: Path) -> bool:
    ends = ends_of(path)
    if not ends.lstrip("\ufeff \t\r\n").startswith("{") or '"segments_info"' in ends:
        return False
    # in a large file annotations may be neither at its begin nor at its end; then the name has to do
    named = path.name.startswith("instances_") or path.name == _ROBOFLOW
    words = {word for word in ("images", "annotations", "categories") if f'"{word}"' in ends}
    return ('"segmentation"' in ends and '"image_id"' in ends) or (named and bool(words))


def _jsons(path: Path) -> list[_Json]:
    paths = [path] if path.is_file() else _candidates(path)
    if not paths:
        raise InputError(
            f"{path} holds no JSON of COCO instances, such as annotations/instances_train.json; give the JSON itself"
        )
    names = [_called(json_path) for json_path in paths]
    splits = split_names(name for name in names if name and name != _UNSPLIT)
    found = [_Json(p, n, split_name(splits[n]) if n in splits else None) for p, n in zip(paths, names, strict=True)]
    of: dict[str | None, Path] = {}
    for entry in found:
        if (twin := of.setdefault(entry.split, entry.path)) != entry.path:
            what = f"of split {entry.split!r}" if entry.split else "without a split in their names"
            raise InputError(f"{twin} and {entry.path} are both {what}; give one of them, or name them instances_SPLIT")
    return found


def _called(path: Path) -> str | None:
    """Return what a JSON's name calls its split: instances_X says so, elsewhere train, val and test are looked for."""
    if path.name == _ROBOFLOW:
        return path.parent.name if _CALLED.fullmatch(path.parent.name) else None
    if path.stem.startswith("instances_"):
        return path.stem.removeprefix("instances_") or None
    return next((part for part in re.split(r"[._ -]", path.stem) if _CALLED.fullmatch(part)), None)


def _open(entry: _Json, pictures: Path | None) -> _Opened:
    path = entry.path
    data = read_lists(path, "COCO instances")
    images, classes = read_images(path, data["images"]), read_classes(path, data["categories"])
    if not images or not classes:
        raise InputError(f"{path}: the list of {'images' if classes else 'categories'} is empty; add them")
    count = len(data["annotations"])
    grouped = _group(path, data.pop("annotations"), images, classes)
    root = path.parent.parent if path.parent.name == "annotations" else path.parent
    bases = bases_of(root, path.parent, (entry.name, entry.split), pictures)
    found = find_pictures_of(path, images.values(), bases, entry.split)
    of = [
        SourcePicture(*found[i], (), entry.split, i, Payload(image.size, grouped.texts.get(i, "[]")), image.extra)
        for i, image in images.items()
    ]
    header = {key: value for key, value in data.items() if key not in LISTS}
    kept = _without_twins(path, classes.values(), grouped.used)
    notes = [
        f"category {c.id} in {path} is named {c.name!r} as another one is, no annotation uses it, and it is left aside"
        for c in classes.values()
        if c not in kept
    ]
    if grouped.crowds > _CROWDED * count:
        notes.append(f"{grouped.crowds:,} of {count:,} annotations in {path} {_MASKS_AS_CROWDS}")
    return _Opened(of, kept, {classes[i].name for i in grouped.used}, header, tuple(notes))


def _group(
    path: Path, annotations: Sequence[Any], images: Mapping[int | str, CocoImage], classes: Mapping[int, SourceClass]
) -> _Grouped:
    """Check annotations and sort them by picture."""
    problems: list[str] = []
    grouped: defaultdict[int | str, list[dict[str, Any]]] = defaultdict(list)
    used, crowds = set[int](), 0
    for position, entry in enumerate(annotations):
        fault = field_fault(entry, {"image_id": IMAGE_ID, "category_id": WHOLE}) or _optional_fault(entry)
        if not fault and entry["image_id"] not in images:
            fault = f"image_id {entry['image_id']!r} is not in images; add it there or remove the annotation"
        if not fault and entry["category_id"] not in classes:
            fault = f"category_id {entry['category_id']} is not in categories; add it there or correct it"
        if fault:
            own = f" (id {entry['id']})" if isinstance(entry, dict) and "id" in entry else ""
            problems.append(f"{path}: annotations[{position}]{own}: {fault}")
            continue
        used.add(entry["category_id"])
        crowds += entry.get("iscrowd", 0)
        grouped[entry["image_id"]].append(
            {
                "id": entry.get("id", f"at position {position}"),
                "name": classes[entry["category_id"]].name,
                "segmentation": entry.get("segmentation"),
                "iscrowd": int(entry.get("iscrowd", 0)),
                "segment_id": entry.get("segment_id"),
                "marks": {key: value for key, value in entry.items() if key not in _STANDARD_FIELDS},
            }
        )
    raise_problems(problems, f"{path} cannot be used:")
    return _Grouped({image_id: json.dumps(entries) for image_id, entries in grouped.items()}, used, crowds)


def _optional_fault(entry: Mapping[str, Any]) -> str | None:
    kinds = {"iscrowd": _FLAG, "segment_id": _SEGMENT_ID}
    return field_fault(entry, {key: kind for key, kind in kinds.items() if key in entry})


def _without_twins(path: Path, classes: Iterable[SourceClass], used: set[int]) -> list[SourceClass]:
    """Return the classes without those that share another's name and no annotation uses.

    Roboflow lists the name of a project as category 0, which is often that of its class too.
    """
    kept: dict[str, SourceClass] = {}
    for entry in classes:
        twin = kept.setdefault(entry.name, entry)
        if twin is entry or entry.id not in used:
            continue
        if twin.id in used:
            raise InputError(f"{path}: categories {twin.id} and {entry.id} are both named {entry.name!r}; rename one")
        kept[entry.name] = entry
    return list(kept.values())


def _region(segmentation: Any, size: Size, notes: list[str]) -> Region | None:
    """Return the pixels of a segmentation; None, and why in `notes`, where it has no area by its kind."""
    if not segmentation:
        notes.append(BOX_ALONE)
        return None
    if isinstance(segmentation, dict):
        return _of_runs(segmentation, size)
    if not isinstance(segmentation, list):
        raise InputError(f"{segmentation!r:.60} is neither polygons nor run lengths")
    pieces = segmentation if isinstance(segmentation[0], list) else [segmentation]
    for piece in pieces:
        if not isinstance(piece, list) or not all(type(v) in (int, float) and abs(v) < LARGEST_NUMBER for v in piece):
            raise InputError(f"the polygon {piece!r:.60} is no list of finite numbers")
    polygons = [[float(v) for v in piece] for piece in pieces if len(piece) >= 6 or len(piece) % 2]
    notes += [_LINE] * (len(pieces) - len(polygons))
    return polygon_region(polygons, size) if polygons else None


def _of_runs(segmentation: Mapping[str, Any], size: Size) -> Region:
    counts, stated = segmentation.get("counts"), segmentation.get("size")
    if not isinstance(counts, list) and not (isinstance(counts, str) and counts.isascii()):
        raise InputError("run lengths need 'counts', a text or a list of numbers")
    if stated != list(size):
        raise InputError(f"run lengths of the size {stated!r:.60}, but the picture's [height, width] is {list(size)}")
    return rle_region(counts, size)
