"""The steps of DETR's walk in which something looks at the encoded image: encoder, decoder, attention maps.

Letters: S = h w cells of the encoded image, Q queries, N of them kept, M heads, d width.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from thingstuff.feature_views import feature_views
from thingstuff.models.detr_kept_queries import DETRPass, KeptQuery, percent
from thingstuff.structures import Size
from thingstuff.transformer import Attention, DecoderLayer, EncoderLayer
from thingstuff.walk import AttentionView, Labelled, MapView, Row, Step, TableView, View, picture_array
from thingstuff.watching import Call

CHUNK_VALUES = 16_000_000
"""Attention weights that are made at once, and most of single heads that are kept: 64 MB."""


# ---- the encoder


def encoder_attention_step(p: DETRPass) -> Step:
    """Return the step of the encoder's self-attention: what each cell looks at, in the first and the last layer."""
    layers, (h, w) = p.model.encoder.layers, (p.output.projected.shape[2], p.output.projected.shape[3])
    last, M = len(layers) - 1, p.model.config.heads
    means = {f"layer {i + 1} of {last + 1}, mean of {M} heads": _mean_of_heads(p, i) for i in dict.fromkeys((last, 0))}
    view = attention_view(means, _heads(p, last) if M * (h * w) ** 2 <= CHUNK_VALUES else {}, (h, w))
    below = tuple(f"encoder.layers.{i}." for i in range(last))
    cells = f"{h * w} cells of the canvas, row by row"
    hidden = " Padding is never looked at." if p.padded else ""
    return Step(
        name="encoder_attention",
        chapter="The transformer",
        title="Encoder self-attention",
        question="Where does the encoder look from a point of the picture?",
        text=(
            f"In {_each_of(last + 1, 'encoder')} every cell looks at all {h * w}: it compares "
            f"itself with each, {M} times over (heads), and adds up what it finds, weighted by shares that sum to 1. "
            f"So distant parts of one object come to know of each other.{hidden} Click a point to see where it looks."
        ),
        paper="Carion et al. 2020, section 4.2 and Figure 3",
        source="thingstuff.transformer.EncoderLayer",
        tensors=tuple(
            Labelled(f"attention, {name}", weights, (f"asking: {cells}", f"looked at: {cells}"))
            for name, weights in means.items()
        ),
        views=(view,),
        after=("projection", "positions"),
        layers=(*below, *(f"encoder.layers.{last}.self_attention.{part}." for part in ("q", "k"))),
    )


def _each_of(layers: int, of: str) -> str:
    return f"the only {of} layer" if layers == 1 else f"each of {layers} {of} layers"


def attention_view(means: dict[str, Tensor], heads: dict[str, Tensor], shape: Size) -> AttentionView:
    """Return the view of some maps [S, S] of h x w cells; where there are no single `heads` it says why."""
    caption = "Each map shows where the cell that is clicked looks; its shares sum to 1."
    if not heads:
        caption += f" Single heads are left out: each is {shape[0] * shape[1]:,} × {shape[0] * shape[1]:,} numbers."
    return AttentionView(
        title="Where a cell looks",
        caption=caption,
        grid=shape,
        maps={name: picture_array(weights).reshape(-1, *shape) for name, weights in (means | heads).items()},
    )


