"""Made pictures: valid, varied, the same for a seed, and never written over what was there."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from thingstuff.data.coco import CocoPanoptic
from thingstuff.data.scenes import SCENE_CATEGORIES, SceneConfig, _polygon, make_scene, make_scenes
from thingstuff.errors import InputError
from thingstuff.panoptic import Panoptic

Scene = tuple[np.ndarray, Panoptic]


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [make_scene(np.random.default_rng((7, number))) for number in range(100)]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_map_and_segments_agree(scenes: list[Scene]) -> None:
    for picture, truth in scenes:
        assert picture.shape == (128, 160, 3)
        assert picture.dtype == np.uint8
        assert truth.size == (128, 160)
        ids, areas = np.unique(truth.ids[truth.ids != 0], return_counts=True)
        assert dict(zip(ids.tolist(), areas.tolist(), strict=True)) == {s.id: s.area for s in truth.segments}
        assert ids.min() > 0
        assert ids.max() < 2**24
        assert min(areas) >= SceneConfig().min_visible


def test_stuff_is_one_segment_a_class_and_only_things_are_crowds(scenes: list[Scene]) -> None:
    for _, truth in scenes:
        stuff = [s.label for s in truth.segments if not truth.categories.things[s.label]]
        assert len(stuff) == len(set(stuff))
        assert 1 <= len(stuff) <= 4
        assert all(truth.categories.things[s.label] for s in truth.segments if s.iscrowd)


def test_every_class_crowds_and_void_occur(scenes: list[Scene]) -> None:
    segments = [segment for _, truth in scenes for segment in truth.segments]
    assert {segment.label for segment in segments} == set(range(len(SCENE_CATEGORIES)))
    assert 4 <= sum(segment.iscrowd for segment in segments) <= 30
    void = [float((truth.ids == 0).mean()) for _, truth in scenes]
    assert 0.2 < np.mean([share > 0 for share in void]) < 0.95
    assert np.mean(void) < 0.05
    assert max(void) < 0.3


def test_things_have_many_sizes_and_overlap(scenes: list[Scene]) -> None:
    is_thing = SCENE_CATEGORIES.things
    per_picture = [[s for s in truth.segments if is_thing[s.label] and not s.iscrowd] for _, truth in scenes]
    counts, areas = [len(things) for things in per_picture], [s.area for things in per_picture for s in things]
    assert max(counts) >= 6
    assert max(counts) <= SceneConfig().things[1]
    assert min(areas) < 100
    assert max(areas) > 20 * min(areas)
    assert max(areas) > 1500
    assert 3 < np.mean(counts) < 6


def test_crowd_chance_void_chance_and_thing_counts_are_followed() -> None:
    always = SceneConfig(crowd_chance=1.0, void_chance=1.0, things=(0, 0))
    never = SceneConfig(crowd_chance=0.0, void_chance=0.0, things=(3, 3), thing_size=(20.0, 30.0))
    for number in range(10):
        _, truth = make_scene(np.random.default_rng(number), always)
        assert [s.iscrowd for s in truth.segments if SCENE_CATEGORIES.things[s.label]] == [True]
        assert (truth.ids == 0).any()
        _, truth = make_scene(np.random.default_rng(number), never)
        things = [s for s in truth.segments if SCENE_CATEGORIES.things[s.label]]
        assert len(things) <= 3
        assert not any(s.iscrowd for s in things)
        assert all(s.area <= 1.2 * 30**2 for s in things)
        assert (truth.ids == 0).mean() < 0.005  # only slivers of stuff


def test_min_visible_leaves_small_things_out() -> None:
    config = SceneConfig(min_visible=400)
    for number in range(10):
        _, truth = make_scene(np.random.default_rng(number), config)
        assert all(s.area >= 400 for s in truth.segments)


def test_other_sizes() -> None:
    picture, truth = make_scene(np.random.default_rng(0), SceneConfig(size=(67, 45), thing_size=(8.0, 90.0)))
    assert picture.shape == (67, 45, 3)
    assert truth.size == (67, 45)


def test_colour_does_not_tell_the_class(scenes: list[Scene]) -> None:
    """The classes' mean colours differ by less than 1.5 standard deviations of each class's own, in each channel."""
    means: dict[int, list[np.ndarray]] = {label: [] for label in range(len(SCENE_CATEGORIES))}
    for picture, truth in scenes:
        for segment in truth.segments:
            means[segment.label].append(picture[truth.mask(segment)].mean(axis=0))
    centres = np.array([np.mean(means[label], axis=0) for label in means])
    spread = np.array([np.std(means[label], axis=0) for label in means]).min(axis=0)
    assert (np.ptp(centres, axis=0) < 1.5 * spread).all()
    assert (spread > 20).all()


def test_things_stand_out(scenes: list[Scene]) -> None:
    """An object's outline is darker than, or otherwise unlike, what lies just outside, for nearly all of them."""
    steps = []
    for picture, truth in scenes[:40]:
        gray = picture.astype(np.float64)
        for segment in truth.segments:
            if SCENE_CATEGORIES.things[segment.label] and segment.area > 100:
                edge = truth.mask(segment)[:, 1:] != truth.mask(segment)[:, :-1]
                steps.append(np.abs(np.diff(gray, axis=1)).sum(axis=2)[edge].mean())
    assert np.mean(np.array(steps) > 30) > 0.9


