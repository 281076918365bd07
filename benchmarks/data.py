"""Training pictures, `check` and `convert` per second and core: ours against the straightforward way, interleaved.

    python benchmarks/data.py                           # made pictures of 640 x 480
    python benchmarks/data.py --data DATA --split train # a COCO panoptic data set instead, for the loader and the check

Times are processor time on one core, medians over rounds in which the sides take turns, and what they give is compared
first. The straightforward way finds segments by np.unique over all pixels and makes a mask for each.
"""

import argparse
import hashlib
import io
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before numpy and torch are loaded

import imagehash
import numpy as np
import torch
from PIL import Image, ImageEnhance
from pycocotools.coco import COCO
from rich.console import Console
from rich.table import Table
from scipy.ndimage import label as label_pieces
from torchvision.ops import masks_to_boxes

from thingstuff.checking.checker import check
from thingstuff.convert.converting import convert
from thingstuff.convert.formats import open_source
from thingstuff.data.coco import CocoPanoptic, Record
from thingstuff.data.loading import AugmentedPictures, Batch
from thingstuff.data.scenes import SceneConfig, make_scenes
from thingstuff.data.transforms import AugmentConfig, Pixels, remains, target_of
from thingstuff.io import read_id_map, read_json
from thingstuff.loops import compiled_loops
from thingstuff.sizes import resized_size
from thingstuff.structures import Target

PLAIN, OURS, FLOOR = "straightforward", "ours", "the picture alone, by Pillow"
SEED = 0


@dataclass(frozen=True)
class Job:
    """What is run."""

    pictures: int
    size: tuple[int, int]
    rounds: int
    short_sides: tuple[int, ...]
    crop: tuple[int, int]

    def augmentations(self) -> dict[str, AugmentConfig]:
        """Return the recipes' augmentations: the papers', the one for one's own pictures, and that with a crop."""
        coloured = AugmentConfig(short_sides=self.short_sides, color=0.2)
        return {
            "resized, flipped": AugmentConfig(short_sides=self.short_sides),
            "resized, flipped, coloured": coloured,
            f"resized, cropped to {self.crop[1]} x {self.crop[0]}, flipped, coloured": coloured.model_copy(
                update={"crop": self.crop}
            ),
        }


# ---- the straightforward loader, of Pillow's, numpy's and torchvision's ordinary operations


def plain_ids(path: Path) -> np.ndarray:
    """Read a map as panopticapi does: the bytes as uint32, multiplied and added."""
    colours = np.asarray(Image.open(path), dtype=np.uint8).astype(np.uint32)
    return colours[..., 0] + 256 * colours[..., 1] + 256 * 256 * colours[..., 2]


def plain_picture(
    image: Image.Image, config: AugmentConfig, random: np.random.Generator
) -> tuple[Image.Image, Callable[[np.ndarray], np.ndarray]]:
    """Augment a picture; return it, and the function that does the same to a mask [H, W]."""
    height, width = resized_size((image.height, image.width), int(random.choice(config.short_sides)), config.max_side)
    rows, columns = config.crop or (height, width)
    top, left = (
        int(random.integers(0, max(0, have - want) + 1)) if config.crop else 0
        for have, want in ((height, rows), (width, columns))
    )
    box = (left, top, min(width, left + columns), min(height, top + rows))
    flipped = random.random() < config.flip

    def moved(picture: Image.Image, resampling: Image.Resampling) -> Image.Image:
        picture = picture.resize((width, height), resampling)
        picture = picture.crop(box) if config.crop else picture
        return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flipped else picture

    def alike(mask: np.ndarray) -> np.ndarray:
        return np.asarray(moved(Image.fromarray(mask.view(np.uint8)), Image.Resampling.NEAREST)).view(bool)

    image = moved(image, Image.Resampling.BILINEAR)
    if config.color:
        enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
        factors = random.uniform(1 - config.color, 1 + config.color, 3)
        for enhance, factor in zip(enhancers, factors, strict=True):
            image = enhance(image).enhance(float(factor))
    return image, alike


def plain_target(masks: np.ndarray, labels: list[int], crowd: list[bool]) -> Target:
    """Drop emptied masks [N, H, W] and find the boxes of the others."""
    kept = masks.reshape(len(masks), -1).any(1)
    masks = masks[kept]
    boxes = masks_to_boxes(torch.from_numpy(masks)) + torch.tensor([0.0, 0.0, 1.0, 1.0])  # its last pixel is inside
    rows = torch.from_numpy(kept)
    unlabelled = torch.from_numpy(~masks.any(0))
    return Target(torch.from_numpy(masks), torch.tensor(labels)[rows], boxes, torch.tensor(crowd)[rows], unlabelled)


