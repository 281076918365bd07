"""Losses as plain functions, and the count over all processes that normalises them."""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def sigmoid_focal_loss(
    logits: Float[Tensor, "*shape"], target: Float[Tensor, "*shape"], alpha: float = 0.25, gamma: float = 2.0
) -> Float[Tensor, "*shape"]:
    """Return the focal loss of each element; targets may be soft (Lin et al. 2017b, equation 5)."""
    p = logits.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    p_target = p * target + (1 - p) * (1 - target)
    alpha_target = alpha * target + (1 - alpha) * (1 - target)
    return alpha_target * cross_entropy * (1 - p_target) ** gamma


def dice_loss(
    p: Float[Tensor, "*rows pixels"], target: Float[Tensor, "*rows pixels"], eps: float = 1e-8
) -> Float[Tensor, "*rows"]:
    """Return 1 - DICE of each row of probabilities, with squares in the denominator (Milletari et al. 2016)."""
    overlap = (p * target).sum(-1)
    return 1 - 2 * overlap / ((p * p).sum(-1) + (target * target).sum(-1)).clamp(min=eps)


def weighted_dice_loss(
    p: Float[Tensor, "N K pixels"],
    target: Float[Tensor, "N pixels"],
    weights: Float[Tensor, "N K"],
    eps: float = 1e-8,
) -> Float[Tensor, "N"]:
    """Return each object's DICE loss over its K predictions, weighted by `weights` over their sum.

    Gradients flow through the weights (Li et al. 2021, Panoptic FCN, equation 7).
    """
    overlap = torch.bmm(p, target[:, :, None])[..., 0]
    squares = (p * p).sum(-1) + (target * target).sum(-1)[:, None]
    dice = 1 - 2 * overlap / squares.clamp(min=eps)
    return (dice * weights / weights.sum(1, keepdim=True).clamp(min=eps)).sum(1)


def count_over_processes(count: int, device: torch.device) -> Tensor:
    """Return the mean of a count over all processes (1 in all at least), by which a summed loss is divided.

    Data-parallel training averages gradients over processes, so dividing by the mean gives the sum over all pictures
    divided by the sum of all counts: what one process with the whole batch computes.
    """
    return mean_over_processes(torch.tensor(float(count), device=device)).clamp(min=1 / process_count())


def mean_over_processes(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return the mean of values over all processes, without gradient: what weighted losses are divided by."""
    values = values.detach().clone()
    if process_count() > 1:
        dist.all_reduce(values)
    return values / process_count()


def process_count() -> int:
    """Return the number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
