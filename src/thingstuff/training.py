"""Training: one visible loop that logs, evaluates, saves, and goes on where it stopped."""

import itertools
import json
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast, gather_object
from pydantic import Field
from torch import Tensor, nn

from thingstuff import checkpoint
from thingstuff.checkpoint import TrainingState
from thingstuff.data.coco import CocoPanoptic
from thingstuff.data.loading import Batch, training_batches
from thingstuff.data.transforms import AugmentConfig
from thingstuff.errors import InputError
from thingstuff.evaluation.pq import PQResult
from thingstuff.memory import telling_of_memory
from thingstuff.models.base import PanopticModel
from thingstuff.optim import clip_gradients, learning_rate, optimizer, set_learning_rate
from thingstuff.resuming import optimizer_state, optimizer_tensors, random_state, set_random_state, truncate_metrics
from thingstuff.scoring import evaluate_model
from thingstuff.stages import Stage, StageConfig, refuse_other_stage, stage_at, stages_of
from thingstuff.stopping import any_process, stop_requests
from thingstuff.structures import Images, Target


class TrainConfig(StageConfig):
    """How a model is trained: the first stage's settings, what all stages share, and the second stage if any."""

    batch_size: int = Field(default=4, ge=1)
    """Pictures of a step, of each process."""
    accumulate: int = Field(default=1, ge=1)
    """Batches whose gradients are averaged to one update."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """Mixed precision of the forward pass; `no` is fp32."""
    seed: int = Field(default=0, ge=0)
    """Decides first weights, order and augmentation."""
    threads: int | None = Field(default=None, ge=1)
    """Threads of a CPU's training; null leaves it to PyTorch."""
    workers: int = Field(default=2, ge=0)
    """Processes that read and augment pictures; 0 does it in the training process."""
    evaluate_every: int = Field(default=500, ge=1)
    """Steps between evaluations on the val split; there is one at the end."""
    save_every: int = Field(default=200, ge=1)
    """Steps between checkpoints: what a kill can cost."""
    augment: AugmentConfig = AugmentConfig()
    """What happens to training pictures."""
    then: StageConfig | None = None
    """A second stage after these steps; null for none."""

    @property
    def stages(self) -> tuple[StageConfig, ...]:
        """The stages' settings in their order."""
        return (self,) if self.then is None else (self, self.then)


@runtime_checkable
class Listener(Protocol):
    """What `fit` tells while it works; a display implements it."""

    def start(self, step: int, steps: int) -> None:
        """Training begins at `step`."""

    def step(self, record: dict[str, Any]) -> None:
        """A step is done; the record is a row of metrics.jsonl."""

    def evaluating(self, done: int, total: int) -> None:
        """So many val pictures are predicted."""

    def evaluated(self, step: int, result: PQResult) -> None:
        """The val split is scored."""


class Silence:
    """A listener that shows nothing."""

    def start(self, step: int, steps: int) -> None:
        """Show nothing."""

    def step(self, record: dict[str, Any]) -> None:
        """Show nothing."""

    def evaluating(self, done: int, total: int) -> None:
        """Show nothing."""

    def evaluated(self, step: int, result: PQResult) -> None:
        """Show nothing."""


class Interrupted(Exception):  # noqa: N818 -- no error: the user asked for it
    """Ctrl-C or a request to end: the run is saved at `step`."""

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped and saved at step {step}")
        self.step = step


class NonFiniteLossError(InputError):
    """A loss became NaN or infinite; the message names the step, the term and the pictures."""


class TrainStep(nn.Module):
    """Model and loss as one module, for data-parallel training; the loss is computed in fp32."""

    def __init__(self, model: PanopticModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Images, targets: Sequence[Target]) -> dict[str, Tensor]:
        output = self.model(images)
        with torch.autocast(images.pixels.device.type, enabled=False):
            return self.model.loss(output, targets)


@dataclass
class _Run:
    """What the loop's parts share."""

    accelerator: Accelerator
    model: PanopticModel
    config: TrainConfig
    out: Path
    listener: Listener
    stages: tuple[Stage, ...]
    stop: threading.Event
    best: float = -1.0
    seconds: float = 0.0

    @property
    def last(self) -> Path:
        return self.out / f"last{checkpoint.SUFFIX}"

    @property
    def metrics(self) -> Path:
        return self.out / "metrics.jsonl"

    @property
    def steps(self) -> int:
        return self.stages[-1].end

    def log(self, record: dict[str, Any]) -> None:
        if self.accelerator.is_main_process:
            with self.metrics.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")


def make_accelerator(config: TrainConfig) -> Accelerator:
    """Return accelerate's view of the devices, processes and precision; the CPU where there is no CUDA GPU."""
    if config.precision == "fp16" and not torch.cuda.is_available():
        raise InputError("precision=fp16 needs a GPU; on a CPU give precision=bf16 or no")
    AcceleratorState._reset_state()  # a second run in one process may have another precision
    return Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision=config.precision,
        gradient_accumulation_steps=config.accumulate,
    )


