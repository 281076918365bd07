"""Files in and out: JSON, id maps as PNG (R + 256 G + 65536 B), pictures; every write is atomic.

Letters: H W pixels of a picture.
"""

import json
import math
import os
import re
import secrets
import stat
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from jaxtyping import Int32, Integer
from PIL import ExifTags, Image

from thingstuff.errors import InputError
from thingstuff.loops import compiled_loops
from thingstuff.png_maps import chunk_heads, decode_plain, encode, silent_fault

Size = tuple[int, int]
"""(height, width) in pixels."""

LARGEST_ID = 256**3 - 1
"""The largest segment id that three bytes hold."""

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# what pictures of other kinds hold at a place near their begin
_OTHER_KINDS = (
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"GIF8", "GIF"),
    (0, b"BM", "BMP"),
    (8, b"WEBP", "WebP"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
)
_PNG_COLORS = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGBA"}
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, zlib.error, struct.error, Image.DecompressionBombError)
"""What Pillow\'s decoders raise on damaged files; anything else is a fault that should keep its traceback."""
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_json(path: str | Path) -> Any:
    """Read a JSON file (UTF-8). Raises `InputError` where it is missing or broken, with line and column."""
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise InputError(f"{path} is not there; give the path of an existing JSON file") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise InputError(f"{path}: broken JSON at {where} ({error.msg}); mend it or write the file anew") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no UTF-8 text (byte {error.start}); give a JSON file saved as UTF-8") from None
    except RecursionError:
        raise InputError(f"{path} cannot be read (nested too deeply); mend it or write the file anew") from None
    except ValueError as error:  # a number of thousands of digits; what follows speaks to programmers
        reason = str(error).partition(";")[0]
        raise InputError(f"{path} cannot be read ({reason}); mend it or write the file anew") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}); give a readable JSON file") from None


def read_sections(path: Path, keys: Sequence[str]) -> list[list[Any]]:
    """Return the lists that a COCO panoptic JSON holds under `keys`; raises `InputError` where one is missing."""
    data = read_json(path)
    if not isinstance(data, dict):
        raise InputError(f"{path} is no COCO panoptic JSON: an object with {', '.join(keys)} was expected")
    for key in keys:
        if not isinstance(data.get(key), list):
            state = "is no list" if key in data else "is missing"
            raise InputError(f"{path}: '{key}' {state}; a COCO panoptic JSON has the lists {', '.join(keys)}")
    return [data[key] for key in keys]


def map_folder(path: str | Path, given: str | Path | None, option: str) -> Path:
    """Return the folder of a JSON's id maps: `given`, else the JSON's path without .json, else panoptic/ beside it.

    Raises `InputError` where there is none; `option` is what the user would name it by.
    """
    path = Path(path)
    candidates = [Path(given)] if given is not None else [path.with_suffix(""), path.parent / "panoptic"]
    for folder in candidates:
        if folder.is_dir():
            return folder
    if not path.is_file():
        raise InputError(f"{path} is not there; give the path of a COCO panoptic JSON")
    raise InputError(
        f"the id maps of {path} are not in {' nor '.join(map(str, candidates))}; name their folder ({option})"
    )


class Kind(NamedTuple):
    """What a field of the JSON must be, in words and as a check (`type`, not isinstance: True is no number)."""

    name: str
    holds: Callable[[Any], bool]


def field_fault(entry: Any, expected: Mapping[str, Kind]) -> str | None:
    """Say what is wrong with the first field that is missing or not of its kind."""
    if not isinstance(entry, dict):
        return f"{entry!r:.60} is no object; it needs {', '.join(expected)}"
    for key, kind in expected.items():
        if key not in entry:
            return f"'{key}' is missing; add it"
        if not kind.holds(entry[key]):
            return f"{key} {entry[key]!r:.60} is not {kind.name}; correct it"
    return None


def finite(value: Any) -> Any:
    """Return JSON values with null for numbers that JSON cannot hold, such as infinity."""
    if isinstance(value, dict):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def atomic_write(path: str | Path, content: str | bytes) -> None:
    """Write a file whole or not at all: aside in the same folder, flushed to disk, then renamed over `path`.

    Text is written as UTF-8 with line ends as given. An `OSError` (no such folder, disk full) comes through with
    `path` as its file name; what stood at `path` is then untouched and no partial file stays behind.
    """
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    # not tempfile: its files are readable by their owner alone, and keep that after the rename
    aside = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        with aside.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException as error:
        aside.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename, error.filename2 = str(path), None
        raise


def id_map_size(path: str | Path) -> Size:
    """Return (height, width) of an id map by its PNG header alone; raises `InputError` as `read_id_map` does."""
    path = Path(path)
    with _decoding(path, "write the id map anew"), _open_map(path) as file:
        return _png_size(path, file.read(26))


def read_id_map(path: str | Path) -> Int32[np.ndarray, "H W"]:
    """Read a PNG of segment ids, R + 256 G + 65536 B, as int32 [H, W]; an alpha channel is left aside.

    Raises `InputError` where the file is missing, damaged, no regular file, no PNG, or not 8-bit RGB or RGBA.
    """
    path = Path(path)
    with _decoding(path, "write the id map anew"):
        with _open_map(path) as file:
            data = file.read()
        height, width = _png_size(path, data[:26])
        if (loops := compiled_loops()) and (ids := decode_plain(data, loops)) is not None:
            return ids
        with Image.open(BytesIO(data), formats=("PNG",)) as image:
            colors = np.asarray(image)
        if fault := silent_fault(data):
            raise InputError(f"{path} cannot be read ({fault}); write the id map anew")
        padded = np.zeros((height, width, 4), dtype=np.uint8)
        padded[..., :3] = colors[..., :3]
    return padded.view("<u4")[..., 0].astype(np.int32)