def plain_example(record: Record, config: AugmentConfig, random: np.random.Generator) -> tuple[Pixels, Target]:
    """Load a picture: find its segments, make a mask for each, and augment the picture and every mask."""
    ids = plain_ids(record.map)
    wanted = {s.id: s for s in record.segments}
    found = [wanted[i] for i in np.unique(ids).tolist() if i]
    masks = [ids == s.id for s in found]
    with Image.open(record.picture) as image:
        picture, alike = plain_picture(image.convert("RGB"), config, random)
    target = plain_target(np.stack([*map(alike, masks)]), [s.label for s in found], [s.iscrowd for s in found])
    return np.asarray(picture), target


def picture_alone(record: Record, config: AugmentConfig, random: np.random.Generator) -> Pixels:
    """Load and augment a picture as `plain_example` does, without its map."""
    with Image.open(record.picture) as image:
        return np.asarray(plain_picture(image.convert("RGB"), config, random)[0])


# ---- ours, equality, time


def our_example(loader: AugmentedPictures, index: int) -> tuple[Pixels, Target]:
    """Load a picture as a worker and the training process do together."""
    example = loader[index, index]
    assert not isinstance(example, str), example
    return example.picture, Batch((example,)).targets("cpu")[0]


def by_first_pixel(target: Target) -> list[int]:
    """Return the order of segments by their first pixel, which is each segment's own."""
    first = target.masks.flatten(1).to(torch.uint8).argmax(1)
    return [int(i) for i in first.argsort()]


def equal(ours: tuple[Pixels, Target], plain: tuple[Pixels, Target]) -> None:
    """Assert that the picture, and every segment's mask, label, box and crowd flag are the same."""
    assert np.array_equal(ours[0], plain[0])
    assert torch.equal(ours[1].unlabelled, plain[1].unlabelled)
    orders = [by_first_pixel(target) for _, target in (ours, plain)]  # ours stand as in the JSON, those by id
    for field in ("masks", "labels", "boxes_xyxy", "crowd"):
        first, second = (getattr(t, field)[order] for (_, t), order in zip((ours, plain), orders, strict=True))
        assert torch.equal(first, second), field


