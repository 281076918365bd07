"""Painting objects into a map, against a plain per-pixel reference."""

from collections import Counter
from pathlib import Path
from time import process_time

import numpy as np
import pytest

from thingstuff.convert.painting import (
    FreshIds,
    Overlap,
    PaintRules,
    areas_and_boxes,
    paint,
    with_background,
)
from thingstuff.convert.source import Region, SourceLabels, SourceObject
from thingstuff.errors import InputError
from thingstuff.panoptic import Categories, Color, segment_boxes

CATEGORIES = Categories(("cup", "table", "sky"), (True, False, False), (7, 8, 9))
NAMES = {"cup": "cup", "mug": "cup", "table": "table", "sky": "sky"}


def rules(overlap: Overlap = Overlap.SMALLER_ON_TOP, min_area: int = 0) -> PaintRules:
    return PaintRules(NAMES, CATEGORIES, overlap, min_area)


def box(name: str, top: int, left: int, height: int, width: int, **more: object) -> SourceObject:
    return SourceObject(name, Region(top, left, np.ones((height, width), dtype=np.bool_)), **more)  # type: ignore[arg-type]


def names_at(labels: SourceLabels, overlap: Overlap, min_area: int = 0) -> list[list[str]]:
    painted, _ = paint(labels, rules(overlap, min_area))
    name = {s.id: s.name for s in painted.segments}
    return [[name.get(i, "-") for i in row] for row in painted.ids.tolist()]


SMALL_FIRST = SourceLabels((1, 4), (box("cup", 0, 0, 1, 2), box("table", 0, 1, 1, 3)))


@pytest.mark.parametrize(
    ("overlap", "expected"),
    [
        (Overlap.SMALLER_ON_TOP, "cup cup table table"),
        (Overlap.LARGER_ON_TOP, "cup table table table"),
        (Overlap.LAST, "cup table table table"),
        (Overlap.FIRST, "cup cup table table"),
    ],
)
def test_rules_of_overlaps(overlap: Overlap, expected: str) -> None:
    assert names_at(SMALL_FIRST, overlap) == [expected.split()]


def test_overlaps_can_be_refused() -> None:
    with pytest.raises(InputError, match="cup and table share 1 pixels"):
        paint(SMALL_FIRST, rules(Overlap.ERROR))
    apart = SourceLabels((1, 4), (box("cup", 0, 0, 1, 2), box("table", 0, 2, 1, 2)))
    assert names_at(apart, Overlap.ERROR) == [["cup", "cup", "table", "table"]]


def test_who_lost_pixels_to_whom_is_told() -> None:
    _, report = paint(SMALL_FIRST, rules(Overlap.SMALLER_ON_TOP))
    assert report.overlaps == Counter({("table", "cup"): 1})
    _, report = paint(SMALL_FIRST, rules(Overlap.LAST))
    assert report.overlaps == Counter({("cup", "table"): 1})


@pytest.mark.parametrize("overlap", [o for o in Overlap if o is not Overlap.ERROR])
def test_crowds_and_lower_layers_lie_below_whatever_the_rule(overlap: Overlap) -> None:
    labels = SourceLabels(
        (1, 3),
        (
            box("cup", 0, 0, 1, 1),
            box("cup", 0, 0, 1, 2, iscrowd=True),
            box("table", 0, 0, 1, 3, layer=-1),
        ),
    )
    painted, report = paint(labels, rules(overlap))
    assert len(painted.segments) == 3
    crowd = next(s for s in painted.segments if s.iscrowd)
    assert painted.ids[0, 1] == crowd.id
    assert painted.ids[0, 0] not in (crowd.id, painted.ids[0, 2])
    assert report.overlaps == Counter({("cup", "cup"): 1}), "that stuff lies below things is no overlap to tell of"


