"""What page and figures draw alike: levels and PNGs that hold the numbers, even scales, places on a canvas."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from made_walk import CAT, COVERED, FRAME, ODD, SKY, made_result, with_covered
from thingstuff.colour_scales import AMOUNTS, LEVELS, SIGNED
from thingstuff.drawing import colour_map
from thingstuff.panoptic import Panoptic
from thingstuff.structures import Frame
from thingstuff.view_pictures import (
    NO_NUMBER,
    attention_atlas,
    averaged,
    bounded,
    drawn_marks,
    group_order,
    indexed_png,
    levels_of,
    lost_marks,
    middles,
    not_finite,
    number,
    places_on_canvas,
    places_png,
    segment_colours,
    view_levels,
)
from thingstuff.walk import MapView, Mark, MarksView


def lightness(colours: np.ndarray) -> np.ndarray:
    """L of OKLab (Ottosson 2020)."""
    share = colours / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    to_lms = np.array(
        [
            [0.4122214708, 0.5363325363, 0.0514459929],
            [0.2119034982, 0.6806995451, 0.1073969566],
            [0.0883024619, 0.2817188376, 0.6299787005],
        ]
    )
    return np.cbrt(linear @ to_lms.T) @ np.array([0.2104542553, 0.793617785, -0.0040720468])


def test_amounts_rise_evenly_from_dark_to_light() -> None:
    rise = np.diff(lightness(AMOUNTS)[:: LEVELS // 10])
    assert rise.min() > 0.5 * rise.max()
    assert lightness(AMOUNTS)[0] < 0.25
    assert lightness(AMOUNTS)[-1] > 0.9


def test_signed_colours_part_at_a_grey_in_the_middle() -> None:
    light, middle = lightness(SIGNED), LEVELS // 2
    assert np.ptp(SIGNED[middle].astype(int)) <= 3
    assert light.argmax() == pytest.approx(middle, abs=2)
    assert (np.diff(light[:middle:8]) > 0).all()
    assert (np.diff(light[middle::8]) < 0).all()
    assert SIGNED[0, 2] > SIGNED[0, 0] + 80, "blue, which stays apart from brown in any eye"
    assert SIGNED[-1, 0] > SIGNED[-1, 2] + 80


@pytest.mark.parametrize("scale", [AMOUNTS, SIGNED])
def test_each_level_has_a_colour_of_its_own(scale: np.ndarray) -> None:
    assert len({tuple(colour) for colour in scale.tolist()}) == LEVELS


def test_levels_reach_from_low_to_high() -> None:
    values = np.array([[-5, 0, 0.5, 1, 7]], dtype=np.float32)
    assert levels_of(values, 0.0, 1.0, signed=False).indices.tolist() == [[0, 0, 127, 254, 254]]
    assert levels_of(values, 3.0, 3.0, signed=True).indices.tolist() == [[127] * 5]
    signed = view_levels(MapView(title="t", values=values, unit="", signed=True))
    assert (signed.low, signed.high, signed.indices[0, 1]) == (-7, 7, 127)
    assert view_levels(MapView(title="t", values=values, unit="", low=-1.0)).low == -1


def test_what_is_not_finite_is_black_and_has_no_say_in_the_scale() -> None:
    values = np.array([[np.nan, 1, 3, np.inf, -np.inf]], dtype=np.float32)
    for view in (
        MapView(title="t", values=values, unit=""),
        MapView(title="t", values=values, unit="", low=float("nan"), high=float("inf")),
    ):
        levels = view_levels(view)
        assert (levels.low, levels.high) == (1, 3)
        assert levels.indices.tolist() == [[NO_NUMBER, 0, 254, NO_NUMBER, NO_NUMBER]]
        assert [colour.any() for colour in levels.colours[0]] == [False, True, True, False, False]
    nothing = view_levels(MapView(title="t", values=np.full((2, 2), np.nan, dtype=np.float32), unit="", signed=True))
    assert (nothing.low, nothing.high, nothing.colours.any()) == (0, 0, False)
    assert not_finite(values) == "Not finite: 3 of 5 numbers, drawn black."
    assert not_finite(values[:, 1:3]) == ""
    large = np.array([[-3e38, 0, 3e38]], dtype=np.float32)
    assert view_levels(MapView(title="t", values=large, unit="")).indices.tolist() == [[0, 127, 254]]


def test_marks_without_a_place_are_left_out_and_told() -> None:
    marks = tuple(Mark((1.0, 2.0, x, 4.0), "", (0, 0, 0)) for x in (3.0, float("nan"), float("inf")))
    view = MarksView(title="t", marks=marks)
    assert drawn_marks(view) == [marks[0]]
    assert lost_marks(view) == "Not drawn: 2 of 3, whose coordinates are not finite."
    assert lost_marks(MarksView(title="t", marks=marks[:1])) == ""


@pytest.mark.parametrize("palette", [None, AMOUNTS])
def test_a_png_holds_exactly_its_indices(palette: np.ndarray | None) -> None:
    draw = np.random.default_rng(0)
    smooth = np.add.outer(np.arange(40), np.arange(30)).astype(np.uint8)
    for indices in (smooth, draw.integers(0, LEVELS, (7, 5)).astype(np.uint8), np.zeros((1, 1), np.uint8)):
        image = Image.open(BytesIO(indexed_png(indices, palette)))
        assert np.array_equal(np.asarray(image), indices)
        if palette is not None:
            assert np.array_equal(np.asarray(image.convert("RGB")), palette[indices])
    assert len(indexed_png(smooth)) < smooth.size / 5


def test_averaging_keeps_the_mean_and_the_sides_ratio() -> None:
    values = np.random.default_rng(0).random((40, 60), dtype=np.float32)
    assert averaged(values, (20, 30)).mean() == pytest.approx(values.mean(), abs=1e-4)
    assert averaged(values, (20, 30))[0, 0] == pytest.approx(values[:2, :2].mean(), abs=1e-5)
    assert bounded((40, 60), 2400) == (40, 60)
    assert bounded((40, 60), 600) == (20, 30)
    assert bounded((1, 900), 100)[0] == 1


def test_an_atlas_has_each_cell_s_map_at_its_place() -> None:
    maps = np.random.default_rng(0).random((6, 4, 5), dtype=np.float32)
    atlas = attention_atlas(maps, (2, 3), 10_000)
    assert atlas.tiles.shape == (8, 15)
    for cell in range(6):
        row, column = divmod(cell, 3)
        tile = atlas.tiles[row * 4 : row * 4 + 4, column * 5 : column * 5 + 5]
        assert atlas.largest[cell] == pytest.approx(maps[cell].max())
        assert np.abs(tile / 255 * atlas.largest[cell] - maps[cell]).max() < 0.003
    small = attention_atlas(maps, (2, 3), 30)
    assert small.tiles.size <= 30
    assert len(small.largest) == small.grid[0] * small.grid[1]


def test_an_atlas_takes_what_is_not_finite_for_nothing() -> None:
    maps = np.ones((2, 2, 2), dtype=np.float32)
    maps[0], maps[1, 0, 0] = np.nan, np.inf
    atlas = attention_atlas(maps, (1, 2), 100)
    assert atlas.largest == (0, 1)
    assert atlas.tiles.tolist() == [[0, 0, 0, 255], [0, 0, 255, 255]]


def test_segments_lie_on_the_canvas_where_they_lie_in_the_picture() -> None:
    result = made_result()
    places = places_on_canvas(result, FRAME)
    assert places.shape == FRAME.canvas
    expected = np.zeros(FRAME.canvas, dtype=int)
    for place, i in enumerate((SKY, CAT, ODD), start=1):
        expected[:60, :80][result.ids == i] = place
    assert np.array_equal(places, expected)
    read = np.asarray(Image.open(BytesIO(places_png(places + 300))))
    assert np.array_equal(read[..., 0] + 256 * read[..., 1].astype(int), places + 300)
    # twice as large in the network as in the picture, and more than is clicked on
    large = places_on_canvas(result, Frame(canvas=(640, 1280), size=(600, 800), original=(60, 80)))
    assert large.shape == (320, 640)
    assert np.array_equal(large[2:300:5, 2:400:5], expected[:60, :80])
    assert not large[300:].any()


def test_the_middle_of_a_segment_lies_on_it() -> None:
    ids = np.zeros((60, 80), dtype=np.int32)
    ids[10:50, 10:50] = CAT
    ids[12:48, 12:60] = 0  # a frame that is open at the right: its centre is not on it
    result = made_result()
    (cat,) = [s for s in result.segments if s.id == CAT]
    x, y = middles(Panoptic(ids, (cat,), result.categories), FRAME)[CAT]
    assert ids[int(y * 64), int(x * 96)] == CAT


def test_colours_are_those_of_the_drawn_map() -> None:
    result = made_result()
    drawn = colour_map(result)
    for segment in result.segments:
        assert segment_colours(result)[segment.id] == tuple(drawn[result.ids == segment.id][0])


def test_a_segment_without_a_pixel_has_a_colour_and_no_middle() -> None:
    result = with_covered(made_result())
    assert COVERED not in middles(result, FRAME)
    assert segment_colours(result)[COVERED] not in [segment_colours(made_result())[i] for i in (SKY, CAT, ODD)]
    assert len(middles(result, FRAME)) == 3


def test_rows_of_a_group_stand_together() -> None:
    assert group_order((4, 1, 4, 0, 1)) == [0, 2, 1, 4, 3]
    assert group_order(()) == []


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (-0.0, "0"),
        (0.12345, "0.123"),
        (-3.0, "−3"),
        (1234.6, "1,235"),
        (0.00001, "1 · 10⁻⁵"),
        (float("nan"), "not a number"),
        (float("-inf"), "−∞"),
    ],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert number(value) == text