def interleaved(sides: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Return each side's median seconds of processor time; the sides take turns, and a first turn is for warming up."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds + 1):
        for name, side in sides.items():
            began = time.process_time()
            side()
            if turn:
                times[name].append(time.process_time() - began)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def one_by_one(make: Callable[[Any], Any], items: Iterable[Any]) -> None:
    """Make something of each item and keep nothing, as training does not either."""
    for item in items:
        make(item)


def table_of(title: str, times: dict[str, float], pictures: int) -> Table:
    """Return pictures a second, and how many times faster than the straightforward way each side is."""
    table = Table("", "pictures/s a core, this machine", "faster", title=title, title_justify="left")
    for name, seconds in times.items():
        table.add_row(name, f"{pictures / seconds:.3g}", f"{times[PLAIN] / seconds:.2f}x")
    return table


def loader_table(title: str, data: CocoPanoptic, config: AugmentConfig, rounds: int) -> Table:
    """Compare the loaders and time them."""
    loader, records = AugmentedPictures(data, config, SEED), data.records

    def drawn(index: int) -> np.random.Generator:
        return np.random.default_rng([SEED, index])

    for index, record in enumerate(records):
        equal(our_example(loader, index), plain_example(record, config, drawn(index)))
    makers: dict[str, Callable[[int], Any]] = {
        PLAIN: lambda i: plain_example(records[i], config, drawn(i)),
        OURS: lambda i: our_example(loader, i),
        FLOOR: lambda i: picture_alone(records[i], config, drawn(i)),
    }
    sides = {name: lambda make=make: one_by_one(make, range(len(records))) for name, make in makers.items()}
    return table_of(f"loader: {title}", interleaved(sides, rounds), len(records))


def target_table(data: CocoPanoptic, rounds: int) -> Table:
    """Compare and time the making of targets from augmented maps."""
    config = AugmentConfig()
    examples = [AugmentedPictures(data, config, SEED)[i, i] for i in range(len(data))]

    def plain(example: Any) -> Target:
        masks = example.places.astype(np.int32) == np.arange(1, len(example.labels) + 1)[:, None, None]
        return plain_target(masks, list(example.labels), list(example.crowd))

    def ours(example: Any) -> Target:
        return target_of(example.places, remains(example.places), example.labels, example.crowd)

    for example in examples:
        assert not isinstance(example, str), example
        equal((example.picture, ours(example)), (example.picture, plain(example)))
    sides = {PLAIN: lambda: one_by_one(plain, examples), OURS: lambda: one_by_one(ours, examples)}
    return table_of("targets of maps that are augmented already", interleaved(sides, rounds), len(data))


# ---- check


def plain_check(data: CocoPanoptic) -> tuple[dict[int, int], int]:
    """Compare maps and JSON; return the pixels of each category, and how many things are in pieces."""
    entries, things = read_json(data.paths.json)["annotations"], data.categories.things
    pixels: dict[int, int] = dict.fromkeys(data.categories.ids, 0)
    in_pieces, hashes, digests = 0, [], set()
    for record, entry in zip(data.records, entries, strict=True):
        ids = plain_ids(record.map)
        areas = dict(zip(*(column.tolist() for column in np.unique(ids, return_counts=True)), strict=True))
        assert {*areas} - {0} == {s["id"] for s in entry["segments_info"]}
        for info in entry["segments_info"]:
            mask = ids == info["id"]
            assert info["area"] == areas[info["id"]]
            assert info["bbox"] == box_of(mask)
            pixels[info["category_id"]] += info["area"]
            thing = things[data.categories.label_of[info["category_id"]]]
            if thing and not info["iscrowd"]:
                in_pieces += label_pieces(mask, np.ones((3, 3)))[1] > 1
        with Image.open(record.picture) as image:
            hashes.append(imagehash.phash(image.convert("RGB")))
        digests.add(hashlib.blake2b(record.picture.read_bytes()).digest())
    assert len(digests) == len(hashes)
    return pixels, in_pieces


def box_of(mask: np.ndarray) -> list[int]:
    """Return a mask's [x, y, width, height]."""
    rows, columns = (np.flatnonzero(mask.any(axis)).tolist() for axis in (1, 0))
    return [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]


def our_check(data: Path, split: str) -> tuple[dict[int, int], int]:
    """Return what `plain_check` does, of a data set without errors."""
    checked = check(data, [split], workers=1)
    assert not checked.findings.grade_count("error"), checked.findings.text()
    (tally,) = checked.tallies
    in_pieces = sum(checked.findings.count(kind) for kind in ("thing in pieces", "possibly merged objects"))
    return {i: tally.areas[i] for i in tally.categories.ids}, in_pieces


def check_table(folder: Path, split: str, rounds: int) -> Table:
    """Compare the checks and time them."""
    data = CocoPanoptic.open(folder, split)
    assert our_check(folder, split) == plain_check(data)
    sides = {PLAIN: lambda: plain_check(data), OURS: lambda: our_check(folder, split)}
    return table_of("check", interleaved(sides, rounds), len(data))


# ---- convert


def write_polygons(folder: Path, data: CocoPanoptic, rng: np.random.Generator) -> Path:
    """Write COCO instances for the pictures of a data set: wobbly outlines of 40 corners that overlap."""
    images, annotations = [], []
    turns = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    for record in data.records:
        height, width = record.height, record.width
        images.append({"id": record.image_id, "file_name": record.file_name, "height": height, "width": width})
        for _ in range(int(rng.integers(14, 24))):
            radius = height * np.exp(rng.uniform(np.log(0.03), np.log(0.3)))
            radii = radius * (1 + 0.25 * np.sin(3 * turns + rng.uniform(0, 6)) + rng.uniform(-0.05, 0.05, 40))
            x = (rng.uniform(0, width) + radii * np.cos(turns)).clip(0, width)
            y = (rng.uniform(0, height) + radii * np.sin(turns)).clip(0, height)
            polygon = np.stack([x, y], axis=1).round(2).ravel().tolist()
            entry = {"image_id": record.image_id, "category_id": int(rng.integers(1, 9)), "iscrowd": 0, "area": 1.0}
            annotations.append({"id": len(annotations) + 1, "segmentation": [polygon], "bbox": [0, 0, 1, 1], **entry})
    categories = [{"id": i, "name": f"class {i}", "supercategory": "thing"} for i in range(1, 9)]
    (folder / "annotations").mkdir(parents=True)
    (folder / "train").symlink_to(data.paths.pictures.resolve())
    path = folder / "annotations" / "instances_train.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return folder


def plain_convert(source: Path, out: Path) -> None:
    """Paint a full mask per annotation, smaller ones on top, and write maps and JSON."""
    with redirect_stdout(io.StringIO()):
        coco = COCO(source / "annotations" / "instances_train.json")
    (out / "panoptic_train").mkdir(parents=True)
    entries = []
    for image_id, image in coco.imgs.items():
        found = coco.loadAnns(coco.getAnnIds(image_id))
        masks = [coco.annToMask(annotation).astype(bool) for annotation in found]
        ids = np.zeros((image["height"], image["width"]), np.uint32)
        for position in sorted(range(len(found)), key=lambda i: -int(masks[i].sum())):
            ids[masks[position]] = position + 1
        segments = []
        for segment_id, area in zip(*np.unique(ids, return_counts=True), strict=True):
            if segment_id:
                category = found[int(segment_id) - 1]["category_id"]
                entry = {"id": int(segment_id), "category_id": category, "area": int(area), "iscrowd": 0}
                segments.append({**entry, "bbox": box_of(ids == segment_id)})
        name = f"{Path(image['file_name']).stem}.png"
        colours = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=2).astype(np.uint8)
        Image.fromarray(colours).save(out / "panoptic_train" / name)
        entries.append({"image_id": image_id, "file_name": name, "segments_info": segments})
    categories = [{**category, "isthing": 1} for category in coco.cats.values()]
    data = {"images": [*coco.imgs.values()], "annotations": entries, "categories": categories}
    (out / "panoptic_train.json").write_text(json.dumps(data))


