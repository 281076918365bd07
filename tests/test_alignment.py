"""Which pixel of the picture a cell of a mask speaks for: a checkerboard goes there and back in every model.

Ideal masks of a board's squares, in the shape and frame that the model's own `segments` gives, are merged by the model.
What is measured is how far from the nearest true edge a pixel can lie that comes back wrong, in pixels of the network
input: its centre, so that a map whose edges are all in place measures 0. A cell's value is the share of it that a
square covers, and a line through two such values crosses one half up to 0.086 cells from the true edge: a third of a
pixel at stride 4, whatever is done. One cell or half a cell of shift would be 2 to 4 pixels.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import test_models
from thingstuff.models import MODELS, create
from thingstuff.models.base import PanopticModel
from thingstuff.models.detr import DETRPanoptic
from thingstuff.models.panoptic_fpn import PanopticFPN, paste
from thingstuff.panoptic import VOID, Categories, Panoptic
from thingstuff.structures import Frame, Images, Segments

Size = tuple[int, int]
CATEGORIES = Categories(tuple("abcdst"), (False, False, False, False, True, True), (1, 2, 3, 4, 5, 6))
"""Four kinds of stuff, so that no two squares of a board that touch are of one kind, and things."""
CHANGES: dict[str, dict[str, Any]] = {
    "PanopticFCN": {**test_models.TestPanopticFCN.changes, "mask_threshold": 0.5, "stuff_area": 0},
    "PanopticFPN": {**test_models.TestPanopticFPN.changes, "stuff_area": 0, "proposals": 50, "detections": 5},
    "DETRPanoptic": {**test_models.TestDETRPanoptic.changes, "min_area": 0},
}
HALF = 0.5
MATE = np.zeros((128, 160, 3), np.uint8)
"""A larger picture in the same batch: the board's lies beside padding on both sides."""


@dataclass(frozen=True)
class Way:
    """How a picture of one size comes to the network: by the model's size rule, or as it is."""

    original: Size
    resized: bool


WAYS = {
    "as it is": Way((93, 117), False),
    "made larger": Way((61, 83), True),
    "made smaller": Way((203, 287), True),
    "much smaller": Way((431, 389), True),
}


@cache
def small(name: str, **changes: Any) -> PanopticModel:
    """A small model with random weights; made once, not to be changed."""
    torch.manual_seed(0)
    return create(name, CATEGORIES, **{**CHANGES[MODELS[name][1].__name__], **changes}).eval()


def batch(model: PanopticModel, way: Way) -> Images:
    picture = np.zeros((*way.original, 3), np.uint8)
    return model.batch([picture, MATE]) if way.resized else model.pad([picture, MATE])


@cache
def place_of(name: str, way: str) -> tuple[Size, Frame]:
    """The place of a small model's masks, for one of the ways."""
    model = small(name)
    images = batch(model, WAYS[way])
    shape, frame = place(model, images)
    assert frame == images.frame(0)
    return shape, frame


def place(model: PanopticModel, images: Images) -> tuple[Size, Frame]:
    """The (h, w) of the masks and the frame that the model's own `segments` gives the first picture."""
    with torch.no_grad():
        found = model.segments(model.look(images), images)[0]
    return (int(found.masks.shape[1]), int(found.masks.shape[2])), found.frame


def stride_of(model: PanopticModel) -> int:
    return model.config.mask_stride if isinstance(model, PanopticFPN) else 4


# The board and its ideal masks


def edges(original: int, size: int, square: int) -> npt.NDArray[np.int64]:
    """Where squares of so many pixels of the network input begin and end along a side of the picture.

    The last one is no narrower than two cells: what is lost in a cell would not be a shift.
    """
    inner = np.arange(1, 100) * square * original / size
    whole = np.round(inner[inner <= original - 8 * original / size]).astype(np.int64)
    return np.array([0, *whole, original])


