"""How Panoptic FCN's masks compete: rescoring, overlaps and what is dropped, as steps of its walk."""

from thingstuff.models.panoptic_fcn_mask_steps import MASKS, thing_name
from thingstuff.models.panoptic_fcn_trace import MOST_LISTED, Trace, best_listed
from thingstuff.models.shared_steps import best_and_final, map_axes, share
from thingstuff.models.things_first_steps import CANDIDATES, things_first_step
from thingstuff.walk import Labelled, Row, Step, TableView

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
        title="Unsure masks lose score",
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
            Labelled("scores", segments.scores.cpu(), (CANDIDATES,)),
            Labelled("labels", segments.labels.cpu(), (CANDIDATES,)),
            Labelled("masks", segments.masks.cpu(), map_axes(CANDIDATES, 4)),
        ),
        views=(_score_table(trace),),
        after=("masks",),
        notes=_score_notes(trace),
    )


def _products(trace: Trace) -> list[float]:
    products = trace.fused_things.scores * trace.rescored.inside * trace.rescored.decay
    return [share(product) for product in products.tolist()]


def _score_table(trace: Trace) -> TableView:
    nms, left, products = trace.model.config.nms, set(trace.rescored.order.tolist()), _products(trace)
    final = [fused for fused, ids in enumerate(trace.thing_segments) if ids]
    rows = []
    for fused in best_and_final(len(products), MOST_LISTED, final):
        scores = [float(trace.fused_things.scores[fused]), float(trace.rescored.inside[fused])]
        scores += [float(trace.rescored.decay[fused])] if nms else []
        numbers = (share(number) for number in (*scores, products[fused]))
        cells = (thing_name(trace, fused), *numbers, "yes" if fused in left else "dropped")
        rows.append(Row(cells, fused in left, trace.thing_segments[fused]))
    return TableView(
        title="Scores of things",
        caption=f"{best_listed(len(products), MOST_LISTED)}Their numbers are those of the masks before.",
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
    return things_first_step(
        trace.seen,
        trace.model.merge_settings(trace.seen.result.size),
        [
            *(thing_name(trace, fused) for fused in trace.rescored.order.tolist()),
            *(trace.region_names[label] for label in trace.fused_stuff.labels.tolist()),
        ],
        name="merged",
        after=("rescored",),
        paper="Kirillov et al. 2019a, section 4; Li et al. 2021, section 4.1",
    )
