"""The step of the things-first merge, for the walks of the models that merge so.

Letters: h w a map of the canvas or of the picture.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from thingstuff.merging import ThingsFirst, best_of_stuff
from thingstuff.merging_fates import Fate, fates_things_first
from thingstuff.models.shared_steps import counted, map_axes, segment_of_row, share
from thingstuff.panoptic import VOID, Color
from thingstuff.walk import Labelled, MapView, PixelsView, Row, Seen, Step, TableView, picture_array

SOME_THING = "some thing"
"""The name of the row that stands for all things and competes with stuff ..."""
GREY: Color = (128, 128, 128)
"""... and its colour."""
CANDIDATES = "candidates: things by falling score, then stuff by class"


def things_first_step(
    seen: Seen, settings: ThingsFirst, names: Sequence[str], *, name: str, after: tuple[str, ...], paper: str
) -> Step:
    """Return the step in which things take pixels by falling score, and stuff what they leave.

    `names` has one for each candidate, `paper` is the section that says so; the masks' stride is a whole number.
    """
    segments, categories = seen.segments, seen.result.categories
    fates = fates_things_first(segments, categories, settings, seen.result)
    things = [label != VOID and categories.things[label] for label in segments.labels.tolist()]
    kept = [fate for fate in fates if fate.kept]
    lost = sum(fate.pixels - fate.won for fate in kept if things[fate.row])
    stride = segments.frame.canvas[1] // segments.masks.shape[2]
    return Step(
        name=name,
        chapter="The map",
        title="Overlaps: things first, then stuff",
        question="Two masks claim one pixel: who gets it, and what became of each candidate?",
        text=(
            f"Things that score at least {settings.thing_score:g} take the pixels where their mask is above "
            f"{settings.mask_threshold:g}, the best first; one of which more than {100 * settings.overlap:g} % is "
            "taken already is dropped. Stuff gets what is left where it is the likeliest, if that is at least "
            f"{counted(settings.least_area, 'pixel', 'pixels')}. {len(kept)} of "
            f"{counted(len(fates), 'candidate', 'candidates')} {'stays' if len(kept) == 1 else 'stay'}; things that "
            f"stay lost {counted(lost, 'pixel', 'pixels')} to better ones."
        ),
        paper=paper,
        source="thingstuff.merging.merge_things_first",
        tensors=(
            Labelled("masks", segments.masks.cpu(), map_axes(CANDIDATES, stride)),
            Labelled("scores", segments.scores.cpu(), (CANDIDATES,)),
            Labelled("pixels", torch.tensor([[f.pixels, f.won] for f in fates]).view(-1, 2), (CANDIDATES, "own, won")),
        ),
        views=(*_views(seen, settings, sum(things)), _fate_table(seen, fates, names)),
        after=after,
        notes=_fate_notes(seen, fates),
    )


def _views(seen: Seen, settings: ThingsFirst, things: int) -> tuple[PixelsView | MapView, ...]:
    """Return what things claim, how many claim each cell, what stuff claims, and who has what in the end."""
    segments = seen.segments
    competing = (segments.scores[:things] >= settings.thing_score).nonzero()[:, 0].tolist()
    claimed = (segments.masks[competing] > settings.mask_threshold).cpu()
    best = torch.full(tuple(segments.masks.shape[1:]), -1)
    for row, mask in reversed(list(zip(competing, claimed, strict=True))):
        best[mask] = row
    stuff = torch.from_numpy(best_of_stuff(segments.pick(list(range(things, len(segments)))))).long()
    palette = _palette(seen, things)
    legend = "Each thing in a colour of its own"
    return (
        PixelsView(
            title="Before: what things claim",
            caption=f"{legend} where its mask is above {settings.mask_threshold:g}, better ones above.",
            pixels=_painted(palette, best),
        ),
        MapView(
            title="Masks that claim each cell",
            caption=f"Of {counted(len(competing), 'thing that scores', 'things that score')} enough.",
            values=picture_array(claimed.sum(0)),
            unit="masks",
            low=0.0,
        ),
        PixelsView(
            title="Before: stuff alone",
            caption=f"The likeliest row of each pixel, in the colours of the classes; grey: {SOME_THING}.",
            pixels=_painted(palette, torch.where(stuff > 0, stuff - 1 + things, -1)),
            padded=False,
        ),
        PixelsView(
            title="After: what things took, and what stuff was left",
            caption=f"{legend}, stuff in that of its class; black belongs to no segment.",
            pixels=_painted(palette, _sources(seen)),
            padded=False,
        ),
    )


def _sources(seen: Seen) -> Int[Tensor, "h w"]:
    """Return the candidate that has each pixel of the picture in the end, -1 for nobody's."""
    source = np.full(max((s.id for s in seen.result.segments), default=0) + 1, -1, dtype=np.int64)
    for row, name in segment_of_row(seen).items():
        source[name] = row
    return torch.from_numpy(source[seen.result.ids])


def _palette(seen: Seen, things: int) -> list[Color]:
    """Return the colour of each candidate: the first are things, each in its own, the rest have their classes'."""
    colors = seen.result.categories.colors
    labels = seen.segments.labels.tolist()[things:]
    return [*(_colour(row) for row in range(things)), *(GREY if v == VOID else colors[v] for v in labels)]


def _painted(palette: Sequence[Color], rows: Int[Tensor, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Return pixels in the colours of their candidates, black for -1."""
    painted: UInt8[np.ndarray, "h w 3"] = np.array([*palette, (0, 0, 0)], dtype=np.uint8)[rows.numpy()]
    return painted


def _colour(index: int) -> Color:
    """Return a colour unlike those of the indices near it."""
    turn = index * 0.618 % 1 * 6
    red, green, blue = (
        round(255 * (0.35 + 0.6 * min(1.0, max(0.0, abs((turn + shift) % 6 - 3) - 1)))) for shift in (0, 4, 2)
    )
    return red, green, blue


def _fate_table(seen: Seen, fates: Sequence[Fate], names: Sequence[str]) -> TableView:
    scores, ids = seen.segments.scores.tolist(), segment_of_row(seen)
    rows = []
    for fate, name, score in zip(fates, names, scores, strict=True):
        cells = (name, share(score), f"{fate.pixels:,}", f"{fate.won:,}", fate.reason)
        rows.append(Row(cells, fate.kept, (ids[fate.row],) if fate.row in ids else ()))
    return TableView(
        title="What became of each candidate",
        caption="Pixels of stuff are those where it is the likeliest row, before things take theirs.",
        columns=("candidate", "score", "pixels of its own mask", "in the final map", "why"),
        rows=tuple(rows),
    )


def _fate_notes(seen: Seen, fates: Sequence[Fate]) -> dict[int, str]:
    notes = {}
    for segment in seen.result.segments:
        assert segment.source is not None
        fate = fates[segment.source]
        owner = "better things" if seen.result.categories.things[segment.label] else "things"
        lost = f"{fate.pixels - fate.won:,}" if fate.pixels > fate.won else "none"
        notes[segment.id] = f"It claimed {counted(fate.pixels, 'pixel', 'pixels')}; {lost} of them went to {owner}."
    return notes
