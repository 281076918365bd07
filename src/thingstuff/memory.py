"""Running out of memory, told so that it can be mended."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from thingstuff.errors import InputError

_OF_A_CPU = ("can't allocate memory", "DefaultCPUAllocator", "not enough memory")
"""What PyTorch says on a CPU, where it has no error of its own for it."""


def is_of_memory(error: Exception) -> bool:
    """Whether an error of PyTorch's means that memory does not suffice."""
    of_memory = isinstance(error, torch.cuda.OutOfMemoryError | MemoryError)
    return of_memory or any(words in str(error) for words in _OF_A_CPU)


@contextmanager
def telling_of_memory(step: int, out: Path) -> Iterator[None]:
    """Run a training's step; raises `InputError` that says what to lower where memory does not suffice."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_of_memory(error):
            raise
        raise InputError(
            f"out of memory at step {step}: lower batch_size (accumulate raised as much keeps the pictures of a step) "
            f"or augment.short_sides. A checkpoint before it stays in {out}"
        ) from None
