"""Names on a drawn map: none over another, and beside what is too small for its own.

Letters: H W the picture, h w a coarse grid over it. A *place* is a segment's position in `Panoptic.segments` plus one;
place 0 is void.
"""

import math
import unicodedata
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Int
from PIL import Image, ImageDraw, ImageFont

from thingstuff.panoptic import Panoptic, Segment

Box = tuple[int, int, int, int]
"""(left, top, right, bottom) in pixels, half-open."""

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_GRID_ROWS = 96
_LONGEST_NAME = 24
_SHADOW = 0.7
# Latin letters and signs that are no plain letter with an accent, as the built-in font can write them.
_PLAIN = str.maketrans(
    {"ß": "ss", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "đ": "d", "Đ": "D", "ð": "d", "Ð": "D", "ı": "i", "æ": "ae"}
    | {"Æ": "Ae", "œ": "oe", "Œ": "Oe", "þ": "th", "Þ": "Th", "’": "'", "‘": "'", "“": '"', "”": '"', "–": "-"}
    | {"—": "-", "×": "x", "·": "-"}
)
# Where a label stands beside its segment, nearest and plainest first.
_SIDES = ((1, 0), (-1, 0), (0, -1), (0, 1), (1, -1), (1, 1), (-1, -1), (-1, 1))
_DISTANCES = (0.7, 1.6, 3.0, 4.5)


@lru_cache(maxsize=8)
def builtin_font(size: int) -> Font:
    """Return Pillow's own font, which writes ASCII alone; at least 11 pixels high."""
    return ImageFont.load_default(size=max(11, size))


def letter_size(size: tuple[int, int]) -> int:
    """Return how high letters are in a picture of that (height, width), in pixels.

    They grow more slowly than the picture until it is so large that it is looked at in reduced size.
    """
    longest = max(size)
    return int(max(11, round(0.6 * math.sqrt(longest)), round(longest / 80)))


def writable_name(panoptic: Panoptic, label: int, longest: int = _LONGEST_NAME) -> str:
    """Return a class's name in letters that the built-in font has, cut to so many.

    Accents are left out (café: cafe); a name in another script, or without a letter, becomes its category id (class 7).
    """
    name = unicodedata.normalize("NFKD", panoptic.categories.names[label].translate(_PLAIN))
    name = " ".join("".join(c for c in name if not unicodedata.combining(c)).split())
    if not name or not all(" " <= c <= "~" for c in name):
        name = f"class {panoptic.categories.ids[label]}"
    return name if len(name) <= longest else name[: longest - 2].rstrip() + ".."


def write_names(
    image: Image.Image, panoptic: Panoptic, places: Int[np.ndarray, "H W"], letters: int | None = None
) -> None:
    """Write the classes' names, with scores where things have them: things before stuff, large before small.

    `letters` is their height in pixels, where the picture's size does not give it.
    """
    page = _Page(image, places, (), letters)

    def rank(place: int) -> tuple[bool, int, int]:
        segment = panoptic.segments[place - 1]
        return (not panoptic.categories.things[segment.label], -int(page.areas[place]), place)

    order = sorted(range(1, len(page.areas)), key=rank)
    _write_all(page, {place: _texts(panoptic, panoptic.segments[place - 1]) for place in order})


def _texts(panoptic: Panoptic, segment: Segment) -> list[str]:
    """Return what may be written on a segment, the fullest first."""
    name = writable_name(panoptic, segment.label)
    if segment.iscrowd:
        return [f"{name} (crowd)", name]
    if segment.score is not None and panoptic.categories.things[segment.label]:
        return [f"{name} {segment.score:.2f}", name]
    return [name]


def write_labels(
    image: Image.Image,
    places: Int[np.ndarray, "H W"],
    labels: Mapping[int, Sequence[str]],
    taken: Sequence[Box] = (),
    letters: int | None = None,
) -> list[Box]:
    """Write on each place the first of its texts for which there is room, and return the boxes that are taken now.

    In the order of `labels` and where each segment is deepest; beside it, the shortest text alone, tied to it by a
    line, where it is too small. No label or line lies over another or over what is `taken`, none hides more than a
    quarter of another segment, none on its segment is larger than it. What finds no room is left out.
    """
    page = _Page(image, places, taken, letters)
    _write_all(page, labels)
    return page.taken


