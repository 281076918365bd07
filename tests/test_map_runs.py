"""Areas, boxes and repainted maps by runs are those by pixels."""

from pathlib import Path

import numpy as np
import pytest

from thingstuff.coco_writing import write_coco_panoptic
from thingstuff.data.coco import CocoPanoptic
from thingstuff.data.map_runs import map_runs
from thingstuff.data.scenes import SceneConfig, make_scenes
from thingstuff.panoptic import Categories, Panoptic, Segment, segment_boxes

CATEGORIES = Categories(("grass", "cat"), (False, True), (3, 8))


@pytest.mark.parametrize("kind", [np.uint8, np.int32])
@pytest.mark.parametrize("seed", range(5))
def test_areas_boxes_and_painted_maps(seed: int, kind: type) -> None:
    random = np.random.default_rng(seed)
    ids = np.kron(random.integers(0, 6, (7, 9)), np.ones((3, 4))).astype(kind) * 40
    runs = map_runs(ids)
    present, areas = np.unique(ids, return_counts=True)
    assert runs.ids.tolist() == present.tolist()
    assert runs.areas().tolist() == areas.tolist()
    by_pixels = [[x, y, x + w, y + h] for x, y, w, h in segment_boxes(ids.astype(np.int32), present.tolist())]
    assert runs.boxes().tolist() == by_pixels
    values = random.permutation(len(present)).astype(np.uint8)
    painted = runs.painted(values)
    assert painted.dtype == np.uint8
    assert np.array_equal(painted, values[np.searchsorted(present, ids)])


def test_a_run_ends_with_its_row() -> None:
    runs = map_runs(np.full((3, 5), 7, np.int32))
    assert runs.starts.tolist() == [0, 5, 10]
    assert runs.boxes().tolist() == [[0, 0, 5, 3]]


def test_a_map_without_pixels() -> None:
    runs = map_runs(np.zeros((0, 4), np.int32))
    assert runs.areas().tolist() == []
    assert runs.boxes().shape == (0, 4)


def test_places_are_positions_in_the_record(tmp_path: Path) -> None:
    folder = make_scenes(tmp_path / "data", 3, 1, config=SceneConfig(size=(48, 64)))
    data = CocoPanoptic.open(folder, "train")
    for index, record in enumerate(data.records):
        ids = [0, *(s.id for s in record.segments)]
        places = data.places(index)
        assert places.dtype == np.uint8
        assert np.array_equal(np.array(ids, np.int32)[places], data.panoptic(index).ids)


@pytest.mark.parametrize(("count", "kind"), [(255, np.uint8), (256, np.int32)])
def test_more_segments_than_a_byte_counts(tmp_path: Path, count: int, kind: type) -> None:
    ids = np.zeros((16, 20), np.int32)
    ids.ravel()[:count] = np.arange(count, 0, -1) * 1000
    segments = tuple(Segment(i * 1000, 1, 1) for i in range(1, count + 1))
    write_coco_panoptic(tmp_path, {"full": Panoptic(ids, segments, CATEGORIES)})
    (tmp_path / "val").mkdir()
    (tmp_path / "panoptic").rename(tmp_path / "panoptic_val")
    (tmp_path / "panoptic.json").rename(tmp_path / "panoptic_val.json")
    places = CocoPanoptic.open(tmp_path, "val").places(0)
    assert places.dtype == kind
    assert np.array_equal(places, ids // 1000)
