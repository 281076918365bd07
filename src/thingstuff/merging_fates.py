"""What became of each candidate in the merge, and why: the merge's own rules, asked for their reasons.

Letters: N rows of `Segments`, H W the picture.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from thingstuff.merging import (
    Round,
    ThingsFirst,
    accepted_things,
    best_of_stuff,
    cover,
    first_of_class,
    nearest_rows,
    taken_pixels,
)
from thingstuff.panoptic import VOID, Categories, Panoptic
from thingstuff.structures import Segments

MOST_DIGITS = 17
"""Behind the point, that a reason gives a number with."""


@dataclass(frozen=True)
class Fate:
    """What became of one row of `Segments`.

    `reason` is a short clause ("kept", "score 0.12 below 0.20", ...); `pixels` are those of its own mask at picture
    size before anything competes (for argmax: those it won first), `won` those that it has in the final map, under its
    own id or that of the segment it joined.
    """

    row: int
    kept: bool
    reason: str
    pixels: int
    won: int


def told_apart(value: float, limit: float, digits: int) -> tuple[str, str]:
    """Return two different numbers as texts that differ: with `digits` behind the point, or as many as that takes."""
    while digits < MOST_DIGITS and f"{value:.{digits}f}" == f"{limit:.{digits}f}":
        digits += 1
    return f"{value:.{digits}f}", f"{limit:.{digits}f}"


def fates_things_first(
    segments: Segments, categories: Categories, settings: ThingsFirst, result: Panoptic
) -> list[Fate]:
    """Return what became of each row where `merge_things_first` made `result` of these candidates.

    The pixels of stuff are those where it is the best stuff, before things take theirs.
    """
    won = {s.source: s.area for s in result.segments if s.source is not None}
    is_thing = torch.tensor([*categories.things, False], device=segments.labels.device)[segments.labels]
    fates = _fates_of_things(segments, is_thing.nonzero()[:, 0].tolist(), settings, won)
    fates += _fates_of_stuff(segments, (~is_thing).nonzero()[:, 0].tolist(), categories, settings, result)
    return sorted(fates, key=lambda fate: fate.row)


def _fates_of_things(segments: Segments, rows: list[int], settings: ThingsFirst, won: dict[int, int]) -> list[Fate]:
    scores = segments.scores
    good = [row for row in rows if bool(scores[row] >= settings.thing_score)]
    low = [row for row in rows if row not in set(good)]
    covered = cover(segments.pick(good), settings.mask_threshold)
    accepted = accepted_things(covered.areas, covered.patterns, covered.counts, settings.overlap)
    taken = taken_pixels(covered.patterns, covered.counts, accepted)
    fates = []
    for row, pixels, lost, stays in zip(good, *(a.tolist() for a in (covered.areas, taken, accepted)), strict=True):
        reason = "kept"
        if not pixels:
            reason = "empty mask"
        elif not stays:
            share, limit = told_apart(100 * lost / pixels, 100 * settings.overlap, 1)
            reason = f"{share}% of it lies on better things (limit {limit}%)"
        fates.append(Fate(row, stays, reason, pixels, won.get(row, 0)))
    for row, pixels in zip(low, cover(segments.pick(low), settings.mask_threshold).areas.tolist(), strict=True):
        score, limit = told_apart(float(scores[row]), settings.thing_score, 2)
        reason = f"score {score} below {limit}"
        fates.append(Fate(row, False, reason, pixels, 0))
    return fates


def _fates_of_stuff(
    segments: Segments, rows: list[int], categories: Categories, settings: ThingsFirst, result: Panoptic
) -> list[Fate]:
    best = best_of_stuff(segments.pick(rows))
    of_things = [s.id for s in result.segments if categories.things[s.label]]
    pixels = np.bincount(best.reshape(-1), minlength=len(rows) + 1).tolist()
    free = np.bincount(best[~np.isin(result.ids, of_things)], minlength=len(rows) + 1).tolist()
    fates = []
    for position, row in enumerate(rows, start=1):
        label, own, left = int(segments.labels[row]), pixels[position], free[position]
        kept = label != VOID and left >= settings.least_area
        if label == VOID:
            reason = "stands for things: it only competes with stuff"
        elif kept:
            reason = "kept"
        elif not own:
            reason = "nowhere the best stuff"
        else:
            reason = f"{left:,} free pixels of at least {settings.least_area:,}"
        fates.append(Fate(row, kept, reason, own, left if kept else 0))
    return fates


def fates_by_argmax(
    rounds: Iterable[Round], segments: Segments, categories: Categories, min_area: int, result: Panoptic
) -> list[Fate]:
    """Return what became of each row where `merge_by_argmax` made `result` of these candidates in these rounds."""
    first = first_of_class(segments.labels.tolist(), categories)
    return _fates_of_rounds(segments, rounds, first, min_area, result)


def fates_by_argmax_as_released(
    rounds: Iterable[Round], segments: Segments, categories: Categories, min_area: int, result: Panoptic
) -> list[Fate]:
    """Return what became of each row where `merge_by_argmax_as_released` made `result` of these candidates.

    A row that joined another is empty then, and is dropped for it.
    """
    rows = list(range(len(segments)))
    fates = _fates_of_rounds(segments, rounds, rows, min_area, result)
    first = first_of_class(segments.labels.tolist(), categories)
    joined = "emptied by joining the first of its class, then dropped for being empty"
    return [
        Fate(fate.row, fate.kept, joined, fate.pixels, fate.won) if first[fate.row] != fate.row else fate
        for fate in fates
    ]


def _fates_of_rounds(
    segments: Segments, rounds: Iterable[Round], first: list[int], min_area: int, result: Panoptic
) -> list[Fate]:
    """`first` is the row whose segment each row is part of."""
    size, count = segments.frame.original, len(segments)
    kept = {s.source for s in result.segments}
    dropped_with: dict[int, int] = {}
    won_first = won = np.zeros(count, dtype=np.int64)
    for number, dealt in enumerate(rounds):
        won = np.bincount(nearest_rows(dealt.owner, size).reshape(-1), minlength=count)
        won_first = won if number == 0 else won_first
        gone = {first[row] for row in dealt.rows} - set(dealt.left)
        dropped_with |= {row: int(dealt.areas[row]) for row in gone}
    fates = []
    for row, own in enumerate(first):
        pixels, is_own = int(won_first[row]), own == row
        if own in kept:
            reason = "kept" if is_own else "joined the first of its class, which is stuff"
            fates.append(Fate(row, True, reason, pixels, int(won[row])))
            continue
        area = dropped_with[own]
        few = f"{area:,} pixel{'' if area == 1 else 's'}, not more than {min_area:,}"
        reason = "won no pixel" if not area else few if is_own else f"with its class, of {few}"
        fates.append(Fate(row, False, reason, pixels, 0))
    return fates