def our_convert(source: Path, out: Path) -> None:
    """Convert with thingstuff, in this process alone."""
    convert(open_source(source), out, workers=1)


def same_segments(first: Path, second: Path) -> None:
    """Assert that two data sets have the same segments, whatever their ids are."""
    found = []
    for out in (first, second):
        found.append({})
        for entry in read_json(out / "panoptic_train.json")["annotations"]:
            ids = read_id_map(out / "panoptic_train" / entry["file_name"])
            rows = [
                (s["category_id"], s["area"], tuple(s["bbox"]), hashlib.blake2b(ids == s["id"]).digest())
                for s in entry["segments_info"]
            ]
            found[-1][entry["image_id"]] = sorted(rows)
    assert found[0] == found[1]


def convert_table(folder: Path, data: CocoPanoptic, rounds: int) -> Table:
    """Compare the conversions and time them, each into a new folder."""
    source = write_polygons(folder / "polygons", data, np.random.default_rng(SEED))
    sides = {PLAIN: plain_convert, OURS: our_convert}
    for name, side in sides.items():
        side(source, folder / name)
    same_segments(*(folder / name for name in sides))

    def into_new(side: Callable[[Path, Path], None]) -> None:
        with tempfile.TemporaryDirectory(dir=folder) as out:
            side(source, Path(out) / "out")

    times = interleaved({name: lambda side=side: into_new(side) for name, side in sides.items()}, rounds)
    return table_of("convert: COCO instances of polygons", times, len(data))


def run(job: Job, folder: Path, split: str, scratch: Path, console: Console) -> None:
    """Print the tables."""
    data = CocoPanoptic.open(folder, split)
    torch.set_num_threads(1)
    compiled_loops(10**6)
    segments = statistics.mean(len(record.segments) for record in data.records)
    height, width = (int(statistics.median(side)) for side in zip(*(r[2:4] for r in data.records), strict=True))
    console.print(f"{len(data)} pictures, {width} x {height}, {segments:.0f} segments each; what is compared is equal")
    for title, config in job.augmentations().items():
        console.print(loader_table(title, data, config, job.rounds))
    console.print(target_table(data, job.rounds))
    console.print(check_table(folder, split, job.rounds))
    console.print(convert_table(scratch, data, job.rounds))


def main() -> None:
    """Read the arguments and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="a COCO panoptic data set instead of made pictures")
    parser.add_argument("--split", default="train", help="the split of it")
    parser.add_argument("--pictures", type=int, default=40, help="how many made pictures")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds after one to warm up")
    parser.add_argument("--small", action="store_true", help="small pictures: shows that it runs")
    arguments = parser.parse_args()
    full = Job(arguments.pictures, (480, 640), arguments.rounds, (640, 672, 704, 736, 768, 800), (512, 512))
    small = Job(arguments.pictures, (96, 128), arguments.rounds, (128, 160), (96, 96))
    job = small if arguments.small else full
    scenes = SceneConfig(job.size, things=(16, 26), thing_size=(job.size[0] / 16, job.size[0] / 2.5))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = arguments.data or make_scenes(folder / "data", train=job.pictures, val=1, config=scenes)
        run(job, Path(data), arguments.split, folder, Console())


if __name__ == "__main__":
    main()
