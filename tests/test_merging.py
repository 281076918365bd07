"""The things-first merge against a slow reference that looks at one pixel at a time, and by hand at its edges."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from thingstuff import merging
from thingstuff.boxes import boxes_of_masks
from thingstuff.merging import ThingsFirst, instances, merge_things_first, semantic_probabilities
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
    probabilities = semantic_probabilities(on_canvas(), CATEGORIES)
    monkeypatch.setattr(merging, "CHUNK_PIXELS", 1)
    parts = merge_things_first(on_canvas(), CATEGORIES, settings)
    assert len(whole.segments) > 2
    assert (whole.ids == parts.ids).all()
    assert whole.segments == parts.segments
    assert torch.equal(semantic_probabilities(on_canvas(), CATEGORIES), probabilities)


def test_instances_are_all_scored_things_before_they_compete() -> None:
    candidates = on_canvas()
    found = instances(candidates, CATEGORIES, 0.6)
    expected = candidates.frame.restore(candidates.masks[:4]) > 0.6
    assert torch.equal(found.masks, expected)
    assert found.labels.tolist() == [CAR, DOG, CAR, DOG]
    assert found.scores.tolist() == candidates.scores[:4].tolist()
    assert torch.equal(found.boxes_xyxy, boxes_of_masks(expected))
    none = instances(candidates.pick([4, 5]), CATEGORIES, 0.6)
    assert none.masks.shape == (0, 30, 41)
    assert none.boxes_xyxy.shape == (0, 4)


def test_semantic_probabilities_stand_by_label_with_void_last() -> None:
    candidates = on_canvas().pick([0, 4, 6])
    probabilities = semantic_probabilities(candidates, CATEGORIES)
    restored = candidates.frame.restore(candidates.masks)
    assert probabilities.shape == (5, 30, 41)
    assert torch.equal(probabilities[SKY], restored[2])
    assert torch.equal(probabilities[VOID], restored[1])
    assert not probabilities[[ROAD, CAR, DOG]].any()
    assert not semantic_probabilities(candidates.pick([]), CATEGORIES).any()


def test_boxes_are_half_open_and_zero_for_nothing() -> None:
    masks = torch.zeros(3, 5, 7, dtype=torch.bool)
    masks[0, 1:3, 2:6] = True
    masks[1, 4, 6] = True
    assert boxes_of_masks(masks).tolist() == [[2, 1, 6, 3], [6, 4, 7, 5], [0, 0, 0, 0]]
