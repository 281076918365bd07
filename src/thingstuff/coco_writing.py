"""COCO panoptic folders written: an id map per picture, and the JSON that lists their segments, last."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from thingstuff.errors import InputError
from thingstuff.io import atomic_write, write_id_map
from thingstuff.panoptic import Categories, Panoptic

MAPS = "panoptic"
"""The folder of the id maps, and the JSON's name."""


def write_coco_panoptic(
    folder: str | Path,
    panoptics: Mapping[str, Panoptic],
    overwrite: bool = False,
    image_ids: Mapping[str, int | str] | None = None,
    file_names: Mapping[str, str] | None = None,
) -> Path:
    """Write `folder`/panoptic/<stem>.png and `folder`/panoptic.json for maps by stem; return the JSON's path.

    `image_ids` and `file_names` (of the pictures) go by stem; where they are silent, ids count up from 1, the name is
    <stem>.jpg. The JSON is written last: a run that is cut off leaves none that speaks of maps that are not there.
    Raises `InputError` where there is nothing to write, the maps have different categories, a stem is no file name,
    ids repeat, or files are there already and `overwrite` is not set.
    """
    _shared_categories(panoptics)
    _check_stems(panoptics, image_ids or {}, file_names or {})
    maps = (Path(folder) / MAPS / f"{stem}.png" for stem in panoptics)
    _check_free([Path(folder) / f"{MAPS}.json", *maps], overwrite)
    ids = _number(panoptics, image_ids or {})
    writer = CocoPanopticWriter(folder, next(iter(panoptics.values())).categories, overwrite)
    for stem, panoptic in panoptics.items():
        writer.add(stem, panoptic, ids[stem], (file_names or {}).get(stem))
    return writer.close()


class CocoPanopticWriter:
    """Writes maps one by one, so that any number of them fits into memory; `close` writes the JSON.

    Raises `InputError` where the folder holds a panoptic.json already and `overwrite` is not set.
    """

    def __init__(self, folder: str | Path, categories: Categories, overwrite: bool = False) -> None:
        self.folder, self.categories = Path(folder), categories
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []
        self._json, self._maps = self.folder / f"{MAPS}.json", self.folder / MAPS
        _check_free([self._json], overwrite)
        self._maps.mkdir(parents=True, exist_ok=True)

    def add(
        self, stem: str, panoptic: Panoptic, image_id: int | str | None = None, file_name: str | None = None
    ) -> None:
        """Write one map; the id counts up from 1 and the picture's name is <stem>.jpg where they are not given.

        The stem may hold folders (city/x), which are made.
        """
        height, width = panoptic.size
        path = self._maps / f"{stem}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_id_map(path, panoptic.ids)
        number = len(self._images) + 1 if image_id is None else image_id
        name = file_name or f"{stem}.jpg"
        self._images.append({"id": number, "file_name": name, "width": width, "height": height})
        self._annotations.append(panoptic.to_coco(f"{stem}.png", number))

    def close(self) -> Path:
        """Write the JSON and return its path."""
        data = {
            "images": self._images,
            "annotations": self._annotations,
            "categories": self.categories.to_coco(),
        }
        atomic_write(self._json, json.dumps(data))
        return self._json


def _shared_categories(panoptics: Mapping[str, Panoptic]) -> Categories:
    if not panoptics:
        raise InputError("there is no panoptic map to write; give at least one")
    (first, panoptic), *others = panoptics.items()
    for stem, other in others:
        if other.categories != panoptic.categories:
            raise InputError(f"the maps {first!r} and {stem!r} have different categories; write them to two folders")
    return panoptic.categories


def _check_stems(stems: Mapping[str, Panoptic], *named: Mapping[str, Any]) -> None:
    seen: dict[str, str] = {}
    for stem in stems:
        if not stem or stem != Path(stem).name or "\\" in stem:
            raise InputError(f"{stem!r} is no file name; give a stem without folders")
        # macOS and Windows take names that differ in case alone for one file
        twin = seen.setdefault(stem.casefold(), stem)
        if twin != stem:
            raise InputError(f"the stems {twin!r} and {stem!r} differ in case alone; rename one of them")
    for mapping in named:
        strange = [stem for stem in mapping if stem not in stems]
        if strange:
            raise InputError(f"{strange[0]!r} has an image id or file name but no map; give its map or leave it out")


def _check_free(targets: Sequence[Path], overwrite: bool) -> None:
    taken = [] if overwrite else [path for path in targets if path.exists()]
    if taken:
        raise InputError(f"{taken[0]} is there already; choose another folder or ask for overwrite")


def _number(stems: Mapping[str, Panoptic], given: Mapping[str, int | str]) -> dict[str, int | str]:
    taken: dict[int | str, str] = {}
    for stem, image_id in given.items():
        if image_id in taken:
            raise InputError(f"image id {image_id!r} is given to {taken[image_id]!r} and {stem!r}; give each its own")
        taken[image_id] = stem
    free = (number for number in range(1, len(stems) + len(given) + 1) if number not in taken)
    return {stem: given[stem] if stem in given else next(free) for stem in stems}
