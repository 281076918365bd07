"""The PQ that is left of a data set's ground truth as masks of a stride and an input size, beside what they cost."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch

from thingstuff.ceiling_picture import Task, picture_matches
from thingstuff.convert.pool import in_processes, worker_count
from thingstuff.data.coco import CocoPanoptic, Record
from thingstuff.errors import InputError
from thingstuff.evaluation.errors import SIZES
from thingstuff.evaluation.pq import ClassPQ, PQResult, Progress
from thingstuff.evaluation.segments import ClassSums, PictureMatches
from thingstuff.head_cost import STRIDES, HeadCost, check_stride
from thingstuff.models import MODELS, create
from thingstuff.models.base import PanopticModel
from thingstuff.panoptic import Categories
from thingstuff.structures import Frame, Size

if TYPE_CHECKING:
    from rich.table import Table

SIZE_RULE = "panoptic-fcn-r50"
"""The model whose size rule counts where none is named."""
_SMALLEST = 32
_CELL = 32  # pixels of the network input to a cell of C5


@dataclass(frozen=True)
class CeilingRow:
    """What one input size and stride leave: PQ of all segments, and of those of each size of `SIZES`.

    `canvas` is the mean (height, width) of the network input, in whole cells of 32 pixels; `costs` are of masks there.
    `scale` is how many times as long as a picture's its sides are in the input, without padding; the mean of pictures.
    """

    short_side: int
    max_side: int
    stride: int
    canvas: Size
    scale: float
    pq: PQResult
    sizes: dict[str, PQResult]
    costs: tuple[HeadCost, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values; PQ are fractions."""
        sizes = {size: result.to_json() for size, result in self.sizes.items()}
        return {**asdict(self), "pq": self.pq.to_json(), "sizes": sizes}


