"""DETR's walk: attention and head as the pass made them, who won and why, and the steps where nothing is kept."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models_contract import CATEGORIES, scene
from steps_contract import check_every_parameter_has_a_step, check_walk, check_zeroing
from thingstuff import merging
from thingstuff.backbones import BackboneConfig
from thingstuff.config import changed
from thingstuff.explaining import explain
from thingstuff.merging import (
    merge_by_argmax,
    merge_by_argmax_as_released,
    rounds_by_argmax,
    rounds_by_argmax_as_released,
)
from thingstuff.merging_fates import Fate, fates_by_argmax, fates_by_argmax_as_released
from thingstuff.models import detr_attention_steps, detr_mask_head, detr_merge_account
from thingstuff.models.base import PreprocessConfig
from thingstuff.models.detr import DETRConfig, DETRPanoptic
from thingstuff.models.detr_merge_account import leads_by_argmax, values_of
from thingstuff.models.detr_steps import watched_modules
from thingstuff.structures import Frame, Segments
from thingstuff.transformer import Attention
from thingstuff.walk import AttentionView, MarksView, MatrixView, TableView, View, Walk
from thingstuff.watching import Watch, Watched

SKY, DISC, GROUND, BOX = range(4)
SMALL = DETRConfig(
    preprocess=PreprocessConfig(short_side=96, max_side=160, divisor=32),
    backbone=BackboneConfig(depth=18, weights="none", norm="group", stem_channels=8, res2_channels=8, frozen_stages=0),
    hidden=128,
    encoder_layers=2,
    decoder_layers=2,
    feedforward=32,
    queries=8,
    dropout=0.0,
    attention_gain=2000.0,
    threshold=0.3,
    min_area=0,
)
PICTURE, TRUTH = scene()
PADDED = {"preprocess.divisor": 64}
"""96 x 100 pixels on a canvas of 128 x 128: the last row of the encoded image is padding."""
NAMES = [
    *("picture", "res2", "res3", "res4", "res5", "projection", "positions", "encoder_attention", "encoded_image"),
    *("queries", "decoder", "class_scores", "boxes", "attention_maps", "mask_entry", "join_res4", "join_res3"),
    *("join_res2", "mask_logits", "argmax", "merging", "result"),
]


def model_of(seed: int = 0, **changes: Any) -> DETRPanoptic:
    """A small model of random weights whose queries want different classes of the picture; no norm is an identity."""
    torch.manual_seed(seed)
    model = DETRPanoptic(changed(SMALL, changes), CATEGORIES).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
            if name.startswith(("class_head.w", "box_head.layers.2.w")):
                parameter.normal_()
        states = model(model.batch([PICTURE])).states[0]
        head = model.class_head
        head.weight.mul_(4 / (states @ head.weight.T).std(0).mean())
        head.bias.copy_(-(head.weight @ states.mean(0)))
    return model


def answering(model: DETRPanoptic, logits: Sequence[float]) -> DETRPanoptic:
    """Let every query give the same class logits."""
    with torch.no_grad():
        model.class_head.weight.zero_()
        model.class_head.bias.copy_(torch.tensor(logits))
    return model


def tensors(walk: Walk, step: str) -> dict[str, Tensor]:
    return {labelled.name: labelled.tensor for labelled in walk[step].tensors}


def one(walk: Walk, step: str, kind: type[View]) -> Any:
    """The only view of that kind."""
    (view,) = [view for view in walk[step].views if isinstance(view, kind)]
    return view


# ---- the contract


def test_the_walk_is_whole_and_changes_where_layers_do() -> None:
    model = model_of()
    walk = check_walk(model, PICTURE, TRUTH)
    assert [step.name for step in walk.steps] == NAMES
    assert len(walk.result.segments) > 2
    check_every_parameter_has_a_step(model, walk)
    check_zeroing(model, PICTURE, thorough=True)


def test_where_nothing_is_kept_all_steps_are_there() -> None:
    walk = explain(answering(model_of(), [0, 0, 0, 0, 9]), PICTURE)
    assert [step.name for step in walk.steps] == NAMES
    assert all(step.views and not step.notes for step in walk.steps)
    assert walk.result.segments == ()
    assert tensors(walk, "attention_maps")["attention maps"].shape == (0, 8, 3, 4)
    assert tensors(walk, "mask_entry")["projected features"].shape == (0, 128, 3, 4)
    assert tensors(walk, "mask_entry")["attention maps"].shape == (0, 8, 3, 4)
    assert tensors(walk, "join_res2")["features"].shape == (0, 8, 24, 32)
    assert tensors(walk, "mask_logits")["mask logits"].shape == (0, 24, 32)
    assert not any(row.kept for row in one(walk, "class_scores", TableView).rows)
    assert one(walk, "merging", TableView).rows == ()


# ---- attention


def test_shares_of_attention_are_those_that_the_pass_used() -> None:
    """Values weighted by them, through the module's own output, are what the module gave."""
    model = model_of(**PADDED)
    images = model.batch([PICTURE])
    names = [entry.name for entry in watched_modules(model) if entry.name.endswith("attention")]
    assert names == [
        *("encoder.layers.0.self_attention", "encoder.layers.1.self_attention"),
        "decoder.layers.1.cross_attention",
    ]
    with torch.no_grad(), Watch(model, [Watched(name, inputs=True) for name in names]) as calls:
        model(images)
    for name in names:
        (call,) = calls[name]
        attention = model.get_submodule(name)
        assert isinstance(attention, Attention)
        queries, keys, values, valid = call.inputs
        weights = attention.weights(queries, keys, valid).detach()
        v = attention.v(values).view(1, values.shape[1], 8, -1).transpose(1, 2)
        expected = attention.out((weights @ v).transpose(1, 2).flatten(2))
        torch.testing.assert_close(call.output, expected.detach(), atol=1e-5, rtol=0)
        assert not valid.all()
        assert not weights[..., ~valid[0]].any()
        assert weights.std() > 1e-4


