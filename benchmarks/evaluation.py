"""PQ of made pictures: ours against hotcoco and against the plain formula, on the same files, interleaved.

    python benchmarks/evaluation.py          # files on one core, with more threads, in memory, the first use

Every timing is a median over rounds in which the sides take turns, and what they compute is compared first. The plain
formula reads with Pillow and counts with np.unique over all pixels, as panopticapi does.
"""

import argparse
import hashlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

if hasattr(os, "sched_setaffinity"):
    CORES = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, CORES[-1:])
else:
    CORES = list(range(os.cpu_count() or 1))
os.environ["RAYON_NUM_THREADS"] = "1"  # hotcoco's threads

import deflate
import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from thingstuff.coco_categories import COCO_PANOPTIC
from thingstuff.coco_writing import CocoPanopticWriter
from thingstuff.evaluation.evaluator import evaluate
from thingstuff.evaluation.pairs import compare_maps
from thingstuff.evaluation.pq import PQAccumulator, PQResult
from thingstuff.evaluation.pq_files import score_files
from thingstuff.evaluation.segments import Overlaps, TruthSegment, match_segments
from thingstuff.io import read_json
from thingstuff.loops import compiled_loops
from thingstuff.panoptic import Panoptic, Segment

Size = tuple[int, int]
Pair = tuple[Panoptic, Panoptic]
PLAIN, THEIRS, OURS, MEASURES = "plain formula", "hotcoco", "ours", "ours, all measures"
THINGS = COCO_PANOPTIC.things.count(True)


@dataclass(frozen=True)
class Job:
    """What is run."""

    pairs: int
    size: Size
    rounds: int


# ---- made pictures


def wavy(rng: np.random.Generator, size: Size, cell: int) -> np.ndarray:
    """Return smooth noise [H, W] whose bumps are some `cell` pixels wide."""
    rows, columns = size[0] // cell + 3, size[1] // cell + 3
    rough = Image.fromarray(rng.standard_normal((rows, columns)).astype(np.float32))
    smooth = np.asarray(rough.resize((columns * cell, rows * cell), Image.Resampling.BICUBIC))
    return smooth[cell : cell + size[0], cell : cell + size[1]]


