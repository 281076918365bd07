"""A model's segments under drawn ones: exact pixels, and each rule against a plain reading of it."""

import math
import re
import time

import numpy as np
import numpy.typing as npt
import pytest
from scipy.ndimage import distance_transform_edt, label

from thingstuff.coco_categories import COCO_PANOPTIC
from thingstuff.convert.classes import ClassPlan, ClassRules, plan_classes
from thingstuff.convert.fill_classes import FillClasses, match_classes, parse_fill_map
from thingstuff.convert.filled import FillRules, fill, near
from thingstuff.convert.painting import Painted, PaintedSegment
from thingstuff.convert.source import SourceClass
from thingstuff.errors import InputError
from thingstuff.panoptic import Categories, Panoptic, Segment

Map = npt.NDArray[np.int32]
OWN = plan_classes([SourceClass("worker", 7, True), SourceClass("road", 9, False)], ClassRules())
MODEL = Categories(
    ("person", "car", "sky-other-merged", "road", "grass-merged", "worker"),
    (True, True, False, False, False, True),
    (1, 3, 187, 149, 193, 200),
)
STUFF_ONLY = match_classes(MODEL, OWN)
THINGS_TOO = match_classes(MODEL, OWN, things=True)
LOOSE = FillRules(rim=0, min_score=0.0)


def drawn(ids: Map, names: dict[int, str], ignored: npt.NDArray[np.bool_] | None = None) -> Painted:
    return Painted(ids, tuple(PaintedSegment(i, n) for i, n in names.items()), ignored)


def seen(ids: Map, names: dict[int, str], scores: dict[int, float | None] | None = None) -> Panoptic:
    areas = {i: int((ids == i).sum()) for i in names}
    rows = (Segment(i, MODEL.names.index(n), areas[i], (scores or {}).get(i, 0.9)) for i, n in names.items())
    return Panoptic(ids, tuple(rows), MODEL)


def rows(*texts: str) -> Map:
    return np.array([[int(c) if c != "." else 0 for c in text] for text in texts], dtype=np.int32)


def shown(painted: Painted, letters: dict[str, str]) -> list[str]:
    """Return the map with a letter for each category of what is there."""
    names = {s.id: letters[s.name] for s in painted.segments} | {0: "."}
    return ["".join(names[int(v)] for v in row) for row in painted.ids]


LETTERS = {"worker": "W", "road": "R", "sky-other-merged": "s", "grass-merged": "g", "car": "c", "person": "p"}


# ---- whose pixels


def test_a_stuff_s_halo_is_cut_and_its_far_pixels_stay() -> None:
    painted = drawn(rows(*["........."] * 3, "....11...", *["........."] * 3), {1: "worker"})
    predicted = seen(np.full((7, 9), 4, dtype=np.int32), {4: "sky-other-merged"})
    expected = ["sssssssss", "ssss..sss", "sss....ss", "ss..WW..s", "sss....ss", "ssss..sss", "sssssssss"]
    assert shown(fill(painted, predicted, STUFF_ONLY, FillRules(rim=2), "m"), LETTERS) == expected


def test_what_does_not_touch_a_thing_keeps_its_pixels_beside_it() -> None:
    painted = drawn(rows("..11....", "..11...."), {1: "worker"})
    predicted = seen(rows("44433355", "44433355"), {4: "sky-other-merged", 3: "grass-merged", 5: "person"})
    # two of the sky's six pixels and two of the grass's lie in the worker; the person lies elsewhere
    assert shown(fill(painted, predicted, STUFF_ONLY, FillRules(rim=1), "m"), LETTERS) == ["s.WW.g..", "s.WW.g.."]
    predicted = seen(rows("44333355", "44333355"), {4: "sky-other-merged", 3: "grass-merged", 5: "person"})
    # the sky ends where the worker begins
    assert shown(fill(painted, predicted, STUFF_ONLY, FillRules(rim=1), "m"), LETTERS) == ["ssWW.g..", "ssWW.g.."]


def test_a_rim_is_kept_only_from_the_things_that_a_segment_touches() -> None:
    painted = drawn(rows("1....2.."), {1: "worker", 2: "worker"})
    predicted = seen(rows("44444333"), {4: "sky-other-merged", 3: "grass-merged"})
    assert shown(fill(painted, predicted, STUFF_ONLY, FillRules(rim=1), "m"), LETTERS) == ["W.sssW.g"]