def test_attention_is_drawn_for_every_cell_and_never_on_padding() -> None:
    walk = explain(model_of(), PICTURE)
    view = one(walk, "encoder_attention", AttentionView)
    assert view.grid == (3, 4)
    assert list(view.maps)[:3] == ["layer 2 of 2, mean of 8 heads", "layer 1 of 2, mean of 8 heads", "layer 2, head 1"]
    assert len(view.maps) == 2 + 8
    for maps in view.maps.values():
        assert maps.shape == (12, 3, 4)
        assert maps.sum((1, 2)) == pytest.approx(1, abs=1e-5)
    heads = np.stack([maps for name, maps in view.maps.items() if "layer 2, head" in name])
    assert view.maps["layer 2 of 2, mean of 8 heads"] == pytest.approx(heads.mean(0), abs=1e-6)
    assert "Padding is never looked at" not in walk["encoder_attention"].text
    padded = explain(model_of(**PADDED), PICTURE)
    assert "Padding is never looked at" in padded["encoder_attention"].text
    assert "Padding is not counted" in padded["positions"].text
    for name, shares in (
        ("encoder", one(padded, "encoder_attention", AttentionView).maps["layer 2, head 1"]),
        ("decoder", tensors(padded, "decoder")["attention of the last layer"].numpy()),
        ("maps", tensors(padded, "attention_maps")["attention maps"].numpy()),
    ):
        assert shares.shape[-2:] == (4, 4), name
        assert not shares[..., 3, :].any(), name
        assert shares[..., :3, :].all(), name


def test_heads_that_take_much_memory_are_left_out_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = one(explain(model_of(), PICTURE), "encoder_attention", AttentionView)
    monkeypatch.setattr(detr_attention_steps, "CHUNK_VALUES", 8 * 12**2 - 1)
    view = one(explain(model_of(), PICTURE), "encoder_attention", AttentionView)
    assert list(view.maps) == list(whole.maps)[:2]
    assert view.grid == whole.grid
    assert all(maps == pytest.approx(whole.maps[name], abs=1e-7) for name, maps in view.maps.items())
    assert "Single heads are left out: each is 12 × 12 numbers." in view.caption
    assert "left out" not in whole.caption


