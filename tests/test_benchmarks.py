"""The benchmarks run, and what they compare is equal; what they measure is for a quiet machine."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from thingstuff.data.scenes import SceneConfig, make_scenes

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


def test_ablations_train_score_and_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_scenes(tmp_path / "data", train=4, val=2, seed=1, config=SceneConfig(size=(64, 80)))
    small = ["--steps", "2", "--short-side", "64", "--set", "batch_size=2", "--set", "augment.short_sides=[64]"]
    words = ["ablations.py", str(data), "--out", str(tmp_path / "runs"), *small]
    main = runpy.run_path(str(FOLDER / "ablations.py"))["main"]
    shown = []
    for seeds in (["0"], ["0", "1"]):
        monkeypatch.setattr(sys, "argv", [*words, "--seeds", *seeds])
        main()
        shown.append([x.split("|")[1:-1] for x in capsys.readouterr().out.splitlines() if x.startswith("| ")][1:])
    assert [row[0].strip() for row in shown[0]] == [
        "Panoptic FCN", "no coordinates", "no fusion", "k = 1", "Panoptic FPN",
    ]  # fmt: skip
    for first, both in zip(*shown, strict=True):
        pq, each = float(first[1]), [float(value) for value in both[4].split(",")]
        assert each[0] == pq
        assert float(both[1]) == pytest.approx(sum(each) / 2, abs=0.11)
    runs = {path.name for path in (tmp_path / "runs").iterdir()}
    assert runs == {f"{run}-{seed}" for run in ("base", "nocoord", "k1", "fpn") for seed in (0, 1)}
    monkeypatch.setattr(sys, "argv", [*words, "--set", "optim.lr=1e-4"])
    with pytest.raises(SystemExit, match="holds a run of other settings"):
        main()


def test_evaluation_runs_on_small_pictures() -> None:
    pytest.importorskip("hotcoco", reason="hotcoco (PyPI) is not installed")
    command = [sys.executable, FOLDER / "evaluation.py", "--small", "--pairs", "8", "--rounds", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for part in ("are the same on all sides", "files, one core", "maps in memory", "files, ours", "once a process"):
        assert part in " ".join(done.stdout.split())


def test_data_runs_on_small_pictures() -> None:
    command = [sys.executable, FOLDER / "data.py", "--small", "--pictures", "4", "--rounds", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for part in ("what is compared is equal", "loader: resized, cropped", "targets of maps", "check", "convert: COCO"):
        assert part in " ".join(done.stdout.split())


def test_every_benchmark_is_tried() -> None:
    tried = Path(__file__).read_text(encoding="utf-8")
    assert [p.name for p in FOLDER.glob("*.py") if f'"{p.name}"' not in tried] == []
