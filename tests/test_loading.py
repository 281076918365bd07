"""The order of training pictures depends on seed and position alone."""

import itertools

import numpy as np
import pytest

from thingstuff.data.coco import CocoPanoptic
from thingstuff.data.loading import Batch, endless_batches, endless_order, training_batches
from thingstuff.data.scenes import SceneConfig, make_scenes
from thingstuff.data.transforms import AugmentConfig

AUGMENT = AugmentConfig(short_sides=(32, 48), color=0.2)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> CocoPanoptic:
    folder = make_scenes(tmp_path_factory.mktemp("loading") / "data", 7, 1, config=SceneConfig(size=(32, 48)))
    return CocoPanoptic.open(folder, "train")


def batches(data: CocoPanoptic, steps: range, **settings: int) -> list[Batch]:
    settings = {"batch_size": 2, "seed": 3, "workers": 0, **settings}
    return list(training_batches(data, AUGMENT, steps=steps, **settings))


def same(first: Batch, second: Batch) -> bool:
    pairs = zip(first.examples, second.examples, strict=True)
    return first.names == second.names and all(
        np.array_equal(a.picture, b.picture) and np.array_equal(a.places, b.places) for a, b in pairs
    )


def test_every_epoch_shows_every_picture_once_in_another_order() -> None:
    keys = list(itertools.islice(endless_order(10, seed=1), 30))
    assert [position for position, _ in keys] == list(range(30))
    epochs = [[index for _, index in keys[start : start + 10]] for start in (0, 10, 20)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert keys != list(itertools.islice(endless_order(10, seed=2), 30))


def test_batches_hold_pictures_of_one_orientation() -> None:
    portrait = [True, False, False, True, False, True, False]
    found = list(itertools.islice(endless_batches(portrait, 3, seed=0), 20))
    assert all(len({portrait[index] for _, index in batch}) == 1 for batch in found)
    assert {index for batch in found for _, index in batch} == set(range(7))


def test_going_on_gives_what_would_have_come(data: CocoPanoptic) -> None:
    whole = batches(data, range(9))
    assert all(map(same, whole[5:], batches(data, range(5, 9))))


def test_workers_change_nothing(data: CocoPanoptic) -> None:
    assert all(map(same, batches(data, range(4)), batches(data, range(4), workers=2)))


def test_two_processes_share_the_doubled_batch(data: CocoPanoptic) -> None:
    whole = batches(data, range(4), batch_size=4)
    shares = [batches(data, range(4), rank=rank, processes=2) for rank in (0, 1)]
    for one, first, second in zip(whole, *shares, strict=True):
        assert same(one, Batch(first.examples + second.examples))


def test_targets_come_from_the_augmented_map(data: CocoPanoptic) -> None:
    (batch,) = batches(data, range(1))
    for example, target in zip(batch.examples, batch.targets("cpu"), strict=True):
        assert target.masks.shape[1:] == example.places.shape == example.picture.shape[:2]
        assert int(target.masks.sum()) == int((example.places > 0).sum())
