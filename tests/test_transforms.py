"""Augmentation moves a picture and its id map alike, and targets say what is left."""

import numpy as np
import pytest
import torch

from thingstuff.data.transforms import AugmentConfig, augment, resize, target_of
from thingstuff.sizes import resized_size


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
    ids = np.zeros((6, 8), dtype=np.int32)
    ids[1:3, 2:5], ids[4:, :] = 7, 70_000
    target = target_of(ids, [7, 9, 70_000], [3, 0, 1], [False, False, True])
    assert target.labels.tolist() == [3, 1]
    assert target.crowd.tolist() == [False, True]
    assert target.boxes_xyxy.tolist() == [[2, 1, 5, 3], [0, 4, 8, 6]]
    assert torch.equal(target.unlabelled, torch.from_numpy(ids == 0))
    assert target.masks.sum((1, 2)).tolist() == [6, 16]


def test_a_target_without_segments() -> None:
    target = target_of(np.zeros((4, 5), dtype=np.int32), [], [], [])
    assert target.masks.shape == (0, 4, 5)
    assert target.unlabelled.all()
