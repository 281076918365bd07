"""Id maps that are not as they should be: which slip made them, and what they would hold without it.

Letters: H W pixels of a map.
"""

from collections.abc import Collection
from pathlib import Path

import numpy as np
from jaxtyping import Int32
from PIL import Image

from thingstuff.checking.pieces import Pieces
from thingstuff.errors import InputError
from thingstuff.io import UNREADABLE, read_id_map

_MODES = {"P": "palette", "L": "grey", "LA": "grey with alpha", "I": "16-bit grey", "I;16": "16-bit grey", "1": "1-bit"}
_MODES |= {"I;16B": "16-bit grey"}
_SPECKS = 8  # unlisted ids of a map, at least, that are taken for traces of compression
_SPECK_PIXELS = 8
_NEAR = 16  # levels by which compression moves a channel in flat regions
_SAMPLE = 4096


def has_specks(pieces: Pieces, listed: Collection[int]) -> bool:
    """Whether the ids that no segment has are many and in specks, as compression or smooth resizing leaves them."""
    unlisted = (pieces.ids != 0) & ~np.isin(pieces.ids, list(listed))
    if len(np.unique(pieces.ids[unlisted])) < _SPECKS:
        return False
    return float(np.median(pieces.areas[unlisted])) < _SPECK_PIXELS


def unreadable_kind(path: Path, listed: Collection[int]) -> str:
    """Return the kind of finding that fits a map that evaluation cannot use."""
    try:
        with Image.open(path) as image:
            if image.format == "JPEG":
                return "lossy map"
            if image.format == "PNG" and image.mode in _MODES:
                return "palette map"
        ids = read_id_map(path)
    except (InputError, *UNREADABLE):
        return "unreadable map"
    return "lossy map" if _near_listed(ids, listed) else "unreadable map"


def read_palette_map(path: Path, listed: Collection[int]) -> Int32[np.ndarray, "H W"] | None:
    """Read a palette or grey PNG whose ids are its colours or its plain values; None unless just one of them fits.

    Ids fit where the map holds those listed and no other beside 0.
    """
    try:
        with Image.open(path, formats=("PNG",)) as image:
            if image.mode not in _MODES:
                return None
            readings = [np.asarray(image).astype(np.int32)] if image.mode not in ("LA", "1") else []
            if image.mode in ("P", "L", "LA"):
                colours = np.asarray(image.convert("RGB")).astype(np.int32)
                readings.append(colours[..., 0] + 256 * colours[..., 1] + 65536 * colours[..., 2])
    except UNREADABLE:
        return None
    wanted = {*listed} - {0}
    fitting = [ids for ids in readings if wanted and {*np.unique(ids).tolist()} - {0} == wanted]
    return fitting[0].astype(np.int32) if len(fitting) == 1 else None


def swap_channels(ids: Int32[np.ndarray, "H W"]) -> Int32[np.ndarray, "H W"]:
    """Return ids with red and blue swapped."""
    return ((ids & 255) << 16 | ids & 0xFF00 | ids >> 16).astype(np.int32)


def _near_listed(ids: Int32[np.ndarray, "H W"], listed: Collection[int]) -> bool:
    """Whether nearly every pixel has a colour close to that of a listed id or of void."""
    flat = ids.reshape(-1)
    values = np.unique(flat[:: max(1, flat.size // _SAMPLE)])
    colours = np.stack([values & 255, values >> 8 & 255, values >> 16], axis=1)
    known = np.array([0, *listed], dtype=np.int64)
    own = np.stack([known & 255, known >> 8 & 255, known >> 16], axis=1)
    away = np.abs(colours[:, None] - own[None]).max(axis=2).min(axis=1)
    return bool(np.mean(away <= _NEAR) >= 0.5)
