"""How errors are drawn: a colour a cause, truths filled, predictions striped, the rest dimmed; what is refused."""

from itertools import combinations

import numpy as np
import pytest

import error_scene
from error_scene import SCALE, errors, prediction, truth
from thingstuff import drawing_labels
from thingstuff.error_pictures import CAUSE_COLOURS, error_overlay
from thingstuff.errors import InputError
from thingstuff.evaluation.causes import CAUSES, SegmentError
from thingstuff.panoptic import Categories, Panoptic, Segment

# Linear RGB as seen without one kind of cone: Machado, Oliveira and Fernandes 2009, severity 1.
SIGHTS = {
    "full": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": ((0.1523, 1.0526, -0.2049), (0.1145, 0.7863, 0.0992), (-0.0039, -0.0481, 1.0520)),
    "deuteranopia": ((0.3673, 0.8606, -0.2280), (0.2801, 0.6725, 0.0474), (-0.0118, 0.0429, 0.9689)),
    "tritanopia": ((1.2555, -0.0767, -0.1788), (-0.0784, 0.9308, 0.1476), (0.0047, 0.6914, 0.3039)),
}
TO_XYZ = np.array(((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505)))


def lab(color: tuple[int, int, int], sight: str) -> np.ndarray:
    """CIELAB (D65) of an sRGB colour as someone sees it."""
    c = np.array(color) / 255
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    xyz = TO_XYZ @ (np.array(SIGHTS[sight]) @ linear).clip(0, 1) / TO_XYZ.sum(1)
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array((116 * y - 16, 500 * (x - y), 200 * (y - z)))


@pytest.fixture
def nameless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thingstuff.error_pictures.write_labels", lambda *_, **__: [])


def square(image: np.ndarray, row: int, column: int) -> np.ndarray:
    """The pixels of one letter of the scene, without what is near its rim."""
    return image[row * SCALE + 6 : (row + 1) * SCALE - 6, column * SCALE + 6 : (column + 1) * SCALE - 6].astype(int)


def test_every_cause_has_its_colour():
    assert tuple(CAUSE_COLOURS) == CAUSES


@pytest.mark.parametrize("sight", SIGHTS)
def test_colours_of_causes_stay_apart(sight):
    labs = [lab(color, sight) for color in CAUSE_COLOURS.values()]
    assert min(np.linalg.norm(a - b) for a, b in combinations(labs, 2)) > 28


@pytest.mark.usefixtures("nameless")
def test_ground_truth_is_filled_and_prediction_striped():
    image = np.array(error_overlay(error_scene.picture(), truth(), prediction(), errors()))
    assert image.shape == (6 * SCALE, 12 * SCALE, 3)
    grey = square(image, 2, 8)[0, 0]
    assert len(set(grey)) == 1
    assert (square(image, 2, 8) == grey).all()  # s matches S
    missed = square(image, 5, 2)
    expected = 0.65 * np.array(CAUSE_COLOURS["missed"]) + 0.35 * grey
    assert np.abs(missed - expected).max() <= 1
    false = square(image, 5, 10).reshape(-1, 3)
    colours, counts = np.unique(false, axis=0, return_counts=True)
    assert {tuple(c) for c in colours.tolist()} == {tuple(grey.tolist()), CAUSE_COLOURS["false"]}
    assert 0.3 < counts[colours.tolist().index(list(CAUSE_COLOURS["false"]))] / len(false) < 0.5


@pytest.mark.usefixtures("nameless")
def test_where_both_lie_both_are_seen():
    image = np.array(error_overlay(None, truth(), prediction(), errors()))
    for row, cause in ((0, "split"), (1, "merged"), (2, "wrong class")):
        colours = {tuple(c) for c in np.unique(square(image, row, 1).reshape(-1, 3), axis=0).tolist()}
        assert len(colours) == 2, cause  # the fill and, on it, the stripes
        assert CAUSE_COLOURS[cause] in colours
    poor = {tuple(c) for c in np.unique(square(image, 3, 4).reshape(-1, 3), axis=0).tolist()}
    assert len(poor) == 1, "e alone lies here"
    duplicate = np.unique(square(image, 4, 4).reshape(-1, 3), axis=0)
    assert sorted(duplicate.tolist()) == sorted([list(CAUSE_COLOURS["duplicate"]), [70, 70, 70]]), "f is matched"


