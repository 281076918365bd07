"""Every switch of Panoptic FCN's way from maps to segments and their merge against slow loops (`switches_plain`)."""

import dataclasses
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import switches_plain as plain
from models_contract import CATEGORIES, assert_same_map, scene, target
from stuff_probabilities import semantic_probabilities
from switches_models import FRAME, SHAPES, assert_found, canvas, maps_of, model, noise, things_in
from thingstuff.models.panoptic_fcn import PanopticFCN, PanopticFCNOutput
from thingstuff.panoptic import VOID
from thingstuff.structures import Images, Segments


@pytest.fixture(autouse=True)
def _as_predictions_run() -> Iterator[None]:
    with torch.no_grad():
        yield


# ---- fusing and suppressing


def crafted(seed: int = 0) -> PanopticFCNOutput:
    """Objects A (seen by three levels), B that overlaps A, C of the other class on A, with A's kernel, and D apart."""
    random = torch.Generator().manual_seed(seed)
    feature = torch.full((1, 8, 32, 64), -1.0)
    for channel, (y0, x0, y1, x1) in enumerate([(4, 4, 28, 24), (4, 14, 28, 34), (5, 44, 20, 60)]):
        feature[0, channel, y0:y1, x0:x1] = 1.0
    feature += 0.05 * torch.randn(feature.shape, generator=random)
    centres = [torch.full((1, 2, *shape), -6.0) for shape in SHAPES]
    kernels = [0.1 * torch.randn(1, 32, *shape, generator=random) for shape in SHAPES]
    A, B, D = range(3)
    for level, label, y, x, logit, thing in [
        (0, 0, 8, 7, 3.0, A),
        (1, 0, 4, 3, 2.5, A),
        (2, 0, 2, 1, 2.0, A),
        (0, 0, 8, 12, 2.4, B),
        (1, 0, 4, 6, 1.6, B),
        (1, 1, 5, 9, 2.2, A),
        (2, 0, 1, 6, 2.6, D),
    ]:
        centres[level][0, label, y, x] = logit
        kernels[level][0, thing, y, x] += 3.0
    regions = tuple(torch.randn(1, 3, *shape, generator=random) for shape in SHAPES)
    return PanopticFCNOutput(tuple(centres), regions, tuple(kernels), feature)


def read_out(net: PanopticFCN) -> PanopticFCN:
    """Let the first kernel channels be the embedded kernel's, nearly."""
    net.thing_embedding.weight.copy_(torch.eye(8, 32) + 0.01 * noise(8, 32))
    net.thing_embedding.bias.zero_()
    return net


@pytest.mark.parametrize("class_aware", [True, False])
def test_fusion_and_nms_in_all_combinations_are_the_slow_loops(class_aware: bool) -> None:
    seen = {}
    for fusion in (True, False):
        for nms in (True, False):
            net = read_out(model(kernel_fusion=fusion, nms=nms, class_aware=class_aware, rescored_threshold=0.02))
            (found,) = net.segments(crafted(), canvas())
            assert_found(found, plain.segments(net, [crafted()]))
            seen[fusion, nms] = found.scores[: things_in(found)].tolist()
    fused = 4 if class_aware else 3  # A, B, D, and C where it is not A
    assert [len(seen[True, nms]) for nms in (True, False)] == [fused, fused]
    assert len(seen[False, False]) == 7
    assert fused <= len(seen[False, True]) <= 7
    assert sum(seen[True, True]) < sum(seen[True, False]) - 0.1  # B decays beside A


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("fusion", [True, False])
@pytest.mark.parametrize("nms", [True, False])
def test_fusion_and_nms_of_many_random_candidates(seed: int, fusion: bool, nms: bool) -> None:
    net = model(kernel_fusion=fusion, nms=nms, similarity=0.7)
    maps = dataclasses.replace(maps_of(seed), feature=noise(1, 8, 32, 64, seed=seed))
    (found,) = net.segments(maps, canvas())
    assert things_in(found) > 15
    assert_found(found, plain.segments(net, [maps]))


