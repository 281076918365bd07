"""Watching a training on one picture: its prediction at the start and at every evaluation, kept in the run folder."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from thingstuff.data.coco import CocoPanoptic
from thingstuff.drawing_progress import MOST_FRAMES, Animation, evenly, progress_frame, progress_gif
from thingstuff.evaluation.pq import PQResult
from thingstuff.io import atomic_write
from thingstuff.memory import is_of_memory
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
    predicted once for each evaluation and before the first step, in the calling process. Where memory does not suffice
    for it or a file cannot be written, that frame is missing, which `say` is told the first time; the training goes on.
    A picture that cannot be read raises `InputError`, as it does when it is scored.
    """

    def __init__(
        self, model: PanopticModel, val: CocoPanoptic, out: Path, listener: Listener, say: Callable[[str], None]
    ) -> None:
        self.model, self.val, self.out, self.listener, self.say = model, val, out, listener, say
        self.position = watched_position(val)
        self._told = False

    def start(self, step: int, steps: int) -> None:
        """Training begins at `step`: frames of later steps, lost with a stop, go; at 0 the first one is drawn."""
        self.listener.start(step, steps)
        try:
            for path, at in frame_files(self.out):
                if at > step:
                    path.unlink(missing_ok=True)
        except OSError as error:
            self._tell(f"an earlier frame of {GIF} cannot be removed ({error})")
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
        try:
            picture = self.val.picture(self.position)
            frame = progress_frame(picture, self.model.predict(picture), step, pq)
        except (RuntimeError, MemoryError) as error:
            if not is_of_memory(error):
                raise
            name = self.val.records[self.position].file_name
            self._tell(f"{GIF} lacks step {step}: memory does not suffice to predict {name}")
            return
        buffer = io.BytesIO()
        frame.save(buffer, "PNG")
        try:
            (self.out / FRAMES).mkdir(exist_ok=True)
            atomic_write(self.out / FRAMES / f"step-{step:06d}.png", buffer.getvalue())
        except OSError as error:
            self._tell(f"{GIF} lacks step {step}: its frame cannot be written ({error})")

    def _tell(self, what: str) -> None:
        if not self._told:
            self.say(f"{what}; the training goes on")
        self._told = True


def frame_files(out: Path) -> list[tuple[Path, int]]:
    """Return a run's frames and their steps, in the order of steps."""
    named = [(path, path.stem.removeprefix("step-")) for path in (out / FRAMES).glob("step-*.png")]
    return sorted(((path, int(step)) for path, step in named if step.isdecimal()), key=lambda entry: entry[1])


def write_gif(out: Path, say: Callable[[str], None]) -> Animation:
    """Write a run's frames as progress.gif into its folder and return them; nothing where there are not two.

    `say` is told of frames that cannot be read, which are left out, and of a file that cannot be written.
    """
    frames, faults = [], []
    for path, step in evenly(frame_files(out), MOST_FRAMES):
        try:
            with Image.open(path) as image:
                frames.append((step, image.convert("RGB")))
        except (OSError, SyntaxError) as error:
            faults.append(f"{path} cannot be read ({error})")
    if faults:
        more = f", nor can {len(faults) - 1} more" if len(faults) > 1 else ""
        say(f"{faults[0]}{more}; {GIF} is made without")
    if len(frames) < 2:
        return Animation()
    animation = progress_gif(frames)
    try:
        atomic_write(out / GIF, animation.gif)
    except OSError as error:
        say(f"{GIF} cannot be written ({error}); the report has it")
    return animation
