"""Every switch of Panoptic FCN's targets and losses against slow loops (`switches_plain_losses`), and its gradients."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

import switches_plain_losses as plain
from models_contract import CATEGORIES
from switches_models import SHAPES, maps_of, model
from thingstuff.models.panoptic_fcn import PanopticFCN, PanopticFCNOutput
from thingstuff.models.panoptic_fcn_targets import LevelTargets, level_targets, mask_targets
from thingstuff.structures import Target

SKY, DISC, GROUND, BOX = range(4)
CANVAS = (128, 256)
RANGES = ((1.0, 64.0), (32.0, 128.0), (64.0, 256.0), (100.0, 512.0), (150.0, 2048.0))
"""The large instance goes to the last level too."""


def shapes_of_a_picture() -> list[tuple[int, Tensor]]:
    """(label, mask) of a picture of 128 x 256; no instance's mass lies in the middle of its box."""
    y, x = torch.meshgrid(torch.arange(128), torch.arange(256), indexing="ij")
    triangle = (x >= 20) & (y <= 110) & (y - 30 >= (x - 20) * 1.25)
    thin = (x >= 12) & (x < 20)  # 8 x 128: between the cells that P4 looks at
    corner = (y >= 8) & (y < 120) & (x >= 100) & (x < 240) & ((x < 132) | (y >= 90))
    wedge = (y < 126) & (x < 250) & (2 * y + x > 120)
    return [(SKY, y < 60), (DISC, triangle), (BOX, thin), (BOX, corner), (GROUND, (y >= 90) & (x > 64)), (DISC, wedge)]


def target_of(rows: list[tuple[int, Tensor]], crowd: int | None = None) -> Target:
    """Boxes are as annotated: a little larger than the masks."""
    masks = torch.stack([mask for _, mask in rows])
    boxes = []
    for mask in masks:
        ys, xs = mask.nonzero().unbind(1)
        boxes.append([float(xs.min()), float(ys.min()), float(xs.max()) + 1.5, float(ys.max()) + 1.75])
    return Target(
        masks=masks,
        labels=torch.tensor([label for label, _ in rows]),
        boxes_xyxy=torch.tensor(boxes),
        crowd=torch.tensor([i == crowd for i in range(len(rows))]),
        unlabelled=~masks.any(0),
    )


def batch() -> list[Target]:
    """Two pictures: the second is smaller, mostly unlabelled, and has a crowd."""
    rectangle = torch.zeros(3, 120, 240, dtype=torch.bool)
    rectangle[0, 97:109, 200:211] = True
    rectangle[1, 10:60, 10:90] = True
    rectangle[2, 70:, :] = True
    small = [(DISC, rectangle[0]), (BOX, rectangle[1]), (SKY, rectangle[2] & ~rectangle[0])]
    return [target_of(shapes_of_a_picture()), target_of(small, crowd=1)]


def learner(**changes: Any) -> PanopticFCN:
    return model(**{"level_ranges": RANGES, **changes}).train()


def levels_of(net: PanopticFCN, targets: list[Target]) -> list[LevelTargets]:
    masks = mask_targets(targets, CATEGORIES, CANVAS, net.target_settings)
    return level_targets(masks, SHAPES, CANVAS, net.target_settings)


