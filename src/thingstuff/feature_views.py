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
_HARDLY = 1e-4
"""Share of the widest component's width below which cells hardly differ."""
_ROUNDING = 1e-6
"""The same in units of the largest feature: what fp32 leaves of equal numbers."""
_FAR = 1e6
"""Bound of features in the padding, in units of the largest on the picture."""


def picture_cells(frame: Frame, shape: Size) -> Size:
    """Return how many rows and columns of a map over the canvas lie on the picture, at least one of each."""
    height, width = (
        max(1, -(-cells * size // side)) for cells, size, side in zip(shape, frame.size, frame.canvas, strict=True)
    )
    return height, width


def energy(features: Float[Tensor, "C h w"]) -> Float[Tensor, "h w"]:
    """Return the root mean square over channels of each cell; not finite where one of its features is not."""
    # summed in double: squares of what fp32 holds may not fit into fp32
    norm: Tensor = torch.linalg.vector_norm(features.cpu(), dim=0, dtype=torch.float64)
    mean: Tensor = norm / len(features) ** 0.5
    return mean.float()


def principal_colours(features: Float[Tensor, "C h w"], frame: Frame) -> UInt8[np.ndarray, "h w 3"]:
    """Return each cell's first three principal components as red, green and blue.

    They are those of the cells on the picture (not of the padding; of many cells a regular choice), each from its 2nd
    to its 98th percentile, or to its extremes where these percentiles meet (most cells are alike, few are not); cells
    of alike colour are alike. The sign of a component is the one in which its largest channel weight is positive; a
    component in which cells hardly differ is black, and so is a cell with a feature that is not finite.
    """
    h, w = features.shape[1:]
    rows, columns = picture_cells(frame, (h, w))
    flat = features.detach().float().cpu()
    inside = flat[:, :rows, :columns].flatten(1)  # [C, cells]
    inside = inside[:, :: -(-inside.shape[1] // _CELLS)]
    inside = inside[:, inside.isfinite().all(0)]
    if not inside.any():  # no number at all, or zeros alone
        return np.zeros((h, w, 3), dtype=np.uint8)
    largest = inside.abs().amax()  # what is divided by it can be squared
    inside = (inside / largest).double()
    mean = inside.mean(1, keepdim=True)
    axes = _leading_axes(inside - mean)
    chosen = axes.T @ (inside - mean)
    whole = (flat.flatten(1) / largest).clamp(-_FAR, _FAR)
    components = axes.float().T @ (whole - mean.float())
    low, high = _ends(chosen)
    seen = high - low > (_HARDLY * (high - low).amax()).clamp(min=_ROUNDING)
    shares = torch.where(seen, (components - low) / (high - low).clamp(min=1e-12), 0).clamp(0, 1)
    shares[:, ~flat.isfinite().all(0).flatten()] = 0
    colours = torch.zeros(3, h * w)
    colours[: len(shares)] = shares
    pixels: UInt8[np.ndarray, "h w 3"] = (colours.T * 255).round().to(torch.uint8).view(h, w, 3).numpy()
    return pixels


def _ends(components: Float[Tensor, "axes cells"]) -> tuple[Float[Tensor, "axes 1"], Float[Tensor, "axes 1"]]:
    """Return what the darkest and the lightest colour stand for."""
    low, high = (torch.quantile(components, q, dim=1, keepdim=True) for q in (0.02, 0.98))
    least, most = components.amin(1, keepdim=True), components.amax(1, keepdim=True)
    meet = high - low <= _HARDLY * (most - least).amax()
    return torch.where(meet, least, low), torch.where(meet, most, high)


def _leading_axes(centred: Float[Tensor, "C cells"]) -> Float[Tensor, "C axes"]:
    """Return the at most three directions, of length 1, in which cells differ most."""
    C, cells = centred.shape
    # the smaller of the two matrices of products has the same leading directions, up to a product
    small = (centred @ centred.T if cells >= C else centred.T @ centred).numpy()
    count = min(3, len(small))
    if len(small) <= _DENSE or not small.any():
        vectors = np.linalg.eigh(small)[1][:, ::-1][:, :count]
    else:
        values, vectors = eigsh(small, k=count, v0=np.random.default_rng(0).normal(size=len(small)))
        vectors = vectors[:, np.argsort(-values, kind="stable")]
    axes = torch.tensor(vectors.copy(), dtype=torch.float64)
    axes = axes if cells >= C else centred @ axes
    axes /= axes.norm(dim=0, keepdim=True).clamp(min=1e-12)
    signed: Tensor = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
    return signed


def principal_view(
    title: str, caption: str, features: Float[Tensor, "C h w"], frame: Frame, segments: tuple[int, ...] = ()
) -> PixelsView:
    """Return the picture of a feature map's principal components; the caption tells of cells that are not finite."""
    lost = int((~features.isfinite().all(0)).sum())
    told = f"{caption} Not finite: {lost:,} of {features[0].numel():,} cells, which are black." if lost else caption
    return PixelsView(title=title, caption=told, segments=segments, pixels=principal_colours(features, frame))


def feature_views(name: str, features: Float[Tensor, "C h w"], frame: Frame) -> tuple[PixelsView, MapView]:
    """Return the two pictures of a feature map: its principal components as colour, and its energy."""
    return (
        principal_view(
            f"{name}: principal components",
            "Cells of alike colour hold alike features; the colours themselves mean nothing.",
            features,
            frame,
        ),
        MapView(
            title=f"{name}: energy",
            caption="How strong the features of each cell are.",
            values=picture_array(energy(features)),
            unit="root mean square over channels",
            low=0.0,
        ),
    )
