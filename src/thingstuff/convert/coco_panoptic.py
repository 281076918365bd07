"""Reading COCO panoptic: every split of a data set, or one JSON with its folder of id maps.

Nothing is lost: ids, kinds, colours, crowds, segment ids and further fields stay; void stays unlabelled.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from thingstuff.convert.coco_files import (
    LISTS,
    STANDARD_IMAGE_FIELDS,
    CocoImage,
    bases_of,
    ends_of,
    find_pictures_of,
    joined_classes,
    read_lists,
    refuse_absent,
    split_names,
)
from thingstuff.convert.painting import areas_and_boxes
from thingstuff.convert.picture_files import keys_apart
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
from thingstuff.data.coco import Record, SplitPaths, id_faults, locate, parse_ground_truth, splits
from thingstuff.errors import InputError, raise_problems
from thingstuff.io import read_id_map
from thingstuff.panoptic import Categories

_STANDARD_FIELDS = frozenset({"id", "category_id", "area", "bbox", "iscrowd", "isthing"})
_YAML_KEYS = {"pictures", "maps", "json"}


class Drawn(NamedTuple):
    """A segment of a picture's id map: its id there, the name of its class, its further fields."""

    id: int
    name: str
    iscrowd: bool
    marks: Mapping[str, Any]


class Payload(NamedTuple):
    """What the JSON says of a picture: (height, width) and its segments."""

    size: Size
    segments: tuple[Drawn, ...]


class _Part(NamedTuple):
    """A split: its name as the files have it ("" where they do not say), its files, and where its pictures may lie."""

    name: str
    paths: SplitPaths
    bases: list[Path]


def recognise(path: Path) -> str | None:
    """Return why a path holds COCO panoptic: a JSON that lists segments with a folder of maps, or our own YAML."""
    if path.is_dir():
        found = next((json for json in _jsons(path) if _maps_of(json, path) is not None), None)
        return f"{found.relative_to(path)} lies with its folder of id maps" if found else None
    if path.suffix.lower() in (".yaml", ".yml"):
        return f"{path.name} names pictures, maps and json" if _is_our_yaml(path) else None
    return f"{path.name} lists segments_info" if '"segments_info"' in ends_of(path) else None


def open_source(path: Path, reason: str, options: SourceOptions) -> Source:
    """Open every split of a data set, or the one of a JSON.

    Raises `InputError` where files are missing or a JSON is faulty (up to ten faults told, the rest counted).
    """
    options.refuse_unused("coco-panoptic", "pictures")
    parts = _parts(path, options.pictures)
    names = split_names(part.name for part in parts)
    classes, pictures = [], []
    header: dict[str, Any] = {}
    for part in parts:
        raw = read_lists(part.paths.json, "COCO panoptic")
        categories, records, problems = parse_ground_truth(part.paths, *(raw[key] for key in LISTS))
        raise_problems(problems, f"{part.paths.json} cannot be used:")
        pictures += _pictures(part, names[part.name] or None, categories, records, raw)
        classes.append((part.paths.json, _classes(categories, raw)))
        header = {**{key: value for key, value in raw.items() if key not in LISTS}, **header}
    joined = joined_classes(classes)
    found = keys_apart(pictures, [name or None for name in names.values()])
    return Source("coco-panoptic", reason, joined.classes, found, read, header, joined.notes)


def read(picture: SourcePicture) -> SourceLabels:
    """Read a picture's map as one object for each segment.

    Raises `InputError` where picture or map are missing, or the map is damaged or disagrees with the JSON.
    """
    refuse_absent(picture)
    size, segments = picture.payload
    map_path = picture.labels[0]
    ids = read_id_map(map_path)
    if ids.shape != size:
        raise InputError(
            f"{map_path} is {ids.shape[1]} wide and {ids.shape[0]} high, but the JSON says {size[1]} wide and "
            f"{size[0]} high; put the right map there or correct the JSON"
        )
    listed = [segment.id for segment in segments]
    measured = areas_and_boxes(ids, listed)
    present = {segment_id for segment_id, (area, _) in zip(listed, measured, strict=True) if area}
    covered = sum(area for area, _ in measured)
    if covered + int((ids == 0).sum()) != ids.size:
        present |= {int(value) for value in set(ids.ravel().tolist())}
    raise_problems(
        id_faults(present | {0}, listed, map_path),
        f"map and JSON disagree in image {picture.image_id} (thingstuff check --fix mends that):",
    )
    objects = []
    for segment, (_, (x, y, width, height)) in zip(segments, measured, strict=True):
        region = Region(y, x, ids[y : y + height, x : x + width] == segment.id)
        objects.append(SourceObject(segment.name, region, segment.iscrowd, segment.id, marks=segment.marks))
    return SourceLabels(size, tuple(objects))


