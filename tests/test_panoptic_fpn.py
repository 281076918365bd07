"""What is Panoptic FPN's own: equal to torchvision's Mask R-CNN, what is ignored, pasted masks, the merge, settings."""

import dataclasses
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign

from models_contract import CATEGORIES, panoptic, scene, target
from thingstuff.config import changed
from thingstuff.errors import InputError
from thingstuff.models import MODELS
from thingstuff.models.panoptic_fpn import PanopticFPN, PanopticFPNConfig, PanopticFPNOutput, paste
from thingstuff.models.panoptic_fpn_targets import (
    NO_CLASS,
    semantic_target,
    share_inside,
    thing_target,
    without_ignored,
)
from thingstuff.panoptic import VOID, Categories, Panoptic
from thingstuff.pretrained import Source
from thingstuff.structures import Frame, Images, Segments, Target
from thingstuff.transfer import take_over

SMALL: dict[str, Any] = {
    "preprocess.short_side": 64,
    "preprocess.max_side": 128,
    "backbone.weights": "none",
    "backbone.stem_channels": 8,
    "backbone.res2_channels": 16,
    "backbone.bottleneck_width": 4,
    "fpn_channels": 16,
    "semantic_channels": 32,
    "anchor_sizes": (8, 16, 32, 64, 128),
    "canonical_size": 32,
    "box_channels": 24,
    "mask_channels": 12,
    "mask_convs": 2,
    "box_samples": 40,
    "anchor_samples": 60,
    "proposals_learned": 60,
    "proposals_predicted": 30,
    "proposals": 90,
    "mask_stride": 1,
}
STRIDES = (4, 8, 16, 32, 64)
CANVAS = (128, 128)
SIZES = ((128, 128), (96, 120))


def model(categories: Categories = CATEGORIES, **changes: Any) -> PanopticFPN:
    """A small model whose heads say something: their weights are larger than at the start of a training."""
    torch.manual_seed(0)
    net = PanopticFPN(changed(PanopticFPNConfig(), {**SMALL, **changes}), categories).eval()
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.startswith(("rpn.", "roi_heads.")) and parameter.ndim > 1:
                parameter.normal_(std=0.7 / parameter[0].numel() ** 0.5)
    return net


