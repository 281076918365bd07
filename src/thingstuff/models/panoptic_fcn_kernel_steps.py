"""Panoptic FCN's kernels, from every cell to one for each object: as steps of its walk."""

import math

import numpy as np
import torch

from thingstuff.feature_views import feature_views
from thingstuff.models.panoptic_fcn_trace import MOST_LISTED, Trace, best_listed, convolutions
from thingstuff.models.pyramid_steps import level_steps
from thingstuff.models.shared_steps import best_and_final, counted, map_axes, share
from thingstuff.walk import Labelled, Mark, MarksView, MatrixView, Row, Step, TableView, View, picture_array

CHAPTER = "The kernels"
MOST_COMPARED = 60
"""Most kernels in the picture of how alike they are, the best."""
PLACES = ("level", "row", "column")


def kernel_maps_step(trace: Trace) -> Step:
    """Return the step of the kernel head: a kernel for every cell of every level."""
    c, maps = trace.model.config, [level[0] for level in trace.output.kernels]
    entry = (
        "Two channels with each cell's row and column, from -1 to 1, join at its entry: without them equal objects in "
        "two places would get equal kernels."
        if c.kernel_coordinates
        else "This configuration gives it no coordinates, so equal objects in two places get equal kernels."
    )
    mirrored = " The mirrored picture's cells give kernels too (flip)." if c.flip else ""
    return Step(
        name="kernels",
        chapter=CHAPTER,
        title="A kernel in every cell",
        question="Where do the weights of an object's own convolution come from?",
        text=(
            f"A second head looks at each level: {convolutions(c.kernel_convs)}, then one more. What it gives in "
            f"a cell, {c.kernel_channels} numbers, are the weights of a 1 × 1 convolution for the object that the cell "
            f"belongs to. {entry}{mirrored}"
        ),
        paper="Li et al. 2021, section 3.2 (kernel generator: kernel head)",
        source="thingstuff.models.panoptic_fcn_heads.KernelHead",
        tensors=tuple(
            Labelled(f"P{level}: kernels", own, map_axes("kernel channels", 2**level))
            for level, own in zip(trace.levels, maps, strict=True)
        ),
        views=tuple(
            view
            for level, own in zip(trace.levels, maps, strict=True)
            for view in feature_views(f"P{level}: kernels", own, trace.frame)
        ),
        after=level_steps(trace.levels),
        layers=("kernel_head.",),
    )


# ---- gathering


def gathered_step(trace: Trace) -> Step:
    """Return the step that reads kernels at peaks, and pools them over regions."""
    things, stuff = trace.things, trace.stuff
    places = torch.cat([trace.level[:, None], trace.cell], dim=1)
    return Step(
        name="gathered",
        chapter=CHAPTER,
        title="Kernels are read at peaks and pooled over regions",
        question="Which level and which cell does each kernel come from?",
        text=(
            f"At each of the {len(things.labels)} peaks the kernel of that cell is read. For each of the "
            f"{len(stuff.labels)} regions (a class on a level) the kernels of its cells are added and divided by the "
            "number of all cells of the level, so that the kernel of a small region is short. One object may be found "
            "on several levels, and by several cells."
        ),
        paper="Li et al. 2021, section 3.2 (kernel generator)",
        source="thingstuff.models.panoptic_fcn.PanopticFCN.candidates",
        tensors=(
            Labelled("kernels of things", things.vectors, ("peaks, best first", "kernel channels")),
            Labelled("scores of things", things.scores, ("peaks, best first",)),
            Labelled("places of things", places, ("peaks, best first", "level, row and column from 0")),
            Labelled("kernels of stuff", stuff.vectors, ("regions", "kernel channels")),
            Labelled("scores of stuff", stuff.scores, ("regions",)),
        ),
        views=(_cells_view(trace), _peak_table(trace), _pooled_table(trace)),
        after=("peaks", "regions", "kernels"),
        notes=_gathering_notes(trace),
    )


def _listed(trace: Trace) -> list[int]:
    """Return the candidates for things that are listed: the best, and those that final segments came from."""
    final = [row for row, ids in enumerate(trace.candidate_segments) if ids]
    return best_and_final(len(trace.things.labels), MOST_LISTED, final)


def _cells_view(trace: Trace) -> MarksView:
    """Return the cells that kernels were read in, as boxes of their size."""
    marks, (height, width) = [], trace.frame.canvas
    names, categories = trace.thing_names, trace.model.categories
    labels = trace.things.labels.tolist()
    for row in _listed(trace):
        label, level, (y, x) = labels[row], int(trace.level[row]), trace.cell[row].tolist()
        h, w = trace.output.kernels[trace.levels.index(level)].shape[-2:]
        box = (x * width / w, y * height / h, (x + 1) * width / w, (y + 1) * height / h)
        text = f"{names[label]} {float(trace.things.scores[row]):.2f}, P{level}"
        ids = trace.candidate_segments[row]
        marks.append(Mark(box, text, categories.colors[categories.thing_labels[label]], bool(ids), ids))
    cut = best_listed(len(labels), MOST_LISTED)
    caption = f"{cut}A box is one cell of its level. Solid: it led to a final segment."
    return MarksView(title="Cells whose kernels are read for things", caption=caption, marks=tuple(marks))


