"""Runs in two stages that are killed in either go on as if nothing had happened."""

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from command_server import CommandServer, command_server
from thingstuff import checkpoint
from thingstuff.data.scenes import SceneConfig, make_scenes
from thingstuff.errors import InputError
from thingstuff.optim import learning_rate
from thingstuff.runs import make_config, read_config, resumed_config, train_run
from thingstuff.training import Interrupted, Silence
from two_stages import (
    FAST,
    NAME,
    Seen,
    assert_same_run,
    config_of,
    losses,
    model_of,
    register,
    registered,
    two_stages,
    weights,
)


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    with registered():
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    return make_scenes(folder / "data", train=11, val=2, seed=1, config=SceneConfig(size=(64, 80)))


@pytest.fixture(scope="module")
def server() -> Iterator[CommandServer]:
    """What runs commands in processes of their own."""
    if not hasattr(os, "fork"):
        pytest.skip("processes cannot be forked here")
    with command_server() as server:
        yield server


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Seen]:
    """A two-stage run that nothing disturbed."""
    register()
    out, seen = tmp_path_factory.mktemp("whole") / "run", Seen()
    train_run(config_of(data, {"save_every": 4, "evaluate_every": 4}), out, listener=seen)
    return out, seen


def test_each_stage_learns_its_part_by_its_own_schedule(data: Path, whole: tuple[Path, Seen]) -> None:
    out, seen = whole
    assert seen.total == 14
    parts = [{name.split("_")[0] for name in values} for values in losses(out).values()]
    assert parts == [{"position"}] * 8 + [{"mask"}] * 6
    optim = two_stages().optim
    expected = [learning_rate(optim, step, 8) for step in range(8)] + [learning_rate(optim, s, 6) for s in range(6)]
    assert list(seen.rates.values()) == pytest.approx(expected)
    assert seen.evaluated_at == [12, 14]  # never while boxes are learned alone
    assert json.loads((out / "result.json").read_text())["pictures"] == 2
    assert (out / "best.safetensors").exists()


def test_the_second_stage_leaves_the_first_part_as_it_was(data: Path, whole: tuple[Path, Seen], tmp_path: Path) -> None:
    config = config_of(data, {"save_every": 8})
    with pytest.raises(KeyboardInterrupt):
        train_run(config, tmp_path / "run", listener=Seen(kill_after=9))
    first, both = weights(tmp_path / "run"), weights(whole[0])
    of_masks = {*model_of().parameters_of("masks")}
    moved = {name for name, value in both.items() if not torch.equal(value, first[name])}
    assert moved  # ... and batch norm's statistics stay too
    assert moved <= of_masks
    assert not any("running" in name or "num_batches" in name for name in moved)


@pytest.mark.parametrize(("kill_after", "save_every"), [(7, 4), (8, 4), (9, 4), (11, 5), (14, 4)])
def test_a_run_goes_on_from_any_place(
    data: Path, whole: tuple[Path, Seen], tmp_path: Path, kill_after: int, save_every: int
) -> None:
    out = tmp_path / "run"
    config = config_of(data, {"save_every": save_every, "evaluate_every": 4})
    with pytest.raises(KeyboardInterrupt):
        train_run(config, out, listener=Seen(kill_after))
    train_run(read_config(out), out, resume=True)
    assert_same_run(out, whole[0])


class StopAt(Silence):
    """Asks for an end, as Ctrl-C does, at a step."""

    def __init__(self, step: int) -> None:
        self.at = step

    def step(self, record: dict[str, Any]) -> None:
        if record["step"] == self.at:
            signal.raise_signal(signal.SIGINT)


def test_ctrl_c_at_the_boundary(data: Path, whole: tuple[Path, Seen], tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(Interrupted, match="step 8"):
        train_run(config_of(data, {"save_every": 100, "evaluate_every": 4}), out, listener=StopAt(8))
    _, state = checkpoint.load_training(out / "last.safetensors")
    assert state.values["step"] == 8
    seen = Seen()
    train_run(read_config(out), out, resume=True, listener=seen)
    assert list(seen.rates) == list(range(9, 15))
    assert_same_run(out, whole[0])


def test_a_process_killed_in_either_stage_goes_on(
    data: Path, whole: tuple[Path, Seen], server: CommandServer, tmp_path: Path
) -> None:
    out, log = tmp_path / "run", tmp_path / "log.txt"

    def kill_at(step: int, *arguments: str) -> None:
        process = server.start(log, "train", *arguments, "--out", str(out))
        deadline = time.monotonic() + 120
        while not (out / "metrics.jsonl").exists() or max(losses_so_far(out), default=0) < step:
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.005)
        os.kill(process, signal.SIGKILL)
        assert server.wait(process) == -signal.SIGKILL, log.read_text()

    settings = [f"{key}={json.dumps(value)}" for key, value in {**FAST, "save_every": 4, "evaluate_every": 4}.items()]
    kill_at(6, str(data), *settings, "--model", NAME, "--recipe", "two-stages")
    kill_at(11, "--resume")
    assert server.wait(server.start(log, "train", "--resume", "--out", str(out))) == 0, log.read_text()
    assert_same_run(out, whole[0])


