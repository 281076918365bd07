"""The steps of DETR's mask head in its walk: entry, the ResNet maps that join, logits.

The head runs fused (see `detr_mask_head`); what is shown is what its group norms gave, and equals the plain head.

Letters: N kept queries, M heads, d width, C channels, h w a map.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from thingstuff.feature_views import energy, feature_views, principal_view
from thingstuff.models.detr_kept_queries import DETRPass, KeptQuery, percent
from thingstuff.models.detr_mask_head import GROUPS, STAGES
from thingstuff.models.shared_steps import map_axes
from thingstuff.models.true_map import true_map_view
from thingstuff.structures import Size
from thingstuff.walk import Labelled, MapView, Step, View, picture_array

BLOCK = "3 × 3 convolution, group norm, ReLU"


def _after_norm(p: DETRPass, index: int, channels: int, size: Size) -> Float[Tensor, "N C h w"]:
    """Return the kept queries' features after a conv, its norm and ReLU, the head's chunks put together."""
    calls = p.seen.calls[f"mask_head.norms.{index}"]
    if not calls:
        return torch.zeros(0, channels, *size)
    return F.relu(torch.cat([call.output for call in calls])).cpu()


def _features(p: DETRPass, index: int) -> Float[Tensor, "N C h w"]:
    """Return what the block of that index gave: 0 and 1 are the entry's, each later one follows a joining."""
    stages = p.output.stages
    size = p.output.projected.shape[2:] if index < 2 else stages[STAGES[index - 2]].shape[2:]
    channels = p.model.mask_head.norms[index].num_channels
    assert isinstance(channels, int)
    return _after_norm(p, index, channels, (size[0], size[1]))


def _query_axes(channels: str, stride: int) -> tuple[str, str, str, str]:
    return ("N kept queries", *map_axes(channels, stride))


def entry_step(p: DETRPass) -> Step:
    """Return the step in which the mask head takes in projected features and attention maps."""
    projected = p.output.projected[0].cpu()
    d, h, w = projected.shape
    M, N = p.model.config.heads, len(p.kept)
    calls = p.seen.calls["attention_maps"]
    maps = calls[0].output.cpu() if calls else projected.new_zeros(0, M, h, w)
    first, features = _features(p, 0), _features(p, 1)
    return Step(
        name="mask_entry",
        chapter="The masks",
        title="Mask head, entry: features and attention maps",
        question="What is concatenated here?",
        text=(
            f"For each kept query the {d} projected channels, the same for all, and its own {M} attention maps lie on "
            f"each other: {d} + {M} = {d + M} channels, {N} × {d + M} × {h} × {w} numbers in all. Two blocks ({BLOCK}, "
            f"{GROUPS} groups) make {first.shape[1]} and then {features.shape[1]} channels of them, at stride "
            f"{p.stride}. The maps are all that tells one query's mask from another's. In code the share of the "
            "projected channels in the first convolution is computed once, for it is the same."
        ),
        paper="Carion et al. 2020, section 4.4, Figure 8",
        source="thingstuff.models.detr_mask_head.MaskHead",
        tensors=(
            # a view of one copy: it is the same for every query
            Labelled("projected features", projected.expand(N, d, h, w), _query_axes(f"d = {d} channels", p.stride)),
            Labelled("attention maps", maps, _query_axes("M heads", p.stride)),
            Labelled("after the first block", first, _query_axes("channels", p.stride)),
            Labelled("after the second block", features, _query_axes("channels", p.stride)),
        ),
        views=(*feature_views("Projected features, for every query", projected, p.frame), *_query_views(p, features)),
        after=("projection", "attention_maps"),
        layers=("mask_head.norms.0.", "mask_head.norms.1.", "mask_head.convs.0.", "mask_head.convs.1."),
        notes=_feature_notes(p, features, p.stride),
    )


