"""One picture of a data set repaired and written into a copy of it, in any process."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32

from thingstuff.checking.examination import SplitFiles
from thingstuff.checking.findings import Finding
from thingstuff.checking.maps import has_specks, read_palette_map, swap_channels, unreadable_kind
from thingstuff.checking.mending import mend_segments
from thingstuff.checking.pictures import Header, is_file, picture_header, turned
from thingstuff.checking.pieces import areas_of, pieces_of
from thingstuff.convert.picture_links import place_picture
from thingstuff.errors import InputError
from thingstuff.evaluation.picture_index import FilePair, entry_of
from thingstuff.evaluation.picture_side import PictureSide, SideFiles, is_swapped, picture_name
from thingstuff.evaluation.problems import Problem, ProblemFile, shown
from thingstuff.io import Size, read_picture, write_id_map


class MendJob(NamedTuple):
    """A picture to repair: the position of its split, what the JSON has of it, and the name of its map in the copy."""

    split: int
    pair: FilePair
    map: str


class Mended(NamedTuple):
    """A picture that was written into the copy: its entry in annotations, None where it was left out.

    `size` is the (height, width) that images should state; `changed` and `left_out` say what was done.
    """

    split: int
    pair: FilePair
    entry: Mapping[str, Any] | None
    size: Size | None
    changed: tuple[Finding, ...]
    left_out: tuple[Finding, ...]


class CopyFolders(NamedTuple):
    """Where a split's pictures and maps go."""

    pictures: Path
    maps: Path


@dataclass(frozen=True)
class Mending:
    """Repairs pictures of some splits and writes them, each split into its own folders; `copy` copies pictures."""

    splits: tuple[SplitFiles, ...]
    folders: tuple[CopyFolders, ...]
    copy: bool
    min_area: int

    def __call__(self, job: MendJob) -> Mended:
        """Repair one picture. Raises `InputError` where a JSON was changed since it was indexed."""
        picture = _Mending(self.splits[job.split], job.pair)
        entry = picture.mended(job.map, self.folders[job.split], self.copy, self.min_area)
        name = self.splits[job.split].name
        changed, left = (
            tuple(Finding.of(problem, name) for problem in problems) for problems in (picture.changed, picture.left_out)
        )
        return Mended(job.split, job.pair, entry, picture.size, changed, left)


class _Mending:
    """A picture on the way: its side of an evaluation, what was changed, and why it was left out."""

    def __init__(self, split: SplitFiles, pair: FilePair) -> None:
        self.split, self.pair = split, pair
        self.changed: list[Problem] = []
        self.left_out: list[Problem] = []
        self.size: Size | None = None
        files = SideFiles(split.paths.json, split.paths.maps)
        self.read: list[Problem] = []
        self.side = PictureSide(files, pair.image_id, split.classes, self.read, is_truth=True)
        self.change = ProblemFile(self.changed, split.paths.json, pair.image_id)
        self.leave = ProblemFile(self.left_out, split.paths.json, pair.image_id)

    def mended(self, name: str, folders: CopyFolders, copy: bool, min_area: int) -> dict[str, Any] | None:
        """Write picture and map; return the entry in annotations, None where the picture is left out."""
        header = self._header()
        ids = self._ids() if header is not None else None
        if header is None or ids is None or self.pair.picture is None:
            return None
        upright = self._turned(ids, header)
        was_turned, ids = upright is not ids, upright
        fits = (ids.shape[0], ids.shape[1]) in (header.upright, header.stored)
        self._correct_size(ids, fits, was_turned)
        if not fits and self.pair.size is None:
            self.leave("faulty picture entry", "states no size, and picture and map disagree")
            return None
        segments = mend_segments(ids, self.side.infos, self.split.classes, min_area)
        for kind, segment_id, message in segments.changes:
            if was_turned and kind == "wrong box":
                continue  # it was right before
            self.change(kind, message, segment_id)
        if self.pair.picture is not None:
            place_picture(self.split.paths.pictures / self.pair.picture, folders.pictures / self.pair.picture, copy)
        target = folders.maps / name
        if self.side.ids is not None and np.array_equal(segments.ids, self.side.ids):
            place_picture(self.split.paths.maps / str(self.side.map_name), target, copy=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            write_id_map(target, segments.ids)
        entry = entry_of(self.pair.truth.text, self.split.paths.json, self.pair.image_id)
        return {**entry, "file_name": name, "segments_info": list(segments.infos)}

    def _header(self) -> Header | None:
        """Decode the picture; None where it cannot be used."""
        if self.pair.picture is None:
            self.leave("faulty picture entry", "images has no file_name for it")
            return None
        name = picture_name(self.pair.picture)
        if name is None:
            self.leave("outside the folder", f"file_name {shown(self.pair.picture)} of the picture")
            return None
        path = self.split.paths.pictures / name
        try:
            read_picture(path)
            return picture_header(path)
        except InputError as error:
            kind = "unreadable picture" if is_file(path) else "missing picture"
            self.leave(kind, f"{shown(name)}: {str(error).removeprefix(f'{path} ')}")
            return None

    def _ids(self) -> Int32[np.ndarray, "H W"] | None:
        """Read the map, whatever slip it was written with; None where it cannot be used."""
        self.side.read(self.pair.truth)
        listed, name = self.side.listed_ids(), self.side.map_name
        ids = self.side.ids
        if ids is None and name is not None and self.side.listed and is_file(self.split.paths.maps / name):
            path = self.split.paths.maps / name
            kind = unreadable_kind(path, listed)
            ids = read_palette_map(path, listed) if kind == "palette map" else None
            if ids is None:
                self.leave(kind, f"the map {shown(name)}: {'; '.join(p.message for p in self.read)}")
            else:
                self.change(kind, f"the map {shown(name)} is written as RGB")
            return ids
        if ids is None:
            self.left_out += self.read
            return None
        pieces = pieces_of(ids)
        if is_swapped(areas_of(pieces), listed):
            self.change("swapped channels", f"red and blue of the map {shown(name)} are swapped")
            return swap_channels(ids)
        if has_specks(pieces, listed):
            self.leave("lossy map", f"the map {shown(name)} holds specks of many ids that are not in segments_info")
            return None
        return ids

    def _turned(self, ids: Int32[np.ndarray, "H W"], header: Header) -> Int32[np.ndarray, "..."]:
        """Turn a map of the stored pixels as the picture is seen."""
        size = (ids.shape[0], ids.shape[1])
        if size != header.stored or header.stored == header.upright:
            return ids
        message = f"its map is turned as the picture is seen (EXIF orientation {header.orientation})"
        self.change("turned by EXIF", message)
        if self.pair.size == header.upright:
            self.change("wrong size", "its map is as images states it, now that it is turned")
        return turned(ids, header.orientation)

    def _correct_size(self, ids: Int32[np.ndarray, "H W"], fits: bool, was_turned: bool) -> None:
        size, stated = (ids.shape[0], ids.shape[1]), self.pair.size
        if fits and stated != size:
            self.size = size
            if not was_turned or stated != size[::-1]:
                kind = "faulty picture entry" if stated is None else "wrong size"
                self.change(kind, f"images states width {size[1]} and height {size[0]} now")
