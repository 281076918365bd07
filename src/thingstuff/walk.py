"""A walk through a model: one pass over one picture, step by step, as data; models write the steps, pages draw them.

Letters: H W the network's input (the canvas), h w a map that covers the whole canvas, S segments of the final map.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from jaxtyping import Float, UInt8
from torch import Tensor

from thingstuff.errors import InputError
from thingstuff.panoptic import Categories, Color, Panoptic
from thingstuff.structures import Frame, Images, Segments, Target
from thingstuff.watching import Calls


@dataclass(frozen=True, eq=False, repr=False)
class Labelled:
    """A tensor of the pass: its name, its values (on the CPU), and what each of its axes means."""

    name: str
    tensor: Tensor
    axes: tuple[str, ...]

    def __post_init__(self) -> None:
        assert len(self.axes) == self.tensor.ndim, f"{self.name}: {self.axes} for {list(self.tensor.shape)}"

    def __repr__(self) -> str:
        return f"{self.name} {list(self.tensor.shape)}"


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class View:
    """Something to look at, with its `title`; `segments` are the ids of the final ones it belongs to (none: to all)."""

    title: str
    caption: str = ""
    segments: tuple[int, ...] = ()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.title!r}>"


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class MapView(View):
    """Numbers over the canvas, drawn in a colour scale over the picture, which shows through.

    The scale reaches from `low` to `high`, of the values where not given.
    """

    values: Float[np.ndarray, "h w"]
    unit: str
    """What the numbers are, with their unit: "probability", "logit", "share of the query's attention"."""
    low: float | None = None
    high: float | None = None
    signed: bool = False
    """Colours part at zero, and the scale reaches as far down as up."""


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class PixelsView(View):
    """Colours of its own, RGB, over the canvas; or over the picture alone where `padded` is false."""

    pixels: UInt8[np.ndarray, "h w 3"]
    padded: bool = True
    smooth: bool = False
    """Blended when it is enlarged (a photograph), where else each cell is seen (a feature map)."""


@dataclass(frozen=True)
class Mark:
    """A box over the canvas, XYXY in its pixels, or a point (a box without area); `kept` ones are drawn solid."""

    box: tuple[float, float, float, float]
    text: str
    color: Color
    kept: bool = True
    segments: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class MarksView(View):
    """Boxes and points over the canvas, the picture below, or `values` from 0 to `high` where they were found."""

    marks: tuple[Mark, ...]
    values: Float[np.ndarray, "h w"] | None = None
    high: float = 1.0
    key: tuple[tuple[str, Color], ...] = ()
    """What the colours mean, where they are not those of the classes."""


@dataclass(frozen=True)
class Row:
    """A row of a table: texts, or shares from 0 to 1 that are drawn as bars; `kept` false is greyed."""

    cells: tuple[str | float, ...]
    kept: bool = True
    segments: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class TableView(View):
    """A table; the caption says what its rows are."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class MatrixView(View):
    """How alike rows are to each other, from `low` (below 0 it is -1) to 1; `groups` numbers those put together."""

    values: Float[np.ndarray, "n n"]
    unit: str
    names: tuple[str, ...]
    groups: tuple[int, ...]
    row_segments: tuple[tuple[int, ...], ...]
    low: float = -1.0


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class AttentionView(View):
    """What each cell of the canvas looks at: the page draws the map of the cell that is clicked.

    `maps` names one array or several (layers, heads), each [a * b, h, w]: for a x b cells that cover the canvas, in
    reading order, the shares of their attention.
    """

    grid: tuple[int, int]
    maps: Mapping[str, Float[np.ndarray, "cells h w"]]


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class ResultView(View):
    """The walk's `result` over the picture: clicking a segment follows it back."""


@dataclass(frozen=True, eq=False, repr=False)
class Step:
    """One step of the pass.

    `name` is its own in the walk; `after` names the steps whose tensors it is made from, and `layers` the parameters it
    uses (by the beginning of their names), so that what hangs on what is told, and tested: zeroing a layer changes the
    steps that use it and all that come `after` them, and no other. `notes` say what the step did with each final
    segment, by its id.
    """

    name: str
    chapter: str
    title: str
    question: str
    text: str
    paper: str
    source: str
    """The class or function in our source, as a dotted name."""
    tensors: tuple[Labelled, ...]
    views: tuple[View, ...]
    after: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    notes: Mapping[int, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<Step {self.name}: {', '.join(map(repr, self.tensors))}, {len(self.views)} views>"


@dataclass(frozen=True, eq=False)
class Seen:
    """One picture's pass, from which a model makes its steps.

    A batch of one as it went in, what `look`, `segments` and `merge` made of it, and the calls of the modules that the
    model has watched; `picture` is uint8 [H, W, 3] RGB, `canvas` what of it the network saw, likewise. Where ground
    truth is given, `truth` is it, and `target` what it would have taught, at the size of the network's input.
    """

    picture: UInt8[np.ndarray, "_ _ 3"]
    canvas: UInt8[np.ndarray, "H W 3"]
    images: Images
    output: Any
    segments: Segments
    result: Panoptic
    calls: Calls
    truth: Panoptic | None = None
    target: Target | None = None


@dataclass(frozen=True, eq=False, repr=False)
class Walk:
    """All steps of one pass, the picture, and the map that came out.

    `picture` is uint8 [H, W, 3] RGB, `canvas` what of it the network saw, at the size of its input (padding black).
    """

    model: str
    kind: str
    """The model's class."""
    categories: Categories
    name: str
    """Of the picture."""
    picture: UInt8[np.ndarray, "_ _ 3"]
    canvas: UInt8[np.ndarray, "H W 3"]
    frame: Frame
    steps: tuple[Step, ...]
    result: Panoptic

    def __repr__(self) -> str:
        found = len(self.result.segments)
        return f"<Walk of {self.name} through {self.kind}: {len(self.steps)} steps, {found} segments>"

    def __getitem__(self, name: str) -> Step:
        """Return the step of that name; raises `InputError` naming all where there is none."""
        for step in self.steps:
            if step.name == name:
                return step
        raise InputError(f"no step {name!r}; this walk has {', '.join(step.name for step in self.steps)}")

    def downstream(self, names: Sequence[str]) -> set[str]:
        """Return the steps that hang on some steps, themselves included."""
        found = set(names)
        for step in self.steps:
            if found.intersection(step.after):
                found.add(step.name)
        return found

    def save(self, path: "str | Path", *, overwrite: bool = False) -> Path:
        """Write the walk as one HTML page that needs nothing beside itself, and return its path.

        Raises `InputError` where the file is there already, unless `overwrite`, or cannot be written.
        """
        from thingstuff.explain_page import write_walk

        return write_walk(Path(path), self, overwrite=overwrite)

    def figures(self, folder: "str | Path", *, overwrite: bool = False) -> "list[Path]":
        """Write each view as a PNG named after its step into a folder, and return the paths.

        Raises `InputError` where one is there already, unless `overwrite`, or cannot be written.
        """
        from thingstuff.explain_figures import write_figures

        return write_figures(Path(folder), self, overwrite=overwrite)


def picture_array(values: Tensor) -> npt.NDArray[np.float32]:
    """Return a tensor's values for a view."""
    array: npt.NDArray[np.float32] = values.detach().float().cpu().numpy()
    return array
