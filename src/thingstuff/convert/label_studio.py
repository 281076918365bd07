"""Label Studio: its JSON export (JSON, and JSON-MIN), the pictures in a folder beside it or a given one.

The format: labelstud.io, "Label Studio JSON format of annotated tasks" and the pages of its tags. Letters: H W pixels
of a picture.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from thingstuff.convert.label_studio_masks import brush_region, png_region
from thingstuff.convert.label_studio_names import match, picture_name
from thingstuff.convert.picture_files import (
    checked_size,
    find_pictures,
    given_pictures,
    key_of,
    picture_size,
)
from thingstuff.convert.shapes import LARGEST_NUMBER, ellipse_region, polygon_region
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
from thingstuff.io import read_json

_SIGN = re.compile(
    rb'"(original_width|was_cancelled|completed_by|completions|annotation_id|file_upload)"\s*:|"format"\s*:\s*"rle"'
)
_LOOKED_AT = 20  # JSON files of a folder, which may hold one for each picture
_KINDS = (  # a value's key -> what it is, and why that has no pixels
    ("rle", "brush", None),
    ("imageDataURL", "bitmask", None),
    ("vertices", "vector", "vector path, which is no mask"),
    ("points", "polygon", None),
    ("radiusX", "ellipse", None),
    ("height", "rectangle", BOX_ALONE),
    ("x", "keypoint", "points, which are no mask"),
)
_NOTHING_DRAWN = "answer that draws nothing (choice, text, relation)"
_UNLABELLED = "region without a label"
_SECOND_LABEL = "second label of a region, which keeps its first"
_OPEN = "polygon that was not closed"
_OLDER = "annotation that is not the latest of its task"
_PREDICTION = "prediction of a model, not accepted by anybody"
_MIN_FIELDS = frozenset({"id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time", "agreement"})
_Json = dict[str, Any]


class Shape(NamedTuple):
    """A region: its kind, its first label, its geometry as the JSON has it (run lengths as bytes), and of what."""

    kind: str
    label: Any
    value: Mapping[str, Any]
    size: tuple[Any, Any] | None
    turned: Any


class Drawn(NamedTuple):
    """What is drawn on a task's picture, and what is left out of it."""

    task: Any
    shapes: tuple[Shape, ...]
    notes: tuple[str, ...]


def recognise(path: Path) -> str | None:
    """Say why a path holds an export of Label Studio."""
    files = _exports(path)
    return f"{files[0].name} is a list of Label Studio's tasks" if files else None


def open_source(path: Path, reason: str, options: SourceOptions) -> Source:
    """Open Label Studio's JSON or JSON-MIN; a task's latest annotation counts, what was cancelled does not.

    A picture is found by its name, with or without what an upload puts before it. Classes are the labels of regions
    that have pixels, by their names. Raises `InputError` where the JSON is no such export, or where no picture of it
    is to be found.
    """
    options.refuse_unused("Label Studio", "pictures")
    file = _file(path)
    tasks = read_json(file)
    if not isinstance(tasks, list):
        raise InputError(f"{file} is no list of tasks; export the project as JSON or JSON-MIN")
    problems: list[str] = []
    chosen, notes = _chosen(tasks, problems)
    raise_problems([f"{file}: {problem}" for problem in problems], f"{file} cannot be used:", limit=5)
    beside = file.parent / "images"
    folder = beside if beside.is_dir() else file.parent
    pictures = _pictures(file, chosen, given_pictures(options) or folder)
    labels = {s.label for p in pictures for s in p.payload.shapes if type(s.label) is str}
    return Source("label-studio", reason, tuple(map(SourceClass, sorted(labels))), pictures, Reader(file), notes=notes)


@dataclass(frozen=True)
class Reader:
    """Reads the regions of a picture in their order in the JSON."""

    file: Path

    def __call__(self, picture: SourcePicture) -> SourceLabels:
        """Return a picture's labels; raises `InputError` that names the JSON, the task and the region."""
        drawn: Drawn = picture.payload
        at = f"{self.file}: task {drawn.task}"
        sizes = {shape.size for shape in drawn.shapes if shape.size is not None}
        if len(sizes) > 1:
            raise InputError(f"{at}: its regions are of pictures of several sizes {sorted(sizes, key=str)}; mend it")
        size = _stated_size(at, sizes.pop(), picture.picture) if sizes else picture_size(picture.picture)
        objects = []
        for number, shape in enumerate(drawn.shapes, 1):
            try:
                objects.append(SourceObject(_label(shape), _region(shape, size)))
            except InputError as error:
                raise InputError(f"{at}: {shape.kind} {number}: {error}; mend it in Label Studio") from None
        return SourceLabels(size, tuple(objects), notes=drawn.notes)


