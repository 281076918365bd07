"""Both merges against slow references that look at one pixel at a time, and by hand at their edges."""

import subprocess
import sys
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from PIL import Image

from thingstuff import merging
from thingstuff.boxes import boxes_of_masks
from thingstuff.merging import (
    ThingsFirst,
    accepted_things,
    merge_by_argmax,
    merge_by_argmax_as_released,
    merge_things_first,
)
from thingstuff.panoptic import VOID, Categories, Panoptic
from thingstuff.structures import Frame, Segments

CATEGORIES = Categories(("road", "car", "sky", "dog"), (False, True, False, True), (1, 2, 5, 9))
ROAD, CAR, SKY, DOG = range(4)


def segments(
    masks: torch.Tensor, labels: Sequence[int], scores: Sequence[float], frame: Frame | None = None
) -> Segments:
    size = (int(masks.shape[-2]), int(masks.shape[-1]))
    return Segments(
        masks.float(), torch.tensor(labels, dtype=torch.long), torch.tensor(scores), frame or Frame(size, size, size)
    )


def rows(*texts: str) -> torch.Tensor:
    """Masks of one row of pixels each: `.` is 0, a digit d is d / 10."""
    return torch.tensor([[[0.0 if c == "." else int(c) / 10 for c in text]] for text in texts])


def slow_merge(candidates: Segments, settings: ThingsFirst) -> tuple[np.ndarray, list[tuple[int, int, int]]]:
    """The merge pixel by pixel, for masks of picture size: ids and (id, label, source) of each segment."""
    masks, labels = candidates.masks.numpy(), candidates.labels.tolist()
    _, height, width = masks.shape
    ids, found = np.zeros((height, width), dtype=int), []
    pixels = [(y, x) for y in range(height) for x in range(width)]
    for row, label in enumerate(labels):
        if label == VOID or not CATEGORIES.things[label] or float(candidates.scores[row]) < settings.thing_score:
            continue
        mask = [(y, x) for y, x in pixels if masks[row, y, x] > settings.mask_threshold]
        taken = [p for p in mask if ids[p]]
        if not mask or len(taken) > settings.overlap * len(mask):
            continue
        found.append((len(found) + 1, label, row))
        for p in mask:
            ids[p] = ids[p] or len(found)
    stuff = [row for row, label in enumerate(labels) if label == VOID or not CATEGORIES.things[label]]
    best: dict[int, list[tuple[int, int]]] = {row: [] for row in stuff}
    for y, x in pixels:
        if stuff and not ids[y, x] and max(masks[row, y, x] for row in stuff) > 0:
            best[max(stuff, key=lambda row: (masks[row, y, x], -row))].append((y, x))
    for row in stuff:
        if labels[row] == VOID or not best[row] or len(best[row]) < settings.stuff_area:
            continue
        found.append((len(found) + 1, labels[row], row))
        for p in best[row]:
            ids[p] = len(found)
    return ids, found