def _peak_table(trace: Trace) -> TableView:
    labels, rows = trace.things.labels.tolist(), []
    for row in _listed(trace):
        (y, x), ids = trace.cell[row].tolist(), trace.candidate_segments[row]
        cells = (
            trace.thing_names[labels[row]],
            f"P{int(trace.level[row])}",
            str(y + 1),
            str(x + 1),
            share(float(trace.things.scores[row])),
        )
        rows.append(Row(cells, bool(ids), ids))
    return TableView(
        title="Things: where each kernel was read",
        caption=f"{best_listed(len(labels), MOST_LISTED)}Grey: led to no final segment.",
        columns=("class", *PLACES, "score"),
        rows=tuple(rows),
    )


def _pooled_table(trace: Trace) -> TableView:
    rows = []
    for row, label in enumerate(trace.stuff.labels.tolist()):
        ids = trace.region_segments.get(label, ())
        length = float(trace.stuff.vectors[row].norm())
        cells = (trace.region_names[label], f"P{int(trace.stuff_level[row])}", share(float(trace.stuff.scores[row])))
        rows.append(Row((*cells, f"{length:.3g}"), bool(ids), ids))
    return TableView(
        title="Stuff: what each kernel was pooled over",
        caption="Grey: led to no final segment.",
        columns=("class", "level", "score", "length of the kernel"),
        rows=tuple(rows),
    )


def _gathering_notes(trace: Trace) -> dict[int, str]:
    notes: dict[int, str] = {}
    for fused, ids in enumerate(trace.thing_segments):
        places = ", ".join(trace.place(row) for row in trace.members(fused))
        notes.update(dict.fromkeys(ids, f"Kernel read at level (row, column): {places}."))
    for label, ids in trace.region_segments.items():
        levels = ", ".join(f"P{int(level)}" for level in trace.stuff_level[trace.stuff.labels == label])
        notes.update(dict.fromkeys(ids, f"Kernel pooled over its cells on {levels}."))
    return notes


# ---- fusion


def fused_step(trace: Trace) -> Step:
    """Return the step that embeds kernels, and averages those of one object or class."""
    c, count, left = trace.model.config, len(trace.things.labels), len(trace.fused_things.labels)
    similar, become = trace.cosines, f"become {left}" if c.kernel_fusion else "stay as they are"
    axes = ("kernels before fusion, best first", "embedded channels")
    return Step(
        name="fused",
        chapter=CHAPTER,
        title="Kernels of one object become one",
        question="An object was found several times: how do these become one?",
        text=(
            f"A linear layer of things, and one of stuff, brings each kernel to {c.encoder_channels} numbers, as many "
            f"as the encoded feature has. {_fusion_text(trace)} Here {count} kernels of things {become}. Kernels of "
            "stuff are averaged by class over the levels that have it, and so are their scores."
        ),
        paper="Li et al. 2021, section 3.2 (kernel fusion)",
        source="thingstuff.models.panoptic_fcn_kernels.fuse_things",
        tensors=(
            Labelled("embedded kernels of things", trace.embedded_things.vectors, axes),
            Labelled("cosines", similar, (axes[0], axes[0])),
            Labelled("kernels of things", trace.fused_things.vectors, ("things after fusion", axes[1])),
            Labelled("scores of things", trace.fused_things.scores, ("things after fusion",)),
            Labelled("embedded kernels of stuff", trace.embedded_stuff.vectors, ("regions", axes[1])),
            Labelled("kernels of stuff", trace.fused_stuff.vectors, ("stuff classes", axes[1])),
            Labelled("scores of stuff", trace.fused_stuff.scores, ("stuff classes",)),
        ),
        views=(*_similarity(trace), _thing_table(trace), _stuff_table(trace)),
        after=("gathered",),
        layers=("thing_embedding.", "stuff_embedding."),
        notes=_fusion_notes(trace),
    )


def _fusion_text(trace: Trace) -> str:
    c = trace.model.config
    if not c.kernel_fusion:
        return "Kernel fusion is off in this configuration: every peak keeps a kernel of its own."
    classes = "of one class " if c.class_aware else "(whatever their classes) "
    own = " The picture's own view decides; the mirrored one's kernels are averaged alike." if c.flip else ""
    return (
        f"Kernels of things {classes}whose cosine reaches {c.similarity:g} are taken for one object: going from the "
        f"best score down, each joins the first that it matches, and their mean keeps the best one's score.{own}"
    )


