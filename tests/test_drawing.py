"""What is drawn: colours, shades, borders, void, names; and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from thingstuff import drawing
from thingstuff.drawing import colour_map, overlay, write_labels
from thingstuff.errors import InputError
from thingstuff.panoptic import Categories, Panoptic, Segment

CATEGORIES = Categories(("cup", "table"), (True, False), (7, 3), ((40, 90, 200), (150, 120, 60)))


def two_cups(height: int = 120, width: int = 160, score: float | None = None) -> Panoptic:
    """A table with two cups on it; the lowest tenth is void."""
    ids = np.full((height, width), 500, dtype=np.int32)
    ids[height // 6 : height // 2, width // 10 : width // 2] = 70_000
    ids[height // 6 : height // 2, width * 6 // 10 : width * 9 // 10] = 2
    ids[height * 9 // 10 :] = 0
    segments = (Segment(70_000, 0, 1, score), Segment(500, 1, 1), Segment(2, 0, 1, score))
    return Panoptic(ids, segments, CATEGORIES)


@pytest.fixture
def nameless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "_write_names", lambda *_: None)


def written(panoptic: Panoptic, monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], list[tuple[int, int, int, int]]]:
    """Draw, and return every text written and every box darkened for one."""
    texts, boxes = [], []
    text, paste = drawing.ImageDraw.ImageDraw.text, Image.Image.paste

    def text_seen(self, place, value, **rest):
        texts.append(value)
        return text(self, place, value, **rest)

    def paste_seen(self, image, box):
        boxes.append(box)
        return paste(self, image, box)

    with monkeypatch.context() as patch:
        patch.setattr(drawing.ImageDraw.ImageDraw, "text", text_seen)
        patch.setattr(Image.Image, "paste", paste_seen)
        overlay(panoptic)
    return texts, boxes


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


@pytest.mark.parametrize("color", [(0, 0, 0), (255, 255, 255), (128, 128, 128), (220, 20, 60)])
def test_many_instances_of_one_class_have_shades_of_their_own(color):
    categories = Categories(("cup",), (True,), (1,), (color,))
    ids = np.arange(1, 8, dtype=np.int32)[None]
    colors = colour_map(Panoptic(ids, tuple(Segment(i, 0, 1) for i in range(1, 8)), categories))
    assert len(np.unique(colors[0], axis=0)) == 7


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
def test_void_is_the_picture_dimmed_and_striped():
    picture = np.full((120, 160, 3), 160, dtype=np.uint8)
    void = np.array(overlay(two_cups(), picture))[112:]
    assert sorted(np.unique(void)) == [50, 90]
    bare = np.array(overlay(two_cups()))[112:]
    assert len(np.unique(bare)) == 2


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


def test_names_stand_inside_their_segments(monkeypatch):
    panoptic = two_cups(480, 640, score=0.876)
    texts, boxes = written(panoptic, monkeypatch)
    assert texts == ["cup 0.88", "cup 0.88", "table"]
    owners = [int(panoptic.ids[(t + b) // 2, (left + r) // 2]) for left, t, r, b in boxes]
    assert owners == [70_000, 2, 500]


def test_stuff_and_ground_truth_show_no_score(monkeypatch):
    ids = np.ones((200, 300), dtype=np.int32)
    assert written(Panoptic(ids, (Segment(1, 1, 1, 0.5),), CATEGORIES), monkeypatch)[0] == ["table"]
    assert written(Panoptic(ids, (Segment(1, 0, 1),), CATEGORIES), monkeypatch)[0] == ["cup"]
    assert written(Panoptic(ids, (Segment(1, 0, 1, None, True),), CATEGORIES), monkeypatch)[0] == ["cup (crowd)"]


def test_names_never_cover_each_other_nor_what_they_name(monkeypatch):
    rng = np.random.default_rng(0)
    ids = np.ones((240, 320), dtype=np.int32)
    for i in range(2, 60):
        y, x, height, width = rng.integers(0, 220), rng.integers(0, 300), rng.integers(6, 60), rng.integers(6, 60)
        ids[y : y + height, x : x + width] = i
    present = [int(i) for i in np.unique(ids)]
    names = tuple(f"s{i}" for i in present)
    categories = Categories(names, (True,) * len(present), tuple(present))
    segments = tuple(Segment(i, label, 1, 0.9) for label, i in enumerate(present))
    texts, boxes = written(Panoptic(ids, segments, categories), monkeypatch)
    assert 10 < len(texts) == len(boxes) < len(segments)
    assert len({text.endswith("0.90") for text in texts}) == 2  # the score is left out where only the name fits
    for i, (text, (left, top, right, bottom)) in enumerate(zip(texts, boxes, strict=True)):
        owner = int(text.split()[0][1:])
        assert 0 <= left < right <= 320
        assert 0 <= top < bottom <= 240
        assert ids[(top + bottom) // 2, (left + right) // 2] == owner
        assert (right - left) * (bottom - top) <= (ids == owner).sum()
        assert all(right <= b[0] or b[2] <= left or bottom <= b[1] or b[3] <= top for b in boxes[i + 1 :])


def test_a_ring_is_named_on_the_ring(monkeypatch):
    ids = np.ones((300, 400), dtype=np.int32)
    ids[60:240, 60:340] = 2
    panoptic = Panoptic(ids, (Segment(1, 1, 1), Segment(2, 0, 1)), CATEGORIES)
    _, boxes = written(panoptic, monkeypatch)
    centres = [ids[(t + b) // 2, (left + r) // 2] for left, t, r, b in boxes]
    assert sorted(centres) == [1, 2]


def test_long_and_foreign_names_are_drawn(monkeypatch):
    categories = Categories(("a very\nlong name that never ends", "水"), (False, True), (1, 2))
    ids = np.ones((200, 300), dtype=np.int32)
    ids[:, 150:] = 2
    texts, _ = written(Panoptic(ids, (Segment(1, 0, 1), Segment(2, 1, 1)), categories), monkeypatch)
    assert texts[0] == "水"
    assert all(len(text) <= 24 and "\n" not in text for text in texts)


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
    for alpha in (-0.1, 1.5):
        with pytest.raises(InputError, match="alpha"):
            overlay(panoptic, alpha=alpha)
    with pytest.raises(InputError, match="nothing to draw"):
        overlay(Panoptic(np.zeros((0, 4), dtype=np.int32), (), CATEGORIES))


def test_labels_keep_off_what_is_taken_and_take_the_first_text_that_fits():
    places = np.ones((100, 200), dtype=np.int64)
    places[:, 150:] = 2
    labels = {1: ["far too long for a picture of so small a size", "short"], 2: ["b"]}
    image = Image.new("RGB", (200, 100))
    (first, second) = boxes = write_labels(image, places, labels)
    assert first[2] - first[0] < 60
    assert first[2] <= second[0]
    assert np.array(image)[first[1] : first[3], first[0] : first[2]].any()
    again = Image.new("RGB", (200, 100))
    everything = (0, 0, 200, 100)
    assert write_labels(again, places, labels, [everything]) == [everything]
    assert not np.array(again).any()
    assert write_labels(again, places, {2: ["b"]}, boxes[:1]) == boxes
