"""What is drawn: colours, shades, borders, void, names; and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from drawn_maps import CATEGORIES, crowded, two_cups
from thingstuff import drawing
from thingstuff.drawing import colour_map, overlay, place_runs, resized_map, shown_size
from thingstuff.errors import InputError
from thingstuff.panoptic import Panoptic, Segment


@pytest.fixture
def nameless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "write_names", lambda *_: None)


def test_colours_are_the_classes_and_instances_differ():
    panoptic = two_cups()
    colors = colour_map(panoptic)
    assert colors.dtype == np.uint8
    assert colors.shape == (120, 160, 3)
    assert tuple(colors[30, 30]) == CATEGORIES.colors[0]
    assert tuple(colors[80, 5]) == CATEGORIES.colors[1]
    assert tuple(colors[119, 5]) == (0, 0, 0)
    second = colors[30, 120].astype(int)
    assert tuple(second) != CATEGORIES.colors[0]
    assert second.argmax() == 2  # still blue


def test_stuff_has_one_colour_however_many_segments():
    ids = np.array([[1, 2]], dtype=np.int32)
    colors = colour_map(Panoptic(ids, (Segment(1, 1, 1), Segment(2, 1, 1)), CATEGORIES))
    assert (colors == CATEGORIES.colors[1]).all()


def test_ids_that_no_segment_owns_are_void():
    colors = colour_map(Panoptic(np.array([[9, 1, -4]], dtype=np.int32), (Segment(1, 1, 1),), CATEGORIES))
    assert colors[0].tolist() == [[0, 0, 0], list(CATEGORIES.colors[1]), [0, 0, 0]]


@pytest.mark.usefixtures("nameless")
@pytest.mark.parametrize(("alpha", "share"), [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0)])
def test_alpha_mixes_picture_and_colour(alpha, share):
    picture = np.full((120, 160, 3), 200, dtype=np.uint8)
    image = overlay(two_cups(), picture, alpha=alpha)
    assert (image.mode, image.size) == ("RGB", (160, 120))
    expected = [200 * (1 - share) + c * share for c in CATEGORIES.colors[1]]
    assert np.abs(np.array(image)[80, 5] - np.array(expected)).max() <= 1


@pytest.mark.usefixtures("nameless")
def test_borders_are_white_on_one_side_and_dark_on_the_other():
    image = np.array(overlay(two_cups()))
    left = 160 // 10
    assert (image[40, left - 1] == 255).all()
    assert image[40, left].tolist() == [c // 2 for c in CATEGORIES.colors[0]]
    assert tuple(image[40, left + 1]) == CATEGORIES.colors[0]
    one = Panoptic(np.ones((20, 20), dtype=np.int32), (Segment(1, 1, 400),), CATEGORIES)
    assert (np.array(overlay(one)) == CATEGORIES.colors[1]).all()


@pytest.mark.usefixtures("nameless")
def test_borders_grow_with_the_picture():
    ids = np.ones((4, 2700), dtype=np.int32)
    ids[:, 1350:] = 2
    image = np.array(overlay(Panoptic(ids, (Segment(1, 1, 1), Segment(2, 1, 1)), CATEGORIES)))
    assert np.flatnonzero((image[2] == 255).all(axis=1)).tolist() == [1347, 1348, 1349]


@pytest.mark.parametrize("shape", [(1, 1), (1, 400), (400, 1), (3, 3)])
def test_maps_of_any_shape_are_drawn(shape):
    panoptic = Panoptic(np.ones(shape, dtype=np.int32), (Segment(1, 0, 1, 0.5),), CATEGORIES)
    assert overlay(panoptic).size == shape[::-1]
    assert overlay(Panoptic(np.zeros(shape, dtype=np.int32), (), CATEGORIES)).size == shape[::-1]


def test_the_same_map_gives_the_same_picture():
    assert overlay(two_cups(score=0.5)).tobytes() == overlay(two_cups(score=0.5)).tobytes()


@pytest.mark.usefixtures("nameless")
def test_pictures_may_be_files_images_or_arrays(tmp_path: Path):
    array = np.random.default_rng(1).integers(0, 255, (120, 160, 3)).astype(np.uint8)
    image = Image.fromarray(array)
    image.save(tmp_path / "a.png")
    results = [overlay(two_cups(), p).tobytes() for p in (array, image, tmp_path / "a.png", str(tmp_path / "a.png"))]
    assert len(set(results)) == 1
    grey = overlay(two_cups(), image.convert("L"))
    assert grey.mode == "RGB"


@pytest.mark.usefixtures("nameless")
def test_pictures_are_turned_upright():
    array = np.zeros((160, 120, 3), dtype=np.uint8)
    array[:, :60] = 255
    lying = Image.fromarray(array)
    lying.getexif()[0x0112] = 6
    upright = overlay(two_cups(), lying, alpha=0.0)
    assert upright.size == (160, 120)
    assert upright.getpixel((80, 5)) == (255, 255, 255)


def test_wrong_pictures_are_refused(tmp_path: Path):
    panoptic = two_cups()
    with pytest.raises(InputError, match="100 x 50 pixels, its map 160 x 120"):
        overlay(panoptic, np.zeros((50, 100, 3), dtype=np.uint8))
    with pytest.raises(InputError, match=r"float64 .*give uint8"):
        overlay(panoptic, np.zeros((120, 160, 3)))
    with pytest.raises(InputError, match="give uint8"):
        overlay(panoptic, np.zeros((120, 160), dtype=np.uint8))
    with pytest.raises(InputError, match="8 bits"):
        overlay(panoptic, Image.new("I", (160, 120)))
    with pytest.raises(InputError, match=r"none\.jpg"):
        overlay(panoptic, tmp_path / "none.jpg")
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"broken\.jpg"):
        overlay(panoptic, tmp_path / "broken.jpg")
    Image.new("RGB", (30, 20)).save(tmp_path / "small.png")
    with pytest.raises(InputError, match=r"small\.png"):
        overlay(panoptic, tmp_path / "small.png")
    for alpha in (-0.1, 1.5, float("nan")):
        with pytest.raises(InputError, match="alpha"):
            overlay(panoptic, alpha=alpha)
        with pytest.raises(InputError, match="alpha"):
            panoptic.draw(alpha=alpha)
    with pytest.raises(InputError, match="nothing to draw"):
        overlay(Panoptic(np.zeros((0, 4), dtype=np.int32), (), CATEGORIES))


def test_drawing_passes_on_what_is_chosen():
    picture = np.random.default_rng(2).integers(0, 255, (120, 160, 3)).astype(np.uint8)
    panoptic = two_cups()
    chosen = {"legend": True, "labels": False, "borders": False}
    assert panoptic.draw(picture, alpha=0.3, **chosen).tobytes() == overlay(panoptic, picture, 0.3, **chosen).tobytes()
    assert panoptic.draw(picture).tobytes() == overlay(panoptic, picture).tobytes()


def test_labels_and_borders_can_be_left_out():
    panoptic = two_cups(240, 320)
    flat = np.array(panoptic.draw(labels=False, borders=False))
    known = panoptic.ids > 0
    assert (flat[known] == colour_map(panoptic)[known]).all()
    bordered, lettered = (np.array(panoptic.draw(labels=b, borders=not b)) for b in (False, True))
    assert 0 < (bordered != flat).any(axis=2).mean() < 0.03
    letters = (lettered != flat).any(axis=2)
    assert 0 < letters.mean() < 0.1
    assert not letters[panoptic.ids == 0].any()


def test_borders_fall_where_segments_meet():
    panoptic = crowded(5)
    flat, bordered = (np.array(overlay(panoptic, labels=False, borders=b)) for b in (False, True))
    ids, changed = panoptic.ids, (flat != bordered).any(axis=2)
    meets = np.zeros(ids.shape, dtype=bool)
    across, down = ids[:, 1:] != ids[:, :-1], ids[1:] != ids[:-1]
    for side in (meets[:, 1:], meets[:, :-1]):
        side |= across
    for side in (meets[1:], meets[:-1]):
        side |= down
    assert (changed == meets).all()


def test_pictures_may_be_very_small_or_large():
    small = Panoptic(np.ones((8, 8), dtype=np.int32), (Segment(1, 0, 64, 0.5),), CATEGORIES)
    assert (np.array(overlay(small)) == CATEGORIES.colors[0]).all()
    assert overlay(small, legend=True).size[0] >= 160
    ids = np.ones((40, 9000), dtype=np.int32)
    ids[:, 4500:] = 2
    large = Panoptic(ids, (Segment(1, 1, 1), Segment(2, 0, 1)), CATEGORIES)
    assert overlay(large, np.zeros((40, 9000, 3), dtype=np.uint8)).size == (9000, 40)


def test_a_map_is_resized_by_its_nearest_pixels():
    ids = np.array([[1, 2, 3, 4]], dtype=np.int32)
    panoptic = Panoptic(ids, tuple(Segment(i, 1, 1) for i in range(1, 5)), CATEGORIES)
    assert resized_map(panoptic, (2, 8)).ids.tolist() == [[1, 1, 2, 2, 3, 3, 4, 4]] * 2
    assert resized_map(panoptic, (1, 2)).ids.tolist() == [[2, 4]]
    assert resized_map(panoptic, (1, 2)).segments == panoptic.segments


@pytest.mark.parametrize(
    ("size", "shown"),
    [((120, 160), (240, 320)), ((100, 101), (300, 303)), ((1000, 2000), (160, 320)), ((1, 2000), (1, 320))],
)
def test_small_maps_grow_by_a_whole_factor_and_large_ones_shrink(size, shown):
    assert shown_size(size, 320) == shown


def test_the_runs_of_a_map_go_on_over_its_rows():
    places = np.array([[0, 0, 7], [7, 7, 7], [300, 0, 0]], dtype=np.int32)
    assert place_runs(places).tolist() == [0, 2, 7, 4, 300, 1, 0, 2]


def test_letters_are_as_high_as_asked():
    panoptic, picture = two_cups(300, 400), np.full((300, 400, 3), 128, dtype=np.uint8)
    bare = np.array(overlay(panoptic, picture, labels=False))

    def height(letters: int | None) -> int:
        changed = (np.array(overlay(panoptic, picture, letters=letters)) != bare).any(axis=(1, 2))
        rows = np.flatnonzero(changed)
        breaks = np.flatnonzero(np.diff(rows) > 1)
        return int(breaks[0] + 1 if breaks.size else rows.size)  # of the uppermost label

    assert height(None) < height(20) < height(32)
    assert height(32) == pytest.approx(2 * height(16), abs=6)