def test_stuff_of_a_class_is_one_segment_and_a_cut_thing_stays_one() -> None:
    labels = SourceLabels(
        (1, 6), (box("sky", 0, 0, 1, 1), box("cup", 0, 1, 1, 4), box("sky", 0, 5, 1, 1), box("table", 0, 2, 1, 2))
    )
    painted, _ = paint(labels, rules())
    assert Counter(s.name for s in painted.segments) == Counter(cup=1, sky=1, table=1)
    assert painted.ids[0, 1] == painted.ids[0, 4]
    assert painted.ids[0, 0] == painted.ids[0, 5]


def test_merged_things_stay_apart() -> None:
    labels = SourceLabels((1, 2), (box("cup", 0, 0, 1, 1), box("mug", 0, 1, 1, 1)))
    painted, _ = paint(labels, rules())
    assert [s.name for s in painted.segments] == ["cup", "cup"]


def test_ids_are_kept_and_others_keep_clear_of_them() -> None:
    labels = SourceLabels(
        (1, 3), (box("cup", 0, 0, 1, 1), box("cup", 0, 1, 1, 1, segment_id=77), box("table", 0, 2, 1, 1, segment_id=77))
    )
    painted, _ = paint(labels, rules())
    assert painted.ids[0, 1] == 77
    assert len({s.id for s in painted.segments}) == 3


def searched_id(color: Color, taken: set[int]) -> int:
    """Return the id that a search from the colour on finds, begun anew for each: what `FreshIds` must give."""
    for step in range(512):
        moved = [c + step * stride % 61 - 30 * (step > 0) for c, stride in zip(color, (7, 11, 17), strict=True)]
        red, green, blue = (min(max(c, 0), 255) for c in moved)
        value = red + 256 * green + 65536 * blue
        if value and value not in taken:
            return value
    return next(value for value in range(1, 256**3) if value not in taken)


def test_fresh_ids_show_their_colours_and_are_free() -> None:
    colors = [(0, 0, 0), (200, 100, 50), (255, 255, 255), (201, 100, 50)]
    taken = {200 + 256 * 100 + 65536 * 50, 1, 3}
    fresh = FreshIds(taken)
    for number in range(800):
        color = colors[max(0, number % 9 - 5)]  # most of one, so that its neighbours run out
        found = fresh.take(color)
        assert found == searched_id(color, taken)
        taken.add(found)
    assert FreshIds().take((200, 100, 50)) == 200 + 256 * 100 + 65536 * 50


def test_many_fresh_ids_take_no_longer_each() -> None:
    fresh, began = FreshIds(), process_time()
    assert len({fresh.take((128, 64, 128)) for _ in range(20_000)}) == 20_000
    assert process_time() - began < 1, "a search that begins anew for each takes longer for 1000"


def test_what_is_left_of_small_and_covered_segments() -> None:
    labels = SourceLabels(
        (2, 4), (box("cup", 0, 0, 1, 1), box("cup", 0, 1, 1, 1), box("table", 0, 0, 1, 4), box("sky", 1, 0, 1, 4))
    )
    painted, report = paint(labels, rules(Overlap.LAST))
    assert report.dropped == Counter({("cup", "wholly covered by others"): 2})
    painted, report = paint(labels, rules(Overlap.SMALLER_ON_TOP, min_area=2))
    assert report.dropped == Counter({("cup", "below --min-area"): 2})
    assert painted.ignored is not None
    background = with_background(painted, "table", CATEGORIES)
    assert painted.ids[0, 0] == background.ids[0, 0] == 0, "the pixels of a dropped segment are void, not background"


