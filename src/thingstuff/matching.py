"""Assignment of predictions to targets: costs and the Hungarian method.

Letters: L decoder layers, Q queries, K classes with "no object", T targets, n matched pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchvision.ops import box_convert, generalized_box_iou


@dataclass(frozen=True)
class CostWeights:
    """What each part of the matching cost weighs; the defaults are DETR's."""

    label: float = 1.0
    """Probability of the target's class."""
    l1: float = 5.0
    """L1 distance of the boxes (cx, cy, w, h, relative)."""
    giou: float = 2.0
    """Generalised IoU of the boxes."""


@dataclass(frozen=True)
class Matches:
    """One picture's pairs for every layer: row i says that `query[l, i]` answers for `target[l, i]`; queries rise."""

    query: Int[Tensor, "L n"]
    target: Int[Tensor, "L n"]


@torch.no_grad()
def matching_cost(
    logits: Float[Tensor, "L Q K"],
    boxes: Float[Tensor, "L Q 4"],
    labels: Int[Tensor, "T"],
    target_boxes: Float[Tensor, "T 4"],
    weights: CostWeights,
) -> Float[Tensor, "L Q T"]:
    """Return what it costs that a query answers for a target; boxes are cx, cy, w, h, relative (equation 1 of DETR)."""
    label = logits.softmax(-1)[..., labels]
    l1 = torch.cdist(boxes, target_boxes.expand(len(boxes), -1, -1), p=1)
    corners = box_convert(boxes.flatten(0, 1), "cxcywh", "xyxy")
    giou = generalized_box_iou(corners, box_convert(target_boxes, "cxcywh", "xyxy")).view_as(l1)
    cost: Tensor = weights.l1 * l1 - weights.label * label - weights.giou * giou
    return cost


def hungarian(costs: Sequence[Float[Tensor, "L Q _T"]]) -> list[Matches]:
    """Return each picture's cheapest assignment in every layer; with more targets than queries some stay unmatched.

    Costs that are no numbers (a diverged model) count as huge, so that it is the loss that tells.
    """
    device = costs[0].device
    # one transfer for all pictures
    flat = torch.cat([c.flatten() for c in costs]).double().nan_to_num(nan=1e9, posinf=1e9, neginf=-1e9).cpu().numpy()
    parts = np.split(flat, np.cumsum([c.numel() for c in costs])[:-1])
    matches = []
    for cost, part in zip(costs, parts, strict=True):
        pairs = [linear_sum_assignment(layer) for layer in part.reshape(cost.shape)]
        query, target = (torch.as_tensor(np.stack(side)).long().to(device) for side in zip(*pairs, strict=True))
        matches.append(Matches(query, target))
    return matches
