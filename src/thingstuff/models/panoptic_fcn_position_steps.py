"""Where Panoptic FCN sees things and stuff: heat maps of centres, their peaks, and regions, as steps of its walk."""

from collections import Counter
from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from thingstuff.models.panoptic_fcn_kernels import local_maxima, owned_regions
from thingstuff.models.panoptic_fcn_trace import Trace, convolutions, place_in_words
from thingstuff.models.pyramid_steps import level_steps
from thingstuff.models.shared_steps import counted, in_percent, map_axes
from thingstuff.panoptic import Color
from thingstuff.walk import Labelled, MapView, Mark, MarksView, PixelsView, Row, Step, TableView, View, picture_array

CHAPTER = "Where things and stuff are"
MOST_MARKS = 40
"""Most cells of one kind (suppressed, below the threshold) that are marked on a map."""
_MARKS_PER_WIDTH = 80
"""So many points that do not hide each other have room side by side."""
MOST_CLASSES = 3
"""Most classes without a final segment that have a map of their own on a level."""


def share_view(
    title: str,
    values: Tensor,
    unit: str = "probability",
    caption: str = "",
    segments: Iterable[int] = (),
    high: float = 1.0,
) -> MapView:
    """Return a map of numbers from 0 to 1, drawn in a scale up to `high`."""
    array = picture_array(values)
    return MapView(
        title=title, caption=caption, values=array, unit=unit, low=0.0, high=high, segments=tuple(sorted({*segments}))
    )


def best_class(p: Float[Tensor, "T h w"]) -> Float[Tensor, "h w"]:
    """Return the highest probability of any class, 0 where there are no classes."""
    return p.amax(0) if len(p) else p.new_zeros(p.shape[1:])


def _highest(levels: list[Tensor]) -> float:
    """Return the highest finite number on any level, 1 where there is none."""
    finite = torch.cat([maps.flatten() for maps in levels])
    finite = finite[finite.isfinite()]
    return float(finite.max()) if len(finite) else 1.0


# ---- centres


def centres_step(trace: Trace) -> Step:
    """Return the step of the heat maps, one number for each thing class and cell of each level."""
    c, logits = trace.model.config, [maps[0] for maps in trace.output.centres]
    high = _highest([maps.sigmoid() for maps in logits])
    scale = "One scale for all levels, up to the highest probability of the pass."
    views: list[View] = []
    for i, level in enumerate(trace.levels):
        p = logits[i].sigmoid()
        views.append(share_view(f"P{level}: an object's centre, of any class", best_class(p), caption=scale, high=high))
        if trace.truth:
            target = best_class(trace.truth.levels[i].centres[0])
            caption = "What the ground truth asks for: a Gaussian at the centre of each thing that this level learns."
            views.append(share_view(f"P{level}: target", target, "weight", caption))
        for label, ids in _classes_shown(trace, i):
            title = f"P{level}: centre of {trace.thing_names[label]}"
            views.append(share_view(title, p[label], caption=scale, segments=ids, high=high))
    if trace.truth:
        views.append(_learned_where(trace))
    layers = convolutions(c.position_convs)
    if c.position_deformable:
        layers = f"{convolutions(c.position_convs, 'deformable 3 × 3 convolution')} (each cell chooses where to look)"
    return Step(
        name="centres",
        chapter=CHAPTER,
        title="Object centres: a heat map for each thing class",
        question="How does the network know where an object is, without boxes?",
        text=(
            f"One head, the same for all of P{trace.levels[0]} to P{trace.levels[-1]}, looks at each level: "
            f"{layers}, then one with an output for each of {len(trace.thing_names)} classes. The sigmoid of each is "
            "the probability that the middle of an object of that class lies in this cell. Small objects show on fine "
            "levels, large ones on coarse ones."
        ),
        paper="Li et al. 2021, section 3.2 (kernel generator: position head)",
        source="thingstuff.models.panoptic_fcn_heads.PositionHead",
        tensors=tuple(
            Labelled(f"P{level}: centre logits", maps, map_axes("thing classes", 2**level))
            for level, maps in zip(trace.levels, logits, strict=True)
        ),
        views=tuple(views),
        after=level_steps(trace.levels),
        layers=("position_head.blocks.", *(["position_head.centres."] if trace.thing_names else [])),
        notes={segment: _centre_note(trace, row) for segment, row in _best_candidates(trace).items()},
    )


