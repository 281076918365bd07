"""The steps of DETR's walk in which masks compete: who won each pixel, and what was joined and dropped.

Letters: N kept queries, H W the resized picture.
"""

from collections import Counter

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from thingstuff.merging_fates import Fate
from thingstuff.models.detr_kept_queries import DETRPass, KeptQuery, percent
from thingstuff.walk import Labelled, MapView, PixelsView, Row, Step, TableView, picture_array

RESIZED = ("rows of the resized picture", "columns")
LIGHTNESS = (1.0, 0.7, 0.85, 0.55)
"""Of the colours of queries of one class, one after the other."""
SQUEEZED = (
    " This model is set to merge as the released code does: the masks of the padded canvas are taken for those of the "
    "picture, so padding squeezes them."
)
EMPTIED = (
    " This model is set to merge as the released code does: what joins another is empty then, so it is dropped as too "
    "small, and its pixels are dealt again."
)


def argmax_step(p: DETRPass) -> Step:
    """Return the step of the argmax: who won each pixel, and by how much."""
    winners, leads = p.merge.first, p.merge.leads
    height, width = p.frame.size
    padding = p.seen.images.canvas[0] - height, p.seen.images.canvas[1] - width
    on_canvas = np.pad(picture_array(leads), ((0, padding[0]), (0, padding[1])))
    few = "" if len(p.kept) > 1 else " There are not two queries here, so nothing is led."
    return Step(
        name="argmax",
        chapter="The map",
        title="Argmax: who won each pixel",
        question="Who won each pixel, and by how much?",
        text=(
            f"The {len(p.kept)} maps of logits are enlarged (bilinear) to the canvas, the padding is cut off, and "
            f"each of {width} × {height} pixels goes to the query with the largest logit there. Class probabilities "
            "take no part, and no pixel stays free: a query with a negative logit wins too, where all others are "
            f"lower.{SQUEEZED if p.model.config.as_released else ''}"
        ),
        paper="Carion et al. 2020, section 4.4",
        source="thingstuff.merging.merge_by_argmax",
        tensors=(
            Labelled("winning rows", torch.from_numpy(winners), RESIZED),
            Labelled("lead of the winner over the next", leads, RESIZED),
        ),
        views=(
            PixelsView(
                title="Winners",
                caption=f"{_legend(p)} Queries of one class differ in lightness.",
                pixels=_coloured(p, winners),
                padded=False,
            ),
            MapView(
                title="Lead of the winner",
                caption=f"Dark borders are where two queries want the same pixels.{few}",
                values=on_canvas,
                unit="logit of the winner less that of the next",
                low=0.0,
            ),
        ),
        after=("mask_logits",),
        notes=p.notes(lambda row, k: _lead_note(k, winners == row, leads)),
    )


def _coloured(p: DETRPass, owner: Int[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Return a map of rows in the colours of their classes; black where there is none (-1)."""
    seen: Counter[int] = Counter()
    colors = np.zeros((len(p.kept) + 1, 3))
    for row, kept in enumerate(p.kept):
        colors[row] = np.array(p.model.categories.colors[kept.label]) * LIGHTNESS[seen[kept.label] % len(LIGHTNESS)]
        seen[kept.label] += 1
    pixels: UInt8[np.ndarray, "h w 3"] = colors.round().astype(np.uint8)[owner]
    return pixels


def _legend(p: DETRPass) -> str:
    """Return whose colours there are, in words: the classes with their queries."""
    classes: dict[str, list[str]] = {}
    for kept in p.kept:
        classes.setdefault(kept.name, []).append(str(kept.query))
    if not classes:
        return "No query was kept."
    named = (f"{name} ({'query' if len(q) == 1 else 'queries'} {', '.join(q)})" for name, q in classes.items())
    return f"Colours are those of the classes: {', '.join(named)}."


def _lead_note(kept: KeptQuery, won: np.ndarray, leads: Float[Tensor, "H W"]) -> str:
    count = int(won.sum())
    if not count:
        return f"Query {kept.query} won no pixel."
    middle = float(leads[torch.from_numpy(won)].median())
    return (
        f"Query {kept.query} won {count:,} pixels ({percent(count / won.size)} of the resized picture), half of them "
        f"by more than {middle:.1f}."
    )


# ---- joining and dropping


def merging_step(p: DETRPass) -> Step:
    """Return the step of joining and dropping: the pixels' owners before and after, and every row's fate."""
    config, merge, fates = p.model.config, p.merge, p.merge.fates
    rounds = max(1, merge.rounds)
    ended = sum(1 for fate in fates if not fate.kept)
    return Step(
        name="merging",
        chapter="The map",
        title="Joining and dropping",
        question="What was joined, what was dropped, and who got its pixels?",
        text=(
            "Stuff is one segment a class, so queries of one stuff class join; things stay apart. At the size of the "
            f"picture, segments of {config.min_area} pixels or fewer are dropped, and their pixels go to the next best "
            f"query, until none is so small: {rounds} round{'' if rounds == 1 else 's'} here, {ended} of "
            f"{len(fates)} queries dropped.{EMPTIED if config.as_released else ''}"
        ),
        paper="Carion et al. 2020, section 4.4",
        source="thingstuff.merging.merge_by_argmax",
        tensors=(
            Labelled("winning rows, before", torch.from_numpy(merge.first), RESIZED),
            Labelled("segments' rows, after", torch.from_numpy(merge.whole), ("rows of the picture", "columns")),
            Labelled("logit of each pixel's owner", merge.logits, RESIZED),
        ),
        views=(
            PixelsView(title="Before", caption=_legend(p), pixels=_coloured(p, merge.first), padded=False),
            PixelsView(
                title="After",
                caption="Joined stuff has one colour.",
                pixels=_coloured(p, merge.whole),
                padded=False,
            ),
            _fate_table(p, fates),
        ),
        after=("argmax", "class_scores"),
        notes=p.notes(lambda row, k: _fate_note(k, fates[row])),
    )


def _fate_table(p: DETRPass, fates: list[Fate]) -> TableView:
    pixels = p.frame.original[0] * p.frame.original[1]
    return TableView(
        title="What became of each query",
        caption=(
            "Shares of the picture: what each won first, and what of it lies in the final map. Joined queries are "
            "counted apart; their segment has the sum."
        ),
        columns=("query", "won first", "its own share in the end", "outcome"),
        rows=tuple(
            Row((k.title, f.pixels / pixels, f.won / pixels, f.reason), kept=f.kept, segments=k.segments)
            for k, f in zip(p.kept, fates, strict=True)
        ),
    )


def _fate_note(kept: KeptQuery, fate: Fate) -> str:
    return f"Query {kept.query}: {fate.reason}; {fate.pixels:,} pixels of its own before, {fate.won:,} after."
