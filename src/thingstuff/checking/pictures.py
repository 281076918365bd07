"""What a picture file says by its header and by its pixels: sizes, EXIF orientation, whether it is whole.

Letters: H W pixels as they are stored.
"""

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from jaxtyping import Int32
from PIL import Image

from thingstuff.errors import InputError
from thingstuff.io import UNREADABLE, Size, exif_orientation, read_picture

_TURNED = (5, 6, 7, 8)  # orientations that swap width and height
_ABOUT = 64  # pixels of the shorter side that a hash needs at most
THUMBNAIL = (8, 8, 3)
"""Rows, columns and channels of a thumbnail."""


class Header(NamedTuple):
    """A picture's size as its pixels are stored, and its EXIF orientation, 1 to 8 (1 is upright)."""

    stored: Size
    orientation: int

    @property
    def upright(self) -> Size:
        """(height, width) as it is seen."""
        return self.stored[::-1] if self.orientation in _TURNED else self.stored


class Fingerprint(NamedTuple):
    """What duplicates are found by: a digest of the file, a perceptual hash of 64 bits, a thumbnail of its colours."""

    digest: bytes
    hash: int
    thumbnail: bytes


def picture_header(path: Path) -> Header:
    """Read a picture's header; raises `InputError` where it is missing or cannot be read."""
    try:
        with Image.open(path) as image:
            return Header((image.height, image.width), exif_orientation(image))
    except FileNotFoundError:
        raise InputError(f"{path} is not there") from None
    except UNREADABLE as error:
        raise InputError(f"{path} cannot be read ({error})") from None


def fingerprint(path: Path) -> Fingerprint:
    """Decode a picture in full; raises `InputError` where it is damaged or cut off.

    The hash is pHash as the package imagehash has it (signs of the lowest 8 x 8 cosine coefficients about their
    median), of the picture as it is seen.
    """
    import imagehash

    picture = read_picture(path)
    digest = hashlib.blake2b(path.read_bytes(), digest_size=16).digest()
    # the hash looks at 32 x 32 pixels: averaging whole blocks first spares its filter most of a large picture
    small = picture.reduce(max(1, min(picture.size) // _ABOUT))
    bits: npt.NDArray[np.bool_] = imagehash.phash(small).hash
    number = int.from_bytes(np.packbits(bits).tobytes(), "big")
    thumbnail = small.resize(THUMBNAIL[1::-1], Image.Resampling.BOX)
    return Fingerprint(digest, number, thumbnail.tobytes())


def is_file(path: Path) -> bool:
    """Whether there is a file; a name that no file can have is none."""
    return os.path.isfile(path)  # Path.is_file raises for such names


def size_fault(header: Header, size: Size) -> tuple[str, str] | None:
    """Return the kind and message of what is odd about a picture beside a map of (height, width), None if nothing."""
    stored, upright = header.stored, header.upright
    how = f"has the EXIF orientation {header.orientation}"
    if size not in (stored, upright):
        turned = "" if stored == upright else f" (stored {_words(stored)})"
        return "picture size", f"is {_words(upright)}{turned}, its map {_words(size)}"
    if header.orientation == 1:
        return None
    if stored == upright:
        return "orientation unclear", f"{how}, and is {_words(upright)} either way"
    if stored == size:
        return "turned by EXIF", f"{how} and is seen {_words(upright)}; its map fits the stored {_words(stored)}"
    return "upright by EXIF", f"{how}: stored {_words(stored)}, seen {_words(upright)} as its map is"


def turned(ids: Int32[np.ndarray, "H W"], orientation: int) -> Int32[np.ndarray, "..."]:
    """Turn a map of stored pixels as EXIF's `orientation` (1 to 8) turns the picture."""
    turns = {
        1: ids,
        2: ids[:, ::-1],
        3: ids[::-1, ::-1],
        4: ids[::-1],
        5: ids.T,
        6: ids[::-1].T,
        7: ids[::-1, ::-1].T,
        8: ids.T[::-1],
    }
    return np.ascontiguousarray(turns[orientation])


def _words(size: Size) -> str:
    return f"{size[1]} wide and {size[0]} high"
