"""Id maps as PNGs: written as 8-bit RGB, and read as nearly all programs write them, not interlaced and whole.

The PNG specification (W3C, 2003). Letters: H W pixels of a picture.
"""

import struct
import zlib
from collections.abc import Iterator
from types import ModuleType
from typing import IO

import numpy as np
from jaxtyping import Int32
from PIL import Image

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_UP = 2  # the filter: what changes from the row above
_LEVEL = 6  # of libdeflate: about as quick as the lower ones here, and smaller
_BYTES_PER_PIXEL = {2: 3, 6: 4}  # by colour type
# What may stand beside the pixels without a say in them, and its length.
_ASIDE = {b"gAMA": 4, b"pHYs": 9, b"sRGB": 1, b"cHRM": 32, b"tIME": 7, b"bKGD": 6}

# (first row, first column, rows apart, columns apart) of each pass over the picture, not interlaced and interlaced
_PASSES = (
    ((0, 0, 1, 1),),
    ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)),
)


def decode_plain(data: bytes, loops: ModuleType) -> Int32[np.ndarray, "H W"] | None:
    """Return R + 256 G + 65536 B of a PNG by `thingstuff.compiled_loops`, None where it is damaged or of a rarer kind.

    Who gets None asks Pillow, which reads the rarer kinds and says what is wrong with the others.
    """
    from deflate import DeflateError, zlib_decompress

    found = _plain_parts(data)
    if found is None:
        return None
    (height, width, step), packed = found
    length = height * (1 + step * width)
    try:
        raw = np.frombuffer(zlib_decompress(packed, length), np.uint8)
    except DeflateError:
        return None
    ids = np.empty((height, width), np.int32)
    return ids if raw.size == length and loops.unfilter(raw, step, ids) else None


def encode(ids: Int32[np.ndarray, "H W"]) -> bytes:
    """Return an 8-bit RGB PNG of R + 256 G + 65536 B; raises `ValueError` for a map without pixels.

    Each row is stored as what changes from the row above: maps of segments have little of it.
    """
    from deflate import crc32, zlib_compress

    height, width = ids.shape
    if not height or not width:
        raise ValueError("a PNG has at least one pixel")
    colors = np.ascontiguousarray(ids, dtype="<i4").view(np.uint8).reshape(height, width, 4)[..., :3]
    rows = np.ascontiguousarray(colors).reshape(height, 3 * width)
    raw = np.empty((height, 1 + 3 * width), np.uint8)
    raw[:, 0] = _UP
    raw[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=raw[1:, 1:])  # a byte goes round at 256, as the specification has it
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", bytes(zlib_compress(raw.tobytes(), _LEVEL))), (b"IEND", b""))
    parts = (
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc32(kind + content))
        for kind, content in chunks
    )
    return _SIGNATURE + b"".join(parts)


def silent_fault(data: bytes) -> str | None:
    """Say what is wrong with an 8-bit RGB or RGBA PNG that Pillow decodes without a word.

    It takes rows that lack for black. Damage that it tells of is not looked for.
    """
    width, height, _, colour, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    if interlaced >= len(_PASSES):
        return f"its interlace method is {interlaced}, and there is none but 0 and 1"
    if [kind for kind, _ in _chunks(data)].count(b"IHDR") > 1:
        return "it has more than one header"
    step = _BYTES_PER_PIXEL[colour]
    sizes = [(len(range(y, height, dy)), len(range(x, width, dx))) for y, x, dy, dx in _PASSES[interlaced]]
    wanted = sum(rows * (1 + step * columns) for rows, columns in sizes if columns)
    packed = b"".join(content for kind, content in _chunks(data) if kind == b"IDAT")
    found = len(zlib.decompressobj().decompress(packed, wanted))
    return None if found == wanted else f"its pixels are cut off after {found:,} of {wanted:,} bytes"


def chunk_heads(file: IO[bytes]) -> Iterator[tuple[bytes, int]]:
    """Yield (kind, length) of every chunk of a PNG that stands behind its signature, without reading what they hold."""
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        yield kind, length
        file.seek(length + 4, 1)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield (kind, content) of every chunk, whole or not."""
    at = len(_SIGNATURE)
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        yield kind, data[at + 8 : at + 8 + length]
        at += 12 + length


def _plain_parts(data: bytes) -> tuple[tuple[int, int, int], bytes] | None:
    """Return (height, width, bytes per pixel) and the packed pixels, None unless every chunk is known and whole."""
    chunks = list(_whole_chunks(data))
    kinds = [kind for kind, _ in chunks]
    if kinds[:1] != [b"IHDR"] or kinds[-1:] != [b"IEND"] or b"IDAT" not in kinds:
        return None
    first, count = kinds.index(b"IDAT"), kinds.count(b"IDAT")
    aside = chunks[1:first] + chunks[first + count : -1]
    if any(_ASIDE.get(kind) != len(content) for kind, content in aside):
        return None
    header = _plain_header(chunks[0][1])
    return header and (header, b"".join(content for _, content in chunks[first : first + count]))


def _whole_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield (kind, content) up to IEND, or up to the first chunk that is cut off or has a wrong check sum."""
    from deflate import crc32

    at, kind = len(_SIGNATURE), b""
    while kind != b"IEND" and at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data) or crc32(data[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            return
        yield kind, data[at + 8 : end - 4]
        at = end


def _plain_header(content: bytes) -> tuple[int, int, int] | None:
    if len(content) != 13:
        return None
    width, height, depth, colour, *methods = struct.unpack(">IIBBBBB", content)
    # beyond its limit Pillow warns or refuses, unless told not to
    most = Image.MAX_IMAGE_PIXELS or 0
    if depth != 8 or colour not in _BYTES_PER_PIXEL or any(methods) or not 0 < width * height <= most:
        return None
    return height, width, _BYTES_PER_PIXEL[colour]
