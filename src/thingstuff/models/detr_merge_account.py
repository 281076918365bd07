"""How DETR's merge dealt out the pixels, kept from one run of its own rounds.

Letters: N rows of `Segments`, H W the resized picture.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from thingstuff.merging import Round, at_resized_size, restore_in_chunks, rounds_by_argmax, rounds_by_argmax_as_released
from thingstuff.merging_fates import Fate, fates_by_argmax, fates_by_argmax_as_released
from thingstuff.models.detr import DETRPanoptic
from thingstuff.structures import Segments
from thingstuff.walk import Seen


@dataclass(frozen=True, eq=False)
class MergeAccount:
    """Who owned each pixel first and last, in how many rounds, and what became of each row.

    Rows are those of `Segments`; -1 is nobody, where there are none or none is left.
    """

    first: Int[np.ndarray, "H W"]
    last: Int[np.ndarray, "H W"]
    whole: Int[np.ndarray, "_ _"]
    """The row whose segment each pixel of the picture is in at the end."""
    rounds: int
    fates: list[Fate]
    leads: Float[Tensor, "H W"]
    """By how much the first owner's logit leads the next."""
    logits: Float[Tensor, "H W"]
    """Of the last owner."""


def account_of(model: DETRPanoptic, seen: Seen) -> MergeAccount:
    """Return the account of one picture's merge."""
    config, segments = model.config, seen.segments
    rule, fates = (
        (rounds_by_argmax_as_released, fates_by_argmax_as_released)
        if config.as_released
        else (rounds_by_argmax, fates_by_argmax)
    )
    size, original = segments.frame.size, segments.frame.original
    first = last = np.full(size, -1, dtype=np.int64)
    whole, count = np.full(original, -1, dtype=np.int64), 0

    def noted() -> Iterator[Round]:
        nonlocal first, last, whole, count
        for dealt in rule(segments, model.categories, config.min_area):
            count += 1
            if count == 1:
                first = dealt.owner.copy()  # the next round changes it
            last, whole = dealt.owner, dealt.whole if dealt.left else np.full(original, -1, dtype=np.int64)
            yield dealt

    told = fates(noted(), segments, model.categories, config.min_area, seen.result)
    resized = at_resized_size(segments)
    logits = values_of(resized, torch.from_numpy(last).to(resized.masks.device)).cpu()
    return MergeAccount(first, last, whole, count, told, leads_by_argmax(resized).cpu(), logits)


def leads_by_argmax(segments: Segments) -> Float[Tensor, "H W"]:
    """Return by how much each pixel's largest value at picture size leads the next; 0 where there are not two rows."""
    best: Tensor | None = None
    for chunk in restore_in_chunks(segments):
        known = chunk if best is None else torch.cat([best, chunk])
        best = known.topk(min(2, len(known)), dim=0).values
    if best is None or len(best) < 2:
        return segments.masks.new_zeros(segments.frame.original)
    return best[0] - best[1]


def values_of(segments: Segments, rows: Int[Tensor, "H W"]) -> Float[Tensor, "H W"]:
    """Return at each pixel of picture size the value of the row that is named there; 0 where there are no rows."""
    result = segments.masks.new_zeros(segments.frame.original)
    start = 0
    for chunk in restore_in_chunks(segments):
        inside = (rows >= start) & (rows < start + len(chunk))
        own = chunk.gather(0, (rows - start).clamp(0, len(chunk) - 1)[None])[0]
        result = torch.where(inside, own, result)
        start += len(chunk)
    return result
