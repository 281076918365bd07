"""What is Panoptic FCN's own: its losses on given maps, unlabelled pixels, categories, presets and settings."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from models_contract import CATEGORIES, panoptic, scene, target
from thingstuff.config import changed
from thingstuff.errors import InputError
from thingstuff.losses import dice_loss, sigmoid_focal_loss
from thingstuff.models import MODELS
from thingstuff.models.panoptic_fcn import PanopticFCN, PanopticFCNConfig, PanopticFCNOutput, positive_kernels
from thingstuff.models.panoptic_fcn_targets import level_targets, mask_targets
from thingstuff.panoptic import VOID
from thingstuff.structures import Images, Target

SMALL: dict[str, Any] = {
    "preprocess.short_side": 64,
    "preprocess.max_side": 128,
    "backbone.weights": "none",
    "backbone.stem_channels": 8,
    "backbone.res2_channels": 16,
    "backbone.bottleneck_width": 4,
    "fpn_channels": 16,
    "semantic_channels": 32,
    "position_channels": 64,
    "kernel_channels": 64,
    "encoder_channels": 8,
}
SHAPES = ((16, 16), (8, 8), (4, 4), (2, 2), (1, 1))
CANVAS = (128, 128)


def model(**changes: Any) -> PanopticFCN:
    torch.manual_seed(0)
    return PanopticFCN(changed(PanopticFCNConfig(), {**SMALL, **changes}), CATEGORIES).eval()


def output(batch: int = 1, regions: int = 3, seed: int = 0) -> PanopticFCNOutput:
    """Random maps for a canvas of 128 x 128."""
    random = torch.Generator().manual_seed(seed)
    return PanopticFCNOutput(
        centres=tuple(torch.randn(batch, 2, *shape, generator=random) for shape in SHAPES),
        regions=tuple(torch.randn(batch, regions, *shape, generator=random) for shape in SHAPES),
        kernels=tuple(torch.randn(batch, 64, *shape, generator=random) for shape in SHAPES),
        feature=torch.rand(batch, 8, 32, 32, generator=random),
    )


def halves(right_unlabelled: bool = True, crowd: bool = False) -> Target:
    """A picture of 128 x 128: on the left sky, ground and a disc (or a crowd of discs), on the right nothing."""
    labels = np.full((128, 128), 2)
    labels[:64, :] = 0
    labels[32:96, 16:48] = 1
    whole = target(panoptic(labels), crowd=(1,) if crowd else ())
    if not right_unlabelled:
        return whole
    masks = whole.masks.clone()
    masks[:, :, 64:] = False
    return dataclasses.replace(whole, masks=masks, unlabelled=~masks.any(0))


def losses(net: PanopticFCN, maps: PanopticFCNOutput, *targets: Target) -> dict[str, float]:
    return {key: float(value.detach()) for key, value in net.loss(maps, targets).items()}


# ---- losses


def test_the_four_losses_are_their_formulas() -> None:
    net, maps = model(unlabelled="negative", positives=3), output(2, seed=1)
    targets = [halves(), halves(right_unlabelled=False)]
    masks = mask_targets(targets, CATEGORIES, CANVAS, net.target_settings)
    levels = level_targets(masks, SHAPES, CANVAS, net.target_settings)
    pairs = sum(len(level.picture) for level in levels)
    centres = sum(sigmoid_focal_loss(c, t.centres).sum() for c, t in zip(maps.centres, levels, strict=True))
    regions = sum(
        sigmoid_focal_loss(r, t.regions).mean((2, 3)).sum() for r, t in zip(maps.regions, levels, strict=True)
    )
    things, stuff = [], []
    for i, level in enumerate(levels):
        for b, n, label in zip(level.picture.tolist(), level.instance.tolist(), level.label.tolist(), strict=True):
            things.append(thing_loss(net, maps, masks.things[b][n], i, b, label))
        for b in range(2):
            for r in range(3):
                if (level.regions[b, r] > 0).any():
                    kernel = (maps.kernels[i][b] * (level.regions[b, r] > 0)).mean((1, 2))
                    mask = torch.einsum("e,ehw->hw", net.stuff_embedding(kernel), maps.feature[b]).sigmoid()
                    stuff.append(dice_loss(mask.flatten(), masks.regions[b, r].flatten()))
    ours = losses(net, maps, *targets)
    assert pairs == len(things) > 3
    assert ours["position_things"] == pytest.approx(float(centres) / pairs, rel=1e-5)
    assert ours["position_stuff"] == pytest.approx(float(regions) / 2, rel=1e-5)
    assert ours["mask_things"] == pytest.approx(3 * float(torch.stack(things).sum().detach()) / pairs, rel=1e-5)
    assert ours["mask_stuff"] == pytest.approx(3 * float(torch.stack(stuff).mean().detach()), rel=1e-5)


def thing_loss(net: PanopticFCN, maps: PanopticFCNOutput, truth: Tensor, level: int, b: int, label: int) -> Tensor:
    """One pair's weighted DICE, its positions sought one by one."""
    height, width = SHAPES[level]
    inside = torch.nn.functional.interpolate(truth[None, None], (height, width), mode="bilinear")[0, 0] > 0.1
    p = maps.centres[level][b, label].sigmoid()
    cells = [(float(p[y, x] * inside[y, x]), y, x) for y in range(height) for x in range(width)]
    best = sorted(cells, reverse=True)[:3]
    weighted = torch.zeros(())
    for weight, y, x in best:
        kernel = net.thing_embedding(maps.kernels[level][b, :, y, x])
        mask = torch.einsum("e,ehw->hw", kernel, maps.feature[b]).sigmoid()
        weighted = weighted + weight * dice_loss(mask.flatten(), truth.flatten())
    return weighted / sum(weight for weight, _, _ in best)