def in_fp64(maps: PanopticFCNOutput) -> PanopticFCNOutput:
    """Copies that gradients reach."""

    def copied(part: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(m.detach().double().requires_grad_() for m in part)

    (feature,) = copied((maps.feature,))
    return PanopticFCNOutput(copied(maps.centres), copied(maps.regions), copied(maps.kernels), feature)


def with_gradients(maps: PanopticFCNOutput) -> PanopticFCNOutput:
    copies = in_fp64(maps)
    return PanopticFCNOutput(
        *(tuple(m.detach().float().requires_grad_() for m in p) for p in (copies.centres, copies.regions)),
        tuple(m.detach().float().requires_grad_() for m in copies.kernels),
        copies.feature.detach().float().requires_grad_(),
    )


def assert_losses(net: PanopticFCN, regions: int = 3) -> dict[str, float]:
    """Compare all four, on random maps; return them."""
    maps, targets = maps_of(1, regions, batch=2), batch()
    ours = {key: float(value.detach()) for key, value in net.loss(maps, targets).items()}
    expected = {key: float(value.detach()) for key, value in plain.losses(net, in_fp64(maps), targets).items()}
    assert ours == pytest.approx(expected, rel=2e-5)
    return ours


# ---- what centres are learned from

HEAT_MAPS: list[dict[str, Any]] = [
    {},
    {"centre": "box"},
    *({"gaussian_overlap": overlap} for overlap in (0.3, 0.5, 0.9)),
    *({"gaussian_sigma": sigma} for sigma in (1.5, 2.0, 6.0)),
    {"centre": "box", "gaussian_overlap": 0.5, "gaussian_sigma": 5.0},
]


@pytest.mark.parametrize("changes", HEAT_MAPS, ids=lambda c: "-".join(f"{k}={v}" for k, v in c.items()) or "default")
def test_centre_maps_are_drawn_instance_by_instance(changes: dict[str, Any]) -> None:
    net, targets = learner(**changes), batch()
    pairs = plain.pairs_of(net, targets, CANVAS, SHAPES)
    ours, default = levels_of(net, targets), levels_of(learner(), targets)
    assert [len(of_level) for of_level in pairs] == [2, 3, 3, 2, 1]
    for level, of_level, shape in zip(ours, pairs, SHAPES, strict=True):
        drawn = plain.heat_maps(net, of_level, 2, shape)
        torch.testing.assert_close(level.centres.double(), drawn, atol=1e-6, rtol=1e-5)
        peaks = {(p.b, p.label, *p.cell) for p in of_level}
        assert {tuple(cell) for cell in (level.centres == 1).nonzero().tolist()} == peaks
        assert sorted(
            (b, *cell) for b, cell in zip(level.picture.tolist(), level.cell.tolist(), strict=True)
        ) == sorted((p.b, *p.cell) for p in of_level)
    if changes:
        assert any(not torch.equal(a.centres, b.centres) for a, b in zip(ours, default, strict=True))


@pytest.mark.parametrize("changes", HEAT_MAPS[1::3], ids=lambda c: "-".join(f"{k}={v}" for k, v in c.items()))
def test_position_losses_are_those_of_the_drawn_maps(changes: dict[str, Any]) -> None:
    assert assert_losses(learner(**changes))["position_things"] != assert_losses(learner())["position_things"]


def test_a_centre_by_box_is_the_middle_of_the_box() -> None:
    net = learner(centre="box", level_ranges=((1.0, 2048.0),) * 5)
    target = batch()[1]
    box = torch.tensor([[100.0, 40.0, 148.0, 100.0]])  # far from the mask: row 70, column 124
    target = dataclasses.replace(
        target,
        masks=target.masks[:1],
        labels=target.labels[:1],
        crowd=target.crowd[:1],
        boxes_xyxy=box,
    )
    cells = [level.cell.tolist() for level in levels_of(net, [target])]
    assert cells == [[[int(70 / s), int(124 / s)]] for s in (8, 16, 32, 64, 128)]


# ---- how masks are learned


@pytest.mark.parametrize("k", [1, 3, 5, 7, 9])
def test_weighted_dice_is_the_loop_and_teaches_positions(k: int) -> None:
    assert_mask_loss_and_gradients(learner(positives=k))


@pytest.mark.parametrize("centre", ["mass", "box"])
def test_unweighted_dice_is_the_loop_and_leaves_positions_alone(centre: str) -> None:
    net = learner(weighted=False, centre=centre)
    assert_mask_loss_and_gradients(net)
    maps, targets = with_gradients(maps_of(1, batch=2)), batch()
    loss = net.loss(maps, targets)["mask_things"]
    assert torch.autograd.grad(loss, maps.centres, allow_unused=True) == (None,) * 5
    of_many = learner(weighted=False, positives=1).loss(maps, targets)["mask_things"]
    assert torch.equal(loss, of_many) == (centre == "mass")


def assert_mask_loss_and_gradients(net: PanopticFCN) -> None:
    """The things' mask loss, and its gradients to centres, kernels and feature."""
    maps, targets = with_gradients(maps_of(1, batch=2)), batch()
    exact = in_fp64(maps)
    ours, expected = net.loss(maps, targets)["mask_things"], plain.losses(net, exact, targets)["mask_things"]
    assert float(ours.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    learns = net.config.weighted and net.config.positives > 1  # a single weight over itself is always 1
    pairs = [(maps.feature, exact.feature), *zip(maps.kernels, exact.kernels, strict=True)]
    for mine, theirs in pairs:
        (a,) = torch.autograd.grad(ours, mine, retain_graph=True)
        (b,) = torch.autograd.grad(expected, theirs, retain_graph=True)
        assert b.any()
        torch.testing.assert_close(a.double(), b, rtol=1e-3, atol=1e-5 * float(b.abs().max()))
    for mine, theirs in zip(maps.centres, exact.centres, strict=True):
        (a,) = torch.autograd.grad(ours, mine, retain_graph=True, allow_unused=True)
        (b,) = torch.autograd.grad(expected, theirs, retain_graph=True, allow_unused=True)
        assert (b is not None and bool((b.abs() > 1e-9).any())) == learns
        if net.config.weighted:
            assert a is not None
            torch.testing.assert_close(a.double(), b, rtol=1e-3, atol=1e-7)


def test_the_thin_instance_has_no_positive_but_counts() -> None:
    """On P4 no cell sees more than a tenth of it: its loss there is 0, its share of the normaliser is not."""
    net, only = learner(), [target_of(shapes_of_a_picture()[2:3])]
    pairs = plain.pairs_of(net, only, CANVAS, SHAPES)
    assert [len(of_level) for of_level in pairs] == [1, 1, 0, 0, 0]
    maps = maps_of(2)
    first, second = (plain.thing_mask_loss(net, in_fp64(maps), pairs[i][0], i) for i in (0, 1))
    assert float(second) == 0
    ours = float(net.loss(maps, only)["mask_things"].detach())
    assert ours == pytest.approx(3 * float(first.detach()) / 2, rel=1e-5)
    unweighted = float(learner(weighted=False).loss(maps, only)["mask_things"].detach())
    assert unweighted > ours


def test_positives_lie_where_the_mask_is_above_a_tenth() -> None:
    """An eighth of a cell is enough for the best position of all, a sixteenth is not for a better one."""
    mask = torch.zeros(128, 256, dtype=torch.bool)
    mask[16:48, 32:64] = True
    mask[9, 81:83] = True  # half of what one stride-4 cell reads, an eighth of what the cell (1, 10) of P3 does
    mask[9, 97] = True  # a quarter, and a sixteenth of the cell (1, 12)
    net, only, maps = learner(positives=1), [target_of([(DISC, mask)])], maps_of(4)
    soft = plain.bilinear(plain.reduced(mask.double(), CANVAS), SHAPES[0])
    assert (float(soft[1, 10]), float(soft[1, 12])) == (0.125, 0.0625)
    maps.centres[0][0, 0, 1, 10], maps.centres[0][0, 0, 1, 12] = 6.0, 8.0
    kernel = net.thing_embedding(maps.kernels[0][0, :, 1, 10]).detach()
    p = torch.einsum("e,ehw->hw", kernel, maps.feature[0]).sigmoid().double()
    pairs = plain.pairs_of(net, only, CANVAS, SHAPES)
    expected = [plain.thing_mask_loss(net, in_fp64(maps), pair, i) for i in range(5) for pair in pairs[i]]
    assert float(expected[0].detach()) == pytest.approx(float(plain.dice(p, pairs[0][0].mask)), rel=1e-5)
    ours = float(net.loss(maps, only)["mask_things"].detach())
    assert ours == pytest.approx(3 * float(torch.stack(expected).mean().detach()), rel=1e-5)


def test_a_stored_centre_beside_the_map_is_clamped_inside() -> None:
    """A box at the picture's edge whose middle is the edge itself: one past the last cell."""
    net = learner(weighted=False, centre="box", level_ranges=((1.0, 2048.0),) * 5)
    edge = dataclasses.replace(batch()[0], boxes_xyxy=batch()[0].boxes_xyxy.clone())
    edge.boxes_xyxy[1] = torch.tensor([236.0, 100.0, 276.0, 156.0])  # middle: (128, 256), where the canvas ends
    assert levels_of(net, [edge])[0].cell[0].tolist() == [16, 32]
    maps = maps_of(3)
    expected = plain.losses(net, in_fp64(maps), [edge])["mask_things"]
    ours = net.loss(maps, [edge])["mask_things"]
    assert float(ours.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


# ---- weights and focal parameters


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"weighted": False},
        {"position_weight": 2.5},
        {"mask_weight": 1.0},
        {"focal_alpha": 0.5},
        {"focal_alpha": 0.1, "focal_gamma": 1.0},
        {"focal_gamma": 0.0},
        {"focal_gamma": 3.5},
        {"positives": 3, "mask_weight": 0.5, "position_weight": 0.25},
    ],
    ids=lambda c: "-".join(f"{k}={v}" for k, v in c.items()) or "default",
)
def test_all_losses_are_their_formulas(changes: dict[str, Any]) -> None:
    assert_losses(learner(**changes))


