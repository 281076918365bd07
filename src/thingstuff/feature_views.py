"""Making feature maps visible: how strong each cell is, and what it is like, as colour.

Letters: C channels, h w a map over the canvas.
"""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from scipy.sparse.linalg import eigsh
from torch import Tensor

from thingstuff.structures import Frame, Size
from thingstuff.walk import MapView, PixelsView, picture_array

_CELLS = 2000
"""Most cells that principal components are found from."""
_DENSE = 64
"""Sides of a matrix up to which all its eigenvectors are found at once; of larger ones only the leading ones are."""


def picture_cells(frame: Frame, shape: Size) -> Size:
    """Return how many rows and columns of a map over the canvas lie on the picture, at least one of each."""
    height, width = (
        max(1, -(-cells * size // side)) for cells, size, side in zip(shape, frame.size, frame.canvas, strict=True)
    )
    return height, width


def energy(features: Float[Tensor, "C h w"]) -> Float[Tensor, "h w"]:
    """Return the root mean square over channels of each cell."""
    return features.float().square().mean(0).sqrt()


def principal_colours(features: Float[Tensor, "C h w"], frame: Frame) -> UInt8[np.ndarray, "h w 3"]:
    """Return each cell's first three principal components as red, green and blue.

    They are those of the cells on the picture (not of the padding; of many cells a regular choice), each from its 2nd
    to its 98th percentile; cells of alike colour are alike. The sign of a component is the one in which its largest
    channel weight is positive; a component in which cells hardly differ is black.
    """
    h, w = features.shape[1:]
    rows, columns = picture_cells(frame, (h, w))
    flat = features.detach().float().cpu()
    inside = flat[:, :rows, :columns].flatten(1)  # [C, cells]
    inside = inside[:, :: -(-inside.shape[1] // _CELLS)]
    mean = inside.mean(1, keepdim=True)
    axes = _leading_axes(inside - mean)
    components = axes.T @ (flat.flatten(1) - mean)
    chosen = axes.T @ (inside - mean)
    low, high = (torch.quantile(chosen, q, dim=1, keepdim=True) for q in (0.02, 0.98))
    spread = high - low
    seen = spread > 1e-4 * spread.amax().clamp(min=1e-12)
    shares = torch.where(seen, (components - low) / spread.clamp(min=1e-12), 0).clamp(0, 1)
    colours = torch.zeros(3, h * w)
    colours[: len(shares)] = shares
    pixels: UInt8[np.ndarray, "h w 3"] = (colours.T * 255).round().to(torch.uint8).view(h, w, 3).numpy()
    return pixels


def _leading_axes(centred: Float[Tensor, "C cells"]) -> Float[Tensor, "C axes"]:
    """Return the at most three directions, of length 1, in which cells differ most."""
    C, cells = centred.shape
    # the smaller of the two matrices of products has the same leading directions, up to a product
    small = (centred @ centred.T if cells >= C else centred.T @ centred).double().numpy()
    count = min(3, len(small))
    if len(small) <= _DENSE or not small.any():
        vectors = np.linalg.eigh(small)[1][:, ::-1][:, :count]
    else:
        values, vectors = eigsh(small, k=count, v0=np.random.default_rng(0).normal(size=len(small)))
        vectors = vectors[:, np.argsort(-values, kind="stable")]
    axes = torch.tensor(vectors.copy(), dtype=torch.float32)
    axes = axes if cells >= C else centred @ axes
    axes /= axes.norm(dim=0, keepdim=True).clamp(min=1e-12)
    signed: Tensor = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
    return signed


def feature_views(name: str, features: Float[Tensor, "C h w"], frame: Frame) -> tuple[PixelsView, MapView]:
    """Return the two pictures of a feature map: its principal components as colour, and its energy."""
    return (
        PixelsView(
            title=f"{name}: principal components",
            caption="Cells of alike colour hold alike features; the colours themselves mean nothing.",
            pixels=principal_colours(features, frame),
        ),
        MapView(
            title=f"{name}: energy",
            caption="How strong the features of each cell are.",
            values=picture_array(energy(features)),
            unit="root mean square over channels",
        ),
    )