def fit(
    model: PanopticModel,
    train: CocoPanoptic,
    val: CocoPanoptic | None,
    config: TrainConfig,
    out: Path,
    *,
    resume: bool = False,
    listener: Listener | None = None,
    ready: Callable[[], None] = lambda: None,
) -> PQResult | None:
    """Train a model; write metrics.jsonl, last.safetensors and (by PQ on val) best.safetensors into `out`.

    Each stage has an optimiser of its own. With `resume` a run goes on after its last checkpoint as if it had never
    stopped. Returns the last evaluation; None without `val` or anything to score. Raises `Interrupted` on Ctrl-C after
    saving, `NonFiniteLossError`, `InputError` for a full disk, too little memory, another run's checkpoint or
    a part the model lacks.
    """
    for stage_config in config.stages:
        model.check_part(stage_config.learns)
    if config.threads:
        torch.set_num_threads(config.threads)
    accelerator = make_accelerator(config)
    stages = stages_of(config.stages, len(train), _whole_batch(accelerator, config))
    run = _Run(accelerator, model, config, out, listener or Silence(), stages, threading.Event())
    model.to(memory_format=torch.channels_last).to(accelerator.device).train()  # convolutions are faster so
    state = _restore(run) if resume and run.last.exists() else TrainingState(values={"step": 0, "pending": False})
    if not state.tensors and accelerator.process_index:  # else all processes would drop out alike
        torch.manual_seed(config.seed + accelerator.process_index)
    start, pending = state.values["step"], state.values["pending"]
    steps = _steps(run, train, start)
    first = next(steps, None)
    if accelerator.is_main_process:
        ready()
        truncate_metrics(run.metrics, start, with_score=not pending)
    accelerator.wait_for_everyone()
    run.listener.start(start, run.steps)
    with stop_requests(run.stop):
        result = _evaluate_and_keep(run, val, start) if pending and val is not None else None
        steps = itertools.chain([first] if first else [], steps)
        for stage in stages[stages.index(stage_at(stages, start)) :]:
            result = _run_stage(run, stage, steps, state, val) or result
    return result


def _run_stage(
    run: _Run, stage: Stage, steps: Iterator[tuple[int, list[Batch]]], state: TrainingState, val: CocoPanoptic | None
) -> PQResult | None:
    """Train what is left of a stage; return its last evaluation."""
    step_module, updates = _begin_stage(run, stage, state)
    result = None
    for step, batches in itertools.islice(steps, max(0, stage.end - max(stage.begin, state.values["step"]))):
        with telling_of_memory(step + 1, run.out):
            record = _update(run, stage, step_module, updates, step, batches)
        run.log(record)
        run.listener.step(record)
        done = step + 1
        last = done == run.steps
        due = val is not None and run.model.measurable and (done == stage.end or done % run.config.evaluate_every == 0)
        stopping = any_process(run.accelerator, run.stop.is_set())
        if due or last or stopping or done % run.config.save_every == 0:
            _save(
                run, stage, updates, done, pending=due
            )  # before the evaluation, which may be long; it can be repeated
        if stopping and not (last and not due):
            raise Interrupted(done)
        if due and val is not None:
            result = _evaluate_and_keep(run, val, done)
    return result


def _begin_stage(run: _Run, stage: Stage, state: TrainingState) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Let the stage's part learn; return the step's module and the optimiser, in the state of a run that goes on."""
    run.accelerator.free_memory()  # the stage before leaves its optimiser and its data-parallel wrapper
    run.model.learn(stage.learns)
    run.model.train()
    step_module, updates = run.accelerator.prepare(TrainStep(run.model), optimizer(run.model, stage.optim))
    if state.values["step"] > stage.begin:  # else it belongs to the stage before
        updates.load_state_dict(optimizer_state(state, updates, run.model))
    return step_module, updates


def _steps(run: _Run, train: CocoPanoptic, start: int) -> Iterator[tuple[int, list[Batch]]]:
    """Yield each step with its batches."""
    config = run.config
    batches = training_batches(
        train,
        config.augment,
        batch_size=config.batch_size,
        steps=range(start * config.accumulate, run.steps * config.accumulate),
        seed=config.seed,
        workers=config.workers,
        rank=run.accelerator.process_index,
        processes=run.accelerator.num_processes,
    )
    for step in range(start, run.steps):
        yield step, [next(batches) for _ in range(config.accumulate)]


def _update(
    run: _Run, stage: Stage, step_module: nn.Module, updates: torch.optim.Optimizer, step: int, batches: list[Batch]
) -> dict[str, Any]:
    """Update the weights once and return the step's record: losses are means over batches and processes."""
    began = time.perf_counter()
    rate = learning_rate(stage.optim, step - stage.begin, stage.steps)
    set_learning_rate(updates, rate)
    sums: dict[str, float] = {}
    for batch in batches:
        with run.accelerator.accumulate(step_module):
            images = run.model.pad(batch.pictures)
            losses = step_module(images, batch.targets(run.accelerator.device))
            run.accelerator.backward(torch.stack(list(losses.values())).sum())
            means = run.accelerator.reduce(torch.stack([v.detach() for v in losses.values()]), "mean").tolist()
            values = dict(zip(losses, means, strict=True))
            _refuse_non_finite(run, step, values, batch)
            if run.accelerator.sync_gradients:
                run.accelerator.unscale_gradients(updates)
                clip_gradients(run.model.parameters(), stage.optim)
            updates.step()
            updates.zero_grad()
        for name, value in values.items():
            sums[name] = sums.get(name, 0.0) + value / len(batches)
    run.seconds += time.perf_counter() - began
    return {
        "step": step + 1,
        "loss": sum(sums.values()),
        "losses": sums,
        "lr": rate,
        "seconds": round(run.seconds, 3),
    }


