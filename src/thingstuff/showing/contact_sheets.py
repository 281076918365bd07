"""Contact sheets: thumbnails with their names in rows, below a legend of the classes on them."""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from thingstuff.errors import InputError
from thingstuff.io import atomic_write
from thingstuff.panoptic import Color

PER_SHEET = 32
"""Pictures of a full sheet."""

_COLUMNS = 4
_CELL = 480
_GAP = 16
_LINE = 26
_ENTRY = 244  # width of an entry of the legend
_MOST_CLASSES = 160
_PAGE, _TEXT, _QUIET, _FAULTY = (24, 27, 31), (236, 239, 243), (160, 168, 178), (255, 128, 118)

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


class Tile(NamedTuple):
    """A thumbnail's file, its (width, height) in pixels, what is written below it, and whether files are at fault."""

    file: Path
    size: tuple[int, int]
    caption: str
    is_faulty: bool


class LegendEntry(NamedTuple):
    """A class on the sheet, how many segments of it there are, and whether these are things, which are counted."""

    name: str
    color: Color
    segments: int
    thing: bool


@dataclass(frozen=True)
class Sheet:
    """One sheet, not drawn yet; the legend stands in the order in which it is to be read."""

    path: Path
    title: str
    tiles: tuple[Tile, ...]
    legend: tuple[LegendEntry, ...]


def draw_sheet(sheet: Sheet) -> Path:
    """Draw a sheet as JPEG and return its path; raises `InputError` where a file cannot be read or written."""
    columns = min(_COLUMNS, len(sheet.tiles))
    width = max(columns, 2) * (_CELL + _GAP) + _GAP
    rows = [sheet.tiles[start : start + columns] for start in range(0, len(sheet.tiles), columns)]
    heights = [max(tile.size[1] for tile in row) + _LINE + _GAP for row in rows]
    shown = sheet.legend[:_MOST_CLASSES]
    per_line = (width - _GAP) // _ENTRY
    legend_lines = -(-(len(shown) + (len(sheet.legend) > len(shown))) // per_line)
    top = _GAP + 40 + legend_lines * _LINE + _GAP
    page = Image.new("RGB", (width, top + sum(heights)), _PAGE)
    pen = ImageDraw.Draw(page)
    _write(pen, (_GAP, _GAP), sheet.title, width - 2 * _GAP, _font(24), _TEXT)
    for position, entry in enumerate(shown):
        corner = _GAP + position % per_line * _ENTRY, _GAP + 40 + position // per_line * _LINE
        _draw_entry(pen, corner, entry)
    if len(sheet.legend) > len(shown):
        corner = _GAP + len(shown) % per_line * _ENTRY, _GAP + 40 + len(shown) // per_line * _LINE
        text = f"and {len(sheet.legend) - len(shown):,} more classes"
        _write(pen, (corner[0], corner[1] + 3), text, _ENTRY - 10, _font(16), _QUIET)
    try:
        for row, height in zip(rows, heights, strict=True):
            _draw_row(page, pen, row, top)
            top += height
        buffer = BytesIO()
        page.save(buffer, "JPEG", quality=85)
        atomic_write(sheet.path, buffer.getvalue())
    except OSError as error:
        raise InputError(f"{sheet.path}: the sheet cannot be made ({error}); run the command again") from error
    return sheet.path


def _draw_entry(pen: ImageDraw.ImageDraw, corner: tuple[int, int], entry: LegendEntry) -> None:
    x, y = corner
    pen.rounded_rectangle((x, y + 3, x + 18, y + 21), 4, fill=entry.color, outline=_QUIET)
    count = f" ({entry.segments:,})" if entry.thing else ""
    room = _ENTRY - 38
    count_width = int(_font(16).getlength(count))
    end = _write(pen, (x + 26, y + 3), entry.name, room - count_width, _font(16), _TEXT)
    pen.text((end, y + 3), count, font=_font(16), fill=_QUIET)


def _draw_row(page: Image.Image, pen: ImageDraw.ImageDraw, row: Sequence[Tile], top: int) -> None:
    for column, tile in enumerate(row):
        left = _GAP + column * (_CELL + _GAP)
        with Image.open(tile.file) as image:
            page.paste(image, (left + (_CELL - image.width) // 2, top))
        _write(
            pen, (left, top + tile.size[1] + 5), tile.caption, _CELL, _font(15), _FAULTY if tile.is_faulty else _QUIET
        )


def _write(pen: ImageDraw.ImageDraw, corner: tuple[int, int], text: str, room: int, font: _Font, color: Color) -> int:
    """Write as much of a text as there is room for, its end kept, and return where it ends."""
    shown = text = " ".join(text.split())
    while len(text) > 4 and font.getlength(shown) > room:
        text = text[: len(text) // 2 - 1] + text[len(text) // 2 + 1 :]
        shown = f"{text[: len(text) // 2]}..{text[len(text) // 2 :]}"
    pen.text(corner, shown, font=font, fill=color)
    return corner[0] + int(font.getlength(shown))


def _font(size: int) -> _Font:
    return ImageFont.load_default(size=size)