def write_id_map(path: str | Path, ids: Integer[np.ndarray, "H W"]) -> None:
    """Write segment ids [H, W] as an RGB PNG, R + 256 G + 65536 B, atomically.

    Raises `InputError` where an id does not fit into three bytes, and for a map without pixels.
    """
    if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) <= LARGEST_ID:
        raise InputError(
            f"{path}: ids from {ids.min()} to {ids.max()} do not fit into a PNG; use ids from 0 to {LARGEST_ID}"
        )
    if not ids.size:
        raise InputError(f"{path}: the map has no pixel; there is nothing to write")
    atomic_write(path, encode(ids.astype(np.int32)))


def read_picture(path: str | Path, size: Size | None = None) -> Image.Image:
    """Read a picture of any kind (grey, palette, CMYK, 16-bit, with alpha) as 8-bit RGB.

    The EXIF orientation is applied, unless `size` (height, width) is given and only the raw picture has it; where
    both have it, it is applied (detectron2's convention). Raises `InputError` where the file is missing or damaged,
    or neither has that size.
    """
    path = Path(path)
    with _decoding(path, "replace it by a whole picture"), Image.open(path) as image:
        turn = _TURNS.get(_orientation(path, image, size))
        picture = _to_rgb(path, image)
    return picture if turn is None else picture.transpose(turn)


def check_picture_size(path: str | Path, size: Size) -> None:
    """Raise `InputError` unless `read_picture(path, size)` would find that size; reads only the header."""
    path = Path(path)
    with _decoding(path, "replace it by a whole picture"), Image.open(path) as image:
        _orientation(path, image, size)


def exif_orientation(image: Image.Image) -> int:
    """Return an opened picture's EXIF orientation (1 to 8) by its header alone; 1 where it has none."""
    if image.format == "PNG" and not {"exif", "Raw profile type exif"} & image.info.keys() and not _told_behind(image):
        # else Pillow decodes the whole picture to look for EXIF behind its pixels
        image.info["exif"] = b""
    # Pillow turns TIFFs itself while it decodes them
    code = 1 if image.format == "TIFF" else image.getexif().get(ExifTags.Base.Orientation, 1)
    return int(code) if code in range(1, 9) else 1


@contextmanager
def _decoding(path: Path, remedy: str) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path} is not there; put the file there or correct the name") from None
    except UNREADABLE as error:
        # Pillow names what it reads from, which is no file to the user
        reason = re.sub(r" ?<_io\.BytesIO[^>]*>", "", str(error))
        raise InputError(f"{path} cannot be read ({reason}); {remedy}") from error


def _told_behind(image: Image.Image) -> bool:
    """Whether a PNG has chunks behind its pixels that may hold EXIF; its file stands where it stood."""
    file = getattr(image, "fp", None)  # an `ImageFile` that is not yet decoded has one
    if file is None:
        return True
    before = file.tell()
    try:
        file.seek(len(_PNG_SIGNATURE))
        kinds = [kind for kind, _ in chunk_heads(file)]
    finally:
        file.seek(before)
    behind = kinds[kinds.index(b"IDAT") :] if b"IDAT" in kinds else kinds
    return bool({b"eXIf", b"tEXt", b"zTXt", b"iTXt"}.intersection(behind))


def _open_map(path: Path) -> BinaryIO:
    mode = path.stat().st_mode
    # opening a pipe waits for its other end, and a device may never end
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise InputError(f"{path} cannot be read (it is no regular file); put the id map there")
    return path.open("rb")


def _png_size(path: Path, header: bytes) -> Size:
    remedy = "save it as 8-bit RGB PNG with id = R + 256 G + 65536 B"
    if len(header) < 26 or not header.startswith(_PNG_SIGNATURE) or header[12:16] != b"IHDR":
        kind = next((kind for at, begin, kind in _OTHER_KINDS if header.startswith(begin, at)), None)
        raise InputError(f"{path} is {f'a {kind}, no PNG' if kind else 'no PNG, or cut off'}; {remedy}")
    width, height, depth, color = struct.unpack(">IIBB", header[16:26])
    if depth != 8 or color not in (2, 6):
        kind = f"{depth}-bit {_PNG_COLORS.get(color, 'unknown')}"
        raise InputError(f"{path} is a PNG of {kind}, which holds no segment ids; {remedy}")
    return height, width


def _orientation(path: Path, image: Image.Image, size: Size | None) -> int:
    code = exif_orientation(image)
    raw = (image.height, image.width)
    turned = (image.width, image.height) if code in (5, 6, 7, 8) else raw
    if size is None or turned == size:
        return code
    if raw == size:
        return 1
    raise InputError(
        f"{path} is {raw[1]} wide and {raw[0]} high, but {size[1]} wide and {size[0]} high was expected; "
        "put the right picture there or correct the stated size"
    )


def _to_rgb(path: Path, image: Image.Image) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        values = np.asarray(image)
        if image.mode == "F" or values.size == 0 or values.min() < 0 or values.max() > 65535:
            raise InputError(f"{path} holds {image.mode} values beyond 16 bits; save it as an 8-bit RGB picture")
        return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "P":
        # palettes may carry transparency, which Pillow drops with a warning unless it is made alpha first
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")
