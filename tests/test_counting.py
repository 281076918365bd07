"""Pairs of ids are counted as a plain loop counts them, by the compiled loops and by numpy alike."""

import inspect
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from thingstuff.evaluation import counting
from thingstuff.evaluation.counting import overlaps
from thingstuff.evaluation.segments import Overlaps
from thingstuff.loops import compiled_loops

Count = Callable[[np.ndarray, np.ndarray], Overlaps]


@pytest.fixture(params=["loops", "numpy"])
def count(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Count:
    used = compiled_loops(10_000) if request.param == "loops" else None
    assert (used is None) == (request.param == "numpy")
    monkeypatch.setattr(counting, "compiled_loops", lambda: used)
    return overlaps


def plain(truth: np.ndarray, prediction: np.ndarray) -> list[tuple[tuple[int, int], int]]:
    pairs = Counter(zip(truth.ravel().tolist(), prediction.ravel().tolist(), strict=True))
    return sorted(pairs.items())


def blocks(rng: np.random.Generator, size: tuple[int, int], ids: np.ndarray) -> np.ndarray:
    """Paint rectangles of ids over void."""
    canvas = np.zeros(size, ids.dtype)
    for value in ids:
        y, x = rng.integers(0, size[0]), rng.integers(0, size[1])
        canvas[y : y + rng.integers(1, 1 + size[0]), x : x + rng.integers(1, 1 + size[1])] = value
    return canvas


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (8, 1), (2, 4), (3, 5), (31, 33), (64, 128)])
def test_blocks_and_noise(size: tuple[int, int], count: Count) -> None:
    rng = np.random.default_rng(size)
    for _ in range(5):
        few = rng.integers(0, 2**24, 9).astype(np.int32)
        maps = [blocks(rng, size, few), rng.integers(0, 3, size).astype(np.int32), few[rng.integers(0, 9, size)]]
        maps.append(rng.integers(0, 2**24, size).astype(np.int32))
        for truth in maps:
            for prediction in maps:
                assert list(count(truth, prediction).items()) == plain(truth, prediction)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64])
def test_integers_of_every_kind(dtype: type, count: Count) -> None:
    rng = np.random.default_rng(0)
    largest = min(np.iinfo(dtype).max, 2**32 - 1)
    ids = np.array([0, 1, 2, largest - 1, largest]).astype(dtype)
    truth, prediction = ids[rng.integers(0, 5, (9, 40))], ids[rng.integers(0, 5, (9, 40))]
    assert list(count(truth, prediction).items()) == plain(truth, prediction)
    assert list(count(truth, prediction.astype(np.int64)).items()) == plain(truth, prediction)


def test_maps_that_are_views(count: Count) -> None:
    rng = np.random.default_rng(1)
    truth, prediction = rng.integers(0, 4, (2, 30, 20)).astype(np.int32)
    for change in (lambda m: m.T, lambda m: m[::-1, ::2], lambda m: m[3:9, 4:11]):
        assert list(count(change(truth), change(prediction)).items()) == plain(change(truth), change(prediction))
    truth.flags.writeable = False
    assert list(count(truth, prediction).items()) == plain(truth, prediction)


def test_results_are_python_s_own_numbers(count: Count) -> None:
    ids = np.array([[1, 1, 2]], np.int32)
    ((truth_id, predicted_id), pixels), _ = count(ids, ids).items()
    assert (type(truth_id), type(predicted_id), type(pixels)) == (int, int, int)


@pytest.mark.parametrize("size", [(0, 0), (0, 5), (5, 0)])
def test_no_pixels(size: tuple[int, int], count: Count) -> None:
    assert count(np.zeros(size, np.int32), np.zeros(size, np.int32)) == {}


def test_maps_of_two_sizes_are_refused(count: Count) -> None:
    ids = np.ones((3, 4), np.int32)
    for other in (ids.T, ids[:2], ids[:, :1]):
        # the tests' checks of shapes are not there for users
        with pytest.raises(ValueError, match=r"maps of \(3, 4\) and"):
            inspect.unwrap(count)(ids, other)


def test_ids_that_share_their_place_in_the_table() -> None:
    """As many pairs as pixels, of ids a large step apart: a poor hash would take minutes."""
    compiled_loops(10_000)
    steps = np.arange(300 * 300, dtype=np.int64).reshape(300, 300)
    for factor in (1, 4096, 2**15):
        truth = steps * factor % 2**32
        shared = overlaps(truth, truth[::-1])
        assert len(shared) == steps.size
        assert {*shared.values()} == {1}
