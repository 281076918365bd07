"""Our Panoptic FCN's gradients against the norms that the authors' code gave: in all, per module, parameter and loss.

In fp32 they move with the order of sums; the bounds are the noise that the recordings' README measured.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from golden_compare import Rules, assert_same, flat, of_largest, within
from panoptic_fcn_case import (
    Case,
    one_thread,  # noqa: F401
    per_case,
)
from panoptic_fcn_training import Training
from torch import Tensor

from thingstuff.panoptic_fcn_weights import panoptic_fcn_from_authors


@dataclass(frozen=True)
class Gradients:
    """The gradient of one scalar by the authors' parameter names; zero where it does not reach."""

    by_name: Mapping[str, Tensor]

    def norm(self, prefix: str = "") -> float:
        """Norm over all parameters whose name begins so."""
        chosen = [g.double().pow(2).sum() for name, g in self.by_name.items() if name.startswith(prefix)]
        assert chosen, f"no parameter begins with {prefix}"
        return float(torch.stack(chosen).sum().sqrt())


def authors_names(case: Case) -> dict[str, str]:
    """Our parameter name -> the authors'."""
    state = case.file(f"{case.name}_state")
    return {next(iter(panoptic_fcn_from_authors({key: value}))): key for key, value in state.items()}


def gradients(train: Training, scalar: Tensor) -> Gradients:
    parameters = {name: p for name, p in train.model.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(scalar, list(parameters.values()), retain_graph=True, allow_unused=True)
    names = authors_names(train.case)
    pairs = zip(parameters.items(), found, strict=True)
    return Gradients({names[name]: torch.zeros_like(p) if g is None else g for (name, p), g in pairs})


def gradient_facts(train: Training, recorded: Mapping[str, Any]) -> dict[str, Any]:
    total = gradients(train, torch.stack(list(train.losses.values())).sum())
    per_loss = {}
    for loss, modules in recorded.get("grad_norm_per_loss", {}).items():
        alone = gradients(train, train.losses[loss])
        per_loss[loss] = {prefix: alone.norm(prefix) for prefix in modules}
    return flat(
        {
            "grad_norm_total": total.norm(),
            "grad_norm": {prefix: total.norm(prefix) for prefix in recorded.get("grad_norm", {})},
            "grad_norm_per_loss": per_loss,
            "grad_per_param_norm_sum": {
                name: {"norm": float(g.double().norm()), "sum": float(g.double().sum())}
                for name, g in total.by_name.items()
            },
        }
    )


def recorded_gradients(block: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON's gradient fields, the pairs [norm, sum] named."""
    fields = {key: value for key, value in block.items() if key.startswith("grad_")}
    pairs = fields.get("grad_per_param_norm_sum", {})
    if pairs:
        fields["grad_per_param_norm_sum"] = {n: dict(zip(("norm", "sum"), p, strict=True)) for n, p in pairs.items()}
    return flat(fields) if fields else {}


def gradient_rules(recorded: Mapping[str, Any], sizes: Mapping[str, int]) -> Rules:
    """README: in fp32 the total moves by 1e-3, the backbone's part of `loss_seg_st` by 1e-2.

    A sum of n elements that cancel is held to as much of what n elements of that norm can sum to.
    """
    sums = []
    for name, count in sizes.items():
        norm = recorded.get(f"grad_per_param_norm_sum/{name}/norm", 0.0)
        allowed = 1e-2 * norm * count**0.5 + 1e-9
        sums.append((rf"grad_per_param_norm_sum/{re.escape(name)}/sum", within(allowed)))
    return Rules(
        compared=(
            (r"grad_norm_per_loss/loss_seg_st/backbone\..*", of_largest(1e-2)),
            (r"grad_norm_per_loss/.*|grad_norm/.*|grad_norm_total", of_largest(1e-3)),
            (r"grad_per_param_norm_sum/.*/norm", of_largest(1e-2)),
            *sums,
        )
    )


@per_case("train")
def test_gradients(case: Case, block: str) -> None:
    train = Training(case, block)
    recorded = recorded_gradients(case.json[block])
    sizes = {name: train.model.get_parameter(ours).numel() for ours, name in trainable(train).items()}
    assert_same(recorded, gradient_facts(train, case.json[block]), gradient_rules(recorded, sizes))


def trainable(train: Training) -> dict[str, str]:
    names = authors_names(train.case)
    return {name: names[name] for name, p in train.model.named_parameters() if p.requires_grad}
