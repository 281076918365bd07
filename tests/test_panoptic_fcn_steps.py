"""The walk through Panoptic FCN: that it tells what the model did, under every switch, and what it should have done."""

import dataclasses
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from models_contract import CATEGORIES, scene, trained
from steps_contract import changed, check_every_parameter_has_a_step, check_walk
from test_models import TestPanopticFCN as Contract
from thingstuff.explaining import explain
from thingstuff.models import panoptic_fcn_kernel_steps, panoptic_fcn_merge_steps
from thingstuff.models.panoptic_fcn import PanopticFCN
from thingstuff.models.panoptic_fcn_kernel_steps import fused_step
from thingstuff.models.panoptic_fcn_kernels import concatenate, local_maxima, smoothed
from thingstuff.models.panoptic_fcn_position_steps import MOST_CLASSES, peaks_step
from thingstuff.models.panoptic_fcn_targets import level_targets, mask_targets
from thingstuff.models.panoptic_fcn_trace import SOME_THING, Trace, trace
from thingstuff.panoptic import Categories
from thingstuff.walk import MapView, MarksView, MatrixView, PixelsView, Row, Seen, Step, TableView, Walk

NAME = "panoptic-fcn-tiny"
ALL_LEVELS = ((1, 64), (32, 128), (64, 256), (128, 512), (256, 2048))


@cache
def learned(**changes: Any) -> PanopticFCN:
    """The model that has learnt the scene, with other settings; layers that these change in shape are new."""
    state = trained(Contract, NAME).state_dict()
    torch.manual_seed(0)
    model = Contract.build(NAME, **changes)
    assert isinstance(model, PanopticFCN)
    fitting = {k: state[k] if k in state and state[k].shape == v.shape else v for k, v in model.state_dict().items()}
    model.load_state_dict(fitting)
    return model.eval()


def traced(model: PanopticFCN, monkeypatch: pytest.MonkeyPatch, *, truth: bool = False) -> tuple[Walk, Seen, Trace]:
    """The walk through the scene, the pass that it was made from, and how its segments came about."""
    seen: list[Seen] = []
    own = model.steps

    def steps(given: Seen) -> list[Step]:
        seen.append(given)
        return own(given)

    monkeypatch.setattr(model, "steps", steps)
    picture, true = scene()
    walk = explain(model, picture, true if truth else None)
    with torch.no_grad():
        return walk, seen[0], trace(model, seen[0])


def tensor(walk: Walk, step: str, name: str) -> Tensor:
    (found,) = (labelled.tensor for labelled in walk[step].tensors if labelled.name == name)
    return found


def table(walk: Walk, step: str, title: str) -> tuple[Row, ...]:
    (found,) = (view for view in walk[step].views if isinstance(view, TableView) and view.title == title)
    return found.rows


def maps(walk: Walk, step: str) -> dict[str, MapView]:
    return {view.title: view for view in walk[step].views if isinstance(view, MapView)}


# ---- what is shown is what the model did