def _refuse_non_finite(run: _Run, step: int, values: dict[str, float], batch: Batch) -> None:
    wrong = [name for name, value in values.items() if not math.isfinite(value)]
    if wrong:
        pictures = gather_object(batch.names)
        raise NonFiniteLossError(
            f"loss {', '.join(wrong)} is {values[wrong[0]]} at step {step + 1}, pictures {', '.join(pictures)}. "
            f"The checkpoint before it stays in {run.out}. Lower optim.lr or lengthen optim.warmup_steps; "
            "if it is always the same picture, look at it"
        )


# ---- evaluating


def _evaluate_and_keep(run: _Run, val: CocoPanoptic, done: int) -> PQResult:
    """Score the val split and keep the weights if they are the best so far."""

    def progress(pictures: int, total: int) -> None:
        if run.stop.is_set():
            raise Interrupted(done)
        run.listener.evaluating(pictures, total)

    if run.accelerator.num_processes > 1:
        for buffer in run.model.buffers():  # batch norm's statistics are each process's own until the next forward
            broadcast(buffer)
    score = evaluate_model(run.model, val, accelerator=run.accelerator, progress=progress)
    run.model.train()
    result = score.pq
    means = {"all": result.all, "things": result.things, "stuff": result.stuff}
    run.log({"step": done, "pq": {k: {"pq": m.pq, "sq": m.sq, "rq": m.rq} for k, m in means.items()}})
    run.listener.evaluated(done, result)
    pq = result.all.pq or 0.0
    if pq > run.best:
        run.best = pq
        if run.accelerator.is_main_process:
            checkpoint.save(run.out / f"best{checkpoint.SUFFIX}", run.model)
    return result


# ---- saving and going on


def _save(run: _Run, stage: Stage, updates: torch.optim.Optimizer, done: int, pending: bool) -> None:
    """Write the last checkpoint; `pending` says that its evaluation is still to come."""
    everywhere = dict(gather_object(list(random_state(run.accelerator).items())))
    if run.accelerator.is_main_process:
        tensors, plain = optimizer_tensors(updates, run.model)
        scaler = run.accelerator.scaler
        values = {
            "step": done,
            "pending": pending,
            "best": run.best,
            "seconds": run.seconds,
            "batch": _whole_batch(run.accelerator, run.config),
            "stage": stage.identity,
            "optimizer": plain,
            "scaler": scaler.state_dict() if scaler is not None else {},
        }
        checkpoint.save(run.last, run.model, TrainingState(tensors | everywhere, values))
    run.accelerator.wait_for_everyone()


def _whole_batch(accelerator: Accelerator, config: TrainConfig) -> int:
    processes: int = accelerator.num_processes
    return config.batch_size * config.accumulate * processes


def _restore(run: _Run) -> TrainingState:
    """Load weights and random state of the last checkpoint; return all that it keeps besides the weights."""
    saved, state = checkpoint.load_training(run.last)
    _refuse_other_run(run, saved, state)
    run.model.load_state_dict(saved.state_dict())
    if run.accelerator.scaler is not None and state.values["scaler"]:
        run.accelerator.scaler.load_state_dict(state.values["scaler"])
    set_random_state(run.accelerator, state.tensors)
    run.best, run.seconds = state.values["best"], state.values["seconds"]
    return state


def _refuse_other_run(run: _Run, saved: PanopticModel, state: TrainingState) -> None:
    if not state.values:
        raise InputError(f"{run.last} holds weights alone, so no run can go on from it; start one in another --out")
    if saved.config != run.model.config or saved.categories != run.model.categories:
        raise InputError(
            f"{run.last}: its model or categories differ from this run's; give another --out to start anew"
        )
    batch = _whole_batch(run.accelerator, run.config)
    if state.values["batch"] != batch:
        raise InputError(
            f"{run.last}: the run had {state.values['batch']} pictures a step over all processes, now it is "
            f"{batch}; set batch_size so that it stays"
        )
    # a run of before there were stages kept the optimiser's kind alone
    before = state.values.get("stage") or {"begin": 0, "learns": "all", "kind": state.values["kind"]}
    refuse_other_stage(run.last, run.stages, state.values["step"], before)
