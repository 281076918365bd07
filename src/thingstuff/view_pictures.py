"""What the page and the figures of a walk draw alike: numbers as levels of a scale, PNGs, the segments on the canvas.

Letters: H W the canvas, h w a map that covers it.
"""

import math
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from io import BytesIO

import numpy as np
import numpy.typing as npt
from jaxtyping import Float, Int, Shaped, UInt8
from PIL import Image
from scipy.ndimage import label

from thingstuff.colour_scales import LEVELS, scale_of
from thingstuff.drawing_colours import color_table
from thingstuff.embedded_pictures import data_url as data_url
from thingstuff.panoptic import Color, Panoptic
from thingstuff.structures import Frame, Size
from thingstuff.walk import MapView, Mark, MarksView

_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_SIDE = 640  # of the map that is clicked, in pixels
NO_NUMBER = LEVELS
"""The level of what is not finite, drawn black."""


@dataclass(frozen=True, eq=False)
class Levels:
    """A map as levels of a colour scale: level 0 is `low`, the last is `high`; `NO_NUMBER` is black."""

    indices: UInt8[np.ndarray, "h w"]
    low: float
    high: float
    signed: bool

    @property
    def palette(self) -> UInt8[np.ndarray, "levels 3"]:
        """The colour of each level."""
        return np.vstack([scale_of(self.signed), np.zeros((1, 3), np.uint8)])

    @property
    def colours(self) -> UInt8[np.ndarray, "h w 3"]:
        """The map's colours."""
        colours: UInt8[np.ndarray, "h w 3"] = self.palette[self.indices]
        return colours


def levels_of(values: Float[np.ndarray, "h w"], low: float, high: float, *, signed: bool) -> Levels:
    """Return a map as levels; what lies beyond `low` or `high` has their colour, as has all where they are equal."""
    reach, known = high - low, np.isfinite(values)
    finite = np.where(known, values, low).astype(np.float64)
    shares = (finite - low) / reach if reach > 0 else np.full(values.shape, 0.5 if signed else 0.0)
    indices = np.where(known, (shares.clip(0, 1) * (LEVELS - 1)).round(), NO_NUMBER)
    return Levels(indices.astype(np.uint8), low, high, signed)


def view_levels(view: MapView, shape: Size | None = None) -> Levels:
    """Return a view's map as levels, from its `low` to its `high` or those of its values, at another shape if given."""
    finite = view.values[np.isfinite(view.values)]
    least, most = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    low = least if view.low is None or not math.isfinite(view.low) else view.low
    high = most if view.high is None or not math.isfinite(view.high) else view.high
    if view.signed:
        high = max(abs(low), abs(high))
        low = -high
    return levels_of(averaged(view.values, shape), low, high, signed=view.signed)


def not_finite(values: Shaped[np.ndarray, "..."]) -> str:
    """Return a sentence that tells how many of a map's numbers are not finite; nothing where all are."""
    lost = int(values.size - np.isfinite(values).sum())
    return f"Not finite: {lost:,} of {values.size:,} numbers, drawn black." if lost else ""


def drawn_marks(view: MarksView) -> list[Mark]:
    """Return the marks that lie somewhere (their numbers are finite), the kept ones last: they lie above the others."""
    return sorted((mark for mark in view.marks if np.isfinite(mark.box).all()), key=lambda mark: mark.kept)


def lost_marks(view: MarksView) -> str:
    """Return a sentence that tells how many marks lie nowhere; nothing where all lie somewhere."""
    lost = len(view.marks) - len(drawn_marks(view))
    return f"Not drawn: {lost:,} of {len(view.marks):,}, whose coordinates are not finite." if lost else ""


def averaged(values: Float[np.ndarray, "h w"], shape: Size | None) -> npt.NDArray[np.float32]:
    """Return a map at another shape, each cell the mean of what it covers."""
    values = np.ascontiguousarray(values, dtype=np.float32)
    if shape is None or shape == values.shape:
        return values
    return np.asarray(Image.fromarray(values).resize(shape[::-1], Image.Resampling.BOX))


