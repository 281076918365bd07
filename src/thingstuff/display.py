"""What the terminal shows while work goes on: live bars on a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from thingstuff.evaluation.pq import PQResult

WIDE = 160
"""Characters of a line where a wide table goes to a file."""
QUIET_SECONDS = 20.0
"""Between two lines where there is no terminal to draw a live bar on."""


def wide_console() -> Console:
    """Return the console of a command whose tables may be wide."""
    if isinstance(sys.stdout, TextIOWrapper):  # names in tables may hold what the encoding of a file or pipe lacks
        sys.stdout.reconfigure(errors="backslashreplace")
    console = Console()
    if not console.is_terminal:
        console.width = WIDE
    return console


@contextmanager
def counting(console: Console, what: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar of (done, total) while a piece of work calls what this yields."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


class TrainingDisplay:
    """A training's steps, loss, PQ so far and time left."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.pq = "-"
        self.loss: float | None = None
        self._steps = 0
        self._said = time.monotonic()
        self._progress = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}  PQ {task.fields[pq]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("training", total=None, loss="-", pq="-", note="")

    def __enter__(self) -> "TrainingDisplay":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def start(self, step: int, steps: int) -> None:
        """Training begins at `step`."""
        self._steps = steps
        self._progress.reset(self._task, total=steps, completed=step)

    def step(self, record: dict[str, Any]) -> None:
        """Show a step's smoothed loss."""
        self.loss = record["loss"] if self.loss is None else 0.95 * self.loss + 0.05 * record["loss"]
        self._progress.update(self._task, completed=record["step"], loss=f"{self.loss:.3f}", note="")
        if not self.console.is_terminal and time.monotonic() - self._said > QUIET_SECONDS:
            self._say(f"step {record['step']}/{self._steps}  loss {self.loss:.3f}  PQ {self.pq}")

    def evaluating(self, done: int, total: int) -> None:
        """Show how far an evaluation is."""
        self._progress.update(self._task, note=f"evaluating {done}/{total}")

    def evaluated(self, step: int, result: PQResult) -> None:
        """Show an evaluation's PQ."""
        self.pq = "n/a" if result.all.pq is None else f"{100 * result.all.pq:.1f}"
        self._progress.update(self._task, pq=self.pq, note="")
        self._say(f"step {step}/{self._steps}  PQ {self.pq} on val")

    def _say(self, line: str) -> None:
        self._said = time.monotonic()
        self.console.print(line, highlight=False)
