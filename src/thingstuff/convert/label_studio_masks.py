"""Masks as Label Studio stores them: a brush's packed runs of RGBA, and a PNG as a data URL.

Letters: H W pixels of a picture.
"""

import base64
from io import BytesIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from thingstuff.convert.label_studio_runs import unpack_runs
from thingstuff.convert.source import Region, Size
from thingstuff.errors import InputError
from thingstuff.io import UNREADABLE

_HEADER_BITS = 32 + 5 + 4 * 4


def brush_region(data: bytes, size: Size) -> Region:
    """Return the pixels of a brush region in a picture of that (height, width).

    `data` are bits (thi.ng/rle-pack, which Label Studio uses): a count of words (32), a word's bits less 1 (5), four
    lengths of counts less 1 (4 each); then runs of a flag (1), the number of a length (2), how many words less 1 (that
    length), and one word if the flag is set, else all of them. Words are the bytes of RGBA, row after row; a pixel is
    drawn where its alpha is more than half of the greatest, as a brush fades at its rim. Raises `InputError` where that
    does not hold or does not fill the picture.
    """
    height, width = size
    alpha = _unpacked(data, 4 * height * width)[3::4].reshape(size)
    strongest = int(alpha.max(initial=0))
    return Region.of(alpha > strongest // 2)


def png_region(url: str, size: Size) -> Region:
    """Return the pixels that are not transparent in a PNG given as `data:image/png;base64,...`.

    Raises `InputError` where it cannot be decoded, has no alpha, or has another (height, width).
    """
    begin, comma, text = url.partition(",")
    if not (begin.startswith("data:image/") and begin.endswith(";base64") and comma):
        raise InputError(f"imageDataURL {url!r:.40} is no picture in base64")
    try:
        with Image.open(BytesIO(base64.b64decode(text, validate=True))) as image:
            if (image.height, image.width) != size:
                raise InputError(
                    f"imageDataURL holds a mask of {image.width} x {image.height}, not of {size[1]} x {size[0]}"
                )
            if not image.has_transparency_data:
                raise InputError("imageDataURL holds a picture without transparency, which says nothing of a mask")
            alpha = np.asarray(image.convert("RGBA").getchannel("A"))
    except InputError:
        raise
    except UNREADABLE as error:
        raise InputError(f"imageDataURL cannot be decoded ({error})") from None
    return Region.of(alpha > 0)


def _unpacked(data: bytes, count: int) -> npt.NDArray[np.uint8]:
    """Return the `count` bytes that are packed."""
    if 8 * len(data) < _HEADER_BITS:
        raise InputError(f"rle of {len(data)} bytes is cut off")
    stated, word = _bits(data, 0, 32), _bits(data, 32, 5) + 1
    if stated != count or word != 8:
        raise InputError(f"rle speaks of {stated} words of {word} bits, not of {count} of 8 (RGBA of every pixel)")
    first, second, third, fourth = (_bits(data, 37 + 4 * number, 4) + 1 for number in range(4))
    out = np.zeros(count, dtype=np.uint8)
    filled = unpack_runs(data, _HEADER_BITS, (first, second, third, fourth), out)
    if filled < count:
        raise InputError(f"rle is cut off or damaged: {count - filled} of {count} bytes are missing")
    return out


def _bits(data: bytes, place: int, count: int) -> int:
    first, last = place >> 3, (place + count + 7) >> 3
    value = int.from_bytes(data[first:last], "big")
    return value >> ((last << 3) - place - count) & ((1 << count) - 1)