def test_heads_of_the_attention_maps_share_one_softmax() -> None:
    walk = explain(model_of(), PICTURE)
    maps = tensors(walk, "attention_maps")["attention maps"]
    assert maps.sum((1, 2, 3)).tolist() == pytest.approx([1.0] * len(maps), abs=1e-5)
    rows = one(walk, "attention_maps", TableView).rows
    assert len(rows) == len(maps)
    for row, own in zip(rows, maps, strict=True):
        assert list(row.cells[1:]) == pytest.approx(own.sum((1, 2)).tolist(), abs=1e-6)
    assert max(row.cells[1] for row in rows) != pytest.approx(1 / 8, abs=1e-4), "heads get unlike shares"


# ---- the mask head


@pytest.mark.parametrize(
    "changes", [{}, {"backbone.depth": 50, "backbone.dilated": True}], ids=["stride 32", "dilated"]
)
def test_stages_of_the_head_are_those_of_the_plain_head(
    changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Concatenated and added, convolved, normed and enlarged as the figure says; in chunks of one query, too."""
    monkeypatch.setattr(detr_mask_head, "CHUNK_VALUES", 1)
    model = model_of(**changes)
    walk = explain(model, PICTURE)
    head, maps = model.mask_head, tensors(walk, "attention_maps")["attention maps"]
    assert len(maps) > 1
    projected = tensors(walk, "projection")["projected features"]
    x = torch.cat([projected[None].expand(len(maps), -1, -1, -1), maps], dim=1)
    shown = tensors(walk, "mask_entry")
    assert torch.equal(torch.cat([shown["projected features"], shown["attention maps"]], dim=1), x)
    assert shown["projected features"].untyped_storage().nbytes() == 4 * projected.numel(), "one copy for all queries"
    assert f"{len(maps)} × 136 × {maps.shape[2]} × {maps.shape[3]} numbers" in walk["mask_entry"].text
    with torch.no_grad():
        for i, name in enumerate(("after the first block", "after the second block")):
            x = F.relu(head.norms[i](head.convs[i](x)))
            torch.testing.assert_close(shown[name], x, atol=1e-4, rtol=1e-4)
        for i, stage in enumerate((4, 3, 2), start=2):
            shown = tensors(walk, f"join_res{stage}")
            adapted = head.laterals[str(stage)](tensors(walk, f"res{stage}")[f"Res{stage}"][None])
            torch.testing.assert_close(shown[f"Res{stage} through its adapter"], adapted[0], atol=1e-5, rtol=1e-5)
            x = F.relu(head.norms[i](head.convs[i](adapted + F.interpolate(x, adapted.shape[2:], mode="nearest"))))
            torch.testing.assert_close(shown["features"], x, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(tensors(walk, "mask_logits")["mask logits"], head.out(x)[:, 0], atol=1e-3, rtol=1e-4)
    assert ("have the 6 × 8 cells of Res4 already" in walk["join_res4"].text) == bool(changes)
    assert ("rows, 16 px of the canvas each" in walk["projection"].tensors[0].axes) == bool(changes)


# ---- classes and boxes


@pytest.mark.parametrize(
    ("logits", "reason"),
    [
        ({13: 5.0, 3: 4.0}, "no object is likelier"),
        ({4: 5.0}, "an output that is no category's"),
        ({3: 1.0, 7: 0.9, 13: 0.5}, "0.15 is not above 0.30"),
        ({3: 1.715}, "0.299 is not above 0.300"),
        ({3: 5.0}, "kept"),
    ],
)
def test_every_query_is_told_why_it_stays_or_goes(logits: dict[int, float], reason: str) -> None:
    """With 13 outputs whose positions are ids: 3 is the sky's, 4 nobody's, 13 "no object"."""
    model = answering(model_of(outputs=13), [logits.get(output, 0.0) for output in range(14)])
    walk = explain(model, PICTURE)
    rows = one(walk, "class_scores", TableView).rows
    assert {row.cells[-1] for row in rows} == {reason}
    assert {row.cells[1] for row in rows} == {"output 4" if 4 in logits else "sky"}
    assert all(row.kept == (reason == "kept") for row in rows)
    assert "9 of them are no category's" in walk["class_scores"].text


def test_the_table_of_classes_is_bounded_and_kept_queries_come_first() -> None:
    walk = explain(model_of(queries=50, threshold=0.9), PICTURE)
    table = one(walk, "class_scores", TableView)
    assert len(table.rows) == 40
    assert "10 more are not shown" in table.caption
    kept = [row.kept for row in table.rows]
    assert 0 < sum(kept) < 40
    assert kept == sorted(kept, reverse=True)
    marks = one(walk, "boxes", MarksView).marks
    assert [mark.kept for mark in marks] == [True] * sum(kept) + [False] * 10
    boxes = tensors(walk, "boxes")["boxes"]
    query = int(marks[0].text.split(":")[0])
    cx, cy, w, h = boxes[query].tolist()
    expected = ((cx - w / 2) * 100, (cy - h / 2) * 96, (cx + w / 2) * 100, (cy + h / 2) * 96)
    assert marks[0].box == pytest.approx(expected, abs=1e-3)


# ---- winning, joining, dropping


def test_the_winner_and_its_lead_are_those_of_all_logits() -> None:
    walk = explain(model_of(), PICTURE)
    logits = tensors(walk, "mask_logits")["mask logits"]
    whole = F.interpolate(logits[None], walk.frame.canvas, mode="bilinear")[0, :, : walk.frame.size[0]]
    whole = whole[..., : walk.frame.size[1]]
    order = whole.sort(dim=0, descending=True).values
    shown = tensors(walk, "argmax")
    assert torch.equal(shown["winning rows"], whole.argmax(0))
    torch.testing.assert_close(shown["lead of the winner over the next"], order[0] - order[1])
    torch.testing.assert_close(tensors(walk, "merging")["logit of each pixel's owner"], order[0])


def test_the_rounds_of_the_merge_run_once_for_all_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []

    def noted(*given: Any) -> Any:
        runs.append(given)
        return rounds_by_argmax(*given)

    monkeypatch.setattr(detr_merge_account, "rounds_by_argmax", noted)
    explain(model_of(), PICTURE)
    assert len(runs) == 1, "the merge of the result aside, which is the model's"


def some(masks: Tensor, labels: Sequence[int]) -> Segments:
    """Segments at picture size."""
    size = (int(masks.shape[1]), int(masks.shape[2]))
    scores = torch.linspace(0.9, 0.5, len(labels))
    return Segments(masks, torch.tensor(labels, dtype=torch.long), scores, Frame(size, size, size))


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_leads_do_not_hang_on_how_many_are_asked_at_once(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    masks = torch.randn(rows, 4, 6, generator=torch.Generator().manual_seed(0))
    segments = some(masks, [SKY] * rows)
    owner = torch.zeros(4, 6, dtype=torch.long) if rows < 2 else torch.arange(24).view(4, 6) % rows
    leads, values = leads_by_argmax(segments), values_of(segments, owner)
    monkeypatch.setattr(merging, "CHUNK_PIXELS", 1)
    assert torch.equal(leads_by_argmax(segments), leads)
    assert torch.equal(values_of(segments, owner), values)
    if rows > 1:
        assert torch.equal(values, masks.gather(0, owner[None])[0])
        assert bool((leads > 0).all())
    else:
        assert not leads.any()
        assert torch.equal(values, masks.sum(0))


def line(*texts: str) -> Tensor:
    """Logits of one row of pixels each, a digit a pixel."""
    return torch.tensor([[[float(c) for c in text]] for text in texts])


LINE = line(
    "9990000000",  # sky
    "0009992000",  # sky again
    "0001119000",  # a disc of a single pixel, which the second sky gets
    "0005550999",  # a box, second best where the second sky wins
    "1111111111",  # ground, which wins nothing
)
LINE_LABELS = [SKY, SKY, DISC, BOX, GROUND]


def fates_of(segments: Segments, min_area: int) -> list[Fate]:
    result, rounds = (rule(segments, CATEGORIES, min_area) for rule in (merge_by_argmax, rounds_by_argmax))
    return fates_by_argmax(rounds, segments, CATEGORIES, min_area, result)


def test_fates_say_what_was_joined_and_dropped_and_what_each_won() -> None:
    segments = some(LINE, LINE_LABELS)
    result = merge_by_argmax(segments, CATEGORIES, 1)
    assert result.ids.tolist() == [[1] * 7 + [2] * 3]
    assert fates_of(segments, 1) == [
        Fate(0, True, "kept", 3, 3),
        Fate(1, True, "joined the first of its class, which is stuff", 3, 4),
        Fate(2, False, "1 pixel, not more than 1", 1, 0),
        Fate(3, True, "kept", 3, 3),
        Fate(4, False, "won no pixel", 0, 0),
    ]


def test_fates_of_a_class_that_is_dropped_as_a_whole_and_of_nothing() -> None:
    segments = some(line("9000", "0900", "0099"), [SKY, SKY, BOX])
    assert [fate.reason for fate in fates_of(segments, 2)] == [
        *("2 pixels, not more than 2", "with its class, of 2 pixels, not more than 2", "2 pixels, not more than 2")
    ]
    none = segments.pick([])
    assert fates_of(none, 2) == []


def test_fates_as_released_tell_of_its_fault() -> None:
    segments = some(LINE, LINE_LABELS)
    result = merge_by_argmax_as_released(segments, CATEGORIES, 1)
    fates = fates_by_argmax_as_released(
        rounds_by_argmax_as_released(segments, CATEGORIES, 1), segments, CATEGORIES, 1, result
    )
    assert result.ids.tolist() == [[1, 1, 1, 2, 2, 2, 1, 2, 2, 2]]
    assert fates == [
        Fate(0, True, "kept", 3, 4),
        Fate(1, False, "emptied by joining the first of its class, then dropped for being empty", 3, 0),
        Fate(2, False, "1 pixel, not more than 1", 1, 0),
        Fate(3, True, "kept", 3, 6),
        Fate(4, False, "won no pixel", 0, 0),
    ]


def test_queries_of_one_stuff_class_become_one_segment_with_a_sentence_each() -> None:
    walk = explain(answering(model_of(), [9, 0, 0, 0, 0]), PICTURE)
    (segment,) = walk.result.segments
    for step in ("class_scores", "boxes", "decoder", "attention_maps", "join_res2", "mask_logits", "argmax", "merging"):
        note = walk[step].notes[segment.id]
        assert all(f"uery {query}" in note for query in range(8)), step
    rows = one(walk, "merging", TableView).rows
    assert [row.cells[-1] for row in rows] == ["kept", *["joined the first of its class, which is stuff"] * 7]
    assert sum(row.cells[2] for row in rows) == pytest.approx(1)
    assert {row.segments for row in rows} == {(segment.id,)}
    assert len(set(one(walk, "queries", MatrixView).groups)) == 1
    colours = {tuple(pixel) for pixel in walk["merging"].views[1].pixels.reshape(-1, 3)}
    assert colours == {CATEGORIES.colors[SKY]}


def test_things_of_one_class_stay_apart() -> None:
    walk = explain(answering(model_of(), [0, 9, 0, 0, 0]), PICTURE)
    assert len(walk.result.segments) > 1
    assert all(f"query {q}: disc" in {v.title for v in walk["mask_logits"].views} for q in range(8))


def test_a_model_that_merges_as_released_says_so() -> None:
    walk = explain(answering(model_of(as_released=True), [9, 0, 0, 0, 0]), PICTURE)
    assert "padding squeezes them" in walk["argmax"].text
    assert "as the released code does" in walk["merging"].text
    (segment,) = walk.result.segments
    rows = one(walk, "merging", TableView).rows
    assert [row.segments for row in rows] == [(segment.id,), *[()] * 7]
    assert "squeezes" not in explain(model_of(), PICTURE)["argmax"].text


def test_ground_truth_lies_beside_boxes_and_masks() -> None:
    picture, truth = scene()
    model = model_of()
    plain, told = explain(model, picture), explain(model, picture, truth)
    assert len(told["boxes"].views) == len(plain["boxes"].views) + 1
    boxes = told["boxes"].views[-1]
    assert isinstance(boxes, MarksView)
    assert sorted(mark.text for mark in boxes.marks) == sorted(truth.name(segment) for segment in truth.segments)
    disc = next(mark for mark in boxes.marks if mark.text == "disc")
    rows, columns = np.nonzero(truth.ids == 2)
    scale = told.frame.size[0] / truth.size[0]
    wanted = [scale * edge for edge in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)]
    assert disc.box == pytest.approx(wanted, abs=scale + 1)
    assert told["mask_logits"].views[-1].title == "Ground truth"
