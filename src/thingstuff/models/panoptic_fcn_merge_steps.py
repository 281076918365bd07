"""How Panoptic FCN's masks compete: rescoring, overlaps and what is dropped, as steps of its walk."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from thingstuff.merging_fates import Fate, fates_things_first
from thingstuff.models.panoptic_fcn_mask_steps import MASKS
from thingstuff.models.panoptic_fcn_trace import SOME_THING, Trace
from thingstuff.models.shared_steps import map_axes
from thingstuff.panoptic import VOID
from thingstuff.structures import Segments
from thingstuff.walk import Labelled, MapView, PixelsView, Row, Step, TableView, View, picture_array

CHAPTER = "The map"
MOST_LISTED = 100
"""Most things in a table, the best."""


# ---- rescoring


def rescored_step(trace: Trace) -> Step:
    """Return the step in which masks change the scores of their things, and things are dropped for it."""
    c, segments, rescored = trace.model.config, trace.seen.segments, trace.rescored
    nms = (
        " Then Matrix NMS makes scores smaller: a thing loses by its overlap with better ones of its class."
        if c.nms
        else ""
    )
    return Step(
        name="rescored",
        chapter=MASKS,
        title="Sure masks raise scores, unsure ones lower them",
        question="Is a thing's score that of its centre?",
        text=(
            "Not alone: each thing's score is multiplied by the mean probability of its mask where that exceeds "
            f"{c.mask_threshold:g}.{nms} Things below {c.rescored_threshold:g} are dropped, and all but the best "
            f"{c.candidates}: {len(rescored.order)} of {len(rescored.inside)} are left. Stuff keeps its scores."
        ),
        paper="Li et al. 2021, the authors' code" + ("; Wang et al. 2020 (SOLOv2), section 3.3" if c.nms else ""),
        source="thingstuff.models.panoptic_fcn_kernels.rescore",
        tensors=(
            Labelled("mean probability inside", rescored.inside, ("things after fusion",)),
            Labelled("decay", rescored.decay, ("things after fusion",)),
            Labelled("scores", segments.scores.cpu(), ("things by falling score, then stuff by class",)),
            Labelled("labels", segments.labels.cpu(), ("things by falling score, then stuff by class",)),
            Labelled("masks", segments.masks.cpu(), map_axes("things by falling score, then stuff by class", 4)),
        ),
        views=(_score_table(trace),),
        after=("masks",),
        notes=_score_notes(trace),
    )


def _products(trace: Trace) -> list[float]:
    products = trace.fused_things.scores * trace.rescored.inside * trace.rescored.decay
    return [min(1.0, product) for product in products.tolist()]


def _score_table(trace: Trace) -> TableView:
    nms, left = trace.model.config.nms, set(trace.rescored.order.tolist())
    rows = []
    for fused, product in list(enumerate(_products(trace)))[:MOST_LISTED]:
        scores = [float(trace.fused_things.scores[fused]), float(trace.rescored.inside[fused])]
        scores += [float(trace.rescored.decay[fused])] if nms else []
        name = f"{trace.thing_names[int(trace.fused_things.labels[fused])]} {fused + 1}"
        cells = (name, *(min(1.0, score) for score in scores), product, "yes" if fused in left else "dropped")
        rows.append(Row(cells, fused in left, trace.thing_segments[fused]))
    return TableView(
        title="Scores of things",
        caption="Their numbers are those of the masks before.",
        columns=("thing", "centre", "mean inside", *(["decay by NMS"] if nms else []), "score", "left"),
        rows=tuple(rows),
    )


def _score_notes(trace: Trace) -> dict[int, str]:
    notes: dict[int, str] = {}
    for fused, (ids, product) in enumerate(zip(trace.thing_segments, _products(trace), strict=True)):
        centre, inside = float(trace.fused_things.scores[fused]), float(trace.rescored.inside[fused])
        decay = f" × {float(trace.rescored.decay[fused]):.2f} (NMS)" if trace.model.config.nms else ""
        told = f"{centre:.2f} (centre) × {inside:.2f} (mean probability inside){decay} = {product:.2f}."
        notes.update(dict.fromkeys(ids, told))
    return notes


# ---- merging


def merged_step(trace: Trace) -> Step:
    """Return the step of the merge: things by falling score, then stuff in what is left."""
    c, seen = trace.model.config, trace.seen
    settings = trace.model.merge_settings(seen.result.size)
    fates = fates_things_first(seen.segments, seen.result.categories, settings, seen.result)
    segments = Segments(seen.segments.masks.cpu(), seen.segments.labels.cpu(), seen.segments.scores.cpu(), trace.frame)
    things, stuff = (_best(segments, rows) for rows in _rows_by_kind(trace, segments))
    return Step(
        name="merged",
        chapter=CHAPTER,
        title="Overlaps: things first, then stuff",
        question="Two masks claim one pixel: who gets it, and who is dropped?",
        text=(
            f"Things of at least {c.thing_score:g} are pasted by falling score; each takes the pixels of its mask that "
            f"are still free, and is dropped where more than {c.overlap:.0%} of them are taken. Stuff shares the rest: "
            f"each pixel goes to the likeliest, and classes with less than {settings.stuff_area:,.0f} pixels are "
            f"dropped. Of {len(fates)} candidates {sum(fate.kept for fate in fates)} are kept."
        ),
        paper="Kirillov et al. 2019a, section 4; Li et al. 2021, section 4.1",
        source="thingstuff.merging.merge_things_first",
        tensors=(
            Labelled("highest probability of a thing", things, ("rows of the picture", "columns")),
            Labelled("highest probability of stuff", stuff, ("rows of the picture", "columns")),
            Labelled("scores that compete", segments.scores, ("things by falling score, then stuff by class",)),
            Labelled(
                "pixels", torch.tensor([[f.pixels, f.won] for f in fates]).view(-1, 2), ("candidates", "own, won")
            ),
        ),
        views=(*_before_and_after(trace, segments), _fate_table(trace, fates)),
        after=("rescored",),
        notes=_fate_notes(trace, fates),
    )


def _rows_by_kind(trace: Trace, segments: Segments) -> tuple[list[int], list[int]]:
    """Return the rows of things that take part in the merge, and those of stuff."""
    first = len(trace.rescored.order)
    things = [row for row in range(first) if segments.scores[row] >= trace.model.config.thing_score]
    return things, list(range(first, len(segments)))


def _best(segments: Segments, rows: Sequence[int]) -> Float[Tensor, "H W"]:
    """Return the highest probability of some rows at each pixel of the picture, brought there one by one."""
    best = segments.masks.new_zeros(segments.frame.original)
    for row in rows:
        best = torch.maximum(best, segments.frame.restore(segments.masks[row : row + 1])[0])
    return best


def _before_and_after(trace: Trace, segments: Segments) -> list[View]:
    """Return what things claim, what stuff claims, how many claim each cell, and who has it in the end."""
    things, stuff = _rows_by_kind(trace, segments)
    threshold = trace.model.config.mask_threshold
    claimed = segments.masks[things] > threshold
    best = torch.full(tuple(segments.masks.shape[1:]), -1)
    for row, mask in reversed(list(zip(things, claimed, strict=True))):
        best[mask] = row
    likeliest = segments.masks[stuff].argmax(0) + stuff[0] if stuff else torch.full_like(best, -1)
    after = torch.full(tuple(trace.seen.result.size), -1)
    for segment in trace.seen.result.segments:
        assert segment.source is not None
        after[torch.from_numpy(trace.seen.result.ids == segment.id)] = segment.source
    return [
        PixelsView(
            title="Before: what things claim",
            caption=f"Each in a colour of its own where its mask exceeds {threshold:g}, better ones above.",
            pixels=_painted(trace, segments, best),
        ),
        MapView(
            title="Before: how many things claim each cell",
            values=picture_array(claimed.sum(0)),
            unit="things",
            low=0.0,
        ),
        PixelsView(
            title="Before: what stuff claims",
            caption="Each cell in the colour of its likeliest stuff; grey: some thing.",
            pixels=_painted(trace, segments, likeliest),
        ),
        PixelsView(title="After", caption="Black: nobody's.", pixels=_painted(trace, segments, after), padded=False),
    ]


def _painted(trace: Trace, segments: Segments, rows: Int[Tensor, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Return cells in the colour of their candidate, black for -1: stuff in its class's, things each in its own."""
    things, colors = len(trace.rescored.order), trace.model.categories.colors
    palette = [_colour(row) for row in range(things)]
    palette += [(150, 150, 150) if v == VOID else colors[v] for v in segments.labels[things:].tolist()]
    painted: UInt8[np.ndarray, "h w 3"] = np.array([*palette, (0, 0, 0)], dtype=np.uint8)[rows.numpy()]
    return painted


