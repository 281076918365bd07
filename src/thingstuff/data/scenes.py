"""Made pictures: layered stuff and overlapping things drawn with numpy alone, to try everything offline.

Colours of all classes come from one wide range, so that only texture tells stuff apart and only shape and surface
pattern tell things apart. Edges are drawn from signed distances in pixels, which gives smooth colour and exact ids.

Letters: H W the picture, h w the box of one thing.
"""

import colorsys
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from jaxtyping import UInt8
from PIL import Image

from thingstuff.errors import InputError
from thingstuff.io import atomic_write, write_id_map
from thingstuff.panoptic import VOID, Categories, Panoptic, Segment

Map = npt.NDArray[np.float32]
Picture = UInt8[np.ndarray, "H W 3"]
Point = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SceneConfig:
    """What made pictures look like; lengths are pixels. Raises `InputError` on values that cannot be drawn."""

    size: tuple[int, int] = (128, 160)
    """(height, width)."""
    things: tuple[int, int] = (2, 7)
    """Fewest and most things that are placed in a picture; one that is nearly hidden is left out again."""
    thing_size: tuple[float, float] = (20.0, 72.0)
    """Smallest and largest extent of a thing; drawn log-uniformly, so that small ones are common."""
    crowd_chance: float = 0.12
    """Share of pictures with a crowd: tiny things of one class, labelled as one segment with iscrowd=1."""
    void_chance: float = 0.2
    """Share of pictures with an unlabelled blob, and of things with an unlabelled rim."""
    min_visible: int = 25
    """Pixels that must show: a thing with fewer is left out, stuff with fewer is unlabelled."""

    def __post_init__(self) -> None:
        rules = {
            "size": (min(self.size) >= 32, "at least (32, 32)"),
            "things": (0 <= self.things[0] <= self.things[1], "(fewest, most), 0 or more"),
            "thing_size": (6 <= self.thing_size[0] <= self.thing_size[1], "(smallest, largest), 6 or more"),
            "crowd_chance": (0 <= self.crowd_chance <= 1, "from 0 to 1"),
            "void_chance": (0 <= self.void_chance <= 1, "from 0 to 1"),
            "min_visible": (self.min_visible >= 1, "1 or more"),
        }
        for name, (good, rule) in rules.items():
            if not good:
                raise InputError(f"scenes: {name}={getattr(self, name)!r} cannot be drawn; give {rule}")


def _soft_noise(rng: np.random.Generator, shape: tuple[int, ...], cell: tuple[float, float]) -> Map:
    """Smooth noise [H, W], about -1 to 1, whose bumps are `cell` (height, width) pixels apart."""
    rows, columns = shape[0] / cell[0], shape[1] / cell[1]
    coarse = rng.uniform(-1, 1, (math.ceil(rows) + 2, math.ceil(columns) + 2)).astype(np.float32)
    # Half a cell off the rim: there the interpolation has no neighbours on one side and turns flat.
    box = (0.5, 0.5, 0.5 + columns, 0.5 + rows)
    fine = Image.fromarray(coarse).resize((shape[1], shape[0]), Image.Resampling.BICUBIC, box)
    return np.asarray(fine, dtype=np.float32)


def _sky(rng: np.random.Generator, y: Map, x: Map) -> Map:
    clouds = _soft_noise(rng, y.shape, (18.0, 36.0)) + 0.4 * _soft_noise(rng, y.shape, (9.0, 18.0))
    return np.clip(0.55 * y / len(y) + 0.55 * np.clip(clouds, 0, 1), 0, 1)


def _water(rng: np.random.Generator, y: Map, x: Map) -> Map:
    phase = y / rng.uniform(4.5, 6.5) + 0.35 * _soft_noise(rng, y.shape, (14.0, 28.0))
    return np.asarray(0.5 + 0.5 * np.sin(2 * np.pi * phase), dtype=np.float32)


def _wall(rng: np.random.Generator, y: Map, x: Map) -> Map:
    height = rng.uniform(6, 8.5)
    width = height * rng.uniform(1.6, 2.1)
    row, shade = np.floor(y / height), rng.uniform(0.0, 0.3, 997)
    column = x / width + 0.5 * (row % 2)
    joint = np.minimum(abs(y / height - np.round(y / height)) * height, abs(column - np.round(column)) * width)
    brick = (row * 31 + np.floor(column)).astype(np.int64) % len(shade)
    return np.where(joint < 0.9, 1, shade[brick]).astype(np.float32)