def _mean_of_heads(p: DETRPass, layer: int) -> Float[Tensor, "S S"]:
    attention, call = _self_attention(p, layer)
    queries, keys, _, valid = call.inputs
    rows = max(1, CHUNK_VALUES // (attention.heads * keys.shape[1]))
    return torch.cat([attention.weights(part, keys, valid)[0].mean(0).cpu() for part in queries.split(rows, dim=1)])


def _heads(p: DETRPass, layer: int) -> dict[str, Float[Tensor, "S S"]]:
    attention, call = _self_attention(p, layer)
    queries, keys, _, valid = call.inputs
    weights = attention.weights(queries, keys, valid)[0].cpu()
    return {f"layer {layer + 1}, head {head}": shares for head, shares in enumerate(weights, start=1)}


def _self_attention(p: DETRPass, layer: int) -> tuple[Attention, Call]:
    module = p.model.encoder.layers[layer]
    assert isinstance(module, EncoderLayer)
    return module.self_attention, p.seen.calls[f"encoder.layers.{layer}.self_attention"][0]


def encoded_image_step(p: DETRPass) -> Step:
    """Return the step of the encoder's output, put back into rows and columns."""
    memory = p.output.memory[0].cpu()
    d, h, w = memory.shape
    last = len(p.model.encoder.layers) - 1
    return Step(
        name="encoded_image",
        chapter="The transformer",
        title="The encoded image",
        question="From where do we take this encoded image?",
        text=(
            f"It is the encoder's output: a list of {h * w} vectors of {d} numbers, put back into {h} rows and {w} "
            "columns. It is used twice: the decoder's queries look at it, and the attention maps compare queries "
            "with it. The mask head does not see it but through these maps."
        ),
        paper="Carion et al. 2020, sections 3.2 and 4.4, Figure 8",
        source="thingstuff.transformer.Encoder",
        tensors=(Labelled("encoded image", memory, p.cells(f"d = {d} channels")),),
        views=feature_views("Encoded image", memory, p.frame),
        after=("projection", "encoder_attention"),
        layers=(f"encoder.layers.{last}.",),
    )


# ---- the decoder


def decoder_step(p: DETRPass) -> Step:
    """Return the step of the decoder: queries become states by looking at each other and at the encoded image."""
    layers, (h, w) = p.model.decoder.layers, p.output.memory.shape[2:]
    last = len(layers) - 1
    module = layers[last]
    assert isinstance(module, DecoderLayer)
    queries, keys, _, valid = p.seen.calls[f"decoder.layers.{last}.cross_attention"][0].inputs
    shares = module.cross_attention.weights(queries, keys, valid)[0].transpose(0, 1).cpu()
    Q, M = shares.shape[:2]
    shares = shares.reshape(Q, M, h, w)
    looks = shares.mean(1)
    return Step(
        name="decoder",
        chapter="The decoder",
        title="From queries to states",
        question="Where did each query find its object?",
        text=(
            f"In {_each_of(last + 1, 'decoder')} the {Q} queries first look at each other, to "
            f"share out the picture, then at the {h} × {w} cells of the encoded image. They start from zeros, so in "
            "the first layer there is nothing to learn from each other yet. Below is where each kept query looks in "
            "the last layer: often at the outline of its object."
        ),
        paper="Carion et al. 2020, section 3.2 and Figure 6",
        source="thingstuff.transformer.DecoderLayer",
        tensors=(
            Labelled("states", p.output.states[0].cpu(), ("Q queries", "d channels")),
            Labelled("attention of the last layer", shares, ("Q queries", "M heads", *p.cells("")[1:])),
        ),
        views=_decoder_views(p, looks),
        after=("encoded_image", "positions", "queries"),
        layers=("decoder.",),
        notes=p.notes(lambda _, k: _decoder_note(k, looks[k.query])),
    )


def _decoder_views(p: DETRPass, looks: Float[Tensor, "Q h w"]) -> tuple[View, ...]:
    heads = p.model.config.heads
    views: list[View] = [
        MapView(
            title=kept.title,
            caption=f"Mean of {heads} heads in the last layer; the shares sum to 1.",
            segments=kept.segments,
            values=picture_array(looks[kept.query]),
            unit="share of the query's attention",
            low=0.0,
        )
        for kept in p.kept
    ]
    views.append(
        MapView(
            title=f"All {len(looks)} queries",
            caption="What all queries look at, kept or not, on average.",
            values=picture_array(looks.mean(0)),
            unit="share of a query's attention",
            low=0.0,
        )
    )
    return tuple(views)


def _decoder_note(kept: KeptQuery, look: Float[Tensor, "h w"]) -> str:
    w = look.shape[1]
    sorted_shares = look.flatten().sort(descending=True).values
    half = int((sorted_shares.cumsum(0) < 0.5).sum()) + 1
    cell = int(look.argmax())
    return (
        f"Query {kept.query} gives half of its attention to {half} of {look.numel()} cells, most "
        f"({percent(float(look.max()))}) to row {cell // w + 1}, column {cell % w + 1}."
    )


# ---- attention maps


def attention_maps_step(p: DETRPass) -> Step:
    """Return the step of the kept queries' attention maps, of which the mask head is made."""
    (h, w), M = p.output.memory.shape[2:], p.model.config.heads
    calls = p.seen.calls["attention_maps"]
    maps: Tensor = calls[0].output.cpu() if calls else torch.zeros(0, M, h, w)
    scores = p.seen.segments.scores.cpu()
    return Step(
        name="attention_maps",
        chapter="The masks",
        title="Attention maps: N × M × h × w",
        question=f"What is done here to get N × M × H/{p.stride} × W/{p.stride} maps?",
        text=(
            f"Each of the {len(maps)} kept states becomes {M} short vectors, and so does each of {h} × {w} cells of "
            f"the encoded image; their products are {M} maps a query. Only queries and keys take part: no values are "
            f"multiplied, the maps themselves are what goes on. One softmax runs over all {M} × {h} × {w} numbers of a "
            "query together, so heads compete too."
        ),
        paper="Carion et al. 2020, section 4.4, Figure 8",
        source="thingstuff.models.detr_mask_head.AttentionMaps",
        tensors=(
            Labelled("attention maps", maps, ("N kept queries", "M heads", *p.cells("")[1:])),
            Labelled("probabilities of the kept queries", scores, ("N kept queries",)),
        ),
        views=(_head_table(p, maps), *_map_views(p, maps)),
        after=("decoder", "encoded_image", "class_scores"),
        layers=("attention_maps.",),
        notes=p.notes(lambda row, k: _head_note(k, maps[row])),
    )


def _head_table(p: DETRPass, maps: Float[Tensor, "N M h w"]) -> TableView:
    shares = maps.sum((2, 3)).clamp(0, 1).tolist()
    return TableView(
        title="How much each head got",
        caption="A row a kept query; the shares of its heads sum to 1.",
        columns=("query", *(f"head {head}" for head in range(1, maps.shape[1] + 1))),
        rows=tuple(Row((kept.title, *own), segments=kept.segments) for kept, own in zip(p.kept, shares, strict=True)),
    )


def _map_views(p: DETRPass, maps: Float[Tensor, "N M h w"]) -> list[View]:
    return [
        MapView(
            title=f"{kept.title}, head {head}",
            caption=f"{percent(float(values.sum()))} of the query's attention; one scale for all its heads.",
            segments=kept.segments,
            values=picture_array(values),
            unit="share of the query's attention",
            low=0.0,
            high=float(own.max()),
        )
        for kept, own in zip(p.kept, maps, strict=True)
        for head, values in enumerate(own, start=1)
    ]


def _head_note(kept: KeptQuery, maps: Float[Tensor, "M h w"]) -> str:
    shares = maps.sum((1, 2))
    most, least = int(shares.argmax()), int(shares.argmin())
    return (
        f"Of query {kept.query}'s attention head {most + 1} got most ({percent(float(shares[most]))}), head "
        f"{least + 1} least ({percent(float(shares[least]))})."
    )
