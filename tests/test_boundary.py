"""Boundary PQ by hand, and against erosion mask by mask."""

import numpy as np
import pytest
from scipy.ndimage import binary_erosion

from thingstuff.evaluation import boundary
from thingstuff.evaluation.boundary import boundary_map, boundary_matches, boundary_width
from thingstuff.evaluation.counting import overlaps
from thingstuff.evaluation.pairs import compare_maps
from thingstuff.evaluation.segments import Match, PictureMatches, ScoredPicture, TruthSegment, match_segments
from thingstuff.loops import compiled_loops
from thingstuff.panoptic import Categories, Panoptic, Segment

CATEGORIES = Categories(("cat", "car", "sky"), (True, True, False), (17, 3, 187))


@pytest.fixture(params=["loops", "arrays"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take each of the two ways to find the interior: compiled loops, which are the faster one, and numpy."""
    used = compiled_loops(10_000) if request.param == "loops" else None
    monkeypatch.setattr(boundary, "compiled_loops", lambda: used)


def panoptic(ids: np.ndarray, label: int = 0) -> Panoptic:
    """Make every id of a map a segment of one class."""
    values, areas = np.unique(ids[ids > 0], return_counts=True)
    segments = (Segment(int(v), label, int(n)) for v, n in zip(values, areas, strict=True))
    return Panoptic(ids, tuple(segments), CATEGORIES)


def compared(truth: Panoptic, prediction: Panoptic) -> ScoredPicture:
    return compare_maps(truth, prediction, 1, CATEGORIES, boundary=True)


def outlines(truth: Panoptic, prediction: Panoptic) -> PictureMatches:
    found = compared(truth, prediction).boundary
    assert found is not None
    return found


# By hand


@pytest.mark.parametrize(
    ("size", "width"),
    [((480, 640), 16), ((1, 1), 1), ((1, 640), 13), ((21, 72), 2), ((35, 120), 2), ((0, 0), 1)],
)
def test_width_is_two_percent_of_the_diagonal(size: tuple[int, int], width: int) -> None:
    assert boundary_width(size) == width


def test_boundary_of_a_square() -> None:
    ids = np.zeros((9, 9), np.int32)
    ids[1:8, 1:8] = 5
    kept = ids.copy()
    kept[3:6, 3:6] = 99
    assert (boundary_map(ids, 2, 99) == kept).all()


def test_the_rim_is_a_boundary() -> None:
    kept = np.full((5, 7), 5, np.int32)
    kept[1:4, 1:6] = 9
    assert (boundary_map(np.full((5, 7), 5, np.int32), 1, 9) == kept).all()


def test_a_shifted_square_keeps_its_mask_and_loses_its_boundary() -> None:
    # width 1 in 30 x 30: a square of 20 x 20 has 76 pixels of boundary
    truth, prediction = np.full((30, 30), 2, np.int32), np.full((30, 30), 2, np.int32)
    truth[4:24, 4:24], prediction[4:24, 5:25] = 1, 1
    picture = compared(panoptic(truth), panoptic(prediction))
    (square, ground) = picture.matches.matched
    assert square.iou == 380 / 420
    # the rows above and below share 19 pixels each, the columns none
    assert 38 / (76 + 76 - 38) < 0.5
    assert picture.boundary is not None
    assert {m.truth_id for m in picture.boundary.matched} == {2}
    (found,) = picture.boundary.matched
    # the ground's boundary: the rim's 116 pixels and a ring of 22 x 22 around the square, which share two rows of 21
    rim, ring = 116, 84
    common = rim + 2 * 21
    assert found.iou == min(ground.iou, common / (2 * (rim + ring) - common))
    assert picture.boundary.missed == {1: 17}
    assert picture.boundary.false == {1: 17}


def test_void_pixels_are_left_out_of_both_unions() -> None:
    truth = np.zeros((12, 12), np.int32)
    truth[2:10, 2:6] = 1
    prediction = np.zeros((12, 12), np.int32)
    prediction[2:10, 2:10] = 1
    # boundaries: 20 pixels of the truth; 28 of the prediction, 14 of them in void, 14 on the truth's
    (found,) = outlines(panoptic(truth), panoptic(prediction)).matched
    assert found == Match(1, 1, 17, 14 / (20 + 28 - 14 - 14))


def test_a_match_lost_by_its_boundary_may_be_ignored() -> None:
    truth = np.zeros((40, 40), np.int32)
    truth[10:24, 10:24] = 1
    truth[11:23, 11:23] = 0  # a frame of 52 pixels around void
    truth[16, 10:24] = 1
    prediction = np.zeros((40, 40), np.int32)
    prediction[6:28, 6:28] = 1
    picture = compared(panoptic(truth), panoptic(prediction))
    assert [m.iou for m in picture.matches.matched] == [1.0]
    assert picture.boundary == PictureMatches((), {1: 17}, {}, {1: 17})


def test_without_boundary_nothing_is_added() -> None:
    truth = panoptic(np.ones((4, 4), np.int32))
    assert compare_maps(truth, truth, 1, CATEGORIES).boundary is None


# Against erosion mask by mask


def random_ids(rng: np.random.Generator, size: tuple[int, int], largest: int) -> np.ndarray:
    ids = np.zeros(size, np.int32)
    for value in rng.integers(1, largest, 9):
        y, x = rng.integers(0, size[0]), rng.integers(0, size[1])
        ids[y : y + rng.integers(1, 1 + size[0]), x : x + rng.integers(1, 1 + size[1])] = value
    return ids


def outline(mask: np.ndarray, width: int) -> np.ndarray:
    eroded = binary_erosion(mask, np.ones((3, 3), bool), iterations=width, border_value=0)
    return mask & ~eroded


SIZES = [(1, 1), (1, 40), (40, 1), (3, 2), (17, 31), (60, 45), (100, 130)]


@pytest.mark.parametrize("size", SIZES)
def test_boundary_map_is_erosion_of_every_mask(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(size)
    interiors = 0
    for width in (1, 2, 3, 7, 200):
        ids = random_ids(rng, size, largest=2**24)
        expected = ids.copy()
        for value in np.unique(ids[ids > 0]):
            mask = ids == value
            expected[mask & ~outline(mask, width)] = 2**24
        assert (boundary_map(ids, width, 2**24) == expected).all()
        interiors += int((expected == 2**24).sum())
    assert interiors > 0 or min(size) < 3, "the scenes must have an interior"


def near(rng: np.random.Generator, ids: np.ndarray) -> np.ndarray:
    """Shift a map and repaint a part of it."""
    moved = np.roll(ids, tuple(rng.integers(-1, 2, 2)), (0, 1)).copy()
    height, width = ids.shape
    y, x = rng.integers(0, height), rng.integers(0, width)
    moved[y : y + rng.integers(1, 2 + height // 4), x : x + rng.integers(1, 2 + width // 4)] = rng.integers(0, 12)
    return moved


Scene = tuple[np.ndarray, np.ndarray, dict[int, TruthSegment], dict[int, int]]


def random_scene(rng: np.random.Generator, size: tuple[int, int]) -> Scene:
    """Make two maps and their segments; small ids, so that the two sides and the interior's id could be mixed up."""
    truth = random_ids(rng, size, largest=12)
    prediction = near(rng, truth)
    category = {int(v): int(rng.choice(CATEGORIES.ids)) for v in range(1, 12)}
    truths = {
        int(v): TruthSegment(category[int(v)], int((truth == v).sum()), bool(rng.random() < 0.2))
        for v in rng.permutation(np.unique(truth[truth > 0]))
    }
    other = {v: c if rng.random() < 0.9 else int(rng.choice(CATEGORIES.ids)) for v, c in category.items()}
    return truth, prediction, truths, {int(v): other[int(v)] for v in np.unique(prediction[prediction > 0])}


def slow_matches(scene: Scene) -> PictureMatches:
    """Boundary PQ's matching with one mask after the other and no shared code."""
    truth, prediction, truths, predictions = scene
    width = max(1, int(np.round(0.02 * np.sqrt(truth.shape[0] ** 2 + truth.shape[1] ** 2))))
    void = truth == 0

    def iou(one: np.ndarray, other: np.ndarray) -> float:
        return float((one & other).sum() / ((one | other) & ~(void & other & ~one)).sum())

    matched = []
    for t in sorted(i for i in truths if not truths[i].iscrowd):
        for p in sorted(i for i in predictions if predictions[i] == truths[t].category_id):
            one, other = truth == t, prediction == p
            both = min(iou(one, other), iou(outline(one, width), outline(other, width)))
            if both > 0.5:
                matched.append(Match(t, p, predictions[p], both))
    missed = {i: t.category_id for i, t in truths.items() if not t.iscrowd and i not in {m.truth_id for m in matched}}
    false, ignored = {}, {}
    crowds = {t.category_id: i for i, t in truths.items() if t.iscrowd}
    for p, category in predictions.items():
        if p in {m.prediction_id for m in matched}:
            continue
        excused = void | (truth == crowds[category]) if category in crowds else void
        of_mask = excused[prediction == p]
        (ignored if of_mask.mean() > 0.5 else false)[p] = category
    return PictureMatches(tuple(matched), missed, false, ignored)


@pytest.mark.parametrize("size", SIZES)
def test_equal_to_a_slow_count(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(size)
    kept = lost = 0
    for _ in range(20):
        scene = random_scene(rng, size)
        truth, prediction, truths, predictions = scene
        shared = overlaps(truth, prediction)
        found = boundary_matches(truth, prediction, truths, predictions, shared)
        expected = slow_matches(scene)
        assert found == expected
        assert list(found.ignored) == list(expected.ignored)
        kept += len(found.matched)
        lost += len(match_segments(shared, truths, predictions).matched) - len(found.matched)
    assert kept > 0
    assert lost > 0 or min(size) < 15, "boundaries must decide some matches"