@pytest.mark.parametrize(
    "changes", [{}, {"kernel_fusion": False}, {"nms": True, "kernel_fusion": False}, {"flip": True}]
)
def test_the_trace_ends_in_the_segments_of_the_pass(changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    walk, seen, of = traced(learned(**changes), monkeypatch)
    rows = len(of.rescored.order)
    assert torch.equal(torch.cat([of.thing_masks[of.rescored.order], of.stuff_masks]), seen.segments.masks)
    assert torch.equal(torch.cat([of.rescored.scores, of.fused_stuff.scores]), seen.segments.scores)
    things, stuff = of.model.kernels(seen.output.float(), 0)
    assert torch.equal(things.vectors, tensor(walk, "fused", "kernels of things"))
    assert torch.equal(stuff.vectors, tensor(walk, "fused", "kernels of stuff"))
    found = [ids for ids in (*of.thing_segments, *of.stuff_segments) if ids]
    assert sorted(found) == [(s.id,) for s in walk.result.segments]
    for segment in walk.result.segments:
        assert segment.source is not None
        place = of.rescored.order[segment.source] if segment.source < rows else segment.source - rows
        own = of.thing_segments if segment.source < rows else of.stuff_segments
        assert own[int(place)] == (segment.id,)


def test_candidates_are_placed_where_they_were_read(monkeypatch: pytest.MonkeyPatch) -> None:
    walk, seen, of = traced(learned(), monkeypatch)
    assert len(of.things.labels) > 2
    for row, (level, y, x) in enumerate(tensor(walk, "gathered", "places of things").tolist()):
        index = of.levels.index(level)
        assert torch.equal(seen.output.kernels[index][0, :, y, x], of.things.vectors[row])
        assert of.smoothed[index][of.things.labels[row], y, x] == of.things.scores[row]
    of_levels = concatenate(of.model.thing_candidates(seen.output, 0))
    assert sorted(of_levels.scores.tolist(), reverse=True) == of.things.scores.tolist()


def test_readers_count_rows_and_columns_from_one(monkeypatch: pytest.MonkeyPatch) -> None:
    walk, _, of = traced(learned(), monkeypatch, truth=True)
    cells = [(y + 1, x + 1) for y, x in of.cell.tolist()]
    told = table(walk, "gathered", "Things: where each kernel was read")
    assert [(int(str(row.cells[2])), int(str(row.cells[3]))) for row in told] == cells
    places = [f"P{level} ({y}, {x})" for level, (y, x) in zip(of.level.tolist(), cells, strict=True)]
    assert [of.place(row) for row in range(len(cells))] == places
    best = {ids[0]: row for row, ids in reversed([*enumerate(of.candidate_segments)]) if ids}
    assert best
    for segment, row in best.items():
        assert f"in row {cells[row][0]}, column {cells[row][1]}." in walk["centres"].notes[segment]
        assert places[row] in walk["peaks"].notes[segment]
        assert places[row] in walk["gathered"].notes[segment]
    assert of.truth is not None
    target = of.truth.levels[0]
    y, x = target.cell[target.instance == 0][0].tolist()
    learns = table(walk, "centres", "Targets: which level learns which thing")
    assert f"P3 ({y + 1}, {x + 1})" in str(learns[0].cells[2])


@pytest.mark.parametrize("most", [1, 4])
def test_a_list_that_is_cut_says_so_and_keeps_final_segments(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(panoptic_fcn_kernel_steps, "MOST_LISTED", most)
    monkeypatch.setattr(panoptic_fcn_kernel_steps, "MOST_COMPARED", most)
    monkeypatch.setattr(panoptic_fcn_merge_steps, "MOST_LISTED", most)
    walk, _, of = traced(learned(), monkeypatch)
    candidates, things = len(of.things.labels), len(of.fused_things.labels)
    assert (candidates, things) == (4, 2)
    shown: dict[str, tuple[Any, int]] = {
        "Cells whose kernels are read for things": ("gathered", candidates),
        "Things: where each kernel was read": ("gathered", candidates),
        "Things after fusion": ("fused", things),
        "Scores of things": ("rescored", things),
        "How alike the kernels of things are before fusion": ("fused", candidates),
    }
    for title, (step, count) in shown.items():
        (view,) = (view for view in walk[step].views if view.title == title)
        assert (f"The {most} best of {count}" in view.caption) == (most < count), title
    final = {ids for ids in of.thing_segments if ids}
    for title in ("Things: where each kernel was read", "Things after fusion", "Scores of things"):
        assert {row.segments for row in table(walk, shown[title][0], title) if row.segments} == final


def test_the_first_step_says_whether_there_is_padding() -> None:
    for height, width, padded in ((96, 96, False), (80, 112, True)):
        text = explain(learned(), scene(height, width)[0])["picture"].text
        assert ("Zeros" in text) == padded
        assert ("no padding" in text) != padded


def test_marks_are_the_peaks_and_tell_their_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    walk, _, of = traced(learned(), monkeypatch)
    views = [view for view in walk["peaks"].views if isinstance(view, MarksView)]
    assert len(views) == len(of.levels)
    for view, peaks, p in zip(views, of.peaks, of.smoothed, strict=True):
        (height, width), (h, w) = of.frame.canvas, p.shape[1:]
        kept = sorted(
            (mark.box[1] * h / height - 0.5, mark.box[0] * w / width - 0.5) for mark in view.marks if mark.kept
        )
        assert kept == sorted((cell // w, cell % w) for cell in peaks.cells.tolist())
        assert any(not mark.kept for mark in view.marks)
    told = {ids for view in views for mark in view.marks for ids in mark.segments}
    assert told == {s.id for s in walk.result.segments if CATEGORIES.things[s.label]}
    for row, p in zip(table(walk, "peaks", "Cells on each level, counted for every class"), of.smoothed, strict=True):
        suppressed, beyond, low, kept_here = (int(cell) for cell in row.cells[1:] if isinstance(cell, str))
        above = int((p > of.model.config.thing_threshold).sum())
        assert suppressed + beyond + kept_here == above
        assert low + beyond + kept_here == int(local_maxima(p).sum())


def test_scales_of_peaks_and_centres_end_at_the_highest_value(monkeypatch: pytest.MonkeyPatch) -> None:
    walk, _, of = traced(learned(), monkeypatch)
    highest = max(float(p.max()) for p in of.smoothed)
    assert {view.high for view in walk["peaks"].views if isinstance(view, MarksView)} == {highest}
    centres = maps(walk, "centres").values()
    assert {view.high for view in centres} == {max(float(view.values.max()) for view in centres)}
    assert highest < 0.999


def test_kept_peaks_of_several_classes_in_a_cell_lie_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    walk, _, of = traced(learned(), monkeypatch)
    first = of.peaks[0]
    assert len(first.cells) == 2
    shared = dataclasses.replace(first, labels=torch.tensor([0, 1]), cells=first.cells[:1].repeat(2))
    step = peaks_step(dataclasses.replace(of, peaks=[shared, *of.peaks[1:]]))
    (view,) = (v for v in step.views if isinstance(v, MarksView) and v.title.startswith("P3"))
    left, right = sorted(mark.box[0] for mark in view.marks if mark.kept)
    (before,) = (v for v in walk["peaks"].views if isinstance(v, MarksView) and v.title.startswith("P3"))
    assert right - left >= 2
    assert any(mark.box[0] == (left + right) / 2 for mark in before.marks if mark.kept)
    assert all("one of 2 classes here" in mark.text for mark in view.marks if mark.kept)
    assert not any("classes here" in mark.text for mark in before.marks)


def test_pairs_that_reach_the_threshold_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    walk, _, of = traced(learned(), monkeypatch)
    (matrix,) = (view for view in walk["fused"].views if isinstance(view, MatrixView))
    count, limit = len(matrix.names), of.model.config.similarity
    pairs = [(i, j) for i in range(count) for j in range(i) if matrix.values[i, j] >= limit]
    own = [pair for pair in pairs if of.things.labels[pair[0]] == of.things.labels[pair[1]]]
    assert own
    told = f"{len(pairs)} of {count * (count - 1) // 2} pairs reach {limit:g}, {len(own)} of them of one class."
    assert told in matrix.caption
    assert matrix.low == -1 if matrix.values.min() < 0 else matrix.values.min() - 0.1 < matrix.low < 1
    bare = explain(learned(kernel_fusion=False), scene()[0])["fused"]
    assert "None are fused" in next(view.caption for view in bare.views if isinstance(view, MatrixView))


@pytest.mark.parametrize(("lowest", "begins"), [(-0.2, -1.0), (0.0, 0.0), (0.47, 0.4), (1.0, 0.9)])
def test_a_scale_of_cosines_begins_at_the_tenth_below_the_lowest(lowest: float, begins: float) -> None:
    assert panoptic_fcn_kernel_steps._scale_begins(lowest) == pytest.approx(begins)


def test_kept_regions_are_those_that_kernels_were_pooled_over(monkeypatch: pytest.MonkeyPatch) -> None:
    walk, _, of = traced(learned(stuff_threshold=0.6), monkeypatch)
    told = {(row.cells[0], row.cells[1]) for row in table(walk, "regions", "Regions on each level") if row.kept}
    pooled = zip(of.stuff_level.tolist(), of.stuff.labels.tolist(), strict=True)
    assert told == {(f"P{level}", of.region_names[label]) for level, label in pooled}
    assert any(not row.kept for row in table(walk, "regions", "Regions on each level"))


def test_groups_are_what_was_averaged(monkeypatch: pytest.MonkeyPatch) -> None:
    walk, _, of = traced(learned(), monkeypatch)
    (matrix,) = (view for view in walk["fused"].views if isinstance(view, MatrixView))
    assert len(set(matrix.groups)) == len(of.fused_things.labels) < len(matrix.groups)
    for fused, vector in enumerate(of.fused_things.vectors):
        rows = [row for row, group in enumerate(matrix.groups) if group == fused]
        torch.testing.assert_close(of.embedded_things.vectors[rows].mean(0), vector)
        assert all(matrix.values[rows[0], row] >= of.model.config.similarity for row in rows)
    before = [view for title, view in maps(walk, "masks").items() if "before fusion" in title]
    assert len(before) == len(matrix.groups)
    shown = torch.from_numpy(np.stack([view.values for view in before]))
    assert torch.equal(shown, tensor(walk, "masks", "masks of things before fusion"))


def test_one_kernel_of_a_thing_alone_gives_its_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, of = traced(learned(kernel_fusion=False), monkeypatch)
    for row in range(len(of.things.labels)):
        torch.testing.assert_close(of.masks_of([row])[0], of.thing_masks[row])


# ---- two things that become one


def test_two_things_whose_kernels_fuse_are_told_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    walk, _, of = traced(learned(similarity=0.0, class_aware=False), monkeypatch)
    assert {*of.things.labels.tolist()} == {0, 1}, "of both classes"
    assert of.members(0) == [row for row, similar in enumerate(of.cosines[0].tolist()) if similar >= 0]
    assert {int(of.things.labels[row]) for row in of.members(0)} == {0, 1}
    assert "whatever their classes" in walk["fused"].text
    rows = table(walk, "fused", "Things after fusion")
    assert rows[0].cells[2] == str(len(of.members(0)))
    assert all(of.place(row) in str(rows[0].cells[3]) for row in of.members(0))


def test_the_end_of_a_chain_is_told_as_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, of = traced(learned(), monkeypatch)
    assert len(of.things.labels) == 4
    owner = torch.tensor([0, 0, 1, 3])  # the third matches the second alone, which the first has taken in
    chain = dataclasses.replace(of, first=torch.nn.functional.one_hot(owner, 4).T.bool())
    assert chain.fused_of == [0, 0, None, 1]
    assert chain.members(0) == [0, 1]
    assert chain.candidate_segments[2] == ()
    (matrix,) = (view for view in fused_step(chain).views if isinstance(view, MatrixView))
    assert matrix.groups == (0, 0, 4, 1)
    assert [name.endswith("lost") for name in matrix.names] == [False, False, True, False]


# ---- switches


SWITCHES: list[dict[str, Any]] = [
    {"kernel_fusion": False},
    {"class_aware": False},
    {"nms": True},
    {"flip": True},
    {"flip": True, "kernel_fusion": False},
    {"kernel_coordinates": False, "encoder_coordinates": False},
    {"feature_type": "p2"},
    {"feature_type": "summed"},
    {"position_deformable": True, "encoder_deformable": True},
    {"region_has_thing": False},
    {"level_ranges": ALL_LEVELS},
    {"centre": "box", "weighted": False},
]


@pytest.mark.parametrize("changes", SWITCHES)
def test_every_switch_walks(changes: dict[str, Any]) -> None:
    model, (picture, truth) = learned(**changes), scene()
    walk = check_walk(model, picture, truth)
    check_every_parameter_has_a_step(model, walk)


def test_switches_are_told() -> None:
    picture = scene()[0]
    plain = explain(learned(), picture)
    assert "is off" in explain(learned(kernel_fusion=False), picture)["fused"].text
    assert "of one class" in plain["fused"].text
    assert "Matrix NMS" not in plain["rescored"].text
    decayed = explain(learned(nms=True, kernel_fusion=False), picture)
    assert "Matrix NMS" in decayed["rescored"].text
    assert tensor(decayed, "rescored", "decay").min() < 1, "each object was found twice"
    bare = explain(learned(kernel_coordinates=False, encoder_coordinates=False), picture)
    assert "no coordinates" in bare["kernels"].text
    assert "no coordinates" in bare["encoded"].text
    assert "Row coordinate" in maps(plain, "encoded")
    assert "Row coordinate" not in maps(bare, "encoded")
    assert "deformable" in explain(learned(position_deformable=True), picture)["centres"].text
    assert "stands for things" not in explain(learned(region_has_thing=False), picture)["regions"].text
    assert "p6" in [step.name for step in explain(learned(level_ranges=ALL_LEVELS), picture).steps]


def test_the_mirrored_view_is_averaged_in() -> None:
    walk, plain = explain(learned(flip=True), scene()[0]), explain(learned(), scene()[0])
    for step in ("picture", "kernels", "encoded", "masks"):
        assert "mirrored" in walk[step].text, step
    for step in ("centres", "peaks", "regions", "encoded"):
        assert all(
            torch.equal(a.tensor, b.tensor) for a, b in zip(walk[step].tensors, plain[step].tensors, strict=True)
        )
    assert not torch.equal(tensor(walk, "masks", "masks of stuff"), tensor(plain, "masks", "masks of stuff"))


def test_rescored_is_the_product_of_what_is_shown() -> None:
    walk = explain(learned(nms=True, kernel_fusion=False), scene()[0])
    rows = table(walk, "rescored", "Scores of things")
    for row in rows:
        centre, inside, decay, score = (cell for cell in row.cells[1:5] if isinstance(cell, float))
        assert score == pytest.approx(centre * inside * decay)
    told = [score for row in rows if row.kept and isinstance(score := row.cells[4], float)]
    assert sorted(told, reverse=True) == pytest.approx(tensor(walk, "rescored", "scores")[: len(told)].tolist())


@pytest.mark.parametrize(
    ("kind", "idle", "used"), [("p2", "fpn.output.3", "fpn.output.2"), ("semantic", "", "fpn.output.3")]
)
def test_the_feature_hangs_on_the_levels_it_is_made_of(kind: str, idle: str, used: str) -> None:
    model, picture = learned(feature_type=kind), scene()[0]
    walk = explain(model, picture)
    for name in filter(None, (idle, used)):
        weight = model.get_submodule(name).weight
        assert isinstance(weight, Tensor)
        kept = weight.detach().clone()
        with torch.no_grad():
            weight.zero_()
            other = explain(model, picture)
            weight.copy_(kept)
        assert ("high_resolution" in changed(walk, other)) == (name == used)
        assert changed(walk, other) == walk.downstream([f"p{name[-1]}"])


# ---- ground truth


def test_targets_are_those_of_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    walk, seen, of = traced(learned(), monkeypatch, truth=True)
    assert seen.target is not None
    settings = of.model.target_settings
    masks = mask_targets([seen.target], CATEGORIES, seen.images.canvas, settings)
    levels = level_targets(
        masks, [(c.shape[-2], c.shape[-1]) for c in seen.output.centres], seen.images.canvas, settings
    )
    for level, asked in zip(of.levels, levels, strict=True):
        assert np.array_equal(maps(walk, "centres")[f"P{level}: target"].values, asked.centres[0].amax(0).numpy())
        (painted,) = (v for v in walk["regions"].views if isinstance(v, PixelsView) and v.title == f"P{level}: target")
        assert np.array_equal((painted.pixels == 0).all(2), (asked.regions[0].amax(0) == 0).numpy())
    assert max(view.values.max() for title, view in maps(walk, "centres").items() if "target" in title) == 1
    shown = maps(walk, "masks")
    for i, label in enumerate(masks.labels[0].tolist()):
        assert np.array_equal(shown[f"Target: {of.thing_names[label]} {i + 1}"].values, masks.things[0][i].numpy())
    assert np.array_equal(shown[f"Target: {SOME_THING}"].values, masks.regions[0, 0].numpy())
    told = [str(row.cells[2]) for row in table(walk, "centres", "Targets: which level learns which thing")]
    for instance, where in enumerate(told):
        assert [f"P{n}" in where for n in of.levels] == [bool((t.instance == instance).any()) for t in levels]
    assert any("P3" in where and "P4" in where for where in told)


def test_targets_lie_beside_what_they_are_compared_to() -> None:
    walk = explain(learned(), *scene())
    for step, first in (("centres", "an object's centre, of any class"), ("regions", "owners of cells")):
        titles = [view.title for view in walk[step].views]
        for level in (3, 4, 5):
            place = titles.index(f"P{level}: {first}")
            assert titles[place + 1] == f"P{level}: target"


def test_how_many_levels_learn_a_thing_is_counted() -> None:
    walk = explain(learned(), *scene())
    (targets,) = (v for v in walk["centres"].views if isinstance(v, TableView))
    levels = [str(row.cells[2]).count("P") for row in targets.rows]
    assert {1, 2} & {*levels}
    assert f"Of this picture's {len(levels)} things are learned: " in targets.caption
    for count in {*levels}:
        told = "none" if count == 0 else "1 level" if count == 1 else f"{count} levels"
        assert f"{levels.count(count)} on {told}" in targets.caption


def test_without_truth_no_target_is_shown() -> None:
    walk = explain(learned(), scene()[0])
    assert not [view.title for step in walk.steps for view in step.views if "arget" in view.title]


# ---- little to see


def test_it_walks_with_truth_where_it_finds_nothing() -> None:
    model = Contract.build(NAME)
    Contract.silence(model)
    walk = explain(model, *scene(80, 112))
    assert walk.result.segments == ()
    assert len(tensor(walk, "gathered", "kernels of things")) == 0
    assert not [view for view in walk["fused"].views if isinstance(view, MatrixView)]
    assert not [step.name for step in walk.steps if step.notes]


@pytest.mark.parametrize("things", [(True, True), (False, False)])
@pytest.mark.parametrize("region_has_thing", [True, False])
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_categories_of_one_kind_alone(things: tuple[bool, bool], region_has_thing: bool) -> None:
    categories = Categories(("a", "b"), things, (1, 2))
    model = Contract.build(NAME, categories, region_has_thing=region_has_thing).eval()
    walk = explain(model, scene()[0])
    check_every_parameter_has_a_step(model, walk)
    assert len(tensor(walk, "centres", "P3: centre logits")) == sum(things)
    assert all(step.views for step in walk.steps)


def test_smoothing_counts_zeros_beyond_the_border() -> None:
    p = torch.ones(1, 1, 1)
    assert smoothed(p, 3).item() == pytest.approx((1 + 1 / 9) / 2)
    assert smoothed(torch.zeros(0, 2, 2), 3).shape == (0, 2, 2)


def test_classes_without_a_segment_have_few_maps() -> None:
    """A picture with many kinds of things would else have a map for each, on each level."""
    many = Categories(tuple(f"thing {i}" for i in range(20)), (True,) * 20, tuple(range(1, 21)))
    model = Contract.build(NAME, many, thing_score=1.0).eval()
    walk = explain(model, scene()[0])
    assert walk.result.segments == ()
    places = tensor(walk, "gathered", "places of things")[:, 0].tolist()
    assert places.count(3) > 20
    of_classes = [title for title in maps(walk, "centres") if title.startswith("P3: centre of")]
    assert len(of_classes) == MOST_CLASSES