def test_a_segment_that_lies_mostly_in_drawn_things_yields_wholly() -> None:
    painted = drawn(rows("..1122....", ".........."), {1: "worker", 2: "worker"})
    half = seen(rows("55555555..", ".........."), {5: "car"})
    assert shown(fill(painted, half, THINGS_TOO, LOOSE, "m"), LETTERS)[0] == "ccWWWWcc.."
    more = seen(rows("5555555...", ".........."), {5: "car"})
    assert shown(fill(painted, more, THINGS_TOO, LOOSE, "m"), LETTERS)[0] == "..WWWW...."


def test_each_piece_of_stuff_yields_by_itself() -> None:
    painted = drawn(rows(".111......", ".........."), {1: "worker"})
    predicted = seen(rows("44444.4444", "......4444"), {4: "grass-merged"})
    assert shown(fill(painted, predicted, STUFF_ONLY, LOOSE, "m"), LETTERS) == [".WWW..gggg", "......gggg"]
    # a thing of the same pixels is one: most of it is not the worker
    predicted = seen(rows("44444.4444", "......4444"), {4: "car"})
    assert shown(fill(painted, predicted, THINGS_TOO, LOOSE, "m"), LETTERS) == ["cWWWc.cccc", "......cccc"]


def test_drawn_stuff_and_ignored_pixels_stay_as_they_are_without_a_rim() -> None:
    ignored = rows("......11") > 0
    painted = drawn(rows("..99...."), {9: "road"}, ignored)
    predicted = seen(rows("44444444"), {4: "sky-other-merged"})
    result = fill(painted, predicted, STUFF_ONLY, FillRules(rim=3), "m")
    assert shown(result, LETTERS) == ["ssRRss.."]
    assert result.ignored is ignored


def test_stuff_that_is_drawn_in_the_picture_is_not_added_to() -> None:
    predicted = seen(rows("3333", "4444"), {3: "road", 4: "grass-merged"})
    partly = drawn(rows("9...", "...."), {9: "road"})
    assert shown(fill(partly, predicted, STUFF_ONLY, LOOSE, "m"), LETTERS) == ["R...", "gggg"]
    nothing = drawn(np.zeros((2, 4), dtype=np.int32), {})
    assert shown(fill(nothing, predicted, STUFF_ONLY, LOOSE, "m"), LETTERS) == ["RRRR", "gggg"]


def test_things_are_filled_in_on_request_and_drawn_classes_never() -> None:
    predicted = seen(rows("112266"), {1: "person", 2: "car", 6: "worker"})
    nothing = drawn(np.zeros((1, 6), dtype=np.int32), {})
    assert shown(fill(nothing, predicted, STUFF_ONLY, LOOSE, "m"), LETTERS) == ["......"]
    assert shown(fill(nothing, predicted, THINGS_TOO, LOOSE, "m"), LETTERS) == ["ppcc.."]
    asked = match_classes(MODEL, OWN, {"person": "worker"}, things=True)
    assert shown(fill(nothing, predicted, asked, LOOSE, "m"), LETTERS) == ["WWcc.."]


def test_unsure_and_small_segments_are_left_out() -> None:
    predicted = seen(rows("3334", "3332"), {3: "road", 4: "grass-merged", 2: "car"}, {3: 0.5, 4: 0.9, 2: 0.49})
    nothing = drawn(np.zeros((2, 4), dtype=np.int32), {})
    rules = FillRules(rim=0, min_score=0.5)
    assert shown(fill(nothing, predicted, THINGS_TOO, rules, "m"), LETTERS) == ["RRRg", "RRR."]
    assert shown(fill(nothing, predicted, THINGS_TOO, FillRules(0, 0.5, 2), "m"), LETTERS) == ["RRR.", "RRR."]
    assert shown(fill(nothing, predicted, THINGS_TOO, FillRules(0, 0.51), "m"), LETTERS) == ["...g", "...."]


# ---- the segments


