"""Panoptic FCN's one feature, and the masks that kernels make of it, as steps of its walk."""

import torch
from torch import Tensor

from thingstuff.feature_views import feature_views
from thingstuff.layers import with_coordinates
from thingstuff.models.panoptic_fcn_position_steps import share_view
from thingstuff.models.panoptic_fcn_trace import Trace, convolutions
from thingstuff.models.pyramid_steps import STAGES, level_steps, semantic_fpn_step
from thingstuff.models.shared_steps import map_axes
from thingstuff.walk import Labelled, MapView, Step, TableView, View, picture_array

CHAPTER = "The feature"
MASKS = "The masks"
MOST_DROPPED = 8
"""Most masks of things that became no final segment which are drawn."""
MOST_MEMBERS = 4
"""Most kernels of one object whose masks before fusion are drawn ..."""
MOST_BEFORE = 24
"""... and of all objects together."""
MOST_TARGETS = 24
"""Most masks of the ground truth that are drawn."""


# ---- the feature


def high_resolution_step(trace: Trace) -> Step:
    """Return the step of the stride-4 map that is encoded: the semantic FPN, P2, or a sum."""
    name, paper = "high_resolution", "Li et al. 2021, section 3.2 (feature encoder)"
    kind, use = trace.model.config.feature_type, "This is the feature that the encoder sees."
    if kind == "semantic":
        return semantic_fpn_step(trace.seen, name, CHAPTER, use, paper)
    feature: Tensor = trace.seen.calls["feature_encoder"][0].inputs[0][0].cpu()
    told = (
        "In this configuration the encoder sees P2 as it is."
        if kind == "p2"
        else "In this configuration P3, P4 and P5 are enlarged to the size of P2 (bilinear) and added to it."
    )
    return Step(
        name=name,
        chapter=CHAPTER,
        title="P2 is the high-resolution feature" if kind == "p2" else "The high-resolution feature: P2 to P5 added",
        question="From where do we take the feature that is encoded?",
        text=f"{told} It has {feature.shape[1]} × {feature.shape[2]} cells of {len(feature)} numbers. {use}",
        paper=f"{paper}; section 4.1 (feature type)",
        source="thingstuff.models.panoptic_fcn.PanopticFCN" if kind == "p2" else "thingstuff.layers.sum_of_levels",
        tensors=(Labelled("feature", feature, map_axes("channels", 4)),),
        views=feature_views("Feature", feature, trace.frame),
        after=("p2",) if kind == "p2" else level_steps(STAGES),
    )


def encoded_step(trace: Trace) -> Step:
    """Return the step of the feature encoder, with the coordinates at its entry."""
    c, feature = trace.model.config, trace.output.feature[0]
    entering: Tensor = trace.seen.calls["feature_encoder"][0].inputs[0].cpu()
    tensors = [Labelled("encoded feature", feature, map_axes("channels", 4))]
    views: list[View] = list(feature_views("Encoded feature", feature, trace.frame))
    entry = "This configuration appends no coordinates."
    if c.encoder_coordinates:
        entry = (
            "Two channels are concatenated first: each cell's row and column, from -1 to 1 over the canvas, so that a "
            "kernel can tell an object on the left from its like on the right."
        )
        coordinates = with_coordinates(entering)[0, -2:]
        tensors.append(Labelled("coordinates", coordinates, map_axes("row and column, -1 to 1", 4)))
        for title, values in zip(("Row coordinate", "Column coordinate"), coordinates, strict=True):
            view = MapView(title=title, values=picture_array(values), unit="from -1 to 1", signed=True)
            views.append(view)
    kind = "deformable 3 × 3 convolution" if c.encoder_deformable else "3 × 3 convolution"
    layers = convolutions(c.encoder_convs, kind).capitalize()
    mirrored = " The mirrored picture has an encoded feature of its own (flip)." if c.flip else ""
    return Step(
        name="encoded",
        chapter=CHAPTER,
        title="The encoded feature: one for all objects",
        question="What is concatenated here, and what do kernels look at?",
        text=(
            f"{entry} {layers} with ReLU give {c.encoder_channels} channels, at a "
            "quarter of the canvas's resolution. There is one such feature for the whole picture, and every kernel "
            f"looks at it.{mirrored}"
        ),
        paper="Li et al. 2021, section 3.2 (feature encoder)",
        source="thingstuff.models.panoptic_fcn_heads.FeatureEncoder",
        tensors=tuple(tensors),
        views=tuple(views),
        after=("high_resolution",),
        layers=("feature_encoder.",),
    )


# ---- kernel * feature = mask