@pytest.mark.usefixtures("nameless")
def test_borders_are_solid_for_truths_and_dashed_for_predictions():
    image = np.array(error_overlay(None, truth(), prediction(), errors())).astype(int)
    solid = image[5 * SCALE + 10 : 6 * SCALE - 10, 6 * SCALE - 2]  # the right end of g
    assert (solid == CAUSE_COLOURS["missed"]).all()
    dashed = image[5 * SCALE, 10 * SCALE + 8 : 12 * SCALE - 8]  # the upper end of H
    assert {tuple(c) for c in np.unique(dashed, axis=0).tolist()} == {CAUSE_COLOURS["false"], (255, 255, 255)}


def test_labels_name_cause_and_class(monkeypatch):
    texts = []
    text = drawing_labels.ImageDraw.ImageDraw.text

    def text_seen(self, place, value, **rest):
        texts.append(value)
        return text(self, place, value, **rest)

    monkeypatch.setattr(drawing_labels.ImageDraw.ImageDraw, "text", text_seen)
    error_overlay(None, truth(), prediction(), errors())
    expected = ["missed: car", "wrong class: car as dog", "split: dog", "poor mask: dog", "merged: dog", "merged: dog"]
    assert sorted(texts) == sorted([*expected, "duplicate: dog", "false: dog"])


def test_the_same_errors_give_the_same_picture():
    one, two = (error_overlay(error_scene.picture(), truth(), prediction(), errors()) for _ in range(2))
    assert one.tobytes() == two.tobytes()


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (2, 3)])
def test_maps_of_any_shape_are_drawn(shape):
    categories = Categories(("cup",), (True,), (1,))
    one = Panoptic(np.ones(shape, dtype=np.int32), (Segment(1, 0, shape[0] * shape[1]),), categories)
    none = Panoptic(np.zeros(shape, dtype=np.int32), (), categories)
    missed = SegmentError("missed", 1, True, 1, shape[0] * shape[1], (), 0.0)
    assert error_overlay(None, one, none, (missed,)).size == shape[::-1]
    assert error_overlay(None, none, one, (missed._replace(cause="false", is_truth=False),)).size == shape[::-1]


def test_a_segment_without_a_pixel_is_no_trouble():
    """A map drawn smaller may lose its smallest segments."""
    given = truth()
    lost = Panoptic(given.ids, (*given.segments, Segment(9, 0, 0)), given.categories)
    error = SegmentError("missed", 9, True, 18, 1, (), 0.0)
    with_it, without = (error_overlay(None, lost, prediction(), e).tobytes() for e in ((error,), ()))
    assert with_it == without


def test_what_does_not_belong_together_is_refused():
    with pytest.raises(InputError, match="the ground truth has no segment 5; give the errors of these two maps"):
        error_overlay(None, truth(), prediction(), (SegmentError("missed", 5, True, 18, 1, (), 0.0),))
    with pytest.raises(InputError, match="the prediction has no segment 97"):
        error_overlay(None, truth(), prediction(), (SegmentError("false", ord("a"), False, 18, 1, (), 0.0),))
    with pytest.raises(InputError, match="two maps of one picture"):
        error_overlay(None, truth(), prediction(20), ())
    with pytest.raises(InputError, match="10 x 10 pixels, its map 480 x 240"):
        error_overlay(np.zeros((10, 10, 3), dtype=np.uint8), truth(), prediction(), ())


def test_letters_are_as_high_as_asked(monkeypatch: pytest.MonkeyPatch):
    missed = errors()[:1]
    with monkeypatch.context() as patched:
        patched.setattr("thingstuff.error_pictures.write_labels", lambda *_, **__: [])
        bare = np.array(error_overlay(None, truth(), prediction(), missed))

    def lettered(letters: int | None) -> int:
        drawn = np.array(error_overlay(None, truth(), prediction(), missed, letters))
        return int((drawn != bare).any(axis=(1, 2)).sum())  # rows

    assert 0 < lettered(12) < lettered(20) < lettered(32)
    assert lettered(None) == lettered(drawing_labels.letter_size(truth().size))