def _classes_shown(trace: Trace, index: int) -> list[tuple[int, tuple[int, ...]]]:
    """Return the thing classes with a kept peak on a level, and their final segments that came from it."""
    level, ids = trace.levels[index], dict[int, set[int]]()
    for label, of, segments in zip(
        trace.things.labels.tolist(), trace.level.tolist(), trace.candidate_segments, strict=True
    ):
        if of == level:
            ids.setdefault(label, set()).update(segments)
    others = [label for label, own in ids.items() if not own][MOST_CLASSES:]
    return [(label, tuple(sorted(own))) for label, own in ids.items() if label not in others]


def _best_candidates(trace: Trace) -> dict[int, int]:
    """Return the best candidate of each final segment that is a thing."""
    best: dict[int, int] = {}
    for row, ids in enumerate(trace.candidate_segments):
        for segment in ids:
            best.setdefault(segment, row)
    return best


def _centre_note(trace: Trace, row: int) -> str:
    label, level, (y, x) = int(trace.things.labels[row]), int(trace.level[row]), trace.cell[row].tolist()
    p = float(trace.output.centres[trace.levels.index(level)][0, label, y, x].sigmoid())
    return f"Its centre shows best on P{level}: {trace.thing_names[label]} with {p:.2f} in row {y + 1}, column {x + 1}."


def _learned_where(trace: Trace) -> TableView:
    """Return which level learns which thing of the ground truth."""
    assert trace.truth
    rows, masks, counts = [], trace.truth.masks, Counter[int]()
    for instance, (label, box) in enumerate(zip(masks.labels[0].tolist(), masks.boxes_xyxy[0].tolist(), strict=True)):
        size = ((box[2] - box[0]) * (box[3] - box[1])) ** 0.5
        where = [
            place_in_words(level, target.cell[target.instance == instance][0])
            for level, target in zip(trace.levels, trace.truth.levels, strict=True)
            if (target.instance == instance).any()
        ]
        counts[len(where)] += 1
        rows.append(Row((trace.thing_names[label], f"{size:.0f}", ", ".join(where) or "none"), kept=bool(where)))
    learned = ", ".join(
        f"{count} on {counted(levels, 'level', 'levels') if levels else 'none'}"
        for levels, count in sorted(counts.items())
    )
    return TableView(
        title="Targets: which level learns which thing",
        caption=(
            "A level learns the things of its range of sizes; ranges may overlap. Of this picture's "
            f"{counted(len(rows), 'thing', 'things')} are learned: {learned or 'none'}."
        ),
        columns=("class", "square root of its box's area, pixels", "levels (row, column of the centre)"),
        rows=tuple(rows),
    )


# ---- peaks


def peaks_step(trace: Trace) -> Step:
    """Return the step in which heat maps are smoothed and their peaks found."""
    c = trace.model.config
    views: list[View] = []
    high = _highest(trace.smoothed)
    for i, level in enumerate(trace.levels):
        caption = (
            "Solid: kept; those of several classes in one cell lie beside each other. The rest were suppressed by a "
            f"better cell beside them, or are below the threshold. The scale ends at {high:.2g}, the highest of the "
            "smoothed probabilities of all levels."
        )
        view = MarksView(
            title=f"P{level}: peaks of all classes",
            caption=caption,
            values=picture_array(best_class(trace.smoothed[i])),
            high=high,
            marks=_marks(trace, i),
        )
        views.append(view)
    views.append(_fates_of_cells(trace))
    kept = sum(len(peaks.labels) for peaks in trace.peaks)
    windows = ", ".join(f"P{level} {trace.model.smoothing(level)}" for level in trace.levels)
    return Step(
        name="peaks",
        chapter=CHAPTER,
        title="Peaks: one cell for each object",
        question="A whole blob of cells is bright: which of them speaks for the object?",
        text=(
            "Each probability is averaged with the mean of the cells around it (window in cells: "
            f"{windows}; beyond the border counts as 0). A cell stays where none of the eight around has more for its "
            f"class, and where it has more than {c.thing_threshold:g}; each level keeps the best {c.candidates // 2}. "
            f"Here {counted(kept, 'peak', 'peaks')} on all levels together."
        ),
        paper="Li et al. 2021, section 3.2 (inference); the smoothing is the authors' code's",
        source="thingstuff.models.panoptic_fcn_kernels.find_peaks",
        tensors=(
            *(
                Labelled(f"P{level}: smoothed probabilities", maps, map_axes("thing classes", 2**level))
                for level, maps in zip(trace.levels, trace.smoothed, strict=True)
            ),
            Labelled("scores of the kept peaks", trace.things.scores, ("peaks, best first",)),
        ),
        views=tuple(views),
        after=("centres",),
        notes={segment: _peak_note(trace, segment, row) for segment, row in _best_candidates(trace).items()},
    )


