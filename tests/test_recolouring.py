"""Recoloured pictures are those of Pillow's enhancers, to the bit, with and without the loops."""

from types import ModuleType

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from thingstuff import compiled_loops, loops
from thingstuff.data.recolouring import recoloured
from thingstuff.data.transforms import AugmentConfig, augment


def pillows(picture: np.ndarray, factors: list[float]) -> np.ndarray:
    image = Image.fromarray(picture)
    for enhance, factor in zip(
        (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color), factors, strict=True
    ):
        image = enhance(image).enhance(factor)
    return np.asarray(image)


@pytest.fixture(params=["loops", "Pillow"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(loops, "_asked", 10**6 if request.param == "loops" else -(10**6))
    return str(request.param)


@pytest.mark.parametrize("seed", range(20))
def test_colours_are_those_of_pillow_s_enhancers(seed: int) -> None:
    random = np.random.default_rng(seed)
    height, width = (int(side) for side in random.integers(1, 70, 2))
    picture = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    factors = [*random.uniform(0, 2, 3).tolist()]
    if seed < 6:
        factors[seed % 3] = float(seed // 3)  # Pillow goes other ways at 0 and at 1
    assert np.array_equal(recoloured(picture, tuple(factors)), pillows(picture, factors))


def test_every_pair_of_a_grey_and_a_value() -> None:
    values = np.stack(np.meshgrid(np.arange(256), np.arange(256)), axis=2).astype(np.uint8)
    picture = np.concatenate([values, values[..., :1]], axis=2)
    for factor in (0.8, 1.0, 1.2, 1.9999):
        assert np.array_equal(recoloured(picture, (1.0, 1.0, factor)), pillows(picture, [1.0, 1.0, factor]))


def test_a_flipped_window_is_recoloured_as_it_is() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    part = picture[3:, 20:5:-1]
    assert np.array_equal(recoloured(part, (1.1, 0.9, 1.2)), pillows(np.ascontiguousarray(part), [1.1, 0.9, 1.2]))


def test_augmentation_draws_the_factors_last() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    config = AugmentConfig(short_sides=(16,), flip=0.0, color=0.9)
    random, drawn = np.random.default_rng(5), np.random.default_rng(5)
    changed, _ = augment(picture, np.zeros((16, 24), np.uint8), config, random)
    drawn.choice(config.short_sides)
    drawn.random()
    assert np.array_equal(changed, pillows(picture, drawn.uniform(0.1, 1.9, 3).tolist()))


def test_a_pillow_that_rounds_otherwise_is_believed(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def rounding_up(*arguments: np.ndarray) -> None:
        compiled_loops.recolour(*arguments)
        arguments[-1][::2] += 1

    other = ModuleType("other")
    other.recolour = rounding_up
    monkeypatch.setattr("thingstuff.data.recolouring.compiled_loops", lambda: other)
    picture = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    assert np.array_equal(recoloured(picture, (1.1, 0.9, 1.2)), pillows(picture, [1.1, 0.9, 1.2]))
