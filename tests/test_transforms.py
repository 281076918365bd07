"""Augmentation moves a picture and its id map alike, and targets say what is left."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from thingstuff.data.transforms import AugmentConfig, WindowConfig, augment, random_window, remains, resize, target_of
from thingstuff.sizes import detr_resized_size, resized_size


def marked(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture whose red channel is ten times its id map, in blocks of 8 pixels."""
    blocks = np.arange(-(-height // 8) * -(-width // 8), dtype=np.int32).reshape(-(-height // 8), -(-width // 8)) % 25
    ids = np.kron(blocks, np.ones((8, 8), dtype=np.int32))[:height, :width].astype(np.int32)
    return np.repeat((ids * 10).astype(np.uint8)[..., None], 3, axis=2), ids


@pytest.mark.parametrize("seed", range(6))
def test_picture_and_map_stay_together(seed: int) -> None:
    config = AugmentConfig(short_sides=(32, 64), crop=(24, 40), flip=0.5)
    picture, ids = augment(*marked(32, 48), config, np.random.default_rng(seed))
    assert picture.shape[:2] == ids.shape == (24, 40)
    same = np.abs(picture[..., 0].astype(int) - ids * 10) <= 1
    assert same.mean() > 0.55  # all but the blended rims of the blocks


def test_the_same_seed_gives_the_same() -> None:
    config = AugmentConfig(short_sides=(24, 32, 40), crop=(20, 20), color=0.4)
    first, second = (augment(*marked(32, 48), config, np.random.default_rng(7)) for _ in range(2))
    assert np.array_equal(first[0], second[0])
    assert np.array_equal(first[1], second[1])


def test_flip_always_and_never() -> None:
    picture, ids = marked(16, 24)
    for chance, expected in ((1.0, ids[:, ::-1]), (0.0, ids)):
        config = AugmentConfig(short_sides=(16,), flip=chance)
        assert np.array_equal(augment(picture, ids, config, np.random.default_rng(0))[1], expected)


def test_colour_changes_the_picture_alone() -> None:
    picture, ids = marked(16, 24)
    config = AugmentConfig(short_sides=(16,), flip=0.0, color=0.5)
    changed, same = augment(picture, ids, config, np.random.default_rng(1))
    assert np.array_equal(same, ids)
    assert not np.array_equal(changed, picture)


def test_large_ids_survive_resizing() -> None:
    ids = np.full((8, 8), 256**3 - 1, dtype=np.int32)
    assert (resize(np.zeros((8, 8, 3), dtype=np.uint8), ids, (13, 5))[1] == 256**3 - 1).all()


@pytest.mark.parametrize(
    ("size", "expected"), [((480, 640), (800, 1067)), ((200, 640), (417, 1333)), ((640, 213), (1333, 444))]
)
def test_the_authors_size_rule(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert resized_size(size, 800, 1333) == expected


def test_targets_hold_what_is_left_of_the_segments() -> None:
    places = np.zeros((6, 8), dtype=np.uint8)
    places[1:3, 2:5], places[4:, :] = 1, 3
    target = target_of(places, remains(places), [3, 0, 1], [False, False, True])
    assert target.labels.tolist() == [3, 1]
    assert target.crowd.tolist() == [False, True]
    assert target.boxes_xyxy.tolist() == [[2, 1, 5, 3], [0, 4, 8, 6]]
    assert torch.equal(target.unlabelled, torch.from_numpy(places == 0))
    assert target.masks.sum((1, 2)).tolist() == [6, 16]


def test_targets_of_other_devices_are_made_there() -> None:
    places = np.zeros((6, 8), dtype=np.uint8)
    places[1:3, 2:5], places[4:, :] = 1, 3
    target = target_of(places, remains(places), [3, 0, 1], [False, False, True], "meta")
    fields = (target.masks, target.labels, target.boxes_xyxy, target.crowd, target.unlabelled)
    assert {t.device.type for t in fields} == {"meta"}
    assert [tuple(t.shape) for t in fields] == [(2, 6, 8), (2,), (2, 4), (2,), (6, 8)]
    here = target_of(places, remains(places), [3, 0, 1], [False, False, True])
    assert [t.dtype for t in fields] == [
        t.dtype for t in (here.masks, here.labels, here.boxes_xyxy, here.crowd, here.unlabelled)
    ]


def test_a_target_without_segments() -> None:
    nothing = np.zeros((4, 5), dtype=np.uint8)
    target = target_of(nothing, remains(nothing), [], [])
    assert target.masks.shape == (0, 4, 5)
    assert target.boxes_xyxy.shape == (0, 4)
    assert target.unlabelled.all()


# ---- DETR's sizes and windows


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (800, 1066)),  # 1066.67 is truncated
        ((640, 480), (1066, 800)),
        ((500, 500), (800, 800)),
        ((800, 1067), (800, 1067)),  # right already
        ((1200, 800), (1200, 800)),
        ((200, 640), (417, 1334)),  # 416.56 is rounded, and then the long side may be above the cap
        ((300, 600), (666, 1332)),  # 666.5 is rounded to the even
        ((600, 300), (1332, 666)),
        ((500, 1333), (500, 1333)),  # right already, by the cap
        ((3000, 4000), (800, 1066)),
        ((1, 4000), (1, 4000)),
    ],
)
def test_detr_s_size_rule(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert detr_resized_size(size, 800, 1333) == expected


def test_a_window_is_a_part_of_the_resized_picture_of_any_allowed_size() -> None:
    config = WindowConfig(short_sides=(32, 48), smallest=16, largest=40)
    ids = np.arange(64 * 96, dtype=np.int32).reshape(64, 96)  # so that a window tells its place
    picture = np.stack([ids % 251, ids % 241, ids // 96], axis=2).astype(np.uint8)
    seen: dict[int, set[tuple[int, int]]] = {32: set(), 48: set()}
    for seed in range(4000):
        side = int(np.random.default_rng(seed).choice(config.short_sides))  # the first that is drawn
        whole, whole_ids = resize(picture, ids, (side, side * 3 // 2))
        part, part_ids = random_window(picture, ids, config, np.random.default_rng(seed))
        height, width = part_ids.shape
        ((top, left),) = np.argwhere(whole_ids == part_ids[0, 0])
        window = (slice(top, top + height), slice(left, left + width))
        assert np.array_equal(part_ids, whole_ids[window])
        assert np.array_equal(part, whole[window])
        seen[side].add((height, width))
    assert {h for h, _ in seen[32]} == set(range(16, 33))  # a window cannot be higher than the picture
    assert {w for _, w in seen[32]} == {h for h, _ in seen[48]} == {w for _, w in seen[48]} == set(range(16, 41))


def test_windows_reach_every_edge_and_small_pictures_are_taken_whole() -> None:
    ids = np.arange(20 * 30, dtype=np.int32).reshape(20, 30)
    picture = np.zeros((20, 30, 3), dtype=np.uint8)
    config = WindowConfig(short_sides=(20,), smallest=12, largest=16)
    corners = set()
    for seed in range(3000):
        _, part = random_window(picture, ids, config, np.random.default_rng(seed))
        corners |= {("top left", part[0, 0] == 0), ("bottom right", part[-1, -1] == 599)}
    assert {("top left", True), ("bottom right", True)} <= corners
    larger = WindowConfig(short_sides=(20,), smallest=64, largest=80)
    assert random_window(picture, ids, larger, np.random.default_rng(0))[1].shape == (20, 30)


def test_a_window_is_taken_as_often_as_asked_for() -> None:
    picture, ids = marked(32, 48)
    plain = AugmentConfig(short_sides=(32,), flip=0.0)

    def whole(chance: float) -> int:
        window = WindowConfig(chance=chance, short_sides=(64,), smallest=8, largest=16)
        config = plain.model_copy(update={"window": window})
        results = [augment(picture, ids, config, np.random.default_rng(seed))[1] for seed in range(200)]
        return sum(np.array_equal(result, ids) for result in results)

    assert whole(0.0) == 200
    assert whole(1.0) == 0
    assert 70 < whole(0.5) < 130


def test_what_is_augmented_without_a_window_is_what_it_was() -> None:
    """Numbers of before there were windows: runs that go on must see the same pictures."""
    picture, ids = marked(32, 48)
    config = AugmentConfig(short_sides=(24, 32, 40), crop=(20, 20), flip=0.5, color=0.3)
    sums = [int(augment(picture, ids, config, np.random.default_rng(seed))[1].sum()) for seed in range(4)]
    assert sums == [5320, 4940, 2760, 1920]


def test_a_window_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValidationError, match="smallest=600 is above largest=500"):
        WindowConfig(smallest=600, largest=500)