def _exports(path: Path) -> list[Path]:
    """Return what looks like an export: the file itself, or files of the folder."""
    try:
        files = islice(sorted(path.glob("*.json")), _LOOKED_AT) if path.is_dir() else iter([path])
        return [file for file in files if file.suffix.lower() == ".json" and _is_export(file)]
    except OSError:
        return []


def _is_export(file: Path) -> bool:
    with file.open("rb") as stream:
        begin = stream.read(1 << 16).lstrip(b"\xef\xbb\xbf \r\n\t")
    return begin.startswith(b"[") and _SIGN.search(begin) is not None


def _file(path: Path) -> Path:
    if not path.is_dir():
        return path
    files = _exports(path)
    if len(files) != 1:
        found = ", ".join(file.name for file in files[:3]) or "none"
        raise InputError(f"{path} holds {len(files)} exports of Label Studio ({found}); name the JSON file to convert")
    return files[0]


class _Answer(NamedTuple):
    """A task's annotation: its id, the data that name its picture, what was drawn, and notes."""

    task: Any
    data: _Json
    results: list[_Json]
    notes: list[str]


def _chosen(tasks: Sequence[Any], problems: list[str]) -> tuple[list[_Answer], tuple[str, ...]]:
    """Return the annotation that counts of each task, and how many tasks have none."""
    answers: list[_Answer] = []
    least: dict[Any, list[_Json]] = defaultdict(list)
    unfinished = 0
    for position, task in enumerate(tasks):
        if not isinstance(task, dict):
            problems.append(f"[{position}] is no task; export the project again")
        elif "annotations" not in task and "completions" not in task:
            least[str(task.get("id", f"[{position}]"))].append(task)
        else:
            answer = _latest(position, task, problems)
            answers += [answer] if answer else []
            unfinished += answer is None
    answers += [_of_min(rows) for rows in least.values()]
    notes = (f"{unfinished} tasks without a finished annotation, left out",) if unfinished else ()
    return answers, notes


def _latest(position: int, task: _Json, problems: list[str]) -> _Answer | None:
    number, data = task.get("id", f"[{position}]"), task.get("data")
    annotations = task["annotations"] if "annotations" in task else task["completions"]
    if not isinstance(data, dict) or not _are_objects(annotations):
        problems.append(f"task {number}: 'data' or 'annotations' is not what Label Studio writes; export it again")
        return None
    finished = [a for a in annotations if not (a.get("was_cancelled") or a.get("skipped"))]
    if not finished:
        return None
    last = max(enumerate(finished), key=lambda entry: (_time(entry[1]), entry[0]))[1]
    results = last.get("result")
    if not _are_objects(results):
        problems.append(f"task {number}: 'result' is no list of regions; export it again")
        return None
    predictions = task.get("predictions")
    notes = [_OLDER] * (len(finished) - 1) + [_PREDICTION] * (len(predictions) if isinstance(predictions, list) else 0)
    return _Answer(number, {"file_upload": task.get("file_upload"), **data}, results, notes)


def _of_min(rows: Sequence[_Json]) -> _Answer:
    """Return the latest row of a task in JSON-MIN, its regions under the names of their control tags."""
    last = max(enumerate(rows), key=lambda entry: (_time(entry[1]), entry[0]))[1]
    results = []
    for key, values in last.items():
        if key not in _MIN_FIELDS and _are_objects(values):
            results += [{**value, "value": value} for value in values]
    return _Answer(last.get("id"), last, results, [_OLDER] * (len(rows) - 1))


def _are_objects(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, dict) for value in values)


def _time(annotation: _Json) -> str:
    return str(annotation.get("updated_at") or annotation.get("created_at") or "")


def _drawn(answer: _Answer) -> Drawn:
    """Join what Label Studio writes once for each control tag: a region's geometry comes with each of its answers."""
    regions: dict[Any, list[_Json]] = defaultdict(list)
    notes = list(answer.notes)
    for result in answer.results:
        value = result.get("value")
        kind = _kind(value) if isinstance(value, dict) else None
        if not isinstance(value, dict) or kind is None:
            notes.append(_NOTHING_DRAWN)
            continue
        name, why = kind
        geometry = {k: v for k, v in value.items() if not k.endswith("labels") and k not in ("choices", "text", "type")}
        region = {**result, "kind": name, "why": why, "labels": _labels(name, value), "geometry": geometry}
        # JSON-MIN has no ids
        regions[result.get("id") or repr(geometry)].append(region)
    shapes = []
    for entries in regions.values():
        first = entries[0]
        labels: list[Any] = next((entry["labels"] for entry in entries if entry["labels"]), [])
        closed = first["geometry"].get("closed", True)
        left_out = first["why"] or (_UNLABELLED if not labels else _OPEN if closed is False else None)
        if left_out:
            notes.append(left_out)
            continue
        notes += [_SECOND_LABEL] * (len(labels) - 1)
        size = (first.get("original_width"), first.get("original_height"))
        turned = first.get("image_rotation", 0)
        value = _compact(first["geometry"])
        shapes.append(Shape(first["kind"], labels[0], value, None if size == (None, None) else size, turned))
    return Drawn(answer.task, tuple(shapes), tuple(notes))