def covered(edges: npt.NDArray[np.int64], cells: int, stride: int, frame_side: tuple[int, int]) -> Tensor:
    """The share [strips, cells] of each cell, `stride` pixels of the network input, between two edges."""
    size, original = frame_side
    at = edges * size / original
    low, high = np.arange(cells) * stride, np.arange(1, cells + 1) * stride
    common = np.minimum(at[1:, None], high) - np.maximum(at[:-1, None], low)
    return torch.from_numpy(common.clip(min=0) / stride).float()


@dataclass(frozen=True)
class Board:
    """A checkerboard: its edges along both axes, and each strip's share of the cells [strips, cells]."""

    edges: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
    shares: tuple[Tensor, Tensor]
    frame: Frame

    def stuff(self) -> Tensor:
        """The masks [4, h, w] of the kinds of stuff: by odd and even rows, then columns."""
        of_rows, of_columns = (torch.stack([s[0::2].sum(0), s[1::2].sum(0)]) for s in self.shares)
        return torch.einsum("ry,cx->rcyx", of_rows, of_columns).flatten(0, 1)

    def strips(self, axis: int) -> Tensor:
        """The masks [n, h, w] of strips along an axis, which go on into the padding of the other.

        A mask beyond a threshold has round corners, which are no shift.
        """
        across = torch.ones(self.shares[1 - axis].shape[1])
        masks = self.shares[axis][:, :, None] * across
        return masks if axis == 0 else masks.transpose(1, 2)

    def error(self, found: npt.NDArray[np.int64], axis: int, modulo: int) -> float:
        """How far from an edge a wrong pixel lies, in pixels of the network input; `found` are strips' numbers."""
        own = self.edges[axis]
        centres = np.arange(own[-1]) + 0.5
        true = (np.searchsorted(own, centres) - 1) % modulo
        wrong = found != (true[:, None] if axis == 0 else true)
        far = abs(centres[:, None] - own).min(1) * self.frame.size[axis] / self.frame.original[axis]
        along = wrong.any(1 - axis)
        return float(far[along].max(initial=0))


def board(shape: Size, frame: Frame, stride: int, square: int) -> Board:
    sides = [(frame.size[axis], frame.original[axis]) for axis in (0, 1)]
    rows, columns = (edges(original, size, square) for size, original in sides)
    shares = [covered(own, shape[axis], stride, sides[axis]) for axis, own in enumerate((rows, columns))]
    return Board((rows, columns), (shares[0], shares[1]), frame)


def as_the_models(model: PanopticModel, masks: Tensor) -> Tensor:
    """Probabilities, or logits with the same edges: 0 where a cell is half covered."""
    return 8 * masks - 4 if isinstance(model, DETRPanoptic) else masks


Change = Callable[[Tensor], Tensor]


