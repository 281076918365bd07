"""The steps of DETR's walk in which each query answers: its class scores, its box.

Letters: Q queries, K class outputs with "no object" last.
"""

import torch
from torch import Tensor
from torchvision.ops import box_convert

from thingstuff.merging_fates import told_apart
from thingstuff.models.detr_kept_queries import DETRPass, KeptQuery, percent
from thingstuff.models.shared_steps import share
from thingstuff.panoptic import VOID
from thingstuff.walk import Labelled, Mark, MarksView, Row, Step, TableView

ROWS = 40
"""Most queries of the table of class scores."""
DASHED = 10
"""Most boxes that are drawn of dropped queries."""
GREY = (128, 128, 128)
"""The colour of what belongs to no category."""


# ---- classes


def class_scores_step(p: DETRPass) -> Step:
    """Return the step of the class scores: which queries stay."""
    probabilities = p.probabilities
    count, outputs = probabilities.shape
    order = _best_first(p)
    shown = order[:ROWS]
    more = f" {count - len(shown)} more are not shown." if count > len(shown) else ""
    released = ""
    if p.model.config.outputs is not None:
        names = sum(label == VOID for label in p.model.labels_of_outputs())
        released = (
            f" An output's position is a category's id here, so {names} of them are no category's, and a query whose "
            "best is one of those is dropped."
        )
    return Step(
        name="class_scores",
        chapter="The decoder",
        title="Class scores: who stays",
        question="Which queries were dropped, and why?",
        text=(
            f"A linear layer gives each state {outputs} numbers, one a class and one for no object; softmax makes "
            f"probabilities of them. {len(p.kept)} of {count} queries stay: those whose likeliest answer is a class, "
            f"with a probability above {p.model.config.threshold:.2f}. Only they get a mask.{released}"
        ),
        paper="Carion et al. 2020, sections 3.1 and 4.4",
        source="thingstuff.models.detr.DETRPanoptic.confident_queries",
        tensors=(Labelled("class probabilities", probabilities, ("Q queries", 'K classes, "no object" last')),),
        views=(
            TableView(
                title="Queries and their classes",
                caption=f"Kept queries first, then by the probability of the best class.{more}",
                columns=("query", "best class", "its probability", "no object", "outcome"),
                rows=tuple(_class_row(p, query) for query in shown),
            ),
        ),
        after=("decoder",),
        layers=("class_head.",),
        notes=p.notes(lambda _, k: _class_note(p, k)),
    )


def _best_first(p: DETRPass) -> list[int]:
    """Return the queries, kept ones first, then by the probability of their best class."""
    best = p.probabilities[:, :-1].max(1).values.tolist()
    kept = set(p.queries)
    return sorted(range(len(best)), key=lambda query: (query not in kept, -best[query]))


def _class_row(p: DETRPass, query: int) -> Row:
    probabilities = p.probabilities[query]
    score, best = (value.item() for value in probabilities[:-1].max(0))
    nothing, name = float(probabilities[-1]), p.output_name(int(best))
    own = [kept for kept in p.kept if kept.query == query]
    if own:
        reason = "kept"
    elif nothing > score:
        reason = "no object is likelier"
    elif p.model.labels_of_outputs()[int(best)] == VOID:
        reason = "an output that is no category's"
    else:
        reason = _not_above(score, p.model.config.threshold)
    segments = own[0].segments if own else ()
    return Row((str(query), name, share(score), share(nothing), reason), kept=bool(own), segments=segments)


def _not_above(score: float, threshold: float) -> str:
    limit = float(torch.tensor(threshold))  # scores are fp32, and so compared
    low, high = (f"{score:.2f}",) * 2 if score == limit else told_apart(score, limit, 2)
    return f"{low} is not above {high}"


def _class_note(p: DETRPass, kept: KeptQuery) -> str:
    values, outputs = p.probabilities[kept.query].topk(2)
    second = f"the next best answer, {p.output_name(int(outputs[1]))}, has {percent(float(values[1]))}"
    return f"Query {kept.query} is {kept.name} with {percent(kept.score)}; {second}."


# ---- boxes


def boxes_step(p: DETRPass) -> Step:
    """Return the step of the boxes."""
    boxes = p.output.boxes[-1, 0].cpu()
    height, width = p.frame.size  # boxes are relative to the picture, not to the canvas
    corners = box_convert(boxes, "cxcywh", "xyxy") * boxes.new_tensor([width, height, width, height])
    kept = {k.query: k for k in p.kept}
    dropped = [query for query in _best_first(p) if query not in kept][:DASHED]
    return Step(
        name="boxes",
        chapter="The decoder",
        title="Boxes, which no mask uses",
        question="What are the boxes for, when masks are wanted?",
        text=(
            "Three linear layers and a sigmoid make a box of each state: centre, width and height as shares of the "
            "picture. Masks do not use it, and no later step does. In training boxes decide which query answers for "
            "which object, and they are what the queries learn first."
        ),
        paper="Carion et al. 2020, sections 3.1 and 3.2 (prediction feed-forward networks)",
        source="thingstuff.models.detr.BoxHead",
        tensors=(Labelled("boxes", boxes, ("Q queries", "cx, cy, w, h as shares of the picture")),),
        views=(
            MarksView(
                title="Boxes",
                caption=f"Solid: of kept queries. Dashed: of the {len(dropped)} best of those that were dropped.",
                marks=tuple(_box_mark(p, query, corners[query], kept.get(query)) for query in [*kept, *dropped]),
            ),
            *_true_boxes(p),
        ),
        after=("decoder",),
        layers=("box_head.",),
        notes=p.notes(lambda _, k: _box_note(k, corners[k.query])),
    )


def _true_boxes(p: DETRPass) -> tuple[MarksView, ...]:
    """Return the boxes that queries should answer with, where the ground truth is given: of things and stuff alike."""
    target = p.seen.target
    if target is None:
        return ()
    categories = p.model.categories
    marks = []
    for box, label in zip(target.boxes_xyxy.tolist(), target.labels.tolist(), strict=True):
        x0, y0, x1, y1 = box
        marks.append(Mark((x0, y0, x1, y1), categories.names[label], categories.colors[label]))
    caption = "In training each is matched to the one query whose class and box cost least."
    return (MarksView(title="Ground truth: boxes of things and stuff", caption=caption, marks=tuple(marks)),)


def _box_mark(p: DETRPass, query: int, box: Tensor, kept: KeptQuery | None) -> Mark:
    best = int(p.probabilities[query, :-1].argmax())
    label = p.model.labels_of_outputs()[best]
    color = GREY if label == VOID else p.model.categories.colors[label]
    x0, y0, x1, y1 = box.tolist()
    text = f"{query}: {p.output_name(best)} {float(p.probabilities[query, best]):.2f}"
    return Mark((x0, y0, x1, y1), text, color, kept is not None, kept.segments if kept else ())


def _box_note(kept: KeptQuery, box: Tensor) -> str:
    x0, y0, x1, y1 = (round(value) for value in box.tolist())
    return (
        f"Query {kept.query}'s box reaches from ({x0}, {y0}) to ({x1}, {y1}), in pixels of the canvas; masks ignore it."
    )