_STUFF: dict[str, Callable[[np.random.Generator, Map, Map], Map]] = {
    "sky": _sky,
    "water": _water,
    "grass": lambda rng, y, x: np.clip(0.5 + 0.75 * _soft_noise(rng, y.shape, (3.6, 1.9)), 0, 1),
    "wall": _wall,
    "": lambda rng, y, x: np.clip(0.5 + 0.9 * _soft_noise(rng, y.shape, (8.0, 8.0)), 0, 1),
}
"""(rng, y, x) in pixels -> share [H, W] of the surface's second colour, 0 to 1; the nameless one is unlabelled."""


def _polygon(x: Map, y: Map, corners: Sequence[tuple[float, float]]) -> Map:
    """Signed distance [h, w] to a closed polygon, negative inside."""
    squared, inside = np.full(x.shape, np.inf, dtype=np.float32), np.zeros(x.shape, dtype=bool)
    for (ax, ay), (bx, by) in zip(corners, (*corners[1:], corners[0]), strict=True):
        dx, dy = bx - ax, by - ay
        along = np.clip(((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy), 0, 1)
        squared = np.minimum(squared, (x - ax - along * dx) ** 2 + (y - ay - along * dy) ** 2)
        if dy:
            inside ^= ((ay > y) != (by > y)) & (x < ax + (y - ay) * (dx / dy))
    return np.where(inside, -np.sqrt(squared), np.sqrt(squared))


_FIR = ((0.0, -1.0), (0.52, -0.3), (0.27, -0.3), (0.65, 0.15), (0.36, 0.15), (0.78, 0.62), (0.17, 0.62), (0.17, 1.0))
_TREE = (*_FIR, *((-x, y) for x, y in reversed(_FIR[1:])))
_BODY = ((-1.0, 0.4), (-1.0, 0.0), (-0.64, -0.1), (-0.4, -0.52), (0.3, -0.52), (0.6, -0.1), (1.0, 0.0), (1.0, 0.4))
_STAR = tuple((r * math.sin(a * math.pi / 5), -r * math.cos(a * math.pi / 5)) for a, r in enumerate((1.0, 0.45) * 5))
_TAIL = ((-0.4, 0.0), (-1.0, -0.5), (-0.82, 0.0), (-1.0, 0.5))


def _wheels(x: Map, y: Map) -> Map:
    return np.asarray(np.hypot(abs(x) - 0.54, y - 0.42) - 0.26, dtype=np.float32)


def _fish(x: Map, y: Map) -> Map:
    return np.asarray(np.minimum(np.hypot(x - 0.2, abs(y) + 0.36) - 0.86, _polygon(x, y, _TAIL)), dtype=np.float32)


def _fish_surface(x: Map, y: Map) -> Map:
    stripes, eye = 0.25 * np.sin(11 * x + 1.5 * abs(y)) - 0.08, 0.11 - np.hypot(x - 0.62, y + 0.1)
    return np.where(x < 0.35, stripes, eye)


def _car_surface(x: Map, y: Map) -> Map:
    windows = np.maximum(abs(y + 0.25) - 0.17, abs(abs(x + 0.05) - 0.235) - 0.185)
    return np.asarray(-np.minimum(windows, _wheels(x, y)), dtype=np.float32)


class _ThingKind(NamedTuple):
    """How a class of things is drawn: functions of (x, y) in units of its radius, y down -> [h, w]."""

    outline: Callable[[Map, Map], npt.NDArray[np.floating]]  # signed distance, negative inside
    surface: Callable[[Map, Map], npt.NDArray[np.floating]]  # positive where the second colour shows
    tilt: float  # largest turn either way, degrees


_THINGS = {
    "ball": _ThingKind(lambda x, y: np.hypot(x, y) - 0.92, lambda x, y: 3 * x**2 * y - y**3, 180),
    "tree": _ThingKind(
        lambda x, y: _polygon(x, y, _TREE),
        lambda x, y: np.maximum(np.cos(11 * x) * np.sin(9 * y) / 5 - 0.07, y - 0.62),
        20,
    ),
    "star": _ThingKind(lambda x, y: _polygon(x, y, _STAR), lambda x, y: 0.4 - np.hypot(x, y), 36),
    "fish": _ThingKind(_fish, _fish_surface, 35),
    "car": _ThingKind(lambda x, y: np.minimum(_polygon(x, y, _BODY), _wheels(x, y)), _car_surface, 20),
}
_NAMES = ("sky", "ball", "tree", "water", "star", "grass", "fish", "wall", "car")
_RGB = "6eaae6 e63c3c 146e3c 2850be fac828 82be46 f08228 a06e5a be46c8"

SCENE_CATEGORIES = Categories(
    names=_NAMES,
    things=tuple(name in _THINGS for name in _NAMES),
    ids=(3, 5, 8, 9, 14, 20, 21, 40, 77),
    colors=tuple((r, g, b) for r, g, b in map(bytes.fromhex, _RGB.split())),
)
"""Classes of the made pictures: things and stuff interleaved, ids with gaps, as real data sets have them."""


def _two_colors(rng: np.random.Generator, away: Map, contrast: float) -> tuple[Map, Map]:
    """A main colour that stands off the colour `away`, and a second one lighter or darker by `contrast`."""
    tries = [colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(0.15, 0.85), rng.uniform(0.35, 0.95)) for _ in range(4)]
    main = max(tries, key=lambda color: float(abs(np.array(color) - away).sum()))
    second = np.array(main) + (contrast if sum(main) < 1.5 else -contrast) + rng.uniform(-0.08, 0.08, 3)
    return np.array(main, dtype=np.float32), np.clip(second, 0, 1).astype(np.float32)


