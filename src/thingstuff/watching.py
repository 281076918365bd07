"""Keeping what modules take in and give out during one pass."""

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


@dataclass(frozen=True)
class Watched:
    """A module by its name in the model, and what of its calls is kept: a copy takes memory."""

    name: str
    inputs: bool = False
    output: bool = True


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a module: what it was given by position, and what it gave; copies, since others write in place.

    Without what was not to be kept: no inputs, and None as output.
    """

    inputs: tuple[Any, ...]
    output: Any


Calls = Mapping[str, list[Call]]
"""The calls of each watched module by its name in the model, in the order they were made."""


class Watch:
    """While it is open, keeps this thread's calls of some modules: `with Watch(model, watched) as calls: ...`."""

    def __init__(self, model: nn.Module, watched: Iterable[Watched]) -> None:
        self._watched = [(entry, model.get_submodule(entry.name)) for entry in watched]
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> Calls:
        calls: dict[str, list[Call]] = {entry.name: [] for entry, _ in self._watched}
        thread = threading.get_ident()  # another one may predict with the same model meanwhile
        for entry, module in self._watched:

            def keep(
                _: nn.Module,
                inputs: tuple[Any, ...],
                output: Any,
                entry: Watched = entry,
                own: list[Call] = calls[entry.name],
            ) -> None:
                if threading.get_ident() == thread:
                    own.append(Call(copied(inputs) if entry.inputs else (), copied(output) if entry.output else None))

            self._handles.append(module.register_forward_hook(keep))
        return calls

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


def copied(value: Any) -> Any:
    """Return a copy of the tensors in a tensor, tuple, list or dict; anything else as it is."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, (tuple, list)):
        return tuple(copied(entry) for entry in value)
    return {key: copied(entry) for key, entry in value.items()} if isinstance(value, dict) else value