def _similarity(trace: Trace) -> list[View]:
    """Return how alike the embedded kernels of things are, where there are any."""
    count = min(MOST_COMPARED, len(trace.things.labels))
    if not count:
        return []
    cut = f"The {count} best of {len(trace.things.labels):,}. " if count < len(trace.things.labels) else ""
    names, lost = trace.thing_names, len(trace.fused_things.labels)
    values = picture_array(trace.cosines[:count, :count])
    return [
        MatrixView(
            title="How alike the kernels of things are before fusion",
            caption=(
                f"{cut}Cosine of each kernel with each. {_alike(trace, count)} Those of one group are averaged; one "
                "that matches nothing but kernels that were themselves taken in stands alone, and is lost."
            ),
            values=values,
            low=_scale_begins(float(values.min())),
            unit="cosine",
            names=tuple(
                f"{names[label]} {trace.place(row)} {float(trace.things.scores[row]):.2f}"
                + (", lost" if trace.fused_of[row] is None else "")
                for row, label in enumerate(trace.things.labels.tolist()[:count])
            ),
            groups=tuple(lost + row if place is None else place for row, place in enumerate(trace.fused_of[:count])),
            row_segments=tuple(trace.candidate_segments[:count]),
        )
    ]


def _scale_begins(lowest: float) -> float:
    """Return where a scale of cosines begins that ends at 1: at the tenth below the lowest, or at -1."""
    return min(0.9, math.floor(10 * lowest) / 10) if lowest >= 0 else -1.0  # what is no number, too


def _alike(trace: Trace, count: int) -> str:
    """Return the sentence that says how many pairs of the first `count` kernels are alike enough to be fused."""
    c, labels = trace.model.config, trace.things.labels[:count]
    if not c.kernel_fusion:
        return "None are fused in this configuration."
    pairs = (trace.cosines[:count, :count] >= min(c.similarity, 1 - 1e-6)).triu(1)  # as `first_matches` has it
    reach = f"{int(pairs.sum()):,} of {counted(count * (count - 1) // 2, 'pair', 'pairs')} reach {c.similarity:g}"
    of_one_class = int((pairs & (labels[:, None] == labels)).sum())
    return f"{reach}, {of_one_class:,} of them of one class." if c.class_aware else f"{reach}."


def _members(trace: Trace, fused: int) -> str:
    return "; ".join(f"{trace.place(row)} {float(trace.things.scores[row]):.2f}" for row in trace.members(fused))


def _thing_table(trace: Trace) -> TableView:
    labels, rows = trace.fused_things.labels.tolist(), []
    final = [fused for fused, ids in enumerate(trace.thing_segments) if ids]
    for fused in best_and_final(len(labels), MOST_LISTED, final):
        ids, score = trace.thing_segments[fused], share(float(trace.fused_things.scores[fused]))
        count = str(len(trace.members(fused)))
        rows.append(Row((trace.thing_names[labels[fused]], score, count, _members(trace, fused)), bool(ids), ids))
    return TableView(
        title="Things after fusion",
        caption=f"{best_listed(len(labels), MOST_LISTED)}Grey: led to no final segment.",
        columns=("class", "score", "kernels", "read in level (row, column), each with its score"),
        rows=tuple(rows),
    )


def _stuff_table(trace: Trace) -> TableView:
    rows = []
    for row, label in enumerate(trace.fused_stuff.labels.tolist()):
        own = (trace.stuff.labels == label).nonzero()[:, 0].tolist()
        levels = "; ".join(f"P{int(trace.stuff_level[i])} {float(trace.stuff.scores[i]):.2f}" for i in own)
        ids = trace.stuff_segments[row]
        cells = (trace.region_names[label], share(float(trace.fused_stuff.scores[row])), str(len(own)), levels)
        rows.append(Row(cells, bool(ids), ids))
    return TableView(
        title="Stuff after averaging",
        caption="Grey: led to no final segment.",
        columns=("class", "mean score", "levels", "level, each with its score"),
        rows=tuple(rows),
    )


def _fusion_notes(trace: Trace) -> dict[int, str]:
    notes: dict[int, str] = {}
    for fused, ids in enumerate(trace.thing_segments):
        rows = trace.members(fused)
        told = "A kernel of its own: no other was close enough."
        if not trace.model.config.kernel_fusion:
            told = "Its kernel stays as it was read."
        elif len(rows) > 1:
            least = float(np.min(picture_array(trace.cosines[rows[0], rows])))
            told = f"{len(rows)} kernels were averaged; the least alike has a cosine of {least:.2f} with the best."
        notes.update(dict.fromkeys(ids, told))
    for row, ids in enumerate(trace.stuff_segments):
        count = int((trace.stuff.labels == trace.fused_stuff.labels[row]).sum())
        told = f"Mean of the kernels of {counted(count, 'level', 'levels')}."
        notes.update(dict.fromkeys(ids, f"{told} Its score is {float(trace.fused_stuff.scores[row]):.2f}."))
    return notes
