"""`thingstuff demo`: the main job on made pictures, offline: data, training, measuring, report."""

import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from thingstuff.data.coco import CocoPanoptic
from thingstuff.data.scenes import make_scenes
from thingstuff.display import TrainingDisplay, counting
from thingstuff.errors import InputError
from thingstuff.evaluation.baselines import score_baselines
from thingstuff.evaluation.pq import PQResult
from thingstuff.runs import Extras, RunResult, make_config, train_run

MODEL = "panoptic-fcn-tiny"


@dataclass(frozen=True)
class DemoSize:
    """How much a demo does."""

    train: int = 400
    """Pictures to learn from."""
    val: int = 60
    """Pictures to score on."""
    steps: int = 1150
    """Updates of the weights."""


def run_demo(out: Path, size: DemoSize, *, overwrite: bool = False, console: Console | None = None) -> RunResult:
    """Make a data set, train a small Panoptic FCN on it, score it beside two baselines and write a report.

    Raises `InputError` where the folder `out` is not empty and `overwrite` is not set.
    """
    console = console or Console()
    began = time.monotonic()
    if out.is_dir() and any(out.iterdir()) and not overwrite:
        raise InputError(f"{out} is not empty; give another --out, or --overwrite to make the demo anew")
    with counting(console, "drawing pictures") as progress:
        data = make_scenes(out / "data", size.train, size.val, overwrite=overwrite, progress=progress)
    console.print(f"made {size.train} + {size.val} pictures in {data}", highlight=False)
    train, val = (CocoPanoptic.open(data, split) for split in ("train", "val"))
    baselines = score_baselines(train, val)
    every = max(1, size.steps // 4)
    # One thread: on pictures this small a second one gains little, and it stalls where the other core is busy.
    changes = {"steps": size.steps, "evaluate_every": every, "save_every": every, "threads": 1}
    config = make_config(str(data), MODEL, changes)
    extras = Extras(
        title="thingstuff demo: Panoptic FCN on made pictures",
        baselines=baselines,
        notes={"data": f"{size.train} made pictures to learn from, {size.val} others to score on"},
    )
    with TrainingDisplay(console) as display:
        run = train_run(config, out / "run", overwrite=overwrite, listener=display, extras=extras)
    assert run.result is not None
    console.print(comparison(run.result.pq, baselines))
    console.print(run.result.table(per_class=True))
    console.print(f"took {time.monotonic() - began:.0f} seconds", highlight=False)
    return run


def comparison(result: PQResult, baselines: dict[str, PQResult]) -> Table:
    """Return the model's PQ beside the baselines'."""
    table = Table("on val", "PQ", "PQ things", "PQ stuff")
    for name, row in {"Panoptic FCN (this run)": result, **baselines}.items():
        cells = (f"{100 * mean.pq:.1f}" if mean.pq is not None else "n/a" for mean in (row.all, row.things, row.stuff))
        table.add_row(name, *cells)
    return table