def _mix(first: Map, second: Map, share: Map) -> Map:
    return np.asarray(first + (second - first) * share[..., None], dtype=np.float32)


def _blob(rng: np.random.Generator, y: Map, x: Map, size: float) -> Map:
    """Signed distance [H, W] to a wobbly ellipse, about `size` in radius."""
    radii, centre = size * rng.uniform(0.6, 1.5, 2), rng.uniform(0, y.shape)
    radius = np.hypot((y - centre[0]) / radii[0], (x - centre[1]) / radii[1])
    wobble = 0.35 * _soft_noise(rng, y.shape, (0.7 * size, 0.7 * size))
    return np.asarray((radius - 1 + wobble) * radii.min(), dtype=np.float32)


def _stuff_regions(rng: np.random.Generator, config: SceneConfig, y: Map, x: Map) -> list[tuple[int, Map]]:
    """Labels and signed distances [H, W], lowest layer first: bands, perhaps a patch and an unlabelled blob."""
    labels = rng.permutation(SCENE_CATEGORIES.stuff_labels)[: rng.choice([2, 3, 4])].tolist()
    upright, scale = rng.uniform() < 0.3, min(config.size) / 128
    if not upright and rng.uniform() < 0.5:
        labels.sort(key=lambda label: SCENE_CATEGORIES.names[label] != "sky")
    angle = math.radians(rng.normal(0, 12) + 90 * upright)
    across = y * math.cos(angle) + x * math.sin(angle)
    widths = rng.uniform(0.5, 1.5, len(labels))
    starts = across.min() + (np.cumsum(widths) - widths) / widths.sum() * np.ptp(across)
    starts[0] -= 30 * scale  # further than waves reach, so that the picture is covered
    regions = []
    for label, start in zip(labels, starts.tolist(), strict=True):
        wave = rng.uniform(3, 10) * scale * _soft_noise(rng, y.shape, (30 * scale, 30 * scale))
        regions.append((label, (start - across + wave).astype(np.float32)))
    if rng.uniform() < 0.5:
        regions.append((int(rng.choice(SCENE_CATEGORIES.stuff_labels)), _blob(rng, y, x, 29 * scale)))
    if rng.uniform() < config.void_chance:
        regions.append((VOID, _blob(rng, y, x, 13 * scale)))
    return regions


def _paint_stuff(rng: np.random.Generator, config: SceneConfig) -> tuple[Map, npt.NDArray[np.int32]]:
    """Colours [H, W, 3] (1 is white) and labels [H, W] of a picture without things."""
    y, x = np.indices(config.size, dtype=np.float32) + 0.5
    canvas, labels = np.full((*config.size, 3), 0.5, dtype=np.float32), np.full(config.size, VOID, dtype=np.int32)
    for label, distance in _stuff_regions(rng, config, y, x):
        inside = distance < 0
        away = canvas[inside].mean(axis=0) if inside.any() else canvas[0, 0]
        first, second = _two_colors(rng, away, rng.uniform(0.22, 0.34))
        tilt = math.radians(rng.uniform(-8, 8))
        down, along = y * math.cos(tilt) - x * math.sin(tilt), x * math.cos(tilt) + y * math.sin(tilt)
        surface = _STUFF["" if label == VOID else SCENE_CATEGORIES.names[label]](rng, down, along)
        canvas = _mix(canvas, _mix(first, second, surface), np.clip(0.5 - distance, 0, 1))
        labels[inside] = label
    return canvas, labels


class _Sprite(NamedTuple):
    """A drawn shape in its box: signed distance [h, w] in pixels and colours [h, w, 3]."""

    box: tuple[slice, slice]
    distance: Map
    colors: Map