def join_step(p: DETRPass, stage: int) -> Step:
    """Return the step in which a stage of the ResNet joins the mask head."""
    index, stride = STAGES.index(stage) + 2, 2**stage
    before = _features(p, index - 1)
    adapted = p.model.mask_head.adapted(stage, p.output.stages[stage])[0].cpu()
    features = _features(p, index)
    (h, w), C = adapted.shape[1:], features.shape[1]
    enlarged = (
        f"Each cell of the {before.shape[2]} × {before.shape[3]} before becomes several alike, {h} × {w} in all"
        if before.shape[2:] != adapted.shape[1:]
        else f"The features have the {h} × {w} cells of Res{stage} already"
    )
    source = "mask_entry" if stage == STAGES[0] else f"join_res{stage + 1}"
    return Step(
        name=f"join_res{stage}",
        chapter="The masks",
        title=f"Mask head, stride {stride}: Res{stage} joins",
        question="Which map of the ResNet joins here, and is it added or concatenated?",
        text=(
            f"{enlarged}. A 1 × 1 convolution (the adapter) brings Res{stage} from {p.output.stages[stage].shape[1]} "
            f"to {len(adapted)} channels, and it is added, the same for every query. Then one block ({BLOCK}) leaves "
            f"{C} channels."
        ),
        paper="Carion et al. 2020, section 4.4, Figure 8",
        source="thingstuff.models.detr_mask_head.MaskHead",
        tensors=(
            Labelled(f"Res{stage} through its adapter", adapted, map_axes("channels", stride)),
            Labelled("features", features, _query_axes("channels", stride)),
        ),
        views=(*feature_views(f"Res{stage} through its adapter", adapted, p.frame), *_query_views(p, features)),
        after=(source, f"res{stage}"),
        layers=(f"mask_head.norms.{index}.", f"mask_head.laterals.{stage}.", f"mask_head.convs.{index}."),
        notes=_feature_notes(p, features, stride),
    )


def _query_views(p: DETRPass, features: Float[Tensor, "N C h w"]) -> list[View]:
    return [
        principal_view(
            f"{kept.title}: features",
            "Principal components of this query's features as colour.",
            own,
            p.frame,
            kept.segments,
        )
        for kept, own in zip(p.kept, features, strict=True)
    ]


def _feature_notes(p: DETRPass, features: Float[Tensor, "N C h w"], stride: int) -> dict[int, str]:
    """Tell how much stronger each query's features are within its mask than around it."""
    size = (features.shape[2], features.shape[3])
    logits = p.seen.segments.masks.cpu()
    inside = F.interpolate((logits > 0).float()[:, None], size, mode="area")[:, 0] if len(logits) else logits

    def sentence(row: int, kept: KeptQuery) -> str:
        strength, own = energy(features[row]), inside[row]
        within, around = float(own.sum()), float((1 - own).sum())
        if within == 0 or around == 0:
            return f"Query {kept.query}'s features have a strength of {float(strength.mean()):.2f} at stride {stride}."
        means = float((strength * own).sum()) / within, float((strength * (1 - own)).sum()) / around
        return (
            f"At stride {stride} query {kept.query}'s features have a strength of {means[0]:.2f} where its mask will "
            f"be, and of {means[1]:.2f} around it."
        )

    return p.notes(sentence)


def logits_step(p: DETRPass) -> Step:
    """Return the step of the mask logits."""
    logits = p.seen.segments.masks.cpu()
    h, w = logits.shape[1:]
    return Step(
        name="mask_logits",
        chapter="The masks",
        title="Mask logits at stride 4",
        question="At what resolution are masks made?",
        text=(
            f"A last 3 × 3 convolution makes one number of each cell's channels: {h} × {w} cells, a quarter of the "
            "canvas in height and width. A positive logit says that the cell is the query's; but no cell is decided "
            "here, for the queries are compared first."
        ),
        paper="Carion et al. 2020, section 4.4, Figure 8",
        source="thingstuff.models.detr_mask_head.MaskHead",
        tensors=(Labelled("mask logits", logits, ("N kept queries", *map_axes("", 4)[1:])),),
        views=(*_logit_views(p, logits), *(() if p.seen.truth is None else (true_map_view(p.seen.truth),))),
        after=(f"join_res{STAGES[-1]}",),
        layers=("mask_head.out.",),
        notes=p.notes(lambda row, k: _logit_note(k, logits[row])),
    )


def _logit_views(p: DETRPass, logits: Float[Tensor, "N h w"]) -> tuple[View, ...]:
    views = tuple(
        MapView(
            title=kept.title,
            caption=f"Positive on {percent(float((own > 0).float().mean()))} of the canvas.",
            segments=kept.segments,
            values=picture_array(own),
            unit="logit",
            signed=True,
        )
        for kept, own in zip(p.kept, logits, strict=True)
    )
    claims = (logits > 0).sum(0)
    return (
        MapView(
            title="How many queries claim each cell",
            caption="Queries with a positive logit: where it is not 1, the comparison of logits decides.",
            values=picture_array(claims),
            unit="queries",
            low=0.0,
            high=float(max(1, len(logits))),
        ),
        *views,
    )


def _logit_note(kept: KeptQuery, logits: Float[Tensor, "h w"]) -> str:
    return (
        f"Query {kept.query}'s logits reach from {float(logits.min()):.1f} to {float(logits.max()):.1f}, and are "
        f"positive on {percent(float((logits > 0).float().mean()))} of the canvas."
    )
