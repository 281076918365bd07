"""Maps that the tests of drawing draw, and what was written on them."""

from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from thingstuff import drawing_labels
from thingstuff.drawing import overlay
from thingstuff.panoptic import Categories, Panoptic, Segment

CATEGORIES = Categories(("cup", "table"), (True, False), (7, 3), ((40, 90, 200), (150, 120, 60)))

Box = tuple[int, int, int, int]


def two_cups(height: int = 120, width: int = 160, score: float | None = None) -> Panoptic:
    """A table with two cups on it; the lowest tenth is void."""
    ids = np.full((height, width), 500, dtype=np.int32)
    ids[height // 6 : height // 2, width // 10 : width // 2] = 70_000
    ids[height // 6 : height // 2, width * 6 // 10 : width * 9 // 10] = 2
    ids[height * 9 // 10 :] = 0
    segments = (Segment(70_000, 0, 1, score), Segment(500, 1, 1), Segment(2, 0, 1, score))
    return Panoptic(ids, segments, CATEGORIES)


def crowded(seed: int, height: int = 240, width: int = 320, count: int = 60, largest: int = 60) -> Panoptic:
    """Boxes over each other on a ground; each segment is a class of its own, named after its id."""
    rng = np.random.default_rng(seed)
    ids = np.ones((height, width), dtype=np.int32)
    for i in range(2, count):
        y, x = rng.integers(0, height - 20), rng.integers(0, width - 20)
        h, w = rng.integers(3, largest, size=2)
        ids[y : y + h, x : x + w] = i
    present = [int(i) for i in np.unique(ids)]
    categories = Categories(tuple(f"s{i}" for i in present), (True,) * len(present), tuple(present))
    segments = tuple(Segment(i, label, 1, 0.9) for label, i in enumerate(present))
    return Panoptic(ids, segments, categories)


class Written(NamedTuple):
    """What was written: texts, the box of each, and the lines, each from a segment's pixel to near a box."""

    texts: list[str]
    boxes: list[Box]
    lines: list[list[tuple[int, int]]]

    @property
    def line_of(self) -> dict[int, list[tuple[int, int]]]:
        """The line of a box, by the box's position; most labels have none."""

        def apart(end: tuple[int, int], box: Box) -> int:
            return max(box[0] - end[0], end[0] - box[2] + 1, box[1] - end[1], end[1] - box[3] + 1)

        return {min(range(len(self.boxes)), key=lambda i: apart(line[1], self.boxes[i])): line for line in self.lines}


def written(panoptic: Panoptic, monkeypatch: pytest.MonkeyPatch, picture: np.ndarray | None = None) -> Written:
    """Draw, and return every text written, every box darkened for one and every line drawn to one."""
    seen = Written([], [], [])
    draw = drawing_labels.ImageDraw.ImageDraw
    text, line, paste = draw.text, draw.line, Image.Image.paste

    def text_seen(self, place, value, **rest):
        seen.texts.append(value)
        return text(self, place, value, **rest)

    def line_seen(self, ends, **rest):
        if rest["fill"] == (255, 255, 255):
            seen.lines.append(ends)
        return line(self, ends, **rest)

    def paste_seen(self, image, box):
        seen.boxes.append(box)
        return paste(self, image, box)

    with monkeypatch.context() as patch:
        patch.setattr(draw, "text", text_seen)
        patch.setattr(draw, "line", line_seen)
        patch.setattr(Image.Image, "paste", paste_seen)
        overlay(panoptic, picture)
    return seen


def overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
