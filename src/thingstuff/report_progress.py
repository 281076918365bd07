"""A training's progress on a page: its animation, and its last frame for who wants nothing to move."""

import base64
import io
from dataclasses import dataclass

from PIL import Image

from thingstuff.errors import InputError


@dataclass(frozen=True)
class DrawnProgress:
    """An animation of so many `frames` and the last of them, both as data URIs of `size` (width, height)."""

    moving: str
    still: str
    size: tuple[int, int]
    frames: int

    @property
    def bytes(self) -> int:
        """What both weigh before base64."""
        return (len(self.moving) + len(self.still)) * 3 // 4


def drawn_progress(gif: bytes) -> DrawnProgress | None:
    """Return a GIF ready for the template, None without one; raises `InputError` for bytes that are none."""
    if not gif:
        return None
    try:
        with Image.open(io.BytesIO(gif), formats=["GIF"]) as image:
            frames = getattr(image, "n_frames", 1)
            image.seek(frames - 1)
            last = image.convert("RGB")
    except (OSError, EOFError, SyntaxError) as error:
        raise InputError(f"the training's progress is no GIF ({error}); give what progress_gif returns") from None
    still = io.BytesIO()
    last.save(still, "JPEG", quality=88, optimize=True)
    return DrawnProgress(_uri("gif", gif), _uri("jpeg", still.getvalue()), last.size, frames)


def _uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