@pytest.mark.parametrize("seed", range(6))
def test_merge_is_the_slow_merge(seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    coarse = torch.rand(9, 1, 4, 5, generator=random)
    masks = torch.nn.functional.interpolate(coarse, (12, 15), mode="bilinear")[:, 0]
    masks[6:] = (masks[6:] * 4).round() / 4  # ties among stuff
    scores = [*torch.rand(6, generator=random).sort(descending=True).values.tolist(), 0.9, 0.8, 0.7]
    labels = [*(CAR if r > 0.5 else DOG for r in torch.rand(6, generator=random).tolist()), VOID, ROAD, SKY]
    candidates = segments(masks, labels, scores)
    settings = ThingsFirst(thing_score=0.3, mask_threshold=0.55, overlap=0.45, stuff_area=float(8 + seed))
    result = merge_things_first(candidates, CATEGORIES, settings)
    ids, found = slow_merge(candidates, settings)
    assert (result.ids == ids).all()
    assert [(s.id, s.label, s.source) for s in result.segments] == found
    assert [s.area for s in result.segments] == [int((ids == i).sum()) for i, _, _ in found]
    assert [s.score for s in result.segments] == [float(candidates.scores[row]) for _, _, row in found]
    assert len(found) > 1


def merged(masks: torch.Tensor, labels: Sequence[int], scores: Sequence[float], stuff_area: float = 1.0) -> Panoptic:
    return merge_things_first(segments(masks, labels, scores), CATEGORIES, ThingsFirst(stuff_area=stuff_area))


def test_a_thing_half_taken_stays_and_one_more_than_half_goes() -> None:
    result = merged(rows("9999....", "..9999..", "...99999"), [CAR, CAR, DOG], [0.9, 0.8, 0.7])
    assert result.ids.tolist() == [[1, 1, 1, 1, 2, 2, 0, 0]]  # the second has 2 of 4 taken, the third 3 of 5
    assert [(s.id, s.source) for s in result.segments] == [(1, 0), (2, 1)]


def test_scores_and_thresholds_at_their_edges() -> None:
    masks = rows("49......", "..5.....", "....9...")
    result = merged(masks, [CAR, DOG, DOG], [0.5, 0.25, 0.125])
    assert result.ids.tolist() == [[0, 1, 2, 0, 0, 0, 0, 0]]  # 0.4 is not above 0.4; a score of 0.125 is below 0.2
    assert [s.score for s in result.segments] == [0.5, 0.25]


def test_a_thing_without_a_pixel_gets_no_id() -> None:
    result = merged(rows("1111", "9..."), [CAR, DOG], [0.9, 0.8])
    assert [(s.id, s.label, s.source) for s in result.segments] == [(1, DOG, 1)]


def test_void_wins_pixels_and_vanishes() -> None:
    result = merged(rows("9955", "5599", "...."), [VOID, ROAD, SKY], [0.9, 0.9, 0.9])
    assert result.ids.tolist() == [[0, 0, 1, 1]]
    assert [s.label for s in result.segments] == [ROAD]


def test_the_lower_label_wins_a_tie_and_nothing_is_nothing() -> None:
    assert merged(rows("55.", "56."), [ROAD, SKY], [0.9, 0.9]).ids.tolist() == [[1, 2, 0]]


def test_stuff_needs_its_area_in_free_pixels() -> None:
    masks = rows("99....", "999999")
    assert merged(masks, [CAR, SKY], [0.9, 0.9], stuff_area=4.0).ids.tolist() == [[1, 1, 2, 2, 2, 2]]
    assert merged(masks, [CAR, SKY], [0.9, 0.9], stuff_area=4.5).ids.tolist() == [[1, 1, 0, 0, 0, 0]]


def test_nothing_merges_to_nothing() -> None:
    result = merged(torch.zeros(0, 3, 4), [], [])
    assert result.ids.shape == (3, 4)
    assert result.segments == ()


def on_canvas(seed: int = 0) -> Segments:
    """Seven candidates at stride 4 of a padded canvas, for a picture of another size."""
    masks = torch.rand(7, 6, 8, generator=torch.Generator().manual_seed(seed))
    labels, scores = [CAR, DOG, CAR, DOG, VOID, ROAD, SKY], [0.9, 0.8, 0.6, 0.5, 0.9, 0.8, 0.7]
    return segments(masks, labels, scores, Frame((24, 32), (20, 25), (30, 41)))


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ThingsFirst(stuff_area=5.0)
    whole = merge_things_first(on_canvas(), CATEGORIES, settings)
    for limit in ("CHUNK_PIXELS", "STUFF_PIXELS", "BAND_ROWS", "BLOCK_COLUMNS"):
        monkeypatch.setattr(merging, limit, 1)
    parts = merge_things_first(on_canvas(), CATEGORIES, settings)
    assert len(whole.segments) > 2
    assert (whole.ids == parts.ids).all()
    assert whole.segments == parts.segments


@pytest.mark.parametrize("overlap", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(8))
def test_asking_all_things_at_once_is_asking_one_after_the_other(seed: int, overlap: float) -> None:
    random = np.random.default_rng(seed)
    patterns = np.unique(random.random((60, 30)) < random.choice([0.1, 0.3, 0.6]), axis=0)
    counts = random.integers(1, 9, len(patterns))
    areas = counts @ patterns + random.integers(0, 12, 30)
    patterns[:, 5], areas[5] = False, 0  # an empty mask
    stays, taken = [], np.zeros(len(patterns), dtype=bool)
    for mine, area in zip(patterns.T, areas, strict=True):
        stays.append(bool(area > 0 and counts[mine & taken].sum() / area <= overlap))
        taken |= mine & stays[-1]
    assert accepted_things(areas, patterns, counts, overlap).tolist() == stays
    assert 0 < sum(stays) < 30


def test_a_chain_of_things_takes_as_many_rounds_as_it_is_long() -> None:
    """Each hides the next one wholly, so every second stays."""
    patterns = np.array([[i in (j, j + 1) for i in range(60)] for j in range(59)])
    areas, counts = np.array([4, *[8] * 58, 4]), np.full(59, 4)
    assert accepted_things(areas, patterns, counts, 0.4).tolist() == [i % 2 == 0 for i in range(60)]


def test_many_things_on_a_canvas_are_what_whole_masks_give() -> None:
    """More than the bits of two numbers; masks are brought to picture size in bands, of those that reach a band."""
    random = torch.Generator().manual_seed(4)
    y, x = torch.meshgrid(torch.linspace(0, 1, 40), torch.linspace(0, 1, 48), indexing="ij")
    middle, radius = torch.rand(2, 70, 1, 1, generator=random), 0.03 + 0.2 * torch.rand(70, 1, 1, generator=random)
    masks = torch.sigmoid(6 - 6 * ((y - middle[0]) ** 2 + (x - middle[1]) ** 2) / radius**2)
    frame = Frame((160, 192), (150, 187), (211, 263))
    labels, scores = [CAR, DOG] * 35, torch.linspace(0.99, 0.3, 70).tolist()
    result = merge_things_first(segments(masks, labels, scores, frame), CATEGORIES, ThingsFirst())
    ids, sources = np.zeros((211, 263), dtype=int), []
    for row, mask in enumerate((frame.restore(masks) > 0.4).numpy()):
        if mask.any() and (mask & (ids > 0)).sum() / mask.sum() <= 0.5:
            sources.append(row)
            ids[mask & (ids == 0)] = len(sources)
    assert (result.ids == ids).all()
    assert [s.source for s in result.segments] == sources
    assert 10 < len(sources) < 60


def test_axes_are_the_two_resizes() -> None:
    maps = torch.rand(3, 40, 48, generator=torch.Generator().manual_seed(0))
    for original in ((211, 263), (50, 61), (150, 187)):
        frame = Frame((160, 192), (150, 187), original)
        rows, columns = frame.axes(maps)
        torch.testing.assert_close(rows.weights @ maps @ columns.weights.T, frame.restore(maps))
        for axis in (rows, columns):
            read = axis.cells(7, 23)
            assert not axis.weights[7:23, : read.start].any()
            assert not axis.weights[7:23, read.stop :].any()


def test_boxes_are_half_open_and_zero_for_nothing() -> None:
    masks = torch.zeros(3, 5, 7, dtype=torch.bool)
    masks[0, 1:3, 2:6] = True
    masks[1, 4, 6] = True
    assert boxes_of_masks(masks).tolist() == [[2, 1, 6, 3], [6, 4, 7, 5], [0, 0, 0, 0]]


# ---- by argmax


def logits(*texts: str) -> torch.Tensor:
    """Mask logits of one row of pixels each: a letter's place in the alphabet, `.` below all."""
    return torch.tensor([[[-9.0 if c == "." else float(ord(c) - ord("a")) for c in text]] for text in texts])


def by_argmax(masks: torch.Tensor, labels: Sequence[int], min_area: int = 0, released: bool = False) -> Panoptic:
    merge = merge_by_argmax_as_released if released else merge_by_argmax
    return merge(segments(masks, labels, [0.9 - 0.01 * i for i in range(len(labels))]), CATEGORIES, min_area)


def facts(result: Panoptic) -> list[tuple[int, int, int, int | None]]:
    return [(s.id, s.label, s.area, s.source) for s in result.segments]


def slow_argmax(masks: np.ndarray, labels: Sequence[int], min_area: int) -> tuple[np.ndarray, list[tuple[int, ...]]]:
    """The merge by its words, on masks of picture size: groups of rows, of which the tiny ones go until none is."""
    groups: list[list[int]] = []
    for row, label in enumerate(labels):
        mine = [g for g in groups if labels[g[0]] == label and not CATEGORIES.things[label]]
        if mine:
            mine[0].append(row)
        else:
            groups.append([row])
    _, height, width = masks.shape
    while groups:
        ids = np.zeros((height, width), dtype=int)
        for y in range(height):
            for x in range(width):
                best = max((row for g in groups for row in g), key=lambda row: (masks[row, y, x], -row))
                ids[y, x] = next(i for i, g in enumerate(groups, start=1) if best in g)
        areas = [int((ids == i).sum()) for i in range(1, len(groups) + 1)]
        if min(areas) > min_area:
            return ids, [
                (i, labels[g[0]], a, g[0]) for i, (g, a) in enumerate(zip(groups, areas, strict=True), start=1)
            ]
        groups = [g for g, area in zip(groups, areas, strict=True) if area > min_area]
    return np.zeros((height, width), dtype=int), []


@pytest.mark.parametrize("seed", range(8))
def test_argmax_is_the_slow_argmax(seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    coarse = torch.randn(9, 1, 4, 5, generator=random)
    masks = torch.nn.functional.interpolate(coarse, (12, 15), mode="bilinear")[:, 0]
    masks = (masks * 4).round() / 4  # with ties
    labels = torch.randint(0, 4, (9,), generator=random).tolist()
    result = by_argmax(masks, labels, min_area=8 + 4 * seed)
    ids, found = slow_argmax(masks.numpy(), labels, 8 + 4 * seed)
    assert (result.ids == ids).all()
    assert facts(result) == found
    assert len(found) < len(labels)


def test_the_largest_logit_wins_and_the_first_of_equals() -> None:
    result = by_argmax(logits("cc..bb", "..ccbb"), [CAR, DOG])
    assert result.ids.tolist() == [[1, 1, 2, 2, 1, 1]]
    assert facts(result) == [(1, CAR, 4, 0), (2, DOG, 2, 1)]
    assert [s.score for s in result.segments] == pytest.approx([0.9, 0.89])


def test_every_pixel_is_given_to_someone_however_low_its_logits() -> None:
    assert by_argmax(logits("....", "...a"), [CAR, SKY]).ids.tolist() == [[1, 1, 1, 2]]


def test_stuff_of_one_class_is_one_segment_and_things_are_not() -> None:
    masks = logits("d...d...", ".d...d..", "..d...d.", "...d...d")
    result = by_argmax(masks, [ROAD, CAR, ROAD, CAR])
    assert result.ids.tolist() == [[1, 2, 1, 3, 1, 2, 1, 3]]
    assert facts(result) == [(1, ROAD, 4, 0), (2, CAR, 2, 1), (3, CAR, 2, 3)]


def test_stuff_is_tiny_by_all_of_its_pixels() -> None:
    masks = logits("d.......", "......g.", "bb.dddfd")
    assert facts(by_argmax(masks, [SKY, SKY, CAR], min_area=2)) == [(1, SKY, 3, 0), (2, CAR, 5, 2)]


def test_a_tiny_segment_leaves_its_pixels_to_the_next_best() -> None:
    result = by_argmax(logits("dddd....", "....d...", "...cbddd"), [CAR, DOG, DOG], min_area=1)
    assert result.ids.tolist() == [[1, 1, 1, 1, 2, 2, 2, 2]]
    assert facts(result) == [(1, CAR, 4, 0), (2, DOG, 4, 2)]


def test_at_the_limit_a_segment_goes_and_one_pixel_above_it_stays() -> None:
    masks = logits("dddd...", "....ddd")
    assert [s.label for s in by_argmax(masks, [CAR, DOG], min_area=3).segments] == [CAR]
    assert [s.label for s in by_argmax(masks, [CAR, DOG], min_area=2).segments] == [CAR, DOG]


def test_all_tiny_ones_go_at_once_and_what_is_left_grows() -> None:
    """The second and third go in one round, though either would be large enough with the other's pixel."""
    result = by_argmax(logits("dddd....", "....dc..", "....cd..", "aaaaaadd"), [CAR, DOG, CAR, DOG], min_area=1)
    assert result.ids.tolist() == [[1, 1, 1, 1, 2, 2, 2, 2]]
    assert facts(result) == [(1, CAR, 4, 0), (2, DOG, 4, 3)]


def test_all_may_be_dropped_and_nothing_merges_to_nothing_by_argmax() -> None:
    for released in (False, True):
        result = by_argmax(logits("dd..", "..dd"), [CAR, DOG], min_area=2, released=released)
        assert result.segments == ()
        assert result.ids.tolist() == [[0, 0, 0, 0]]
        empty = by_argmax(torch.zeros(0, 3, 4), [], released=released)
        assert empty.segments == ()
        assert empty.ids.shape == (3, 4)
        assert not empty.ids.any()


def test_a_segment_of_no_pixel_is_dropped_without_a_limit() -> None:
    for released in (False, True):
        result = by_argmax(logits("dddd", "aaaa"), [CAR, DOG], released=released)
        assert facts(result) == [(1, CAR, 4, 0)]


def test_released_merging_takes_the_pixels_of_merged_stuff_away() -> None:
    """The second row of road is empty once merged, goes, and its pixels go to the car, which is next best there."""
    masks = logits("dd....", "..dd..", "..ccdd")
    assert facts(by_argmax(masks, [ROAD, ROAD, CAR])) == [(1, ROAD, 4, 0), (2, CAR, 2, 2)]
    assert facts(by_argmax(masks, [ROAD, ROAD, CAR], released=True)) == [(1, ROAD, 2, 0), (2, CAR, 4, 2)]


@pytest.mark.parametrize("seed", range(4))
def test_without_merged_stuff_and_resizing_both_rules_agree(seed: int) -> None:
    masks = torch.nn.functional.interpolate(
        torch.randn(6, 1, 4, 5, generator=torch.Generator().manual_seed(seed)), (24, 30), mode="bilinear"
    )[:, 0]
    ours, released = (by_argmax(masks, [CAR, ROAD, DOG, SKY, CAR, CAR], 90, flag) for flag in (False, True))
    assert (ours.ids == released.ids).all()
    assert ours.segments == released.segments
    assert 1 < len(ours.segments) < 6


def test_argmax_is_taken_at_the_resized_pictures_size_without_the_padding() -> None:
    candidates = on_canvas()
    candidates = Segments(candidates.masks, torch.tensor([CAR] * 7), candidates.scores, candidates.frame)
    result = merge_by_argmax(candidates, CATEGORIES, 0)
    frame = candidates.frame
    owners = frame.restore(candidates.masks, original=frame.size).argmax(0).int().numpy()
    expected = np.asarray(Image.fromarray(owners).resize((41, 30), Image.Resampling.NEAREST))
    sources = {s.id: s.source for s in result.segments}
    assert result.size == (30, 41)
    assert [[sources[i] for i in row] for row in result.ids.tolist()] == expected.tolist()


@pytest.mark.parametrize("merge", [merge_by_argmax, merge_by_argmax_as_released])
def test_chunks_change_no_argmax(merge: Callable[..., Panoptic], monkeypatch: pytest.MonkeyPatch) -> None:
    candidates = on_canvas()
    candidates = Segments(
        (candidates.masks * 5).round(),
        torch.tensor([CAR, DOG, ROAD, SKY, ROAD, CAR, SKY]),
        candidates.scores,
        candidates.frame,
    )
    whole = merge(candidates, CATEGORIES, 20)
    monkeypatch.setattr(merging, "CHUNK_PIXELS", 1)
    parts = merge(candidates, CATEGORIES, 20)
    assert len(whole.segments) > 2
    assert (whole.ids == parts.ids).all()
    assert whole.segments == parts.segments


MEMORY = """
import re, torch
from pathlib import Path
from thingstuff.merging import merge_by_argmax
from thingstuff.panoptic import Categories
from thingstuff.structures import Frame, Segments
torch.manual_seed(0)
categories = Categories(tuple("ab"), (True, False), (1, 2))
masks = torch.nn.functional.interpolate(torch.randn(60, 1, 6, 8), (200, 267), mode="bilinear")[:, 0]
frame = Frame((800, 1067), (800, 1067), (3000, 4000))
labels = torch.tensor([0] * 50 + [1] * 10)
def peak():  # what getrusage tells would include the process that started this one
    return int(re.search(r'VmHWM:\\s+(\\d+) kB', Path('/proc/self/status').read_text())[1])
before = peak()
result = merge_by_argmax(Segments(masks, labels, torch.ones(60), frame), categories, 0)
assert 20 < len(result.segments) < 52, len(result.segments)
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_large_picture_with_many_segments_needs_little_memory() -> None:
    """Sixty masks of 4000 x 3000 pixels at once would be 2.9 GB."""
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert 100_000 < int(done.stdout) < 2_000_000, f"{int(done.stdout) // 1000} MB"
