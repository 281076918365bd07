"""Panoptic FCN's targets against slow loops over cells, and by hand."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from panoptic_fcn_plain import crafted_picture, plain_targets
from thingstuff.boxes import boxes_of_masks
from thingstuff.models.panoptic_fcn_targets import (
    TargetSettings,
    gaussian_maps,
    gaussian_radius,
    level_targets,
    mask_targets,
    mass_centres,
    reduced,
    to_level,
)
from thingstuff.panoptic import Categories
from thingstuff.structures import Target

CATEGORIES = Categories(("sky", "disc", "ground", "box"), (False, True, False, True), (3, 7, 11, 12))
SKY, DISC, GROUND, BOX = range(4)
CANVAS = (128, 160)
SHAPES = ((16, 20), (8, 10), (4, 5), (2, 3), (1, 2))
AUTHORS, IGNORED = TargetSettings(), TargetSettings(ignore_unlabelled=True)


def target(rectangles: list[tuple[int, int, int, int, int]], crowd: tuple[int, ...] = ()) -> Target:
    """A picture of 120 x 150 with (label, x0, y0, x1, y1) rectangles; the rest is unlabelled."""
    masks = torch.zeros(len(rectangles), 120, 150, dtype=torch.bool)
    for mask, (_, x0, y0, x1, y1) in zip(masks, rectangles, strict=True):
        mask[y0:y1, x0:x1] = True
    return Target(
        masks=masks,
        labels=torch.tensor([label for label, *_ in rectangles], dtype=torch.long),
        boxes_xyxy=boxes_of_masks(masks),
        crowd=torch.tensor([i in crowd for i in range(len(rectangles))], dtype=torch.bool),
        unlabelled=~masks.any(0),
    )


SCENE = target([(SKY, 0, 0, 150, 60), (DISC, 20, 62, 60, 102), (BOX, 80, 64, 92, 76), (DISC, 100, 70, 150, 120)])


# ---- single functions


def test_gaussians_are_the_formula_cell_by_cell() -> None:
    cells, radii = torch.tensor([[3, 4], [0, 0], [7, 2]]), torch.tensor([2, 0, 5])
    maps = gaussian_maps(cells, radii, (8, 10))
    for (row, column), r, drawn in zip(cells.tolist(), radii.tolist(), maps, strict=True):
        sigma = (2 * r + 1) / 3
        for y in range(8):
            for x in range(10):
                near = abs(y - row) <= r and abs(x - column) <= r
                expected = math.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * sigma**2)) if near else 0.0
                assert float(drawn[y, x]) == pytest.approx(expected, abs=1e-6)
        assert drawn[row, column] == 1


def test_a_gaussian_beside_the_map_is_cut_off() -> None:
    drawn = gaussian_maps(torch.tensor([[8, 5]]), torch.tensor([2]), (8, 10))  # one row past the last
    assert float(drawn[0, 7, 5]) == pytest.approx(math.exp(-1 / (2 * (5 / 3) ** 2)))
    assert not drawn[0, :6].any()


@pytest.mark.parametrize(("height", "width"), [(10.0, 10.0), (3.0, 40.0), (0.5, 0.25), (300.0, 200.0)])
def test_gaussian_radius_is_the_least_of_three_roots(height: float, width: float) -> None:
    total, area, m = height + width, height * width, 0.7
    roots = []
    for a, b, c in ((1, total, area * 0.3 / 1.7), (4, 2 * total, 0.3 * area), (4 * m, -2 * m * total, -0.3 * area)):
        roots.append((b + math.sqrt(max(b * b - 4 * a * c, 0.0))) / 2)  # as released: without the division by a
    radius = float(gaussian_radius(torch.tensor([[height, width]]), m)[0])
    assert radius == pytest.approx(max(min(roots), 0.0), rel=1e-5)


def test_mass_centres_are_means_of_cells_whatever_their_value() -> None:
    masks = torch.zeros(3, 4, 6)
    masks[0, 1, 2], masks[0, 3, 5] = 1.0, 0.01
    masks[1, 2, :] = 0.5
    assert mass_centres(masks).tolist() == [[2.0, 3.5], [2.0, 2.5], [0.0, 0.0]]
    assert mass_centres(masks[:0]).shape == (0, 2)


def test_reducing_rounds_half_up_and_pads_at_the_right_and_bottom() -> None:
    mask = torch.ones(1, 22, 29)  # 5.5 and 7.25 cells
    small = reduced(mask, (32, 64))
    assert small.shape == (1, 8, 16)
    assert small[0, :6, :7].min() == 1
    assert small[0].sum() == 6 * 7
    assert reduced(mask[:0], (32, 64)).shape == (0, 8, 16)


def test_reducing_is_bilinear_without_antialias() -> None:
    mask = torch.rand(2, 20, 24, generator=torch.Generator().manual_seed(0))
    small = reduced(mask, (32, 32))
    middle = (mask[:, 1::4, 1::4] + mask[:, 2::4, 1::4] + mask[:, 1::4, 2::4] + mask[:, 2::4, 2::4]) / 4
    torch.testing.assert_close(small[:, :5, :6], middle)


# ---- masks and regions of pictures


def regions_at_full_size(picture: Target, has_thing: bool) -> Tensor:
    """Region maps pixel by pixel."""
    maps = torch.zeros(3, 120, 150)
    for y in range(120):
        for x in range(150):
            labels = {int(label) for label, mask in zip(picture.labels, picture.masks, strict=True) if mask[y, x]}
            if labels & {SKY, GROUND}:
                maps[1, y, x], maps[2, y, x] = SKY in labels, GROUND in labels
            else:
                maps[0, y, x] = bool(labels)
    return maps if has_thing else maps[1:]


@pytest.mark.parametrize("has_thing", [True, False])
def test_regions_are_stuff_and_some_thing(has_thing: bool) -> None:
    picture = dataclasses.replace(SCENE, crowd=torch.tensor([False, False, False, True]))
    found = mask_targets([picture], CATEGORIES, CANVAS, TargetSettings(region_has_thing=has_thing))
    expected = reduced(regions_at_full_size(picture, has_thing), CANVAS)
    torch.testing.assert_close(found.regions[0], expected)
    assert found.regions[0].flatten(1).any(1).tolist() == ([True, True, False] if has_thing else [True, False])


def test_crowds_are_no_instances() -> None:
    picture = target([(DISC, 0, 0, 40, 40), (BOX, 40, 0, 80, 40), (DISC, 80, 0, 120, 40)], crowd=(0,))
    found = mask_targets([picture, SCENE], CATEGORIES, CANVAS, IGNORED)
    assert [labels.tolist() for labels in found.labels] == [[1, 0], [0, 1, 0]]  # box, disc; disc, box, disc
    assert torch.equal(found.boxes_xyxy[0], picture.boxes_xyxy[1:])
    torch.testing.assert_close(found.things[0], reduced(picture.masks[1:].float(), CANVAS))
    assert found.crowds.shape == (2, 2, 32, 40)
    torch.testing.assert_close(found.crowds[0, :1], reduced(picture.masks[:1].float(), CANVAS))
    assert not found.crowds[0, 1].any()
    assert not found.crowds[1].any()


def test_unlabelled_cells_count_unless_they_are_ignored() -> None:
    ignored = mask_targets([SCENE], CATEGORIES, CANVAS, IGNORED)
    negative = mask_targets([SCENE], CATEGORIES, CANVAS, AUTHORS)
    assert negative.valid.min() == 1
    torch.testing.assert_close(ignored.valid[0], 1 - reduced(SCENE.unlabelled[None].float(), CANVAS)[0])
    assert 0 < ignored.valid.mean() < 1
    assert ignored.valid[0, 30:].min() == 1  # padding is known to hold nothing


# ---- levels


@pytest.mark.parametrize(
    ("side", "levels"),
    [(0.5, []), (1, [0]), (31.9, [0]), (32, [0, 1]), (64, [0, 1, 2]), (64.1, [1, 2]), (128, [1, 2, 3]), (300, [3, 4])],
)
def test_an_instance_goes_to_the_levels_whose_closed_range_holds_its_size(side: float, levels: list[int]) -> None:
    picture = target([(DISC, 10, 10, 50, 50)])
    picture = dataclasses.replace(picture, boxes_xyxy=torch.tensor([[0.0, 0.0, side, side]]))
    masks = mask_targets([picture], CATEGORIES, CANVAS, AUTHORS)
    found = level_targets(masks, SHAPES, CANVAS, AUTHORS)
    assert [i for i, level in enumerate(found) if len(level.picture)] == levels
    assert [i for i, level in enumerate(found) if level.centres.any()] == levels


@pytest.mark.parametrize("settings", [AUTHORS, IGNORED])
def test_levels_are_the_slow_loop(settings: TargetSettings) -> None:
    batch = [SCENE, target([(BOX, 3, 4, 140, 110), (DISC, 4, 90, 10, 96)])]
    masks = mask_targets(batch, CATEGORIES, CANVAS, settings)
    for shape, (low, high), level in zip(
        SHAPES, settings.level_ranges, level_targets(masks, SHAPES, CANVAS, settings), strict=True
    ):
        drawn, pairs = torch.zeros(2, 2, *shape), []
        for b in range(2):
            for i, (mask, label) in enumerate(zip(masks.things[b], masks.labels[b].tolist(), strict=True)):
                x0, y0, x1, y1 = masks.boxes_xyxy[b][i].tolist()
                if not low <= math.sqrt((x1 - x0) * (y1 - y0)) <= high:
                    continue
                cells = [(y, x) for y in range(32) for x in range(40) if mask[y, x] > 0]
                mean = [sum(c[axis] for c in cells) / len(cells) for axis in (0, 1)]
                row, column = (int(mean[axis] * shape[axis] / (32, 40)[axis]) for axis in (0, 1))
                size = torch.tensor([[(y1 - y0) * shape[0] / 128, (x1 - x0) * shape[1] / 160]])
                r = int(gaussian_radius(size, 0.7)[0])
                gaussian = gaussian_maps(torch.tensor([[row, column]]), torch.tensor([r]), shape)[0]
                drawn[b, label] = drawn[b, label].maximum(gaussian)
                pairs.append((b, i, label, row, column))
        torch.testing.assert_close(level.centres, drawn)
        ours = zip(
            level.picture.tolist(), level.instance.tolist(), level.label.tolist(), *level.cell.T.tolist(), strict=True
        )
        assert list(ours) == pairs


def test_regions_stay_soft_from_one_half_on() -> None:
    masks = mask_targets([SCENE], CATEGORIES, CANVAS, AUTHORS)
    seen = set()
    for shape, level in zip(SHAPES, level_targets(masks, SHAPES, CANVAS, AUTHORS), strict=True):
        soft = F.interpolate(masks.regions, shape, mode="bilinear", align_corners=False)
        expected = torch.where(soft >= 0.5, soft, torch.zeros_like(soft))
        torch.testing.assert_close(level.regions, expected)
        seen |= {"soft"} if ((level.regions > 0) & (level.regions < 1)).any() else set()
        seen |= {"cut"} if ((soft > 0) & (soft < 0.5)).any() else set()
    assert seen == {"soft", "cut"}


def test_a_crowd_is_left_out_for_its_own_class_alone() -> None:
    picture = target([(DISC, 0, 0, 64, 64), (SKY, 64, 0, 150, 120)], crowd=(0,))
    for settings, left_out in ((IGNORED, True), (AUTHORS, False)):
        level = level_targets(mask_targets([picture], CATEGORIES, CANVAS, settings), SHAPES, CANVAS, settings)[0]
        assert level.valid_centres[0, 0, :8, :8].any() != left_out
        assert level.valid_centres[0, 1, :8, :8].all()
        assert level.valid[0, :8, :8].all()
        assert level.valid[0, 9:15, :7].any() != left_out  # below the crowd nothing is labelled
        assert not level.centres.any()


def test_pictures_without_things_stand_beside_others() -> None:
    empty = target([])
    masks = mask_targets([empty, SCENE, empty], CATEGORIES, CANVAS, AUTHORS)
    levels = level_targets(masks, SHAPES, CANVAS, AUTHORS)
    assert [len(things) for things in masks.things] == [0, 3, 0]
    assert all((level.picture == 1).all() for level in levels)
    assert not any(level.centres[[0, 2]].any() for level in levels)
    for only in level_targets(mask_targets([empty], CATEGORIES, CANVAS, AUTHORS), SHAPES, CANVAS, AUTHORS):
        assert len(only.picture) == 0
        assert only.centres.shape == (1, 2, *only.regions.shape[2:])


def test_a_mask_that_vanishes_is_centred_at_the_first_cell() -> None:
    picture = target([(DISC, 40, 40, 80, 80)])
    picture.masks.zero_()
    picture.masks[0, 40, 40] = True  # between the pixels that stride 4 looks at
    level = level_targets(mask_targets([picture], CATEGORIES, CANVAS, AUTHORS), SHAPES, CANVAS, AUTHORS)[0]
    assert level.cell.tolist() == [[0, 0]]
    assert level.centres[0, 0, 0, 0] == 1


def test_maps_go_to_a_level_and_nothing_stays_nothing() -> None:
    maps = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(to_level(maps, (4, 4)), F.interpolate(maps, (4, 4), mode="bilinear"))
    assert to_level(maps[:, :0], (4, 4)).shape == (2, 0, 4, 4)


def test_targets_are_the_plain_formula_s() -> None:
    torch.manual_seed(0)
    pictures = [crafted_picture((120, 150), count, 2, (2, 3)) for count in (9, 14)]
    batch = []
    for picture in pictures:
        stuff = torch.stack([picture.regions == c for c in (1, 2)])
        labels = torch.cat([torch.tensor([DISC, BOX])[picture.classes], torch.tensor([SKY, GROUND])])
        boxes, crowd = torch.cat([picture.boxes, torch.zeros(2, 4)]), torch.zeros(len(labels), dtype=torch.bool)
        batch.append(Target(torch.cat([picture.masks, stuff]), labels, boxes, crowd, picture.regions == 255))
    masks = mask_targets(batch, CATEGORIES, CANVAS, AUTHORS)
    levels = level_targets(masks, SHAPES, CANVAS, AUTHORS)
    for b, expected in enumerate(plain_targets(pictures, CANVAS, SHAPES, 2, 3)):
        for level, plain in zip(levels, expected, strict=True):
            mine = level.picture == b
            assert level.label[mine].tolist() == plain.classes
            assert level.cell[mine].tolist() == [list(cell) for cell in plain.cells]
            torch.testing.assert_close(level.centres[b], plain.centres)
            torch.testing.assert_close(level.regions[b], plain.regions)
            torch.testing.assert_close(masks.things[b][level.instance[mine]], plain.masks[: len(plain.classes)])
            torch.testing.assert_close(masks.regions[b, plain.present], plain.stuff_masks)
    assert sum(len(level.picture) for level in levels) > 10


def test_two_crowds_of_a_class_and_two_masks_of_a_stuff_are_united() -> None:
    picture = target(
        [(DISC, 0, 0, 40, 40), (DISC, 20, 20, 80, 60), (SKY, 0, 80, 50, 120), (SKY, 90, 80, 150, 120)], (0, 1)
    )
    found = mask_targets([picture], CATEGORIES, CANVAS, IGNORED)
    torch.testing.assert_close(found.crowds[0, :1], reduced(picture.masks[:2].any(0, keepdim=True), CANVAS))
    torch.testing.assert_close(found.regions[0, 1:2], reduced(picture.masks[2:].any(0, keepdim=True), CANVAS))
    assert found.present.tolist() == [[True, True, False]]
    assert found.crowded.tolist() == [[True, False]]


def test_gaussians_of_one_map_are_its_maximum() -> None:
    cells, radii, rows = torch.tensor([[3, 4], [4, 6], [7, 2]]), torch.tensor([2, 3, 5]), torch.tensor([1, 1, 2])
    single = gaussian_maps(cells, radii, (8, 10))
    drawn = gaussian_maps(cells, radii, (8, 10), rows=rows, count=4)
    assert torch.equal(drawn, torch.stack([torch.zeros(8, 10), single[:2].amax(0), single[2], torch.zeros(8, 10)]))
