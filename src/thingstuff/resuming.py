"""What a checkpoint keeps so that a run goes on as if it had never stopped: optimiser, random numbers, metrics."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from thingstuff.checkpoint import TrainingState
from thingstuff.models.base import PanopticModel


def random_state(accelerator: Accelerator) -> dict[str, Tensor]:
    """Return this process's random generators' states by name."""
    states = {f"rng.cpu.{accelerator.process_index}": torch.get_rng_state()}
    if accelerator.device.type == "cuda":
        states[f"rng.cuda.{accelerator.process_index}"] = torch.cuda.get_rng_state(accelerator.device)
    return states


def set_random_state(accelerator: Accelerator, states: Mapping[str, Tensor]) -> None:
    """Set this process's generators to what `random_state` returned in it; those without a state stay."""
    cpu, cuda = f"rng.cpu.{accelerator.process_index}", f"rng.cuda.{accelerator.process_index}"
    if cpu in states:
        torch.set_rng_state(states[cpu])
    if cuda in states and accelerator.device.type == "cuda":
        torch.cuda.set_rng_state(states[cuda], accelerator.device)


def _names(updates: torch.optim.Optimizer, model: PanopticModel) -> list[str]:
    """Return the parameters' names in the optimiser's order, which hangs on how settings group them."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [names[id(parameter)] for group in updates.param_groups for parameter in group["params"]]


def optimizer_tensors(updates: torch.optim.Optimizer, model: PanopticModel) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split an optimiser's state into tensors and plain values by name (its groups follow from the config)."""
    tensors, plain = {}, {}
    names = _names(updates, model)
    for index, entries in updates.state_dict()["state"].items():
        for key, value in entries.items():
            name = f"optimizer|{names[index]}|{key}"
            if isinstance(value, Tensor):
                tensors[name] = value
            else:
                plain[name] = value
    return tensors, plain


def optimizer_state(state: TrainingState, updates: torch.optim.Optimizer, model: PanopticModel) -> dict[str, Any]:
    """Return the state dict for an optimiser from what `optimizer_tensors` split."""
    places = {name: index for index, name in enumerate(_names(updates, model))}
    entries: dict[int, dict[str, Any]] = {}
    for entry, value in [*state.tensors.items(), *state.values["optimizer"].items()]:
        if entry.startswith("optimizer|"):
            _, name, key = entry.split("|")
            entries.setdefault(places[name], {})[key] = value
    return {"state": entries, "param_groups": updates.state_dict()["param_groups"]}


def truncate_metrics(metrics: Path, step: int, with_score: bool = True) -> None:
    """Drop the rows after a step (and its score): they'll be written again; also what a kill left half written."""
    if not metrics.exists():
        return
    kept = []
    for line in metrics.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:  # half written by a kill, so after the checkpoint: it comes again
            break
        if row["step"] < step or (row["step"] == step and (with_score or "pq" not in row)):
            kept.append(line)
    partial = metrics.with_name(f".{metrics.name}.partial")
    partial.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
    partial.replace(metrics)
