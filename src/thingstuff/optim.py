"""Optimisers, their parameter groups, learning-rate schedules and gradient clipping."""

import math
from collections.abc import Iterable
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import nn

NORMS = (nn.GroupNorm, nn.LayerNorm, nn.modules.batchnorm._BatchNorm)


class OptimConfig(BaseModel):
    """How weights are updated."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["sgd", "adamw"] = "sgd"
    """SGD with momentum (the papers), or AdamW."""
    lr: float = Field(default=0.01, gt=0)
    """Highest learning rate, for the whole batch of all processes."""
    backbone_lr: float = Field(default=1.0, ge=0)
    """Times the learning rate, for the backbone."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """SGD's momentum."""
    weight_decay: float = Field(default=1e-4, ge=0)
    """Decay of weights; biases of convs included."""
    norm_decay: float = Field(default=0.0, ge=0)
    """Decay of norms' weights and biases."""
    schedule: Literal["poly", "cosine", "step", "constant"] = "poly"
    """How the learning rate falls to the end."""
    power: float = Field(default=0.9, gt=0)
    """Exponent of the poly schedule."""
    drop: float = Field(default=0.1, ge=0, le=1)
    """What the step schedule multiplies the learning rate by ..."""
    drop_at: float | tuple[float, ...] = 2 / 3
    """... from this share of the steps on; with several shares, once more at each."""
    warmup_steps: int = Field(default=1000, ge=0)
    """Steps over which the learning rate rises linearly, times the schedule."""
    warmup_factor: float = Field(default=0.001, ge=0, le=1)
    """Where the warm-up begins, as a share."""
    clip: Literal["value", "norm", "none"] = "value"
    """Gradients are clipped each by value, together by norm, or not."""
    clip_at: float = Field(default=35.0, gt=0)
    """The value or norm."""

    @field_validator("drop_at")
    @classmethod
    def _shares_of_the_steps(cls, drop_at: float | tuple[float, ...]) -> float | tuple[float, ...]:
        shares = drop_at if isinstance(drop_at, tuple) else (drop_at,)
        if not shares or not all(0 <= share <= 1 for share in shares):
            raise ValueError("give a share of the steps, from 0 to 1, or a list of them such as [0.67, 0.89]")
        return drop_at

    @property
    def drops(self) -> tuple[float, ...]:
        """The shares of the steps at which the step schedule falls."""
        return self.drop_at if isinstance(self.drop_at, tuple) else (self.drop_at,)


def learning_rate(config: OptimConfig, step: int, steps: int) -> float:
    """Return the learning rate of a step (counted from 0) of a run of `steps`."""
    done = min(step / steps, 1.0)
    factor = {
        "poly": (1 - done) ** config.power,
        "cosine": 0.5 * (1 + math.cos(math.pi * done)),
        "step": config.drop ** sum(done >= share for share in config.drops),
        "constant": 1.0,
    }[config.schedule]
    if step < config.warmup_steps:
        part = step / config.warmup_steps
        factor *= config.warmup_factor * (1 - part) + part
    return config.lr * float(factor)


def parameter_groups(model: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    """Return the trainable parameters in groups of one decay and learning-rate factor (`scale`) each."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for path, module in model.named_modules():
        decay = config.norm_decay if isinstance(module, NORMS) else config.weight_decay
        scale = config.backbone_lr if path.split(".")[0] == "backbone" else 1.0
        for parameter in module.parameters(recurse=False):
            if parameter.requires_grad:
                groups.setdefault((decay, scale), []).append(parameter)
    return [{"params": params, "weight_decay": decay, "scale": scale} for (decay, scale), params in groups.items()]


def optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """Build the optimiser of a model's trainable parameters."""
    groups = parameter_groups(model, config)
    if config.kind == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum)
    return torch.optim.AdamW(groups, lr=config.lr)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its share of a learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]


def clip_gradients(parameters: Iterable[nn.Parameter], config: OptimConfig) -> None:
    """Clip gradients in place as the config says."""
    if config.clip == "value":
        nn.utils.clip_grad_value_(parameters, config.clip_at)
    elif config.clip == "norm":
        nn.utils.clip_grad_norm_(parameters, config.clip_at)
