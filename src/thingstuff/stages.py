"""The stages of a training: what is learned in each, for how long, and by which optimiser."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from thingstuff.errors import InputError
from thingstuff.optim import OptimConfig


class StageConfig(BaseModel):
    """What one stage of a training learns, how long and how."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    learns: str = "all"
    """The model's part that learns: `all`, or one of its own (DETR: `boxes`, `masks`)."""
    steps: int = Field(default=4000, ge=1)
    """Updates of the weights."""
    epochs: float | None = Field(default=None, gt=0)
    """Passes over the train split; replaces `steps` unless null."""
    optim: OptimConfig = OptimConfig()
    """How weights are updated."""


@dataclass(frozen=True)
class Stage:
    """A stage as the run's steps from `begin` to before `end`."""

    begin: int
    end: int
    learns: str
    optim: OptimConfig

    @property
    def steps(self) -> int:
        """How many."""
        return self.end - self.begin

    @property
    def identity(self) -> dict[str, Any]:
        """What cannot change once the stage has begun."""
        return {"begin": self.begin, "learns": self.learns, "kind": self.optim.kind}


def steps_of(config: StageConfig, pictures: int, whole_batch: int) -> int:
    """Return a stage's steps; an epoch leaves out what fills no whole batch and has one step at least.

    `whole_batch` is the pictures of a step over all processes.
    """
    if config.epochs is None:
        return config.steps
    return max(1, round(config.epochs * max(1, pictures // whole_batch)))


def stages_of(configs: Sequence[StageConfig], pictures: int, whole_batch: int) -> tuple[Stage, ...]:
    """Return the stages one after the other, for a train split of so many pictures."""
    stages: list[Stage] = []
    for config in configs:
        begin = stages[-1].end if stages else 0
        steps = steps_of(config, pictures, whole_batch)
        stages.append(Stage(begin, begin + steps, config.learns, config.optim))
    return tuple(stages)


def stage_at(stages: Sequence[Stage], step: int) -> Stage:
    """Return the stage that a step (counted from 0) belongs to; the last one for steps past the end."""
    return next((stage for stage in stages if step < stage.end), stages[-1])


def refuse_other_stage(checkpoint: Path, stages: Sequence[Stage], step: int, before: Mapping[str, Any]) -> None:
    """Raise `InputError` where a run that goes on at `step` would not be in the stage whose identity was `before`."""
    position = stages.index(stage_at(stages, step))
    if position > 0 and stages[position].begin == step:  # the stage before is just over, and its state is the last
        position -= 1
    now = stages[position].identity
    if before != now:
        raise InputError(
            f"{checkpoint}: the run stopped in a stage with {_described(before)}; with these settings step {step} lies "
            f"in one with {_described(now)}. Leave out what changes the stages, or start anew in another --out"
        )


def _described(identity: Mapping[str, Any]) -> str:
    return f"first step {identity['begin'] + 1}, learns={identity['learns']}, optim.kind={identity['kind']}"