def test_stuff_is_one_segment_with_the_mean_score_and_things_are_several() -> None:
    names = {1: "car", 2: "car", 3: "grass-merged", 4: "sky-other-merged"}
    predicted = seen(rows("1.213333", "44444444"), names, {1: 0.8, 2: 0.7, 3: 0.6, 4: 0.99999})
    classes = match_classes(MODEL, OWN, {"sky": "ground", "grass": "ground"}, things=True)
    assert [(c.name, c.isthing) for c in classes.brought] == [("person", True), ("car", True), ("ground", False)]
    painted = drawn(rows("........", ".......5"), {5: "worker"})
    result = fill(painted, predicted, classes, LOOSE, "detr")
    first, *others = result.segments
    assert first == PaintedSegment(5, "worker")
    assert [(s.name, s.marks["filled"]) for s in others] == [
        ("car", {"by": "detr", "score": 0.8}),
        ("car", {"by": "detr", "score": 0.7}),
        ("ground", {"by": "detr", "score": 0.8545}),  # (4 * 0.6 + 7 * 0.99999) / 11
    ]
    assert len({s.id for s in result.segments} | {0}) == 5
    assert {*np.unique(result.ids).tolist()} == {0, *(s.id for s in result.segments)}
    assert [int((result.ids == s.id).sum()) for s in result.segments] == [1, 2, 1, 11]
    assert painted.ids.sum() == 5, "what was given stays"


def test_a_segment_without_score_is_sure_and_its_mark_tells_none() -> None:
    predicted = seen(rows("33"), {3: "road"}, {3: None})
    result = fill(drawn(rows(".."), {}), predicted, STUFF_ONLY, FillRules(rim=0), "m")
    assert [s.marks for s in result.segments] == [{"filled": {"by": "m"}}]


def test_new_ids_are_free_among_the_largest_there_are() -> None:
    taken = {1: "worker", 2: "worker", 256**3 - 1: "worker"}
    painted = drawn(np.array([[0, 1, 2, 256**3 - 1]], dtype=np.int32), taken)
    predicted = seen(rows("3..."), {3: "road"})
    result = fill(painted, predicted, STUFF_ONLY, LOOSE, "m")
    new = result.segments[-1].id
    assert new not in taken
    assert result.ids.tolist() == [[new, 1, 2, 256**3 - 1]]
    assert result.ids.dtype == np.int32


def test_filling_again_what_was_filled_gives_the_same() -> None:
    filled = 0
    for seed in range(20):
        painted, predicted = random_scene(seed)
        classes, rules = (STUFF_ONLY, THINGS_TOO)[seed % 2], FillRules(rim=2)
        once = fill(painted, predicted, classes, rules, "m")
        kept = [s for s in once.segments if "filled" not in s.marks]
        ids = np.where(np.isin(once.ids, [s.id for s in kept]), once.ids, 0).astype(np.int32)
        again = fill(Painted(ids, tuple(kept), once.ignored), predicted, classes, rules, "m")
        assert (again.ids == once.ids).all()
        assert again.segments == once.segments
        filled += len(once.segments) - len(kept)
    assert filled > 20


@pytest.mark.parametrize(
    ("painted", "predicted"),
    [
        (drawn(rows("....", "...."), {}), seen(rows("....", "...."), {})),
        (drawn(rows("1122", "1122"), {1: "worker", 2: "road"}), seen(rows("3333", "3333"), {3: "grass-merged"})),
        (drawn(rows("11..", "11.."), {1: "worker"}), seen(rows("....", "...."), {3: "grass-merged"})),
        (drawn(rows("...."), {}, np.ones((1, 4), dtype=np.bool_)), seen(rows("3333"), {3: "grass-merged"})),
    ],
    ids=["nothing drawn and nothing seen", "all drawn", "a segment without pixels", "all to stay void"],
)
def test_where_there_is_nothing_to_fill_in_nothing_changes(painted: Painted, predicted: Panoptic) -> None:
    result = fill(painted, predicted, STUFF_ONLY, FillRules(rim=2), "m")
    assert (result.ids == painted.ids).all()
    assert result.segments == painted.segments


# ---- against a plain reading


