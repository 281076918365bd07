"""Watching a training on one picture: its prediction at the start and at every evaluation, kept in the run folder."""

import io
from pathlib import Path
from typing import Any

from PIL import Image

from thingstuff.data.coco import CocoPanoptic
from thingstuff.drawing_progress import progress_frame, progress_gif
from thingstuff.evaluation.pq import PQResult
from thingstuff.io import atomic_write
from thingstuff.models.base import PanopticModel
from thingstuff.training import Listener

FRAMES, GIF = "progress", "progress.gif"


def watched_position(data: CocoPanoptic) -> int | None:
    """Return where the picture to watch stands in a split: the first of those with most classes; None without any."""
    kinds = [len({segment.label for segment in record.segments}) for record in data.records]
    return kinds.index(max(kinds)) if kinds else None


class ProgressListener:
    """A listener that draws a model's prediction of one picture whenever it is scored, and passes all on to another.

    Frames lie in `out`/progress as step-000100.png, so that a run that goes on adds to them. The picture is read and
    predicted once for each evaluation and before the first step, in the calling process.
    """

    def __init__(self, model: PanopticModel, val: CocoPanoptic, out: Path, listener: Listener) -> None:
        self.model, self.val, self.out, self.listener = model, val, out, listener
        self.position = watched_position(val)

    def start(self, step: int, steps: int) -> None:
        """Training begins at `step`: frames of later steps, lost with a stop, go; at 0 the first one is drawn."""
        self.listener.start(step, steps)
        for path, at in frame_files(self.out):
            if at > step:
                path.unlink()
        if step == 0:
            self._keep(0, None)

    def step(self, record: dict[str, Any]) -> None:
        """A step is done."""
        self.listener.step(record)

    def evaluating(self, done: int, total: int) -> None:
        """So many val pictures are predicted."""
        self.listener.evaluating(done, total)

    def evaluated(self, step: int, result: PQResult) -> None:
        """The val split is scored: a frame is drawn."""
        self.listener.evaluated(step, result)
        self._keep(step, result.all.pq)

    def _keep(self, step: int, pq: float | None) -> None:
        if self.position is None:
            return
        picture = self.val.picture(self.position)
        frame = progress_frame(picture, self.model.predict(picture), step, pq)
        buffer = io.BytesIO()
        frame.save(buffer, "PNG")
        (self.out / FRAMES).mkdir(exist_ok=True)
        atomic_write(self.out / FRAMES / f"step-{step:06d}.png", buffer.getvalue())


def frame_files(out: Path) -> list[tuple[Path, int]]:
    """Return a run's frames and their steps, in the order of steps."""
    named = [(path, path.stem.removeprefix("step-")) for path in (out / FRAMES).glob("step-*.png")]
    return sorted(((path, int(step)) for path, step in named if step.isdecimal()), key=lambda entry: entry[1])


def write_gif(out: Path) -> bytes:
    """Write a run's frames as progress.gif into its folder and return its bytes; nothing where there are not two."""
    files = frame_files(out)
    if len(files) < 2:
        return b""
    frames = []
    for path, step in files:
        with Image.open(path) as image:
            frames.append((step, image.convert("RGB")))
    gif = progress_gif(frames)
    atomic_write(out / GIF, gif)
    return gif
