"""The legend of a drawn map: what it names, in what colours, and that it fits below every picture."""

import numpy as np
import pytest

from drawn_maps import CATEGORIES, two_cups
from thingstuff import drawing_legend
from thingstuff.panoptic import Categories, Panoptic, Segment

FIELDS = Categories(
    ("car", "sky", "a name that goes on and on, longer than a narrow legend", "水", "road"),
    (True, False, True, True, False),
    (1, 2, 3, 4, 5),
    ((200, 30, 40), (120, 180, 240), (40, 160, 60), (200, 160, 20), (90, 90, 90)),
)


def legend_of(panoptic: Panoptic, monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], np.ndarray]:
    """Draw with a legend; return its texts from above to below, and its pixels."""
    placed = []
    draw = drawing_legend.ImageDraw.ImageDraw
    text = draw.text

    def seen(self, place, value, **rest):
        placed.append((place[1], place[0], value))
        right, bottom = place[0] + rest["font"].getlength(value), rest["font"].getbbox(value)[3] + place[1]
        assert right <= self.im.size[0], f"{value} is cut off"
        assert bottom <= self.im.size[1], f"{value} is cut off"
        return text(self, place, value, **rest)

    with monkeypatch.context() as patch:
        patch.setattr(draw, "text", seen)
        drawn = panoptic.draw(legend=True, labels=False)
    assert np.array_equal(np.array(drawn)[: panoptic.size[0], : panoptic.size[1]], panoptic.draw(labels=False))
    return [value for *_, value in sorted(placed)], np.array(drawn)[panoptic.size[0] :]


def street(width: int = 400) -> Panoptic:
    ids = np.zeros((100, width), dtype=np.int32)
    ids[:50] = 1
    for i in range(5):
        ids[60:70, 20 * i : 20 * i + 10] = 10 + i
    ids[70:80] = 2
    labels = (0, 0, 2, 3, 0)
    cars = [Segment(10 + i, label, 100, iscrowd=i == 4) for i, label in enumerate(labels)]
    return Panoptic(ids, (Segment(1, 1, 1), *cars, Segment(2, 4, 1), Segment(99, 4, 0)), FIELDS)


def test_things_are_counted_and_stuff_and_void_measured(monkeypatch):
    texts, pixels = legend_of(street(1000), monkeypatch)
    assert texts[:3] == ["things", "car", "2 + crowd"]
    assert texts[3].startswith("a name that goes on")
    assert texts[4:7] == ["1", "class 4", "1"]
    assert texts[7:12] == ["stuff", "sky", "50 %", "road", "10 %"]
    assert texts[12:] == ["void", "no segment", "40 %"]
    shown = {tuple(c) for c in np.unique(pixels.reshape(-1, 3), axis=0).tolist()}
    assert set(FIELDS.colors) <= shown


def test_small_shares_are_not_told_as_nothing(monkeypatch):
    ids = np.ones((100, 200), dtype=np.int32)
    ids[0, 0] = 0
    texts, _ = legend_of(Panoptic(ids, (Segment(1, 1, 1),), CATEGORIES), monkeypatch)
    assert texts == ["stuff", "table", "100 %", "void", "no segment", "< 1 %"]


def test_only_what_the_map_has_is_named(monkeypatch):
    ids = np.ones((100, 200), dtype=np.int32)
    texts, _ = legend_of(Panoptic(ids, (Segment(1, 1, 1), Segment(5, 0, 0)), CATEGORIES), monkeypatch)
    assert texts == ["stuff", "table", "100 %"]
    texts, _ = legend_of(Panoptic(0 * ids, (), CATEGORIES), monkeypatch)
    assert texts == ["void", "no segment", "100 %"]


@pytest.mark.parametrize(("width", "least"), [(8, 160), (120, 160), (300, 300), (1000, 1000)])
def test_entries_wrap_to_the_picture_s_width(width, least, monkeypatch):
    ids = np.repeat(np.arange(6, dtype=np.int32), 2)[:, None].repeat(width, axis=1)
    panoptic = Panoptic(ids, tuple(Segment(i + 1, i, 1) for i in range(5)), FIELDS)
    texts, pixels = legend_of(panoptic, monkeypatch)
    assert pixels.shape[1] == least
    assert {"things", "car", "class 4", "stuff", "sky", "road", "void"} < set(texts)
    (long,) = (text for text in texts if text.startswith("a n"))
    assert long.endswith("..") == (width < 1000)


def test_many_classes_make_a_high_legend(monkeypatch):
    count = 130
    categories = Categories(tuple(f"class number {i}" for i in range(count)), (True,) * count, tuple(range(count)))
    ids = np.repeat(np.arange(1, count + 1, dtype=np.int32)[None], 60, axis=0).repeat(3, axis=1)
    panoptic = Panoptic(ids, tuple(Segment(i + 1, i, 1) for i in range(count)), categories)
    texts, pixels = legend_of(panoptic, monkeypatch)
    assert [t for t in texts if t.startswith("class")] == list(categories.names), "in the order of the categories"
    assert pixels.shape[0] > 400


def test_the_legend_is_the_same_each_time():
    assert two_cups().draw(legend=True).tobytes() == two_cups().draw(legend=True).tobytes()