def test_a_weight_scales_its_own_two_losses_alone() -> None:
    base = assert_losses(learner())
    assert all(value > 0 for value in base.values())
    for key, factor, at_default in (("position", 4.0, 1.0), ("mask", 1.5, 3.0)):
        scaled = assert_losses(learner(**{f"{key}_weight": factor}))
        for name, value in scaled.items():
            assert value == pytest.approx(base[name] * (factor / at_default if name.startswith(key) else 1))


# ---- without a region of things


def test_without_some_thing_regions_are_learned_of_stuff_alone() -> None:
    net, targets = learner(region_has_thing=False), batch()
    with_thing = learner()
    maps = [plain.region_maps(net, target, CANVAS) for target in targets]
    assert [len(of_picture) for of_picture in maps] == [2, 2]
    ours = mask_targets(targets, CATEGORIES, CANVAS, net.target_settings).regions
    torch.testing.assert_close(ours.double(), torch.stack([torch.stack(m) for m in maps]), atol=1e-6, rtol=0)
    theirs = mask_targets(targets, CATEGORIES, CANVAS, with_thing.target_settings).regions
    torch.testing.assert_close(theirs[:, 1:], ours)
    thing = torch.stack([plain.region_maps(with_thing, target, CANVAS)[0] for target in targets])
    torch.testing.assert_close(theirs[:, 0].double(), thing, atol=1e-6, rtol=0)
    assert 0 < thing.mean() < 1
    assert net.position_head.regions.weight.shape[0] == 2
    assert with_thing.position_head.regions.weight.shape[0] == 3
    assert_losses(net, regions=2)
