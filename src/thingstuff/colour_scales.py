"""Two colour scales for numbers: one for amounts, dark to light, and one that parts at zero, blue to brown.

Their lightness (L of OKLab) rises evenly, so that equal steps look equal; no step is told by red against green alone.
"""

import numpy as np
from jaxtyping import UInt8

from thingstuff.panoptic import Color

LEVELS = 255
"""Colours of a scale; an odd number, so that one is zero's."""

_AMOUNTS: tuple[Color, ...] = (
    (17, 5, 46), (23, 19, 87), (1, 46, 118), (3, 77, 119), (1, 104, 131), (11, 132, 142), (13, 161, 148),
    (48, 190, 139), (146, 206, 142), (203, 222, 158), (252, 241, 170),
)  # fmt: skip
_SIGNED: tuple[Color, ...] = (
    (1, 60, 121), (39, 93, 159), (86, 129, 184), (133, 165, 207), (182, 202, 228), (239, 239, 239),
    (227, 195, 175), (207, 154, 125), (186, 113, 80), (162, 71, 37), (130, 30, 0),
)  # fmt: skip


def _interpolated(anchors: tuple[Color, ...]) -> UInt8[np.ndarray, "levels 3"]:
    places = np.linspace(0, len(anchors) - 1, LEVELS)
    channels = [np.interp(places, np.arange(len(anchors)), channel) for channel in np.array(anchors).T]
    colours: UInt8[np.ndarray, "levels 3"] = np.stack(channels, axis=1).round().astype(np.uint8)
    return colours


AMOUNTS = _interpolated(_AMOUNTS)
SIGNED = _interpolated(_SIGNED)


def scale_of(signed: bool) -> UInt8[np.ndarray, "levels 3"]:
    """Return the colours of numbers that part at zero, or of amounts."""
    return SIGNED if signed else AMOUNTS
