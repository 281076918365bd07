"""The JSONs of a converted data set."""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from thingstuff.convert.classes import used_only
from thingstuff.convert.ledger import Done
from thingstuff.io import atomic_write
from thingstuff.panoptic import Categories


def write_data_set(
    out: Path,
    pictures: Sequence[Done],
    categories: Categories,
    header: Mapping[str, Any] | None = None,
) -> tuple[Path, ...]:
    """Write panoptic_{split}.json for each split of the pictures, and return their paths.

    Every JSON lists the same categories.
    """
    written = []
    splits = sorted({done.split for done in pictures})
    for split in splits:
        own = [done for done in pictures if done.split == split]
        content = {
            **(header or {}),
            "images": [done.image for done in own],
            "annotations": [_annotation(done, categories) for done in own],
            "categories": categories.to_coco(),
        }
        path = out / f"panoptic_{split}.json"
        atomic_write(path, json.dumps(content))
        written.append(path)
    return tuple(written)


def written_categories(pictures: Sequence[Done], categories: Categories, optional: Collection[str]) -> Categories:
    """Return the categories to list: of the `optional` ones those that a segment has, and all others."""
    used = {segment["category_id"] for done in pictures for segment in done.segments}
    return used_only(categories, used, optional)


def _annotation(done: Done, categories: Categories) -> dict[str, Any]:
    rows = zip(categories.names, categories.ids, categories.things, strict=True)
    kind = {name: (category_id, thing) for name, category_id, thing in rows}
    segments = []
    for segment in done.segments:
        category_id, thing = kind[segment["category_id"]]
        segments.append({**segment, "category_id": category_id, "isthing": int(thing)})
    return {"image_id": done.image["id"], "file_name": done.map.partition("/")[2], "segments_info": segments}