def random_scene(seed: int) -> tuple[Painted, Panoptic]:
    chance = np.random.default_rng(seed)
    size = tuple(int(n) for n in chance.integers(12, 40, 2))

    def blobs(count: int) -> Map:
        grid = np.zeros(size, dtype=np.int32)
        for number in range(1, count + 1):
            top, left = (int(chance.integers(0, n)) for n in size)
            high, wide = chance.integers(1, 14, 2)
            grid[top : top + high, left : left + wide] = number
        return grid

    ids = blobs(5) * 1000
    names = {i * 1000: ("worker", "worker", "worker", "road", "worker")[i - 1] for i in range(1, 6)}
    ignored = chance.random(size) < 0.05
    found = blobs(14)
    kinds = {i: MODEL.names[int(chance.integers(0, 6))] for i in range(1, 15)}
    scores = {i: float(chance.random()) for i in kinds}
    return drawn(ids, names, ignored & (ids == 0)), seen(found, kinds, scores)


def plainly(painted: Painted, predicted: Panoptic, classes: FillClasses, rules: FillRules) -> list[tuple[str, Map]]:
    """Return the (category, mask) of what is filled in, segment by segment with whole masks."""
    masks: dict[tuple[str, int], npt.NDArray[np.bool_]] = {}
    things = {s.id: painted.ids == s.id for s in painted.segments if s.name in classes.things}
    in_things = np.isin(painted.ids, [*things])
    present = {s.name for s in painted.segments if s.name not in classes.things}
    for segment in predicted.segments:
        mask = predicted.mask(segment)
        target = classes.names.get(predicted.name(segment))
        if target is None or target in present or (segment.score or 0) < rules.min_score:
            continue
        pieces, count = label(mask)
        parts = [pieces == n + 1 for n in range(count)] if not MODEL.things[segment.label] else [mask]
        left = np.zeros_like(mask)
        for part in parts:
            if (part & in_things).sum() <= part.sum() / 2:
                left |= part
        left &= painted.ids == 0
        if painted.ignored is not None:
            left &= ~painted.ignored
        for thing in things.values():
            if (thing & mask).any():
                left &= distance_transform_edt(~thing) > rules.rim_of(painted.ids.shape)
        key = (target, segment.id if target in classes.things else 0)
        masks[key] = masks.get(key, False) | left
    return [(name, mask) for (name, _), mask in masks.items() if mask.sum() >= max(rules.min_area, 1)]


def test_each_pixel_is_as_a_plain_reading_has_it() -> None:
    filled = 0
    for seed in range(80):
        painted, predicted = random_scene(seed)
        classes = (STUFF_ONLY, THINGS_TOO)[seed % 2]
        rules = FillRules(rim=seed % 5, min_score=0.3, min_area=(0, 6)[seed % 3 == 0])
        result = fill(painted, predicted, classes, rules, "m")
        expected = painted.ids.copy()
        wanted = plainly(painted, predicted, classes, rules)
        new = result.segments[len(painted.segments) :]
        assert [s.name for s in new] == [name for name, _ in wanted], seed
        for segment, (_, mask) in zip(new, wanted, strict=True):
            expected[mask] = segment.id
        assert (result.ids == expected).all(), seed
        filled += len(wanted)
    assert filled > 80


@pytest.mark.parametrize("distance", [0, 1, 2, 5, 30])
def test_near_is_what_a_distance_transform_says(distance: int) -> None:
    chance = np.random.default_rng(distance)
    for density in (0.001, 0.02, 0.5):
        mask = chance.random((37, 53)) < density
        mask[int(chance.integers(0, 37)), 0] = True
        assert (near(mask, distance) == (distance_transform_edt(~mask) <= distance)).all()


