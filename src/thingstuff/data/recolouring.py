"""Brightness, contrast and saturation of pictures, to the bit as Pillow's `ImageEnhance` changes them."""

from functools import cache
from types import ModuleType

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageEnhance

from thingstuff.loops import compiled_loops

Factors = tuple[float, float, float]
"""Of brightness, contrast and saturation; 1 changes nothing."""


def recoloured(picture: UInt8[np.ndarray, "H W 3"], factors: Factors) -> UInt8[np.ndarray, "H W 3"]:
    """Scale brightness, then contrast about the mean luminance, then saturation of a picture."""
    loops = compiled_loops()
    if loops is not None and _is_pillows(loops):
        return _by_loops(loops, picture, factors)
    return _by_pillow(picture, factors)


def _by_pillow(picture: UInt8[np.ndarray, "H W 3"], factors: Factors) -> UInt8[np.ndarray, "H W 3"]:
    image = Image.fromarray(np.ascontiguousarray(picture))
    enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for enhance, factor in zip(enhancers, factors, strict=True):
        image = enhance(image).enhance(factor)
    return np.asarray(image)


def _by_loops(loops: ModuleType, picture: UInt8[np.ndarray, "H W 3"], factors: Factors) -> UInt8[np.ndarray, "H W 3"]:
    source, target = np.ascontiguousarray(picture), np.empty(picture.shape, np.uint8)
    loops.recolour(source.reshape(len(source), -1), *factors, target.reshape(len(target), -1))
    return target


@cache
def _is_pillows(loops: ModuleType) -> bool:
    """Whether this Pillow rounds as the loops do: its builds need not, but all pictures of a run have to be alike."""
    random = np.random.default_rng(0)
    picture = random.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    tries = [(first, second, third) for first, second, third in random.uniform(0, 2, (12, 3)).tolist()]
    return all(np.array_equal(_by_loops(loops, picture, f), _by_pillow(picture, f)) for f in tries)
