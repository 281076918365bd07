"""A small model that learns in two parts, and runs of it in two stages."""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from thingstuff import checkpoint
from thingstuff.models import MODELS, create
from thingstuff.models.base import PanopticModel
from thingstuff.models.panoptic_fcn import PanopticFCN, PanopticFCNOutput
from thingstuff.optim import OptimConfig
from thingstuff.panoptic import Categories
from thingstuff.recipes import RECIPES, Recipe
from thingstuff.runs import RunConfig, make_config
from thingstuff.stages import StageConfig
from thingstuff.structures import Target
from thingstuff.training import Silence, TrainConfig

NAME = "in-two-parts"
CATEGORIES = Categories(("sky", "disc"), (False, True), (1, 2))
SMALL: dict[str, Any] = {
    "preprocess.short_side": 64,
    "backbone.stem_channels": 8,
    "backbone.res2_channels": 8,
    "fpn_channels": 32,
    "semantic_channels": 32,
    "position_channels": 32,
    "kernel_channels": 32,
    "encoder_channels": 8,
}
# One thread: sums have another order on another number of threads, and runs of several processes are compared.
FAST: dict[str, Any] = {**SMALL, "augment.short_sides": [64], "batch_size": 2, "workers": 0, "threads": 1}


class InTwoParts(PanopticFCN):
    """A model that finds where things are, and then their masks."""

    PARTS: ClassVar[tuple[str, ...]] = ("all", "boxes", "masks")

    def parameters_of(self, part: str) -> Iterable[str]:
        of_masks = ("kernel_head.", "semantic_fpn.", "feature_encoder.", "thing_embedding.", "stuff_embedding.")
        of_masks += ("fpn.output.2.", "fpn.lateral.2.")  # P2 serves masks alone
        return [name for name, _ in self.named_parameters() if name.startswith(of_masks) == (part == "masks")]

    @property
    def measurable(self) -> bool:
        return self.learning != "boxes"

    def loss(self, output: PanopticFCNOutput, targets: Sequence[Target]) -> dict[str, Tensor]:
        kind = {"all": "", "boxes": "position_", "masks": "mask_"}[self.learning]
        return {name: value for name, value in super().loss(output, targets).items() if name.startswith(kind)}


def two_stages() -> TrainConfig:
    optim = OptimConfig(kind="adamw", lr=1e-3, schedule="step", warmup_steps=2, clip="norm")
    return TrainConfig(
        learns="boxes", steps=8, optim=optim, then=StageConfig(learns="masks", steps=6, optim=optim), seed=3
    )


def register() -> None:
    """Put the model and its recipes among the known ones, for this process."""
    MODELS[NAME] = (MODELS["panoptic-fcn-tiny"][0], InTwoParts)
    RECIPES["two-stages"] = lambda _: Recipe(two_stages())


@contextmanager
def registered() -> Iterator[None]:
    """Have the model and its recipes among the known ones for as long as the block lasts."""
    register()
    yield
    del MODELS[NAME], RECIPES["two-stages"]


def config_of(data: Path, changes: dict[str, Any] | None = None, recipe: str | None = "two-stages") -> RunConfig:
    return make_config(str(data), NAME, {**FAST, **(changes or {})}, recipe)


def model_of(**changes: Any) -> PanopticModel:
    torch.manual_seed(0)
    return create(NAME, CATEGORIES, **{**SMALL, **changes})


def rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def losses(out: Path) -> dict[int, dict[str, float]]:
    return {row["step"]: row["losses"] for row in rows(out) if "losses" in row}


def weights(out: Path) -> dict[str, Tensor]:
    return checkpoint.load_training(out / "last.safetensors")[0].state_dict()


def assert_same_run(ours: Path, whole: Path) -> None:
    assert list(losses(ours)) == list(losses(whole))
    for step, values in losses(whole).items():
        assert losses(ours)[step] == pytest.approx(values, rel=1e-6), step
    our_weights = weights(ours)
    for name, value in weights(whole).items():
        torch.testing.assert_close(our_weights[name], value, rtol=1e-5, atol=1e-7)


class Seen(Silence):
    """What a training tells; it may be killed, as by a power cut, before a step is written down as done."""

    def __init__(self, kill_after: int | None = None) -> None:
        self.kill_after = kill_after
        self.rates: dict[int, float] = {}
        self.evaluated_at: list[int] = []
        self.total = 0

    def start(self, step: int, steps: int) -> None:
        self.total = steps

    def step(self, record: dict[str, Any]) -> None:
        self.rates[record["step"]] = record["lr"]
        if record["step"] == self.kill_after:
            raise KeyboardInterrupt

    def evaluated(self, step: int, result: Any) -> None:
        self.evaluated_at.append(step)
