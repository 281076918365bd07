"""First weights for one's own classes: what is taken from another model, and what is told of it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import thingstuff as ts
from detr_states import SETTINGS, SMALL, as_authors, as_hugging_face_file, small_model, without_masks
from thingstuff.coco_categories import COCO_PANOPTIC
from thingstuff.models import create
from thingstuff.models.base import PanopticModel
from thingstuff.panoptic import Categories
from thingstuff.pretrained import Source, load_source
from thingstuff.transfer import take_over

OWN = Categories(("brick", "PERSON", "sky-other-merged", "Car"), (True, True, False, True), (5, 2, 9, 1))
NAME = "detr-panoptic-r50"
OWN_SMALL = SMALL.model_copy(update={"outputs": None})
TINY = {"preprocess.short_side": 64, "backbone.stem_channels": 8, "backbone.res2_channels": 8}
FCN_TINY = {**TINY, "fpn_channels": 32, "semantic_channels": 32, "position_channels": 32, "kernel_channels": 32}


def model_of(name: str, categories: Categories, **changes: Any) -> PanopticModel:
    return create(name, categories, **{**(FCN_TINY if "fcn" in name else TINY), **changes}).eval()


def state_of(model: PanopticModel) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def scrambled(model: PanopticModel) -> PanopticModel:
    """Give every weight and buffer other values."""
    for value in model.state_dict().values():
        value.copy_(torch.rand(value.shape) + 1)
    return model


# ---- classes by name


def test_a_row_of_detr_is_that_of_the_class_of_its_name() -> None:
    source = small_model()  # its 250 outputs stand at COCO's ids
    model = create(NAME, OWN, OWN_SMALL)
    before = state_of(model)
    taken = take_over(model, Source(source))
    theirs, ours = source.state_dict(), model.state_dict()
    for key in ("class_head.weight", "class_head.bias"):
        assert torch.equal(ours[key][1:], theirs[key][[1, 187, 3, 250]])
        assert torch.equal(ours[key][0], before[key][0])
    for key in ours.keys() - {"class_head.weight", "class_head.bias"}:
        assert torch.equal(ours[key], theirs[key]), key
    assert (taken.known, taken.new) == (("PERSON", "sky-other-merged", "Car"), ("brick",))
    assert not taken.lacking
    assert not taken.misshapen


def test_rows_go_from_our_order_to_positions_that_are_ids() -> None:
    source = scrambled(create(NAME, OWN, OWN_SMALL))
    model = create(NAME, OWN, SMALL.model_copy(update={"outputs": 12}))
    before = state_of(model)
    take_over(model, Source(source))
    for key in ("class_head.weight", "class_head.bias"):
        ours, theirs = model.state_dict()[key], source.state_dict()[key]
        assert torch.equal(ours[[5, 2, 9, 1, 12]], theirs)
        assert torch.equal(ours[[0, 3, 4, 6, 7, 8, 10, 11]], before[key][[0, 3, 4, 6, 7, 8, 10, 11]])
    assert model.class_rows()["class_head.bias"][4:7] == [None, "brick", None]


@pytest.mark.parametrize("has_thing", [True, False])
def test_rows_of_panoptic_fcn_are_by_kind_and_name(has_thing: bool) -> None:
    theirs = Categories(("sky", "disc", "ground", "box"), (False, True, False, True), (3, 7, 11, 12))
    ours = Categories(("Box", "GROUND", "brick", "disc", "sky"), (True, False, True, False, False), (1, 2, 3, 4, 5))
    source = scrambled(model_of("panoptic-fcn-tiny", theirs))
    model = model_of("panoptic-fcn-tiny", ours, region_has_thing=has_thing)
    before = state_of(model)
    taken = take_over(model, Source(source))
    some_thing = int(has_thing)
    for kind in ("weight", "bias"):
        centres, regions = (f"position_head.{head}.{kind}" for head in ("centres", "regions"))
        new, old = model.state_dict(), source.state_dict()
        assert torch.equal(new[centres][0], old[centres][1])  # box
        assert torch.equal(new[centres][1], before[centres][1])  # brick
        assert torch.equal(new[regions][some_thing], old[regions][2])  # ground
        assert torch.equal(new[regions][some_thing + 1], before[regions][some_thing + 1])  # disc, a thing there
        assert torch.equal(new[regions][some_thing + 2], old[regions][1])  # sky
        assert torch.equal(new[regions][:some_thing], old[regions][:some_thing])
    assert taken.known == ("Box", "GROUND", "sky")
    assert taken.new == ("brick", "disc")


def test_a_name_written_alike_goes_before_one_in_other_case() -> None:
    both = Categories(("Polish", "polish"), (True, True), (1, 2))
    source = scrambled(create(NAME, both, OWN_SMALL))
    for name, row in (("polish", 1), ("Polish", 0), (" POLISH ", 0)):
        model = create(NAME, Categories((name,), (True,), (1,)), OWN_SMALL)
        take_over(model, Source(source))
        assert torch.equal(model.state_dict()["class_head.bias"], source.state_dict()["class_head.bias"][[row, 2]])


def test_classes_with_nothing_in_common_are_all_new() -> None:
    own = Categories(("brick", "moss"), (True, False), (1, 2))
    model = create(NAME, own, OWN_SMALL)
    before = state_of(model)
    taken = take_over(model, Source(small_model()))
    assert torch.equal(model.state_dict()["class_head.weight"][:2], before["class_head.weight"][:2])
    assert taken.known == ()
    assert "classes: 0 of 2 known; new: brick, moss" in taken.summary()


# ---- what fits and what does not


def test_the_summary_is_for_people() -> None:
    model = create(NAME, OWN, OWN_SMALL.model_copy(update={"queries": 7, "encoder_layers": 2}))
    total = len(model.state_dict())
    lines = take_over(model, Source(small_model())).summary()
    assert lines == [
        f"taken: backbone, projection, decoder, box_head, attention_maps, mask_head ({total - 19} of {total} tensors)",
        "classes: 3 of 4 known (PERSON, sky-other-merged, Car); new: brick",
        "not taken: queries (another shape)",
        "not taken: encoder 16 of 32 (not in the source)",
    ]
    many = create(NAME, COCO_PANOPTIC, OWN_SMALL)
    known = take_over(many, Source(small_model())).summary()[1]
    assert known.startswith("classes: 133 of 133 known (person, bicycle, car, ")
    assert known.endswith(" and 125 more)")


def test_all_of_an_equal_model_is_taken() -> None:
    source = scrambled(model_of("panoptic-fcn-tiny", OWN))
    model = model_of("panoptic-fcn-tiny", OWN)
    taken = take_over(model, Source(source))
    assert set(taken.taken) == model.state_dict().keys()
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in model.state_dict().items())


def test_frozen_norms_become_trainable_ones() -> None:
    source = small_model()
    backbone = SMALL.backbone.model_copy(update={"norm": "batch", "frozen_stages": 0})
    model = create(NAME, OWN, OWN_SMALL.model_copy(update={"backbone": backbone}))
    take_over(model, Source(source))
    for key in ("weight", "running_var"):
        assert torch.equal(model.state_dict()[f"backbone.bn1.{key}"], source.state_dict()[f"backbone.bn1.{key}"])


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("panoptic-fcn-tiny", {}, r"detr-panoptic-tiny \(DETRPanoptic\) cannot begin a panoptic-fcn-tiny \(Panopt"),
        ("panoptic-fcn-tiny", {}, r"0 of \d+ tensors .*fpn\.lateral\.2\.weight \(not in the source\), .* and \d+ more"),
        ("detr-panoptic-tiny", {"hidden": 256}, r"projection\.weight \(\[128, 64, 1, 1\] instead of \[256, 64, 1, 1\]"),
        (
            "detr-panoptic-tiny",
            {"backbone.depth": 34},
            r"its backbone is another.*backbone\.layer1\.2.*not in the sour",
        ),
        (
            "detr-panoptic-tiny",
            {"backbone.norm": "group"},
            r"backbone is another.*backbone\.bn1\.running_mean \(only in",
        ),
        ("detr-panoptic-tiny", {"backbone.stem_channels": 16}, r"backbone\.conv1\.weight \(\[8, 3, 7, 7\] instead of"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(name: str, changes: dict[str, Any], message: str) -> None:
    source = model_of("detr-panoptic-tiny", OWN)
    model = model_of(name, OWN, **changes)
    before = state_of(model)
    with pytest.raises(ts.InputError, match=message):
        take_over(model, Source(source))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


# ---- sources


def test_a_detr_for_boxes_alone_leaves_the_masks_part_new(tmp_path: Path) -> None:
    boxes = small_model()
    torch.save(without_masks(as_authors(boxes.state_dict())), tmp_path / "detr.pth")
    source = load_source(tmp_path / "detr.pth")
    model = create(NAME, OWN, OWN_SMALL)
    before = state_of(model)
    taken = take_over(model, source)
    of_masks = {*model.parameters_of("masks")}
    assert set(taken.lacking) == source.missing == of_masks
    assert all(torch.equal(model.state_dict()[key], before[key]) for key in of_masks)
    assert torch.equal(model.state_dict()["queries.weight"], boxes.state_dict()["queries.weight"])
    assert taken.summary()[-1] == "not taken: attention_maps, mask_head (not in the source)"


def test_half_a_masks_part_is_no_source(tmp_path: Path) -> None:
    state = as_authors(small_model().state_dict())
    del state["mask_head.lay1.weight"]
    torch.save(state, tmp_path / "detr.pth")
    with pytest.raises(ts.InputError, match=r"detr\.pth lacks mask_head\.convs\.0\.weight$"):
        load_source(tmp_path / "detr.pth")


@pytest.mark.parametrize(
    ("outputs", "labels", "rows"),
    [
        (91, None, {1: 1, 3: 3}),  # COCO's boxes: positions are ids of things
        (4, {"0": "N/A", "1": "car", "2": "person", "3": "N/A"}, {1: 2, 3: 1}),
        (4, {"0": "sky-other-merged", "1": "a", "2": "b", "3": "c"}, {2: 0}),
        (4, None, {}),
    ],
)
def test_names_of_published_classes(
    outputs: int, labels: dict[str, str] | None, rows: dict[int, int], tmp_path: Path
) -> None:
    published = small_model()
    state = published.state_dict()
    state |= {k: state[k][: outputs + 1].clone() for k in ("class_head.weight", "class_head.bias")}
    torch.save(as_hugging_face_file(state), tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps({**SETTINGS, **({"id2label": labels} if labels else {})}))
    model = create(NAME, OWN, OWN_SMALL)
    before = state_of(model)["class_head.weight"]
    take_over(model, load_source(tmp_path))
    after = model.state_dict()["class_head.weight"]
    for row in range(4):
        wanted = state["class_head.weight"][rows[row]] if row in rows else before[row]
        assert torch.equal(after[row], wanted), OWN.names[row]
    assert torch.equal(after[4], state["class_head.weight"][outputs])
