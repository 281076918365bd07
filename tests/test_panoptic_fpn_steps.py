"""The walk through Panoptic FPN: its choices are the model's own, its reasons true, and it stands at every edge."""

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou

from models_contract import CATEGORIES, scene
from steps_contract import changed, check_every_parameter_has_a_step, check_view, check_walk
from thingstuff.explaining import explain
from thingstuff.models import create
from thingstuff.models.panoptic_fpn import PanopticFPN, PanopticFPNOutput, paste
from thingstuff.models.panoptic_fpn_choices import (
    BEYOND,
    KEPT,
    OVERLAPPED,
    SMALL,
    Detections,
    Proposals,
    detections_of,
    pooled_levels,
    proposals_of,
)
from thingstuff.models.panoptic_fpn_heads import LEVELS
from thingstuff.models.panoptic_fpn_pass import cells_in_box
from thingstuff.panoptic import VOID, Categories, Panoptic, Segment
from thingstuff.structures import Images
from thingstuff.walk import MapView, MarksView, PixelsView, Step, TableView, Walk

SMALL_MODEL: dict[str, Any] = {
    "preprocess.short_side": 96,
    "preprocess.max_side": 160,
    "backbone.stem_channels": 8,
    "backbone.res2_channels": 16,
    "fpn_channels": 16,
    "semantic_channels": 32,
    "box_channels": 24,
    "mask_channels": 12,
    "proposals_predicted": 40,
    "proposals": 200,
    "thing_score": 0.4,
    "stuff_area": 50.0,
    "stuff_area_relative": False,
}
BOXES = ("objectness", "proposals", "boxes", "detections", "masks")
SIZE = (96, 120)
"""Of the picture on a canvas of 128 x 128 pixels."""


def net(categories: Categories = CATEGORIES, **changes: Any) -> PanopticFPN:
    """A small model whose heads say something: their weights are larger than at the start of a training."""
    torch.manual_seed(0)
    model = create("panoptic-fpn-tiny", categories, **{**SMALL_MODEL, **changes}).eval()
    assert isinstance(model, PanopticFPN)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith(("rpn.", "roi_heads.", "semantic.")) and parameter.ndim > 1:
                parameter.normal_(std=1.2 / parameter[0].numel() ** 0.5)
    return model


