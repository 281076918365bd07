"""Panoptic FCN's switches and Panoptic FPN, learned from scratch on one data set: same steps, same seeds, one table.

    python benchmarks/ablations.py camvid_panoptic_mini --out ablations

trains every variant once per seed (minutes each on one CPU core; what is finished is not done again, what was stopped
goes on), scores the weights of the last step on val, and prints PQ, things and stuff of each seed and their mean.
`--set key=value` changes a setting of all of them.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from thingstuff.checkpoint import SUFFIX
from thingstuff.config import parse_overrides
from thingstuff.display import TrainingDisplay
from thingstuff.errors import InputError
from thingstuff.io import atomic_write
from thingstuff.model_evaluation import evaluate_run
from thingstuff.runs import RESULT, make_config, read_config, train_run

GROUPS = ("all", "things", "stuff")


@dataclass(frozen=True)
class Variant:
    """A line of the table: its run (which lines that differ in inference alone share) and what it sets."""

    title: str
    run: str
    model: str = "panoptic-fcn-tiny"
    training: Mapping[str, Any] = field(default_factory=dict)
    inference: Mapping[str, Any] = field(default_factory=dict)


VARIANTS = (
    Variant("Panoptic FCN", "base"),
    Variant("no coordinates", "nocoord", training={"kernel_coordinates": False, "encoder_coordinates": False}),
    Variant("no fusion", "base", inference={"kernel_fusion": False}),
    Variant("k = 1", "k1", training={"positives": 1}),
    Variant("Panoptic FPN", "fpn", model="panoptic-fpn-tiny"),
)


def settings(short_side: int, steps: int, seed: int) -> dict[str, Any]:
    """Return what all variants have in common."""
    return {
        "preprocess.short_side": short_side,
        "stuff_area": 1000,
        "steps": steps,
        "evaluate_every": steps,  # once, at the end: no checkpoint is chosen by what it scores on val
        "save_every": max(1, steps // 2),
        "threads": 1,
        "optim.lr": 3e-3,
        "seed": seed,
    }


def trained(data: str, variant: Variant, folder: Path, common: Mapping[str, Any]) -> Path:
    """Return a run folder of a variant, which is trained first where it is not finished."""
    config = make_config(data, variant.model, {**common, **variant.training})
    if folder.is_dir() and read_config(folder) != config:
        raise InputError(f"{folder} holds a run of other settings; give another --out")
    if not (folder / RESULT).is_file():
        with TrainingDisplay(Console()) as display:
            train_run(config, folder, resume=(folder / f"last{SUFFIX}").is_file(), overwrite=True, listener=display)
    return folder


def scores(data: str, variant: Variant, run: Path) -> dict[str, float]:
    """Return PQ of everything, things and stuff on val, in per cent; it is kept beside the run."""
    file = run / "ablations.json"
    kept = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if variant.title not in kept:
        result = evaluate_run(run, data, "val", changes=variant.inference).to_json()
        kept[variant.title] = {group: 100 * (result[group]["pq"] or 0.0) for group in GROUPS}
        atomic_write(file, json.dumps(kept, indent=1))
    found: dict[str, float] = kept[variant.title]
    return found


def table(found: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Return the Markdown table: the mean over seeds, and each seed's PQ."""
    lines = ["| | PQ | things | stuff | PQ of each seed |", "|---|---|---|---|---|"]
    for title, seeds in found.items():
        means = [f"{sum(s[group] for s in seeds) / len(seeds):.1f}" for group in GROUPS]
        each = ", ".join(f"{s['all']:.1f}" for s in seeds)
        lines.append(f"| {title} | {' | '.join(means)} | {each} |")
    return "\n".join(lines)


def main() -> None:
    """Train what is not there yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="data folder with a train and a val split")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--short-side", type=int, default=192)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--only", nargs="+", choices=[v.title for v in VARIANTS], help="some lines of the table")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of all variants")
    given = parser.parse_args()
    try:
        found: dict[str, list[dict[str, float]]] = {}
        for seed in given.seeds:
            common = {**settings(given.short_side, given.steps, seed), **parse_overrides(given.set)}
            for variant in VARIANTS:
                if given.only and variant.title not in given.only:
                    continue
                run = trained(given.data, variant, given.out / f"{variant.run}-{seed}", common)
                found.setdefault(variant.title, []).append(scores(given.data, variant, run))
    except InputError as error:
        raise SystemExit(str(error)) from None
    print(table(found))


if __name__ == "__main__":
    main()
