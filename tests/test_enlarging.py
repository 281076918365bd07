"""Windows of enlarged pictures are those of Pillow's, to the bit."""

from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from thingstuff import compiled_loops, loops
from thingstuff.data.enlarging import enlarged
from thingstuff.data.transforms import AugmentConfig, WindowConfig, augment

WHOLE = slice(None)


@pytest.fixture(autouse=True)
def loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "_asked", 10**6)


def made(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    return random.integers(0, 256, (height, width, 3), dtype=np.uint8)


def pillows(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).resize(size[::-1], Image.Resampling.BILINEAR))


@pytest.mark.parametrize("seed", range(40))
def test_windows_are_cut_from_what_pillow_makes(seed: int) -> None:
    random = np.random.default_rng(seed)
    height, width = (int(side) for side in random.integers(1, 90, 2))
    size = (height + int(random.integers(0, 200)), width + int(random.integers(0, 200)))
    picture = made(random, height, width)
    whole = pillows(picture, size)
    top, left = (int(random.integers(0, side)) for side in size)
    for rows, columns in (
        (WHOLE, WHOLE),
        (slice(top, size[0]), slice(left, left + 1)),
        (slice(top, top + 9), slice(left, None, -1)),
    ):
        window = enlarged(picture, size, rows, columns)
        assert window is not None
        assert np.array_equal(window, whole[rows, columns])


@pytest.mark.parametrize("size", [(640, 853), (800, 1067), (672, 896), (768, 1333)])
def test_training_sizes(size: tuple[int, int]) -> None:
    picture = made(np.random.default_rng(0), 480, 640)
    assert np.array_equal(enlarged(picture, size, WHOLE, WHOLE), pillows(picture, size))


def test_what_becomes_smaller_is_left_to_pillow() -> None:
    picture = made(np.random.default_rng(0), 20, 30)
    assert enlarged(picture, (19, 60), WHOLE, WHOLE) is None
    assert enlarged(picture, (40, 29), WHOLE, WHOLE) is None


def test_a_few_pictures_are_left_to_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "_asked", 0)
    assert enlarged(made(np.random.default_rng(0), 20, 30), (40, 60), WHOLE, WHOLE) is None


def test_a_pillow_that_rounds_otherwise_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    def truncating(*arguments: np.ndarray) -> None:
        compiled_loops.enlarge(*arguments)
        arguments[-1][::2] -= 1

    other = ModuleType("other")
    other.enlarge = truncating
    monkeypatch.setattr("thingstuff.data.enlarging.compiled_loops", lambda: other)
    assert enlarged(made(np.random.default_rng(0), 20, 30), (40, 60), WHOLE, WHOLE) is None


@pytest.mark.parametrize("seed", range(12))
def test_augmentation_is_the_same_with_and_without_the_loops(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    config = AugmentConfig(
        window=WindowConfig(short_sides=(40, 56), smallest=24, largest=40),
        short_sides=(24, 48, 64),
        crop=(40, 44),
        color=0.3,
    )
    random = np.random.default_rng(seed)
    picture, places = made(random, 36, 50), random.integers(0, 9, (36, 50), dtype=np.uint8)
    first = augment(picture, places, config, np.random.default_rng(seed))
    monkeypatch.setattr(loops, "_asked", -(10**6))
    second = augment(picture, places, config, np.random.default_rng(seed))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
