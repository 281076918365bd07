"""Runs that are killed, interrupted, shared by two processes, or go wrong."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from thingstuff import checkpoint
from thingstuff.data.coco import CocoPanoptic
from thingstuff.data.scenes import SceneConfig, make_scenes
from thingstuff.errors import InputError
from thingstuff.models.base import PanopticModel
from thingstuff.optim import OptimConfig, learning_rate
from thingstuff.resuming import truncate_metrics
from thingstuff.runs import make_config, read_config, train_run
from thingstuff.training import NonFiniteLossError, TrainConfig, fit

SMALL = [
    "preprocess.short_side=64",
    "backbone.norm=group",
    "backbone.stem_channels=8",
    "backbone.res2_channels=8",
    "fpn_channels=32",
    "semantic_channels=32",
    "position_channels=32",
    "kernel_channels=32",
    "encoder_channels=8",
    "augment.short_sides=[64]",
    "batch_size=2",
    "workers=2",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    return make_scenes(folder / "data", train=12, val=2, seed=1, config=SceneConfig(size=(64, 80)))


def command(data: Path, out: Path, *settings: str) -> list[str]:
    return ["train", str(data), *SMALL, *settings, "--model", "panoptic-fcn-tiny", "--out", str(out)]


def start(arguments: list[str], launcher: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", *launcher, "thingstuff.cli", *arguments]
    return subprocess.Popen(line, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finished(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def losses(out: Path) -> dict[int, dict[str, float]]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["losses"] for row in rows if "losses" in row}


def wait_for_step(out: Path, step: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 200
    while not (out / "metrics.jsonl").exists() or max(losses(out), default=0) < step:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_killed_run_goes_on_as_if_nothing_had_happened(data: Path, tmp_path: Path) -> None:
    settings = ("steps=18", "save_every=4", "evaluate_every=9")
    finished(start(command(data, tmp_path / "whole", *settings)))
    killed = start(command(data, tmp_path / "killed", *settings))
    wait_for_step(tmp_path / "killed", 10, killed)  # past the checkpoint at 8, in the middle of the second epoch
    workers = psutil.Process(killed.pid).children(recursive=True)
    killed.kill()
    killed.wait()
    assert not psutil.wait_procs(workers, timeout=30)[1], "workers outlive their run"
    finished(start(["train", "--resume", "--out", str(tmp_path / "killed")]))
    whole, resumed = losses(tmp_path / "whole"), losses(tmp_path / "killed")
    assert list(resumed) == list(range(1, 19))
    for step in whole:
        assert resumed[step] == pytest.approx(whole[step], rel=1e-6), step
    saved = [checkpoint.load_training(tmp_path / run / "last.safetensors")[0] for run in ("whole", "killed")]
    for ours, theirs in zip(*(model.state_dict().values() for model in saved), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-7)


def test_two_processes_give_the_losses_of_one_with_the_doubled_batch(data: Path, tmp_path: Path) -> None:
    settings = ("steps=6", "evaluate_every=6", "save_every=6")
    finished(start(command(data, tmp_path / "one", *settings, "batch_size=4")))
    launcher = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")
    finished(start(command(data, tmp_path / "two", *settings, "batch_size=2"), launcher))
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert list(one) == list(two) == list(range(1, 7))
    for step in one:
        assert two[step] == pytest.approx(one[step], rel=2e-4), step
    scores = [json.loads((tmp_path / run / "result.json").read_text())["pictures"] for run in ("one", "two")]
    assert scores == [2, 2]
    rows = [json.loads(line) for line in (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()]
    (shared,) = [row["pq"]["all"] for row in rows if "pq" in row]
    alone = json.loads((tmp_path / "two" / "result.json").read_text())["all"]
    assert shared == pytest.approx({k: alone[k] for k in shared}, abs=1e-3), "one process scores as two did"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for another process")
def test_ctrl_c_saves_and_says_how_to_go_on(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(command(data, out, "steps=500", "save_every=400"))
    wait_for_step(out, 2, process)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert f"thingstuff train --resume --out {out}" in output
    assert "Traceback" not in output
    _, state = checkpoint.load_training(out / "last.safetensors")
    assert state.values["step"] == max(losses(out))


def test_a_loss_that_is_nan_stops_the_run_and_names_step_pictures_and_term(data: Path, tmp_path: Path) -> None:
    train = CocoPanoptic.open(data, "train")
    config = make_config(str(data), "panoptic-fcn-tiny", {"steps": 4, "workers": 0, "batch_size": 2})
    from thingstuff.models import create

    model = create("panoptic-fcn-tiny", train.categories, config.model)
    with torch.no_grad():
        model.kernel_head.out.bias[0] = math.nan  # type: ignore[union-attr,operator,index]
    tmp_path.joinpath("run").mkdir()
    with pytest.raises(NonFiniteLossError, match=r"loss mask_things, mask_stuff is nan at step 1, pictures \d+\.jpg, "):
        fit(model, train, None, config.train, tmp_path / "run")


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        MemoryError(),
    ],
)
def test_too_little_memory_says_what_to_lower(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    settings = {"steps": 1, "workers": 0, "batch_size": 1, "augment.short_sides": [64]}
    config = make_config(str(data), "panoptic-fcn-tiny", settings)

    def raising(error: Exception) -> None:
        def pad(*_: object) -> None:
            raise error

        monkeypatch.setattr(PanopticModel, "pad", pad)
        train_run(config, tmp_path, overwrite=True)

    with pytest.raises(InputError, match=r"out of memory at step 1: lower batch_size .*augment\.short_sides"):
        raising(error)
    with pytest.raises(RuntimeError, match="sizes do not match"):
        raising(RuntimeError("sizes do not match"))


def test_a_full_disk_keeps_the_checkpoint_before(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = CocoPanoptic.open(data, "train")
    from thingstuff.models import create

    model = create("panoptic-fcn-tiny", train.categories)
    path = tmp_path / "last.safetensors"
    checkpoint.save(path, model)
    before = path.read_bytes()

    def full(tensors: object, filename: Path, metadata: object) -> None:
        filename.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(InputError, match=r"No space left.*make room.*checkpoint before it stays"):
        checkpoint.save(path, model)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["last.safetensors"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on file sizes")
def test_a_disk_that_fills_up_while_training_is_one_message(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    finished(start(command(data, out, "steps=2", "evaluate_every=2")))
    before = (out / "last.safetensors").read_bytes()
    limited = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000)); "
        f"sys.argv = ['thingstuff', 'train', 'steps=4', '--resume', '--out', {str(out)!r}]; "
        "from thingstuff.cli import main; main()"
    )
    process = subprocess.run([sys.executable, "-c", limited], capture_output=True, text=True, timeout=200, check=False)
    assert process.returncode == 2, process.stderr
    assert "could not be written" in process.stderr
    assert "Traceback" not in process.stderr
    assert (out / "last.safetensors").read_bytes() == before


def test_metrics_after_the_checkpoint_and_half_lines_are_dropped(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text('{"step": 1}\n{"step": 2, "losses": {"a": 1}}\n{"step": 3}\n{"step": 4, "losses": {"a": 1}')
    truncate_metrics(metrics, 2)
    assert metrics.read_text() == '{"step": 1}\n{"step": 2, "losses": {"a": 1}}\n'


def test_the_authors_learning_rates() -> None:
    config = OptimConfig()
    assert learning_rate(config, 0, 90_000) == pytest.approx(1e-5)
    assert learning_rate(config, 999, 90_000) == pytest.approx(0.00989015418423255)
    assert learning_rate(config, 45_000, 90_000) == pytest.approx(0.005358867312681466)


def test_a_run_goes_on_only_with_the_same_batch(data: Path, tmp_path: Path) -> None:
    changes = {"steps": 2, "workers": 0, "batch_size": 2, "evaluate_every": 2, "augment.short_sides": [64]}
    config = make_config(str(data), "panoptic-fcn-tiny", changes, val_split=None)
    train_run(config, tmp_path / "run")
    again = read_config(tmp_path / "run")
    assert again == config
    other = again.model_copy(update={"train": TrainConfig(**{**again.train.model_dump(), "batch_size": 3, "steps": 4})})
    with pytest.raises(InputError, match=r"had 2 pictures a step.*now it is 3"):
        train_run(other, tmp_path / "run", resume=True)


def test_accumulated_batches_are_averaged_to_one_update(data: Path, tmp_path: Path) -> None:
    from thingstuff.data.loading import training_batches
    from thingstuff.models import create

    train = CocoPanoptic.open(data, "train")
    optim = {"optim.kind": "sgd", "optim.clip": "none", "optim.warmup_steps": 0, "optim.schedule": "constant"}
    changes = {"steps": 1, "workers": 0, "batch_size": 2, "accumulate": 2, "optim.weight_decay": 0.0, **optim}
    config = make_config(str(data), "panoptic-fcn-tiny", {**changes, "backbone.norm": "group"})
    torch.manual_seed(0)
    model = create("panoptic-fcn-tiny", train.categories, config.model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    settings = {"batch_size": 2, "steps": range(2), "seed": config.train.seed, "workers": 0}
    for batch in training_batches(train, config.train.augment, **settings):
        losses = model.loss(model(model.pad(batch.pictures)), batch.targets("cpu"))
        (sum(losses.values()) / 2).backward()
    expected = {
        n: before[n] - config.train.optim.lr * p.grad for n, p in model.named_parameters() if p.grad is not None
    }
    model.load_state_dict(before)
    model.zero_grad()
    (tmp_path / "run").mkdir()
    fit(model, train, None, config.train, tmp_path / "run")
    after = model.state_dict()
    for name, value in expected.items():
        moved = (value - before[name]).norm()
        assert (after[name] - value).norm() <= 0.1 * moved + 1e-6, name  # channels_last alone moves it by 0.02
