"""The steps of DETR's walk that make what its transformer is given: projected features, position codes, queries.

Letters: Q queries, d width, h w the encoded image.
"""

from torch import Tensor
from torch.nn import functional as F

from thingstuff.feature_views import feature_views
from thingstuff.models.detr_kept_queries import DETRPass
from thingstuff.walk import Labelled, MapView, MatrixView, Step, picture_array


def projection_step(p: DETRPass) -> Step:
    """Return the step of the projection, which the encoder and the mask head take in."""
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


def positions_step(p: DETRPass) -> Step:
    """Return the step of the position codes."""
    codes: Tensor = p.seen.calls["encoder"][0].inputs[1][0]
    d, h, w = p.output.projected.shape[1:]
    code = codes.T.reshape(d, h, w).cpu()
    row, column = (h - 1) // 2, (w - 1) // 2
    alike = F.cosine_similarity(code, code[:, row, column][:, None, None], dim=0)
    waves = ((0, "Rows, fastest sine"), (d // 8, "Rows, a ten times slower one"), (d // 2, "Columns, fastest sine"))
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


def queries_step(p: DETRPass) -> Step:
    """Return the step of the learned queries."""
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
        layers=("queries.",),
        notes=p.notes(lambda _, k: f"It began as query {k.query} of {count}."),
    )
