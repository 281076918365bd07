"""Drawing a panoptic map: a colour per class, a shade per instance, borders and names.

Letters: H W the picture, h w a coarse grid over it, K the segments. A *place* is a segment's position in
`Panoptic.segments` plus one; place 0 is void, and so is every id that no segment owns.
"""

import colorsys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from jaxtyping import Int, UInt8
from PIL import Image, ImageDraw, ImageFont, ImageOps

from thingstuff.errors import InputError
from thingstuff.io import Size, read_picture
from thingstuff.panoptic import Color, Panoptic, Segment

Picture = str | Path | Image.Image | npt.NDArray[Any]
"""A file, a PIL image, or uint8 [H, W, 3] RGB."""

Box = tuple[int, int, int, int]
"""(left, top, right, bottom) in pixels, half-open."""

# Instances of a class step through these together; 7 and 5 share no divisor, so 35 instances differ from each other.
_LIGHTNESS_STEPS = (0.0, 0.15, -0.12, 0.08, -0.18, 0.21, -0.06)
_HUE_STEPS = (0.0, 0.035, -0.035, 0.018, -0.018)

_BARE_GREY = 120
_GRID_ROWS = 96
_LONGEST_NAME = 24
_DARKEN = [value * 3 // 10 for value in range(256)] * 3


def overlay(panoptic: Panoptic, picture: Picture | None = None, alpha: float = 0.55) -> Image.Image:
    """Draw a map over its picture as an RGB image of the same size.

    Every class has its colour in `Categories.colors`, every instance of a thing a shade of it; segments are parted by
    borders and carry their name (things also their score) where there is room; void is hatched. `alpha` is how much
    of the colour covers the picture, 0 to 1; without a picture the colours stand alone.
    Raises `InputError` where the picture cannot be read, has another size than the map, or alpha is out of range.
    """
    if not 0 <= alpha <= 1:
        raise InputError(f"alpha {alpha} is not between 0 (the picture alone) and 1 (the colours alone)")
    places = segment_places(panoptic)
    colors = _color_table(panoptic)
    drawn = np.take(colors, places, axis=0)  # [H, W, 3]
    if picture is None:
        below = Image.new("RGB", panoptic.size[::-1], (_BARE_GREY,) * 3)
    else:
        below = upright_picture(picture, panoptic.size)
        drawn = np.array(Image.blend(below, Image.fromarray(drawn), alpha))
    _hatch_void(drawn, below, places)
    _draw_borders(drawn, places)
    image = Image.fromarray(drawn)
    _write_names(image, panoptic, places)
    return image


def colour_map(panoptic: Panoptic) -> UInt8[np.ndarray, "H W 3"]:
    """Return the colours of a map alone, RGB [H, W, 3]: as `overlay` has them, void black."""
    return np.take(_color_table(panoptic), segment_places(panoptic), axis=0)


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
    starts = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1))
    known = np.array([0, *(s.id for s in panoptic.segments)])
    order = np.argsort(known, kind="stable")
    nearest = np.searchsorted(known[order], flat[starts]).clip(max=len(known) - 1)
    place = np.where(known[order][nearest] == flat[starts], order[nearest], 0)
    return np.repeat(place, np.diff(starts, append=flat.size)).reshape(panoptic.size)


def _color_table(panoptic: Panoptic) -> UInt8[np.ndarray, "K_and_void 3"]:
    """Return the colour of each place: void black, stuff as its class, things a shade in the order they come."""
    colors: list[Color] = [(0, 0, 0)]
    seen: dict[int, int] = {}
    for segment in panoptic.segments:
        color = panoptic.categories.colors[segment.label]
        turn = seen.get(segment.label, 0)
        seen[segment.label] = turn + 1
        colors.append(_shade(color, turn) if panoptic.categories.things[segment.label] else color)
    return np.array(colors, dtype=np.uint8)


def _shade(color: Color, turn: int) -> Color:
    """Return the colour of a class's instance number `turn`; the first has the class's own."""
    if turn == 0:
        return color
    hue, lightness, saturation = colorsys.rgb_to_hls(*(c / 255 for c in color))
    # near black or white there would be no room for steps in both directions
    lightness = min(max(lightness, 0.25), 0.75) + _LIGHTNESS_STEPS[turn % len(_LIGHTNESS_STEPS)]
    r, g, b = colorsys.hls_to_rgb((hue + _HUE_STEPS[turn % len(_HUE_STEPS)]) % 1.0, lightness, saturation)
    return round(r * 255), round(g * 255), round(b * 255)


