"""What masks cost: multiply-adds, and the memory that a training keeps of them, counted on the models' own layers.

Counting runs on PyTorch's meta device, which knows shapes and holds no numbers, so that what is counted is what a model
computes. Each model counts its own masks: `PanopticModel.mask_cost`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from thingstuff.errors import InputError
from thingstuff.structures import Size

STRIDES = (1, 2, 4, 8)
"""Strides of the network input at which masks can be told."""


@dataclass(frozen=True)
class Work:
    """Multiply-adds of a piece of work, and the bytes of fp32 that a training keeps of it to learn from."""

    multiply_adds: int
    bytes: int

    def without(self, part: "Work") -> "Work":
        """Return what is left where a part is not done."""
        return Work(self.multiply_adds - part.multiply_adds, self.bytes - part.bytes)


@dataclass(frozen=True)
class HeadCost:
    """The cost of a model's masks at one stride: once a picture, and for each further `mask` (a query, a kernel)."""

    head: str
    stride: int
    once: Work
    mask: str
    each: Work


def check_stride(stride: int) -> None:
    """Raise `InputError` for a stride that masks cannot be told at."""
    if stride not in STRIDES:
        raise InputError(f"stride {stride}: masks are told at {', '.join(map(str, STRIDES))}; give some of these")


def reduced_size(canvas: Size, stride: int) -> Size:
    """Return the (h, w) of a canvas's masks at a stride."""
    return -(-canvas[0] // stride), -(-canvas[1] // stride)


def measured(work: Callable[[], Tensor]) -> Work:
    """Count a piece of work: its multiply-adds, and what autograd keeps of it besides parameters."""
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor if tensor._base is None else tensor._base, nn.Parameter):
            kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with FlopCounterMode(display=False) as counter, torch.enable_grad(), saved_tensors_hooks(keep, lambda t: t):
        work()
    return Work(counter.get_total_flops() // 2, sum(t.untyped_storage().nbytes() for t in kept.values()))


def one_more(work: Callable[[int], Tensor]) -> Work:
    """Return what one more mask adds to work on some."""
    return measured(lambda: work(2)).without(measured(lambda: work(1)))