class _Thing(NamedTuple):
    label: int
    sprites: Sequence[_Sprite]
    iscrowd: bool
    rim: float  # width in pixels of the unlabelled rim around it

    def mask(self, size: tuple[int, int], grown: float = 0.0) -> npt.NDArray[np.bool_]:
        mask = np.zeros(size, dtype=bool)
        for sprite in self.sprites:
            mask[sprite.box] |= sprite.distance < grown
        return mask


def _draw_sprite(rng: np.random.Generator, label: int, centre: Point, radius: float, canvas: Map) -> _Sprite:
    """Draw one shape around `centre` (y, x), in colours that stand off what the canvas has there."""
    kind, reach = _THINGS[SCENE_CATEGORIES.names[label]], 1.25 * radius + 3
    top, left = np.maximum(0, centre - reach).astype(int)
    box = (slice(top, int(centre[0] + reach)), slice(left, int(centre[1] + reach)))
    below = canvas[box]
    y, x = (np.indices(below.shape[:2]) + 0.5 + [[[top - centre[0]]], [[left - centre[1]]]]) / radius
    turn, flip, stretch = math.radians(rng.uniform(-kind.tilt, kind.tilt)), rng.choice([-1, 1]), rng.uniform(0.88, 1.14)
    u = ((x * math.cos(turn) + y * math.sin(turn)) * flip / stretch).astype(np.float32)
    v = ((y * math.cos(turn) - x * math.sin(turn)) * stretch).astype(np.float32)
    distance = kind.outline(u, v) * radius
    first, second = _two_colors(rng, below.mean(axis=(0, 1)), rng.uniform(0.35, 0.55))
    colors = _mix(first, second, np.clip(0.5 + kind.surface(u, v) * radius, 0, 1))
    dark_edge = 0.5 * min(1.0, radius / 10) * np.clip(distance + 2, 0, 1)
    shade = (1 - 0.2 * (x + y)) * (1 - dark_edge)
    return _Sprite(box, distance.astype(np.float32), (colors * shade[..., None]).astype(np.float32))


def _draw_thing(rng: np.random.Generator, config: SceneConfig, canvas: Map) -> _Thing:
    label = int(rng.choice(SCENE_CATEGORIES.thing_labels))
    radius = math.exp(rng.uniform(*np.log(config.thing_size))) / 2
    sprite = _draw_sprite(rng, label, rng.uniform(0, config.size), radius, canvas)
    return _Thing(label, [sprite], iscrowd=False, rim=1.6 if rng.uniform() < config.void_chance else 0.0)


def _draw_crowd(rng: np.random.Generator, config: SceneConfig, canvas: Map) -> _Thing:
    label, sides = int(rng.choice(SCENE_CATEGORIES.thing_labels)), np.array(config.size)
    middle, sprites = rng.uniform(0.2, 0.8, 2) * sides, []
    for _ in range(rng.integers(12, 22)):
        centre = np.clip(middle + rng.normal(0, 1, 2) * (0.07, 0.11) * sides, 2, sides - 2)
        radius = max(2.5, rng.uniform(3, 4.5) * min(config.size) / 128)
        sprites.append(_draw_sprite(rng, label, centre, radius, canvas))
    return _Thing(label, sprites, iscrowd=True, rim=0.0)


def _visible(things: Sequence[_Thing], config: SceneConfig) -> list[_Thing]:
    """Things, lowest first, without those of which too little shows under the ones above them."""
    covered, kept = np.zeros(config.size, dtype=bool), []
    for thing in reversed(things):
        mask = thing.mask(config.size)
        if np.count_nonzero(mask & ~covered) >= max(config.min_visible, 0.35 * np.count_nonzero(mask)):
            kept.append(thing)
            covered |= thing.mask(config.size, thing.rim)
    return kept[::-1]


def _lit(rng: np.random.Generator, canvas: Map) -> Picture:
    """The canvas under a colour cast, light that falls off across the picture, and noise, as 8 bits."""
    y, x = np.linspace(-1, 1, canvas.shape[0])[:, None, None], np.linspace(-1, 1, canvas.shape[1])[:, None]
    light = (1 + rng.uniform(-0.14, 0.14) * y + rng.uniform(-0.14, 0.14) * x) * rng.uniform(0.82, 1.14, 3)
    colors = 255 * (canvas * light.astype(np.float32) + 0.012 * rng.standard_normal(canvas.shape, np.float32))
    return np.asarray(np.clip(colors, 0, 255).round(), dtype=np.uint8)