def near_duplicates(spread: float, exact: bool) -> PanopticFCNOutput:
    """Isolated peaks whose kernels lie around four vectors; with `exact` every second one is such a vector."""
    maps, random = maps_of(), torch.Generator().manual_seed(3)
    families = torch.randn(4, 32, generator=random)
    centres = [torch.full((1, 2, *shape), -8.0) for shape in SHAPES]
    kernels = [torch.zeros(1, 32, *shape) for shape in SHAPES]
    for level, (h, w) in enumerate(SHAPES[:3]):
        for number, (y, x) in enumerate((y, x) for y in range(1, h, 3) for x in range(1, w, 3)):
            family = int(torch.randint(4, (), generator=random))
            shift = spread * (0.2 + torch.rand((), generator=random)) * torch.randn(32, generator=random)
            kernels[level][0, :, y, x] = families[family] + (shift if not exact or number % 2 else 0)
            centres[level][0, int(torch.randint(2, (), generator=random)), y, x] = torch.randn((), generator=random)
    feature = noise(1, 8, 32, 64, seed=4)
    return PanopticFCNOutput(tuple(centres), maps.regions, tuple(kernels), feature)


@cache
def counts(class_aware: bool) -> dict[float, int]:
    """Things left by each threshold; every one is compared with the slow loop on the way."""
    result = {}
    for similarity in (0.80, 0.85, 0.90, 0.95, 1.00):
        maps = near_duplicates(0.5, exact=similarity == 1.00)
        net = model(similarity=similarity, class_aware=class_aware, rescored_threshold=0.0, position_deformable=False)
        (found,) = net.segments(maps, canvas())
        expected = plain.segments(net, [maps])
        assert things_in(found) == sum(label in CATEGORIES.thing_labels for label, _, _ in expected), similarity
        assert_found(found, expected)
        result[similarity] = things_in(found)
    return result


@pytest.mark.parametrize("class_aware", [True, False])
def test_cosines_from_the_threshold_on_are_fused(class_aware: bool) -> None:
    left = counts(class_aware)
    steps = [left[similarity] for similarity in (0.80, 0.85, 0.90, 0.95)]
    assert steps == sorted(steps)
    assert len(set(steps)) > 2
    assert left[0.80] < left[1.00]
    if class_aware:
        assert all(counts(False)[similarity] < left[similarity] for similarity in left)


def test_a_threshold_of_one_fuses_identical_kernels_alone() -> None:
    maps = near_duplicates(0.02, exact=True)
    net = model(similarity=1.0, rescored_threshold=0.0)
    (found,) = net.segments(maps, canvas())
    assert_found(found, plain.segments(net, [maps]))
    everything = things_in(model(kernel_fusion=False, rescored_threshold=0.0).segments(maps, canvas())[0])
    assert 8 < things_in(found) < everything - 8


# ---- thresholds and limits


@pytest.mark.parametrize(
    "changes",
    [
        {"thing_threshold": 0.2, "stuff_threshold": 0.1},  # FAST
        {"thing_threshold": 0.35},
        {"stuff_threshold": 0.62},
        {"candidates": 6},
        {"candidates": 11},
        {"mask_threshold": 0.55},
        {"rescored_threshold": 0.2},
        {"rescored_threshold": 0.15, "nms": True, "kernel_fusion": False, "candidates": 40},
    ],
    ids=lambda changes: "-".join(f"{key}={value}" for key, value in changes.items()),
)
def test_thresholds_of_candidates_are_the_plain_rule(changes: dict[str, Any]) -> None:
    maps = dataclasses.replace(maps_of(7), feature=noise(1, 8, 32, 64))
    net, default = model(**changes), model()
    (found,) = net.segments(maps, canvas())
    assert_found(found, plain.segments(net, [maps]))
    (other,) = default.segments(maps, canvas())
    assert len(found) > 2
    assert (len(found), float(found.scores.sum())) != (len(other), float(other.scores.sum()))


def flat(probability: float) -> PanopticFCNOutput:
    """Every probability is this one."""
    logit = float(np.log(probability / (1 - probability)))
    zero = maps_of()
    return PanopticFCNOutput(
        tuple(torch.full_like(m, logit) for m in zero.centres),
        tuple(torch.full_like(m, logit) for m in zero.regions),
        tuple(torch.zeros_like(m) for m in zero.kernels),
        torch.zeros_like(zero.feature),
    )


