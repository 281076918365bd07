"""What is written on a map, and where: never over each other, beside what is small, and legible."""

from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from drawn_maps import CATEGORIES, crowded, overlap, two_cups, written
from thingstuff.drawing import overlay
from thingstuff.drawing_labels import letter_size, writable_name, write_labels
from thingstuff.panoptic import Categories, Panoptic, Segment


def test_names_stand_inside_their_segments(monkeypatch):
    panoptic = two_cups(480, 640, score=0.876)
    seen = written(panoptic, monkeypatch)
    assert seen.texts == ["cup 0.88", "cup 0.88", "table"]
    owners = [int(panoptic.ids[(t + b) // 2, (left + r) // 2]) for left, t, r, b in seen.boxes]
    assert owners == [70_000, 2, 500]
    assert not seen.lines


def test_stuff_and_ground_truth_show_no_score(monkeypatch):
    ids = np.ones((200, 300), dtype=np.int32)
    assert written(Panoptic(ids, (Segment(1, 1, 1, 0.5),), CATEGORIES), monkeypatch).texts == ["table"]
    assert written(Panoptic(ids, (Segment(1, 0, 1),), CATEGORIES), monkeypatch).texts == ["cup"]
    assert written(Panoptic(ids, (Segment(1, 0, 1, None, True),), CATEGORIES), monkeypatch).texts == ["cup (crowd)"]


@pytest.mark.parametrize(("seed", "size"), [(0, (240, 320)), (1, (480, 640)), (2, (90, 700)), (3, (500, 120))])
def test_names_never_cover_each_other_nor_what_they_name(seed, size, monkeypatch):
    panoptic = crowded(seed, *size)
    seen = written(panoptic, monkeypatch)
    texts, boxes, line_of = seen.texts, seen.boxes, seen.line_of
    assert 10 < len(texts) == len(boxes) < len(panoptic.segments)
    assert len(set(texts)) == len(texts), "none is named twice"
    assert len(line_of) == len(seen.lines) > 0
    assert not [pair for pair in combinations(boxes, 2) if overlap(*pair)]
    areas = np.bincount(panoptic.ids.ravel())
    for i, (text, (left, top, right, bottom)) in enumerate(zip(texts, boxes, strict=True)):
        owner = int(text.split()[0][1:])
        assert 0 <= left < right <= size[1]
        assert 0 <= top < bottom <= size[0]
        if i in line_of:
            x, y = line_of[i][0]
            assert panoptic.ids[y, x] == owner, "the line leads to what the text names"
        else:
            assert panoptic.ids[(top + bottom) // 2, (left + right) // 2] == owner
            assert (right - left) * (bottom - top) <= areas[owner]
        hidden = np.bincount(panoptic.ids[top:bottom, left:right].ravel(), minlength=len(areas))
        hidden[owner] *= i in line_of
        assert (4 * hidden <= areas).all(), "no other segment vanishes under a name"


def test_lines_cross_no_name(monkeypatch):
    for seed in range(4):
        seen = written(crowded(seed, 360, 480, largest=40), monkeypatch)
        for i, line in seen.line_of.items():
            xs, ys = (np.linspace(*ends, 200).round().astype(int) for ends in zip(*line, strict=True))
            for k, (left, top, right, bottom) in enumerate(seen.boxes):
                under = (left <= xs) & (xs < right) & (top <= ys) & (ys < bottom)
                assert k == i or not under.any()


def test_the_score_is_left_out_where_only_the_name_fits(monkeypatch):
    texts = written(crowded(0), monkeypatch).texts
    assert {text.endswith("0.90") for text in texts} == {True, False}


def test_a_small_segment_is_named_beside_it_and_a_speck_not(monkeypatch):
    ids = np.ones((200, 300), dtype=np.int32)
    ids[100:108, 150:158] = 2
    ids[20, 20] = 3
    panoptic = Panoptic(ids, (Segment(1, 1, 1), Segment(2, 0, 1), Segment(3, 0, 1)), CATEGORIES)
    seen = written(panoptic, monkeypatch)
    assert seen.texts == ["table", "cup"]
    left, top, right, bottom = seen.boxes[1]
    assert not (ids[top:bottom, left:right] == 2).any()
    ((start, end),) = seen.lines
    assert ids[start[1], start[0]] == 2
    assert np.hypot(end[0] - start[0], end[1] - start[1]) < 40
    image = np.array(overlay(panoptic))
    assert (image[start[1], start[0]] == 255).all()
    assert (image[start[1] - 3, start[0]] == 0).all(), "a dark rim, for light pictures"


def test_without_room_beside_it_nothing_is_named(monkeypatch):
    ids = np.zeros((14, 60), dtype=np.int32)
    ids[4:10, 27:33] = 1
    assert not written(Panoptic(ids, (Segment(1, 0, 1),), CATEGORIES), monkeypatch).texts


@pytest.mark.parametrize("level", [0, 60, 128, 200, 255])
def test_names_are_legible_on_light_and_dark(level, monkeypatch):
    picture = np.full((120, 160, 3), level, dtype=np.uint8)
    (box, *_) = written(two_cups(), monkeypatch, picture).boxes
    inside = np.array(overlay(two_cups(), picture).crop(box)).reshape(-1, 3) / 255
    linear = np.where(inside <= 0.04045, inside / 12.92, ((inside + 0.055) / 1.055) ** 2.4)
    light = linear @ [0.2126, 0.7152, 0.0722]
    assert (light.max() + 0.05) / (np.median(light) + 0.05) > 7, "WCAG's enhanced contrast"


def test_a_ring_is_named_on_the_ring(monkeypatch):
    ids = np.ones((300, 400), dtype=np.int32)
    ids[60:240, 60:340] = 2
    panoptic = Panoptic(ids, (Segment(1, 1, 1), Segment(2, 0, 1)), CATEGORIES)
    boxes = written(panoptic, monkeypatch).boxes
    centres = [ids[(t + b) // 2, (left + r) // 2] for left, t, r, b in boxes]
    assert sorted(centres) == [1, 2]


def test_long_and_foreign_names_are_drawn(monkeypatch):
    categories = Categories(("a very\nlong name that never ends", "水"), (False, True), (1, 2))
    ids = np.ones((200, 300), dtype=np.int32)
    ids[:, 150:] = 2
    texts = written(Panoptic(ids, (Segment(1, 0, 1), Segment(2, 1, 1)), categories), monkeypatch).texts
    assert texts[0] == "class 2"
    assert all(len(text) <= 24 and "\n" not in text for text in texts)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("café", "cafe"),
        ("Straße", "Strasse"),
        ("łódź–Ærø", "lodz-Aero"),
        ("  two\twords ", "two words"),
        ("水", "class 40"),
        ("дом", "class 40"),
        ("car 水", "class 40"),
        ("", "class 40"),
        ("\N{COMBINING ACUTE ACCENT}", "class 40"),
        ("x" * 30, "x" * 22 + ".."),
    ],
)
def test_names_are_written_in_ascii(name, expected):
    panoptic = Panoptic(np.ones((1, 1), dtype=np.int32), (), Categories((name,), (True,), (40,)))
    assert writable_name(panoptic, 0) == expected


def test_letters_grow_with_the_picture():
    sizes = [letter_size((side, side // 2)) for side in (8, 320, 640, 1920, 4000, 12_000)]
    assert sizes[:2] == [11, 11]
    assert sizes == sorted(sizes)
    assert 14 <= sizes[2] <= 17
    assert sizes[-1] == 150


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


def test_lines_are_told_as_taken():
    places = np.ones((100, 200), dtype=np.int64)
    places[50:56, 100:106] = 2
    image = Image.new("RGB", (200, 100))
    label, *line = write_labels(image, places, {2: ["b"]})
    drawn = np.array(image).any(axis=2)
    for left, top, right, bottom in (label, *line):
        drawn[top:bottom, left:right] = False
    assert line
    assert not drawn.any(), "nothing is drawn outside of what is taken"