def _peak_note(trace: Trace, segment: int, row: int) -> str:
    count = sum(segment in ids for ids in trace.candidate_segments)
    return (
        f"{counted(count, 'peak', 'peaks')} led to this segment, the best of them in {trace.place(row)} with "
        f"{float(trace.things.scores[row]):.2f} after smoothing."
    )


def _cells_by_fate(trace: Trace, index: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return which (class, cell)s of a level are above the threshold but no maximum, maxima below it, or kept."""
    p, threshold = trace.smoothed[index], trace.model.config.thing_threshold
    kept = torch.zeros_like(p, dtype=torch.bool)
    kept.flatten(1)[trace.peaks[index].labels, trace.peaks[index].cells] = True
    maxima = local_maxima(p) if len(p) else kept
    return (p > threshold) & ~maxima, (p <= threshold) & maxima, kept


def _marks(trace: Trace, index: int) -> tuple[Mark, ...]:
    """Return points for a level's cells: the kept ones, the best suppressed ones, the best below the threshold."""
    p, (height, width) = trace.smoothed[index], trace.frame.canvas
    h, w = p.shape[1:]
    suppressed, low, kept = _cells_by_fate(trace, index)
    colors = trace.model.categories.colors
    from_peak = _segments_of_cells(trace, trace.levels[index])
    marks, classes, placed = [], Counter(trace.peaks[index].cells.tolist()), Counter[int]()
    apart = max(width / w / 4, width / _MARKS_PER_WIDTH)
    for cells, why in ((suppressed, "{:.2f}, less than beside it"), (low, "{:.2f}, below the threshold"), (kept, "")):
        best = torch.where(cells, p, -1.0).flatten().topk(min(int(cells.sum()), MOST_MARKS if why else p.numel()))
        for value, place in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            label, y, x = place // (h * w), place // w % h, place % w
            text, aside = f"{trace.thing_names[label]} {(why or '{:.2f}').format(value)}", 0.0
            if not why and (many := classes[y * w + x]) > 1:
                text, aside = f"{text}, one of {many} classes here", apart * (placed[y * w + x] - (many - 1) / 2)
                placed[y * w + x] += 1
            point = ((x + 0.5) * width / w + aside, (y + 0.5) * height / h)
            color: Color = colors[trace.model.categories.thing_labels[label]]
            marks.append(Mark((*point, *point), text, color, not why, from_peak.get((label, y, x), ())))
    return tuple(marks)


def _segments_of_cells(trace: Trace, level: int) -> dict[tuple[int, int, int], tuple[int, ...]]:
    """Return the final segment of each of a level's peaks, by class, row and column."""
    rows = (trace.level == level).nonzero()[:, 0].tolist()
    places = ((int(trace.things.labels[row]), *trace.cell[row].tolist()) for row in rows)
    return {(c, y, x): trace.candidate_segments[row] for row, (c, y, x) in zip(rows, places, strict=True)}


def _fates_of_cells(trace: Trace) -> TableView:
    rows = []
    for i, level in enumerate(trace.levels):
        suppressed, low, kept = (int(cells.sum()) for cells in _cells_by_fate(trace, i))
        above = int((trace.smoothed[i] > trace.model.config.thing_threshold).sum())
        counts = (suppressed, above - suppressed - kept, low, kept)
        rows.append(Row((f"P{level}", *(str(count) for count in counts)), kept=kept > 0))
    return TableView(
        title="Cells on each level, counted for every class",
        columns=("level", "suppressed by a better cell", "beyond the most that are kept", "maxima too low", "kept"),
        rows=tuple(rows),
        caption=f"Maps mark at most the {MOST_MARKS} best suppressed cells, and as many maxima that are too low.",
    )


# ---- regions


def regions_step(trace: Trace) -> Step:
    """Return the step of stuff's regions on each level."""
    c, logits = trace.model.config, [maps[0] for maps in trace.output.regions]
    found = [owned_regions(maps) if len(maps) else None for maps in logits]
    scores = [maps.new_zeros(0) if own is None else own[0] for maps, own in zip(logits, found, strict=True)]
    owners = [_owners(maps, own) for maps, own in zip(logits, found, strict=True)]
    some_thing = " One more class stands for things, whatever they are, so that stuff need not claim their cells."
    return Step(
        name="regions",
        chapter=CHAPTER,
        title="Stuff regions: which class owns each cell",
        question="Stuff has no centre: how is it found?",
        text=(
            f"The same head gives each cell a probability for each of {len(trace.region_names)} region classes."
            f"{some_thing if c.region_has_thing else ''} A cell belongs to its likeliest class. On each level a "
            "class's score is its mean probability over the cells it owns; it is there where that exceeds "
            f"{c.stuff_threshold:g}."
        ),
        paper="Li et al. 2021, section 3.2 (kernel generator: position head)",
        source="thingstuff.models.panoptic_fcn_kernels.stuff_regions",
        tensors=(
            *(
                Labelled(f"P{level}: region logits", maps, map_axes("region classes", 2**level))
                for level, maps in zip(trace.levels, logits, strict=True)
            ),
            Labelled("mean probabilities", torch.stack(scores), ("levels, finest first", "region classes")),
        ),
        views=(*_region_views(trace, owners), _region_table(trace, owners, scores)),
        after=level_steps(trace.levels),
        layers=("position_head.blocks.", *(["position_head.regions."] if trace.region_names else [])),
        notes=_region_notes(trace, owners, scores),
    )


def _owners(logits: Tensor, found: tuple[Tensor, Tensor] | None) -> Int[Tensor, "h w"]:
    """Return the region class of each cell, -1 where there are no classes."""
    shape = logits.shape[1:]
    return torch.full(tuple(shape), -1) if found is None else found[1].view(*shape)


def _present(owner: Int[Tensor, "h w"]) -> list[int]:
    """Return the region classes that own a cell."""
    return [label for label in sorted({*owner.flatten().tolist()}) if label >= 0]


def _region_views(trace: Trace, owners: list[Tensor]) -> list[View]:
    views: list[View] = []
    for i, (level, owner) in enumerate(zip(trace.levels, owners, strict=True)):
        names = ", ".join(trace.region_names[label] for label in _present(owner))
        caption = f"Each cell in the colour of its class: {names or 'there are no region classes'}."
        views.append(PixelsView(title=f"P{level}: owners of cells", caption=caption, pixels=_painted(trace, owner)))
        if trace.truth:
            target = trace.truth.levels[i].regions[0]
            asked = torch.where(target.amax(0) > 0, target.argmax(0), -1) if len(target) else owner
            caption = "What the ground truth asks for; black: no class covers half of the cell."
            views.append(PixelsView(title=f"P{level}: target", caption=caption, pixels=_painted(trace, asked)))
        for label, ids in trace.region_segments.items():
            if ids and (owner == label).any():
                p = trace.output.regions[i][0, label].sigmoid()
                views.append(share_view(f"P{level}: {trace.region_names[label]}", p, segments=ids))
    return views


def _painted(trace: Trace, owner: Int[Tensor, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Return cells in the colours of their region classes, black where there is none."""
    colours = np.array([*trace.region_colours, (0, 0, 0)], dtype=np.uint8)
    painted: UInt8[np.ndarray, "h w 3"] = colours[owner.numpy()]
    return painted


def _region_table(trace: Trace, owners: list[Tensor], scores: list[Tensor]) -> TableView:
    rows = []
    for level, owner, of_level in zip(trace.levels, owners, scores, strict=True):
        for label in _present(owner):
            kept = bool(of_level[label] > trace.model.config.stuff_threshold)
            share = float((owner == label).float().mean())
            cells = (f"P{level}", trace.region_names[label], share, float(of_level[label]), "yes" if kept else "no")
            rows.append(Row(cells, kept, trace.region_segments.get(label, ())))
    return TableView(
        title="Regions on each level",
        columns=("level", "class", "share of the cells", "mean probability", "above the threshold"),
        rows=tuple(rows),
    )


def _region_notes(trace: Trace, owners: list[Tensor], scores: list[Tensor]) -> dict[int, str]:
    notes = {}
    for label, ids in trace.region_segments.items():
        told = [
            f"{in_percent(float((owner == label).float().mean()))} of P{level} with {float(of_level[label]):.2f}"
            for level, owner, of_level in zip(trace.levels, owners, scores, strict=True)
            if of_level[label] > trace.model.config.stuff_threshold
        ]
        notes.update(dict.fromkeys(ids, f"Cells that it owns, and its mean probability there: {', '.join(told)}."))
    return notes
