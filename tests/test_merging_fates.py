"""What became of each candidate: the reasons against a reference that asks one pixel at a time."""

import pytest
import torch
import torch.nn.functional as F

from thingstuff.merging import ThingsFirst, merge_things_first
from thingstuff.merging_fates import Fate, fates_things_first, told_apart
from thingstuff.panoptic import VOID, Categories
from thingstuff.structures import Frame, Segments

CATEGORIES = Categories(("road", "car", "sky", "dog"), (False, True, False, True), (1, 2, 5, 9))
ROAD, CAR, SKY, DOG = range(4)
SIZE = (12, 15)


# ---- things first


def random_candidates(seed: int) -> Segments:
    """Eight things, one of them empty, then "some thing" and two kinds of stuff, at picture size."""
    random = torch.Generator().manual_seed(seed)
    masks = F.interpolate(torch.rand(11, 1, 4, 5, generator=random), SIZE, mode="bilinear")[:, 0]
    masks[seed % 8] = 0.1
    masks[8:] = (masks[8:] * 4).round() / 4  # ties among stuff
    scores = [*torch.rand(8, generator=random).sort(descending=True).values.tolist(), 0.9, 0.8, 0.7]
    labels = [*(CAR if r > 0.5 else DOG for r in torch.rand(8, generator=random).tolist()), VOID, ROAD, SKY]
    return Segments(masks, torch.tensor(labels), torch.tensor(scores), Frame(SIZE, SIZE, SIZE))


def plain_things_first(candidates: Segments, settings: ThingsFirst) -> list[Fate]:
    """The fates by the merge's words, pixel by pixel, for masks of picture size."""
    pixels = [(y, x) for y in range(SIZE[0]) for x in range(SIZE[1])]
    masks, taken, fates = candidates.masks.tolist(), dict.fromkeys(pixels, -1), []
    for row in range(8):
        score = float(candidates.scores[row])
        own = [(y, x) for y, x in pixels if masks[row][y][x] > settings.mask_threshold]
        free = [p for p in own if taken[p] < 0]
        lost = len(own) - len(free)
        if score < settings.thing_score:
            reason = f"score {score:.2f} below {settings.thing_score:.2f}"
        elif not own:
            reason = "empty mask"
        elif lost > settings.overlap * len(own):
            reason = f"{100 * lost / len(own):.1f}% of it lies on better things (limit 45.0%)"
        else:
            reason = "kept"
            taken.update(dict.fromkeys(free, row))
        fates.append(Fate(row, reason == "kept", reason, len(own), len(free) if reason == "kept" else 0))
    best = {(y, x): max((8, 9, 10), key=lambda row: (masks[row][y][x], -row)) for y, x in pixels}
    for row in (8, 9, 10):
        own = [p for p in pixels if best[p] == row and masks[row][p[0]][p[1]] > 0]
        free = [p for p in own if taken[p] < 0]
        reason = "kept" if len(free) >= settings.stuff_area else f"{len(free)} free pixels of at least 25"
        reason = "nowhere the best stuff" if not own else reason
        reason = "stands for things: it only competes with stuff" if row == 8 else reason
        fates.append(Fate(row, reason == "kept", reason, len(own), len(free) if reason == "kept" else 0))
    return fates


@pytest.mark.parametrize("seed", range(8))
def test_fates_of_things_first_are_those_of_a_plain_merge(seed: int) -> None:
    candidates = random_candidates(seed)
    settings = ThingsFirst(thing_score=0.3, mask_threshold=0.55, overlap=0.45, stuff_area=24.5)
    result = merge_things_first(candidates, CATEGORIES, settings)
    fates = fates_things_first(candidates, CATEGORIES, settings, result)
    assert fates == plain_things_first(candidates, settings)
    assert {fate.row: fate.won for fate in fates if fate.kept} == {s.source: s.area for s in result.segments}


def test_every_reason_of_things_first_occurs() -> None:
    settings = ThingsFirst(thing_score=0.3, mask_threshold=0.55, overlap=0.45, stuff_area=24.5)
    reasons = set()
    for seed in range(8):
        candidates = random_candidates(seed)
        result = merge_things_first(candidates, CATEGORIES, settings)
        fates = fates_things_first(candidates, CATEGORIES, settings, result)
        reasons |= {"".join(c for c in fate.reason if c.isalpha()) for fate in fates}
    candidates.masks[10] = 0
    result = merge_things_first(candidates, CATEGORIES, settings)
    assert fates_things_first(candidates, CATEGORIES, settings, result)[10].reason == "nowhere the best stuff"
    assert reasons == {
        "kept",
        "emptymask",
        "scorebelow",
        "ofitliesonbetterthingslimit",
        "freepixelsofatleast",
        "standsforthingsitonlycompeteswithstuff",
    }


@pytest.mark.parametrize(
    ("score", "limit", "told"),
    [
        (0.12, 0.2, "score 0.12 below 0.20"),
        (0.1996, 0.2, "score 0.1996 below 0.2000"),
        (0.2341, 0.2345, "score 0.2341 below 0.2345"),
    ],
)
def test_a_score_below_the_limit_is_told_as_below_it(score: float, limit: float, told: str) -> None:
    masks = torch.full((1, *SIZE), 0.9)
    candidates = Segments(masks, torch.tensor([CAR]), torch.tensor([score]), Frame(SIZE, SIZE, SIZE))
    settings = ThingsFirst(thing_score=limit)
    result = merge_things_first(candidates, CATEGORIES, settings)
    (fate,) = fates_things_first(candidates, CATEGORIES, settings, result)
    assert (fate.kept, fate.reason) == (False, told)


@pytest.mark.parametrize(
    ("taken", "limit", "told"),
    [
        (60, 0.5, "60.0% of it lies on better things (limit 50.0%)"),
        (51, 0.5, "51.0% of it lies on better things (limit 50.0%)"),
        (50, 0.4999, "50.00% of it lies on better things (limit 49.99%)"),
    ],
)
def test_a_share_above_the_limit_is_told_as_above_it(taken: int, limit: float, told: str) -> None:
    masks = torch.zeros(2, 10, 10)
    masks[0].flatten()[:taken], masks[1] = 0.9, 0.9
    frame = Frame((10, 10), (10, 10), (10, 10))
    candidates = Segments(masks, torch.tensor([CAR, DOG]), torch.tensor([0.9, 0.8]), frame)
    settings = ThingsFirst(overlap=limit)
    result = merge_things_first(candidates, CATEGORIES, settings)
    fates = fates_things_first(candidates, CATEGORIES, settings, result)
    assert [(fate.kept, fate.reason) for fate in fates] == [(True, "kept"), (False, told)]


def test_numbers_that_no_digit_tells_apart_end_too() -> None:
    value, limit = told_apart(0.1, 0.1, 2)
    assert value == limit


def test_no_candidates_have_no_fates() -> None:
    frame = Frame((8, 8), (8, 8), (16, 16))
    none = Segments(torch.zeros(0, 4, 4), torch.zeros(0, dtype=torch.long), torch.zeros(0), frame)
    settings = ThingsFirst()
    assert fates_things_first(none, CATEGORIES, settings, merge_things_first(none, CATEGORIES, settings)) == []
