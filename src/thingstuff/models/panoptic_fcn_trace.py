"""Which candidate became which mask, and which mask which segment, in one pass of Panoptic FCN.

Everything is made by the model's own functions from the pass's output, on the CPU in the end. Letters: N candidates for
things, M for stuff, F things after fusion, S stuff classes that were found, P7 the coarsest of the levels.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from thingstuff.models.panoptic_fcn import PanopticFCN, PanopticFCNOutput, mask_probabilities
from thingstuff.models.panoptic_fcn_kernels import (
    Kernels,
    Peaks,
    Rescored,
    by_score,
    cosines,
    first_matches,
    smoothed,
)
from thingstuff.models.panoptic_fcn_targets import LevelTargets, MaskTargets, level_targets, mask_targets
from thingstuff.models.shared_steps import segment_of_row
from thingstuff.models.things_first_steps import GREY, SOME_THING
from thingstuff.panoptic import VOID
from thingstuff.structures import Frame
from thingstuff.walk import Seen

COUNTS = ("no", "one", "two", "three", "four")
MOST_LISTED = 100
"""Most candidates or things in a table or on the picture, the best, besides those that final segments came from."""


@dataclass(frozen=True, eq=False)
class Truth:
    """What the model would have learned from the picture."""

    masks: MaskTargets
    levels: list[LevelTargets]


@dataclass(frozen=True, eq=False)
class Trace:
    """One pass from heat maps to segments: how `PanopticFCN.segments` came to each of its rows."""

    model: PanopticFCN
    seen: Seen
    output: PanopticFCNOutput
    peaks: list[Peaks]
    things: Kernels
    """The candidates for things as they were read, by falling score ..."""
    level: Int[Tensor, "N"]
    """... the level of each (3 for P3) ..."""
    cell: Int[Tensor, "N 2"]
    """... and its row and column there, from 0."""
    stuff: Kernels
    stuff_level: Int[Tensor, "M"]
    embedded_things: Kernels
    embedded_stuff: Kernels
    first: Bool[Tensor, "N N"]
    """The best candidate (row) that each (column) matches; the diagonal says which survive."""
    fused_things: Kernels
    fused_stuff: Kernels
    thing_masks: Float[Tensor, "F H W"]
    stuff_masks: Float[Tensor, "S H W"]
    rescored: Rescored
    truth: Truth | None

    @property
    def frame(self) -> Frame:
        """Where the picture lies."""
        return self.seen.images.frame(0)

    @property
    def levels(self) -> tuple[int, ...]:
        """The levels that are looked at, 3 for P3."""
        return self.model.levels

    @cached_property
    def fused_of(self) -> list[int | None]:
        """The place after fusion of each candidate for a thing, None where it is averaged into nothing."""
        place = {row: i for i, row in enumerate(self.first.diagonal().nonzero()[:, 0].tolist())}
        return [place.get(row) for row in self.first.int().argmax(0).tolist()] if len(self.first) else []

    def members(self, fused: int) -> list[int]:
        """Return the candidates that were averaged to a thing's kernel, the best first."""
        return [row for row, place in enumerate(self.fused_of) if place == fused]

    @cached_property
    def thing_segments(self) -> list[tuple[int, ...]]:
        """The final segment of each thing after fusion, as a tuple of one id or none."""
        ids, found = segment_of_row(self.seen), dict[int, tuple[int, ...]]()
        for row, place in enumerate(self.rescored.order.tolist()):
            found[place] = (ids[row],) if row in ids else ()
        return [found.get(place, ()) for place in range(len(self.fused_things.labels))]

    @cached_property
    def stuff_segments(self) -> list[tuple[int, ...]]:
        """The final segment of each stuff class that was found, likewise."""
        ids, first = segment_of_row(self.seen), len(self.rescored.order)
        return [(ids[first + row],) if first + row in ids else () for row in range(len(self.fused_stuff.labels))]

    @cached_property
    def candidate_segments(self) -> list[tuple[int, ...]]:
        """The final segment of each candidate for a thing, by way of what it was averaged to."""
        return [() if place is None else self.thing_segments[place] for place in self.fused_of]

    @cached_property
    def region_segments(self) -> dict[int, tuple[int, ...]]:
        """The final segment of each region class that was found."""
        return dict(zip(self.fused_stuff.labels.tolist(), self.stuff_segments, strict=True))

    @cached_property
    def thing_names(self) -> list[str]:
        """The name of each thing class."""
        return [self.model.categories.names[label] for label in self.model.categories.thing_labels]

    @cached_property
    def region_names(self) -> list[str]:
        """The name of each region class."""
        names = self.model.categories.names
        return [SOME_THING if v == VOID else names[v] for v in self._region_labels]

    @cached_property
    def region_colours(self) -> list[tuple[int, int, int]]:
        """The colour of each region class; that of things is grey."""
        colors = self.model.categories.colors
        return [GREY if v == VOID else colors[v] for v in self._region_labels]

    @property
    def _region_labels(self) -> list[int]:
        labels: list[int] = self.model.region_labels(torch.device("cpu")).tolist()
        return labels

    @cached_property
    def smoothed(self) -> list[Float[Tensor, "T h w"]]:
        """Each level's smoothed probabilities of centres, which peaks are found in."""
        windows = (self.model.smoothing(level) for level in self.levels)
        return [smoothed(centres[0].sigmoid(), w) for centres, w in zip(self.output.centres, windows, strict=True)]

    @cached_property
    def cosines(self) -> Float[Tensor, "N N"]:
        """How alike the embedded candidates for things are, by the picture's own part of them."""
        return cosines(self.embedded_things.vectors[:, : self.model.config.encoder_channels])

    def masks_of(self, rows: list[int]) -> Float[Tensor, "n H W"]:
        """Return the masks that some candidates for things would have alone, without fusion."""
        return mask_probabilities(self.embedded_things.vectors[rows], [view.feature[0] for view in self.output.views])

    def place(self, row: int) -> str:
        """Return where a candidate for a thing was read: its level, row and column, these from 1."""
        return place_in_words(int(self.level[row]), self.cell[row])


