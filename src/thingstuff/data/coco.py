"""COCO panoptic data sets: finding a split's files, checking its JSON, reading pictures and maps.

Letters: H W pixels of a picture.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from jaxtyping import Int32, UInt8

from thingstuff.data.map_runs import MapRuns, map_runs
from thingstuff.errors import InputError, raise_problems
from thingstuff.io import (
    LARGEST_ID,
    Kind,
    check_picture_size,
    field_fault,
    id_map_size,
    read_id_map,
    read_picture,
    read_sections,
)
from thingstuff.panoptic import VOID, Categories, Panoptic, Segment

_WHOLE = Kind("a whole number", lambda v: type(v) is int)
_POSITIVE = Kind("a whole number above 0", lambda v: type(v) is int and v > 0)
_SEGMENT_ID = Kind(
    f"a whole number from 1 to {LARGEST_ID} (0 is void)", lambda v: type(v) is int and 0 < v <= LARGEST_ID
)
_IMAGE_ID = Kind("a whole number or text", lambda v: type(v) in (int, str))
_TEXT = Kind("a text", lambda v: type(v) is str and v != "")
_LIST = Kind("a list", lambda v: type(v) is list)
_FLAG = Kind("0 or 1", lambda v: type(v) in (int, bool) and v in (0, 1))
_AREA = Kind("a number of pixels", lambda v: type(v) in (int, float) and v >= 0 and v == v // 1)
_LAYOUT = "DATA/{split}/, DATA/panoptic_{split}/ and DATA/panoptic_{split}.json"

FILLED = "filled"
"""Field of a segment in `segments_info` that says by which model it was filled in; without it a person drew it."""


@dataclass(frozen=True)
class SplitPaths:
    """Where one split lies: the folder of pictures, the folder of id maps, the JSON file."""

    pictures: Path
    maps: Path
    json: Path


# NamedTuples, not dataclasses: a large data set holds millions, and they pickle several times faster to the workers.
class SegmentInfo(NamedTuple):
    """A ground-truth segment as the JSON states it; `label` is its position in `Categories`, `area` in pixels.

    `filled` says that a model filled it in.
    """

    id: int
    label: int
    iscrowd: bool
    area: int
    filled: bool = False


class Record(NamedTuple):
    """One picture of a data set, its id map and its segments, as the JSON states them."""

    image_id: int | str
    file_name: str
    height: int
    width: int
    picture: Path
    map: Path
    segments: tuple[SegmentInfo, ...]


def splits(data: str | Path) -> tuple[str, ...]:
    """Return the names of the splits that a folder or YAML file holds, sorted."""
    data = _existing(data)
    if data.is_file():
        return tuple(sorted(_read_yaml(data)))
    return tuple(sorted({path.stem.removeprefix("panoptic_") for path in _jsons(data)}))


def locate(data: str | Path, split: str) -> SplitPaths:
    """Find a split's pictures, id maps and JSON in a folder, in COCO's own tree, or by a YAML file.

    A split `train` also stands for the one `train20XX` there is. Raises `InputError` that names what was looked for
    and which splits exist.
    """
    data = _existing(data)
    paths = _by_yaml(data, split) if data.is_file() else _by_folder(data, split)
    for what, folder in (("pictures", paths.pictures), ("id maps", paths.maps)):
        if not folder.is_dir():
            raise InputError(f"the folder of {what} {folder} is not there; split {split!r} of {data} needs it")
    if not paths.json.is_file():
        raise InputError(f"the JSON {paths.json} is not there; split {split!r} of {data} needs it")
    return paths


def _existing(data: str | Path) -> Path:
    data = Path(data)
    if not data.exists():
        raise InputError(f"the data set {data} is not there; give a folder with {_LAYOUT}, or a YAML file")
    return data


def _jsons(data: Path) -> list[Path]:
    folders = [folder for folder in (data, data / "annotations") if folder.is_dir()]
    return sorted(path for folder in folders for path in folder.glob("panoptic_*.json"))


def _by_folder(data: Path, split: str) -> SplitPaths:
    found = {path.stem.removeprefix("panoptic_"): path for path in reversed(_jsons(data))}  # DATA before annotations
    years = [name for name in found if re.fullmatch(re.escape(split) + r"20\d\d", name)]
    if split not in found and len(years) > 1:
        raise InputError(f"split {split!r} of {data} may be {' or '.join(sorted(years))}; name one of them")
    if split not in found and not years:
        raise InputError(
            f"{data} has no split {split!r}: neither {data / f'panoptic_{split}.json'} nor the same in annotations/ "
            f"is there. Splits found: {', '.join(sorted(found)) or 'none'}. Expected are {_LAYOUT}"
        )
    name = split if split in found else years[0]
    beside = found[name].with_suffix("")
    # COCO unpacks its maps beside the JSON in annotations/, detectron2's guide has them in DATA itself
    maps = beside if beside.is_dir() else data / beside.name
    return SplitPaths(data / name, maps, found[name])


def _by_yaml(data: Path, split: str) -> SplitPaths:
    entries = _read_yaml(data)
    if split not in entries:
        raise InputError(f"{data} has no split {split!r}; it names {', '.join(entries) or 'none'}")
    entry, keys = entries[split], ("pictures", "maps", "json")
    if not (isinstance(entry, dict) and {*entry} == {*keys} and all(isinstance(entry[key], str) for key in keys)):
        raise InputError(f"{data}: split {split!r} must name exactly three paths: {', '.join(keys)}; it is {entry!r}")
    return SplitPaths(*(data.parent / entry[key] for key in keys))


def _read_yaml(path: Path) -> dict[str, Any]:
    remedy = "write per split 'train: {pictures: ..., maps: ..., json: ...}', or give the data set's folder"
    if path.suffix.lower() not in (".yaml", ".yml"):
        raise InputError(f"{path} is neither a folder nor a YAML file; {remedy}")
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no YAML: {error}; {remedy}") from None
    if not isinstance(entries, dict):
        raise InputError(f"{path} names no splits; {remedy}")
    return {str(name): entry for name, entry in entries.items()}


@dataclass(frozen=True)
class CocoPanoptic:
    """One split of a COCO panoptic data set; `records` stand in the order of the JSON's annotations."""

    paths: SplitPaths
    categories: Categories
    records: tuple[Record, ...]

    @classmethod
    def open(cls, data: str | Path, split: str) -> "CocoPanoptic":
        """Find a split and check its JSON.

        Raises one `InputError` that lists up to ten problems and counts the rest.
        """
        paths = locate(data, split)
        sections = read_sections(paths.json, ("images", "annotations", "categories"))
        categories, records, problems = parse_ground_truth(paths, *sections)
        raise_problems(problems, f"{paths.json} cannot be used:")
        return cls(paths, categories, records)

    def __len__(self) -> int:
        return len(self.records)

    def picture(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        """Read a picture as RGB, turned as its EXIF orientation says where the JSON's size agrees.

        Raises `InputError` where it is missing or damaged, or has another size than the JSON says.
        """
        record = self.records[index]
        try:
            return np.asarray(read_picture(record.picture, (record.height, record.width)))
        except InputError as error:
            raise InputError(f"{self._at(record)}: {error}") from None

    def panoptic(self, index: int) -> Panoptic:
        """Read a picture's ground truth; areas are counted in the map.

        Raises `InputError` where the map is missing or damaged, or disagrees with the JSON in size or ids.
        """
        record = self.records[index]
        ids, runs = self._checked_map(record)
        areas = dict(zip(runs.ids.tolist(), runs.areas().tolist(), strict=True))
        segments = tuple(Segment(s.id, s.label, areas[s.id], iscrowd=s.iscrowd) for s in record.segments)
        return Panoptic(ids, segments, self.categories)

    def drawn_panoptic(self, index: int) -> Panoptic:
        """Read a picture's ground truth without what a model filled in, which is void; see `panoptic`."""
        panoptic, filled = self.panoptic(index), [s.id for s in self.records[index].segments if s.filled]
        if not filled:
            return panoptic
        ids = np.where(np.isin(panoptic.ids, filled), np.int32(0), panoptic.ids)
        return Panoptic(ids, tuple(s for s in panoptic.segments if s.id not in filled), self.categories)

    def places(self, index: int) -> UInt8[np.ndarray, "H W"] | Int32[np.ndarray, "H W"]:
        """Read a picture's ground truth as places: k where the k-th segment of its record lies, 0 where none does.

        Bytes where there are at most 255 segments. Raises `InputError` as `panoptic` does.
        """
        record = self.records[index]
        _, runs = self._checked_map(record)
        place_of = {s.id: place for place, s in enumerate(record.segments, start=1)}
        kind = np.uint8 if len(place_of) < 256 else np.int32
        return runs.painted(np.array([place_of.get(i, 0) for i in runs.ids.tolist()], dtype=kind))

    def _checked_map(self, record: Record) -> tuple[Int32[np.ndarray, "H W"], MapRuns]:
        try:
            ids = read_id_map(record.map)
            check_map_size(record, ids.shape)
        except InputError as error:
            raise InputError(f"{self._at(record)}: {error}") from None
        runs = map_runs(ids)
        faults = id_faults(runs.ids.tolist(), [s.id for s in record.segments], record.map)
        raise_problems(faults, f"{self._at(record)}: map and JSON disagree:")
        return ids, runs

    def check_files(self, fast: bool = True) -> None:
        """Check that every picture and map is there in its stated size, by headers alone.

        With `fast=False` every file is decoded and ids are compared too. Raises one `InputError` that lists up to ten
        problems and counts the rest.
        """
        check = self._check_headers if fast else self._check_contents
        problems = [problem for index in range(len(self)) for problem in check(index)]
        raise_problems(problems, f"files of {self.paths.json} cannot be used:")

    def _check_headers(self, index: int) -> list[str]:
        record = self.records[index]
        checks = (
            lambda: check_picture_size(record.picture, (record.height, record.width)),
            lambda: check_map_size(record, id_map_size(record.map)),
        )
        return [f"{self._at(record)}: {error}" for error in _errors(checks)]

    def _check_contents(self, index: int) -> list[str]:
        return _errors((lambda: self.picture(index), lambda: self.panoptic(index)))

    def _at(self, record: Record) -> str:
        return f"{self.paths.json}: image {record.image_id}"


def check_map_size(record: Record, size: tuple[int, ...]) -> None:
    """Raise `InputError` where an id map's (height, width) is not what the JSON says."""
    if size != (record.height, record.width):
        raise InputError(
            f"the map {record.map} is {size[1]} wide and {size[0]} high, but the JSON says {record.width} wide and "
            f"{record.height} high; put the right map there or correct the JSON"
        )


def id_faults(present: Collection[int], listed: Collection[int], map_path: Path) -> list[str]:
    """Return what is wrong between the ids in a map and those that its JSON lists; id 0 is void."""
    faults = []
    unlisted, absent = sorted({*present} - {*listed} - {0}), sorted({*listed} - {*present})
    if unlisted:
        faults.append(f"{map_path} holds {_some(unlisted)}, not in segments_info; list them or paint them 0 (void)")
    if absent:
        faults.append(
            f"segments_info lists {_some(absent)}, without a pixel in {map_path}; remove them or mend the map"
        )
    return faults


def parse_ground_truth(
    paths: SplitPaths, images_list: Sequence[Any], annotations: Sequence[Any], entries: Sequence[Any]
) -> tuple[Categories, tuple[Record, ...], list[str]]:
    """Return the categories (`entries`), a record per annotation, and every problem found in a JSON's lists.

    Records are whole only where there are no problems. Raises `InputError` where the categories cannot be read.
    """
    if not entries:
        raise InputError(f"{paths.json}: the list of categories is empty; add the classes of the data set")
    categories = Categories.from_coco(entries, where=str(paths.json))
    problems: list[str] = []
    if not images_list:
        problems.append(f"{paths.json}: the list of images is empty; add the pictures of this split")
    images = _read_images(paths.json, images_list, problems)
    annotated = read_annotations(paths.json, annotations, problems)
    records = []
    for image_id, annotation in annotated.items():
        at = f"{paths.json}: image {image_id}"
        if image_id not in images:
            problems.append(f"{at}: has an annotation but is not in images; add it to images or remove the annotation")
            continue
        name, height, width = images[image_id]
        segments = _read_truth_segments(annotation["segments_info"], at, categories, problems)
        picture, map_path = paths.pictures / name, paths.maps / annotation["file_name"]
        records.append(Record(image_id, name, height, width, picture, map_path, segments))
    for image_id in images:
        if image_id not in annotated:
            text = "has no usable annotation; add one (segments_info may be []) or remove the image"
            problems.append(f"{paths.json}: image {image_id}: {text}")
    return categories, tuple(records), problems


def read_annotations(path: Path, annotations: Sequence[Any], problems: list[str]) -> dict[int | str, Mapping[str, Any]]:
    """Return the well-formed annotations by image id, in order; the others go into `problems`."""
    found: dict[int | str, Mapping[str, Any]] = {}
    expected = {"image_id": _IMAGE_ID, "file_name": _TEXT, "segments_info": _LIST}
    for position, annotation in enumerate(annotations):
        fault = field_fault(annotation, expected)
        if fault:
            problems.append(f"{path}: annotations[{position}]{_of_image(annotation, 'image_id')}: {fault}")
        elif annotation["image_id"] in found:
            problems.append(f"{path}: image {annotation['image_id']}: has two annotations; keep one")
        else:
            found[annotation["image_id"]] = annotation
    return found


def read_segments(
    infos: Iterable[Any], at: str, categories: Categories, problems: list[str]
) -> list[tuple[Mapping[str, Any], int]]:
    """Return the usable entries of a `segments_info` with their labels (`VOID` where the category is unknown).

    Missing and wrong ids, ids that repeat and unknown categories go into `problems`; `at` names file and image.
    """
    found, seen = [], set()
    for position, info in enumerate(infos):
        fault = field_fault(info, {"id": _SEGMENT_ID, "category_id": _WHOLE})
        if fault:
            problems.append(f"{at}: segments_info[{position}]{_of_segment(info)}: {fault}")
        elif info["id"] in seen:
            problems.append(f"{at}: segment {info['id']}: stands twice in segments_info; give each segment its own id")
        else:
            seen.add(info["id"])
            label = categories.label_of.get(info["category_id"], VOID)
            found.append((info, label))
            if label == VOID:
                problems.append(
                    f"{at}: segment {info['id']}: category_id {info['category_id']} is not in the ground truth's "
                    "categories; add it there or correct the segment"
                )
    return found


def _read_truth_segments(
    infos: Iterable[Any], at: str, categories: Categories, problems: list[str]
) -> tuple[SegmentInfo, ...]:
    segments = []
    for info, label in read_segments(infos, at, categories, problems):
        fault = field_fault(info, {"iscrowd": _FLAG, "area": _AREA})
        if fault:
            problems.append(f"{at}: segment {info['id']}: {fault}")
        else:
            crowd, filled = bool(info["iscrowd"]), bool(info.get(FILLED))
            segments.append(SegmentInfo(info["id"], label, crowd, int(info["area"]), filled))
    return tuple(segments)


def _read_images(path: Path, entries: Sequence[Any], problems: list[str]) -> dict[int | str, tuple[str, int, int]]:
    images: dict[int | str, tuple[str, int, int]] = {}
    expected = {"id": _IMAGE_ID, "file_name": _TEXT, "height": _POSITIVE, "width": _POSITIVE}
    for position, entry in enumerate(entries):
        fault = field_fault(entry, expected)
        if fault:
            problems.append(f"{path}: images[{position}]{_of_image(entry, 'id')}: {fault}")
        elif entry["id"] in images:
            problems.append(f"{path}: image {entry['id']}: stands twice in images; keep one")
        else:
            images[entry["id"]] = (entry["file_name"], entry["height"], entry["width"])
    return images


def _of_image(entry: Any, key: str) -> str:
    return f" (image {entry[key]})" if isinstance(entry, dict) and key in entry else ""


def _of_segment(info: Any) -> str:
    return f" (segment {info['id']})" if isinstance(info, dict) and "id" in info else ""


def _some(ids: Sequence[int]) -> str:
    more = f" and {len(ids) - 5} more" if len(ids) > 5 else ""
    return f"id{'s' if len(ids) > 1 else ''} {', '.join(map(str, ids[:5]))}{more}"


def _errors(checks: Iterable[Callable[[], object]]) -> list[str]:
    errors = []
    for check in checks:
        try:
            check()
        except InputError as error:
            errors.append(str(error))
    return errors