def _colour(index: int) -> tuple[int, int, int]:
    """Return a colour unlike those of the indices near it."""
    turn = index * 0.618 % 1 * 6
    red, green, blue = (
        round(255 * (0.35 + 0.6 * min(1.0, max(0.0, abs((turn + shift) % 6 - 3) - 1)))) for shift in (0, 4, 2)
    )
    return red, green, blue


def _name(trace: Trace, row: int) -> str:
    things = trace.rescored.order.tolist()
    if row < len(things):
        fused = things[row]
        return f"{trace.thing_names[int(trace.fused_things.labels[fused])]} {fused + 1}"
    return trace.region_names[int(trace.fused_stuff.labels[row - len(things)])]


def _segments_of_rows(trace: Trace) -> list[tuple[int, ...]]:
    return [*(trace.thing_segments[fused] for fused in trace.rescored.order.tolist()), *trace.stuff_segments]


def _fate_table(trace: Trace, fates: list[Fate]) -> TableView:
    scores, ids = trace.seen.segments.scores.tolist(), _segments_of_rows(trace)
    rows = []
    for fate in fates:
        share = fate.won / fate.pixels if fate.pixels else 0.0
        cells = (_name(trace, fate.row), min(1.0, scores[fate.row]), f"{fate.pixels:,}", min(1.0, share), fate.reason)
        rows.append(Row(cells, fate.kept, ids[fate.row]))
    return TableView(
        title="What became of each candidate",
        caption=f"Pixels of stuff are those where it is the likeliest stuff; {SOME_THING} is never kept.",
        columns=("candidate", "score", "pixels of its own mask", "share of them it has in the end", "why"),
        rows=tuple(rows),
    )


def _fate_notes(trace: Trace, fates: list[Fate]) -> dict[int, str]:
    notes, ids = dict[int, str](), _segments_of_rows(trace)
    for fate in fates:
        told = f"Of {fate.pixels:,} pixels that it claims it has {fate.won:,} in the end."
        notes.update(dict.fromkeys(ids[fate.row], told))
    return notes
