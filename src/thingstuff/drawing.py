"""Drawing a panoptic map over its picture: colours, borders, names and legend put together.

Letters: H W the picture. A *place* is a segment's position in `Panoptic.segments` plus one; place 0 is void, and so is
every id that no segment owns.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from jaxtyping import Int, UInt8
from PIL import Image, ImageOps

from thingstuff.drawing_colours import color_table, dot_crowds, hatch_void
from thingstuff.drawing_labels import write_names
from thingstuff.drawing_legend import with_legend
from thingstuff.errors import InputError
from thingstuff.io import Size, read_picture
from thingstuff.panoptic import Panoptic

Picture = str | Path | Image.Image | npt.NDArray[Any]
"""A file, a PIL image, or uint8 [H, W, 3] RGB."""

_BARE_GREY = 120


def overlay(
    panoptic: Panoptic,
    picture: Picture | None = None,
    alpha: float = 0.55,
    *,
    legend: bool = False,
    labels: bool = True,
    borders: bool = True,
    letters: int | None = None,
) -> Image.Image:
    """Draw a map over its picture as an RGB image of the same size, with a `legend` higher by it.

    Every class has its colour in `Categories.colors`, every instance of a thing a shade of it; segments are parted by
    `borders` and carry `labels`: their name (things also their score), beside them where they are small; void is
    hatched, crowds are dotted. `alpha` is how much of the colour covers the picture, 0 to 1; without a picture the
    colours stand alone. Lettering is ASCII, `letters` pixels high if given: accents are left out, and names in other
    scripts are told by their category id. Raises `InputError` where the picture cannot be read, has another size than
    the map, or alpha is out of range.
    """
    check_alpha(alpha)
    places = segment_places(panoptic)
    drawn = np.take(color_table(panoptic), places, axis=0)  # [H, W, 3]
    if picture is None:
        below = Image.new("RGB", panoptic.size[::-1], (_BARE_GREY,) * 3)
    else:
        below = upright_picture(picture, panoptic.size)
        drawn = np.array(Image.blend(below, Image.fromarray(drawn), alpha))
    hatch_void(drawn, below, places)
    if crowds := [place for place, segment in enumerate(panoptic.segments, 1) if segment.iscrowd]:
        dot_crowds(drawn, np.isin(places, crowds))
    if borders:
        _draw_borders(drawn, places)
    image = Image.fromarray(drawn)
    if labels:
        write_names(image, panoptic, places, letters)
    return with_legend(image, panoptic, places) if legend else image


def check_alpha(alpha: float) -> None:
    """Raise `InputError` unless `alpha`, how much of the colours covers a picture, lies between 0 and 1."""
    if not 0 <= alpha <= 1:
        raise InputError(f"alpha {alpha} is not between 0 (the picture alone) and 1 (the colours alone)")


def colour_map(panoptic: Panoptic) -> UInt8[np.ndarray, "H W 3"]:
    """Return the colours of a map alone, RGB [H, W, 3]: as `overlay` has them, void black."""
    return np.take(color_table(panoptic), segment_places(panoptic), axis=0)


def resized_map(panoptic: Panoptic, size: Size) -> Panoptic:
    """Return a map at another (height, width), each pixel from the nearest; small segments may have none left."""
    rows = (np.arange(size[0]) + 0.5) * panoptic.size[0] / size[0]
    columns = (np.arange(size[1]) + 0.5) * panoptic.size[1] / size[1]
    ids = panoptic.ids[np.ix_(rows.astype(np.int64), columns.astype(np.int64))]
    return Panoptic(ids, panoptic.segments, panoptic.categories)


def shown_size(size: Size, longest: int) -> Size:
    """Return the (height, width) to draw a map at so that its names can be read, neither above `longest`.

    Small ones grow by a whole factor, which keeps their pixels alike; large ones shrink.
    """
    side = max(size)
    scale = longest // side if side <= longest else longest / side
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def upright_picture(picture: Picture, size: Size) -> Image.Image:
    """Return a picture as upright 8-bit RGB; raises `InputError` unless it has the map's (height, width)."""
    if isinstance(picture, str | Path):
        return read_picture(picture, size)
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise InputError(f"the picture is {picture.dtype} {list(picture.shape)}; give uint8 [height, width, 3] RGB")
        image = Image.fromarray(picture)
    else:
        if picture.mode == "F" or picture.mode.startswith("I"):
            raise InputError(f"the picture holds {picture.mode} values; give one with 8 bits a channel, or its file")
        upright = ImageOps.exif_transpose(picture)
        # a map may have been made for the picture as it lies in its file: `read_picture` decides the same way
        image = picture if upright.size != size[::-1] == picture.size else upright
    if (image.height, image.width) != size:
        raise InputError(
            f"the picture is {image.width} x {image.height} pixels, its map {size[1]} x {size[0]};"
            " give the picture that the map was made for, at its own size"
        )
    return image.convert("RGB")


def segment_places(panoptic: Panoptic) -> Int[np.ndarray, "H W"]:
    """Return the place of each pixel; raises `InputError` for a map without pixels."""
    # found once for each run of equal ids: a map has far fewer runs than pixels
    if panoptic.ids.size == 0:
        raise InputError(f"the map is {panoptic.size[1]} x {panoptic.size[0]} pixels: there is nothing to draw")
    flat = panoptic.ids.ravel()
    starts = _run_starts(flat)
    known = np.array([0, *(s.id for s in panoptic.segments)])
    order = np.argsort(known, kind="stable")
    nearest = np.searchsorted(known[order], flat[starts]).clip(max=len(known) - 1)
    place = np.where(known[order][nearest] == flat[starts], order[nearest], 0).astype(np.int32)
    return np.repeat(place, np.diff(starts, append=flat.size)).reshape(panoptic.size)


def place_runs(places: Int[np.ndarray, "H W"]) -> Int[np.ndarray, "numbers"]:
    """Return a map's pixels in reading order as place, length, place, length, ...; a run may go on in the next row."""
    flat = places.ravel()
    starts = _run_starts(flat)
    return np.stack([flat[starts], np.diff(starts, append=flat.size)], axis=1).ravel()


def _run_starts(flat: Int[np.ndarray, "pixels"]) -> Int[np.ndarray, "runs"]:
    return np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1))


def _draw_borders(drawn: UInt8[np.ndarray, "H W 3"], places: Int[np.ndarray, "H W"]) -> None:
    """Draw a white line on one side of every border and darken the other, so that it shows on any two colours."""
    white, dark = np.zeros((2, *places.shape), dtype=bool)
    width = max(1, round(max(places.shape) / 900))
    for reach in range(1, width + 1):
        across, down = places[:, reach:] != places[:, :-reach], places[reach:] != places[:-reach]
        white[:, :-reach] |= across
        white[:-reach] |= down
        dark[:, reach:] |= across
        dark[reach:] |= down
    pixels = drawn.reshape(-1, 3)
    pixels[np.flatnonzero(dark > white)] //= 2
    pixels[np.flatnonzero(white)] = 255
