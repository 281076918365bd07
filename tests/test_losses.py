"""Losses against their formulas in double precision, and values that can be worked out by hand."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from thingstuff.losses import count_over_processes, dice_loss, sigmoid_focal_loss, weighted_dice_loss


def doubles(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_focal_loss_is_its_formula_with_soft_targets() -> None:
    logits, target = doubles(4, 5) * 3, doubles(4, 5, seed=1).sigmoid()
    ours = sigmoid_focal_loss(logits, target, alpha=0.3, gamma=1.5)
    for x, t, value in zip(logits.flatten().tolist(), target.flatten().tolist(), ours.flatten().tolist(), strict=True):
        p = 1 / (1 + math.exp(-x))
        entropy = -t * math.log(p) - (1 - t) * math.log(1 - p)
        p_target, alpha = p * t + (1 - p) * (1 - t), 0.3 * t + 0.7 * (1 - t)
        assert value == pytest.approx(alpha * (1 - p_target) ** 1.5 * entropy, rel=1e-12)


def test_focal_loss_by_hand() -> None:
    even = torch.zeros(1)
    assert sigmoid_focal_loss(even, torch.ones(1)).item() == pytest.approx(0.25 * 0.25 * math.log(2))
    assert sigmoid_focal_loss(even, torch.zeros(1)).item() == pytest.approx(0.75 * 0.25 * math.log(2))
    sure = torch.tensor([60.0, -60.0])
    assert sigmoid_focal_loss(sure, torch.tensor([1.0, 0.0])).tolist() == pytest.approx([0, 0], abs=1e-12)
    assert sigmoid_focal_loss(sure, torch.tensor([0.0, 1.0])).tolist() == pytest.approx([45, 15])


def test_focal_loss_without_focus_is_half_the_cross_entropy() -> None:
    logits, target = doubles(7), doubles(7, seed=1).sigmoid()
    expected = 0.5 * F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    torch.testing.assert_close(sigmoid_focal_loss(logits, target, alpha=0.5, gamma=0.0), expected)


def test_dice_loss_by_hand() -> None:
    p = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
    target = torch.tensor([[1.0, 1.0], [1.0, 1.0], [0.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    assert dice_loss(p, target).tolist() == pytest.approx([1 / 3, 0, 1, 1 / 3, 1])


def test_dice_loss_keeps_leading_axes() -> None:
    p, target = doubles(2, 3, 7).sigmoid(), doubles(2, 3, 7, seed=1).sigmoid()
    losses = dice_loss(p, target)
    assert losses.shape == (2, 3)
    torch.testing.assert_close(losses[1, 2], dice_loss(p[1, 2], target[1, 2]))


def test_weighted_dice_loss_is_the_weighted_mean_of_dice_losses() -> None:
    p, target = doubles(3, 4, 11).sigmoid(), doubles(3, 11, seed=1).sigmoid()
    weights = doubles(3, 4, seed=2).sigmoid()
    ours = weighted_dice_loss(p, target, weights)
    for n in range(3):
        each = [float(dice_loss(p[n, k], target[n])) * float(weights[n, k]) for k in range(4)]
        assert float(ours[n]) == pytest.approx(sum(each) / float(weights[n].sum()), rel=1e-12)


def test_weighted_dice_loss_without_weight_is_nothing() -> None:
    assert weighted_dice_loss(torch.ones(1, 2, 3), torch.ones(1, 3), torch.zeros(1, 2)).tolist() == [0]
    assert weighted_dice_loss(torch.ones(0, 2, 3), torch.ones(0, 3), torch.zeros(0, 2)).sum() == 0


def test_weighted_dice_loss_teaches_its_weights() -> None:
    p = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    weights = torch.tensor([[0.5, 0.5]], requires_grad=True)
    weighted_dice_loss(p, torch.tensor([[1.0, 0.0]]), weights).sum().backward()
    assert weights.grad is not None
    assert weights.grad[0, 0] < 0 < weights.grad[0, 1]  # more weight for the right mask, less for the wrong one


@pytest.fixture
def _one_process(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_a_count_is_one_at_least() -> None:
    assert float(count_over_processes(0, torch.device("cpu"))) == 1
    assert float(count_over_processes(5, torch.device("cpu"))) == 5


@pytest.mark.usefixtures("_one_process")
def test_a_count_over_one_process_is_itself() -> None:
    assert float(count_over_processes(0, torch.device("cpu"))) == 1
    assert float(count_over_processes(5, torch.device("cpu"))) == 5
