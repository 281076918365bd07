"""One picture of a data set with its map and entry: everything that can be found without looking at the others."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from thingstuff.checking.findings import Finding
from thingstuff.checking.maps import has_specks, unreadable_kind
from thingstuff.checking.pictures import Fingerprint, Header, fingerprint, is_file, picture_header, size_fault
from thingstuff.checking.pieces import Pieces, areas_of, pieces_of
from thingstuff.checking.segments import SeenSegment, Told, isthing_faults, segment_faults, stated_faults
from thingstuff.data.coco import SplitPaths
from thingstuff.errors import InputError
from thingstuff.evaluation.file_categories import FileCategories
from thingstuff.evaluation.picture_index import FilePair
from thingstuff.evaluation.picture_side import PictureSide, SideFiles, picture_name
from thingstuff.evaluation.problems import Problem, ProblemFile, clean, shown
from thingstuff.evaluation.segments import ImageId
from thingstuff.io import Size, id_map_size

NEARLY_ALL = 0.95
"""Share of void pixels above which a picture is told of."""
_BY_LOSS = ("unlisted id", "wrong area", "segment without pixels")  # what specks in a map lead to


class SplitFiles(NamedTuple):
    """A split's name, files and classes: what every process needs of it."""

    name: str
    paths: SplitPaths
    classes: FileCategories


class Job(NamedTuple):
    """A picture to look at: the position of its split, and what the JSON has of it."""

    split: int
    pair: FilePair


class Examined(NamedTuple):
    """What was found in a picture, and what is counted over all of them.

    `void` pixels are None where the map was not read, `size` is (height, width) of the map, else as stated, else None;
    `annotated` is how many segments the JSON lists.
    """

    split: int
    image_id: ImageId
    findings: tuple[Finding, ...]
    picture: str | None
    map: str | None
    size: Size | None
    segments: tuple[SeenSegment, ...]
    void: int | None
    fingerprint: Fingerprint | None
    annotated: int


@dataclass(frozen=True)
class Examination:
    """Looks at pictures of some splits; `quick` leaves it at the JSON and the files' headers."""

    splits: tuple[SplitFiles, ...]
    quick: bool = False

    def __call__(self, job: Job) -> Examined:
        """Look at one picture. Raises `InputError` where a JSON was changed since it was indexed."""
        return _Picture(self.splits[job.split], job.pair).examined(job.split, self.quick)


