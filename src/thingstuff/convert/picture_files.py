"""Finding the pictures that labels speak of, and the keys by which they are known from one run to the next."""

import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

from PIL import Image

from thingstuff.convert.ledger import FOLDER
from thingstuff.convert.source import Size, SourceOptions, SourcePicture
from thingstuff.errors import InputError, raise_problems
from thingstuff.io import UNREADABLE, check_picture_size, exif_orientation

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})
_TOLD = 5


def walk(folder: Path) -> Iterator[Path]:
    """Yield the files in a folder and the folders in it, sorted in each.

    What begins with a dot is left aside, and so are folders that an earlier conversion wrote: what comes out must not
    go in again.
    """
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(n for n in folders if not n.startswith(".") and not is_converted(Path(place, n)))
        yield from (Path(place, name) for name in sorted(names) if not name.startswith("."))


def is_converted(folder: Path) -> bool:
    """Whether a folder holds what an earlier conversion wrote."""
    return (folder / FOLDER).is_dir()


def find_pictures(folder: Path) -> list[Path]:
    """Return the picture files in a folder and the folders in it, sorted, but for what `walk` leaves aside."""
    return sorted(path for path in walk(folder) if path.suffix.lower() in PICTURE_SUFFIXES and path.is_file())


def given_pictures(options: SourceOptions) -> Path | None:
    """Return the folder of pictures that a person gave; raises `InputError` where it is not there."""
    if options.pictures is not None and not options.pictures.is_dir():
        raise InputError(f"the folder of pictures {options.pictures} is not there; correct --pictures")
    return options.pictures


def key_of(path: Path, folder: Path) -> str:
    """Return a file's path in a folder with forward slashes and without its suffix."""
    return path.relative_to(folder).with_suffix("").as_posix()


def by_key(paths: Iterable[Path], folder: Path) -> dict[str, Path]:
    """Return files by their key; raises `InputError` where two differ in their suffix alone."""
    found: dict[str, Path] = {}
    for path in paths:
        twin = found.setdefault(key_of(path, folder), path)
        if twin != path:
            raise InputError(f"{twin} and {path} differ in their suffix alone: which is the picture? Remove one")
    return found


def path_below(name: str) -> PurePosixPath | None:
    """Return a path that a file states, of any system, with forward slashes; None where it leads out of its folder."""
    path = PureWindowsPath(name)
    return None if path.anchor or ".." in path.parts or not path.name else PurePosixPath(path.as_posix())


def keys_apart(pictures: Sequence[SourcePicture], splits: Collection[str | None]) -> tuple[SourcePicture, ...]:
    """Return pictures whose keys begin with their split if the source has several; `splits` are all that it has.

    That hangs on the source's layout alone, never on which pictures there are: a key that changed when another picture
    came would take its picture for a new one. So a source that gets a second split is converted anew, once. Raises
    `InputError` where a split cannot name a folder, or two pictures have one key.
    """
    for picture in pictures:
        if picture.split is not None and len((path_below(picture.split) or PurePosixPath()).parts) != 1:
            raise InputError(f"the split {picture.split!r} of {picture.picture} cannot name a folder; rename it")
    named = {split for split in splits if split is not None} if len({*splits}) > 1 else set[str]()
    found = tuple(p._replace(key=f"{p.split}/{p.key}") if p.split in named else p for p in pictures)
    of_key: defaultdict[str, list[Path]] = defaultdict(list)
    for picture in found:
        of_key[picture.key].append(picture.picture)
    twice = [f"{key}: {paths[0]} and {paths[1]}" for key, paths in of_key.items() if len(paths) > 1]
    raise_problems(twice, "pictures stand twice, or differ in their suffix alone; keep one or rename:", limit=_TOLD)
    return found


def checked_size(picture: Path, size: Size, at: str) -> Size:
    """Return the (height, width) that labels state of a picture; raises `InputError`, led by `at`, if it has another.

    To be called before a mask is made: of a wrong size it may be larger than memory.
    """
    try:
        check_picture_size(picture, size)
    except InputError as error:
        raise InputError(f"{at}: {error}") from None
    return size


def picture_size(path: Path) -> Size:
    """Return an upright picture's (height, width) by its header: as it is seen, EXIF's orientation applied.

    Raises `InputError` where it cannot be read.
    """
    try:
        with Image.open(path) as image:
            turned = exif_orientation(image) >= 5
            return (image.width, image.height) if turned else (image.height, image.width)
    except FileNotFoundError:
        raise InputError(f"{path} is not there; put the picture there or correct the name") from None
    except UNREADABLE as error:
        raise InputError(f"{path} cannot be read ({error}); replace it by a whole picture") from None