def losses_so_far(out: Path) -> list[int]:
    """The steps in the metrics of a run under way, whose last line may be half written."""
    return [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().split("\n")[:-1]]


def test_boxes_alone_are_not_scored(data: Path, tmp_path: Path) -> None:
    changes = {"then": None, "steps": 3, "evaluate_every": 1}
    seen = Seen()
    run = train_run(config_of(data, changes), tmp_path / "run", listener=seen)
    assert run.result is None
    assert seen.evaluated_at == []
    assert not (run.folder / "best.safetensors").exists()
    assert not (run.folder / "result.json").exists()
    assert "boxes only: no masks to score yet" in run.report.read_text(encoding="utf-8")


def test_epochs_are_counted_by_the_train_split(data: Path, tmp_path: Path) -> None:
    seen = Seen()
    config = config_of(data, {"epochs": 1, "then.epochs": 0.4})
    train_run(config, tmp_path / "run", listener=seen)
    assert seen.total == 5 + 2  # 11 pictures, two a step
    assert read_config(tmp_path / "run") == config


def test_a_stage_that_is_over_cannot_change(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train_run(config_of(data, {"save_every": 5}), out, listener=Seen(kill_after=11))  # saved at 10
    for changes in ({"steps": 4}, {"steps": 20}, {"then.learns": "all"}, {"then.optim.kind": "sgd"}):
        with pytest.raises(InputError, match=r"first step 9, learns=masks, optim\.kind=adamw; with these settings"):
            train_run(resumed_config(out, None, None, changes), out, resume=True)
    seen = Seen()
    train_run(resumed_config(out, None, None, {"then.steps": 4}), out, resume=True, listener=seen)
    assert list(seen.rates) == [11, 12]


def test_a_stage_under_way_may_become_longer(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train_run(config_of(data, {"save_every": 8}), out, listener=Seen(kill_after=9))  # saved where it ended
    seen = Seen()
    train_run(resumed_config(out, None, None, {"steps": 10}), out, resume=True, listener=seen)
    assert list(seen.rates) == list(range(9, 17))
    assert set(losses(out)[10]) == {"position_things", "position_stuff"}


def test_two_processes_train_in_stages_as_one_does(data: Path, server: CommandServer, tmp_path: Path) -> None:
    own = {"backbone.norm": "group", "save_every": 100, "steps": 3, "then.steps": 3}
    train_run(config_of(data, {**own, "batch_size": 4}), tmp_path / "one")
    settings = [f"{key}={json.dumps(value)}" for key, value in {**FAST, **own, "batch_size": 2}.items()]
    words = ["train", str(data), *settings, "--model", NAME, "--recipe", "two-stages", "--out", str(tmp_path / "two")]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # what torchrun tells the processes that it starts
    group = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    logs = [tmp_path / f"log{rank}.txt" for rank in (0, 1)]
    started = [
        server.start(log, *words, environment={**group, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank, log in enumerate(logs)
    ]
    for process, log in zip(started, logs, strict=True):
        assert server.wait(process) == 0, log.read_text()
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert list(one) == list(two) == list(range(1, 7))
    for step in one:
        assert two[step] == pytest.approx(one[step], rel=2e-4), step


def test_detr_goes_on_in_either_stage(data: Path, tmp_path: Path) -> None:
    changes = {"preprocess.short_side": 64, "augment.short_sides": [64], "batch_size": 2, "save_every": 2, "steps": 4}
    changes |= {"then.steps": 3, "dropout": 0.1}  # dropout draws random numbers, in the first stage alone
    config = make_config(str(data), "detr-panoptic-tiny", changes, "detr-scratch", val_split=None)
    train_run(config, tmp_path / "whole")
    for kill_after in (3, 7):
        out = tmp_path / str(kill_after)
        with pytest.raises(KeyboardInterrupt):
            train_run(config, out, listener=Seen(kill_after))
        train_run(read_config(out), out, resume=True)
        assert_same_run(out, tmp_path / "whole")
