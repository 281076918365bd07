"""A training's progress on a page: its animation, and its last frame for who wants nothing to move."""

import io
from dataclasses import dataclass

from PIL import Image

from thingstuff.drawing_progress import Animation
from thingstuff.embedded_pictures import data_url, jpeg_within
from thingstuff.errors import InputError

_STILL_BYTES = 100_000


@dataclass(frozen=True)
class DrawnProgress:
    """An animation and its last frame, both as data URIs of `size` (width, height), and the steps of its frames."""

    moving: str
    still: str
    size: tuple[int, int]
    steps: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """What both weigh before base64."""
        return (len(self.moving) + len(self.still)) * 3 // 4


def drawn_progress(animation: Animation) -> DrawnProgress | None:
    """Return an animation ready for the template, None where it has no frame.

    Raises `InputError` for bytes that are no GIF, and where it names no steps.
    """
    if not animation.gif:
        return None
    if not animation.steps:
        raise InputError("the training's progress names no steps; give what progress_gif returns")
    try:
        with Image.open(io.BytesIO(animation.gif), formats=["GIF"]) as image:
            image.seek(getattr(image, "n_frames", 1) - 1)
            last = image.convert("RGB")
    except (OSError, EOFError, SyntaxError) as error:
        raise InputError(f"the training's progress is no GIF ({error}); give what progress_gif returns") from None
    still = data_url(jpeg_within(last, _STILL_BYTES))
    return DrawnProgress(data_url(animation.gif), still, last.size, animation.steps)
