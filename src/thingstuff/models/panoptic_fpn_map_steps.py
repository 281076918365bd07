"""The last steps of Panoptic FPN's walk: the semantic branch, and what competes for pixels.

Letters: R semantic rows (0 is "some thing"), h w a map of the canvas.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from thingstuff.feature_views import picture_cells
from thingstuff.models.panoptic_fpn_pass import Pass
from thingstuff.models.panoptic_fpn_targets import semantic_target
from thingstuff.models.shared_steps import counted, in_percent, map_axes
from thingstuff.models.things_first_steps import GREY, SOME_THING, things_first_step
from thingstuff.panoptic import VOID
from thingstuff.walk import Labelled, MapView, PixelsView, Row, Step, TableView, picture_array

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
            f"probabilities. “{SOME_THING}” is the likeliest {_where(shares[0])}."
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
        notes={ids[row][0]: f"{names[row]} is the likeliest row {_where(shares[row])}." for row in ids},
    )


def _where(share: float) -> str:
    """Return on how much of the picture."""
    return f"on {in_percent(share)} of the picture" if share else "nowhere"


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
    seen, names = found.seen, found.model.categories.names
    return things_first_step(
        seen,
        found.model.merge_settings(seen.segments.frame.original),
        [SOME_THING if label == VOID else names[label] for label in seen.segments.labels.tolist()],
        name="merge",
        after=("detections", "masks", "semantic"),
        paper="Kirillov et al. 2019b (Panoptic FPN), section 3.2; Kirillov et al. 2019a, section 4",
    )