@pytest.mark.parametrize(("key", "strict"), [("thing_threshold", True), ("stuff_threshold", True)])
def test_a_score_at_the_threshold_of_candidates_is_none(key: str, strict: bool) -> None:
    """Half is exact in binary: sigmoid(0), and its mean over a window or a region."""
    kinds = {"thing_threshold": CATEGORIES.thing_labels, "stuff_threshold": (VOID, *CATEGORIES.stuff_labels)}[key]
    for threshold, there in ((0.5, not strict), (0.4999, True)):
        net = model(**{key: threshold, "rescored_threshold": 0.0})
        (found,) = net.segments(flat(0.5), canvas())
        assert any(label in kinds for label in found.labels.tolist()) == there


def test_a_mask_at_the_threshold_is_empty_and_a_rescored_score_at_its_own_is_kept() -> None:
    """Kernels of zeros make masks of exactly a half; a half times about a half is a quarter."""
    maps = flat(0.5)
    assert things_in(read_out(model(mask_threshold=0.5, rescored_threshold=1e-6)).segments(maps, canvas())[0]) == 0
    for share, there in ((0.999, True), (1.0, True), (1.001, False)):
        net = read_out(model(rescored_threshold=0.0, mask_threshold=0.4))
        score = float(net.segments(maps, canvas())[0].scores[0])
        assert score == pytest.approx(0.25, abs=1e-6)
        net = read_out(model(rescored_threshold=score * share, mask_threshold=0.4))
        assert (things_in(net.segments(maps, canvas())[0]) > 0) == there


def rectangles(rows: Sequence[tuple[int, float, tuple[int, int, int, int], float]]) -> Segments:
    """Segments of (label, score, rectangle in stride-4 cells, probability inside); 0.02 is left outside."""
    masks = torch.full((len(rows), 32, 64), 0.02)
    for mask, (_, _, (y0, x0, y1, x1), p) in zip(masks, rows, strict=True):
        mask[y0:y1, x0:x1] = p
    labels, scores = torch.tensor([row[0] for row in rows]), torch.tensor([row[1] for row in rows])
    return Segments(masks, labels, scores, FRAME)


COMPETING = rectangles(
    [
        (1, 0.9, (4, 4, 20, 20), 0.9),
        (3, 0.6, (4, 12, 20, 36), 0.7),  # a third lies on the first
        (1, 0.4, (8, 4, 24, 16), 0.8),  # three quarters lie on the first
        (3, 0.3, (22, 40, 30, 60), 0.45),
        (1, 0.15, (2, 44, 10, 60), 0.9),
        (VOID, 0.5, (0, 0, 4, 64), 0.8),
        (0, 0.6, (0, 0, 16, 64), 0.7),
        (2, 0.6, (16, 0, 20, 64), 0.6),
    ]
)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"thing_score": 0.1},
        {"thing_score": 0.5},
        {"overlap": 0.2},
        {"overlap": 0.9},
        {"mask_threshold": 0.3},
        {"mask_threshold": 0.6},
        {"stuff_area": 30000.0},
        {"stuff_area_relative": False},
        {"stuff_area": 2600.0, "stuff_area_relative": False},
    ],
    ids=lambda changes: "-".join(f"{key}={value}" for key, value in changes.items()) or "default",
)
def test_limits_of_the_merge_are_the_plain_rule(changes: dict[str, Any]) -> None:
    net = model(**changes)
    rows = zip(COMPETING.labels.tolist(), COMPETING.scores.tolist(), COMPETING.masks, strict=True)
    ids, accepted = plain.merged(net.config, list(rows), CATEGORIES.thing_labels)
    result = net.merge(COMPETING)
    assert [s.label for s in result.segments] == [label for label, _ in accepted]
    assert [s.score for s in result.segments] == pytest.approx([score for _, score in accepted])
    assert (result.ids == ids).all()
    assert [s.area for s in result.segments] == [int((ids == i + 1).sum()) for i in range(len(accepted))]
    if changes:
        assert (result.ids != model().merge(COMPETING).ids).any()