def make_scene(rng: np.random.Generator, config: SceneConfig | None = None) -> tuple[Picture, Panoptic]:
    """Draw one picture [H, W, 3] (RGB) and its panoptic map [H, W]; the generator's state alone decides on them."""
    config = config or SceneConfig()
    canvas, labels = _paint_stuff(rng, config)
    things = [_draw_crowd(rng, config, canvas)] if rng.uniform() < config.crowd_chance else []
    things += [_draw_thing(rng, config, canvas) for _ in range(rng.integers(config.things[0], config.things[1] + 1))]
    things = _visible(things, config)
    # Random 24-bit ids, as COCO has them: the PNGs look colourful, and readers that stop at 8 bits are found out.
    numbers = iter((1 + rng.choice(2**24 - 1, len(SCENE_CATEGORIES) + len(things), replace=False)).tolist())
    ids, rows = np.zeros(config.size, dtype=np.int32), []
    for label in SCENE_CATEGORIES.stuff_labels:
        rows.append((next(numbers), label, False))
        ids[labels == label] = rows[-1][0]
    for thing in things:
        for box, distance, colors in thing.sprites:
            canvas[box] = _mix(canvas[box], colors, np.clip(0.5 - distance, 0, 1))
        rows.append((next(numbers), thing.label, thing.iscrowd))
        ids[thing.mask(config.size, thing.rim)] = 0
        ids[thing.mask(config.size, 1.0 if thing.iscrowd else 0.0)] = rows[-1][0]
    # Only stuff can be too small here: a few pixels between things are no region.
    ids[np.isin(ids, [number for number, *_ in rows if np.count_nonzero(ids == number) < config.min_visible])] = 0
    areas = [int(np.count_nonzero(ids == number)) for number, *_ in rows]
    segments = [Segment(*row[:2], area, iscrowd=row[2]) for row, area in zip(rows, areas, strict=True) if area]
    return _lit(rng, canvas), Panoptic(ids, tuple(segments), SCENE_CATEGORIES)


def make_scenes(
    folder: str | Path,
    train: int = 400,
    val: int = 60,
    seed: int = 0,
    config: SceneConfig | None = None,
    progress: Callable[[int, int], None] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write made pictures as a COCO panoptic data set with the splits train and val; return its folder.

    A picture depends only on `seed`, its split and its number. `progress` is called with (done, all) after each.
    All is written aside in `folder` and moved into place at the end; `overwrite` replaces only what has the same name.
    Raises `InputError` where the folder is not empty (unless `overwrite`), a count is below 1 or the seed below 0.
    """
    folder = Path(folder)
    if min(train, val) < 1 or seed < 0:
        raise InputError(f"scenes: train={train}, val={val}, seed={seed}; counts are 1 or more, a seed 0 or more")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; name a folder for the made pictures")
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise InputError(f"{folder}: the folder is not empty; choose another one, or pass --overwrite")
    folder.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=".scenes-", dir=folder))
    try:
        parts = enumerate({"train": train, "val": val}.items())
        written = chain(*(_write_split(aside / "new", name, count, (seed, i), config) for i, (name, count) in parts))
        for done, _ in enumerate(written, start=1):
            if progress:
                progress(done, train + val)
        _move_into(aside / "new", folder, aside / "old")
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


def _write_split(root: Path, split: str, count: int, seed: Sequence[int], config: SceneConfig | None) -> Iterator[None]:
    """Write one split below `root`, yielding after each picture."""
    pictures, maps = root / split, root / f"panoptic_{split}"
    pictures.mkdir(parents=True)
    maps.mkdir()
    images, annotations = [], []
    for number in range(1, count + 1):
        picture, truth = make_scene(np.random.default_rng((*seed, number)), config)
        name = f"{number:04d}"
        Image.fromarray(picture).save(pictures / f"{name}.jpg", quality=92, subsampling=0)
        write_id_map(maps / f"{name}.png", truth.ids)
        images.append({"id": number, "file_name": f"{name}.jpg", "height": truth.size[0], "width": truth.size[1]})
        annotations.append(truth.to_coco(f"{name}.png", number))
        yield
    document = {"images": images, "annotations": annotations, "categories": SCENE_CATEGORIES.to_coco()}
    atomic_write(root / f"panoptic_{split}.json", json.dumps(document))


def _move_into(new: Path, folder: Path, old: Path) -> None:
    """Move what is in `new` into `folder`; what it replaces waits in `old` and goes back if anything fails."""
    old.mkdir()
    entries, done = sorted(new.iterdir()), []
    moves = [(folder / e.name, old / e.name) for e in entries if (folder / e.name).exists()]
    try:
        for source, target in [*moves, *((e, folder / e.name) for e in entries)]:
            os.replace(source, target)
            done.append((source, target))
    except BaseException:
        for source, target in reversed(done):
            os.replace(target, source)
        raise
