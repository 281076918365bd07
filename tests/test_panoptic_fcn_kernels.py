"""Panoptic FCN's way from maps to kernels against slow loops over cells and pairs."""

import math

import pytest
import torch
from torch import Tensor

from panoptic_fcn_plain import PlainRules, crafted_maps, plain_panoptic, plain_regions_of, plain_things
from thingstuff.models import create
from thingstuff.models.panoptic_fcn import PanopticFCNOutput
from thingstuff.models.panoptic_fcn_kernels import (
    Kernels,
    concatenate,
    find_peaks,
    fuse_stuff,
    fuse_things,
    pooled,
    stuff_regions,
)
from thingstuff.panoptic import Categories
from thingstuff.structures import Images


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def slow_peaks(centres: Tensor, smoothing: int, limit: int, threshold: float) -> list[tuple[float, int, int, int]]:
    """(score, class, row, column) of the best peaks, by falling score."""
    T, height, width = centres.shape
    p, reach = centres.sigmoid(), smoothing // 2
    smooth = torch.zeros_like(p)
    for c in range(T):
        for y in range(height):
            for x in range(width):
                window = p[c, max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
                smooth[c, y, x] = (p[c, y, x] + window.sum() / smoothing**2) / 2  # zeros beyond the border count
    peaks = []
    for c in range(T):
        for y in range(height):
            for x in range(width):
                window = smooth[c, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
                if smooth[c, y, x] == window.max() and smooth[c, y, x] > threshold:
                    peaks.append((float(smooth[c, y, x]), c, y, x))
    return sorted(peaks, reverse=True)[:limit]


@pytest.mark.parametrize(("smoothing", "limit"), [(3, 100), (5, 100), (3, 4)])
def test_peaks_are_the_slow_loop(smoothing: int, limit: int) -> None:
    centres, kernels = 2 * noise(3, 9, 11), noise(6, 9, 11, seed=1)
    found = find_peaks(centres, smoothing, limit, 0.55).read(kernels)
    expected = slow_peaks(centres, smoothing, limit, 0.55)
    assert len(expected) == limit if limit == 4 else len(expected) > 5
    assert found.scores.tolist() == pytest.approx([score for score, *_ in expected], abs=1e-6)
    assert found.labels.tolist() == [c for _, c, _, _ in expected]
    torch.testing.assert_close(found.vectors, torch.stack([kernels[:, y, x] for _, _, y, x in expected]))


def test_a_level_gives_no_more_peaks_than_it_has_cells() -> None:
    """Of all classes together, as in the authors' code: the one cell of a small level is one class's."""
    centres = torch.tensor([0.0, 1.0]).view(2, 1, 1)
    found = find_peaks(centres, 5, 50, 0.05).read(torch.ones(4, 1, 1))
    assert found.labels.tolist() == [1]
    p = torch.sigmoid(torch.tensor(1.0)).item()
    assert found.scores.tolist() == pytest.approx([(p + p / 25) / 2])


def test_no_peak_passes_or_no_class_is_there() -> None:
    none = find_peaks(torch.full((2, 4, 4), -20.0), 3, 50, 0.05).read(noise(3, 4, 4))
    without = find_peaks(torch.zeros(0, 4, 4), 3, 50, 0.05).read(noise(3, 4, 4))
    for found in (none, without, stuff_regions(torch.zeros(0, 4, 4), noise(3, 4, 4), 0.05)):
        assert found.vectors.shape == (0, 3)
        assert found.labels.shape == found.scores.shape == (0,)


def test_regions_are_the_slow_loop() -> None:
    regions, kernels = 2 * noise(4, 6, 7), noise(5, 6, 7, seed=1)
    regions[3] = -30.0  # wins no cell
    found = stuff_regions(regions, kernels, 0.6)
    p = regions.sigmoid()
    expected = []
    for c in range(4):
        cells = [(y, x) for y in range(6) for x in range(7) if p[:, y, x].argmax() == c]
        score = sum(float(p[c, y, x]) for y, x in cells) / max(len(cells), 1)
        if score > 0.6:
            expected.append((c, score, sum(kernels[:, y, x] for y, x in cells) / 42))
    assert found.labels.tolist() == [c for c, _, _ in expected]
    assert len(expected) > 1
    assert found.scores.tolist() == pytest.approx([score for _, score, _ in expected], abs=1e-6)
    torch.testing.assert_close(found.vectors, torch.stack([vector for _, _, vector in expected]))


def test_pooling_divides_by_the_whole_map() -> None:
    support = torch.zeros(2, 4, 5)
    support[0, :2] = 1
    assert pooled(support, torch.full((3, 4, 5), 2.0)).tolist() == [[1.0] * 3, [0.0] * 3]


def slow_fusion(things: Kernels, similarity: float, class_aware: bool) -> list[tuple[Tensor, int, float]]:
    """Kernel by kernel: a survivor is matched by no better one, and takes in those it matches first."""
    vectors, labels = things.vectors.tolist(), things.labels.tolist()

    def match(i: int, j: int) -> bool:
        dot = sum(a * b for a, b in zip(vectors[i], vectors[j], strict=True))
        lengths = math.hypot(*vectors[i]) * math.hypot(*vectors[j])
        return dot >= similarity * lengths and (labels[i] == labels[j] or not class_aware)

    first = [next(i for i in range(j + 1) if i == j or match(i, j)) for j in range(len(vectors))]
    result = []
    for i in range(len(vectors)):
        if first[i] == i:
            group = [things.vectors[j] for j in range(i, len(vectors)) if first[j] == i]
            result.append((torch.stack(group).mean(0), labels[i], float(things.scores[i])))
    return result


@pytest.mark.parametrize("class_aware", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_fusing_things_is_the_slow_loop(seed: int, class_aware: bool) -> None:
    random = torch.Generator().manual_seed(seed)
    centres = torch.randn(5, 3, generator=random)
    vectors = centres[torch.randint(5, (24,), generator=random)] + 0.35 * torch.randn(24, 3, generator=random)
    scores = torch.rand(24, generator=random).sort(descending=True).values
    things = Kernels(vectors, torch.randint(2, (24,), generator=random), scores)
    fused, expected = fuse_things(things, 0.9, class_aware), slow_fusion(things, 0.9, class_aware)
    assert 1 < len(expected) < 24
    assert fused.labels.tolist() == [label for _, label, _ in expected]
    assert fused.scores.tolist() == pytest.approx([score for _, _, score in expected])
    torch.testing.assert_close(fused.vectors, torch.stack([vector for vector, _, _ in expected]))


def test_a_chain_loses_its_end() -> None:
    angles = torch.tensor([0.0, 20.0, 40.0]).deg2rad()  # neighbours match, the ends do not
    vectors = torch.stack([angles.cos(), angles.sin()], dim=1)
    fused = fuse_things(Kernels(vectors, torch.zeros(3, dtype=torch.long), torch.tensor([0.9, 0.8, 0.7])), 0.9)
    assert fused.scores.tolist() == pytest.approx([0.9])
    torch.testing.assert_close(fused.vectors, vectors[:2].mean(0, keepdim=True))


def test_a_kernel_of_length_zero_stays_itself() -> None:
    vectors = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    fused = fuse_things(Kernels(vectors, torch.zeros(3, dtype=torch.long), torch.tensor([0.9, 0.8, 0.7])), 0.9)
    assert torch.equal(fused.vectors, vectors)


def test_fusing_stuff_averages_each_class_over_the_levels() -> None:
    vectors, labels = noise(5, 3), torch.tensor([4, 0, 4, 2, 4])
    fused = fuse_stuff(Kernels(vectors, labels, torch.tensor([0.1, 0.2, 0.3, 0.4, 0.8])))
    assert fused.labels.tolist() == [0, 2, 4]
    assert fused.scores.tolist() == pytest.approx([0.2, 0.4, 0.4])
    torch.testing.assert_close(fused.vectors, torch.stack([vectors[1], vectors[3], vectors[[0, 2, 4]].mean(0)]))


def test_nothing_fuses_to_nothing() -> None:
    nothing = Kernels(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long), torch.zeros(0))
    for fused in (fuse_things(nothing, 0.9), fuse_stuff(nothing), concatenate([nothing, nothing])):
        assert fused.vectors.shape == (0, 3)
        assert len(fused.labels) == len(fused.scores) == 0


def test_all_after_the_network_is_the_plain_formula_s() -> None:
    torch.manual_seed(0)
    maps, rules = crafted_maps((256, 320), 12, 4, (8, 6), (32, 16)), PlainRules(stuff_area=500)
    for i, smoothing in enumerate((3, 3, 3, 5, 5)):
        for found, plain in (
            (
                find_peaks(maps.centres[i], smoothing, 50, 0.05).read(maps.kernels[i]),
                plain_things(maps.centres[i], maps.kernels[i], smoothing, rules),
            ),
            (
                stuff_regions(maps.regions[i], maps.kernels[i], 0.05),
                plain_regions_of(maps.regions[i], maps.kernels[i], 0.05),
            ),
        ):
            torch.testing.assert_close(found.vectors, plain[0])
            assert found.labels.tolist() == plain[1].tolist()
            torch.testing.assert_close(found.scores, plain[2])
    names = tuple(f"c{i}" for i in range(13))
    categories = Categories(names, tuple(i < 8 for i in range(13)), tuple(range(1, 14)))
    changes = {"backbone.weights": "none", "kernel_channels": 32, "encoder_channels": 16, "stuff_area": 500}
    model = create("panoptic-fcn-r50", categories, stuff_area_relative=False, fpn_channels=32, **changes).eval()
    with torch.no_grad():
        for layer, given in (
            (model.thing_embedding, maps.thing_embedding),
            (model.stuff_embedding, maps.stuff_embedding),
        ):
            layer.weight.copy_(given[0])
            layer.bias.copy_(given[1])
        images = Images(torch.zeros(1, 3, 256, 320), ((250, 310),), ((333, 413),))
        levels = (tuple(t[None] for t in part) for part in (maps.centres, maps.regions, maps.kernels))
        output = PanopticFCNOutput(*levels, maps.feature[None])
        result = model.merge(model.segments(output, images)[0])
    ids, rows = plain_panoptic(maps, (250, 310), (333, 413), rules)
    assert [(s.id, s.label) for s in result.segments] == [(i, c if thing else 7 + c) for i, thing, c in rows]
    assert (torch.from_numpy(result.ids) != ids).sum() <= 2
    assert sum(thing for _, thing, _ in rows) > 5
    assert sum(not thing for _, thing, _ in rows) > 1
