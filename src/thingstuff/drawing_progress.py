"""A training's progress as pictures: one picture's prediction again and again, and the GIF of them."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from thingstuff.drawing import overlay, resized_map, shown_size
from thingstuff.drawing_labels import builtin_font
from thingstuff.errors import InputError
from thingstuff.panoptic import Panoptic

LONGEST_SIDE = 320
"""Pixels of a frame's longer side, without its caption."""

MOST_FRAMES = 60
"""Of an animation: of more, some in between are left out."""

_LARGEST_GIF = 1_000_000
_COLOURS = 255
_FRAME_MS, _FIRST_MS, _LAST_MS = 450, 900, 2500
_CAPTION, _BAR = 18, 3
_PAPER, _INK, _DONE, _TO_DO = (250, 250, 250), (20, 20, 20), (64, 85, 184), (220, 220, 220)

_Entry = TypeVar("_Entry")
_Frame = tuple[int, Image.Image]


@dataclass(frozen=True)
class Animation:
    """An animated GIF, no bytes where there is no frame, and the training step of each of its frames."""

    gif: bytes = b""
    steps: tuple[int, ...] = ()


def progress_frame(
    picture: npt.NDArray[np.uint8], prediction: Panoptic, step: int, pq: float | None = None
) -> Image.Image:
    """Draw a prediction over its picture, uint8 [H, W, 3] RGB, small, with a caption below: step and PQ (0 to 1).

    Small pictures grow by a whole factor, so that names have room. Raises `InputError` where the map is of another size
    than the picture.
    """
    height, width = picture.shape[:2]
    if prediction.size != (height, width):
        raise InputError(f"the map is {prediction.size} (height, width), its picture {(height, width)}; give its own")
    size = shown_size((height, width), LONGEST_SIDE)
    small = Image.fromarray(picture).resize(size[::-1], Image.Resampling.LANCZOS)
    drawn = overlay(resized_map(prediction, size), small)
    text = f"step {step}" if pq is None else f"step {step}   PQ {100 * pq:.1f}"
    font = builtin_font(11)
    frame = Image.new("RGB", (max(drawn.width, round(font.getlength(text)) + 8), drawn.height + _CAPTION), _PAPER)
    frame.paste(drawn, (0, 0))
    ImageDraw.Draw(frame).text((4, drawn.height + 3), text, font=font, fill=_INK)
    return frame


def progress_gif(frames: Sequence[_Frame]) -> Animation:
    """Return frames, each with its step, as an animation in the order of their steps, which repeats for ever.

    A bar below shows how far the training is; the last frame stands longest; all share one palette. Below 1 MB: of
    many frames some in between are left out, the first and the last never; larger ones than `progress_frame` makes are
    reduced.
    """
    if not frames:
        return Animation()
    chosen = _indexed(evenly(sorted(frames, key=lambda entry: entry[0]), MOST_FRAMES))
    encoded = _encode(chosen)
    while len(encoded) > _LARGEST_GIF and len(chosen) > 2:
        chosen = evenly(chosen, max(2, len(chosen) * 3 // 4))
        encoded = _encode(chosen)
    return Animation(encoded, tuple(step for step, _ in chosen))


def evenly(entries: Sequence[_Entry], most: int) -> list[_Entry]:
    """Return at most so many (at least two) of the entries, evenly, with the first and the last."""
    if len(entries) <= most:
        return list(entries)
    return [entries[i] for i in np.linspace(0, len(entries) - 1, most).round().astype(int).tolist()]


def _indexed(frames: Sequence[_Frame]) -> list[_Frame]:
    """Return the frames in one size, with their bars, in colours of one palette."""
    last, final = frames[-1]
    scale = min(1.0, (LONGEST_SIDE + _CAPTION) / max(final.size))
    size = max(1, round(final.width * scale)), max(1, round(final.height * scale))
    barred = [(step, _with_bar(frame.convert("RGB").resize(size), step, last)) for step, frame in frames]
    some = [frame for _, frame in evenly(barred, 8)]
    together = Image.new("RGB", (some[0].width, some[0].height * len(some)))
    for position, frame in enumerate(some):
        together.paste(frame, (0, position * frame.height))
    palette = together.quantize(_COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    return [(step, frame.quantize(palette=palette, dither=Image.Dither.NONE)) for step, frame in barred]


def _encode(frames: Sequence[_Frame]) -> bytes:
    first, *others = (frame for _, frame in frames)
    durations = [_FRAME_MS] * len(frames)
    durations[0], durations[-1] = _FIRST_MS, _LAST_MS
    shared = bytes((first.getpalette() or [])[: 3 * _COLOURS]).ljust(768, b"\0")
    buffer = io.BytesIO()
    first.save(
        buffer,
        "GIF",
        save_all=True,
        append_images=others,
        duration=durations,
        loop=0,
        palette=shared,
        transparency=_COLOURS,  # stands for what is as in the frame below, which `disposal` leaves in its place
        disposal=1,
        optimize=True,
    )
    return buffer.getvalue()


def _with_bar(frame: Image.Image, step: int, last: int) -> Image.Image:
    whole = Image.new("RGB", (frame.width, frame.height + _BAR), _TO_DO)
    whole.paste(frame, (0, 0))
    whole.paste(_DONE, (0, frame.height, round(frame.width * step / max(1, last)), whole.height))
    return whole
