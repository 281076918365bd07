"""The views of a walk as PNGs, for documents: what is laid over the picture, at a readable size, with its scale."""

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps
from PIL.PngImagePlugin import PngInfo

from thingstuff import view_pictures as draw
from thingstuff.colour_scales import scale_of
from thingstuff.errors import InputError
from thingstuff.io import UNREADABLE, atomic_write
from thingstuff.walk import (
    AttentionView,
    MapView,
    Mark,
    MarksView,
    MatrixView,
    PixelsView,
    ResultView,
    View,
    Walk,
)

WIDTH = 640
"""Pixels of a figure; a tall picture's has fewer."""

_OVER = 0.68  # of the colours, the rest is the picture: as the page has it
_STRIP = 34
_MARK = ("Software", "thingstuff: a figure of a walk")
_PAPER, _INK, _QUIET = (255, 255, 255), (27, 31, 36), (92, 101, 112)


def write_figures(folder: Path, walk: Walk, *, overwrite: bool) -> list[Path]:
    """Write every view but tables as `<number>-<step>-<view>.png` into a folder, and return the paths.

    With `overwrite` figures of an earlier walk go, under whatever names; other files of the folder stay. Raises
    `InputError` where a file or an earlier walk's figures are there already, unless `overwrite`, or where it cannot be
    written.
    """
    named = dict(named_views(walk))
    try:
        earlier = earlier_figures(folder)
        there = [*(folder / name for name in named if (folder / name).exists()), *earlier]
        if there and not overwrite:
            raise InputError(f"{there[0]} is there already; give another folder for the figures, or --overwrite")
        folder.mkdir(parents=True, exist_ok=True)
        for name, view in named.items():
            buffer = BytesIO()
            _DRAWN[type(view)](walk, view).save(buffer, "PNG", pnginfo=_mark())
            atomic_write(folder / name, buffer.getvalue())
        for path in earlier:
            if path.name not in named:
                path.unlink()
    except OSError as error:
        raise InputError(
            f"{folder}: the figures cannot be written ({error}); give a folder that can be written to"
        ) from error
    return [folder / name for name in named]


def _mark() -> PngInfo:
    info = PngInfo()
    info.add_text(*_MARK)
    return info


def earlier_figures(folder: Path) -> list[Path]:
    """Return the figures of walks in a folder, by what their files say; none where there is no such folder."""
    return [path for path in sorted(folder.glob("[0-9][0-9]-*.png")) if _is_figure(path)]