def output(model: PanopticFPN, seed: int = 0) -> PanopticFPNOutput:
    """Random features for one canvas, and what the proposal head makes of them."""
    random = torch.Generator().manual_seed(seed)
    pyramid = tuple(torch.randn(1, 16, 128 // s, 128 // s, generator=random) for s in (4, 8, 16, 32, 64))
    with torch.no_grad():
        objectness, deltas = model.rpn.head(list(pyramid))
    return PanopticFPNOutput(pyramid, tuple(objectness), tuple(deltas), torch.randn(1, 3, 32, 32, generator=random))


@torch.no_grad()
def chosen(model: PanopticFPN, maps: PanopticFPNOutput) -> tuple[Proposals, Detections]:
    proposals = proposals_of(model, maps, SIZE)
    logits, deltas = model._classified(maps, [proposals.boxes_xyxy])
    return proposals, detections_of(model.roi_heads, logits, deltas, proposals.boxes_xyxy, SIZE)


@cache
def walk() -> Walk:
    return explain(net(), scene()[0])


def table(step: Step, title: str) -> TableView:
    (found,) = (view for view in step.views if view.title == title)
    assert isinstance(found, TableView)
    return found


# ---- choices


LIMITS: list[dict[str, Any]] = [
    {},
    {"proposals": 9, "detections": 5},
    {"detection_score": 0.4, "proposal_overlap": 0.3},
]


@pytest.mark.parametrize("changes", LIMITS, ids=["usual", "few", "strict"])
def test_proposals_and_detections_are_the_models_own(changes: dict[str, Any]) -> None:
    model = net(**changes)
    for seed in range(3):
        maps = output(model, seed)
        proposals, detections = chosen(model, maps)
        (own,) = model._proposals(maps, [SIZE], model.config.proposals_predicted)
        assert torch.equal(proposals.boxes_xyxy, own)
        with torch.no_grad():
            (found,) = model.segments(maps, Images(torch.zeros(1, 3, 128, 128), (SIZE,), (SIZE,)))
        kept = detections.kept
        assert len(kept) >= 3
        assert torch.equal(found.scores[: len(kept)], detections.scores[kept])
        names = torch.tensor([VOID, *CATEGORIES.thing_labels])
        assert torch.equal(found.labels[: len(kept)], names[detections.labels[kept]])
        assert found.labels[len(kept)] == VOID
        with torch.no_grad():
            logits = model._masks(maps, [detections.boxes_xyxy[kept]])
        masks = logits[torch.arange(len(kept)), detections.labels[kept]].sigmoid()
        assert torch.equal(found.masks[: len(kept)], paste(masks, detections.boxes_xyxy[kept], (128, 128), 1))


@pytest.mark.parametrize("changes", LIMITS, ids=["usual", "few", "strict"])
def test_the_reasons_of_proposals_are_those_of_a_plain_suppression(changes: dict[str, Any]) -> None:
    model = net(**changes)
    p, _ = chosen(model, output(model))
    sides = p.likely[:, 2:] - p.likely[:, :2]
    assert (p.likely >= 0).all()
    assert (p.likely <= torch.tensor([120.0, 96, 120, 96])).all()
    small = (sides < model.rpn.min_size).any(1)
    expected = plain_fates(
        p.likely, p.objectness, p.levels, small, model.config.proposal_overlap, model.config.proposals
    )
    assert p.fates.tolist() == expected
    assert {SMALL, OVERLAPPED, KEPT} <= set(expected)
    assert (BEYOND in expected) == ("proposals" in changes)
    assert sorted(p.kept.tolist()) == [row for row, fate in enumerate(expected) if fate == KEPT]
    assert p.objectness[p.kept].diff().max() <= 0


def plain_fates(boxes: Tensor, scores: Tensor, groups: Tensor, small: Tensor, overlap: float, most: int) -> list[int]:
    """Greedy suppression in each group, one box after the other."""
    ious, fates = box_iou(boxes, boxes), [SMALL] * len(boxes)
    passed: list[int] = []
    for row in scores.argsort(descending=True, stable=True).tolist():
        if small[row]:
            continue
        if any(groups[row] == groups[other] and ious[row, other] > overlap for other in passed):
            fates[row] = OVERLAPPED
        else:
            fates[row] = KEPT if len(passed) < most else BEYOND
            passed.append(row)
    return fates


@pytest.mark.parametrize("changes", LIMITS, ids=["usual", "few", "strict"])
def test_the_reasons_of_detections_are_those_of_a_plain_suppression(changes: dict[str, Any]) -> None:
    model = net(**changes)
    _, d = chosen(model, output(model))
    small = ((d.boxes_xyxy[:, 2:] - d.boxes_xyxy[:, :2]) < 0.01).any(1)
    c = model.config
    expected = plain_fates(d.boxes_xyxy, d.scores, d.labels, small, c.detection_overlap, c.detections)
    assert d.fates.tolist() == expected
    assert d.scores.diff().max() <= 0
    assert d.scores.min() > c.detection_score
    ious = box_iou(d.boxes_xyxy, d.boxes_xyxy)
    for row, fate in enumerate(expected):
        better = [o for o in range(row) if expected[o] in (KEPT, BEYOND) and d.labels[o] == d.labels[row]]
        nearest = max((float(ious[row, o]) for o in better), default=0.0)
        assert float(d.overlaps[row]) == pytest.approx(nearest if fate == OVERLAPPED else 0.0)


def test_levels_are_those_of_the_paper() -> None:
    model = net(canonical_size=56)
    chosen(model, output(model))
    sides = torch.tensor([4.0, 27, 29, 55, 57, 111, 113, 500])
    boxes = torch.stack([torch.zeros(8), torch.zeros(8), sides * 2, sides / 2], 1)
    assert pooled_levels(model.roi_heads, boxes).tolist() == [2, 2, 3, 3, 4, 4, 5, 5]
    assert pooled_levels(model.roi_heads, boxes[:0]).tolist() == []


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_cells_of_a_box_lie_where_its_mask_is_resized_to(stride: int) -> None:
    mask = torch.rand(5, 5, generator=torch.Generator().manual_seed(0))
    x0, y0, x1, y1 = 3.5, 10.0, 41.0, 30.5
    shape = (64 // stride, 48 // stride)
    ours = cells_in_box(mask, torch.tensor([x0, y0, x1, y1]), shape, stride)
    for row in range(shape[0]):
        for column in range(shape[1]):
            y, x = (row + 0.5) * stride, (column + 0.5) * stride
            inside = x0 <= x < x1 and y0 <= y < y1
            cell = mask[int((y - y0) / (y1 - y0) * 5), int((x - x0) / (x1 - x0) * 5)] if inside else 0.0
            assert float(ours[row, column]) == float(cell)


# ---- the walk


def test_a_walk_is_whole() -> None:
    whole = check_walk(net(), *scene())
    check_every_parameter_has_a_step(net(), whole)
    names = [step.name for step in whole.steps]
    pyramid = ["p5", "p4", "p3", "p2", "p6"]
    assert names == [
        *("picture", "res2", "res3", "res4", "res5"),
        *pyramid,
        *BOXES,
        *("semantic_fpn", "semantic", "merge", "result"),
    ]


@pytest.mark.parametrize(
    "layer",
    [
        *("fpn.output.5", "fpn.lateral.2", "rpn.head.conv.0.0", "rpn.head.cls_logits", "rpn.head.bbox_pred"),
        *("roi_heads.box_head.fc7", "roi_heads.box_predictor.bbox_pred", "roi_heads.mask_head.1.0", "semantic"),
    ],
)
def test_a_layer_changes_the_steps_downstream_of_it_alone(layer: str) -> None:
    """Beside the contract's check of a trained model: here boxes of every level come through to the end."""
    model = net()
    users = [step.name for step in walk().steps if f"{layer}.weight".startswith(step.layers)]
    with torch.no_grad():
        model.get_parameter(f"{layer}.weight").zero_()
    assert users
    assert changed(walk(), explain(model, scene()[0])) == walk().downstream(users)


def test_a_final_thing_is_followed_from_its_anchor_to_the_map() -> None:
    things = [s for s in walk().result.segments if CATEGORIES.things[s.label]]
    assert things
    for segment in things:
        assert [step.name for step in walk().steps if segment.id in step.notes] == [*BOXES, "merge", "result"]
        for name in ("proposals", "boxes", "detections"):
            marks = [m for v in walk()[name].views if isinstance(v, MarksView) for m in v.marks]
            assert any(segment.id in mark.segments for mark in marks), name
        own = [v for v in walk()["masks"].views if isinstance(v, MapView) and v.segments == (segment.id,)]
        assert [view.title.split(": ")[1] for view in own] == ["28 × 28 cells in its box", "resized"]
        left = walk()["detections"].views[1]
        assert isinstance(left, MarksView)
        (mark,) = (mark for mark in left.marks if segment.id in mark.segments)
        assert mark.text == f"{CATEGORIES.names[segment.label]} {segment.score:.2f}"
    for segment in set(walk().result.segments) - set(things):
        assert [step.name for step in walk().steps if segment.id in step.notes] == ["semantic", "merge", "result"]


def test_numbers_agree_from_step_to_step() -> None:
    proposals, boxes, detections, masks = (walk()[name] for name in BOXES[1:])
    count = len(proposals.tensors[0].tensor)
    assert sum(int(str(row.cells[-1])) for row in table(proposals, "What became of the anchors").rows) == count
    for row in table(proposals, "What became of the anchors").rows:
        _, anchors, taken, *fates = (int(str(c).removeprefix("P").replace(",", "")) for c in row.cells)
        assert sum(fates) == taken <= anchors
    assert sum(int(str(row.cells[2])) for row in table(boxes, "Boxes pooled from each level").rows) == count
    assert boxes.tensors[0].tensor.shape == (count, 3)
    left = sum(int(str(row.cells[-1])) for row in table(detections, "Boxes of each class").rows)
    assert left == len(detections.tensors[0].tensor) == len(masks.tensors[0].tensor)
    candidates = table(walk()["merge"], "What became of each candidate").rows
    assert len(candidates) == left + 3
    areas = {s.id: s.area for s in walk().result.segments}
    assert {row.segments[0]: int(str(row.cells[3]).replace(",", "")) for row in candidates if row.kept} == areas
    assert not any(row.segments for row in candidates if not row.kept)


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_maps_cover_the_canvas_at_every_mask_stride(stride: int) -> None:
    found = explain(net(mask_stride=stride), *scene())
    shape = (96 // stride, 128 // stride)
    masks, pasted = (t.tensor for t in found["masks"].tensors)
    assert pasted.shape[1:] == shape
    assert masks.shape[1:] == (28, 28)
    assert all(v.values.shape == shape for v in found["masks"].views if isinstance(v, MapView))
    probabilities = [v.values for v in found["semantic"].views if isinstance(v, MapView)]
    assert probabilities
    assert all(values.shape == shape for values in probabilities)
    assert np.stack(probabilities).sum(0).max() <= 1 + 1e-5


def test_ground_truth_stands_beside_what_was_found() -> None:
    picture, truth = scene()
    model = net()
    plain, taught = walk(), explain(model, picture, truth)
    more = {
        step.name: [view for view in step.views if view.title not in {v.title for v in plain[step.name].views}]
        for step in taught.steps
    }
    assert {name: len(views) for name, views in more.items() if views} == {
        "objectness": len(LEVELS),
        "proposals": 1,
        "detections": 1,
        "semantic": 1,
        "result": 1,
    }
    (boxes,) = more["proposals"]
    assert isinstance(boxes, MarksView)
    assert {(m.text, m.box) for m in boxes.marks} == {
        ("disc", (10.0, 16.0, 47.0, 53.0)),
        ("box", (52.0, 44.0, 86.0, 80.0)),
    }
    maps = [view.values for view in more["objectness"] if isinstance(view, MapView)]
    assert [values.shape for values in maps] == [(24, 32), (12, 16), (6, 8), (3, 4), (2, 2)]
    # Anchors of 32 pixels, centred where four cells of 16 meet: the next to the things' middles, (28, 34) and (69, 62).
    assert np.argwhere(maps[2]).tolist() == [[2, 2], [4, 4]]
    assert not maps[0].any()  # too small for these things
    (rows_of_pixels,) = more["semantic"]
    assert isinstance(rows_of_pixels, PixelsView)
    pixels = rows_of_pixels.pixels
    assert pixels[0, 0].tolist() == list(CATEGORIES.colors[0])
    assert pixels[60, 60].tolist() == [128, 128, 128]
    assert not pixels[:, 100:].any()
    titles = [view.title for view in taught["objectness"].views]
    assert titles[1::2][: len(LEVELS)] == [f"P{level}: ground truth" for level in LEVELS]


# ---- edges


def test_a_walk_where_nothing_is_found() -> None:
    model = net()
    for bias in (model.roi_heads.box_predictor.cls_score.bias, model.semantic.bias):
        assert isinstance(bias, Tensor)
        torch.nn.init.constant_(bias[:1], 90.0)
    found = explain(model, *scene())
    assert found.result.segments == ()
    assert [step.name for step in found.steps] == [step.name for step in walk().steps]
    assert found["masks"].tensors[0].tensor.shape == (0, 28, 28)
    assert found["detections"].tensors[0].tensor.shape == (0, 4)
    for step in found.steps:
        assert not step.notes
        for view in step.views:
            check_view(view, set())


@pytest.mark.parametrize("things", [(True, True), (False, False)], ids=["things", "stuff"])
def test_a_walk_with_one_kind_of_class(things: tuple[bool, bool]) -> None:
    categories = Categories(("left", "right"), things, (4, 9))
    labels = (np.arange(100) >= 50).astype(np.int32) + np.zeros((96, 1), dtype=np.int32)
    truth = Panoptic(labels + 1, (Segment(1, 0, 4800), Segment(2, 1, 4800)), categories)
    found = explain(net(categories, thing_score=0.3), scene()[0], truth)
    assert [step.name for step in found.steps] == [step.name for step in walk().steps]
    for step in found.steps:
        for view in step.views:
            check_view(view, {s.id for s in found.result.segments})