def _kind(value: _Json) -> tuple[str, str | None] | None:
    return next(((kind, why) for key, kind, why in _KINDS if key in value), None)


def _labels(kind: str, value: _Json) -> list[Any]:
    """Return a region's labels; those of its own kind come before others, which a smart tool's keypoint leaves."""
    for key in (f"{kind}labels", "labels", *(key for key in value if key.endswith("labels"))):
        if isinstance(value.get(key), list) and value[key]:
            return list(value[key])
    return []


def _compact(geometry: _Json) -> _Json:
    """Return run lengths as bytes, an eighth of the memory; what cannot be bytes stays and is told when it is read."""
    rle = geometry.get("rle")
    if isinstance(rle, list) and all(type(n) is int and 0 <= n < 256 for n in rle):
        return {"rle": bytes(rle)}
    return geometry


def _pictures(file: Path, answers: Sequence[_Answer], folder: Path) -> tuple[SourcePicture, ...]:
    by_name: dict[str, list[Path]] = defaultdict(list)
    for path in find_pictures(folder):
        by_name[path.name].append(path)
    found, problems = [], []
    for answer in answers:
        try:
            name = picture_name(answer.data)
            picture = match(name, by_name)
        except InputError as error:
            problems.append(f"task {answer.task}: {error}")
            continue
        key = key_of(picture, folder) if picture else name.stem
        image_id = answer.task if type(answer.task) is int else None
        found.append(SourcePicture(key, picture or folder / name.name, image_id=image_id, payload=_drawn(answer)))
    twice = {key for key, count in Counter(p.key for p in found).items() if count > 1}
    for key in sorted(twice):
        tasks = ", ".join(str(p.payload.task) for p in found if p.key == key)
        problems.append(f"tasks {tasks}: all are of the picture {key}; keep one of them")
    raise_problems(problems, f"{file} cannot be used:", limit=5)
    if found and not any(p.picture.is_file() for p in found):
        raise InputError(
            f"{file}: none of its {len(found)} pictures, such as {found[0].picture.name}, is in {folder}; name their "
            "folder (--pictures)"
        )
    return tuple(found)


def _stated_size(at: str, stated: tuple[Any, Any], picture: Path) -> Size:
    width, height = stated
    if type(width) is not int or type(height) is not int or width < 1 or height < 1:
        raise InputError(f"{at}: original_width {width!r:.20} or original_height {height!r:.20} is no size; correct it")
    return checked_size(picture, (height, width), f"{at}: original_width and original_height")


def _label(shape: Shape) -> str:
    if type(shape.label) is not str or not shape.label.strip():
        raise InputError(f"its label {shape.label!r:.60} is no name")
    return shape.label


def _region(shape: Shape, size: Size) -> Region:
    if shape.turned not in (0, None, 360):
        raise InputError(f"its picture was turned by {shape.turned} degrees in Label Studio; turn the file instead")
    value = shape.value
    if shape.kind == "polygon":
        points = value["points"]
        if not isinstance(points, list) or not all(isinstance(p, list) and len(p) == 2 for p in points):
            raise InputError("points are no list of pairs")
        corners = [_share(f"points[{n}]", p[axis], size[1 - axis]) for n, p in enumerate(points) for axis in (0, 1)]
        return polygon_region([corners], size)
    if shape.kind == "ellipse":
        x, y, radius_x, radius_y = (
            _share(name, value.get(name), size[axis])
            for name, axis in (("x", 1), ("y", 0), ("radiusX", 1), ("radiusY", 0))
        )
        # x and y are the centre, whatever the page of the tag says
        return ellipse_region(x, y, radius_x, radius_y, size, _number("rotation", value.get("rotation") or 0))
    if shape.kind == "bitmask":
        return png_region(str(value["imageDataURL"]), size)
    if not isinstance(value["rle"], bytes):
        raise InputError("rle is no list of bytes")
    return brush_region(value["rle"], size)


def _share(name: str, value: Any, side: int) -> float:
    """Return pixels of what is stated in percent of a side."""
    return _number(name, value) / 100 * side


def _number(name: str, value: Any) -> float:
    if type(value) not in (int, float) or not abs(value) < LARGEST_NUMBER:
        raise InputError(f"{name} {value!r:.60} is no finite number")
    return float(value)
