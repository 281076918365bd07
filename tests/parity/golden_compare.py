"""Comparing recorded numbers with ours: every recorded key must be answered, listed as an input, or it fails."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Comparer = Callable[[Any, Any], float]
"""Takes (ours, recorded) and returns the error in units of what is allowed: above 1 fails."""


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """Every leaf of nested JSON by its path; an empty list or dict is a leaf."""
    entries: Sequence[tuple[Any, Any]]
    entries = list(value.items()) if isinstance(value, Mapping) else list(enumerate(value)) if _is_list(value) else []
    if not entries:
        return {path: value}
    result: dict[str, Any] = {}
    for key, inner in entries:
        result.update(flat(inner, f"{path}/{key}" if path else str(key)))
    return result


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _tensor(value: Any) -> Tensor:
    return (value if isinstance(value, Tensor) else torch.tensor(value)).detach().double()


def of_largest(share: float) -> Comparer:
    """Within a share of the largest recorded value."""

    def compare(ours: Any, recorded: Any) -> float:
        a, b = _tensor(ours), _tensor(recorded)
        if a.shape != b.shape:
            return float("inf")
        if a.numel() == 0:
            return 0.0
        error = (a - b).abs().max() / (share * b.abs().max() + 1e-9)
        return float("inf") if error.isnan() else float(error)

    return compare


def within(amount: float) -> Comparer:
    """Within an absolute amount, element by element."""

    def compare(ours: Any, recorded: Any) -> float:
        a, b = _tensor(ours), _tensor(recorded)
        if a.shape != b.shape:
            return float("inf")
        if a.numel() == 0:
            return 0.0
        error = (a - b).abs().max()
        return float("inf") if error.isnan() else float(error / amount)

    return compare


def exactly(ours: Any, recorded: Any) -> float:
    """Equal values (and shapes)."""
    if isinstance(ours, Tensor) or isinstance(recorded, Tensor):
        a, b = _tensor(ours), _tensor(recorded)
        return 0.0 if a.shape == b.shape and bool((a == b).all()) else float("inf")
    return 0.0 if type(ours) is type(recorded) and ours == recorded else float("inf")


def pixels(count: int) -> Comparer:
    """Maps (or each of a stack of masks) that differ in at most `count` pixels."""

    def compare(ours: Any, recorded: Any) -> float:
        a, b = _tensor(ours), _tensor(recorded)
        if a.shape != b.shape:
            return float("inf")
        return float((a != b).flatten(-2).sum(-1).max()) / count if a.numel() else 0.0

    return compare


@dataclass(frozen=True)
class Rules:
    """How one kind of file is compared, by regular expressions on its keys; the first rule that matches decides."""

    compared: Sequence[tuple[str, Comparer]]
    not_results: Sequence[str] = ()
    """Inputs and descriptions."""


def _matches(patterns: Sequence[str], key: str) -> bool:
    return any(re.fullmatch(pattern, key) for pattern in patterns)


def differences(recorded: Mapping[str, Any], ours: Mapping[str, Any], rules: Rules) -> list[str]:
    """Say what differs: recorded keys that ours lacks, values too far off, and ours where nothing was recorded.

    Ours may go beyond the recording only in fields that it does not hold at all, or where ours is empty.
    """
    found = []
    for key, value in recorded.items():
        if key in ours:
            comparer = next((c for pattern, c in rules.compared if re.fullmatch(pattern, key)), None)
            if comparer is None:
                found.append(f"{key}: no rule compares it")
            elif (error := comparer(ours[key], value)) > 1:
                found.append(f"{key}: {_short(ours[key])} but recorded {_short(value)} (error {error:.3g} x allowed)")
        elif not _matches(rules.not_results, key):
            found.append(f"{key}: recorded, but compared with nothing")
    fields = {_field(key) for key in recorded}
    for key in ours.keys() - recorded.keys():
        if _field(key) in fields and not (isinstance(ours[key], Tensor) and ours[key].numel() == 0):
            found.append(f"{key}: ours is {_short(ours[key])}, nothing recorded")
    return found


def _field(key: str) -> str:
    """A JSON leaf belongs to its outermost field; a tensor to what its name says before the last dot or number."""
    if "/" in key:
        return key.split("/")[0]
    parts = [part for part in key.split(".") if not part.isdigit()]
    return parts[0] if len(parts) > 1 else ".".join(parts)


def _short(value: Any) -> str:
    return f"tensor {list(value.shape)}" if isinstance(value, Tensor) and value.numel() > 8 else str(value)


def assert_same(recorded: Mapping[str, Any], ours: Mapping[str, Any], rules: Rules) -> None:
    found = differences(recorded, ours, rules)
    assert not found, "\n".join(found)
