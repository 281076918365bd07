"""The steps of DETRPanoptic's walk, and of them those before and beside the attention: projection, queries, boxes.

Letters: Q queries, N of them kept, K class outputs with "no object" last, d width, h w the encoded image.
"""

from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_convert

from thingstuff.feature_views import feature_views
from thingstuff.models.detr import DETRPanoptic
from thingstuff.models.detr_attention_steps import (
    attention_maps_step,
    decoder_step,
    encoded_image_step,
    encoder_attention_step,
)
from thingstuff.models.detr_kept_queries import DETRPass, KeptQuery, pass_of, percent
from thingstuff.models.detr_mask_head import STAGES
from thingstuff.models.detr_mask_steps import entry_step, join_step, logits_step
from thingstuff.models.detr_merging_steps import argmax_step, merging_step
from thingstuff.models.shared_steps import backbone_steps, picture_step, result_step, share
from thingstuff.panoptic import VOID
from thingstuff.walk import Labelled, MapView, Mark, MarksView, MatrixView, Row, Seen, Step, TableView, picture_array
from thingstuff.watching import Watched

ROWS = 40
"""Most queries of the table of class scores."""
DASHED = 10
"""Most boxes that are drawn of dropped queries."""
GREY = (128, 128, 128)
"""The colour of what belongs to no category."""


def watched_modules(model: DETRPanoptic) -> tuple[Watched, ...]:
    """Return the modules whose calls the steps read."""
    last = len(model.encoder.layers) - 1
    attention = dict.fromkeys(f"encoder.layers.{layer}.self_attention" for layer in (0, last))
    decoder = f"decoder.layers.{len(model.decoder.layers) - 1}.cross_attention"
    norms = (f"mask_head.norms.{i}" for i in range(len(model.mask_head.norms)))
    given = (Watched(name, inputs=True, output=False) for name in ("encoder", *attention, decoder))
    return (Watched("backbone"), *given, *map(Watched, ("attention_maps", *norms)))


def detr_steps(model: DETRPanoptic, seen: Seen) -> list[Step]:
    """Return the steps of one picture's pass."""
    p = pass_of(model, seen)
    stages = seen.calls["backbone"][0].output
    return [
        picture_step(model, seen, "Carion et al. 2020, section 4 and appendix A.4"),
        *backbone_steps(model, stages, seen, _used(p), "Carion et al. 2020, section 3.2"),
        _projection_step(p),
        _positions_step(p),
        encoder_attention_step(p),
        encoded_image_step(p),
        _queries_step(p),
        decoder_step(p),
        _class_scores_step(p),
        _boxes_step(p),
        attention_maps_step(p),
        entry_step(p),
        *(join_step(p, stage) for stage in STAGES),
        logits_step(p),
        argmax_step(p),
        merging_step(p),
        result_step(
            seen,
            ("merging", "class_scores"),
            "Ids count the segments that are left in the order of their queries; a score is the query's class "
            "probability, areas are counted at the size of the picture.",
        ),
    ]


