"""The assignment of queries to targets against every possible one, and the cost by its formula."""

import itertools
import math

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_convert, generalized_box_iou

from thingstuff.matching import CostWeights, Matches, hungarian, matching_cost


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cheapest(cost: Tensor) -> float:
    """The least sum over all ways to give each target (or, if those are more, each query) one of the other side."""
    rows = cost.tolist() if cost.shape[0] <= cost.shape[1] else cost.T.tolist()
    others = range(len(rows[0]) if rows else 0)
    ways = itertools.permutations(others, len(rows))
    return min((sum(rows[i][j] for i, j in enumerate(way)) for way in ways), default=0.0)


def checked(match: Matches, costs: Tensor) -> list[float]:
    """The sum of each layer's matched costs, once the pairs are what pairs must be."""
    layers, Q, T = costs.shape
    assert match.query.shape == match.target.shape == (layers, min(Q, T))
    assert match.query.dtype == match.target.dtype == torch.long
    for query, target in zip(match.query, match.target, strict=True):
        assert query.tolist() == sorted({*query.tolist()})
        assert len({*target.tolist()}) == len(target)
    return [float(cost[q, t].sum()) for cost, q, t in zip(costs, match.query, match.target, strict=True)]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("Q", "T"), [(5, 3), (4, 4), (3, 5), (6, 1), (1, 4)])
def test_an_assignment_is_the_cheapest_of_all(Q: int, T: int, seed: int) -> None:
    costs = random(2, Q, T, seed=seed) * 2 - 1
    (match,) = hungarian([costs])
    assert checked(match, costs) == pytest.approx([cheapest(cost) for cost in costs], abs=1e-12)


def test_pictures_and_layers_are_matched_each_on_its_own() -> None:
    costs = [random(3, 5, T, seed=T) for T in (2, 0, 7, 4)]
    matches = hungarian(costs)
    assert [m.query.shape for m in matches] == [(3, 2), (3, 0), (3, 5), (3, 4)]
    for match, cost in zip(matches, costs, strict=True):
        assert checked(match, cost) == pytest.approx([cheapest(layer) for layer in cost], abs=1e-12)
        for i in range(3):
            (alone,) = hungarian([cost[i : i + 1]])
            assert torch.equal(alone.query[0], match.query[i])
            assert torch.equal(alone.target[0], match.target[i])


def test_no_targets_anywhere() -> None:
    for match in hungarian([torch.zeros(2, 4, 0), torch.zeros(2, 4, 0)]):
        assert match.query.shape == match.target.shape == (2, 0)
        assert match.query.dtype == torch.long


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_costs_that_are_no_numbers_still_match(value: float) -> None:
    costs = random(2, 5, 3)
    costs[0] = value
    (match,) = hungarian([costs])
    checked(match, torch.zeros_like(costs))
    assert float(costs[1][match.query[1], match.target[1]].sum()) == pytest.approx(cheapest(costs[1]))
    some = random(1, 4, 3)
    some[0, 2] = math.nan  # one query is out: the others take the targets
    (match,) = hungarian([some])
    assert match.query.tolist() == [[0, 1, 3]]


def test_the_cost_is_its_formula() -> None:
    logits, boxes = random(2, 4, 6) * 4, random(2, 4, 4, seed=1) * 0.5 + 0.1
    labels, wanted = torch.tensor([5, 0, 0]), random(3, 4, seed=2) * 0.5 + 0.1
    weights = CostWeights(label=1.5, l1=4.0, giou=3.0)
    cost = matching_cost(logits, boxes, labels, wanted, weights)
    assert cost.shape == (2, 4, 3)
    for layer, q, t in itertools.product(range(2), range(4), range(3)):
        p = math.exp(logits[layer, q, labels[t]]) / sum(math.exp(x) for x in logits[layer, q].tolist())
        l1 = sum(abs(a - b) for a, b in zip(boxes[layer, q].tolist(), wanted[t].tolist(), strict=True))
        corners = (box_convert(x[None], "cxcywh", "xyxy") for x in (boxes[layer, q], wanted[t]))
        giou = float(generalized_box_iou(*corners))
        assert float(cost[layer, q, t]) == pytest.approx(4 * l1 - 1.5 * p - 3 * giou, abs=1e-12)
    assert CostWeights() == CostWeights(label=1.0, l1=5.0, giou=2.0)


def test_the_cost_of_nothing_and_its_gradient() -> None:
    logits = random(2, 4, 6).requires_grad_()
    none = torch.zeros(0, dtype=torch.long)
    cost = matching_cost(logits, random(2, 4, 4), none, torch.zeros(0, 4, dtype=torch.float64), CostWeights())
    assert cost.shape == (2, 4, 0)
    full = matching_cost(logits, random(2, 4, 4), none.new_tensor([1]), random(1, 4), CostWeights())
    assert not full.requires_grad
