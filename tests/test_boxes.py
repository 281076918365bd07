"""The generalised IoU of pairs of boxes."""

import pytest
import torch
from torchvision.ops import generalized_box_iou

from thingstuff.boxes import paired_giou


def random_boxes(count: int, seed: int) -> torch.Tensor:
    """XYXY boxes within one unit, of which many overlap and some do not."""
    points = torch.rand(count, 2, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.cat([points.amin(1), points.amax(1)], dim=1)


def test_pairs_are_the_diagonal_of_torchvisions_matrix() -> None:
    a, b = random_boxes(200, 0), random_boxes(200, 1)
    ours = paired_giou(a, b)
    torch.testing.assert_close(ours, generalized_box_iou(a, b).diagonal(), rtol=0, atol=1e-12)
    assert ours.min() < -0.5 < 0.5 < ours.max()
    shaped = paired_giou(a.view(4, 50, 4), b.view(4, 50, 4))
    assert torch.equal(shaped, ours.view(4, 50))


def test_values_at_hand() -> None:
    a = torch.tensor([[0.0, 0, 2, 2], [0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 4, 4]])
    b = torch.tensor([[0.0, 0, 2, 2], [2, 0, 3, 1], [1, 0, 2, 1], [1, 1, 3, 3]])
    # the same; a gap as wide as each of them; side by side; one within the other
    assert paired_giou(a, b).tolist() == pytest.approx([1.0, -1 / 3, 0.0, 0.25])


@pytest.mark.parametrize(
    "other", [[0.5, 0.5, 0.5, 0.5], [0.1, 0.2, 0.1, 0.9], [0.0, 0.0, 1.0, 1.0], [0.5, 0.0, 1.0, 1.0]]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_empty_boxes_give_finite_values_and_gradients(other: list[float], dtype: torch.dtype) -> None:
    """Segments one pixel wide may have boxes without area."""
    a = torch.tensor([[0.5, 0.5, 0.5, 0.5]], dtype=dtype, requires_grad=True)
    value = paired_giou(a, torch.tensor([other], dtype=dtype))
    assert -1 <= float(value) <= 1
    (gradient,) = torch.autograd.grad(value.sum(), a)
    assert gradient.isfinite().all()
    assert paired_giou(torch.zeros(0, 4), torch.zeros(0, 4)).shape == (0,)
