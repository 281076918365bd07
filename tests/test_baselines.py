"""The two baselines succeed where position or colour decides, and fail on made pictures."""

from collections import deque
from dataclasses import dataclass

import numpy as np
import pytest

from thingstuff.data.scenes import SCENE_CATEGORIES, make_scene
from thingstuff.errors import InputError
from thingstuff.evaluation.baselines import (
    ColourThreshold,
    MostFrequentClass,
    connected_components,
    majority,
    score_baseline,
    score_baselines,
    segments_of_labels,
)
from thingstuff.panoptic import VOID, Categories, Panoptic

CATEGORIES = Categories(("sky", "ball", "grass"), (False, True, False), (7, 3, 90))
COLOURS = np.array([(40, 90, 220), (220, 40, 40), (60, 200, 60)], dtype=np.uint8)


@dataclass
class InMemory:
    """Pictures with ground truth, as `CocoPanoptic` has them."""

    categories: Categories
    pairs: list[tuple[np.ndarray, Panoptic]]

    def __len__(self) -> int:
        return len(self.pairs)

    def picture(self, index: int) -> np.ndarray:
        return self.pairs[index][0]

    def panoptic(self, index: int) -> Panoptic:
        return self.pairs[index][1]


def flat_scene(balls: list[tuple[int, int]], size: tuple[int, int] = (60, 90)) -> tuple[np.ndarray, Panoptic]:
    """Sky above grass, each class of one colour, and a square ball of 16 pixels at each (top, left)."""
    labels = np.zeros(size, dtype=np.int32)
    labels[size[0] // 2 :] = 2
    for top, left in balls:
        labels[top : top + 16, left : left + 16] = 1
    return COLOURS[labels], segments_of_labels(labels, CATEGORIES)


def flat_scenes(*scenes: tuple[np.ndarray, Panoptic]) -> InMemory:
    return InMemory(CATEGORIES, list(scenes))


def flood_fill(labels: np.ndarray) -> np.ndarray:
    regions, count = np.zeros(labels.shape, dtype=np.int32), 0
    for start in np.ndindex(labels.shape):
        if labels[start] == VOID or regions[start]:
            continue
        count += 1
        regions[start], queue = count, deque([start])
        while queue:
            y, x = queue.popleft()
            for near in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                inside = 0 <= near[0] < labels.shape[0] and 0 <= near[1] < labels.shape[1]
                if inside and not regions[near] and labels[near] == labels[start]:
                    regions[near] = count
                    queue.append(near)
    return regions


@pytest.mark.parametrize("seed", range(20))
def test_connected_components_equal_flood_fill(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(VOID, 1 + seed % 3, rng.integers(1, 25, 2)).astype(np.int32)
    np.testing.assert_array_equal(connected_components(labels), flood_fill(labels))


def test_connected_components_of_a_spiral_and_of_nothing() -> None:
    spiral = np.full((21, 21), VOID, dtype=np.int32)
    for ring in range(0, 10, 2):
        spiral[ring, ring : 21 - ring] = spiral[ring : 21 - ring, 20 - ring] = spiral[20 - ring, ring : 21 - ring] = 4
        spiral[ring + 2 : 21 - ring, ring] = 4
        spiral[ring + 2, ring : ring + 3] = 4
    np.testing.assert_array_equal(connected_components(spiral), flood_fill(spiral))
    assert connected_components(spiral).max() == 1
    assert connected_components(np.zeros((0, 5), dtype=np.int32)).shape == (0, 5)


@pytest.mark.parametrize("window", [1, 3, 7, 41])
def test_majority_equals_counting_each_window(window: int) -> None:
    labels = np.random.default_rng(window).integers(VOID, 3, (13, 17)).astype(np.int32)
    half, smoothed = window // 2, majority(labels, window)
    for y, x in np.ndindex(labels.shape):
        around = labels[max(0, y - half) : y + half + 1, max(0, x - half) : x + half + 1]
        values, counts = np.unique(around, return_counts=True)
        assert smoothed[y, x] == values[counts.argmax()]


@pytest.mark.parametrize("window", [0, 4])
def test_majority_refuses_even_windows(window: int) -> None:
    with pytest.raises(InputError, match=f"window={window}"):
        majority(np.zeros((3, 3), dtype=np.int32), window)


def test_segments_are_stuff_by_class_and_things_by_region() -> None:
    labels = np.array([[0, 1, 1, 0, 1], [0, 1, 1, 0, 2], [0, 0, 0, 0, VOID]], dtype=np.int32)
    panoptic = segments_of_labels(labels, CATEGORIES)
    assert sorted((s.label, s.area) for s in panoptic.segments) == [(0, 8), (1, 1), (1, 4), (2, 1)]
    np.testing.assert_array_equal(panoptic.semantic(), labels)
    large = segments_of_labels(labels, CATEGORIES, min_area=2)
    assert sorted((s.label, s.area) for s in large.segments) == [(0, 8), (1, 4)]
    assert (large.ids == 0).sum() == 3


def test_position_suffices_where_the_layout_is_fixed() -> None:
    train = flat_scenes(flat_scene([(4, 10)]), flat_scene([(4, 10), (35, 40)]), flat_scene([(4, 10)]))
    val = flat_scenes(flat_scene([(4, 10)]), flat_scene([(4, 10)], size=(120, 180)))
    fitted = MostFrequentClass.fit(train, grid=(60, 90))
    same = fitted.predict(val.picture(0))
    assert [(s.label, s.area) for s in same.segments] == [(0, 30 * 90 - 256), (2, 30 * 90), (1, 256)]
    np.testing.assert_array_equal(same.semantic(), val.panoptic(0).semantic())
    assert fitted.predict(val.picture(1)).size == (120, 180)
    result = score_baseline(fitted, [val.panoptic(0)], [val.picture(0)])
    assert result.all.pq == 1.0


def test_position_fails_where_things_move() -> None:
    train = flat_scenes(*(flat_scene([(4, left)]) for left in range(0, 80, 20)))
    result = score_baselines(train, flat_scenes(flat_scene([(4, 25)])))
    assert result[MostFrequentClass.name].things.pq == 0.0
    assert result[ColourThreshold.name].things.pq is not None
    assert result[ColourThreshold.name].things.pq > 0.6  # the majority rounds the corners


def test_colour_suffices_where_classes_have_colours() -> None:
    train = flat_scenes(flat_scene([(4, 10)]), flat_scene([(35, 40)]))
    picture, truth = flat_scene([(4, 30), (12, 60), (38, 70)])
    fitted = ColourThreshold.fit(train)
    assert len([s for s in fitted.predict(picture).segments if s.label == 1]) == 3
    assert score_baseline(fitted, [truth], [picture]).all.pq > 0.8
    pixelwise = ColourThreshold(fitted.labels, CATEGORIES, window=1)
    assert score_baseline(pixelwise, [truth], [picture]).all.pq == 1.0


def test_unseen_colours_and_void_take_the_most_frequent_class() -> None:
    picture, truth = flat_scene([])
    truth = segments_of_labels(np.where(np.arange(90) < 10, truth.semantic(), 0).astype(np.int32), CATEGORIES)
    fitted = ColourThreshold.fit(flat_scenes((picture, truth)))
    assert set(np.unique(fitted.labels)) == {0}
    nothing = Panoptic(np.zeros((60, 90), dtype=np.int32), (), CATEGORIES)
    for baseline in (MostFrequentClass, ColourThreshold):
        prediction = baseline.fit(flat_scenes((picture, nothing))).predict(picture)
        assert prediction.segments == ()
        assert not prediction.ids.any()


def test_an_empty_split_and_other_categories_are_refused() -> None:
    some = flat_scenes(flat_scene([]))
    for train, val in ((flat_scenes(), some), (some, flat_scenes())):
        with pytest.raises(InputError, match="no picture"):
            score_baselines(train, val)
    made = InMemory(SCENE_CATEGORIES, [make_scene(np.random.default_rng(0))])
    with pytest.raises(InputError, match="categories"):
        score_baselines(some, made)
    with pytest.raises(InputError, match="bins=0"):
        ColourThreshold.fit(some, bins=0)


def test_made_pictures_are_too_hard() -> None:
    splits = [
        InMemory(SCENE_CATEGORIES, [make_scene(np.random.default_rng((seed, n))) for n in range(count)])
        for seed, count in ((0, 80), (1, 20))
    ]
    results = score_baselines(*splits)
    assert len(results) == 2
    for result in results.values():
        assert result.all.pq is not None
        assert result.all.pq < 0.1
        assert result.all.classes == len(SCENE_CATEGORIES)
