"""A picture's scored things, each with a mask of its own: what average precision is measured on (no torch here)."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, Int

from thingstuff.errors import InputError
from thingstuff.panoptic import Categories

MOST_INSTANCES = 100
"""Most instances of a picture, as COCO counts them."""


@dataclass(frozen=True, eq=False)
class Instances:
    """Things by falling score, before they compete for pixels: masks of picture size that may overlap or be empty.

    `labels` are positions in `categories`. Raises `InputError` where the three do not speak of equally many things.
    """

    masks: Bool[np.ndarray, "N H W"]
    labels: Int[np.ndarray, "N"]
    scores: Float[np.ndarray, "N"]
    categories: Categories = field(repr=False)

    def __post_init__(self) -> None:
        if not len(self.masks) == len(self.labels) == len(self.scores):
            counts = f"{len(self.masks)} masks, {len(self.labels)} labels and {len(self.scores)} scores"
            raise InputError(f"instances: {counts}; give each instance one of each")

    def __len__(self) -> int:
        return len(self.labels)
