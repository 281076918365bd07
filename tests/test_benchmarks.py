"""The benchmarks run, and what they compare is equal; what they measure is for a quiet machine."""

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux's /proc")
def test_detr_runs_on_a_small_model() -> None:
    command = [sys.executable, FOLDER / "detr.py", "--small", "--rounds", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    for part in ("surviving masks", "Hugging Face", "where the time goes", "beyond the weights", "8 matched"):
        assert " ".join(part.split()) in " ".join(done.stdout.split())


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux's /proc")
def test_panoptic_fcn_runs_on_a_small_picture() -> None:
    command = [sys.executable, FOLDER / "panoptic_fcn.py", "--small", "--rounds", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    for part in ("making of targets", "kernels and masks", "beyond its output", "with gradients", "position head"):
        assert " ".join(part.split()) in " ".join(done.stdout.split())


def test_every_benchmark_is_tried() -> None:
    tried = Path(__file__).read_text(encoding="utf-8")
    assert [p.name for p in FOLDER.glob("*.py") if f'"{p.name}"' not in tried] == []
