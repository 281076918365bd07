"""The step of the things-first merge, told of candidates made by hand."""

import numpy as np
import torch

from thingstuff.merging import ThingsFirst, merge_things_first
from thingstuff.models.things_first_steps import GREY, SOME_THING, things_first_step
from thingstuff.panoptic import VOID, Categories
from thingstuff.structures import Images, Segments
from thingstuff.walk import MapView, PixelsView, Seen, Step, TableView

CATEGORIES = Categories(("road", "car", "sky"), (False, True, False), (1, 2, 5))
ROAD, CAR, SKY = range(3)
NAMES = ["car 1", "car 2", "car 3", "car 4", SOME_THING, "road", "sky"]
SETTINGS = ThingsFirst(thing_score=0.3, mask_threshold=0.5, overlap=0.5, stuff_area=2.5)


def seen(rows: int | None = None) -> Seen:
    """A canvas of one row of eight cells, which is the picture: cars that claim four, two, four and eight cells."""
    claimed = ("1111....", ".11.....", "...1111.", "11111111", "1.......", ".1111...", ".....111")
    masks = torch.tensor([[[0.9 if c == "1" else 0.0 for c in text]] for text in claimed])
    labels, scores = [CAR] * 4 + [VOID, ROAD, SKY], [0.9, 0.8, 0.7, 0.2, 0.9, 1.0 + 1e-6, 0.7]
    images = Images(torch.zeros(1, 3, 1, 8), ((1, 8),), ((1, 8),))
    segments = Segments(masks, torch.tensor(labels), torch.tensor(scores), images.frame(0)).pick(
        list(range(len(labels) if rows is None else rows))
    )
    blank = np.zeros((1, 8, 3), np.uint8)
    result = merge_things_first(segments, CATEGORIES, SETTINGS)
    return Seen(blank, blank, images, None, segments, result, {})


def step_of(given: Seen) -> Step:
    names = NAMES[: len(given.segments)]
    return things_first_step(given, SETTINGS, names, name="merged", after=("masks",), paper="a section")


def pixels(step: Step, title: str) -> list[tuple[int, ...]]:
    (view,) = (v for v in step.views if isinstance(v, PixelsView) and v.title.startswith(title))
    return [tuple(p) for p in view.pixels[0].tolist()]


def test_it_tells_what_each_claims_and_has() -> None:
    given = seen()
    assert given.result.ids.tolist() == [[1, 1, 1, 1, 2, 2, 2, 0]]
    step = step_of(given)
    (table,) = (v for v in step.views if isinstance(v, TableView))
    assert [row.cells for row in table.rows] == [
        ("car 1", torch.tensor(0.9).item(), "4", "4", "kept"),
        ("car 2", torch.tensor(0.8).item(), "2", "0", "100.0% of it lies on better things (limit 50.0%)"),
        ("car 3", torch.tensor(0.7).item(), "4", "3", "kept"),
        ("car 4", torch.tensor(0.2).item(), "8", "0", "score 0.20 below 0.30"),
        (SOME_THING, torch.tensor(0.9).item(), "1", "0", "stands for things: it only competes with stuff"),
        ("road", 1.0, "4", "0", "0 free pixels of at least 3"),
        ("sky", torch.tensor(0.7).item(), "3", "0", "1 free pixels of at least 3"),
    ]
    assert [row.segments for row in table.rows] == [(1,), (), (2,), (), (), (), ()]
    assert step.notes == {
        1: "It claimed 4 pixels; none of them went to better things.",
        2: "It claimed 4 pixels; 1 of them went to better things.",
    }
    assert "2 of 7 candidates stay; things that stay lost 1 pixel to better ones." in step.text
    assert "at least 3 pixels" in step.text


def test_its_pictures_are_those_of_the_merge() -> None:
    step = step_of(seen())
    claims, stuff, after = (pixels(step, title) for title in ("Before: what things", "Before: stuff", "After"))
    black, first, third = (0, 0, 0), claims[0], claims[4]
    assert len({black, first, third}) == 3
    assert claims == [first] * 4 + [third] * 3 + [black], "the fourth scores too little, the second lies below"
    road, sky = CATEGORIES.colors[ROAD], CATEGORIES.colors[SKY]
    assert stuff == [GREY, *[road] * 4, *[sky] * 3]
    assert after == [first] * 4 + [third] * 3 + [black]
    (counts,) = (v.values for v in step.views if isinstance(v, MapView))
    assert counts.tolist() == [[1, 2, 2, 2, 1, 1, 1, 0]]


def test_stuff_is_kept_in_its_colour_and_nothing_is_something_to_look_at() -> None:
    given = seen()
    given = Seen(*(given.picture, given.canvas, given.images, None, given.segments.pick([4, 5, 6])), given.result, {})
    result = merge_things_first(given.segments, CATEGORIES, SETTINGS)
    alone = Seen(given.picture, given.canvas, given.images, None, given.segments, result, {})
    step = things_first_step(alone, SETTINGS, NAMES[4:], name="merged", after=(), paper="a section")
    road, sky = CATEGORIES.colors[ROAD], CATEGORIES.colors[SKY]
    assert pixels(step, "After") == [(0, 0, 0), *[road] * 4, *[sky] * 3]
    empty = step_of(seen(0))
    assert set(pixels(empty, "After")) == set(pixels(empty, "Before: what")) == {(0, 0, 0)}
    assert "0 of 0 candidates stay" in empty.text