def _jsons(data: Path) -> list[Path]:
    folders = [folder for folder in (data, data / "annotations") if folder.is_dir()]
    return sorted(path for folder in folders for path in folder.glob("panoptic_*.json") if path.is_file())


def _maps_of(json: Path, root: Path) -> Path | None:
    """Return the folder of a JSON's maps: beside it by its name, in the data set's folder, or panoptic/ beside it."""
    candidates = (json.with_suffix(""), root / json.stem, json.parent / "panoptic")
    return next((folder for folder in candidates if folder.is_dir()), None)


def _is_our_yaml(path: Path) -> bool:
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError):
        return False
    named = isinstance(entries, dict) and bool(entries)
    return named and all(isinstance(entry, dict) and {*entry} == _YAML_KEYS for entry in entries.values())


def _parts(path: Path, pictures: Path | None) -> list[_Part]:
    if path.is_file() and path.suffix.lower() in (".yaml", ".yml"):
        located = [(name, locate(path, name)) for name in splits(path)]
        return [_Part(name, paths, [pictures or paths.pictures]) for name, paths in located]
    jsons = [path] if path.is_file() else _jsons(path)
    if not jsons:
        raise InputError(
            f"{path} holds no panoptic_{{split}}.json, neither itself nor in annotations/; give the folder or the JSON"
        )
    return [_part(json, pictures) for json in jsons]


def _part(json: Path, pictures: Path | None) -> _Part:
    root = json.parent.parent if json.parent.name == "annotations" else json.parent
    maps = _maps_of(json, root)
    if maps is None:
        raise InputError(
            f"the folder of id maps {json.with_suffix('')} of {json} is not there; unpack it beside the JSON"
        )
    name = json.stem.removeprefix("panoptic_") if json.stem != "panoptic" else ""
    bases = bases_of(root, json.parent, (name, *split_names([name]).values()), pictures)
    return _Part(name, SplitPaths(root / name, maps, json), bases)


def _classes(categories: Categories, raw: Mapping[str, Any]) -> list[SourceClass]:
    """Return the classes; colours that the JSON does not give stay open, so that a new set may spread them."""
    drawn = [entry.get("color") is not None for entry in raw["categories"]]
    rows = zip(categories.names, categories.ids, categories.things, categories.colors, drawn, strict=True)
    return [SourceClass(name, i, thing, color if own else None) for name, i, thing, color, own in rows]


def _pictures(
    part: _Part, split: str | None, categories: Categories, records: Iterable[Record], raw: Mapping[str, Any]
) -> list[SourcePicture]:
    records = list(records)
    fields = {entry["id"]: entry for entry in raw["images"]}
    infos = {entry["image_id"]: entry["segments_info"] for entry in raw["annotations"]}
    images = [CocoImage(r.image_id, r.file_name, (r.height, r.width), {}) for r in records]
    found = find_pictures_of(part.paths.json, images, part.bases, split)
    pictures = []
    for record in records:
        key, picture = found[record.image_id]
        segments = tuple(
            Drawn(s.id, categories.names[s.label], s.iscrowd, _further(info, _STANDARD_FIELDS))
            for s, info in zip(record.segments, infos[record.image_id], strict=True)
        )
        pictures.append(
            SourcePicture(
                key,
                picture,
                (record.map,),
                split,
                record.image_id,
                Payload((record.height, record.width), segments),
                _further(fields[record.image_id], STANDARD_IMAGE_FIELDS),
            )
        )
    return pictures


def _further(entry: Mapping[str, Any], standard: frozenset[str]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key not in standard}