def place_in_words(level: int, cell: Int[Tensor, "2"]) -> str:
    """Return a cell (row, column, from 0) as a reader is told of it, who counts from 1."""
    y, x = cell.tolist()
    return f"P{level} ({y + 1}, {x + 1})"


def best_listed(count: int, most: int) -> str:
    """Return the sentence that says what a list of the best leaves out, with a space behind it; "" if nothing."""
    return f"The {most} best of {count:,}, and those that final segments came from. " if count > most else ""


def convolutions(count: int, kind: str = "3 × 3 convolution") -> str:
    """Return a count of convolutions, at most four, in words."""
    return f"{COUNTS[count]} {kind}{'' if count == 1 else 's'}"


def trace(model: PanopticFCN, seen: Seen) -> Trace:
    """Return how the segments of a pass came about."""
    output: PanopticFCNOutput = seen.output.float()
    peaks = model.peaks(output, 0)
    things, stuff = model.candidates(output, 0)
    embedded_things, embedded_stuff = model.embedded(things, stuff)
    fused_things, fused_stuff = model.fused(embedded_things, embedded_stuff)
    features = [view.feature[0] for view in output.views]
    masks = mask_probabilities(torch.cat([fused_things.vectors, fused_stuff.vectors]), features)
    thing_masks, stuff_masks = masks[: len(fused_things.labels)], masks[len(fused_things.labels) :]
    rescored = model.rescored(fused_things, thing_masks)
    level, cell = _places(model, output, peaks)
    stuff_level = [
        torch.full((len(found.labels),), level)
        for level, found in zip(model.levels, model.stuff_candidates(output, 0), strict=True)
    ]
    return Trace(
        model=model,
        seen=seen,
        output=output.cpu(),
        peaks=[Peaks(p.labels.cpu(), p.cells.cpu(), p.scores.cpu()) for p in peaks],
        things=things.cpu(),
        level=level,
        cell=cell,
        stuff=stuff.cpu(),
        stuff_level=torch.cat(stuff_level),
        embedded_things=embedded_things.cpu(),
        embedded_stuff=embedded_stuff.cpu(),
        first=_matches(model, embedded_things),
        fused_things=fused_things.cpu(),
        fused_stuff=fused_stuff.cpu(),
        thing_masks=thing_masks.cpu(),
        stuff_masks=stuff_masks.cpu(),
        rescored=Rescored(*(t.cpu() for t in (rescored.inside, rescored.decay, rescored.order, rescored.scores))),
        truth=_truth(model, seen, output),
    )


def _matches(model: PanopticFCN, things: Kernels) -> Bool[Tensor, "N N"]:
    c = model.config
    if not c.kernel_fusion:
        return torch.eye(len(things.labels), dtype=torch.bool)
    return first_matches(things, c.similarity, c.class_aware, c.encoder_channels).cpu()


def _places(
    model: PanopticFCN, output: PanopticFCNOutput, peaks: list[Peaks]
) -> tuple[Int[Tensor, "N"], Int[Tensor, "N 2"]]:
    """Return the level and cell of each candidate for a thing, by falling score."""
    levels, cells = [], []
    for level, centres, found in zip(model.levels, output.centres, peaks, strict=True):
        levels.append(torch.full_like(found.cells, level))
        width = centres.shape[-1]
        cells.append(torch.stack([found.cells // width, found.cells % width], dim=1))
    scores = torch.cat([found.scores for found in peaks])
    order = by_score(scores)
    return torch.cat(levels)[order].cpu(), torch.cat(cells)[order].cpu()


def _truth(model: PanopticFCN, seen: Seen, output: PanopticFCNOutput) -> Truth | None:
    """Return the targets that `PanopticFCN.loss` would compare the pass to."""
    if seen.target is None:
        return None
    canvas, settings = seen.images.canvas, model.target_settings
    masks = mask_targets([seen.target], model.categories, canvas, settings)
    shapes = [(int(c.shape[-2]), int(c.shape[-1])) for c in output.centres]
    return Truth(masks, level_targets(masks, shapes, canvas, settings))
