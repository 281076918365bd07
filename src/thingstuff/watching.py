"""Keeping what modules take in and give out during one pass."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a module: what it was given by position, and what it gave; copies, since others write in place."""

    inputs: tuple[Any, ...]
    output: Any


Calls = Mapping[str, list[Call]]
"""The calls of each watched module by its name in the model, in the order they were made."""


class Watch:
    """While it is open, keeps every call of some modules: `with Watch(model, names) as calls: model(images)`."""

    def __init__(self, model: nn.Module, names: Iterable[str]) -> None:
        self._modules = {name: model.get_submodule(name) for name in names}
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> Calls:
        calls: dict[str, list[Call]] = {name: [] for name in self._modules}
        for name, module in self._modules.items():

            def keep(_: nn.Module, inputs: tuple[Any, ...], output: Any, own: list[Call] = calls[name]) -> None:
                own.append(Call(copied(inputs), copied(output)))

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
