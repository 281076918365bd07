"""The ground truth's map as a picture, for the last step of a walk: classes in their colours, segments parted."""

import numpy as np
import numpy.typing as npt
from jaxtyping import UInt8

from thingstuff.panoptic import Panoptic
from thingstuff.walk import PixelsView

_CELLS_PER_BORDER = 300
"""So many pixels of the longer side make a border wider by one."""


def true_map_view(truth: Panoptic) -> PixelsView:
    """Return the picture of the true map, to lie beside the final one."""
    caption = "What is there, in the colours of the classes; dark lines part segments, black belongs to none."
    return PixelsView(title="Ground truth", caption=caption, pixels=true_map(truth), padded=False)


def true_map(truth: Panoptic) -> UInt8[np.ndarray, "H W 3"]:
    """Return each pixel in the colour of its class, dark where another segment begins, black where there is none."""
    known = np.array([segment.id for segment in truth.segments], dtype=np.int64)
    colours = [truth.categories.colors[segment.label] for segment in truth.segments]
    order = np.argsort(known)
    table = np.array([*(colours[i] for i in order), (0, 0, 0)], dtype=np.uint8)
    place = np.searchsorted(known[order], truth.ids).astype(np.int64)
    owned = place < len(known)
    owned[owned] = known[order][place[owned]] == truth.ids[owned]
    place = np.where(owned, place, len(known))
    pixels: UInt8[np.ndarray, "H W 3"] = table[place]
    pixels[_borders(place, max(1, round(max(truth.size) / _CELLS_PER_BORDER)))] //= 4
    return pixels


def _borders(place: npt.NDArray[np.int64], width: int) -> npt.NDArray[np.bool_]:
    """Return the pixels that have another segment, or none, at most `width` to the right or below."""
    border = np.zeros(place.shape, dtype=np.bool_)
    for reach in range(1, width + 1):
        border[:, :-reach] |= place[:, reach:] != place[:, :-reach]
        border[:-reach] |= place[reach:] != place[:-reach]
    return border