def test_weights_scale_their_losses() -> None:
    plain = losses(model(), output(), halves())
    scaled = losses(model(position_weight=2.0, mask_weight=0.5), output(), halves())
    assert all(value > 0 for value in plain.values())
    for key, value in scaled.items():
        assert value == pytest.approx(plain[key] * (2.0 if key.startswith("position") else 0.5 / 3.0))


def test_positions_are_as_many_as_a_level_has_cells_at_most() -> None:
    net, maps = model(positives=7), output()
    masks = mask_targets([halves()], CATEGORIES, CANVAS, net.target_settings)
    for i, level in enumerate(level_targets(masks, SHAPES, CANVAS, net.target_settings)):
        values, vectors = positive_kernels(maps.centres[i], maps.kernels[i], masks, level, 7)
        k = min(7, SHAPES[i][0] * SHAPES[i][1])
        assert values.shape == (len(level.picture), k)
        assert vectors.shape == (len(level.picture), k, 64)


# ---- what is not labelled


def test_ignored_pixels_have_no_say() -> None:
    """With the right half unlabelled, nothing that a map says there changes a loss; as negatives it does."""
    maps = output()
    noise = output(seed=5)
    right = PanopticFCNOutput(
        centres=tuple(right_replaced(a, b) for a, b in zip(maps.centres, noise.centres, strict=True)),
        regions=tuple(right_replaced(a, b) for a, b in zip(maps.regions, noise.regions, strict=True)),
        kernels=tuple(right_replaced(a, b) for a, b in zip(maps.kernels, noise.kernels, strict=True)),
        feature=right_replaced(maps.feature, 3 * noise.feature),
    )
    ignored, negative = model(), model(unlabelled="negative")
    assert losses(ignored, maps, halves()) == pytest.approx(losses(ignored, right, halves()), rel=1e-6)
    before, after = losses(negative, maps, halves()), losses(negative, right, halves())
    assert all(before[key] != pytest.approx(after[key], rel=1e-3) for key in before)


def right_replaced(maps: Tensor, other: Tensor) -> Tensor:
    result, half = maps.clone(), maps.shape[-1] // 2
    if half:
        result[..., half:] = other[..., half:]
    return result


def test_ignored_position_losses_are_those_of_the_labelled_half() -> None:
    """The right half is left out of the sums, and of the areas that region losses are means over."""
    net, maps, picture = model(), output(), halves()
    masks = mask_targets([picture], CATEGORIES, CANVAS, net.target_settings)
    levels = level_targets(masks, SHAPES, CANVAS, net.target_settings)
    things, stuff = 0.0, 0.0
    for i, level in enumerate(levels[:4]):
        half = SHAPES[i][1] // 2
        things += float(sigmoid_focal_loss(maps.centres[i], level.centres)[..., :half].sum())
        stuff += float(sigmoid_focal_loss(maps.regions[i], level.regions)[..., :half].mean((2, 3)).sum())
    assert not levels[4].valid.any()  # the one cell of the last level is half unlabelled
    ours = losses(net, maps, picture)
    assert ours["position_things"] == pytest.approx(things / sum(len(level.picture) for level in levels), rel=1e-5)
    assert ours["position_stuff"] == pytest.approx(stuff, rel=1e-5)


def test_a_crowd_has_no_say_about_the_centres_of_its_class() -> None:
    picture = halves(right_unlabelled=False, crowd=True)
    maps = output()
    for label, heard in ((0, False), (1, True)):  # disc and box
        centres = tuple(c.clone() for c in maps.centres)
        centres[0][0, label, 4:12, 2:6] += 3.0
        other = dataclasses.replace(maps, centres=centres)
        before, after = losses(model(), maps, picture), losses(model(), other, picture)
        assert (before["position_things"] != pytest.approx(after["position_things"], rel=1e-6)) == heard
        as_negative = losses(model(unlabelled="negative"), other, picture)
        assert as_negative["position_things"] > losses(model(unlabelled="negative"), maps, picture)["position_things"]


def test_fully_labelled_pictures_are_the_same_either_way() -> None:
    picture, maps = halves(right_unlabelled=False), output()
    assert losses(model(), maps, picture) == losses(model(unlabelled="negative"), maps, picture)


# ---- predicting


