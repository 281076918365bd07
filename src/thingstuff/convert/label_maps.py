"""Pictures whose pixels are labels: grey, palette and RGB files, and which of them belongs to which picture.

Letters: H W pixels of a picture.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from jaxtyping import Int32
from PIL import Image

from thingstuff.convert.shapes import distinct
from thingstuff.errors import InputError, raise_problems
from thingstuff.io import UNREADABLE, read_id_map
from thingstuff.panoptic import Color

_SPLITS = {"training": "train", "validation": "val", "valid": "val", "testing": "test"}
_TOLD = 5


class LabelMap(NamedTuple):
    """A file of labels: values [H, W]; where `rgb` they are colours, R + 256 G + 65536 B, else `palette` may name some.

    `palette` holds the colour of each value that the map has.
    """

    values: Int32[np.ndarray, "H W"]
    rgb: bool = False
    palette: Mapping[int, Color] = {}


def read_label_map(path: Path) -> LabelMap:
    """Read a map of labels as whole numbers: 1 to 16 bits of grey, a palette's positions, or colours without alpha.

    Raises `InputError` where the file is missing, damaged, of a lossy kind such as JPEG, or none of these.
    """
    try:
        with Image.open(path) as image:
            if image.format in ("JPEG", "MPO", "WEBP") or image.info.get("compression") in ("jpeg", "tiff_jpeg"):
                raise InputError(
                    f"{path} is compressed as JPEG or WebP, which blurs values at borders into classes that nobody "
                    "drew; export the labels as PNG"
                )
            if image.mode in ("RGB", "RGBA") and image.format != "PNG":
                return LabelMap(_codes(np.asarray(image)), rgb=True)
            if image.mode not in ("RGB", "RGBA"):
                return _indexed(path, image)
    except FileNotFoundError:
        raise InputError(f"{path} is not there; put the map of labels there") from None
    except InputError:
        raise
    except UNREADABLE as error:
        raise InputError(f"{path} cannot be read ({error}); export the map of labels anew") from None
    return LabelMap(read_id_map(path), rgb=True)


def class_values(
    path: Path, colors: Mapping[Color, int], usual: Mapping[Color, int] | None = None
) -> Int32[np.ndarray, "H W"]:
    """Read a map of classes [H, W]: its numbers, or what `colors` say of its colours.

    A palette is taken by its colours where `colors` has all of them, else by its positions: label maps name colours in
    no certain order. `usual` are the colours of RGB maps where `colors` is empty. Raises `InputError` as
    `read_label_map` does, and for a colour that nothing is said of.
    """
    found = read_label_map(path)
    values, places = distinct(found.values)
    if found.rgb:
        known = {color_code(color): value for color, value in (colors or usual or {}).items()}
        strange = [value for value in values.tolist() if value not in known]
        if strange:
            told = ", ".join(map(color_text, strange[:_TOLD]))
            more = f" and {len(strange) - _TOLD} more" if len(strange) > _TOLD else ""
            raise InputError(
                f"{path} holds the RGB colour {told}{more}, and no class is said to have it; give a file of names with "
                "a line such as 'road:128,64,128' for each colour (--names)"
            )
    elif colors and values.size and all(found.palette.get(value) in colors for value in values.tolist()):
        known = {value: colors[found.palette[value]] for value in values.tolist()}
    else:
        return found.values
    table = np.array([known[value] for value in values.tolist()], dtype=np.int32)
    return np.asarray(table[places])


def color_text(code: int) -> str:
    """Return R + 256 G + 65536 B as (R, G, B)."""
    return f"({code & 255}, {code >> 8 & 255}, {code >> 16})"


def color_code(color: Color) -> int:
    """Return R + 256 G + 65536 B."""
    return color[0] + 256 * color[1] + 65536 * color[2]


def split_name(folder: str) -> str:
    """Return the split that a folder or list is named after: `training` is train, `validation` and `valid` are val."""
    name = folder.lower()
    return _SPLITS.get(name, name if name in ("train", "val", "test") else folder)


def refuse_missing(keys: Sequence[str], what: str, folder: Path, remedy: str) -> None:
    """Raise one `InputError` that names the first of the keys that lack something and counts the rest."""
    raise_problems([f"{key}: no {what}" for key in keys], f"{folder} lacks files; {remedy}:", limit=_TOLD)


def _indexed(path: Path, image: Image.Image) -> LabelMap:
    if image.mode == "LA":
        image = image.getchannel("L")
    if image.mode not in ("1", "L", "P", "I") and not image.mode.startswith("I;16"):
        raise InputError(f"{path} has pixels of the kind {image.mode}; export the labels as grey, palette or RGB PNG")
    values = np.asarray(image).astype(np.int32)
    if image.mode == "P":
        colors = image.getpalette("RGB") or []
        used = (value for value in np.flatnonzero(image.histogram()).tolist() if 3 * value + 2 < len(colors))
        palette = {v: (colors[3 * v], colors[3 * v + 1], colors[3 * v + 2]) for v in used}
        return LabelMap(values, palette=palette)
    return LabelMap(values // _step(path, image))


def _step(path: Path, image: Image.Image) -> int:
    """Return by what Pillow multiplies the values of a PNG with 2 or 4 bits of grey, so that they fill 8."""
    if image.mode != "L" or image.format != "PNG":
        return 1
    with path.open("rb") as file:
        header = file.read(26)
    return {2: 85, 4: 17}.get(header[24], 1)


def _codes(pixels: npt.NDArray[Any]) -> Int32[np.ndarray, "H W"]:
    padded = np.zeros((*pixels.shape[:2], 4), dtype=np.uint8)
    padded[..., :3] = pixels[..., :3]
    return padded.view("<u4")[..., 0].astype(np.int32)
