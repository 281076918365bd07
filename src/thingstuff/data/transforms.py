"""Augmentation of a picture and its map; which segments survive, their boxes and masks are derived once at the end.

A map holds segment ids or, in a quarter of the bytes, their places: k for the k-th segment of a picture, 0 for void.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float32, Int32, Int64, UInt8
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, model_validator

from thingstuff.data.enlarging import enlarged
from thingstuff.data.map_runs import map_runs
from thingstuff.data.recolouring import recoloured
from thingstuff.sizes import resized_size
from thingstuff.structures import Target

Ids = UInt8[np.ndarray, "_ _"] | Int32[np.ndarray, "_ _"]
Pixels = npt.NDArray[np.uint8]
Side = Annotated[int, Field(ge=8)]
_NO_CAP = 2**31
"""A longest side that no picture has."""


class WindowConfig(BaseModel):
    """A random window of the picture, so that a part of it is seen as large as a whole one (DETR's augmentation)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    chance: float = Field(default=0.5, ge=0, le=1)
    """How often a window is taken."""
    short_sides: tuple[Side, ...] = Field(default=(400, 500, 600), min_length=1)
    """The shorter side is resized to one of these before, however long the other becomes."""
    smallest: Side = 384
    """Least width and height of the window; the picture's own where that is less."""
    largest: Side = 600
    """Greatest width and height of the window."""

    @model_validator(mode="after")
    def _rises(self) -> "WindowConfig":
        if self.smallest > self.largest:
            raise ValueError(f"smallest={self.smallest} is above largest={self.largest}")
        return self


class AugmentConfig(BaseModel):
    """What happens to a training picture, in this order."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    window: WindowConfig | None = None
    """A random window that takes the picture's place; null for none."""
    short_sides: tuple[Side, ...] = Field(default=(640, 672, 704, 736, 768, 800), min_length=1)
    """The shorter side is resized to one of these ..."""
    max_side: int = Field(default=1333, ge=32)
    """... unless the longer one would exceed this."""
    crop: tuple[Side, Side] | None = None
    """Height and width of a random crop, where the picture is larger; null for none."""
    flip: float = Field(default=0.5, ge=0, le=1)
    """Chance of a horizontal flip."""
    color: float = Field(default=0.0, ge=0, lt=1)
    """Brightness, contrast and saturation are each scaled by 1 - color to 1 + color."""


class Window(NamedTuple):
    """Where a window lies, in pixels."""

    top: int
    left: int
    height: int
    width: int


def resize(
    picture: Pixels, ids: Ids, size: tuple[int, int], window: Window | None = None, flip: bool = False
) -> tuple[Pixels, Ids]:
    """Resize a picture (bilinear) and its map (nearest) to (height, width); return a window of them, or flip it."""
    top, left, height, width = window or Window(0, 0, *size)
    rows = slice(top, top + height)
    columns = slice(left + width - 1, left - 1 if left else None, -1) if flip else slice(left, left + width)
    if ids.shape == size:
        return picture[rows, columns], ids[rows, columns]
    part, swapped = enlarged(picture, size, rows, columns), (size[1], size[0])
    if part is None:
        part = np.asarray(Image.fromarray(picture).resize(swapped, Image.Resampling.BILINEAR))[rows, columns]
    ids = np.asarray(Image.fromarray(ids).resize(swapped, Image.Resampling.NEAREST))
    return part, ids[rows, columns]


def augment(picture: Pixels, ids: Ids, config: AugmentConfig, random: np.random.Generator) -> tuple[Pixels, Ids]:
    """Return a randomly resized, cropped, flipped and coloured picture [h, w, 3] and its map [h, w]."""
    if config.window is not None and random.random() < config.window.chance:
        picture, ids = random_window(picture, ids, config.window, random)
    size = resized_size(ids.shape, int(random.choice(config.short_sides)), config.max_side)
    window = None
    if config.crop is not None:
        top, left = (
            int(random.integers(0, max(0, have - want) + 1)) for have, want in zip(size, config.crop, strict=True)
        )
        window = Window(top, left, *map(min, size, config.crop))
    picture, ids = resize(picture, ids, size, window, bool(random.random() < config.flip))
    if config.color:
        brightness, contrast, saturation = random.uniform(1 - config.color, 1 + config.color, 3).tolist()
        picture = recoloured(picture, (brightness, contrast, saturation))
    return np.ascontiguousarray(picture), np.ascontiguousarray(ids)


def random_window(picture: Pixels, ids: Ids, config: WindowConfig, random: np.random.Generator) -> tuple[Pixels, Ids]:
    """Resize, then cut out a window; width and height are drawn apart and uniformly, the width first."""
    short_side = int(random.choice(config.short_sides))
    # Where DETR's own rule rounds otherwise than this one does not matter here: the sizes are random.
    size = resized_size(ids.shape, short_side, _NO_CAP)
    width, height = (
        int(random.integers(min(config.smallest, have), min(config.largest, have) + 1)) for have in size[::-1]
    )
    top = int(random.integers(0, size[0] - height + 1))
    left = int(random.integers(0, size[1] - width + 1))
    return resize(picture, ids, size, Window(top, left, height, width))


@dataclass(frozen=True)
class Remains:
    """What augmentation left of a picture's segments: their places, ascending, and boxes XYXY in pixels, half-open."""

    places: Int64[np.ndarray, "N"]
    boxes_xyxy: Float32[np.ndarray, "N 4"]


def remains(places: Ids) -> Remains:
    """Find which segments a map of places [h, w] still holds, and where."""
    runs = map_runs(places)
    kept = runs.ids > 0
    return Remains(runs.ids[kept].astype(np.int64), runs.boxes()[kept])


def target_of(
    places: Ids, left: Remains, labels: Sequence[int], crowd: Sequence[bool], device: torch.device | str = "cpu"
) -> Target:
    """Derive a target from a map of places [h, w] and what `remains` found there.

    `labels` and `crowd` run over all of the picture's segments, also those that lost all their pixels.
    """
    wanted = left.places.astype(places.dtype)[:, None, None]
    if torch.device(device).type == "cpu":
        masks = torch.from_numpy(places == wanted)  # numpy compares ten times faster than torch
    else:
        masks = torch.tensor(places, device=device) == torch.tensor(wanted, device=device)
    rows = left.places - 1
    return Target(
        masks=masks,
        labels=torch.tensor(np.asarray(labels, np.int64)[rows], device=device),
        boxes_xyxy=torch.tensor(left.boxes_xyxy, device=device),
        crowd=torch.tensor(np.asarray(crowd, np.bool_)[rows], device=device),
        unlabelled=torch.tensor(places == 0, device=device),
    )