def masks_step(trace: Trace) -> Step:
    """Return the step of the masks: what each kernel makes of the encoded feature."""
    c, (h, w) = trace.model.config, trace.output.feature.shape[-2:]
    mirrored = (
        " The mirrored picture's kernels and feature give a mask too, mirrored back; what is shown is the mean of both."
        if c.flip
        else ""
    )
    before = _before_fusion(trace)
    members = [row for rows in before.values() for row in rows]
    masks_before = trace.masks_of(members)
    return Step(
        name="masks",
        chapter=MASKS,
        title="Kernel × feature = mask",
        question="How does a list of numbers become the mask of an object?",
        text=(
            f"Each kernel is multiplied with the {c.encoder_channels} numbers of every cell and the products are added "
            "(a 1 × 1 convolution); the sigmoid makes a probability of the sum. So "
            f"{len(trace.thing_masks)} kernels of things and {len(trace.stuff_masks)} of stuff give as many masks of "
            f"{h} × {w}.{mirrored}"
        ),
        paper="Li et al. 2021, section 3",
        source="thingstuff.models.panoptic_fcn.mask_probabilities",
        tensors=(
            Labelled("masks of things", trace.thing_masks, map_axes("things after fusion", 4)),
            Labelled("masks of stuff", trace.stuff_masks, map_axes("stuff classes, ascending", 4)),
            Labelled("masks of things before fusion", masks_before, map_axes("kernels that were averaged", 4)),
        ),
        views=(
            *_thing_views(trace, before, dict(zip(members, masks_before, strict=True))),
            *_stuff_views(trace),
            *_target_views(trace),
        )
        or (TableView(title="No kernels, so no masks", columns=("mask",), rows=()),),
        after=("fused", "encoded"),
        notes=_mask_notes(trace),
    )


def _before_fusion(trace: Trace) -> dict[int, list[int]]:
    """Return the candidates whose masks before fusion are drawn, by the final thing that they were averaged to."""
    chosen: dict[int, list[int]] = {}
    room = MOST_BEFORE
    for fused, ids in enumerate(trace.thing_segments):
        rows = trace.members(fused)
        if ids and len(rows) > 1 and (rows := rows[: min(MOST_MEMBERS, room)]):
            chosen[fused] = rows
            room -= len(rows)
    return chosen


def thing_name(trace: Trace, fused: int) -> str:
    """Return what a thing after fusion is called: its class and its number, from 1."""
    return f"{trace.thing_names[int(trace.fused_things.labels[fused])]} {fused + 1}"


def _thing_views(trace: Trace, before: dict[int, list[int]], masks_before: dict[int, Tensor]) -> list[View]:
    views: list[View] = []
    dropped = [fused for fused, ids in enumerate(trace.thing_segments) if not ids]
    for fused, ids in enumerate(trace.thing_segments):
        if fused in dropped[MOST_DROPPED:]:
            continue
        name = thing_name(trace, fused)
        score = f"score {float(trace.fused_things.scores[fused]):.2f}"
        caption = score if ids else f"{score}; it became no final segment"
        views.append(share_view(name, trace.thing_masks[fused], "probability", f"{caption}.", ids))
        for row in before.get(fused, []):
            title = f"{name} before fusion: {trace.place(row)}"
            views.append(share_view(title, masks_before[row], "probability", "What this kernel alone gives.", ids))
    return views


def _stuff_views(trace: Trace) -> list[View]:
    return [
        share_view(f"Stuff: {trace.region_names[label]}", mask, segments=ids)
        for label, mask, ids in zip(
            trace.fused_stuff.labels.tolist(), trace.stuff_masks, trace.stuff_segments, strict=True
        )
    ]


def _target_views(trace: Trace) -> list[View]:
    """Return the masks that the ground truth asks for, at stride 4."""
    if trace.truth is None:
        return []
    masks = trace.truth.masks
    things = [
        share_view(f"Target: {trace.thing_names[label]} {i + 1}", mask, "share of the cell", "From the ground truth.")
        for i, (label, mask) in enumerate(zip(masks.labels[0].tolist(), masks.things[0], strict=True))
    ]
    stuff = [
        share_view(f"Target: {trace.region_names[label]}", masks.regions[0, label], "share of the cell")
        for label in masks.present[0].nonzero()[:, 0].tolist()
    ]
    return [*things[:MOST_TARGETS], *stuff]


def _mask_notes(trace: Trace) -> dict[int, str]:
    threshold, notes = trace.model.config.mask_threshold, dict[int, str]()
    for fused, ids in enumerate(trace.thing_segments):
        cells = int((trace.thing_masks[fused] > threshold).sum())
        notes.update(dict.fromkeys(ids, f"Its mask exceeds {threshold:g} in {cells:,} cells of 4 × 4 pixels."))
    if not len(trace.stuff_masks):
        return notes
    best = torch.bincount(trace.stuff_masks.argmax(0).flatten(), minlength=len(trace.stuff_masks)).tolist()
    for row, ids in enumerate(trace.stuff_segments):
        notes.update(dict.fromkeys(ids, f"It is the likeliest stuff in {best[row]:,} cells of 4 × 4 pixels."))
    return notes