def _write_all(page: "_Page", labels: Mapping[int, Sequence[str]]) -> None:
    """Write what fits on its own segment, then what must stand beside it."""
    # to a speck there is no label: the picture would be full of lines to nothing
    seen = [place for place in labels if place < len(page.areas) and page.areas[place] * 12 >= page.height**2]
    middles = _middles(page.places, seen)
    beside = []
    for place in seen:
        if not any(page.write_on(place, text, middles[place]) for text in labels[place]):
            beside.append(place)
    for place in beside:
        page.write_beside(place, labels[place][-1], middles[place])


class _Page:
    """A picture that labels are written on, and where it has some."""

    def __init__(
        self, image: Image.Image, places: Int[np.ndarray, "H W"], taken: Sequence[Box], letters: int | None
    ) -> None:
        self.image, self.places = image, places
        self.areas = np.bincount(places.ravel())
        self.font = builtin_font(letters or letter_size(places.shape))
        self.pad: int = max(2, places.shape[1] // 400)
        self.left, self.top, _, bottom = (int(edge) for edge in self.font.getbbox("Ag"))
        self.height: int = bottom - self.top + 2 * self.pad
        self.taken = [*taken]
        self.occupied: Bool[np.ndarray, "H W"] = np.zeros(places.shape, dtype=bool)
        for left, top, right, bottom in taken:
            self.occupied[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] = True

    def write_on(self, place: int, text: str, middle: tuple[int, int]) -> bool:
        """Write on a segment, near its middle (x, y); tell whether there was room."""
        width = self._width(text)
        H, W = self.places.shape
        if width > W or self.height > H or width * self.height > self.areas[place]:
            return False
        left = min(max(middle[0] - width // 2, 0), W - width)
        for shift in (0, self.height, -self.height, 2 * self.height, -2 * self.height):
            top = min(max(middle[1] + shift - self.height // 2, 0), H - self.height)
            box = (left, top, left + width, top + self.height)
            inside = self.places[top + self.height // 2, left + width // 2] == place
            if inside and self._is_free(box, place):
                self._write(text, box)
                return True
        return False

    def write_beside(self, place: int, text: str, middle: tuple[int, int]) -> None:
        """Write beside a segment and draw a line to its middle (x, y), where there is room for both."""
        H, W = self.places.shape
        width, height, (x, y) = self._width(text), self.height, middle
        for distance in _DISTANCES:
            gap = round(distance * height)
            for across, down in _SIDES:
                left = x - width // 2 + across * (gap + width // 2)
                top = y - height // 2 + down * (gap + height // 2)
                box = (left, top, left + width, top + height)
                if left < 0 or top < 0 or left + width > W or top + height > H or not self._is_free(box, 0):
                    continue
                line = _line(middle, box)
                stretch = self._stretch(line)
                if not any(self.occupied[top:bottom, left:right].any() for left, top, right, bottom in stretch):
                    self._draw_line(line)
                    self._write(text, box)
                    for part in stretch:
                        self._take(part)
                    return

    def _width(self, text: str) -> int:
        return int(self.font.getlength(text)) + 2 * self.pad

    def _is_free(self, box: Box, own: int) -> bool:
        """Tell whether a label may stand there: on nothing written and on little of every segment but its own."""
        left, top, right, bottom = box
        if self.occupied[top:bottom, left:right].any():
            return False
        hidden = np.bincount(self.places[top:bottom, left:right].ravel())
        hidden[[0, own]] = 0
        return not (4 * hidden > self.areas[: len(hidden)]).any()

    def _write(self, text: str, box: Box) -> None:
        self._take(box)
        below = self.image.crop(box)
        self.image.paste(Image.blend(below, Image.new("RGB", below.size), _SHADOW), box)
        corner = (box[0] + self.pad - self.left, box[1] + self.pad - self.top)
        ImageDraw.Draw(self.image).text(corner, text, font=self.font, fill=(255, 255, 255))

    @property
    def _thickness(self) -> int:
        return max(1, self.height // 16)

    def _stretch(self, line: Int[np.ndarray, "n 2"]) -> list[Box]:
        """Return boxes that cover a line as it is drawn."""
        reach = self._thickness + 2
        corners = ((x - reach, y - reach, x + reach + 1, y + reach + 1) for x, y in line[::reach].tolist())
        return [(max(left, 0), max(top, 0), right, bottom) for left, top, right, bottom in corners]

    def _draw_line(self, line: Int[np.ndarray, "n 2"]) -> None:
        """Draw a light line with dark edges and a knob where the segment is, so that it shows on any two colours."""
        thick = self._thickness
        pen = ImageDraw.Draw(self.image)
        ends = [(int(x), int(y)) for x, y in (line[0], line[-1])]
        for radius, width, fill in ((thick + 2, thick + 2, (0, 0, 0)), (thick + 1, thick, (255, 255, 255))):
            pen.line(ends, fill=fill, width=width)
            (x, y), _ = ends
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)

    def _take(self, box: Box) -> None:
        self.taken.append(box)
        self.occupied[box[1] : box[3], box[0] : box[2]] = True


def _line(start: tuple[int, int], box: Box) -> Int[np.ndarray, "n 2"]:
    """Return the pixels (x, y) from a point to the nearest of a box that it lies outside of, without the box's own."""
    end = np.array([np.clip(start[0], box[0] - 1, box[2]), np.clip(start[1], box[1] - 1, box[3])])
    count = int(np.abs(end - start).max()) + 1
    line: Int[np.ndarray, "n 2"] = np.linspace(start, end, count).round().astype(np.int64)
    return line


def _depths(grid: Int[np.ndarray, "h w"]) -> Int[np.ndarray, "h w"]:
    """Return each cell's steps to the border of its segment (city block), for all segments at once."""
    padded = np.pad(grid, 1, constant_values=-1)
    inside = np.ones(grid.shape, dtype=bool)
    for neighbour in (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]):
        inside &= neighbour == grid
    depth = np.zeros(grid.shape, dtype=np.int64)
    while inside.any():
        depth += inside
        around = np.pad(inside, 1)
        inside = inside & around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:]
    return depth


def _middles(places: Int[np.ndarray, "H W"], wanted: Sequence[int]) -> dict[int, tuple[int, int]]:
    """Return a pixel (x, y) deep inside each wanted segment, which must have one.

    Found on a coarse grid, whose cells are twice as wide as high, as names are: of a segment's deepest cells the one in
    their middle. What falls between the grid's cells is small, and its pixel nearest to its centre will do.
    """
    H, W = places.shape
    step = max(1, -(-max(H, W // 2) // _GRID_ROWS))
    grid = places[step // 2 :: step, step :: 2 * step]  # [h, w]
    middles = {}
    if grid.size:
        depth = _depths(grid)
        deepest = np.zeros(int(grid.max()) + 1, dtype=np.int64)
        np.maximum.at(deepest, grid, depth)
        rows, columns = np.nonzero(depth == deepest[grid])
        found = _most_central(grid[rows, columns], rows, columns, 2)
        middles = {place: (x * 2 * step + step, y * step + step // 2) for place, (x, y) in found.items()}
    if missing := [place for place in wanted if place not in middles]:
        rows, columns = np.divmod(np.flatnonzero(np.isin(places, missing)), W)
        middles |= _most_central(places[rows, columns], rows, columns, 1)
    return middles


def _most_central(
    owner: Int[np.ndarray, "n"], rows: Int[np.ndarray, "n"], columns: Int[np.ndarray, "n"], wide: int
) -> dict[int, tuple[int, int]]:
    """Return each owner's cell (x, y) nearest to the mean of its cells, which are `wide` times as wide as high."""
    count = np.bincount(owner).clip(min=1)
    off_row = rows - (np.bincount(owner, rows) / count)[owner]
    off_column = columns - (np.bincount(owner, columns) / count)[owner]
    order = np.lexsort((off_row**2 + (wide * off_column) ** 2, owner))
    owners, first = np.unique(owner[order], return_index=True)
    chosen = order[first]
    return dict(zip(owners.tolist(), zip(columns[chosen].tolist(), rows[chosen].tolist(), strict=True), strict=True))