def averaged_pixels(pixels: UInt8[np.ndarray, "h w 3"], shape: Size) -> UInt8[np.ndarray, "_ _ 3"]:
    """Return colours at another shape, each cell the mean of what it covers."""
    if shape == pixels.shape[:2]:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize(shape[::-1], Image.Resampling.BOX))


def bounded(shape: Size, cells: int) -> Size:
    """Return the shape, made smaller where it has more than so many cells; its sides keep their ratio."""
    if shape[0] * shape[1] <= cells:
        return shape
    factor = (cells / (shape[0] * shape[1])) ** 0.5
    return max(1, int(shape[0] * factor)), max(1, int(shape[1] * factor))


def number(value: float) -> str:
    """Return a number in at most three digits, with a minus that is one."""
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "∞" if value > 0 else "−∞"
    text = f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    if "e" in text:
        mantissa, _, power = text.partition("e")
        text = f"{mantissa} · 10{str(int(power)).translate(_RAISED)}"
    return "0" if text == "-0" else text.replace("-", "−")


def indexed_png(indices: UInt8[np.ndarray, "h w"], palette: UInt8[np.ndarray, "levels 3"] | None = None) -> bytes:
    """Return a PNG of exactly these indices: of a palette, or grey values where there is none.

    Its cells are told by their difference to others where that takes less, as maps are smooth.
    """
    h, w = indices.shape
    above = np.vstack([np.zeros((1, w), np.uint8), indices[:-1]])
    left = np.hstack([np.zeros((h, 1), np.uint8), indices[:, :-1]])
    # PNG's filters: 0 as it is, 1 less what is left of it, 2 less what is above; the smallest bytes compress best
    filtered = [(kind, rows) for kind, rows in enumerate((indices, indices - left, indices - above))]
    kind, rows = min(filtered, key=lambda entry: int(np.abs(entry[1].view(np.int8).astype(np.int16)).sum()))
    content = zlib.compress(np.hstack([np.full((h, 1), kind, np.uint8), rows]).tobytes(), 9)
    header = struct.pack(">IIBBBBB", w, h, 8, 0 if palette is None else 3, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", content), (b"IEND", b"")]
    if palette is not None:
        chunks.insert(1, (b"PLTE", palette.tobytes()))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def png(pixels: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """Return colours as PNG."""
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def jpeg(image: Image.Image, side: int) -> bytes:
    """Return a photograph as JPEG, at most `side` pixels wide and high."""
    factor = min(1.0, side / max(image.size))
    if factor < 1:
        size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
        image = image.resize(size, Image.Resampling.LANCZOS)
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=84, optimize=True)
    return buffer.getvalue()


@dataclass(frozen=True, eq=False)
class Atlas:
    """Attention of all cells in one grey picture: the map of cell (row, column) is the tile there.

    A tile's 255 is its cell's entry of `largest`, which is 0 where no share is a finite number.
    """

    tiles: UInt8[np.ndarray, "_ _"]
    largest: tuple[float, ...]
    grid: Size
    shape: Size


def attention_atlas(maps: Float[np.ndarray, "cells h w"], grid: Size, values: int) -> Atlas:
    """Return attention as one picture of at most so many pixels: fewer cells, and fewer looked at, where it needs."""
    rows, columns = grid
    whole = maps.reshape(rows, columns, *maps.shape[1:])
    share = min(1.0, (values / maps.size) ** 0.5)
    kept = bounded(grid, max(1, int(rows * columns * share)))
    shape = bounded((maps.shape[1], maps.shape[2]), max(1, int(maps.shape[1] * maps.shape[2] * share)))
    picked = whole[_spread(rows, kept[0])][:, _spread(columns, kept[1])]
    small = np.stack([averaged(cell, shape) for cell in picked.reshape(-1, *maps.shape[1:])])
    small = np.where(np.isfinite(small), small, 0)
    largest = small.max(axis=(1, 2))
    tiles = (small / np.maximum(largest, 1e-30)[:, None, None] * 255).clip(0, 255).round().astype(np.uint8)
    picture = tiles.reshape(*kept, *shape).transpose(0, 2, 1, 3).reshape(kept[0] * shape[0], kept[1] * shape[1])
    return Atlas(np.ascontiguousarray(picture), tuple(float(v) for v in largest), kept, shape)


def _spread(count: int, kept: int) -> npt.NDArray[np.int64]:
    """Return the positions in the middles of `kept` equal parts."""
    return ((np.arange(kept) + 0.5) * count / kept).astype(np.int64)


def places_on_canvas(panoptic: Panoptic, frame: Frame) -> Int[np.ndarray, "_ _"]:
    """Return which segment (its position plus one; 0 is none) lies where on the canvas, at a size to click on."""
    factor = min(1.0, _SIDE / max(frame.canvas))
    shape = [max(1, round(side * factor)) for side in frame.canvas]
    rows, columns = ((np.arange(n) + 0.5) * side / n for n, side in zip(shape, frame.canvas, strict=True))
    source = []
    for middles, size, original in zip((rows, columns), frame.size, frame.original, strict=True):
        inside = middles[middles < size]
        source.append((inside * original / size).astype(np.int64).clip(max=original - 1))
    place_of = {segment.id: place for place, segment in enumerate(panoptic.segments, start=1)}
    ids = panoptic.ids[source[0]][:, source[1]]
    present, inverse = np.unique(ids, return_inverse=True)
    found = np.array([place_of.get(int(i), 0) for i in present], dtype=np.int64)[inverse.reshape(ids.shape)]
    places = np.zeros(shape, dtype=np.int64)
    places[: ids.shape[0], : ids.shape[1]] = found
    return places


def places_png(places: Int[np.ndarray, "h w"]) -> bytes:
    """Return places as PNG: red holds the low byte, green the high one."""
    return png(np.stack([places & 255, places >> 8, np.zeros_like(places)], axis=-1).astype(np.uint8))


def middles(panoptic: Panoptic, frame: Frame) -> Mapping[int, tuple[float, float]]:
    """Return, by a segment's id, the pixel nearest to the centre of its largest piece, (x, y) as shares of the canvas.

    A segment that lies below others has no pixel, and no entry.
    """
    found = {}
    for segment in panoptic.segments:
        pieces, _ = label(panoptic.ids == segment.id)
        areas = np.bincount(pieces.ravel())[1:]
        if not len(areas):
            continue
        rows, columns = np.nonzero(pieces == 1 + int(areas.argmax()))
        off = (rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2
        nearest = int(off.argmin())
        y, x = (
            (float(at) + 0.5) * size / original / side
            for at, size, original, side in zip(
                (rows[nearest], columns[nearest]), frame.size, frame.original, frame.canvas, strict=True
            )
        )
        found[segment.id] = (x, y)
    return found


def drawn_map(panoptic: Panoptic, picture: UInt8[np.ndarray, "_ _ 3"]) -> Image.Image:
    """Return the map over its picture; a small one enlarged by a whole number, so that names find room."""
    times = max(1, -(-_SIDE // max(panoptic.size)) if max(panoptic.size) <= _SIDE // 2 else 1)
    if times == 1:
        return panoptic.draw(picture)
    ids = panoptic.ids.repeat(times, 0).repeat(times, 1)
    segments = tuple(replace(s, area=s.area * times * times) for s in panoptic.segments)
    large = Image.fromarray(picture).resize(ids.shape[::-1], Image.Resampling.BICUBIC)
    return Panoptic(ids, segments, panoptic.categories).draw(large)


def segment_colours(panoptic: Panoptic) -> Mapping[int, Color]:
    """Return the colour in which each segment is drawn, by its id."""
    colours = color_table(panoptic)[1:].tolist()  # void's comes first
    return {s.id: (red, green, blue) for s, (red, green, blue) in zip(panoptic.segments, colours, strict=True)}


def group_order(groups: tuple[int, ...]) -> list[int]:
    """Return the rows of a matrix in an order in which those of a group stand together, at its first one's place."""
    first = {group: position for position, group in reversed(list(enumerate(groups)))}
    return sorted(range(len(groups)), key=lambda row: (first[groups[row]], row))


def square(values: Shaped[np.ndarray, "n n"], order: list[int]) -> Shaped[np.ndarray, "n n"]:
    """Return a matrix with rows and columns in another order."""
    return values[np.ix_(order, order)]
