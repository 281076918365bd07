"""What fills a drawn map: a colour per class, a shade of it per instance, stripes for void, dots for crowds.

Letters: H W the picture. A *place* is a segment's position in `Panoptic.segments` plus one; place 0 is void, and so is
every id that no segment owns. Lab is CIE L*a*b* (D65), in which equal distances look about equally different.
"""

from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image

from thingstuff.panoptic import Color, Panoptic

SHADES = 35
"""So many instances of a class have colours of their own; then they begin again."""

# How far a shade may lie from its class's colour in Lab: in lightness, in strength of colour, and in hue.
_LIGHTNESS_REACH, _CHROMA_REACH, _HUE_REACH = 30.0, 30.0, 13.0
# Between the darkest and the lightest of shades lettering, borders and what is below the colour can be seen.
_DARKEST, _LIGHTEST = 28.0, 90.0
_STRONGEST_MIDDLE = 58.0


def color_table(panoptic: Panoptic) -> UInt8[np.ndarray, "places 3"]:
    """Return the colour of each place: void black, stuff as its class, things a shade in the order they come."""
    colors: list[Color] = [(0, 0, 0)]
    seen: dict[int, int] = {}
    for segment in panoptic.segments:
        color = panoptic.categories.colors[segment.label]
        turn = seen.get(segment.label, 0)
        seen[segment.label] = turn + 1
        colors.append(shade(color, turn) if panoptic.categories.things[segment.label] else color)
    return np.array(colors, dtype=np.uint8)


def shade(color: Color, turn: int) -> Color:
    """Return the colour of a class's instance number `turn`; the first has the class's own."""
    return color if turn % SHADES == 0 else _shades(color)[turn % SHADES]


@lru_cache(maxsize=256)
def _shades(color: Color) -> tuple[Color, ...]:
    """Return the shades of a class's colour, each the one farthest in Lab from all before it."""
    own = _lab(np.array([color], dtype=np.float64))[0]
    candidates, lab = _candidates()
    chroma = float(np.hypot(own[1], own[2]))
    along = own[1:] / chroma if chroma > 1 else np.array([1.0, 0.0])
    # the shades' middle: around a colour at the edge of what sRGB holds there would be room on one side alone
    middle = np.array([np.clip(own[0], 50.0, 70.0), *(along * min(chroma, _STRONGEST_MIDDLE))])
    apart = lab - middle
    in_chroma, in_hue = apart[:, 1:] @ along, apart[:, 1:] @ np.array([-along[1], along[0]])
    reach = apart[:, 0] / _LIGHTNESS_REACH, in_chroma / _CHROMA_REACH, in_hue / _HUE_REACH
    near = np.sqrt(sum(part**2 for part in reach)) <= 1
    candidates, lab = candidates[near], lab[near]
    chosen, distance = [color], np.linalg.norm(lab - own, axis=1)
    for _ in range(SHADES - 1):
        farthest = int(distance.argmax())
        r, g, b = candidates[farthest].tolist()
        chosen.append((r, g, b))
        distance = np.minimum(distance, np.linalg.norm(lab - lab[farthest], axis=1))
    return tuple(chosen)


@lru_cache(maxsize=1)
def _candidates() -> tuple[Int[np.ndarray, "n 3"], Float[np.ndarray, "n 3"]]:
    """Return the colours that shades are chosen among, as RGB and in Lab."""
    levels = np.arange(0, 256, 15)
    rgb = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    lab = _lab(rgb.astype(np.float64))
    seen = (lab[:, 0] >= _DARKEST) & (lab[:, 0] <= _LIGHTEST)
    return rgb[seen], lab[seen]


def _lab(rgb: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    """Return sRGB colours (0 to 255) in Lab."""
    signal = rgb / 255
    linear = np.where(signal <= 0.04045, signal / 12.92, ((signal + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    of_white = linear @ to_xyz.T / to_xyz.sum(axis=1)
    root = np.where(of_white > (6 / 29) ** 3, np.cbrt(of_white), of_white * (29 / 6) ** 2 / 3 + 4 / 29)
    x, y, z = root.T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


def stripe_width(size: tuple[int, int]) -> int:
    """Return how wide void's stripes are in a picture of that (height, width)."""
    return max(2, round(max(size) / 120))


def hatch_void(drawn: UInt8[np.ndarray, "H W 3"], below: Image.Image, places: Int[np.ndarray, "H W"]) -> None:
    """Leave the picture, grey and in dark and light stripes, where there is no segment.

    Classes are even and, but for a grey one, coloured: neither is void, however dark or light the picture is.
    """
    void = np.flatnonzero(places == 0)
    if not len(void):
        return
    rows, columns = np.divmod(void, places.shape[1])
    light = np.asarray(below.convert("L")).ravel()[void].astype(np.uint16)
    dark_stripe = (rows + columns) // stripe_width(places.shape) % 2 == 1
    drawn.reshape(-1, 3)[void] = np.where(dark_stripe, light * 5 >> 4, (light * 6 >> 4) + 64)[:, None].astype(np.uint8)


def dot_crowds(drawn: UInt8[np.ndarray, "H W 3"], crowds: Bool[np.ndarray, "H W"]) -> None:
    """Put a grid of dots, light on dark colours and dark on light ones, where a segment stands for a whole crowd."""
    dot = max(1, stripe_width(crowds.shape) // 2)
    rows, columns = np.nonzero(crowds)
    dotted = (rows % (5 * dot) < dot) & ((columns + rows // (5 * dot) % 2 * (5 * dot // 2)) % (5 * dot) < dot)
    rows, columns = rows[dotted], columns[dotted]
    light = drawn[rows, columns].mean(axis=1) > 128
    drawn[rows, columns] = np.where(light, 0, 255)[:, None]