def test_a_generator_state_gives_one_scene() -> None:
    first, second = make_scene(np.random.default_rng(3)), make_scene(np.random.default_rng(3))
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1].ids, second[1].ids)
    assert first[1].segments == second[1].segments
    assert not np.array_equal(first[0], make_scene(np.random.default_rng(4))[0])


def test_polygon_distance() -> None:
    square = ((-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0))
    x, y = np.array([[0, 0.5, 1.5, 2, -2]], dtype=np.float32), np.array([[0, 0, 0, 2, -0.5]], dtype=np.float32)
    np.testing.assert_allclose(_polygon(x, y, square), [[-1, -0.5, 0.5, 2**0.5, 1]], rtol=1e-6)


def test_files_are_read_back(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    folder = make_scenes(tmp_path / "made", 3, 2, seed=5, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(n, 5) for n in range(1, 6)]
    assert sorted(p.name for p in folder.iterdir()) == [
        "panoptic_train", "panoptic_train.json", "panoptic_val", "panoptic_val.json", "train", "val",
    ]  # fmt: skip
    for position, (split, count) in enumerate({"train": 3, "val": 2}.items()):
        data = CocoPanoptic.open(folder, split)
        assert len(data) == count
        assert data.categories == SCENE_CATEGORIES
        for index in range(count):
            picture, truth = make_scene(np.random.default_rng((5, position, index + 1)))
            read = data.panoptic(index)
            np.testing.assert_array_equal(read.ids, truth.ids)
            assert {(s.id, s.label, s.area, s.iscrowd) for s in read.segments} == {
                (s.id, s.label, s.area, s.iscrowd) for s in truth.segments
            }
            assert np.abs(data.picture(index).astype(int) - picture).mean() < 8  # JPEG


def test_a_seed_gives_the_same_files_and_splits_differ(tmp_path: Path) -> None:
    first = contents(make_scenes(tmp_path / "a", 2, 2, seed=1))
    assert first == contents(make_scenes(tmp_path / "b", 2, 2, seed=1))
    other = contents(make_scenes(tmp_path / "c", 2, 2, seed=2))
    pictures = [files[f"{split}/{n:04d}.jpg"] for files in (first, other) for split in ("train", "val") for n in (1, 2)]
    assert len(set(pictures)) == 8


def test_a_folder_in_use_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"not empty.*--overwrite"):
        make_scenes(tmp_path, 1, 1)
    assert contents(tmp_path) == {"notes.txt": b"mine"}
    with pytest.raises(InputError, match="is a file"):
        make_scenes(tmp_path / "notes.txt", 1, 1)


def test_overwrite_replaces_the_data_set_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    make_scenes(tmp_path, 4, 2, overwrite=True)
    make_scenes(tmp_path, 2, 1, seed=1, overwrite=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert len(list((tmp_path / "train").iterdir())) == len(list((tmp_path / "panoptic_train").iterdir())) == 2
    assert len(json.loads((tmp_path / "panoptic_train.json").read_text())["images"]) == 2


def test_failing_midway_leaves_the_old_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_scenes(tmp_path, 1, 1)
    before, real = contents(tmp_path), os.replace

    def failing(source: Path, target: Path) -> None:
        # The last of the moves into place: the val pictures.
        if Path(target) == tmp_path / "val" and Path(source).parent.name == "new":
            raise OSError("in use")
        real(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(OSError, match="in use"):
        make_scenes(tmp_path, 2, 2, seed=9, overwrite=True)
    assert contents(tmp_path) == before


def test_stopping_while_drawing_leaves_nothing_half_made(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_scenes(tmp_path / "made", 2, 2, progress=stop)
    assert contents(tmp_path) == {}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("size", (16, 160)),
        ("things", (5, 2)),
        ("thing_size", (2.0, 40.0)),
        ("crowd_chance", 1.5),
        ("void_chance", -0.1),
        ("min_visible", 0),
    ],
)
def test_settings_that_cannot_be_drawn_are_refused(field: str, value: object) -> None:
    with pytest.raises(InputError, match=field):
        SceneConfig(**{field: value})


def test_counts_and_seed_are_checked(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="val=0"):
        make_scenes(tmp_path / "made", 1, 0)
    with pytest.raises(InputError, match="seed=-1"):
        make_scenes(tmp_path / "made", 1, 1, seed=-1)
    assert not (tmp_path / "made").exists()
