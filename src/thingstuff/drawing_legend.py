"""The legend below a drawn map: what each colour means, and how much of it there is.

Letters: H W the picture.
"""

from collections import Counter
from typing import NamedTuple

import numpy as np
from jaxtyping import Int
from PIL import Image, ImageDraw

from thingstuff.drawing_colours import hatch_void
from thingstuff.drawing_labels import Font, builtin_font, letter_size, writable_name
from thingstuff.panoptic import Color, Panoptic

_NARROWEST = 160
_PAPER, _INK, _FAINT = (250, 250, 250), (20, 20, 20), (95, 95, 95)


class _Entry(NamedTuple):
    """A class's colour (None: void's stripes), its name, and how much of it there is, in words."""

    color: Color | None
    name: str
    amount: str


def with_legend(image: Image.Image, panoptic: Panoptic, places: Int[np.ndarray, "H W"]) -> Image.Image:
    """Return a drawn map with its legend below: things with their number, stuff with its share of the picture, void.

    As wide as the map, at least 160 pixels; entries wrap, and a name that is wider than the legend is cut.
    """
    size = letter_size(panoptic.size)
    width = max(image.width, _NARROWEST * size // 11)
    strip = _strip(_rows(panoptic, places), width, builtin_font(size))
    whole = Image.new("RGB", (width, image.height + strip.height), _PAPER)
    whole.paste(image, (0, 0))
    whole.paste(strip, (0, image.height))
    return whole


def _rows(panoptic: Panoptic, places: Int[np.ndarray, "H W"]) -> dict[str, list[_Entry]]:
    """Return the legend's entries by group; classes stand in the order of the categories."""
    areas = np.bincount(places.ravel(), minlength=len(panoptic.segments) + 1)
    there = [s for s, area in zip(panoptic.segments, areas[1:], strict=True) if area]
    counts, crowds = Counter(s.label for s in there), Counter(s.label for s in there if s.iscrowd)
    shares: Counter[int] = Counter()
    for segment, area in zip(panoptic.segments, areas[1:], strict=True):
        shares[segment.label] += int(area)
    rows: dict[str, list[_Entry]] = {"things": [], "stuff": [], "void": []}
    for label in sorted(counts):
        thing = panoptic.categories.things[label]
        amount = _number(counts[label], crowds[label]) if thing else _percent(shares[label] / places.size)
        entry = _Entry(panoptic.categories.colors[label], writable_name(panoptic, label, 60), amount)
        rows["things" if thing else "stuff"].append(entry)
    if areas[0]:
        rows["void"].append(_Entry(None, "no segment", _percent(int(areas[0]) / places.size)))
    return {group: entries for group, entries in rows.items() if entries}


def _number(count: int, crowds: int) -> str:
    single = count - crowds
    words = [str(single)] if single else []
    words += ["crowd" if crowds == 1 else f"{crowds} crowds"] if crowds else []
    return " + ".join(words)


def _percent(share: float) -> str:
    return "< 1 %" if share < 0.01 else f"{100 * share:.0f} %"


def _strip(rows: dict[str, list[_Entry]], width: int, font: Font) -> Image.Image:
    """Draw the groups below each other, the entries of each beside each other as far as they go."""
    top, bottom = (int(edge) for edge in (font.getbbox("Ag")[1], font.getbbox("Ag")[3]))
    letter = bottom - top
    line, margin, swatch = letter * 7 // 4, letter * 3 // 4, letter
    indent = margin + max(int(font.getlength(group)) for group in rows) + margin
    if width < 3 * indent:
        indent = margin
    placed: list[tuple[int, int, _Entry]] = []
    headings: list[tuple[int, str]] = []
    y = margin
    for group, entries in rows.items():
        headings.append((y, group))
        x = indent
        if indent == margin:
            y += line
        for entry in entries:
            entry = _cut(entry, width - indent - margin - swatch - letter // 2, font)
            wide = swatch + letter // 2 + int(font.getlength(f"{entry.name} {entry.amount}"))
            if x > indent and x + wide > width - margin:
                x, y = indent, y + line
            placed.append((x, y, entry))
            x += wide + 2 * margin
        y += line
    strip = Image.new("RGB", (width, y + margin - (line - letter)), _PAPER)
    pen = ImageDraw.Draw(strip)
    for y, group in headings:
        pen.text((margin, y - top), group, font=font, fill=_FAINT)
    for x, y, entry in placed:
        strip.paste(_swatch(entry.color, swatch), (x, y))
        pen.rectangle((x, y, x + swatch - 1, y + swatch - 1), outline=_FAINT)
        x += swatch + letter // 2
        pen.text((x, y - top), entry.name, font=font, fill=_INK)
        pen.text((x + font.getlength(f"{entry.name} "), y - top), entry.amount, font=font, fill=_FAINT)
    return strip


def _swatch(color: Color | None, side: int) -> Image.Image:
    swatch = Image.new("RGB", (side, side), color or (120, 120, 120))
    if color is not None:
        return swatch
    drawn = np.array(swatch)
    hatch_void(drawn, swatch, np.zeros((side, side), dtype=np.int64))
    return Image.fromarray(drawn)


def _cut(entry: _Entry, width: int, font: Font) -> _Entry:
    """Shorten an entry's name until the entry is at most so wide."""
    name = entry.name
    while len(name) > 3 and font.getlength(f"{name} {entry.amount}") > width:
        name = name[:-3].rstrip() + ".."
    return entry._replace(name=name)