def outlines(rng: np.random.Generator, size: Size, wobble: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the coordinates y and x of each pixel, shifted a little, so that straight edges become wobbly ones."""
    rows, columns = np.mgrid[: size[0], : size[1]].astype(np.float32)
    y, x = (wobble * (8 * wavy(rng, size, 40) + 1.5 * wavy(rng, size, 6)) for _ in range(2))
    return rows + y, columns + x


def numbered(rng: np.random.Generator, parts: np.ndarray, labels: list[int], crowds: bool) -> Panoptic:
    """Give parts 1, 2, ... of a map [H, W] ids of up to three bytes, as COCO's are."""
    ids = np.concatenate([[0], rng.choice(np.arange(1, 2**24, 97), len(labels), replace=False)]).astype(np.int32)
    areas = np.bincount(parts.ravel(), minlength=len(labels) + 1).tolist()
    segments = [
        Segment(int(i), label, area, iscrowd=crowds and label < THINGS and rng.random() < 0.05)
        for i, label, area in zip(ids[1:], labels, areas[1:], strict=True)
        if area
    ]
    return Panoptic(ids[parts], tuple(segments), COCO_PANOPTIC)


def made_pair(rng: np.random.Generator, size: Size) -> Pair:
    """Draw 10 to 25 segments, and a prediction with other outlines that misses, relabels and invents some."""
    stuff, things = int(rng.integers(3, 8)), int(rng.integers(7, 18))
    centres = rng.random((stuff + things, 2)) * size
    radii = np.exp(rng.uniform(np.log(size[0] / 60), np.log(size[0] / 4), things))
    aspects = np.exp(rng.uniform(-0.5, 0.5, things))
    labels = [*(THINGS + rng.choice(53, stuff, replace=False)).tolist(), *rng.integers(0, THINGS, things).tolist()]
    void = wavy(rng, size, 60) > 1.5
    own, shift = outlines(rng, size, 1.0), outlines(rng, size, 0.4)
    rows, columns = np.mgrid[: size[0], : size[1]]
    both = []
    for y, x in (own, (own[0] + shift[0] - rows, own[1] + shift[1] - columns)):
        squares = np.stack([(y - cy) ** 2 + (x - cx) ** 2 for cy, cx in centres[:stuff]])
        parts = 1 + squares.argmin(0)
        for k, ((cy, cx), radius, aspect) in enumerate(zip(centres[stuff:], radii, aspects, strict=True)):
            parts[((y - cy) / aspect) ** 2 + ((x - cx) * aspect) ** 2 < radius**2] = 1 + stuff + k
        both.append(parts)
    truth = numbered(rng, np.where(void, 0, both[0]), labels, crowds=True)
    for k in range(stuff, stuff + things):
        if rng.random() < 0.15:
            labels[k] = int(rng.integers(THINGS))
        elif rng.random() < 0.1:
            both[1][both[1] == k + 1] = 0
    return truth, numbered(rng, both[1], labels, crowds=False)


def written(folder: Path, pairs: list[Pair]) -> tuple[Path, Path]:
    """Write ground truth and predictions as COCO panoptic files, the PNGs as Pillow writes them by itself."""
    paths = []
    for name, maps in zip(("gt", "pred"), zip(*pairs, strict=True), strict=True):
        writer = CocoPanopticWriter(folder / name, COCO_PANOPTIC)
        for number, panoptic in enumerate(maps):
            writer.add(f"{number:012}", panoptic)
        paths.append(writer.close())
    return paths[0], paths[1]


# ---- sides


def plain_overlaps(truth: np.ndarray, prediction: np.ndarray) -> Overlaps:
    """Count pairs of ids over all pixels, and the predicted ids once more."""
    np.unique(prediction, return_counts=True)
    pairs = truth.astype(np.uint64) * 256**3 + prediction.astype(np.uint64)
    keys, counts = np.unique(pairs, return_counts=True)
    return {divmod(key, 256**3): count for key, count in zip(keys.tolist(), counts.tolist(), strict=True)}


def plain_ids(path: Path) -> np.ndarray:
    """Read a map as panopticapi does: the bytes as uint32, multiplied and added."""
    colours = np.asarray(Image.open(path), dtype=np.uint8).astype(np.uint32)
    return colours[..., 0] + 256 * colours[..., 1] + 256 * 256 * colours[..., 2]


def plain_files(gt: Path, pred: Path) -> PQResult:
    """Score files by the plain formula."""
    scores = PQAccumulator(COCO_PANOPTIC, keep=False)
    truths, predictions = (read_json(path)["annotations"] for path in (gt, pred))
    found = {entry["image_id"]: entry for entry in predictions}
    for truth in truths:
        own, infos = found[truth["image_id"]], truth["segments_info"]
        ids = [plain_ids(path.parent / "panoptic" / e["file_name"]) for path, e in ((gt, truth), (pred, own))]
        segments = {s["id"]: TruthSegment(s["category_id"], s["area"], s["iscrowd"] == 1) for s in infos}
        classes = {s["id"]: s["category_id"] for s in own["segments_info"]}
        scores.add_matches(truth["image_id"], match_segments(plain_overlaps(*ids), segments, classes))
    return scores.result()


def their_files(gt: Path, pred: Path) -> dict[str, Any]:
    """Score files with hotcoco."""
    from hotcoco.panoptic import PanopticEval

    folders = {"gt_folder": str(gt.parent / "panoptic"), "pred_folder": str(pred.parent / "panoptic")}
    scores = PanopticEval(str(gt), str(pred), **folders)
    scores.evaluate()
    results: dict[str, Any] = scores.results()
    return results


def our_files(gt: Path, pred: Path, threads: int = 1) -> PQResult:
    """Score files with thingstuff."""
    return score_files(gt, pred, threads=threads).result()


def all_measures(gt: Path, pred: Path) -> PQResult:
    """Score files with thingstuff by all that `thingstuff evaluate` prints."""
    return evaluate(gt, pred, threads=1).pq


def in_memory(pairs: list[Pair]) -> PQResult:
    """Score maps in memory with thingstuff."""
    scores = PQAccumulator(COCO_PANOPTIC, keep=False)
    for number, (truth, prediction) in enumerate(pairs):
        scores.add_matches(number, compare_maps(truth, prediction, number, COCO_PANOPTIC).matches)
    return scores.result()


def plain_in_memory(pairs: list[Pair]) -> PQResult:
    """Score maps in memory by the plain formula."""
    scores, ids = PQAccumulator(COCO_PANOPTIC, keep=False), COCO_PANOPTIC.ids
    for number, (truth, prediction) in enumerate(pairs):
        truths = {s.id: TruthSegment(ids[s.label], s.area, s.iscrowd) for s in truth.segments}
        classes = {s.id: ids[s.label] for s in prediction.segments}
        scores.add_matches(number, match_segments(plain_overlaps(truth.ids, prediction.ids), truths, classes))
    return scores.result()


# ---- equality and time


def equal(ours: PQResult, theirs: dict[str, Any]) -> None:
    """Assert that every class has hotcoco's counts, and its IoU up to the order of adding."""
    for row in ours.per_class:
        entry = theirs["per_class"][row.category_id]
        assert (row.tp, row.fp, row.fn) == (entry["tp"], entry["fp"], entry["fn"]), row
        assert abs(row.iou - entry["iou"]) <= 1e-12 * max(1.0, row.iou), row


def interleaved(sides: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Return each side's median seconds; the sides take turns, and a first turn is for warming up."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds + 1):
        for name, side in sides.items():
            began = time.perf_counter()
            side()
            if turn:
                times[name].append(time.perf_counter() - began)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def table_of(title: str, times: dict[str, float], reference: str, pairs: int) -> Table:
    """Return milliseconds a pair, and how many times faster than the reference each is."""
    table = Table("", "ms a pair, this machine", "faster", title=title, title_justify="left")
    for name, seconds in times.items():
        table.add_row(name, f"{1e3 * seconds / pairs:.3g}", f"{times[reference] / seconds:.2f}x")
    return table


def hashing(threads: int) -> None:
    """Do work that needs no Python, for as long on each thread."""
    data = bytes(2**20)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda _: [hashlib.sha256(data).digest() for _ in range(100)], range(threads)))


