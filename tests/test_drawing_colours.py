"""Colours of drawn maps: fixed per class, shades that can be told apart, void and crowds that no class looks like."""

import subprocess
import sys
from itertools import combinations

import numpy as np
import pytest

from drawn_maps import CATEGORIES, two_cups
from test_error_pictures import lab
from thingstuff.coco_categories import COCO_PANOPTIC
from thingstuff.drawing import colour_map, overlay
from thingstuff.drawing_colours import SHADES, shade
from thingstuff.panoptic import Categories, Color, Panoptic, Segment, default_colors

COLORS = [(0, 0, 0), (255, 255, 255), (128, 128, 128), (255, 255, 0), (0, 0, 255), (220, 20, 60)]


def instances(color: Color, count: int) -> Panoptic:
    """A row of so many cups of a pixel each."""
    ids = np.arange(1, count + 1, dtype=np.int32)[None]
    segments = tuple(Segment(i, 0, 1) for i in range(1, count + 1))
    return Panoptic(ids, segments, Categories(("cup",), (True,), (1,), (color,)))


@pytest.mark.parametrize("color", [*COLORS, *default_colors(12)])
def test_instances_of_a_class_can_be_told_apart(color):
    shades = [tuple(c) for c in colour_map(instances(color, SHADES))[0].tolist()]
    assert SHADES >= 35
    assert shades[0] == color, "the first has the class's own colour"
    seen = [lab(c, "full") for c in shades]
    assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) > 6, "2.3 is just noticeable"
    assert min(np.linalg.norm(a - b) for a, b in combinations(seen[:8], 2)) > 15
    over_grey = [lab(tuple(0.55 * np.array(c) + 0.45 * 128), "full") for c in shades]
    assert min(np.linalg.norm(a - b) for a, b in combinations(over_grey, 2)) > 3.5


@pytest.mark.parametrize("color", [(220, 20, 60), (40, 90, 200), (60, 160, 60), (242, 104, 85)])
def test_a_shade_keeps_its_class_s_hue(color):
    def hue(c: Color) -> np.ndarray:
        _, a, b = lab(c, "full")
        return np.array([a, b]) / np.hypot(a, b)

    assert min(hue(color) @ hue(shade(color, turn)) for turn in range(SHADES)) > np.cos(np.radians(32))


def test_shades_begin_again_after_the_last():
    colors = colour_map(instances((220, 20, 60), SHADES + 2))[0].tolist()
    assert colors[SHADES:] == colors[:2]
    assert len({tuple(c) for c in colors}) == SHADES


def test_a_class_has_the_same_colours_in_every_picture_and_process():
    categories = COCO_PANOPTIC
    person, wall = categories.names.index("person"), categories.names.index("wall-brick")
    ids = np.array([[3, 8, 9, 9]], dtype=np.int32)
    one = Panoptic(ids, (Segment(3, person, 1), Segment(8, wall, 1), Segment(9, person, 2)), categories)
    other = Panoptic(ids[:, ::-1], (Segment(9, person, 1), Segment(3, wall, 1), Segment(8, person, 1)), categories)
    first, second = colour_map(one)[0], colour_map(other)[0]
    assert first[0].tolist() == second[0].tolist() == list(categories.colors[person])
    assert first[1].tolist() == second[3].tolist() == list(categories.colors[wall])
    assert first[2].tolist() == second[2].tolist() == list(shade(categories.colors[person], 1))
    code = f"from thingstuff.drawing_colours import shade; print([shade({COLORS[-1]}, turn) for turn in range(35)])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str([shade(COLORS[-1], turn) for turn in range(35)])


@pytest.mark.parametrize("level", [0, 90, 160, 255])
def test_void_is_striped_grey_on_every_picture(level):
    picture = np.full((120, 160, 3), (level, level, level // 2), dtype=np.uint8)
    void = np.array(overlay(two_cups(), picture, labels=False, borders=False))[109:].astype(int)
    assert (void == void[..., :1]).all(), "grey"
    levels, counts = np.unique(void, return_counts=True)
    assert len(levels) == 2
    assert levels[1] - levels[0] > 50, "stripes show on black and on white"
    assert 0.8 < counts[0] / counts[1] < 1.25
    assert (void[:-1, 1:] == void[1:, :-1]).all(), "they run diagonally"


def test_void_shows_what_is_below():
    picture = np.zeros((120, 160, 3), dtype=np.uint8)
    picture[:, 80:] = 255
    void = np.array(overlay(two_cups(), picture, alpha=1.0, labels=False, borders=False))[109:, :, 0].astype(int)
    assert void[:, 80:].min() > void[:, :80].min() + 50
    assert void[:, 80:].max() > void[:, :80].max() + 50


@pytest.mark.parametrize(("color", "dot"), [((20, 40, 90), 255), ((230, 220, 200), 0)])
def test_crowds_are_dotted_and_nothing_else_is(color, dot):
    categories = Categories(("cup", "table"), (True, False), (1, 2), (color, (150, 120, 60)))
    ids = np.ones((60, 120), dtype=np.int32)
    ids[:, 60:] = 2
    crowd = Panoptic(ids, (Segment(1, 0, 1, iscrowd=True), Segment(2, 1, 1)), categories)
    drawn = np.array(crowd.draw(labels=False, borders=False))
    dots = (drawn == dot).all(axis=2)
    assert 0.02 < dots[:, :60].mean() < 0.1
    assert not dots[:, 60:].any()
    assert (drawn[~dots] == colour_map(crowd)[~dots]).all()
    single = Panoptic(ids, (Segment(1, 0, 1), Segment(2, 1, 1)), categories)
    assert not (np.array(single.draw(labels=False, borders=False)) == dot).all(axis=2).any()


def test_a_map_without_segments_is_void_alone():
    drawn = np.array(Panoptic(np.zeros((40, 60), dtype=np.int32), (), CATEGORIES).draw())
    assert len(np.unique(drawn)) == 2