def _used(p: DETRPass) -> dict[int, str]:
    """Return where each ResNet stage is used again."""
    d = p.model.config.hidden
    used = {
        stage: (
            f"It is used again late: a 1 × 1 convolution (an adapter) brings it to {width} channels, and the mask head "
            f"adds it to every kept query's features (step join_res{stage})."
        )
        for stage, width in ((4, d // 2), (3, d // 4), (2, d // 8))
    }
    used[5] = f"A 1 × 1 convolution brings it to {d} channels next; from there the encoder and the mask head take it."
    return used


def _projection_step(p: DETRPass) -> Step:
    projected = p.output.projected[0].cpu()
    d, h, w = projected.shape
    return Step(
        name="projection",
        chapter="The transformer",
        title="Projection to the transformer's width",
        question="What does the transformer get of the ResNet, and where is it used a second time?",
        text=(
            f"A 1 × 1 convolution makes {d} numbers of the {p.model.backbone.channels[5]} of each cell of Res5. The "
            f"encoder reads these {h} × {w} cells as a list of {h * w}; the mask head takes them again as they are "
            "here, not as the encoder leaves them."
        ),
        paper="Carion et al. 2020, section 3.2 (transformer encoder)",
        source="thingstuff.models.detr.DETRPanoptic",
        tensors=(Labelled("projected features", projected, p.cells(f"d = {d} channels")),),
        views=feature_views("Projected features", projected, p.frame),
        after=("res5",),
        layers=("projection.",),
    )


def _positions_step(p: DETRPass) -> Step:
    codes: Tensor = p.seen.calls["encoder"][0].inputs[1][0]
    d, h, w = p.output.projected.shape[1:]
    code = codes.T.reshape(d, h, w).cpu()
    row, column = (h - 1) // 2, (w - 1) // 2
    alike = F.cosine_similarity(code, code[:, row, column][:, None, None], dim=0)
    waves = ((0, "rows, slowest sine"), (d // 2, "columns, slowest sine"))
    padding = " Padding is not counted, so that the waves fit the picture." if p.padded else ""
    return Step(
        name="positions",
        chapter="The transformer",
        title="Position codes",
        question="How does the transformer know where a cell lies?",
        text=(
            f"Attention does not care for the order of its cells, so each gets {d} fixed numbers that say where it is: "
            f"{d // 2} sines and cosines of its row, then as many of its column, from one wave over the whole picture "
            "to almost none. They are added to what attention compares, in every layer, never to what it passes on."
            f"{padding}"
        ),
        paper="Carion et al. 2020, section 3.2, appendix A.4",
        source="thingstuff.transformer.sine_positions",
        tensors=(Labelled("position codes", code, p.cells(f"d = {d} codes")),),
        views=(
            *(
                MapView(title=title, values=picture_array(code[i]), unit="code", low=-1.0, high=1.0, signed=True)
                for i, title in waves
            ),
            MapView(
                title="How alike the codes are to that of the middle cell",
                caption=f"The cell in row {row + 1} and column {column + 1} of {h} × {w}.",
                values=picture_array(alike),
                unit="cosine similarity",
                high=1.0,
            ),
        ),
        after=("picture",),  # of which they read nothing but where it ends
    )


def _queries_step(p: DETRPass) -> Step:
    queries = p.model.queries.weight.detach().cpu().clone()
    count, d = queries.shape
    unit = F.normalize(queries.float(), dim=1)
    kept = {k.query: k for k in p.kept}
    groups = {s: number for number, s in enumerate(dict.fromkeys(s for k in p.kept for s in k.segments))}
    members = [kept[q].segments if q in kept else () for q in range(count)]
    return Step(
        name="queries",
        chapter="The decoder",
        title="Object queries",
        question="What are the object queries, and what do they know of my picture?",
        text=(
            f"{count} learned vectors of {d} numbers, the same for every picture: nothing of yours is in them yet. "
            "Each asks for one object or one stretch of stuff, or ends as no object; a picture cannot have more than "
            f"{count} segments."
        ),
        paper="Carion et al. 2020, section 3.2 (transformer decoder)",
        source="thingstuff.models.detr.DETRPanoptic",
        tensors=(Labelled("queries", queries, ("Q queries", "d channels")),),
        views=(
            MatrixView(
                title="How alike the queries are",
                caption="Queries that end in one segment are one group; each other is one of its own.",
                values=picture_array((unit @ unit.T).clamp(-1, 1)),
                unit="cosine similarity",
                names=tuple(kept[q].title if q in kept else f"query {q}" for q in range(count)),
                groups=tuple(groups[m[0]] if m else len(groups) + q for q, m in enumerate(members)),
                row_segments=tuple(members),
            ),
        ),
        after=("picture",),  # of nothing, in truth, but a walk has one beginning
        layers=("queries.",),
        notes=p.notes(lambda _, k: f"It began as query {k.query} of {count}."),
    )


# ---- classes


def _class_scores_step(p: DETRPass) -> Step:
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
    elif nothing >= score:
        reason = "no object is likelier"
    elif p.model.labels_of_outputs()[int(best)] == VOID:
        reason = "an output that is no category's"
    else:
        reason = f"{score:.2f} is not above {p.model.config.threshold:.2f}"
    segments = own[0].segments if own else ()
    return Row((str(query), name, share(score), share(nothing), reason), kept=bool(own), segments=segments)


def _class_note(p: DETRPass, kept: KeptQuery) -> str:
    values, outputs = p.probabilities[kept.query].topk(2)
    second = f"the next best answer, {p.output_name(int(outputs[1]))}, has {percent(float(values[1]))}"
    return f"Query {kept.query} is {kept.name} with {percent(kept.score)}; {second}."


# ---- boxes


def _boxes_step(p: DETRPass) -> Step:
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
        ),
        after=("decoder",),
        layers=("box_head.",),
        notes=p.notes(lambda _, k: _box_note(k, corners[k.query])),
    )


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
