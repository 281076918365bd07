"""Scored instances in files: COCO's results JSON, as other tools write it."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as run_lengths

from thingstuff.errors import InputError, raise_problems
from thingstuff.evaluation.average_precision import EncodedInstance, RunLengths, Size
from thingstuff.evaluation.segments import ImageId
from thingstuff.io import Kind, field_fault, read_json
from thingstuff.panoptic import Categories

_FIELDS = {
    "image_id": Kind("a whole number or text", lambda v: type(v) in (int, str)),
    "category_id": Kind("a whole number", lambda v: type(v) is int),
    "segmentation": Kind("a run-length encoding or a list of polygons", lambda v: type(v) in (dict, list)),
    "score": Kind("a finite number", lambda v: _is_number(v)),
}
_GROUP = 6
"""Most characters of a run's length in a compressed encoding: 5 bits each, and 7 no longer fit into 32 bits."""


def instances_from_results(
    path: str | Path,
    categories: Categories,
    sizes: Mapping[ImageId, Size],
    problems: list[str] | None = None,
) -> dict[ImageId, list[EncodedInstance]]:
    """Read a COCO results JSON: a list of {image_id, category_id, segmentation, score}; each picture's in file order.

    A segmentation is run lengths of picture size (`counts` compressed or a list) or polygons [x, y, x, y, ...];
    `sizes` are the (height, width) of the ground truth's pictures. Raises one `InputError` that lists every wrong
    entry; with `problems` it adds them there instead, and leaves those entries out.
    """
    path = Path(path)
    entries = read_json(path)
    if not isinstance(entries, list):
        raise InputError(f"{path} is no COCO results JSON: a list of {', '.join(_FIELDS)} was expected")
    found: dict[ImageId, list[EncodedInstance]] = {}
    faults = []
    for position, entry in enumerate(entries):
        try:
            instance = _instance(entry, categories, sizes)
        except InputError as error:
            faults.append(f"{path}: entry {position}: {error}")
        else:
            found.setdefault(entry["image_id"], []).append(instance)
    if problems is None:
        raise_problems(faults, f"{path} cannot be scored:", limit=50)
    else:
        problems += faults
    return found


def _instance(entry: Any, categories: Categories, sizes: Mapping[ImageId, Size]) -> EncodedInstance:
    fault = field_fault(entry, _FIELDS)
    if fault:
        raise InputError(fault)
    image_id, category_id = entry["image_id"], entry["category_id"]
    if image_id not in sizes:
        raise InputError(f"image_id {image_id!r} is not in the ground truth; correct or remove it")
    label = categories.label_of.get(category_id)
    if label is None:
        raise InputError(f"category_id {category_id} is not in the ground truth's categories; correct or remove it")
    if not categories.things[label]:
        name = categories.names[label]
        raise InputError(f"category_id {category_id} ({name!r}) is stuff; AP is of things, remove it")
    mask = _encoded(entry["segmentation"], sizes[image_id])
    return EncodedInstance(category_id, float(entry["score"]), mask)


def _encoded(segmentation: Any, size: Size) -> RunLengths:
    """Return compressed run lengths; pycocotools does not check what it is given, so it gets what is checked here."""
    if isinstance(segmentation, list):
        return _of_polygons(segmentation, size)
    counts, height, width = segmentation.get("counts"), *size
    if segmentation.get("size") != [height, width]:
        own = f"segmentation.size {segmentation.get('size')!r:.60}"
        raise InputError(f"{own} is not the picture's [{height}, {width}]; predict at the picture's own size")
    if isinstance(counts, str):
        lengths = _lengths(counts)
    elif isinstance(counts, list) and all(type(count) is int and count >= 0 for count in counts):
        lengths = counts
    else:
        raise InputError("segmentation.counts is neither a text nor a list of whole numbers; write the mask anew")
    if lengths is None or sum(lengths) != height * width:
        raise InputError(f"segmentation.counts are no run lengths of {height} x {width} pixels; write the mask anew")
    # not the text itself, which pycocotools could read otherwise than it was read here
    encoded: RunLengths = run_lengths.frPyObjects({"size": [height, width], "counts": lengths}, height, width)
    return encoded


def _lengths(text: str) -> Sequence[int] | None:
    """Return the run lengths of COCO's compressed text, None where it is none.

    A character holds 5 bits and, in the sixth, whether more follow; from the fourth length on, each is told by how
    much it exceeds the last but one.
    """
    if not text.isascii():
        return None
    codes = np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int64) - 48
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        return None
    ends = np.flatnonzero(codes & 32 == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    places = np.arange(len(codes)) - np.repeat(starts, ends - starts + 1)
    if places.max() >= _GROUP:
        return None
    values = np.add.reduceat((codes & 31) << (5 * places), starts)
    values -= np.where(codes[ends] & 16, 1 << (5 * (places[ends] + 1)), 0)  # the highest bit is the sign
    values[1::2] = values[1::2].cumsum()
    values[2::2] = values[2::2].cumsum()
    if values.min() < 0:
        return None
    lengths: list[int] = values.tolist()
    return lengths


def _of_polygons(polygons: list[Any], size: Size) -> RunLengths:
    height, width = size
    for polygon in polygons:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2 or not all(map(_is_number, polygon)):
            raise InputError("segmentation: a polygon is not [x, y, x, y, x, y, ...] of finite numbers; correct it")
        # drawn pixel by pixel along its border, wherever that lies
        if not all(-width <= x <= 2 * width for x in polygon[::2]) or not all(
            -height <= y <= 2 * height for y in polygon[1::2]
        ):
            raise InputError(f"segmentation: a polygon lies far outside the picture of {height} x {width}; correct it")
    if not polygons:
        raise InputError("segmentation is an empty list; give a polygon, or remove the entry")
    merged: RunLengths = run_lengths.merge(run_lengths.frPyObjects(polygons, height, width))
    return merged


def _is_number(value: Any) -> bool:
    # false for NaN too
    return type(value) in (int, float) and abs(value) <= sys.float_info.max
