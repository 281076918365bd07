"""A small folder of pictures with LabelMe's JSON beside each, as a person would have drawn them."""

import json
import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SIZE = (120, 160)
COLORS = {"disc": (220, 60, 60), "box": (60, 90, 220), "star": (240, 200, 40)}


def corners(name: str, x: float, y: float, radius: float, turn: float) -> list[tuple[float, float]]:
    """Return the outline of a shape around (x, y)."""
    count = {"disc": 24, "box": 4, "star": 10}[name]
    reach = [radius * (0.45 if name == "star" and n % 2 else 1) for n in range(count)]
    angles = [turn + 2 * math.pi * n / count for n in range(count)]
    return [(round(x + r * math.cos(a), 1), round(y + r * math.sin(a), 1)) for r, a in zip(reach, angles, strict=True)]


def make_labels(folder: Path, count: int = 16) -> Path:
    """Draw pictures of discs, boxes and stars and write their outlines as LabelMe does."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for number in range(count):
        image = Image.fromarray(random.integers(90, 140, (*SIZE, 3), dtype=np.uint8))
        shapes = []
        for _ in range(int(random.integers(2, 5))):
            name = str(random.choice(list(COLORS)))
            x, y, radius = random.uniform(25, 135), random.uniform(25, 95), random.uniform(10, 24)
            points = corners(name, x, y, radius, random.uniform(0, 3))
            ImageDraw.Draw(image).polygon(points, fill=COLORS[name])
            shapes.append({"label": name, "points": points, "group_id": None, "shape_type": "polygon", "flags": {}})
        image.save(folder / f"{number:03}.jpg", quality=92)
        label = {
            "version": "5.4.1",
            "flags": {},
            "shapes": shapes,
            "imagePath": f"{number:03}.jpg",
            "imageData": None,
            "imageHeight": SIZE[0],
            "imageWidth": SIZE[1],
        }
        (folder / f"{number:03}.json").write_text(json.dumps(label, indent=2), encoding="utf-8")
    return folder