def test_a_batch_gives_each_picture_its_own_segments() -> None:
    net = model()
    pictures = [scene(128, 128)[0], scene(128, 128, 9)[0]]
    images = net.pad(pictures)
    maps = output(2)
    together = net.segments(maps, images)
    for b in range(2):
        own = PanopticFCNOutput(*(tuple(m[b : b + 1] for m in part) for part in heads(maps)), maps.feature[b : b + 1])
        (alone,) = net.segments(
            own, Images(images.pixels[b : b + 1], images.sizes[b : b + 1], images.original[b : b + 1])
        )
        assert len(alone) > 3
        assert together[b].labels.tolist() == alone.labels.tolist()
        torch.testing.assert_close(together[b].masks, alone.masks)


def heads(maps: PanopticFCNOutput) -> tuple[tuple[Tensor, ...], ...]:
    return maps.centres, maps.regions, maps.kernels


def test_segments_are_things_by_falling_score_then_stuff_by_label() -> None:
    net = model()
    (found,) = net.segments(output(), net.pad([scene(128, 128)[0]]))
    labels = found.labels.tolist()
    things = [label for label in labels if label in CATEGORIES.thing_labels]
    assert things == labels[: len(things)]
    assert labels[len(things) :] == sorted(labels[len(things) :])
    assert labels[len(things)] == VOID
    assert set(things) == {1, 3}
    scores = found.scores[: len(things)]
    assert (scores[:-1] >= scores[1:]).all()
    assert found.masks.shape[1:] == (32, 32)
    assert found.masks.min() >= 0
    assert found.masks.max() <= 1


def test_without_a_thing_region_stuff_is_all_there_is_to_regions() -> None:
    net = model(region_has_thing=False)
    assert net.position_head.regions.out_channels == 2
    (found,) = net.segments(output(regions=2), net.pad([scene(128, 128)[0]]))
    assert VOID not in found.labels.tolist()
    assert losses(net, output(regions=2), halves())["position_stuff"] > 0


def test_thresholds_and_limits_do_what_they_say() -> None:
    images = model().pad([scene(128, 128)[0]])

    def found(**changes: Any) -> Any:
        return model(**changes).segments(output(), images)[0]

    every = found()
    things = int(sum(label in CATEGORIES.thing_labels for label in every.labels.tolist()))
    assert len(found(candidates=6)) == 6 + len(every) - things
    assert len(found(rescored_threshold=0.3)) < len(every)
    assert VOID not in found(stuff_threshold=0.999).labels.tolist()
    assert not set(found(thing_threshold=0.999).labels.tolist()) & set(CATEGORIES.thing_labels)
    assert len(found(similarity=0.2)) < len(every)
    assert len(found(similarity=0.2, class_aware=False)) < len(found(similarity=0.2))


def test_the_stuff_area_follows_the_size_of_the_picture() -> None:
    small, large = scene(48, 64)[0], scene(480, 640)[0]
    relative, absolute = model(), model(stuff_area_relative=False)
    flat = torch.zeros(1, 32, 32)
    flat[0, :2] = 0.9  # a sixteenth: 192 of 3072 pixels, 19200 of 307200
    kept = {}
    for name, net in (("relative", relative), ("absolute", absolute)):
        for size, picture in (("small", small), ("large", large)):
            segments = net.segments(output(), net.pad([np.zeros((128, 128, 3), np.uint8)], [picture.shape[:2]]))[0]
            one = dataclasses.replace(segments.pick([len(segments) - 1]), masks=flat)
            kept[name, size] = len(net.merge(one).segments)
    assert kept == {
        ("relative", "small"): 1,
        ("relative", "large"): 1,
        ("absolute", "small"): 0,
        ("absolute", "large"): 1,
    }


# ---- settings


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"unlabelled": "maybe"}, "unlabelled"),
        ({"positives": 0}, "positives"),
        ({"position_convs": 9}, "position_convs"),
        ({"encoder_chanels": 8}, "encoder_channels"),
        ({"backbone.norm": "layer"}, "backbone.norm"),
    ],
)
def test_a_wrong_setting_is_named(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(InputError, match=key):
        changed(PanopticFCNConfig(), changes)


def test_presets_are_what_their_names_say() -> None:
    depths = {
        name: config.backbone.depth for name, (config, _) in MODELS.items() if isinstance(config, PanopticFCNConfig)
    }
    assert depths == {"panoptic-fcn-r50": 50, "panoptic-fcn-r101": 101, "panoptic-fcn-r18": 18, "panoptic-fcn-tiny": 18}
    paper = MODELS["panoptic-fcn-r50"][0]
    assert isinstance(paper, PanopticFCNConfig)
    assert (paper.positives, paper.encoder_channels, paper.position_deformable) == (7, 64, True)


def test_parts_are_switched_by_their_settings() -> None:
    names = {name for name, _ in model(position_deformable=False, encoder_deformable=True).named_parameters()}
    assert not any("position_head" in name and "offset" in name for name in names)
    assert "feature_encoder.blocks.0.conv.offset.weight" in names
    plain = model(kernel_coordinates=False, encoder_coordinates=False)
    assert plain.kernel_head.blocks[0].conv.in_channels == 16
    assert plain.feature_encoder.blocks[0].conv.in_channels == 32
    assert model().kernel_head.blocks[0].conv.in_channels == 18
