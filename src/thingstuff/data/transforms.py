"""Augmentation of a picture and its id map; masks, boxes and which objects survive are derived once at the end."""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageEnhance
from pydantic import BaseModel, ConfigDict, Field, model_validator

from thingstuff.boxes import boxes_of_masks
from thingstuff.sizes import resized_size
from thingstuff.structures import Target

Ids = npt.NDArray[np.int32]
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


def resize(picture: Pixels, ids: Ids, size: tuple[int, int]) -> tuple[Pixels, Ids]:
    """Resize a picture (bilinear) and its id map (nearest) to (height, width)."""
    if ids.shape == size:
        return picture, ids
    swapped = (size[1], size[0])
    return (
        np.asarray(Image.fromarray(picture).resize(swapped, Image.Resampling.BILINEAR)),
        np.asarray(Image.fromarray(ids, mode=None).resize(swapped, Image.Resampling.NEAREST)),
    )


def augment(picture: Pixels, ids: Ids, config: AugmentConfig, random: np.random.Generator) -> tuple[Pixels, Ids]:
    """Return a randomly resized, cropped, flipped and coloured picture [h, w, 3] and its id map [h, w]."""
    if config.window is not None and random.random() < config.window.chance:
        picture, ids = random_window(picture, ids, config.window, random)
    short_side = int(random.choice(config.short_sides))
    picture, ids = resize(picture, ids, resized_size(ids.shape, short_side, config.max_side))
    if config.crop is not None:
        top, left = (
            int(random.integers(0, max(0, have - want) + 1)) for have, want in zip(ids.shape, config.crop, strict=True)
        )
        window = (slice(top, top + config.crop[0]), slice(left, left + config.crop[1]))
        picture, ids = picture[window], ids[window]
    if random.random() < config.flip:
        picture, ids = picture[:, ::-1], ids[:, ::-1]
    if config.color:
        picture = _recolored(picture, random.uniform(1 - config.color, 1 + config.color, 3))
    return np.ascontiguousarray(picture), np.ascontiguousarray(ids)


def random_window(picture: Pixels, ids: Ids, config: WindowConfig, random: np.random.Generator) -> tuple[Pixels, Ids]:
    """Resize, then cut out a window; width and height are drawn apart and uniformly, the width first."""
    short_side = int(random.choice(config.short_sides))
    # Where DETR's own rule rounds otherwise than this one does not matter here: the sizes are random.
    picture, ids = resize(picture, ids, resized_size(ids.shape, short_side, _NO_CAP))
    have_height, have_width = ids.shape
    width, height = (
        int(random.integers(min(config.smallest, have), min(config.largest, have) + 1))
        for have in (have_width, have_height)
    )
    top = int(random.integers(0, have_height - height + 1))
    left = int(random.integers(0, have_width - width + 1))
    window = (slice(top, top + height), slice(left, left + width))
    return picture[window], ids[window]


def _recolored(picture: Pixels, factors: npt.NDArray[np.float64]) -> Pixels:
    image = Image.fromarray(np.ascontiguousarray(picture))
    for enhance, factor in zip(
        (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color), factors, strict=True
    ):
        image = enhance(image).enhance(float(factor))
    return np.asarray(image)


def target_of(
    ids: Ids, wanted: Sequence[int], labels: Sequence[int], crowd: Sequence[bool], device: torch.device | str = "cpu"
) -> Target:
    """Derive a target from an id map [h, w]; segments that lost all their pixels are left out.

    `wanted`, `labels` and `crowd` run over the picture's segments.
    """
    values = torch.tensor(wanted, dtype=torch.int32, device=device)
    masks = torch.tensor(ids, device=device)[None] == values[:, None, None]
    present = masks.flatten(1).any(1)
    masks = masks[present]
    return Target(
        masks=masks,
        labels=torch.tensor(labels, dtype=torch.long, device=device)[present],
        boxes_xyxy=boxes_of_masks(masks),
        crowd=torch.tensor(crowd, dtype=torch.bool, device=device)[present],
        unlabelled=~masks.any(0),
    )
