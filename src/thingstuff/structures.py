"""The tensors that flow through every model: Images in, Segments out, Target to learn from.

Letters: B pictures, N segments, H W pixels of a canvas, h w a model's own resolution.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from thingstuff.panoptic import VOID, Categories, Panoptic, Segment

__all__ = ["VOID", "Categories", "Frame", "Images", "Panoptic", "Segment", "Segments", "Target"]

Size = tuple[int, int]
"""(height, width) in pixels."""


@dataclass(frozen=True)
class Frame:
    """Where one picture lies: the padded `canvas`, its resized `size` in the canvas's top left, its `original` size."""

    canvas: Size
    size: Size
    original: Size

    def restore(self, maps: Float[Tensor, "N h w"], original: Size | None = None) -> Float[Tensor, "N H W"]:
        """Bring maps of the canvas back to picture pixels: resize to the canvas, crop the padding, resize.

        Bilinear, no align_corners, no antialias. `original` overrides the size that is returned.
        """
        target = original or self.original
        if len(maps) == 0:
            return maps.new_zeros((0, *target))
        maps = F.interpolate(maps[None], self.canvas, mode="bilinear", align_corners=False)
        maps = maps[..., : self.size[0], : self.size[1]]
        if target != self.size:
            maps = F.interpolate(maps, target, mode="bilinear", align_corners=False)
        return maps[0]

    def axes(self, maps: Tensor) -> "tuple[Axis, Axis]":
        """Return how `restore` makes a picture's rows and columns of those of maps of that shape, [..., h, w]."""
        sides = zip(maps.shape[-2:], self.canvas, self.size, self.original, strict=True)
        height, width = (_axis(*side, maps.device) for side in sides)
        return height, width


@dataclass(frozen=True)
class Axis:
    """Resizing along one axis as a banded matrix: `weights`, and the first and last cell that each pixel reads."""

    weights: Float[Tensor, "pixels cells"]
    first: tuple[int, ...]
    last: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.first)

    def cells(self, start: int, stop: int) -> slice:
        """Return the cells that a range of pixels reads."""
        return slice(self.first[start], self.last[stop - 1] + 1)


def _axis(cells: int, canvas: int, size: int, original: int, device: torch.device) -> Axis:
    weights = torch.eye(cells, device=device)[None, None]  # what resizing makes of each cell alone
    weights = F.interpolate(weights, (canvas, cells), mode="bilinear", align_corners=False)[:, :, :size]
    if original != size:
        weights = F.interpolate(weights, (original, cells), mode="bilinear", align_corners=False)
    reads = (weights[0, 0] > 0).to(torch.uint8)
    last = cells - 1 - reads.flip(1).argmax(1)
    return Axis(weights[0, 0], tuple(reads.argmax(1).tolist()), tuple(last.tolist()))


@dataclass(frozen=True)
class Images:
    """A padded, normalised batch: `pixels`, and each picture's resized and original size."""

    pixels: Float[Tensor, "B 3 H W"]
    sizes: tuple[Size, ...]
    original: tuple[Size, ...]

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def canvas(self) -> Size:
        """(H, W) of the padded batch."""
        return int(self.pixels.shape[-2]), int(self.pixels.shape[-1])

    @property
    def padding(self) -> Bool[Tensor, "B H W"]:
        """True where a pixel is padding."""
        mask = torch.ones((len(self), *self.canvas), dtype=torch.bool, device=self.pixels.device)
        for row, (height, width) in zip(mask, self.sizes, strict=True):
            row[:height, :width] = False
        return mask

    def frame(self, index: int) -> Frame:
        """Return the frame of one picture."""
        return Frame(self.canvas, self.sizes[index], self.original[index])

    def to(self, device: torch.device | str) -> "Images":
        """Move the pixels."""
        return Images(self.pixels.to(device), self.sizes, self.original)


@dataclass(frozen=True)
class Target:
    """What one picture teaches, at network-input size (before padding): things, stuff and crowds alike.

    `labels` are positions in `Categories`; boxes are XYXY in pixels (half-open); `unlabelled` is what nothing covers.
    """

    masks: Bool[Tensor, "N H W"]
    labels: Int[Tensor, "N"]
    boxes_xyxy: Float[Tensor, "N 4"]
    crowd: Bool[Tensor, "N"]
    unlabelled: Bool[Tensor, "H W"]

    def to(self, device: torch.device | str) -> "Target":
        """Move every tensor."""
        fields = (self.masks, self.labels, self.boxes_xyxy, self.crowd, self.unlabelled)
        return Target(*(t.to(device) for t in fields))


@dataclass(frozen=True)
class Segments:
    """One picture's candidates before they compete, at the model's own mask resolution, things by falling score.

    `masks` are what the model resizes (logits or probabilities); label `VOID` competes for pixels and is then dropped.
    """

    masks: Float[Tensor, "N h w"]
    labels: Int[Tensor, "N"]
    scores: Float[Tensor, "N"]
    frame: Frame

    def __len__(self) -> int:
        return len(self.labels)

    def pick(self, index: "Tensor | Sequence[int]") -> "Segments":
        """Return the rows that an index or boolean mask chooses."""
        rows = (
            index if isinstance(index, Tensor) else torch.as_tensor(index, dtype=torch.long, device=self.labels.device)
        )
        return Segments(self.masks[rows], self.labels[rows], self.scores[rows], self.frame)