@dataclass(frozen=True)
class Ceiling:
    """What every input size and stride leave, in the order asked for, over so many `pictures`.

    `picture_sides` are the smallest and the largest of the pictures' own short sides. `uncounted` says why the named
    model's masks have no cost; it is "" where they have.
    """

    pictures: int
    picture_sides: tuple[int, int]
    rows: tuple[CeilingRow, ...]
    uncounted: str = ""

    def table(self) -> "Table":
        """Return the table of PQ for the terminal, in percent."""
        from thingstuff.ceiling_tables import quality_table

        return quality_table(self.rows)

    def cost_tables(self) -> "tuple[Table, ...]":
        """Return the table of multiply-adds and memory of each model's masks for the terminal."""
        from thingstuff.ceiling_tables import cost_tables

        return cost_tables(self.rows)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values; PQ are fractions, memory is bytes."""
        rows = [row.to_json() for row in self.rows]
        sides = list(self.picture_sides)
        return {"pictures": self.pictures, "picture_sides": sides, "rows": rows, "uncounted": self.uncounted}


def ceiling(
    data: str | Path,
    split: str = "val",
    *,
    strides: Sequence[int] = STRIDES,
    short_sides: Sequence[int] | None = None,
    max_side: int | None = None,
    model: str | None = None,
    limit: int | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Ceiling:
    """Measure the PQ of a split's ground truth reduced to each stride of each input size and brought back.

    See `coarse_maps.through_cells` for the way there and back. Sizes are by the rule of `model` (its preset's where
    none is given), else Panoptic FCN's; costs are of that model's masks, else of the first preset of each kind of
    model that counts them (`PanopticModel.mask_cost`). A size or stride given twice is measured once. `limit` takes
    the first pictures alone. Pictures go over `workers` processes, all cores if not given; memory does not grow with
    them. Raises `InputError` where the data cannot be read or a number cannot be used.
    """
    _check(strides, short_sides, max_side, limit)
    worker_count(workers)
    opened = CocoPanoptic.open(data, split)
    sized = _sized_models(model or SIZE_RULE, opened.categories, short_sides, max_side)
    tasks = _tasks(opened.records[:limit], sized)
    cases = [(index, stride) for index in range(len(sized)) for stride in dict.fromkeys(strides)]
    tallies = [_Tally() for _ in cases]
    work = partial(picture_matches, cases=cases, paths=opened.paths, categories=opened.categories)
    with closing(in_processes(work, tasks, workers)) as found:
        for done, matches in enumerate(found, start=1):
            for tally, own in zip(tallies, matches, strict=True):
                tally.add(own)
            if progress:
                progress(done, len(tasks))
    priced = [_without_weights(name, opened.categories) for name in ([model] if model else first_presets())]
    rows = []
    for (index, stride), tally in zip(cases, tallies, strict=True):
        frames, rule = [task.frames[index] for task in tasks], sized[index].config.preprocess
        canvas, scale = _mean_canvas([frame.canvas for frame in frames]), _mean_scale(frames)
        costs = tuple(cost for head in priced if (cost := head.mask_cost(canvas, stride)) is not None)
        pq, *by_size = tally.results(opened.categories, len(tasks))
        sizes = dict(zip(SIZES, by_size, strict=True))
        rows.append(CeilingRow(rule.short_side, rule.max_side, stride, canvas, scale, pq, sizes, costs))
    uncounted = "" if any(row.costs for row in rows) else priced[0].uncounted_masks
    sides = [min(task.record.height, task.record.width) for task in tasks]
    return Ceiling(len(tasks), (min(sides), max(sides)), tuple(rows), uncounted)


# ---- what is asked for


def _check(strides: Sequence[int], short_sides: Sequence[int] | None, max_side: int | None, limit: int | None) -> None:
    if not strides or (short_sides is not None and not short_sides):
        raise InputError("no strides or no short sides: give at least one of each, or leave them out")
    for stride in strides:
        check_stride(stride)
    for name, sides in (("short side", short_sides or ()), ("max side", () if max_side is None else (max_side,))):
        for side in sides:
            if side < _SMALLEST:
                raise InputError(f"{name} {side}: a network needs {_SMALLEST} pixels or more; give a larger one")
    if limit is not None and limit < 1:
        raise InputError(f"limit {limit}: give the number of pictures, 1 or more, or leave it out for all")


def _sized_models(
    name: str, categories: Categories, short_sides: Sequence[int] | None, max_side: int | None
) -> list[PanopticModel]:
    """Return the model with each of the input sizes."""
    longest = {} if max_side is None else {"preprocess.max_side": max_side}
    shortest = [{"preprocess.short_side": side} for side in dict.fromkeys(short_sides)] if short_sides else [{}]
    return [_without_weights(name, categories, **longest, **changes) for changes in shortest]


def _without_weights(name: str, categories: Categories, **changes: Any) -> PanopticModel:
    """Build a model that knows its shapes and settings alone."""
    with torch.device("meta"):
        return create(name, categories, **changes)


def first_presets() -> list[str]:
    """Return the name of the first preset of each kind of model, in the order of `MODELS`."""
    first: dict[type[PanopticModel], str] = {}
    for name, (_, kind) in MODELS.items():
        first.setdefault(kind, name)
    return list(first.values())


def _tasks(records: Sequence[Record], sized: Sequence[PanopticModel]) -> list[Task]:
    frames: dict[Size, tuple[Frame, ...]] = {}
    tasks = []
    for record in records:
        size = (record.height, record.width)
        if size not in frames:
            frames[size] = tuple(frame_alone(model, size) for model in sized)
        tasks.append(Task(record, frames[size]))
    return tasks


def frame_alone(model: PanopticModel, size: Size) -> Frame:
    """Return where a picture of (height, width) lies in the input of a model that sees it alone."""
    resized, divisor = model.network_size(size), model.config.preprocess.divisor
    height, width = (-(-side // divisor) * divisor for side in resized)
    return Frame((height, width), resized, size)


def _mean_canvas(canvases: Sequence[Size]) -> Size:
    height, width = (max(_CELL, round(fmean(sides) / _CELL) * _CELL) for sides in zip(*canvases, strict=True))
    return height, width


def _mean_scale(frames: Sequence[Frame]) -> float:
    return fmean(min(frame.size) / min(frame.original) for frame in frames)


# ---- adding up


class _Tally:
    """Adds up pictures for one case: sums per category_id of all segments, and of those of each size."""

    def __init__(self) -> None:
        self._sums: list[dict[int, ClassSums]] = [{} for _ in range(1 + len(SIZES))]

    def add(self, picture: Sequence[PictureMatches]) -> None:
        """Add one picture."""
        for total, matches in zip(self._sums, picture, strict=True):
            matches.add_to(total)

    def results(self, categories: Categories, pictures: int) -> list[PQResult]:
        """Return the PQ of all segments, and of those of each size."""
        rows = [*zip(categories.ids, categories.names, categories.things, strict=True)]
        found = []
        for sums in self._sums:
            per_class = [ClassPQ(i, name, thing, **asdict(sums.get(i, ClassSums()))) for i, name, thing in rows]
            found.append(PQResult.of(per_class, pictures))
        return found