def on_all_cores() -> None:
    """Let this process use the cores it had at its start."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, CORES)


def share_without_lock(score: Callable[[], Any]) -> float:
    """Return the share of a call's processor time that it spends without Python's lock, in one thread.

    Timed are the calls that inflate, unfilter and count; reading files, which lets go of the lock too, is left out.
    """
    loops = compiled_loops(10**6)
    free = 0.0

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            nonlocal free
            began = time.thread_time()
            try:
                return function(*arguments)
            finally:
                free += time.thread_time() - began

        return call

    with ExitStack() as patches:
        for module, name in ((deflate, "zlib_decompress"), (loops, "unfilter"), (loops, "count_pairs")):
            patches.enter_context(patch.object(module, name, timed(getattr(module, name))))
        began = time.process_time()
        score()
        return free / (time.process_time() - began)


def without_lock(name: str, score: Callable[[], Any], rounds: int) -> str:
    """Say in words how much of a side's work several threads can do at once."""
    share = statistics.median(share_without_lock(score) for _ in range(rounds))
    return f"{name}: {share:.0%} of the time without Python's lock, so threads gain {1 / (1 - share):.1f}x at most"


def first_use() -> float:
    """Return the seconds that loading the compiled loops takes in a new process."""
    code = "import numpy, time; from thingstuff.loops import compiled_loops; began = time.perf_counter()\n"
    code += "compiled_loops(10**6); print(time.perf_counter() - began)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return float(done.stdout)


def progressed(job: Job, console: Console) -> Iterator[Pair]:
    """Yield the job's pairs."""
    rng = np.random.default_rng(0)
    with console.status(f"making {job.pairs} pairs"):
        for _ in range(job.pairs):
            yield made_pair(rng, job.size)


def run(job: Job, folder: Path, console: Console) -> None:
    """Print the tables."""
    pairs = list(progressed(job, console))
    gt, pred = written(folder, pairs)
    compiled_loops(10**6)
    ours = our_files(gt, pred)
    equal(ours, their_files(gt, pred))
    assert ours == plain_files(gt, pred) == all_measures(gt, pred) == in_memory(pairs) == plain_in_memory(pairs)
    segments = statistics.mean(len(truth.segments) for truth, _ in pairs)
    size = statistics.mean(path.stat().st_size for path in (gt.parent / "panoptic").iterdir()) / 1024
    console.print(f"{job.pairs} pairs, {job.size[1]} x {job.size[0]}, {segments:.0f} segments and {size:.1f} KB a map")
    console.print("PQ, and every class's matches and IoU, are the same on all sides")
    files = {
        PLAIN: lambda: plain_files(gt, pred),
        THEIRS: lambda: their_files(gt, pred),
        OURS: lambda: our_files(gt, pred),
        MEASURES: lambda: all_measures(gt, pred),
    }
    console.print(table_of("files, one core", interleaved(files, job.rounds), THEIRS, job.pairs))
    memory = {PLAIN: lambda: plain_in_memory(pairs), OURS: lambda: in_memory(pairs)}
    console.print(table_of("maps in memory, one core", interleaved(memory, job.rounds), PLAIN, job.pairs))
    on_all_cores()
    counts = sorted({1, *range(2, len(CORES), 2), len(CORES)})
    threads = {f"threads={n}": lambda n=n: our_files(gt, pred, n) for n in counts}
    console.print(table_of("files, ours", interleaved(threads, job.rounds), "threads=1", job.pairs))
    for name, score in ((OURS, our_files), (MEASURES, all_measures)):
        console.print(without_lock(name, lambda score=score: score(gt, pred), job.rounds))
    alone = interleaved({str(n): lambda n=n: hashing(n) for n in counts}, job.rounds)
    gains = ", ".join(f"{int(n) * alone['1'] / seconds:.2f}x by {n}" for n, seconds in alone.items())
    console.print(f"threads that only hash, which is what the machine gives: {gains}")
    console.print(f"loading the compiled loops, once a process: {first_use():.1f} s, this machine")


def main() -> None:
    """Read the arguments and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=300, help="how many pictures")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds after one to warm up")
    parser.add_argument("--small", action="store_true", help="small pictures: shows that it runs")
    arguments = parser.parse_args()
    job = Job(arguments.pairs, (120, 160) if arguments.small else (480, 640), arguments.rounds)
    with tempfile.TemporaryDirectory() as folder:
        run(job, Path(folder), Console())


if __name__ == "__main__":
    main()