def test_a_large_picture_takes_a_moment() -> None:
    size = (1500, 2000)  # a quarter of 12 million pixels
    ids, found = np.zeros(size, dtype=np.int32), np.zeros(size, dtype=np.int32)
    for n in range(25):
        top, left = 280 * (n // 5), 380 * (n % 5)
        ids[top : top + 200, left : left + 250] = 1000 * (n + 1)
        found[top : top + 280, left : left + 380] = n + 1
    painted = drawn(ids, {1000 * (n + 1): "worker" for n in range(25)})
    predicted = seen(found, {n + 1: ("sky-other-merged", "grass-merged")[n % 2] for n in range(25)})
    begin = time.process_time()
    result = fill(painted, predicted, STUFF_ONLY, FillRules(), "m")
    assert time.process_time() - begin < 1.5
    assert len(result.segments) == 27


# ---- classes


def test_classes_go_to_those_of_the_same_name() -> None:
    own = plan_classes(
        [SourceClass(n, None, n in ("Tree", "bike")) for n in ("Tree", "sky", "floor_wood", "wall", "bike", "lawn")],
        ClassRules(merge={"green": ("lawn",)}),
    )
    found = match_classes(COCO_PANOPTIC, own, {"grass": "lawn", "bicycle": "bike", "river": ""}, things=True)
    assert found.names["sky-other-merged"] == "sky"
    assert found.names["wall-other-merged"] == "wall"
    assert found.names["floor-wood"] == "floor_wood"
    assert found.names["wall-brick"] == "wall-brick"
    assert found.names["grass-merged"] == "green"
    assert found.names["bicycle"] == "bike"
    assert "river" not in found.names
    assert "tree-merged" not in found.names, "stuff cannot stand for things"
    assert {"bike", "Tree", "car"} <= found.things
    assert not {"sky", "wall-brick"} & found.things
    names = [c.name for c in found.brought]
    assert len(names) == len({*names}) == len(found.names) - 5
    assert not {*names} & {*own.categories.names}
    # as the engine plans them, each category has the colour that is told
    merged = plan_classes([SourceClass("sky", 4, False)], ClassRules(), found.brought).categories
    assert {c.name for c in found.brought} <= {*merged.names}
    assert all(found.colors[n] == c for n, c in zip(merged.names, merged.colors, strict=True) if n != "sky")


def test_new_names_are_things_where_all_they_stand_for_are() -> None:
    renamed = parse_fill_map("person=life, grass-merged=life , car=vehicle")
    assert renamed == {"person": "life", "grass-merged": "life", "car": "vehicle"}
    found = match_classes(MODEL, OWN, renamed, things=True)
    assert {c.name: c.isthing for c in found.brought} == {"life": False, "vehicle": True, "sky-other-merged": False}
    mixed = match_classes(MODEL, OWN, {"person": "life", "grass": "life"})
    assert mixed.names["person"] == "life", "which is stuff, and so needs no --fill-things"


@pytest.mark.parametrize(
    ("renamed", "things", "message"),
    [
        ({"gras": "lawn"}, False, "--fill-map: the model has no class 'gras'; did you mean 'grass-merged'?"),
        ({"grass": "a", "grass-merged": "b"}, False, "'grass-merged' stands more than once"),
        ({"car": "vehicle"}, False, "--fill-map car=vehicle: things are filled in with --fill-things only"),
        ({"person": "worker"}, False, "--fill-map person=worker: things are filled in with --fill-things only"),
        ({"road": "worker"}, True, "--fill-map road=worker: it is stuff of the model, and 'worker' are things"),
        ({"sky": "", "road": "", "grass": ""}, False, "no class to fill in"),
    ],
)
def test_what_cannot_be_filled_in_is_told(renamed: dict[str, str], things: bool, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        match_classes(MODEL, OWN, renamed, things)


@pytest.mark.parametrize("text", ["sky", "sky=a,sky=b", "=a", ""])
def test_a_broken_map_of_classes_is_told(text: str) -> None:
    with pytest.raises(InputError, match="--fill-map"):
        parse_fill_map(text)


def test_rules_out_of_range_are_told() -> None:
    with pytest.raises(InputError, match="--rim -1"):
        FillRules(rim=-1)
    for score in (-0.1, 1.1, math.nan):
        with pytest.raises(InputError, match="--min-score"):
            FillRules(min_score=score)


def test_the_rim_goes_with_the_picture_where_it_is_not_given() -> None:
    assert [FillRules().rim_of(size) for size in ((480, 640), (3000, 4000), (10, 10))] == [5, 30, 1]
    assert FillRules(rim=0).rim_of((480, 640)) == 0


def test_a_plan_of_no_own_class_takes_all_stuff() -> None:
    nobody = ClassPlan(Categories((), (), ()), {})
    assert len(match_classes(COCO_PANOPTIC, nobody).brought) == 53