def _is_figure(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            return bool(image.info.get(_MARK[0]) == _MARK[1])
    except UNREADABLE:
        return False  # somebody else's file


def named_views(walk: Walk) -> Iterator[tuple[str, View]]:
    """Yield each view that is drawn with a file name of its own."""
    taken: set[str] = set()
    for position, step in enumerate(walk.steps, start=1):
        for view in step.views:
            if type(view) not in _DRAWN or (isinstance(view, MatrixView) and not view.names):
                continue
            stem = f"{position:02d}-{_safe(step.name)}-{_safe(view.title)}"
            name, turn = f"{stem}.png", 2
            while name in taken:
                name, turn = f"{stem}-{turn}.png", turn + 1
            taken.add(name)
            yield name, view


def _safe(text: str) -> str:
    """Return a text as part of a file name: small Latin letters, digits and hyphens."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:48].strip("-") or "view"


def _size(walk: Walk) -> tuple[int, int]:
    """Return the (width, height) of the canvas in a figure."""
    height, width = walk.canvas.shape[:2]
    factor = min(WIDTH / width, 1.4 * WIDTH / height)
    return max(1, round(width * factor)), max(1, round(height * factor))


def _canvas(walk: Walk, *, grey: bool) -> Image.Image:
    picture = Image.fromarray(walk.canvas).resize(_size(walk), Image.Resampling.LANCZOS)
    return ImageOps.grayscale(picture).convert("RGB") if grey else picture


def _laid_over(walk: Walk, levels: draw.Levels) -> Image.Image:
    colours = Image.fromarray(levels.colours).resize(_size(walk), Image.Resampling.NEAREST)
    return Image.blend(_canvas(walk, grey=True), colours, _OVER)


def _with_scale(image: Image.Image, levels: draw.Levels, unit: str) -> Image.Image:
    """Append a strip with the colours from low to high, their numbers, and what these are."""
    whole = Image.new("RGB", (image.width, image.height + _STRIP), _PAPER)
    whole.paste(image)
    pen, font = ImageDraw.Draw(whole), ImageFont.load_default(size=15)
    top, length = image.height + 11, max(40, min(160, image.width // 4))
    at = 4 + _write(pen, (4, top - 4), draw.number(levels.low), font, _INK)
    bar = np.repeat(scale_of(levels.signed)[None], 13, axis=0)
    whole.paste(Image.fromarray(bar).resize((length, 13)), (at + 6, top))
    at += length + 14
    at += _write(pen, (at, top - 4), draw.number(levels.high), font, _INK)
    _write(pen, (at + 10, top - 4), unit, font, _QUIET)
    return whole


def _write(
    pen: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    text: str,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    color: tuple[int, int, int],
) -> int:
    """Write a text in Pillow's own font, which has Latin letters alone, and return its width."""
    text = re.sub(r"10([⁻⁰-⁹¹²³]+)", lambda m: f"10^{unicodedata.normalize('NFKC', m[1])}", text)
    text = text.replace("−", "-").encode("latin-1", "replace").decode("latin-1")
    pen.text(corner, text, font=font, fill=color)
    return int(font.getlength(text))


def _map(walk: Walk, view: MapView) -> Image.Image:
    levels = draw.view_levels(view)
    return _with_scale(_laid_over(walk, levels), levels, f"{view.unit} {draw.not_finite(view.values)}".strip())


def _pixels(walk: Walk, view: PixelsView) -> Image.Image:
    resample = Image.Resampling.LANCZOS if view.smooth else Image.Resampling.NEAREST
    width, height = _size(walk)
    if not view.padded:
        height = max(1, round(width * view.pixels.shape[0] / view.pixels.shape[1]))
    return Image.fromarray(view.pixels).resize((width, height), resample)


def _marks(walk: Walk, view: MarksView) -> Image.Image:
    levels = None if view.values is None else draw.levels_of(view.values, 0.0, view.high, signed=False)
    image = _canvas(walk, grey=False) if levels is None else _laid_over(walk, levels)
    factor, pen = image.width / walk.canvas.shape[1], ImageDraw.Draw(image)
    for mark in draw.drawn_marks(view):
        _draw_mark(pen, mark, factor)
    return image if levels is None else _with_scale(image, levels, "")


def _draw_mark(pen: ImageDraw.ImageDraw, mark: Mark, factor: float) -> None:
    left, top, right, bottom = (side * factor for side in mark.box)
    if (left, top) == (right, bottom):
        reach = 5 if mark.kept else 2
        pen.ellipse((left - reach, top - reach, left + reach, top + reach), mark.color, (255, 255, 255))
        return
    box = (min(left, right), min(top, bottom), max(left, right), max(top, bottom))
    if mark.kept:
        pen.rectangle(box, outline=(0, 0, 0), width=4)
    pen.rectangle(box, outline=mark.color, width=2 if mark.kept else 1)


def _matrix(_: Walk, view: MatrixView) -> Image.Image:
    order = draw.group_order(view.groups)
    levels = draw.levels_of(draw.square(view.values, order), view.low, 1.0, signed=view.low < 0)
    cell = max(1, WIDTH // len(order))
    side = cell * len(order)
    image = Image.fromarray(levels.colours).resize((side, side), Image.Resampling.NEAREST)
    pen, groups = ImageDraw.Draw(image), [view.groups[row] for row in order]
    for group in dict.fromkeys(groups):
        begin, count = groups.index(group) * cell, groups.count(group) * cell
        if count > cell:
            pen.rectangle((begin, begin, begin + count - 1, begin + count - 1), outline=_INK, width=2)
    return _with_scale(image, levels, view.unit)


def _attention(walk: Walk, view: AttentionView) -> Image.Image:
    """Draw what the cell in the middle of the first segment looks at, in the first map; of the canvas if none is."""
    x, y = next(iter(draw.middles(walk.result, walk.frame).values()), (0.5, 0.5))
    rows, columns = view.grid
    row, column = min(rows - 1, int(y * rows)), min(columns - 1, int(x * columns))
    values = next(iter(view.maps.values()))[row * columns + column]
    levels = draw.levels_of(values, 0.0, float(values.max(initial=0, where=np.isfinite(values))), signed=False)
    image = _laid_over(walk, levels)
    width, height = image.width / columns, image.height / rows
    box = (column * width, row * height, (column + 1) * width, (row + 1) * height)
    pen = ImageDraw.Draw(image)
    pen.rectangle(box, outline=(0, 0, 0), width=4)
    pen.rectangle(box, outline=(255, 225, 77), width=2)
    return _with_scale(image, levels, "share of the framed cell's attention")


def _result(walk: Walk, _: ResultView) -> Image.Image:
    image = draw.drawn_map(walk.result, walk.picture)
    if image.width <= WIDTH:
        return image
    return image.resize((WIDTH, max(1, round(WIDTH * image.height / image.width))), Image.Resampling.LANCZOS)


_DRAWN: Mapping[type[View], Callable[[Walk, Any], Image.Image]] = {
    MapView: _map,
    PixelsView: _pixels,
    MarksView: _marks,
    MatrixView: _matrix,
    AttentionView: _attention,
    ResultView: _result,
}