class _Picture:
    """A picture on the way: its side of an evaluation, and the problems so far."""

    def __init__(self, split: SplitFiles, pair: FilePair) -> None:
        self.split, self.pair = split, pair
        self.problems: list[Problem] = []
        files = SideFiles(split.paths.json, split.paths.maps)
        self.side = PictureSide(files, pair.image_id, split.classes, self.problems, is_truth=True)
        self.size: Size | None = None  # the map's

    def examined(self, position: int, quick: bool) -> Examined:
        """Return what is found and counted."""
        void = None
        if quick:
            self._read_headers()
            segments = self._stated()
        else:
            void = self._read_map()
            segments = tuple(SeenSegment(s.category_id, int(s.area), s.iscrowd) for s in self.side.segments.values())
        if self.side.listed and not self.side.infos:
            self.side.problem("picture without segments", "segments_info is empty")
        self._tell(isthing_faults(self.side.infos, self.split.classes.categories))
        found = self._picture(quick)
        return Examined(
            position,
            self.pair.image_id,
            tuple(Finding.of(problem, self.split.name) for problem in self.problems),
            self.pair.picture,
            self.side.map_name,
            self.size or self.pair.size,
            segments,
            void,
            found,
            len(self.side.infos),
        )

    def _read_map(self) -> int | None:
        """Read map and entry and tell of their faults; return the void pixels, None where the map cannot be used."""
        side = self.side
        side.read(self.pair.truth)
        if side.ids is not None:
            self.size = (side.ids.shape[0], side.ids.shape[1])
        side.check_size(self.pair.size, "by images")
        pieces = pieces_of(side.ids) if side.ids is not None and side.usable else None
        areas = areas_of(pieces) if pieces is not None else None
        side.check(areas)
        self._name_kinds(pieces)
        if pieces is None or areas is None or not side.usable:
            return None
        if not any(problem.kind == "lossy map" for problem in self.problems):
            self._tell(segment_faults(side.infos, side.segments, pieces, self.split.classes.categories))
        void, pixels = areas.get(0, 0), sum(areas.values())
        if side.segments and void > NEARLY_ALL * pixels:
            side.problem("nearly all void", f"{100 * void / pixels:.1f} % of its pixels are void")
        return void

    def _name_kinds(self, pieces: Pieces | None) -> None:
        """Say which slip is behind a map that evaluation cannot use, or that holds many ids that are not listed."""
        listed = self.side.listed_ids()
        for at, problem in enumerate(self.problems):
            if problem.kind == "unreadable map":
                swapped = self.side.ids is not None
                kind = (
                    "swapped channels"
                    if swapped
                    else unreadable_kind(self.split.paths.maps / str(self.side.map_name), listed)
                )
                self.problems[at] = Problem(kind, *_rest(problem))
        unlisted = [problem for problem in self.problems if problem.kind == "unlisted id"]
        if unlisted and pieces is not None and has_specks(pieces, listed):
            self.problems[:] = [problem for problem in self.problems if problem.kind not in _BY_LOSS]
            self.side.of_map("lossy map", "holds specks of many ids that are not in segments_info")

    def _read_headers(self) -> None:
        side = self.side
        path = side.read_entry(self.pair.truth)
        if path is not None:
            try:
                self.size = id_map_size(path)
            except InputError as error:
                kind = unreadable_kind(path, ()) if is_file(path) else "missing map"
                side.of_map(kind, str(error).removeprefix(f"{path} "))
        if self.size is not None and self.pair.size not in (None, self.size):
            assert self.pair.size is not None
            message = f"is {_words(self.size)}, but {_words(self.pair.size)} by images"
            side.of_map("wrong size", message)
        side.check(None)

    def _stated(self) -> tuple[SeenSegment, ...]:
        """Return the segments as the JSON states them, without those that are no segments at all."""
        rows = [(info["id"], _seen(info)) for info in self.side.infos if _usable(info, self.split.classes)]
        self._tell(stated_faults(rows, self.split.classes.categories))
        return tuple(segment for _, segment in rows)

    def _tell(self, faults: Iterable[Told]) -> None:
        for kind, segment_id, message in faults:
            self.side.problem(kind, message, segment_id)

    def _picture(self, quick: bool) -> Fingerprint | None:
        """Look at the picture file; return its fingerprint where its pixels were read."""
        if self.pair.picture is None:
            return None
        name = picture_name(self.pair.picture)
        if name is None:
            self.side.problem("outside the folder", f"file_name {shown(self.pair.picture)} of the picture")
            return None
        path = self.split.paths.pictures / name
        problem = ProblemFile(self.problems, path, self.pair.image_id)
        try:
            header = picture_header(path)
            self._compare(header, problem)
            return None if quick else fingerprint(path)
        except InputError as error:
            kind = "unreadable picture" if is_file(path) else "missing picture"
            problem(kind, str(error).removeprefix(f"{path} "))
            return None

    def _compare(self, header: Header, problem: ProblemFile) -> None:
        wanted = self.size or self.pair.size
        fault = size_fault(header, wanted) if wanted is not None else None
        # a picture that agrees with images, where the map does not, is no second fault
        if fault and not (fault[0] == "picture size" and self.pair.size in (header.upright, header.stored)):
            problem(*fault)


def _rest(problem: Problem) -> tuple[str, ImageId | None, int | None, str]:
    return problem.file, problem.image_id, problem.segment_id, problem.message


def _usable(info: Any, classes: FileCategories) -> bool:
    if not isinstance(info, dict) or type(info.get("id")) is not int or type(info.get("area")) is not int:
        return False
    return type(info.get("category_id")) is int and info["category_id"] in classes.categories.label_of


def _seen(info: dict[str, Any]) -> SeenSegment:
    return SeenSegment(info["category_id"], info["area"], info.get("iscrowd") == 1)


def _words(size: Sequence[int]) -> str:
    return clean(f"{size[1]} wide and {size[0]} high")
