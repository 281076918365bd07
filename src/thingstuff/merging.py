"""From competing segments to one panoptic map."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor

from thingstuff.boxes import boxes_of_masks
from thingstuff.panoptic import VOID, Categories, Panoptic, Segment
from thingstuff.structures import Frame, Segments, Size

CHUNK_PIXELS = 64_000_000
"""Most mask values that are resized at once: bounds the memory of a picture with many segments."""


@dataclass(frozen=True)
class ThingsFirst:
    """Settings of the things-first merge; the defaults are Panoptic FCN's."""

    thing_score: float = 0.2
    """Things below this score stay out."""
    mask_threshold: float = 0.4
    """A pixel is in a thing's mask above this probability."""
    overlap: float = 0.5
    """A thing of whose mask more than this share is taken already is dropped."""
    stuff_area: float = 4096
    """Stuff with fewer free pixels than this is dropped."""


@dataclass(frozen=True)
class Instances:
    """Scored things of a picture at its own size; `boxes_xyxy` are half-open pixels, all zeros for an empty mask."""

    masks: Bool[Tensor, "N H W"]
    boxes_xyxy: Float[Tensor, "N 4"]
    labels: Int[Tensor, "N"]
    scores: Float[Tensor, "N"]


def _restore_in_chunks(segments: Segments) -> Iterator[Tensor]:
    H, W = segments.frame.original
    canvas = segments.frame.canvas
    rows = max(1, CHUNK_PIXELS // max(H * W, canvas[0] * canvas[1]))
    for start in range(0, len(segments), rows):
        yield segments.frame.restore(segments.masks[start : start + rows])


def instances(segments: Segments, categories: Categories, mask_threshold: float) -> Instances:
    """Return the scored things before they compete: all of them, in their order, as masks of picture size."""
    is_thing = torch.tensor([*categories.things, False], device=segments.labels.device)[segments.labels]
    things = segments.pick(is_thing)
    empty = torch.zeros((0, *things.frame.original), dtype=torch.bool, device=things.masks.device)
    masks = torch.cat([empty, *(chunk > mask_threshold for chunk in _restore_in_chunks(things))])
    return Instances(masks, boxes_of_masks(masks), things.labels, things.scores)


def semantic_probabilities(segments: Segments, categories: Categories) -> Float[Tensor, "rows H W"]:
    """Return the stuff's probabilities at picture size by label, `VOID` in the last row; zero where there is none."""
    is_thing = torch.tensor([*categories.things, False], device=segments.labels.device)[segments.labels]
    stuff = segments.pick(~is_thing)
    result = stuff.masks.new_zeros((len(categories) + 1, *stuff.frame.original))
    start = 0
    for chunk in _restore_in_chunks(stuff):
        result[stuff.labels[start : start + len(chunk)]] = chunk
        start += len(chunk)
    return result


def merge_things_first(segments: Segments, categories: Categories, settings: ThingsFirst) -> Panoptic:
    """Give pixels to things by falling score, then what is left to stuff by argmax (Kirillov et al. 2019a, section 4).

    Masks are probabilities, things stand in falling score and stuff in ascending label with `VOID` first.
    """
    size = segments.frame.original
    is_thing = torch.tensor([*categories.things, False], device=segments.labels.device)[segments.labels]
    kept = (is_thing & (segments.scores >= settings.thing_score)).nonzero()[:, 0]
    ids = np.zeros(size, dtype=np.int32)
    found: list[Segment] = []
    _paste_things(segments, kept, settings, ids, found)
    _fill_stuff(segments, (~is_thing).nonzero()[:, 0], settings, ids, found)
    areas = np.bincount(ids.reshape(-1), minlength=len(found) + 1)
    final = tuple(Segment(s.id, s.label, int(areas[s.id]), s.score, source=s.source) for s in found)
    return Panoptic(ids, final, categories)


def _paste_things(
    segments: Segments, rows: Tensor, settings: ThingsFirst, ids: np.ndarray, found: list[Segment]
) -> None:
    index = 0
    labels, scores = segments.labels.tolist(), segments.scores.tolist()
    for chunk in _restore_in_chunks(segments.pick(rows)):
        for mask in (chunk > settings.mask_threshold).cpu().numpy():
            row = int(rows[index])
            index += 1
            area = int(mask.sum())
            taken = int((mask & (ids > 0)).sum())
            if area == 0 or taken / area > settings.overlap:
                continue
            found.append(Segment(len(found) + 1, labels[row], 0, scores[row], source=row))
            ids[mask & (ids == 0)] = len(found)


def _fill_stuff(segments: Segments, rows: Tensor, settings: ThingsFirst, ids: np.ndarray, found: list[Segment]) -> None:
    best, winner = _best_of_stuff(segments.pick(rows), segments.frame.original)
    labels, scores = segments.labels[rows].tolist(), segments.scores[rows].tolist()
    winner[(best <= 0) | (ids > 0)] = -1  # where every probability is 0 no stuff is there
    areas = np.bincount(winner.reshape(-1) + 1, minlength=len(labels) + 1)[1:]
    for position, label in enumerate(labels):
        if label == VOID or areas[position] < max(settings.stuff_area, 1):
            continue
        found.append(Segment(len(found) + 1, label, 0, scores[position], source=int(rows[position])))
        ids[winner == position] = len(found)


def _best_of_stuff(stuff: Segments, size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Return the highest probability of each pixel and its row; the first row wins a tie."""
    best, winner = np.zeros(size, dtype=np.float32), np.zeros(size, dtype=np.int64)
    start = 0
    for chunk in _restore_in_chunks(stuff):
        value, row = (t.cpu().numpy() for t in chunk.float().max(dim=0))
        better = value > best
        best[better], winner[better] = value[better], row[better] + start
        start += len(chunk)
    return best, winner


def merge_by_argmax(segments: Segments, categories: Categories, min_area: int) -> Panoptic:
    """Give each pixel to the segment of the largest logit; stuff of one class is one segment.

    That is done at the resized picture's size, and brought to picture size by nearest neighbours. Then segments of
    `min_area` pixels or fewer are dropped, and their pixels go to the best of the rest, until none is. Ids rise in the
    order of the rows; the first row wins a tie (Carion et al. 2020, section 4.4).
    """
    first = np.array(_first_of_class(segments.labels.tolist(), categories), dtype=np.int64)
    rows = list(range(len(segments)))
    resized = _at_resized_size(segments)
    owner = _winners(resized, rows)
    while rows:
        whole = _nearest(first[owner], segments.frame.original)
        areas = np.bincount(whole.reshape(-1), minlength=len(segments))
        left = sorted({*first[rows].tolist()})
        tiny = [row for row in left if areas[row] <= min_area]
        if not tiny:
            return _numbered(segments, categories, whole, left)
        rows = [row for row in rows if first[row] not in tiny]
        freed = np.isin(first[owner], tiny)
        if rows and freed.any():
            owner[freed] = _winners(resized, rows)[freed]
    return _numbered(segments, categories, None, [])


def merge_by_argmax_as_released(segments: Segments, categories: Categories, min_area: int) -> Panoptic:
    """Merge as the released code of DETR does, its fault included: merged stuff loses its pixels in the second round.

    Rows that merging has emptied are dropped like tiny ones, and what they had won is dealt again among the rest.
    """
    rows = list(range(len(segments)))
    first = _first_of_class(segments.labels.tolist(), categories)
    resized = _at_resized_size(segments)
    while rows:
        owner = _winners(resized, rows)
        if len(rows) == len(first):  # the first round alone merges stuff
            owner = np.array(first, dtype=np.int64)[owner]
        owner = _nearest(owner, segments.frame.original)
        areas = np.bincount(owner.reshape(-1), minlength=len(first))
        kept = [row for row in rows if areas[row] > min_area]
        if kept == rows:
            return _numbered(segments, categories, owner, rows)
        rows = kept
    return _numbered(segments, categories, None, [])


def _at_resized_size(segments: Segments) -> Segments:
    frame = Frame(segments.frame.canvas, segments.frame.size, segments.frame.size)
    return Segments(segments.masks, segments.labels, segments.scores, frame)


def _first_of_class(labels: Sequence[int], categories: Categories) -> list[int]:
    """Return for each row the first row of its class if that is stuff, else the row itself."""
    return [row if categories.things[label] else labels.index(label) for row, label in enumerate(labels)]


def _winners(segments: Segments, rows: Sequence[int]) -> npt.NDArray[np.int64]:
    """Return the row of the largest value of each pixel at picture size, among some rows; the first wins a tie."""
    size = segments.frame.original
    best: Tensor | None = None
    winner = torch.zeros(size, dtype=torch.long, device=segments.masks.device)
    start = 0
    for chunk in _restore_in_chunks(segments.pick(rows)):
        value, row = chunk.max(dim=0)
        if best is None:
            best, winner = value, row
        else:
            better = value > best
            best, winner = torch.where(better, value, best), torch.where(better, row + start, winner)
        start += len(chunk)
    return np.array(rows, dtype=np.int64)[winner.cpu().numpy()] if rows else winner.cpu().numpy()


def _nearest(rows: npt.NDArray[np.int64], size: Size) -> npt.NDArray[np.int64]:
    if rows.shape == size:
        return rows
    image = Image.fromarray(rows.astype(np.int32)).resize((size[1], size[0]), Image.Resampling.NEAREST)
    return np.asarray(image).astype(np.int64)


def _numbered(
    segments: Segments, categories: Categories, owner: npt.NDArray[np.int64] | None, rows: Sequence[int]
) -> Panoptic:
    """Return the panoptic map of a map of owning rows; `rows`, the segments that are left, get the ids 1, 2, ..."""
    if owner is None:
        return Panoptic(np.zeros(segments.frame.original, dtype=np.int32), (), categories)
    ids = np.zeros(len(segments), dtype=np.int32)
    ids[list(rows)] = np.arange(1, len(rows) + 1)
    areas = np.bincount(owner.reshape(-1), minlength=len(segments))
    labels, scores = segments.labels.tolist(), segments.scores.tolist()
    final = tuple(
        Segment(int(ids[row]), labels[row], int(areas[row]), min(1.0, scores[row]), source=row) for row in rows
    )
    return Panoptic(ids[owner], final, categories)