def _hatch_void(drawn: UInt8[np.ndarray, "H W 3"], below: Image.Image, places: Int[np.ndarray, "H W"]) -> None:
    """Leave the picture, dimmed and striped, where there is no segment."""
    rows, columns = np.nonzero(places == 0)
    if not len(rows):
        return
    stripe = max(2, round(max(places.shape) / 120))
    keep = np.where((rows + columns) // stripe % 2, 5, 9)  # sixteenths of the picture's light
    drawn[rows, columns] = (np.asarray(below)[rows, columns] * keep[:, None] >> 4).astype(np.uint8)


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
    drawn[dark & ~white] //= 2
    drawn[white] = 255


def _depths(grid: Int[np.ndarray, "h w"]) -> Int[np.ndarray, "h w"]:
    """Return each cell's steps to the border of its segment (city block), for all segments at once."""
    padded = np.pad(grid, 1, constant_values=-1)
    inside = np.ones(grid.shape, dtype=bool)
    for neighbour in (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]):
        inside &= neighbour == grid
    depth = np.zeros(grid.shape, dtype=np.int64)
    while inside.any():
        depth += inside
        around = np.pad(inside, 1)
        inside = inside & around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:]
    return depth


def _middles(places: Int[np.ndarray, "H W"]) -> dict[int, tuple[int, int]]:
    """Return the (x, y) deep inside each segment that is large enough to be seen on a coarse grid.

    Cells are twice as wide as high, as names are; of a segment's deepest cells the one in their middle is taken.
    """
    H, W = places.shape
    step = max(1, -(-max(H, W // 2) // _GRID_ROWS))
    grid = places[step // 2 :: step, step :: 2 * step]  # [h, w]
    if grid.size == 0:
        return {}
    depth = _depths(grid)
    deepest = np.zeros(int(grid.max()) + 1, dtype=np.int64)
    np.maximum.at(deepest, grid, depth)
    rows, columns = np.nonzero(depth == deepest[grid])
    owner = grid[rows, columns]
    count = np.bincount(owner).clip(min=1)
    off_row = rows - (np.bincount(owner, rows) / count)[owner]
    off_column = columns - (np.bincount(owner, columns) / count)[owner]
    order = np.lexsort((off_row**2 + 4 * off_column**2, owner))
    owners, first = np.unique(owner[order], return_index=True)
    chosen = order[first]
    xs, ys = columns[chosen] * 2 * step + step, rows[chosen] * step + step // 2
    return {int(k): (int(x), int(y)) for k, x, y in zip(owners, xs, ys, strict=True) if k > 0}


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)


def _texts(panoptic: Panoptic, segment: Segment) -> list[str]:
    """Return what may be written on a segment, the fullest first."""
    name = " ".join(panoptic.name(segment).split())
    if len(name) > _LONGEST_NAME:
        name = name[: _LONGEST_NAME - 2].rstrip() + ".."
    if segment.iscrowd:
        return [f"{name} (crowd)", name]
    if segment.score is not None and panoptic.categories.things[segment.label]:
        return [f"{name} {segment.score:.2f}", name]
    return [name]


def _write_names(image: Image.Image, panoptic: Panoptic, places: Int[np.ndarray, "H W"]) -> None:
    """Write the names: things before stuff, large before small."""
    areas = np.bincount(places.ravel(), minlength=len(panoptic.segments) + 1)
    things = [panoptic.categories.things[s.label] for s in panoptic.segments]
    order = sorted(range(1, len(areas)), key=lambda k: (not things[k - 1], -int(areas[k]), k))
    write_labels(image, places, {place: _texts(panoptic, panoptic.segments[place - 1]) for place in order})


def write_labels(
    image: Image.Image, places: Int[np.ndarray, "H W"], labels: Mapping[int, Sequence[str]], taken: Sequence[Box] = ()
) -> list[Box]:
    """Write on each place the first of its texts for which there is room, and return the boxes that are taken now.

    In the order of `labels` and where each segment is deepest: none over another or over what is `taken`, none
    larger than what it would hide.
    """
    font = _font(max(11, round(max(image.size) / 42)))
    pad = max(2, image.width // 300)
    left, top, _, bottom = font.getbbox("Ag")
    areas = np.bincount(places.ravel())
    middles = _middles(places)
    boxes = [*taken]
    pen = ImageDraw.Draw(image)
    for place in (place for place in labels if place in middles):
        for text in labels[place]:
            width, height = int(font.getlength(text)) + 2 * pad, int(bottom - top) + 2 * pad
            box = _free_box(places, place, middles[place], (width, height), boxes)
            if width * height <= areas[place] and box is not None:
                boxes.append(box)
                shadow = image.crop(box).point(_DARKEN)
                image.paste(shadow, box)
                pen.text((box[0] + pad - left, box[1] + pad - top), text, font=font, fill=(255, 255, 255))
                break
    return boxes


def _free_box(
    places: Int[np.ndarray, "H W"], place: int, middle: tuple[int, int], size: tuple[int, int], taken: list[Box]
) -> Box | None:
    """Return the box of that (width, height) nearest to the segment's middle that covers no other, or None."""
    H, W = places.shape
    width, height = size
    if width > W or height > H:
        return None
    x, y = middle
    left = min(max(x - width // 2, 0), W - width)
    for shift in (0, height, -height, 2 * height, -2 * height):
        top = min(max(y + shift - height // 2, 0), H - height)
        box = (left, top, left + width, top + height)
        inside = places[top + height // 2, left + width // 2] == place
        if inside and not any(_overlap(box, other) for other in taken):
            return box
    return None


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
