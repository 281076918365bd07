"""Finding the pictures that labels speak of."""

from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from thingstuff.convert.source import Size
from thingstuff.errors import InputError
from thingstuff.io import exif_orientation

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})


def find_pictures(folder: Path) -> list[Path]:
    """Return the picture files in a folder and the folders in it, sorted; what begins with a dot is left aside."""
    found = (path for path in folder.rglob("*") if path.suffix.lower() in PICTURE_SUFFIXES)
    visible = (path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts))
    return sorted(path for path in visible if path.is_file())


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
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} cannot be read ({error}); replace it by a whole picture") from None