def output(batch: int = 2, seed: int = 0, rows: int = 3, net: PanopticFPN | None = None) -> PanopticFPNOutput:
    """Random features for a canvas of 128 x 128, and what the proposal head makes of them."""
    random = torch.Generator().manual_seed(seed)
    pyramid = tuple(torch.randn(batch, 16, 128 // s, 128 // s, generator=random) for s in STRIDES)
    semantic = 2 * torch.randn(batch, rows, 32, 32, generator=random)
    objectness, deltas = (net or model()).rpn.head(list(pyramid))
    return PanopticFPNOutput(pyramid, tuple(objectness), tuple(deltas), semantic)


def images() -> Images:
    return Images(torch.zeros(2, 3, *CANVAS), SIZES, SIZES)


def pictures() -> list[Target]:
    """Two pictures with everything labelled: sky, ground, a disc and a box each."""
    return [target(scene(height, width, shift)[1]) for (height, width), shift in zip(SIZES, (0, 6), strict=True)]


def halves(crowd: bool = False) -> Target:
    """A picture of 128 x 128: on the left sky, ground and a disc (or a crowd of discs), on the right nothing."""
    labels = np.full(CANVAS, 2)
    labels[:64, :] = 0
    labels[32:96, 16:90] = 1
    whole = target(panoptic(labels), crowd=(1,) if crowd else ())
    masks = whole.masks.clone()
    masks[:, :, 64:] = False
    boxes = whole.boxes_xyxy.clamp(max=torch.tensor([64.0, 128.0, 64.0, 128.0]))
    return dataclasses.replace(whole, masks=masks, boxes_xyxy=boxes, unlabelled=~masks.any(0))


def losses(net: PanopticFPN, maps: PanopticFPNOutput, targets: list[Target]) -> dict[str, float]:
    torch.manual_seed(3)
    return {key: float(value.detach()) for key, value in net.loss(maps, targets).items()}


# ---- torchvision's Mask R-CNN


class Nothing(nn.Module):
    """A backbone that is not asked for features."""

    out_channels = 16


def peer(net: PanopticFPN) -> MaskRCNN:
    """torchvision's whole model with the weights of ours."""
    c, rows = net.config, len(CATEGORIES.thing_labels) + 1
    pools = [
        MultiScaleRoIAlign(["0", "1", "2", "3"], cells, 2, canonical_scale=c.canonical_size, canonical_level=4)
        for cells in (7, 14)
    ]
    other = MaskRCNN(
        Nothing(),
        rpn_anchor_generator=AnchorGenerator(tuple((s,) for s in c.anchor_sizes), ((0.5, 1.0, 2.0),) * 5),
        rpn_pre_nms_top_n_train=c.proposals_learned,
        rpn_pre_nms_top_n_test=c.proposals_predicted,
        rpn_post_nms_top_n_train=c.proposals,
        rpn_post_nms_top_n_test=c.proposals,
        rpn_batch_size_per_image=c.anchor_samples,
        box_roi_pool=pools[0],
        box_head=TwoMLPHead(16 * 49, c.box_channels),
        box_predictor=FastRCNNPredictor(c.box_channels, rows),
        box_batch_size_per_image=c.box_samples,
        mask_roi_pool=pools[1],
        mask_head=MaskRCNNHeads(16, (c.mask_channels,) * c.mask_convs, 1),
        mask_predictor=MaskRCNNPredictor(c.mask_channels, c.mask_channels, rows),
    )
    other.rpn.load_state_dict(net.rpn.state_dict())
    other.roi_heads.load_state_dict(net.roi_heads.state_dict())
    return other


def named(maps: PanopticFPNOutput) -> "OrderedDict[str, Tensor]":
    return OrderedDict(zip(("0", "1", "2", "3", "pool"), maps.pyramid, strict=True))


def test_proposals_and_detections_are_torchvisions() -> None:
    net = model()
    other, maps = peer(net).eval(), output(net=net)
    with torch.no_grad():
        proposals, _ = other.rpn(ImageList(images().pixels, list(SIZES)), named(maps))
        detections, _ = other.roi_heads(named(maps), proposals, list(SIZES))
        found = net.segments(maps, images())
    for ours, theirs in zip(net._proposals(maps, SIZES, net.config.proposals_predicted), proposals, strict=True):
        assert len(ours) == 90
        torch.testing.assert_close(ours, theirs)
    names = torch.tensor([VOID, *CATEGORIES.thing_labels])
    for ours, theirs in zip(found, detections, strict=True):
        count = len(theirs["boxes"])
        assert count > 20
        assert ours.labels.tolist() == [*names[theirs["labels"]].tolist(), VOID, 0, 2]
        torch.testing.assert_close(ours.scores[:count], theirs["scores"])
        torch.testing.assert_close(ours.masks[:count], paste(theirs["masks"][:, 0], theirs["boxes"], CANVAS, 1))


def test_losses_of_everything_labelled_are_torchvisions() -> None:
    net = model()
    other, maps = peer(net).train(), output(net=net)
    teaching = [
        {"boxes": t.boxes_xyxy[chosen], "labels": 1 + (t.labels[chosen] == 3).long(), "masks": t.masks[chosen].byte()}
        for t in pictures()
        if len(chosen := ((t.labels == 1) | (t.labels == 3)).nonzero()[:, 0])
    ]
    torch.manual_seed(3)
    proposals, of_proposals = other.rpn(ImageList(images().pixels, list(SIZES)), named(maps), teaching)
    _, of_boxes = other.roi_heads(named(maps), proposals, list(SIZES), teaching)
    theirs = {**of_proposals, **of_boxes}
    ours = losses(net, maps, pictures())
    names = {
        "rpn_objectness": "loss_objectness",
        "rpn_box": "loss_rpn_box_reg",
        "class": "loss_classifier",
        "box": "loss_box_reg",
        "mask": "loss_mask",
    }
    assert {*ours} == {*names, "semantic"}
    for key, name in names.items():
        assert ours[key] > 0
        assert ours[key] == pytest.approx(float(theirs[name].detach()), rel=1e-5)


def test_nothing_hangs_on_the_mode() -> None:
    net = model()
    maps, targets = output(net=net), pictures()
    before, found = losses(net, maps, targets), net.segments(maps, images())
    net.train()
    assert losses(net, maps, targets) == before
    for ours, theirs in zip(net.segments(maps, images()), found, strict=True):
        assert torch.equal(ours.scores, theirs.scores)
        assert torch.equal(ours.masks, theirs.masks)
    one = model(proposals_predicted=1)
    assert losses(one, maps, targets) == before
    assert all(len(s) < len(f) for s, f in zip(one.segments(maps, images()), found, strict=True))
    assert losses(model(proposals_learned=1), maps, targets)["class"] != before["class"]


def test_the_anchors_of_a_level_lie_a_stride_apart() -> None:
    """P6 has two cells where P5 has three, but its second lies 64 pixels from the first: torchvision's lies 48."""
    net = model()
    with torch.no_grad():
        maps = net(Images(torch.zeros(1, 3, 96, 96), ((96, 96),), ((96, 96),)))
    assert [m.shape[-1] for m in maps.pyramid] == [24, 12, 6, 3, 2]
    for anchors, stride in zip(net.anchors(maps), STRIDES, strict=True):
        centres = (anchors[:, :2] + anchors[:, 2:]) / 2
        assert centres[0].tolist() == [0, 0]
        assert centres[3].tolist() == [stride, 0]  # three anchors to a cell


# ---- what is learned and what is not


def test_the_semantic_loss_is_the_mean_over_labelled_pixels() -> None:
    net, maps = model(semantic_weight=0.25), output()
    targets = [halves(crowd=True), pictures()[1]]
    logits = F.interpolate(maps.semantic, scale_factor=4, mode="bilinear").log_softmax(1)
    values = []
    for b, (truth, (height, width)) in enumerate(zip(targets, SIZES, strict=True)):
        for y in range(height):
            for x in range(width):
                labels = truth.labels[truth.masks[:, y, x]].tolist()
                if labels:
                    values.append(-logits[b, {0: 1, 1: 0, 2: 2, 3: 0}[labels[0]], y, x])
    assert len(values) == 128 * 64 + 96 * 120
    ours = losses(net, maps, targets)["semantic"]
    assert ours == pytest.approx(0.25 * float(torch.stack(values).double().mean()), rel=1e-5)
    assert losses(net, maps, [halves(), pictures()[1]])["semantic"] == ours  # a crowd of things is things here


def test_ignored_pixels_have_no_say() -> None:
    """With the right half unlabelled, no logit deep inside it changes a loss; as a negative it does."""
    maps = output(1)
    objectness = tuple(m.clone() for m in maps.objectness)
    objectness[0][..., 20:] += 3.0  # anchors of 8 to 12 pixels around x = 80 and more
    semantic = maps.semantic.clone()
    semantic[:, 1, :, 17:] += 3.0  # the pixel before the half takes from column 16
    other = dataclasses.replace(maps, objectness=objectness, semantic=semantic)
    before, after = (losses(model(), m, [halves()]) for m in (maps, other))
    assert after["rpn_objectness"] == before["rpn_objectness"]
    assert after["semantic"] == pytest.approx(before["semantic"], rel=1e-6)
    before, after = (losses(model(unlabelled="negative", anchor_samples=5000), m, [halves()]) for m in (maps, other))
    assert after["rpn_objectness"] > before["rpn_objectness"] + 0.1


def test_a_mask_learns_from_labelled_cells_of_its_own_class_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thing's box reaches 26 pixels into the unlabelled half."""
    truth = dataclasses.replace(
        halves(), boxes_xyxy=torch.tensor([[0.0, 0, 64, 64], [16, 32, 90, 96], [0, 64, 64, 128]])
    )
    made: list[Tensor] = []

    def masks(self: PanopticFPN, maps: PanopticFPNOutput, boxes: list[Tensor]) -> Tensor:
        made.append(torch.zeros(len(boxes[0]), 3, 28, 28, requires_grad=True))
        rois.append(boxes[0])
        return made[0]

    rois: list[Tensor] = []
    monkeypatch.setattr(PanopticFPN, "_masks", masks)
    model().loss(output(1), [truth])["mask"].backward()
    gradient, (boxes,) = made[0].grad, rois
    assert gradient is not None
    assert not gradient[:, [0, 2]].any()
    assert len(boxes) >= 1
    for own, (x0, _, x1, _) in zip(gradient[:, 1], boxes.tolist(), strict=True):
        centres = x0 + (torch.arange(28) + 0.5) * (x1 - x0) / 28
        heard = own.abs().sum(0) > 0
        assert heard[centres < 62].all()
        assert not heard[centres > 66].any()
    assert any(x1 > 70 for x1 in boxes[:, 2].tolist())


def test_a_share_is_what_counting_pixels_gives() -> None:
    random = torch.Generator().manual_seed(1)
    area = torch.rand(40, 50, generator=random) > 0.6
    corners = torch.rand(60, 2, 2, generator=random) * 80 - 15
    boxes = torch.cat([corners.amin(1), corners.amax(1)], 1)
    boxes[:2] = torch.tensor([[60.0, 5, 70, 9], [5, 5, 5, 9]])  # outside; empty
    for share, (x0, y0, x1, y1) in zip(share_inside(boxes, area), boxes.round().long().tolist(), strict=True):
        cut = area[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)]
        assert float(share) == pytest.approx(float(cut.float().mean()) if cut.numel() else 0.0)


def test_background_in_crowds_and_unlabelled_places_is_no_example() -> None:
    truth = halves(crowd=True)  # the crowd from (16, 32) to (64, 96), the unlabelled from x = 64 on
    boxes = torch.tensor([[20.0, 40, 60, 90], [70, 10, 90, 30], [0, 0, 30, 30], [40, 0, 80, 30], [44, 0, 90, 30]])
    labels = torch.tensor([0, 1, 0, 0, 0])
    thing = thing_target(truth, CATEGORIES, ignore=True)
    assert len(thing.boxes_xyxy) == 0
    assert without_ignored([labels], [boxes], [thing])[0].tolist() == [-1, 1, 0, 0, -1]
    as_negative = thing_target(truth, CATEGORIES, ignore=False)
    assert without_ignored([labels], [boxes], [as_negative])[0].tolist() == labels.tolist()
    assert as_negative.known.all()


def test_things_are_told_with_their_boxes_and_rows() -> None:
    truth = pictures()[0]
    empty = dataclasses.replace(truth, masks=torch.cat([truth.masks[:-1], torch.zeros_like(truth.masks[:1])]))
    assert truth.labels.tolist() == [0, 1, 2, 3]
    assert thing_target(truth, CATEGORIES, ignore=True).labels.tolist() == [1, 2]
    assert torch.equal(thing_target(truth, CATEGORIES, ignore=True).boxes_xyxy, truth.boxes_xyxy[[1, 3]])
    assert thing_target(empty, CATEGORIES, ignore=True).labels.tolist() == [1]
    rows = semantic_target(truth, CATEGORIES, (160, 192))
    assert rows.shape == (160, 192)
    assert rows[0, 0] == 1  # sky, the first stuff
    assert rows[127, 0] == 2
    assert rows[60, 60] == 0  # a box
    assert (rows[128:] == NO_CLASS).all()
    assert (rows[:, 128:] == NO_CLASS).all()


def test_weights_scale_their_losses() -> None:
    plain = losses(model(), output(), pictures())
    scaled = losses(model(thing_weight=2.0, semantic_weight=0.1), output(), pictures())
    for key, value in scaled.items():
        assert value == pytest.approx(plain[key] * (0.2 if key == "semantic" else 2.0), rel=1e-5)


# ---- masks and their merge


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_pasted_masks_are_sampled_at_the_centres_of_cells(stride: int) -> None:
    random = torch.Generator().manual_seed(2)
    masks = torch.rand(4, 28, 28, generator=random)
    boxes = torch.tensor([[3.3, 5.1, 40.2, 60.7], [0, 0, 64, 32], [50.5, 20, 58, 95.5], [10, 10, 12, 11]])
    ours = paste(masks, boxes, (96, 64), stride)
    for mask, (x0, y0, x1, y1), pasted in zip(masks, boxes.tolist(), ours, strict=True):
        y = (torch.arange(96 // stride) + 0.5) * stride
        x = (torch.arange(64 // stride) + 0.5) * stride
        rows, columns = torch.meshgrid((y - y0) / (y1 - y0) * 2 - 1, (x - x0) / (x1 - x0) * 2 - 1, indexing="ij")
        grid = torch.stack([columns, rows], -1)[None]
        torch.testing.assert_close(pasted, F.grid_sample(mask[None, None], grid, align_corners=False)[0, 0])
    assert paste(masks[:0], boxes[:0], (96, 64), stride).shape == (0, 96 // stride, 64 // stride)


def test_a_full_mask_fills_its_box() -> None:
    pasted = paste(torch.ones(1, 28, 28), torch.tensor([[8.0, 12, 40, 30]]), (64, 64), 1)[0]
    expected = torch.zeros(64, 64, dtype=torch.bool)
    expected[12:30, 8:40] = True
    assert torch.equal(pasted > 0.5, expected)


def test_the_merge_is_things_by_score_then_stuff() -> None:
    random = torch.Generator().manual_seed(4)
    masks = paste(
        (torch.rand(6, 4, 4, generator=random) > 0.2).float(),
        torch.tensor(
            [[4.0, 4, 40, 40], [8, 8, 44, 44], [5, 5, 39, 41], [60, 8, 90, 50], [60, 8, 80, 40], [0, 50, 9, 60]]
        ),
        (64, 96),
        1,
    )
    stuff = (3 * torch.randn(1, 3, 8, 12, generator=random)).repeat_interleave(8, 2).repeat_interleave(8, 3).softmax(1)
    frame = Frame((64, 96), (64, 96), (64, 96))
    labels = torch.tensor([1, 3, 1, 3, 1, 1, VOID, 0, 2])
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.55, 0.4, 0.5, 0.5, 0.5])
    net = model(stuff_area=1000.0, stuff_area_relative=False)
    result = net.merge(Segments(torch.cat([masks, stuff[0]]), labels, scores, frame))
    assert_is_the_plain_merge(result, masks, stuff[0], scores.tolist(), 1000)
    assert {1, 3} <= {s.label for s in result.segments}
    assert [s.source for s in result.segments if s.source in range(6)] != [0, 1, 2, 3, 4]  # some are covered


def assert_is_the_plain_merge(result: Panoptic, masks: Tensor, stuff: Tensor, scores: list[float], area: int) -> None:
    ids, count, sources = np.zeros(masks.shape[1:], np.int32), 0, []
    for n, mask in enumerate(masks.numpy() > 0.5):
        if scores[n] >= 0.5 and mask.any() and (mask & (ids > 0)).sum() <= 0.5 * mask.sum():
            count += 1
            ids[mask & (ids == 0)] = count
            sources.append(n)
    best = stuff.numpy().argmax(0)
    for row in (1, 2):
        free = (best == row) & (ids == 0)
        if free.sum() >= area:
            count += 1
            sources.append(len(masks) + row)
            ids = np.where(free, count, ids)
    assert np.array_equal(result.ids, ids)
    assert [s.source for s in result.segments] == sources


def test_without_detections_stuff_is_left() -> None:
    net = model()
    nn.init.constant_(net.roi_heads.box_predictor.cls_score.bias[:1], 50.0)
    for found in net.segments(output(), images()):
        assert found.labels.tolist() == [VOID, 0, 2]
        assert found.masks.shape == (3, *CANVAS)
        torch.testing.assert_close(found.masks.sum(0), torch.ones(CANVAS))


def test_stuff_scores_are_means_where_it_wins_in_the_picture() -> None:
    maps = output()
    maps.semantic[1] = torch.tensor([0.0, 2.0, -9.0])[:, None, None]
    maps.semantic[1, :, 25:] = torch.tensor([0.0, 0.0, 9.0])[:, None, None]  # padding, and a cell that bleeds in
    found = model(mask_stride=4).segments(maps, images())[1]
    assert found.masks.shape[1:] == (32, 32)
    sky = float(torch.tensor([0.0, 2.0, -9.0]).softmax(0)[1])
    assert found.scores[-3:].tolist() == pytest.approx([0.0, sky, 0.0])


def test_thresholds_and_limits_do_what_they_say() -> None:
    maps = output(net=model())

    def count(**changes: Any) -> int:
        return len(model(**changes).segments(maps, images())[0]) - 3

    every = count()
    assert every > 20
    assert count(detections=7) == 7
    assert count(proposals=4) < every
    assert count(detection_score=0.6) < every
    assert count(detection_overlap=0.1) < every
    assert len(model(proposal_overlap=0.2)._proposals(maps, SIZES, 30)[0]) < 90


def test_the_stuff_area_follows_the_size_of_the_picture() -> None:
    flat = torch.zeros(1, 32, 32)
    flat[0, :2] = 0.9  # a sixteenth: 192 of 3072 pixels, 19200 of 307200
    kept = []
    for relative in (True, False):
        for size in ((48, 64), (480, 640)):
            one = Segments(flat, torch.tensor([2]), torch.tensor([0.9]), Frame(CANVAS, CANVAS, size))
            kept.append(len(model(stuff_area_relative=relative).merge(one).segments))
    assert kept == [1, 1, 0, 1]


# ---- classes, settings, presets


def test_rows_go_over_by_the_names_of_classes() -> None:
    ours = Categories(("Box", "GROUND", "brick", "disc", "sky"), (True, False, True, False, False), (1, 2, 3, 4, 5))
    source, new = model(), model(ours)
    old = {key: value.clone() for key, value in source.state_dict().items()}
    before = {key: value.clone() for key, value in new.state_dict().items()}
    taken = take_over(new, Source(source))
    after = new.state_dict()
    assert taken.known == ("Box", "GROUND", "sky")
    for kind in ("weight", "bias"):
        for place, size in (
            ("box_predictor.cls_score", 1),
            ("box_predictor.bbox_pred", 4),
            ("mask_predictor.mask_fcn_logits", 1),
        ):
            key = f"roi_heads.{place}.{kind}"
            assert len(after[key]) == 3 * size
            assert torch.equal(after[key][:size], old[key][:size])  # background
            assert torch.equal(after[key][size : 2 * size], old[key][2 * size :])  # box
            assert torch.equal(after[key][2 * size :], before[key][2 * size :])  # brick
        key = f"semantic.{kind}"
        assert torch.equal(after[key][[0, 1, 3]], old[key][[0, 2, 1]])  # some thing, ground, sky
        assert torch.equal(after[key][2], before[key][2])  # disc, a thing there


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"unlabelled": "maybe"}, "unlabelled"),
        ({"anchor_sizes": (8, 16)}, "anchor_sizes"),
        ({"mask_stride": 3}, "mask_stride"),
        ({"semantic_channels": 40}, "semantic_channels"),
        ({"proposal": 8}, "proposals"),
    ],
)
def test_a_wrong_setting_is_named(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(InputError, match=key):
        changed(PanopticFPNConfig(), changes)


def test_presets_are_what_their_names_say() -> None:
    configs = {name: config for name, (config, _) in MODELS.items() if isinstance(config, PanopticFPNConfig)}
    assert {name: c.backbone.depth for name, c in configs.items()} == {"panoptic-fpn-r50": 50, "panoptic-fpn-tiny": 18}
    paper = configs["panoptic-fpn-r50"]
    assert (paper.semantic_channels, paper.semantic_weight, paper.thing_score, paper.stuff_area) == (
        128,
        0.5,
        0.5,
        4096,
    )
    assert configs["panoptic-fpn-tiny"].backbone.weights == "none"


@pytest.mark.parametrize(
    "wrong", [{"anchor_ratios": (-1.0,)}, {"anchor_sizes": (0, 8, 16, 32, 64)}, {"mask_threshold": 2.0}]
)
def test_settings_that_can_only_fail_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        changed(PanopticFPNConfig(), wrong)
