"""The pictures of a report: each with its ground truth, its prediction and what went wrong, as JPEGs in the page."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from thingstuff.drawing import overlay, resized_map, shown_size
from thingstuff.embedded_pictures import data_url, jpeg_within
from thingstuff.error_pictures import CAUSE_COLOURS, error_overlay
from thingstuff.errors import InputError
from thingstuff.evaluation.causes import SegmentError
from thingstuff.evaluation.error_tables import cause_counts
from thingstuff.panoptic import Color, Panoptic
from thingstuff.report_maps import PointedMaps, partners_in_words, pointed_maps

# What the pictures and maps of a page may weigh together; base64 makes 4 of 3, and the page is to stay below 5 MB.
_BYTES = 3_400_000
_MAP_BYTES = 400_000
_LEAST_PICTURE_BYTES = 12_000
_LONGEST_SIDE = 640
_LETTERS = 20  # pixels of such a picture: 12 on a phone, which shows it at three fifths
_ERRORS_LISTED = 30


@dataclass(frozen=True)
class Example:
    """A scored picture: uint8 [H, W, 3] RGB (None: maps alone), its ground truth, and what was predicted.

    `pq` is the picture's own (0 to 1 or None); `errors` are its unmatched segments, as `segment_errors` finds them.
    """

    name: str
    picture: npt.NDArray[np.uint8] | None
    truth: Panoptic
    prediction: Panoptic
    pq: float | None = None
    errors: tuple[SegmentError, ...] = ()


@dataclass(frozen=True)
class LegendEntry:
    """A class or a cause in one image: its colour and name, and how many segments there are, in words."""

    name: str
    color: Color
    count: str


@dataclass(frozen=True)
class Panel:
    """One of an example's images, as a data URI; `kind` is "picture", "map" or "errors"."""

    kind: str
    title: str
    uri: str
    size: tuple[int, int]
    legend: list[LegendEntry]
    has_void: bool


@dataclass(frozen=True)
class ErrorLine:
    """One unmatched segment in words; `partners` names the classes on the other side, `iou` is None without any.

    `place` is its position in its map's segments plus one.
    """

    cause: str
    color: Color
    is_truth: bool
    place: int
    name: str
    area: int
    partners: str
    iou: float | None


@dataclass(frozen=True)
class DrawnExample:
    """An example ready for the template; of its errors the largest, and how many more there are."""

    example: Example
    panels: list[Panel]
    maps: PointedMaps
    errors: list[ErrorLine]
    further_errors: int


def drawn_examples(*groups: Sequence[Example], others: int = 0) -> list[list[DrawnExample]]:
    """Return groups of examples ready for the template, all together small enough for one page.

    `others` are the bytes of what else is in the page besides text. Raises `InputError` where an example's sizes
    disagree or its errors speak of other segments than its maps.
    """
    examples = [example for group in groups for example in group]
    map_budget = _MAP_BYTES // (2 * max(1, len(examples)))
    maps = [[_told(example, map_budget) for example in group] for group in groups]
    others += sum(own.characters for group in maps for own in group) * 3 // 4
    panels = sum(2 + (e.picture is not None) + bool(e.errors) for e in examples)
    budget = max(_LEAST_PICTURE_BYTES, (_BYTES - others) // max(1, panels))
    return [
        [_drawn(example, own, budget) for example, own in zip(group, told, strict=True)]
        for group, told in zip(groups, maps, strict=True)
    ]


def _told(example: Example, budget: int) -> PointedMaps:
    height, width = example.truth.size if example.picture is None else example.picture.shape[:2]
    for what, panoptic in (("ground truth", example.truth), ("prediction", example.prediction)):
        if panoptic.size != (height, width):
            raise InputError(
                f"example {example.name}: the {what} is {panoptic.size[1]} x {panoptic.size[0]} pixels, the"
                f" {'ground truth' if example.picture is None else 'picture'} {width} x {height};"
                " give both maps at the size of the picture"
            )
    return pointed_maps(example.truth, example.prediction, example.errors, budget)


def _drawn(example: Example, maps: PointedMaps, budget: int) -> DrawnExample:
    try:
        return DrawnExample(
            example,
            _panels(example, budget),
            maps,
            _error_lines(example),
            max(0, len(example.errors) - _ERRORS_LISTED),
        )
    except InputError as error:
        raise InputError(f"example {example.name}: {error}") from None


def _panels(example: Example, budget: int) -> list[Panel]:
    """Return picture, ground truth, prediction and errors at a size at which their names can be read."""
    shown = shown_size(example.truth.size, _LONGEST_SIDE)
    size = shown[1], shown[0]
    picture, panels = None, []
    if example.picture is not None:
        picture = Image.fromarray(example.picture).resize(size, Image.Resampling.LANCZOS)
        panels.append(Panel("picture", "Picture", data_url(jpeg_within(picture, budget)), size, [], False))
    truth, prediction = (resized_map(panoptic, shown) for panoptic in (example.truth, example.prediction))
    for title, own, drawn in (
        ("Ground truth", example.truth, truth),
        ("Prediction", example.prediction, prediction),
    ):
        uri = data_url(jpeg_within(overlay(drawn, picture, letters=_LETTERS), budget))
        panels.append(Panel("map", title, uri, size, _legend(own), bool((own.semantic() < 0).any())))
    if example.errors:
        errors = error_overlay(picture, truth, prediction, example.errors, _LETTERS)
        uri = data_url(jpeg_within(errors, budget))
        panels.append(Panel("errors", "Errors", uri, size, _cause_legend(example.errors), False))
    return panels


def _legend(panoptic: Panoptic) -> list[LegendEntry]:
    """Return the classes of a map in the order of its categories."""
    categories = panoptic.categories
    labels = [s.label for s in panoptic.segments]
    return [
        LegendEntry(name, color, f"× {labels.count(label)}" if categories.things[label] else "")
        for label, (name, color) in enumerate(zip(categories.names, categories.colors, strict=True))
        if label in labels
    ]


def _cause_legend(errors: Sequence[SegmentError]) -> list[LegendEntry]:
    return [LegendEntry(cause, CAUSE_COLOURS[cause], counted) for cause, counted in cause_counts(errors).items()]


def _error_lines(example: Example) -> list[ErrorLine]:
    """Return the largest of an example's errors in words, the largest first."""
    sides = {True: example.truth, False: example.prediction}
    places = {
        there: {segment.id: place for place, segment in enumerate(panoptic.segments, 1)}
        for there, panoptic in sides.items()
    }
    lines = []
    for error in sorted(example.errors, key=lambda e: -e.area)[:_ERRORS_LISTED]:
        own, place = sides[error.is_truth], places[error.is_truth][error.segment_id]
        lines.append(
            ErrorLine(
                cause=error.cause,
                color=CAUSE_COLOURS[error.cause],
                is_truth=error.is_truth,
                place=place,
                name=own.name(own.segments[place - 1]),
                area=error.area,
                partners=partners_in_words(error, sides[not error.is_truth]),
                iou=error.iou if error.partners else None,
            )
        )
    return lines
