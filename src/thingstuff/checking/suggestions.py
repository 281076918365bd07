"""Settings of a training that fit a data set, by a few plain rules on the sizes and numbers of its pictures and things.

Starting points, not results: each comes with the reason that it was derived from.
"""

import math
from typing import NamedTuple

import numpy as np

from thingstuff.checking.tally import Tally

SMALL_THING = 32
"""Pixels (square root of the area) that a lower-quartile thing is to have once its picture is resized."""
SHORT_SIDES = (320, 800)
"""The least and the greatest shorter side; the latter is what models are pretrained with."""
LARGEST_RATIO = 2.0
"""Longer side over shorter side above which long pictures are made smaller."""
ENLARGED = 2.0
"""How much small pictures are enlarged at most."""
PIXELS_OF_A_BATCH = 4 * 800 * 1333
"""Four pictures of the usual size: what the recipes are made for."""
PASSES = 60
"""Times that each training picture is seen."""
STEPS = (1000, 40_000)


class Suggestion(NamedTuple):
    """A setting that `thingstuff train` takes as key=value, and why."""

    key: str
    value: int
    why: str

    def __str__(self) -> str:
        return f"{self.key}={self.value}"


def suggest(tally: Tally) -> tuple[Suggestion, ...]:
    """Return settings for a training on a split: sizes of the pictures, batch and steps; none for a split without any.

    The shorter side is that at which a lower-quartile thing is `SMALL_THING` pixels across, within `SHORT_SIDES` and
    at most `ENLARGED` times the median picture's; without things, the median picture's own. Both sides are multiples
    of 32, and a recipe's `augment.short_sides` follow them. A batch has as many pixels as the recipes' usual one, from
    2 to 16 pictures.
    """
    if not tally.shorts:
        return ()
    shorts, longs = np.asarray(tally.shorts), np.asarray(tally.longs)
    median, ratio = float(np.median(shorts)), float(np.quantile(longs / shorts, 0.95))
    wanted, why = median, f"pictures have a median shorter side of {median:.0f}"
    if tally.objects:
        # the area is over the picture's: times both sides of a median picture it is in its pixels
        longer = median * float(np.median(longs / shorts))
        across = math.sqrt(max(float(np.quantile(np.asarray(tally.objects), 0.25)) * median * longer, 1.0))
        wanted = median * SMALL_THING / across
        why += f", where a lower-quartile thing is {across:.0f} pixels across and {SMALL_THING} are wanted"
    short = _sides(min(max(wanted, SHORT_SIDES[0]), SHORT_SIDES[1], ENLARGED * median))
    longest = _sides(short * min(ratio, LARGEST_RATIO))
    batch = min(max(round(PIXELS_OF_A_BATCH / (short * longest)), 2), 16, max(1, tally.pictures))
    steps = min(max(math.ceil(PASSES * tally.pictures / batch / 100) * 100, STEPS[0]), STEPS[1])
    passes = steps * batch / tally.pictures
    return (
        Suggestion("preprocess.short_side", short, why),
        Suggestion(
            "preprocess.max_side", longest, f"95 % of the pictures are at most {ratio:.2f} times as long as short"
        ),
        Suggestion("batch_size", batch, f"as many pixels as 4 pictures of 800 x 1333, if {batch} fit into memory"),
        Suggestion("steps", steps, f"{passes:.0f} passes over {tally.pictures:,} pictures"),
    )


def _sides(pixels: float | int) -> int:
    """Round up to a multiple of 32, which the networks' strides ask for."""
    return max(32, math.ceil(pixels / 32 - 1e-9) * 32)