def board_error(model: PanopticModel, drawn: Board, change: Change = lambda masks: masks) -> float:
    """The largest error of a merged board, over both axes."""
    masks = change(drawn.stuff())
    segments = Segments(as_the_models(model, masks), torch.arange(4), torch.full((4,), 0.9), drawn.frame)
    labels = model.merge(segments).semantic().astype(np.int64)
    return max(
        drawn.error(np.where(labels < 0, -1, kind), axis, 2) for axis, kind in enumerate((labels // 2, labels % 2))
    )


def strips_error(model: PanopticModel, drawn: Board, axis: int, change: Change = lambda masks: masks) -> float:
    """The largest error of merged strips of things along one axis."""
    masks = change(drawn.strips(axis))
    labels, scores = torch.full((len(masks),), 4), torch.full((len(masks),), 0.9)
    merged = model.merge(Segments(as_the_models(model, masks), labels, scores, drawn.frame))
    return drawn.error(sources(merged), axis, 1000)


def sources(merged: Panoptic) -> npt.NDArray[np.int64]:
    """The row of the segment that has each pixel, -1 where none has."""
    row = np.full(len(merged.segments) + 1, -1)
    for segment in merged.segments:
        row[segment.id] = segment.source
    return row[merged.ids]


def shifted(masks: Tensor) -> Tensor:
    """Every mask one cell down and to the right, the first row and column twice."""
    return F.pad(masks[None], (1, 0, 1, 0), mode="replicate")[0, :, :-1, :-1]


def align_corners(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every resize take the outermost cells' centres for the picture's corners."""
    plain = F.interpolate

    def other(*arguments: Any, **options: Any) -> Tensor:
        corners = {"align_corners": True} if options.get("mode") == "bilinear" else {}
        return plain(*arguments, **{**options, **corners})

    monkeypatch.setattr(F, "interpolate", other)


# Every model


def bound(model: PanopticModel, frame: Frame) -> float:
    """Half a pixel of the network input.

    DETR merges there and takes the nearest pixel, which is half a pixel more where the picture was made smaller.
    """
    return 2 * HALF if isinstance(model, DETRPanoptic) and frame.size < frame.original else HALF


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", MODELS)
def test_a_checkerboard_comes_back_where_it_was(name: str, way: str) -> None:
    model = small(name)
    shape, frame = place_of(name, way)
    assert frame.size != frame.canvas
    stride, allowed = stride_of(model), bound(model, frame)
    assert (shape[0] * stride, shape[1] * stride) == frame.canvas
    for square in (13, 31):
        drawn = board(shape, frame, stride, square)
        assert min(len(own) for own in drawn.edges) > 3
        assert board_error(model, drawn) <= allowed
        for axis in (0, 1):
            assert strips_error(model, drawn, axis) <= allowed
        assert way != "as it is" or board_error(model, drawn) == 0


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["panoptic-fcn-tiny", "panoptic-fpn-r50", "detr-panoptic-tiny"])
def test_a_cell_of_shift_would_be_seen(name: str, way: str) -> None:
    model = small(name)
    shape, frame = place_of(name, way)
    drawn, allowed = board(shape, frame, stride_of(model), 18), bound(model, frame)
    assert board_error(model, drawn, shifted) > allowed
    assert all(strips_error(model, drawn, axis, shifted) > allowed for axis in (0, 1))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["panoptic-fcn-tiny", "detr-panoptic-tiny"])
def test_aligned_corners_would_be_seen(name: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small(name)
    shape, frame = place_of(name, way)
    drawn, allowed = board(shape, frame, 4, 13), bound(model, frame)
    align_corners(monkeypatch)
    assert board_error(model, drawn) > allowed
    assert max(strips_error(model, drawn, axis) for axis in (0, 1)) > allowed


def test_a_lower_threshold_widens_the_things_of_panoptic_fcn_by_less_than_a_pixel() -> None:
    """The paper's 0.4 in place of one half: a thing that wins its pixels first reaches beyond its edge."""
    model = small("panoptic-fcn-tiny", mask_threshold=0.4)
    for way in WAYS:
        shape, frame = place_of("panoptic-fcn-tiny", way)
        for axis in (0, 1):
            error = max(strips_error(model, board(shape, frame, 4, square), axis) for square in (13, 18, 31))
            assert error <= 1


# Its parts


@pytest.mark.parametrize("stride", [1, 2, 4, 8])
@pytest.mark.parametrize("way", WAYS)
def test_restoring_alone_is_exact_to_a_twelfth_of_a_cell(
    way: str, stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = WAYS[way].original
    size = original if not WAYS[way].resized else (96, round(96 * original[1] / original[0]))
    frame = Frame((160, 192), size, original)
    drawn = board((160 // stride, 192 // stride), frame, stride, 2 * stride + 5)

    def error() -> float:
        best = frame.restore(drawn.stuff()).argmax(0).numpy()
        return max(drawn.error(kind, axis, 2) for axis, kind in enumerate((best // 2, best % 2)))

    assert error() <= 0.1 * stride + 0.1
    align_corners(monkeypatch)
    assert stride < 4 or error() > 0.1 * stride + 0.1


def test_a_pasted_box_lies_where_its_corners_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """Panoptic FPN's masks: 28 x 28 cells over a box; one half of each is full, so that its middle is an edge too."""
    for name in ("panoptic-fpn-r50", "panoptic-fpn-tiny"):
        model = small(name)
        stride = stride_of(model)
        boxes = torch.tensor([[9.0, 14.0, 61.0, 50.0], [70.5, 20.25, 100.5, 77.75]])
        full, left = torch.ones(28, 28), torch.cat([torch.ones(28, 14), torch.zeros(28, 14)], 1)
        frame = Frame((96, 128), (93, 117), (93, 117))
        for mask, share in ((full, 1.0), (left, 0.5)):
            masks = paste(mask.expand(2, 28, 28), boxes, frame.canvas, stride)
            merged = model.merge(Segments(masks, torch.tensor([4, 4]), torch.tensor([0.9, 0.8]), frame))
            assert [s.source for s in merged.segments] == [0, 1]
            for segment, (x0, y0, x1, y1) in zip(merged.segments, boxes.tolist(), strict=True):
                rows, columns = np.nonzero(merged.mask(segment))
                found = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
                wanted = (x0, y0, x0 + share * (x1 - x0), y1)
                errors = [abs(a - b) for a, b in zip(found, wanted, strict=True)]
                assert max(errors) <= HALF, (name, found, wanted)


def test_panoptic_fpn_brings_its_semantic_map_to_its_masks_in_place() -> None:
    for name in ("panoptic-fpn-r50", "panoptic-fpn-tiny"):
        model = small(name)
        images = batch(model, WAYS["as it is"])
        with torch.no_grad():
            output = model.look(images)
        frame = images.frame(0)
        drawn = board((32, 40), frame, 4, 18)
        rows = torch.cat([torch.full((1, 32, 40), -8.0), 16 * drawn.stuff() - 8])  # "some thing" first
        output = dataclasses.replace(output, semantic=rows.expand(2, -1, -1, -1))
        found = model.segments(output, images)[0]
        stuff = found.pick([row for row, label in enumerate(found.labels.tolist()) if label in (VOID, 0, 1, 2, 3)])
        labels = model.merge(stuff).semantic().astype(np.int64)
        kinds = (labels // 2, labels % 2)
        assert max(drawn.error(np.where(labels < 0, -1, k), axis, 2) for axis, k in enumerate(kinds)) <= HALF


@pytest.mark.parametrize("rest", [0, 1, 2, 3])
def test_detr_squeezes_a_canvas_that_is_no_multiple_of_4_by_what_it_lacks(rest: int) -> None:
    """Its masks have a cell for each begun 4 pixels, and are resized as if the last one ended with the canvas.

    The cells, taken to be 4 pixels wide, then end up to 3 pixels beyond the canvas, and are drawn that much to the
    left: by nothing at the left border, by all of it at the right one.
    """
    model = small("detr-panoptic-tiny", **{"preprocess.divisor": 1})
    side = 128 + rest
    images = model.pad([np.zeros((side, side, 3), np.uint8)])
    shape, frame = place(model, images)
    assert shape == (-(-side // 4),) * 2
    assert frame == Frame((side, side), (side, side), (side, side))
    drawn, lacks = board(shape, frame, 4, 16), 4 * shape[0] - side
    assert lacks == (-rest) % 4
    error = strips_error(model, drawn, 1)
    assert lacks - 1 <= error <= lacks + HALF
    assert (error == 0) == (lacks == 0)
    rows, columns = (covered(own, shape[0], 4, (4 * shape[0], side)) for own in drawn.edges)
    narrower = Board(drawn.edges, (rows, columns), frame)  # cells that share the canvas evenly
    assert strips_error(model, narrower, 1) == 0
