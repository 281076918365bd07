"""The pictures of a report: each with its ground truth, its prediction and what went wrong, as JPEGs in the page."""

import base64
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from thingstuff.drawing import overlay
from thingstuff.error_pictures import CAUSE_COLOURS, error_overlay
from thingstuff.errors import InputError
from thingstuff.evaluation.causes import SegmentError
from thingstuff.evaluation.error_tables import cause_counts
from thingstuff.panoptic import Color, Panoptic, Segment

# What the pictures of a page may weigh together; base64 makes 4 of 3, and the page is to stay below 5 MB.
_PICTURE_BYTES = 3_300_000
_LEAST_PICTURE_BYTES = 12_000
_LONGEST_SIDE = 640
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
    """One unmatched segment in words; `partners` names the classes on the other side, `iou` is None without any."""

    cause: str
    color: Color
    side: str
    name: str
    area: int
    partners: str
    iou: float | None


@dataclass(frozen=True)
class DrawnExample:
    """An example ready for the template; of its errors the largest, and how many more there are."""

    example: Example
    panels: list[Panel]
    errors: list[ErrorLine]
    further_errors: int


def drawn_examples(*groups: Sequence[Example]) -> list[list[DrawnExample]]:
    """Return groups of examples ready for the template, all together small enough for one page.

    Raises `InputError` where an example's sizes disagree or its errors speak of other segments than its maps.
    """
    panels = sum(2 + (e.picture is not None) + bool(e.errors) for group in groups for e in group)
    budget = max(_LEAST_PICTURE_BYTES, _PICTURE_BYTES // max(1, panels))
    return [[_drawn(example, budget) for example in group] for group in groups]


def _drawn(example: Example, budget: int) -> DrawnExample:
    try:
        return DrawnExample(
            example, _panels(example, budget), _error_lines(example), max(0, len(example.errors) - _ERRORS_LISTED)
        )
    except InputError as error:
        raise InputError(f"example {example.name}: {error}") from None


def _panels(example: Example, budget: int) -> list[Panel]:
    """Return picture, ground truth, prediction and errors at a size at which their names can be read."""
    height, width = example.truth.size if example.picture is None else example.picture.shape[:2]
    for what, panoptic in (("ground truth", example.truth), ("prediction", example.prediction)):
        if panoptic.size != (height, width):
            raise InputError(
                f"the {what} is {panoptic.size[1]} x {panoptic.size[0]} pixels, the"
                f" {'ground truth' if example.picture is None else 'picture'} {width} x {height};"
                " give both maps at the size of the picture"
            )
    size = _shown_size(width, height)
    picture, panels = None, []
    if example.picture is not None:
        picture = Image.fromarray(example.picture).resize(size, Image.Resampling.LANCZOS)
        panels.append(Panel("picture", "Picture", _jpeg_uri(picture, budget), size, [], False))
    truth, prediction = _resized_map(example.truth, size), _resized_map(example.prediction, size)
    for title, own, shown in (
        ("Ground truth", example.truth, truth),
        ("Prediction", example.prediction, prediction),
    ):
        uri = _jpeg_uri(overlay(shown, picture), budget)
        panels.append(Panel("map", title, uri, size, _legend(own), bool((own.semantic() < 0).any())))
    if example.errors:
        uri = _jpeg_uri(error_overlay(picture, truth, prediction, example.errors), budget)
        panels.append(Panel("errors", "Errors", uri, size, _cause_legend(example.errors), False))
    return panels


def _shown_size(width: int, height: int) -> tuple[int, int]:
    """Return the (width, height) to draw at: small pictures grow by a whole factor, large ones shrink."""
    longest = max(width, height)
    scale = _LONGEST_SIDE // longest if longest <= _LONGEST_SIDE else _LONGEST_SIDE / longest
    return max(1, round(width * scale)), max(1, round(height * scale))


def _resized_map(panoptic: Panoptic, size: tuple[int, int]) -> Panoptic:
    rows = (np.arange(size[1]) + 0.5) * panoptic.size[0] / size[1]
    columns = (np.arange(size[0]) + 0.5) * panoptic.size[1] / size[0]
    ids = panoptic.ids[np.ix_(rows.astype(np.int64), columns.astype(np.int64))]
    return Panoptic(ids, panoptic.segments, panoptic.categories)


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
    own = {True: _segments(example.truth), False: _segments(example.prediction)}
    panoptics = {True: example.truth, False: example.prediction}
    lines = []
    for error in sorted(example.errors, key=lambda e: -e.area)[:_ERRORS_LISTED]:
        there = not error.is_truth
        names = Counter(panoptics[there].name(own[there][i]) for i in error.partners if i in own[there])
        partners = ", ".join(name if count == 1 else f"{count} × {name}" for name, count in names.items())
        name = panoptics[error.is_truth].name(own[error.is_truth][error.segment_id])
        side = "ground truth" if error.is_truth else "prediction"
        iou = error.iou if error.partners else None
        lines.append(ErrorLine(error.cause, CAUSE_COLOURS[error.cause], side, name, error.area, partners, iou))
    return lines


def _segments(panoptic: Panoptic) -> dict[int, Segment]:
    return {segment.id: segment for segment in panoptic.segments}


def _jpeg_uri(image: Image.Image, budget: int) -> str:
    """Return a JPEG data URI of at most `budget` bytes before base64: first by quality, then by size."""
    while True:
        for quality in (88, 78, 66, 52):
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=quality, optimize=True)
            if buffer.tell() <= budget or max(image.size) <= 64:
                return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
        image = image.resize((max(1, image.width * 3 // 4), max(1, image.height * 3 // 4)), Image.Resampling.LANCZOS)
