"""One side of a picture, its ground truth or its prediction: the entry and the map read, and every fault found.

Letters: H W pixels of a picture.
"""

import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32

from thingstuff.data.coco import FILLED
from thingstuff.errors import InputError
from thingstuff.evaluation.counting import overlaps
from thingstuff.evaluation.file_categories import FileCategories
from thingstuff.evaluation.picture_index import Entry, entry_of
from thingstuff.evaluation.problems import Problem, ProblemFile, shown
from thingstuff.evaluation.segments import ImageId, TruthSegment, segment_areas
from thingstuff.io import LARGEST_ID, Kind, Size, field_fault, read_id_map

_ANNOTATION = {
    "file_name": Kind("a text", lambda v: type(v) is str and v != ""),
    "segments_info": Kind("a list", lambda v: type(v) is list),
}
_AREA = {"area": Kind("a number of pixels", lambda v: type(v) in (int, float) and v >= 0 and v == v // 1)}
_FLAG = {"iscrowd": Kind("0 or 1", lambda v: type(v) in (int, bool) and v in (0, 1))}
_FEW = 10  # unlisted ids of a picture that are told one by one
# Of so many ids of a map, next to none listed, it is a photograph; a sample spares the other maps the counting.
_MANY = 10_000
_SAMPLE, _MANY_OF_SAMPLE = 1024, 128


class SideFiles(NamedTuple):
    """The JSON of one side and the folder of its maps."""

    json: Path
    maps: Path


class PictureSide:
    """A picture's ground truth or prediction: what the JSON lists, the map, and the segments that can be used."""

    def __init__(
        self, files: SideFiles, image_id: ImageId, classes: FileCategories, problems: list[Problem], is_truth: bool
    ) -> None:
        self.image_id, self.is_truth = image_id, is_truth
        self.infos: list[Any] = []
        self.listed = False  # whether the entry has a list of segments
        self.map_name: str | None = None
        self.ids: Int32[np.ndarray, "H W"] | None = None
        self.fits = True
        self.segments: dict[int, TruthSegment] = {}
        self.problem = ProblemFile(problems, files.json, image_id)
        self.of_map = self.problem
        self._files, self._problems, self._classes = files, problems, classes

    def read(self, annotation: Entry) -> None:
        """Take the picture's entry apart and read its map."""
        path = self.read_entry(annotation)
        if path is None:
            return
        try:
            ids = read_id_map(path)
        except InputError as error:
            # not path.is_file(), which raises for names that no file can have
            kind = "unreadable map" if os.path.isfile(path) else "missing map"
            self.of_map(kind, str(error).removeprefix(f"{path} "))
            return
        if not self.listed:
            return
        if reason := _no_map(ids, self.listed_ids()):
            self.of_map("unreadable map", reason)
        else:
            self.ids = ids

    def read_entry(self, annotation: Entry) -> Path | None:
        """Take the picture's entry apart; return where its map lies, None where it does not say so."""
        entry = entry_of(annotation.text, self._files.json, self.image_id)
        faults = {name: field_fault(entry, {name: kind}) for name, kind in _ANNOTATION.items()}
        for fault in filter(None, faults.values()):
            self.problem("faulty annotation", f"annotations[{annotation.position}]: {fault}")
        self.listed = not faults["segments_info"]
        if self.listed:
            self.infos = entry["segments_info"]
        if faults["file_name"]:
            return None
        if leads_out(entry["file_name"]):
            message = f"annotations[{annotation.position}]: file_name {shown(entry['file_name'])}"
            self.problem("outside the folder", message)
            return None
        self.map_name = entry["file_name"]
        path: Path = self._files.maps / entry["file_name"]
        self.of_map = ProblemFile(self._problems, path, self.image_id)
        return path

    def check_size(self, wanted: Size | None, of: str) -> None:
        """Tell of a map that has another size than wanted; what its ids are then is no further fault."""
        if self.ids is not None and wanted is not None and self.ids.shape != wanted:
            self.fits = False
            self.of_map("wrong size", f"is {_differing(self.ids.shape, wanted)} {of}")

    @property
    def usable(self) -> bool:
        """Whether there is a map of the right size."""
        return self.ids is not None and self.fits

    def areas(self) -> Mapping[int, int] | None:
        """Count the pixels of each id, without the other side; None where there is no map of the right size."""
        return segment_areas(overlaps(self.ids, self.ids))[0] if self.ids is not None and self.fits else None

    def check(self, areas: Mapping[int, int] | None) -> None:
        """Sort out the segments, given the pixels of each id in the map where that can be read."""
        faultless = self._faultless(areas) if areas is not None else None
        if faultless is not None:
            self.segments = faultless
            return
        if areas is not None and is_swapped(areas, self.listed_ids()):
            message = "holds ids that are listed only with red and blue swapped: is it written as BGR?"
            self.of_map("unreadable map", message)
            self.fits, areas = False, None
        listed: set[int] = set()
        for position, info in enumerate(self.infos):
            segment_id, segment = self._mended(position, info, areas, listed)
            if segment_id is not None:
                listed.add(segment_id)
            if segment_id is not None and segment is not None:
                self.segments[segment_id] = segment
        if areas is not None:
            self._check_listed(areas, listed)

    def listed_ids(self) -> set[int]:
        """Return the ids that `segments_info` lists, of those that a map can hold."""
        ids = (info.get("id") for info in self.infos if isinstance(info, dict))
        return {i for i in ids if type(i) is int and 0 < i <= LARGEST_ID}

    def leave_out_filled(self) -> int:
        """Let go of the segments that a model filled in; return how many there were."""
        marked = {whole_number(info.get("id")) for info in self.infos if isinstance(info, dict) and info.get(FILLED)}
        usable = len(self.segments)
        self.segments = {i: segment for i, segment in self.segments.items() if i not in marked}
        return usable - len(self.segments)

    def voided(self, areas: Mapping[int, int]) -> list[int]:
        """Return the ids in the map that are no usable segment."""
        return [segment_id for segment_id in areas if segment_id and segment_id not in self.segments]

    def _faultless(self, areas: Mapping[int, int]) -> dict[int, TruthSegment] | None:
        """Return the segments where a quick look at all of them at once finds no fault, as in almost every picture."""
        counted = {i: area for i, area in areas.items() if i}
        try:
            ids, classes = [info["id"] for info in self.infos], [info["category_id"] for info in self.infos]
            if self.is_truth:
                stated, crowds = [info["area"] for info in self.infos], [info["iscrowd"] for info in self.infos]
            else:
                stated = [info.get("area", counted.get(i)) for i, info in zip(ids, self.infos, strict=True)]
                crowds = [0] * len(ids)
            same = len(ids) == len(counted) and dict(zip(ids, stated, strict=True)) == counted
            known = self._classes.categories.label_of.keys() >= {*classes} and {*crowds} <= {0, 1}
        except (KeyError, TypeError):
            return None  # who looks at one after the other has words for it
        # True and 1.0 are equal to 1, but not what a file should hold
        if not same or not known or not {*map(type, (*ids, *classes, *stated, *crowds))} <= {int}:
            return None
        rows = zip(ids, classes, stated, crowds, strict=True)
        return {i: TruthSegment(category_id, area, crowd == 1) for i, category_id, area, crowd in rows}

    def _mended(
        self, position: int, info: Any, areas: Mapping[int, int] | None, listed: Collection[int]
    ) -> tuple[int | None, TruthSegment | None]:
        """Tell of all faults of a segment; return its id and what can be used of it."""
        segment_id = self._segment_id(position, info, listed)
        if segment_id is None:
            return None, None
        category_id = self._category_id(segment_id, info)
        iscrowd = self._iscrowd(segment_id, info)
        area = areas.get(segment_id, 0) if areas is not None else None
        self._check_area(segment_id, info, area)
        if area == 0:
            self.problem("segment without pixels", "has no pixel in its map", segment_id)
        if not area or category_id is None:
            return segment_id, None
        return segment_id, TruthSegment(category_id, area, iscrowd)

    def _segment_id(self, position: int, info: Any, listed: Collection[int]) -> int | None:
        at = f"segments_info[{position}]"
        if not isinstance(info, dict) or "id" not in info:
            fault = "'id' is missing" if isinstance(info, dict) else f"{shown(info)} is no object with id, category_id"
            self.problem("faulty segment", f"{at}: {fault}")
            return None
        segment_id = self._number(info["id"], f"{at}: id")
        if segment_id is None or not 0 < segment_id <= LARGEST_ID:
            message = f"{at}: id {shown(info['id'])} is not a whole number from 1 to {LARGEST_ID} (0 is void)"
            self.problem("faulty segment", message, segment_id)
            return None
        if segment_id in listed:
            self.problem("duplicate segment", f"{at}: stands twice in segments_info", segment_id)
            return None
        return segment_id

    def _category_id(self, segment_id: int, info: Mapping[str, Any]) -> int | None:
        if "category_id" not in info:
            self.problem("faulty category_id", "'category_id' is missing", segment_id)
            return None
        category_id = self._number(info["category_id"], "category_id", segment_id)
        if category_id is None:
            message = f"category_id {shown(info['category_id'])} is not a whole number"
            self.problem("faulty category_id", message, segment_id)
        elif category_id not in self._classes.categories.label_of:
            if category_id not in self._classes.faulty:
                message = f"category_id {shown(category_id)} is not in the ground truth's categories"
                self.problem("unknown category", message, segment_id)
            return None
        return category_id

    def _iscrowd(self, segment_id: int, info: Mapping[str, Any]) -> bool:
        if not self.is_truth:
            return False
        fault = field_fault(info, _FLAG)
        if fault is None:
            return bool(info["iscrowd"])
        number = self._number(info.get("iscrowd"), "iscrowd", segment_id)
        if number not in (0, 1):
            self.problem("faulty iscrowd", fault, segment_id)
        return number == 1

    def _check_area(self, segment_id: int, info: Mapping[str, Any], area: int | None) -> None:
        if not self.is_truth and "area" not in info:
            return
        fault = field_fault(info, _AREA)
        if fault is None and area and info["area"] != area:
            fault = f"its area is {shown(info['area'])} in the JSON, {area} in the map"
        if fault:
            self.problem("wrong area", fault, segment_id)

    def _check_listed(self, areas: Mapping[int, int], listed: Collection[int]) -> None:
        unlisted = sorted(i for i in areas if i and i not in listed)
        if len(unlisted) > _FEW:
            some = ", ".join(map(str, unlisted[:_FEW]))
            self.of_map("unlisted id", f"holds {len(unlisted):,} ids that are not in segments_info: {some}, ...")
            return
        for segment_id in unlisted:
            message = f"holds id {segment_id} on {areas[segment_id]} pixels, not in segments_info"
            self.of_map("unlisted id", message, segment_id)

    def _number(self, value: object, field: str, segment_id: int | None = None) -> int | None:
        """Return a whole number as `whole_number` does, and tell where it is written otherwise."""
        number = whole_number(value)
        if number is not None and type(value) is not int:
            how = f"{value!r} is text" if type(value) is str else f"is written as {value!r}"
            self.problem("number written otherwise", f"{field} {how}", segment_id)
        return number


def picture_name(name: object) -> str | None:
    """Return a picture's file name as `images` has it, None where it is none or leads out of any folder."""
    return name if isinstance(name, str) and not leads_out(name) else None


def leads_out(name: str) -> bool:
    """Whether a file name of a JSON leads out of the folder it is to be looked up in, on any system."""
    if not any(sign in name for sign in "/\\:") and name != "..":
        return False
    # a data set is moved between systems, so that both ways to write a path count on each
    windows = PureWindowsPath(name)
    return ".." in windows.parts or bool(windows.drive or windows.root) or PurePosixPath(name).is_absolute()


def is_swapped(areas: Iterable[int], listed: Collection[int]) -> bool:
    """Whether the ids of a map are those of its JSON with red and blue swapped."""
    other = {i: (i & 255) << 16 | i & 0xFF00 | i >> 16 for i in areas if i}
    turned = {i: swapped for i, swapped in other.items() if i != swapped}
    return bool(turned) and all(i not in listed and swapped in listed for i, swapped in turned.items())


def whole_number(value: object) -> int | None:
    """Return a whole number, also one that is written as text or as 3.0; None for anything else."""
    if type(value) is int:
        return value
    if type(value) is float and value.is_integer():
        return int(value)
    text = type(value) is str and value.isascii() and value.isdigit() and len(value) <= 18
    return int(value) if text and type(value) is str else None


def _no_map(ids: Int32[np.ndarray, "H W"], listed: Collection[int]) -> str | None:
    """Say where a PNG can only be a picture: so many ids that pairs of them would fill the memory."""
    flat = ids.reshape(-1)
    if len({*flat[:: max(1, flat.size // _SAMPLE)].tolist()}) < _MANY_OF_SAMPLE:
        return None
    present = np.zeros(LARGEST_ID + 1, dtype=np.bool_)
    present[flat] = True
    count, known = int(np.count_nonzero(present[1:])), int(np.count_nonzero(present[list(listed)]))
    if count <= _MANY or known > count / 100:
        return None
    of_them = f"{known:,}" if known else "none"
    return f"holds {count:,} ids, {of_them} of them listed: is it a picture, or are the channels swapped?"


def _differing(own: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    turned = " (height and width are swapped)" if own == wanted[::-1] else ""
    return f"{own[1]} wide and {own[0]} high{turned}, but {wanted[1]} wide and {wanted[0]} high"
