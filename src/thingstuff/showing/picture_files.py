"""What the page shows of one picture: the picture, its thumbnail with the map laid over, and the map as a script.

Letters: H W the map, h w the size it is shown at.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from thingstuff import __version__
from thingstuff.drawing import overlay
from thingstuff.errors import InputError
from thingstuff.evaluation.problems import clean
from thingstuff.io import Size, atomic_write, read_id_map, read_picture
from thingstuff.showing.entries import Entry, ShownClasses
from thingstuff.showing.shown_map import CROWD, FILLED, ShownMap, runs, shown_map

PICTURES, THUMBNAILS, MAPS = "pictures", "thumbnails", "maps"
THUMBNAIL = (360, 480)
"""The (height, width) that a thumbnail fits into."""

# another number wherever the same input is to give other files: those of a page are taken up by their names
_FORMAT = 1
_LONGEST_SIDE = 1024
_GREY = (70, 74, 80)
_PLAIN_BIT, _CROWD_BIT, _FILLED_BIT = 1, 2, 4


class ClassCount(NamedTuple):
    """A class in a picture: `kinds` adds up 1 where it has plain segments, 2 crowds, 4 filled ones."""

    label: int
    kinds: int
    segments: int
    pixels: int


class Made(NamedTuple):
    """What was made of a picture: the name of its files, sizes as (width, height) in pixels, what is in it.

    `size` is that of the shown picture, `faults` how many there are.
    """

    name: str
    size: tuple[int, int]
    thumbnail: tuple[int, int]
    counts: tuple[ClassCount, ...]
    faults: int


@dataclass(frozen=True)
class PictureMaker:
    """Makes the files of a picture, unless they are there already: their name says what they were made from.

    Whatever is wrong with picture, map or JSON is told on its page. Raises `InputError` where a file cannot be written.
    """

    out: Path
    classes: ShownClasses

    def __call__(self, entry: Entry) -> Made:
        """Make the files of one picture."""
        name = self._name(entry)
        made = self._made_before(name)
        if made is not None:
            return made
        faults = list(entry.faults)
        picture, shown = self._read(entry, faults)
        try:
            return self._write(name, picture, shown, faults)
        except OSError as error:
            raise InputError(f"{self.out}: a file cannot be written ({error}); give a folder with room") from error

    def _name(self, entry: Entry) -> str:
        told = (_FORMAT, __version__, entry, _state(entry.picture), _state(entry.map), self.classes)
        return blake2b(repr(told).encode(errors="backslashreplace"), digest_size=12).hexdigest()

    def _made_before(self, name: str) -> Made | None:
        try:
            with (self.out / MAPS / f"{name}.js").open(encoding="utf-8") as file:
                file.readline()
                size, thumbnail, counts, faults = json.loads(file.readline().rstrip(",\n"))
        except (OSError, ValueError):
            return None  # not made yet, or cut off: it is made now
        if not (self.out / THUMBNAILS / f"{name}.jpg").is_file():
            return None
        return Made(name, tuple(size), tuple(thumbnail), tuple(ClassCount(*count) for count in counts), faults)

    def _read(self, entry: Entry, faults: list[str]) -> tuple[Image.Image | None, ShownMap | None]:
        shown = None
        if entry.map is not None:
            try:
                ids = read_id_map(entry.map)
                shown = shown_map(ids, entry.infos, entry.split, self.classes, faults)
            except InputError as error:
                faults.append(str(error))
        size = shown.ids.shape if shown else entry.size
        if shown and entry.size not in (None, size):
            faults.append(f"the JSON says {_by(entry.size)} pixels, the map has {_by(size)}")
        return _picture(entry.picture, size, faults), shown

    def _write(self, name: str, picture: Image.Image | None, shown: ShownMap | None, faults: list[str]) -> Made:
        full = picture.size[::-1] if picture else shown.ids.shape if shown else THUMBNAIL
        height, width = _fitted(full, (_LONGEST_SIDE, _LONGEST_SIDE), grow=False)
        small = _fitted(full, THUMBNAIL, grow=True)
        if picture:
            picture = _resized(picture, (height, width))
            picture.save(self.out / PICTURES / f"{name}.jpg", "JPEG", quality=85)
        thumbnail = _resized(picture, small) if picture else Image.new("RGB", small[::-1], _GREY)
        if shown:
            thumbnail = overlay(shown.at(small), thumbnail)
        thumbnail.save(self.out / THUMBNAILS / f"{name}.jpg", "JPEG", quality=80)
        counts = _counts(shown) if shown else ()
        made = Made(name, (width, height), (small[1], small[0]), counts, len(faults))
        details = {
            "picture": picture is not None,
            "size": list(full[::-1]),
            "map": shown is not None,
            "faults": [clean(fault) for fault in faults],
            "segments": _rows(shown) if shown else [],
            "runs": runs(shown.at((height, width))) if shown else [],
        }
        lines = (json.dumps(name), json.dumps(made[1:]), json.dumps(details, separators=(",", ":")))
        # last and whole: who finds it finds the others
        atomic_write(self.out / MAPS / f"{name}.js", "thingstuff.map({},\n{},\n{});\n".format(*lines))
        return made


def _picture(path: Path | None, size: Size | None, faults: list[str]) -> Image.Image | None:
    """Read a picture, also one that has not the expected size; None where there is none to read."""
    if path is None:
        return None
    try:
        return read_picture(path, size)
    except InputError as error:
        faults.append(str(error))
    try:
        return read_picture(path)
    except InputError:
        return None  # told already


def _fitted(size: Size, into: Size, grow: bool) -> Size:
    scale = min(into[0] / size[0], into[1] / size[1])
    if scale > 1 and not grow:
        return size
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _resized(picture: Image.Image, size: Size) -> Image.Image:
    wanted = (size[1], size[0])
    if picture.size == wanted:
        return picture
    return picture.resize(wanted, Image.Resampling.BICUBIC, reducing_gap=2.0)


def _counts(shown: ShownMap) -> tuple[ClassCount, ...]:
    counts: dict[int, ClassCount] = {}
    for segment in shown.segments:
        kinds = _CROWD_BIT * bool(segment.flags & CROWD) | _FILLED_BIT * bool(segment.flags & FILLED) or _PLAIN_BIT
        before = counts.get(segment.label, ClassCount(segment.label, 0, 0, 0))
        counts[segment.label] = ClassCount(
            segment.label, before.kinds | kinds, before.segments + 1, before.pixels + segment.area
        )
    return tuple(counts.values())


def _rows(shown: ShownMap) -> list[list[Any]]:
    """Return the segments as the script has them: the colour is one number, red in its lowest byte."""
    rows = zip(shown.segments, shown.colors(), strict=True)
    return [[s.id, s.label, s.area, *s.box, s.flags, s.note, r | g << 8 | b << 16] for s, (r, g, b) in rows]


def _state(path: Path | None) -> tuple[int, int] | None:
    """Return what changes when a file does."""
    try:
        found = path.stat() if path else None
    except (OSError, ValueError):  # ValueError: a name that no file can have
        return None
    return (found.st_size, found.st_mtime_ns) if found else None


def _by(size: Size | None) -> str:
    return f"{size[1]} x {size[0]}" if size else "no size"


def total_counts(made: Iterable[Made]) -> dict[int, tuple[int, int, int]]:
    """Return the (pictures, segments, pixels) of each label over several pictures."""
    totals: dict[int, tuple[int, int, int]] = {}
    for picture in made:
        for count in picture.counts:
            pictures, segments, pixels = totals.get(count.label, (0, 0, 0))
            totals[count.label] = (pictures + 1, segments + count.segments, pixels + count.pixels)
    return totals