def test_many_small_segments_are_dropped_at_once() -> None:
    cups = tuple(box("cup", 3 * (n // 500), 3 * (n % 500), 2, 2) for n in range(1500))
    labels, began = SourceLabels((2000, 1500), (*cups, box("sky", 1000, 0, 1000, 1500))), process_time()
    painted, report = paint(labels, rules(min_area=5))
    assert process_time() - began < 0.5, "a look at the whole map for each takes longer"
    assert report.dropped == Counter({("cup", "below --min-area"): 1500})
    assert painted.ignored is not None
    assert np.count_nonzero(painted.ignored) == 1500 * 4
    assert [s.name for s in painted.segments] == ["sky"]


def filled(name: str, left: int, width: int, by: str = "detr", **more: object) -> SourceObject:
    return box(name, 0, left, 1, width, marks={"filled": {"by": by}}, **more)


def test_what_is_filled_in_beside_drawn_stuff_is_void() -> None:
    # "mug" stands for a class that --merge made one with another
    merged = PaintRules({**NAMES, "mug": "sky"}, CATEGORIES, Overlap.LAST, 0)
    for objects in ((box("sky", 0, 0, 1, 2), filled("mug", 2, 3)), (filled("mug", 2, 3), box("sky", 0, 0, 1, 2))):
        painted, report = paint(SourceLabels((1, 7), (*objects, filled("table", 5, 1))), merged)
        assert {s.name: dict(s.marks) for s in painted.segments} == {"sky": {}, "table": {"filled": {"by": "detr"}}}
        assert (painted.ids[0] > 0).tolist() == [True, True, False, False, False, True, False]
        assert painted.ignored is not None
        assert painted.ignored[0].tolist() == [False, False, True, True, True, False, False]
        assert report.dropped == Counter({("sky", "filled in beside what is drawn of its class"): 1})


def test_filled_stuff_joins_filled_stuff_and_things_stay_as_they_are() -> None:
    cups = (box("cup", 0, 4, 1, 1), filled("cup", 5, 1))
    painted, report = paint(SourceLabels((1, 6), (filled("sky", 0, 1, "first"), filled("sky", 2, 2), *cups)), rules())
    assert [(s.name, *s.marks.get("filled", {}).values()) for s in painted.segments] == [
        ("sky", "first"),
        ("cup",),
        ("cup", "detr"),
    ]
    assert painted.ids[0, 0] == painted.ids[0, 2] == painted.ids[0, 3] > 0
    assert painted.ignored is None
    assert not report.dropped


def test_filled_stuff_stays_where_nothing_is_left_of_what_is_drawn() -> None:
    labels = SourceLabels((1, 5), (box("sky", 0, 0, 1, 1), filled("sky", 1, 2), box("cup", 0, 3, 1, 2)))
    painted, report = paint(labels, rules(min_area=2))
    assert [(s.name, bool(s.marks)) for s in painted.segments] == [("sky", True), ("cup", False)]
    assert report.dropped == Counter({("sky", "below --min-area"): 1})


def test_background_takes_the_mark_of_what_was_filled_in_of_its_class() -> None:
    labels = SourceLabels((1, 4), (filled("sky", 0, 1), filled("table", 1, 1)))
    painted, _ = paint(labels, rules())
    background = with_background(painted, "sky", CATEGORIES)
    assert {s.name: bool(s.marks) for s in background.segments} == {"sky": False, "table": True}
    assert background.ids[0, 0] == background.ids[0, 2] == background.ids[0, 3]


def test_an_object_outside_of_the_picture_is_told() -> None:
    labels = SourceLabels((2, 2), (SourceObject("cup", Region(0, 0, np.zeros((0, 0), dtype=np.bool_))),))
    painted, report = paint(labels, rules())
    assert not painted.segments
    assert report.dropped == Counter({("cup", "without a pixel in the picture"): 1})


def test_background_takes_what_nobody_labelled_but_not_what_is_ignored() -> None:
    labels = SourceLabels((1, 4), (box("cup", 0, 0, 1, 1),), (Region(0, 0, np.ones((1, 2), dtype=np.bool_)),))
    painted, _ = paint(labels, rules())
    filled = with_background(painted, "sky", CATEGORIES)
    sky = next(s for s in filled.segments if s.name == "sky")
    assert filled.ids[0].tolist() == [painted.ids[0, 0], 0, sky.id, sky.id]
    again = with_background(filled, "sky", CATEGORIES)
    assert again is filled, "nothing is left to take"


def test_background_joins_a_segment_of_its_class() -> None:
    painted, _ = paint(SourceLabels((1, 3), (box("sky", 0, 0, 1, 1),)), rules())
    filled = with_background(painted, "sky", CATEGORIES)
    assert [s.name for s in filled.segments] == ["sky"]
    assert len({*filled.ids[0].tolist()}) == 1


@pytest.mark.parametrize("overlap", [o for o in Overlap if o is not Overlap.ERROR])
def test_random_objects_against_a_plain_reference(overlap: Overlap) -> None:
    random = np.random.default_rng(len(overlap.value))
    for _ in range(60):
        H, W = (int(n) for n in random.integers(3, 12, 2))
        objects = []
        for _ in range(int(random.integers(0, 7))):
            mask = random.random((H, W)) < random.uniform(0.05, 0.6)
            name = str(random.choice(["cup", "mug", "table", "sky", "unknown"]))
            objects.append(SourceObject(name, Region.of(mask), layer=int(random.integers(-1, 1))))
        labels = SourceLabels((H, W), tuple(objects))
        painted, report = paint(labels, rules(overlap))
        expected, lost = plainly(labels, overlap)
        name = {s.id: s.name for s in painted.segments}
        assert [[name.get(i, "") for i in row] for row in painted.ids.tolist()] == expected
        assert report.overlaps == lost


def plainly(labels: SourceLabels, overlap: Overlap) -> tuple[list[list[str]], Counter[tuple[str, str]]]:
    """Return the class of each pixel and who lost how many pixels to whom, object by object in sorted order."""
    H, W = labels.size
    area = [int(o.region.mask.sum()) for o in labels.objects]
    keys = {
        Overlap.SMALLER_ON_TOP: lambda n: (-area[n], n),
        Overlap.LARGER_ON_TOP: lambda n: (area[n], n),
        Overlap.LAST: lambda n: n,
        Overlap.FIRST: lambda n: -n,
    }
    order = sorted(range(len(area)), key=lambda n: (labels.objects[n].layer, keys[overlap](n)))
    owner: dict[tuple[int, int], int] = {}
    lost: Counter[tuple[str, str]] = Counter()
    for n in order:
        drawn = labels.objects[n]
        name = NAMES.get(drawn.name)
        if name is None:
            continue
        full = np.zeros((H, W), dtype=np.bool_)
        drawn.region.paint(full)
        for pixel in map(tuple, np.argwhere(full).tolist()):
            before = owner.get(pixel)
            if before is not None:
                other = labels.objects[before]
                same = NAMES[other.name] == name and name != "cup"
                if not same and other.layer == drawn.layer:
                    lost[NAMES[other.name], name] += 1
            owner[pixel] = n
    grid = [[NAMES[labels.objects[owner[r, c]].name] if (r, c) in owner else "" for c in range(W)] for r in range(H)]
    return grid, lost


def test_areas_and_boxes_equal_counting() -> None:
    random = np.random.default_rng(3)
    for _ in range(50):
        H, W = (int(n) for n in random.integers(1, 15, 2))
        ids = random.integers(0, 5, (H, W)).astype(np.int32)
        wanted = [3, 1, 9, 4]
        measured = areas_and_boxes(ids, wanted)
        assert [area for area, _ in measured] == [int((ids == i).sum()) for i in wanted]
        assert [box for _, box in measured] == segment_boxes(ids, wanted)
    assert areas_and_boxes(np.zeros((0, 0), dtype=np.int32), [1]) == [(0, (0, 0, 0, 0))]


def test_rules_are_named_as_on_the_command_line(tmp_path: Path) -> None:
    assert {o.value for o in Overlap} == {"smaller-on-top", "larger-on-top", "last", "first", "error"}


def test_a_crowd_of_a_class_that_is_stuff_here_is_part_of_its_one_segment() -> None:
    labels = SourceLabels((1, 3), (box("table", 0, 0, 1, 1, iscrowd=True), box("table", 0, 1, 1, 2)))
    painted, _ = paint(labels, rules())
    assert [(s.name, s.iscrowd) for s in painted.segments] == [("table", False)]