def test_limits_of_the_merge_at_the_limit() -> None:
    """A score at the threshold is kept, half of a mask that is taken is not too much, an area at the limit is kept."""
    halves = rectangles([(1, 0.5, (0, 0, 32, 32), 1.0), (3, 0.2, (0, 16, 32, 48), 1.0), (0, 0.9, (0, 0, 32, 64), 1.0)])
    masks = halves.masks.round()
    exact = dataclasses.replace(halves, masks=masks)
    taken = {float(np.float32(0.2)): 2, 0.2001: 1}
    for score, count in taken.items():
        found = model(thing_score=score, mask_threshold=0.5, stuff_area=1e9).merge(exact)
        assert len(found.segments) == count
    area = int((model(stuff_area=0.0).merge(exact).semantic() == 0).sum())
    for limit, kept in ((area, True), (area + 1, False)):
        found = model(stuff_area=float(limit), stuff_area_relative=False).merge(exact)
        assert (0 in [s.label for s in found.segments]) == kept


# ---- without a region of things


def test_without_some_thing_regions_are_the_stuff_classes() -> None:
    net = model(region_has_thing=False, stuff_threshold=0.3)
    assert all(r.shape[1] == 2 for r in net(canvas()).regions)
    maps = maps_of(5, regions=2)
    (found,) = net.segments(maps, canvas())
    expected = plain.segments(net, [maps])
    assert_found(found, expected)
    assert sorted(label for label, _, _ in expected if label not in CATEGORIES.thing_labels) == [0, 2]
    semantic = semantic_probabilities(found, CATEGORIES)
    for label in (0, 2):
        (mask,) = (m for name, _, m in expected if name == label)
        torch.testing.assert_close(semantic[label].double(), plain.bilinear(mask, (128, 256)), atol=1e-5, rtol=0)
    assert not semantic[[1, 3, VOID]].any()
    ids, accepted = plain.merged(net.config, expected, CATEGORIES.thing_labels)
    assert (net.merge(found).ids == ids).mean() > 0.999
    assert [s.label for s in net.merge(found).segments] == [label for label, _ in accepted]


def test_without_any_stuff_pixels_stay_nobodys() -> None:
    net = model(region_has_thing=False, stuff_threshold=0.9999)
    (found,) = net.segments(maps_of(5, regions=2), canvas())
    assert things_in(found) == len(found) > 0
    result = net.merge(found)
    assert all(CATEGORIES.things[s.label] for s in result.segments)
    assert not semantic_probabilities(found, CATEGORIES).any()


# ---- looking at the mirrored picture too


def flipped(output: PanopticFCNOutput) -> PanopticFCNOutput:
    def back(maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return tuple(torch.flip(m, dims=[3]) for m in maps)

    return PanopticFCNOutput(
        back(output.centres), back(output.regions), back(output.kernels), torch.flip(output.feature, dims=[3])
    )


@pytest.mark.parametrize(
    "changes", [{}, {"kernel_fusion": False, "nms": True}, {"similarity": 0.6, "class_aware": False}]
)
def test_flip_averages_the_masks_of_both_views(changes: dict[str, Any]) -> None:
    net, without = (model(flip=flip, rescored_threshold=0.01, **changes) for flip in (True, False))
    images = net.pad([scene(100, 128)[0], scene(128, 90, 9)[0]], [(50, 64), (128, 90)])
    mirrored = Images(torch.flip(images.pixels, dims=[3]), images.sizes, images.original)
    views = [without(images), flipped(without(mirrored))]
    found = net.segments(net.look(images), images)
    for b in range(2):
        expected = plain.segments(net, views, b)
        assert things_in(found[b]) > 3
        assert_found(found[b], expected)
        alone = without.segments(without.look(images), images)[b]
        assert_found(alone, plain.segments(net, views[:1], b))
        assert found[b].scores.tolist() != alone.scores.tolist()
        assert found[b].frame == alone.frame


def test_flip_is_for_predictions_alone_and_off_by_default() -> None:
    net, without = model(flip=True), model()
    assert not without.config.flip
    (picture, truth) = scene(128, 128)
    images = net.pad([picture])
    forward, plain_forward = net(images), without(images)
    assert forward.mirrored is None
    assert without.look(images).mirrored is None
    ours, theirs = (n.loss(o, [target(truth)]) for n, o in ((net, forward), (without, plain_forward)))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    batch = net.batch([picture])
    (expected,) = net.segments(net.look(batch), batch)
    assert_same_map(net.predict(picture), net.merge(expected))
