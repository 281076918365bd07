"""The last steps of Panoptic FPN's walk: the semantic branch, and what competes for pixels.

Letters: R semantic rows (0 is "some thing"), h w a map of the canvas.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from thingstuff.feature_views import picture_cells
from thingstuff.merging import ThingsFirst, best_of_stuff
from thingstuff.merging_fates import Fate, fates_things_first
from thingstuff.models.panoptic_fpn_pass import Pass, counted
from thingstuff.models.panoptic_fpn_targets import semantic_target
from thingstuff.models.shared_steps import COLUMNS, ROWS, map_axes
from thingstuff.walk import Labelled, MapView, PixelsView, Row, Seen, Step, TableView, picture_array

SOME_THING = "some thing"
GREY = (128, 128, 128)
"""The colour of "some thing"."""
LEGEND = f"In the colours of the classes; grey: {SOME_THING}"


def semantic_step(found: Pass, paper: str) -> Step:
    """Return the step in which each cell says which stuff it is, or that it is some thing; `paper` says where."""
    seen, categories = found.seen, found.model.categories
    logits = seen.output.semantic[0].cpu()
    regions = seen.segments.masks[len(found.masks) :].cpu()
    rows, columns = picture_cells(seen.images.frame(0), (int(regions.shape[1]), int(regions.shape[2])))
    best = regions[:, :rows, :columns].argmax(0)
    shares = (torch.bincount(best.flatten(), minlength=len(regions)) / best.numel()).tolist()
    names = (SOME_THING, *(categories.names[label] for label in categories.stuff_labels))
    final = {s.label: s.id for s in seen.result.segments}
    ids = {row: (final[x],) for row, x in enumerate(categories.stuff_labels, start=1) if x in final}
    highest = regions[:, :rows, :columns].flatten(1).amax(1).tolist()
    table = tuple(
        Row((name, shares[row], highest[row]), shares[row] > 0, ids.get(row, ())) for row, name in enumerate(names)
    )
    titles = ("row", "share of the picture where it is the likeliest", "highest probability")
    shown = [row for row in range(len(regions)) if row == 0 or shares[row] > 0 or row in ids]
    return Step(
        name="semantic",
        chapter="Stuff",
        title="The semantic branch: which stuff each cell is",
        question="How does the network tell stuff, and what does it say where a thing is?",
        text=(
            f"A 1 × 1 convolution gives each of the {logits.shape[1]} × {logits.shape[2]} cells at stride 4 a number "
            f"for each of {counted(len(names) - 1, 'class', 'classes')} of stuff, and one for “{SOME_THING}”: all "
            "things share that row. Resized to the cells of the masks, a softmax over the rows makes them "
            f"probabilities. “{SOME_THING}” is the likeliest on {shares[0]:.1%} of the picture."
        ),
        paper=paper,
        source="thingstuff.models.panoptic_fpn.PanopticFPN.forward",
        tensors=(Labelled("logits", logits, map_axes(f"“{SOME_THING}”, then classes of stuff", 4)),),
        views=(
            *_row_views(found, regions.argmax(0).numpy()),
            *(_probability_view(names[row], regions[row], ids.get(row, ())) for row in shown),
            TableView(title="Rows", columns=titles, rows=table),
        ),
        after=("semantic_fpn",),
        layers=("semantic.",),
        notes={ids[row][0]: f"{names[row]} is the likeliest row on {shares[row]:.1%} of the picture." for row in ids},
    )


def _row_views(found: Pass, best: npt.NDArray[np.int64]) -> list[PixelsView]:
    """Return the map of the likeliest rows, and that of the true ones where ground truth is given."""
    views = [PixelsView(title="The likeliest row of each cell", caption=f"{LEGEND}.", pixels=painted(found, best))]
    if found.seen.target is not None:
        truth = semantic_target(found.seen.target, found.model.categories, found.seen.images.canvas)
        caption = f"{LEGEND}; black: not labelled, or padding."
        views.append(
            PixelsView(
                title="Ground truth: the row of each pixel", caption=caption, pixels=painted(found, truth.numpy())
            )
        )
    return views


def _probability_view(name: str, region: Tensor, segments: tuple[int, ...]) -> MapView:
    return MapView(
        title=f"Probability of {name}",
        segments=segments,
        values=picture_array(region),
        unit="probability",
        low=0.0,
        high=1.0,
    )


def painted(found: Pass, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """Return semantic rows [h, w] in colours; rows below 0 are black."""
    categories = found.model.categories
    colors = [GREY, *(categories.colors[label] for label in categories.stuff_labels), (0, 0, 0)]
    return np.array(colors, dtype=np.uint8)[np.where(rows < 0, -1, rows)]


def merge_step(found: Pass) -> Step:
    """Return the step in which things take pixels by falling score, and stuff what they leave."""
    seen, categories = found.seen, found.model.categories
    settings = found.model.merge_settings(seen.segments.frame.original)
    fates = fates_things_first(seen.segments, categories, settings, seen.result)
    kept = sum(fate.kept for fate in fates)
    lost = sum(fate.pixels - fate.won for fate in fates[: len(found.masks)] if fate.kept)
    stride = found.model.config.mask_stride
    axes = ("candidates: detections, then rows of the semantic branch", ROWS.format(stride), COLUMNS.format(stride))
    return Step(
        name="merge",
        chapter="The map",
        title="Overlaps: things first, then stuff",
        question="What happens where masks overlap, and what became of each candidate?",
        text=(
            f"Things that score at least {settings.thing_score:g} take the pixels where their mask is above "
            f"{settings.mask_threshold:g}, the best first; one of which more than {settings.overlap:.0%} is taken "
            f"already is dropped. Stuff gets what is left where it is the likeliest, if that is at least "
            f"{settings.stuff_area:,.0f} pixels. {kept} of {counted(len(fates), 'candidate', 'candidates')} stay; "
            f"things that stay lost {counted(lost, 'pixel', 'pixels')} to better ones."
        ),
        paper="Kirillov et al. 2019b (Panoptic FPN), section 3.2; Kirillov et al. 2019a, section 4",
        source="thingstuff.merging.merge_things_first",
        tensors=(
            Labelled("masks", seen.segments.masks.cpu(), axes),
            Labelled("scores", seen.segments.scores.cpu(), ("candidates",)),
        ),
        views=(_claims(found, settings), *_before_and_after(found), _fate_table(found, fates)),
        after=("detections", "masks", "semantic"),
        notes=_fate_notes(seen, fates),
    )


def _claims(found: Pass, settings: ThingsFirst) -> MapView:
    """Return how many masks that may compete have each cell."""
    things = found.seen.segments.pick(list(range(len(found.masks))))
    strong = things.masks[things.scores >= settings.thing_score]
    return MapView(
        title="Masks that claim each cell",
        caption=f"Of {counted(len(strong), 'thing that scores', 'things that score')} enough.",
        values=picture_array((strong > settings.mask_threshold).sum(0)),
        unit="masks",
        low=0.0,
    )


def _before_and_after(found: Pass) -> tuple[PixelsView, PixelsView]:
    segments, categories = found.seen.segments, found.model.categories
    best = best_of_stuff(segments.pick(list(range(len(found.masks), len(segments))))).astype(np.int64)
    return (
        PixelsView(
            title="Before: stuff alone",
            caption=f"The likeliest row of each pixel. {LEGEND}.",
            pixels=painted(found, best - 1),
            padded=False,
        ),
        PixelsView(
            title="After: what things took, and what stuff was left",
            caption="In the colours of the classes; black belongs to no segment.",
            pixels=np.array([*categories.colors, (0, 0, 0)], dtype=np.uint8)[found.seen.result.semantic()],
            padded=False,
        ),
    )


def _fate_table(found: Pass, fates: list[Fate]) -> TableView:
    segments, categories = found.seen.segments, found.model.categories
    ids = {s.source: (s.id,) for s in found.seen.result.segments}
    rows = []
    for fate, label, score in zip(fates, segments.labels.tolist(), segments.scores.tolist(), strict=True):
        name = categories.names[label] if label >= 0 else SOME_THING
        cells = (name, min(1.0, score), f"{fate.pixels:,}", f"{fate.won:,}", fate.reason)
        rows.append(Row(cells, fate.kept, ids.get(fate.row, ())))
    return TableView(
        title="What became of each candidate",
        caption="Pixels of stuff are those where it is the likeliest row, before things take theirs.",
        columns=("class", "score", "pixels", "in the final map", "why"),
        rows=tuple(rows),
    )


def _fate_notes(seen: Seen, fates: list[Fate]) -> dict[int, str]:
    notes = {}
    for segment in seen.result.segments:
        assert segment.source is not None
        fate = fates[segment.source]
        owner = "better things" if seen.result.categories.things[segment.label] else "things"
        lost = f"{fate.pixels - fate.won:,}" if fate.pixels > fate.won else "none"
        notes[segment.id] = f"It claimed {fate.pixels:,} pixels; {lost} of them went to {owner}."
    return notes
