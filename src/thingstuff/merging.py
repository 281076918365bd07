"""From competing segments to one panoptic map."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from thingstuff.panoptic import VOID, Categories, Panoptic, Segment
from thingstuff.structures import Frame, Segments, Size

CHUNK_PIXELS = 64_000_000
"""Most mask values that are resized at once: bounds the memory of a picture with many segments."""
STUFF_PIXELS = 4_000_000
"""The same where stuff competes."""
BAND_ROWS, BLOCK_COLUMNS = 32, 64
"""Pixels that are made at once when things are merged; small blocks read few cells besides their own."""
REFERENCE_AREA = 640 * 480
"""Pixels of the pictures that an area limit is meant for, where it is relative."""
PLANE = 24
"""Things whose set one fp32 number tells exactly, a bit for each."""


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

    @property
    def least_area(self) -> int:
        """The fewest whole pixels that stuff is kept with; a segment has one at least."""
        return math.ceil(max(self.stuff_area, 1))


def area_limit(area: float | int, relative: bool, size: Size) -> float:
    """Return the pixels below which stuff is dropped from a picture of (height, width); `relative` scales them."""
    return area * size[0] * size[1] / REFERENCE_AREA if relative else area


def restore_in_chunks(segments: Segments, pixels: int | None = None) -> Iterator[Float[Tensor, "rows H W"]]:
    """Yield the masks at picture size, in their order, so many at once that they have about `pixels` values."""
    H, W = segments.frame.original
    canvas = segments.frame.canvas
    rows = max(1, (pixels or CHUNK_PIXELS) // max(H * W, canvas[0] * canvas[1]))
    for start in range(0, len(segments), rows):
        yield segments.frame.restore(segments.masks[start : start + rows])


def merge_things_first(segments: Segments, categories: Categories, settings: ThingsFirst) -> Panoptic:
    """Give pixels to things by falling score, then what is left to stuff by argmax (Kirillov et al. 2019a, section 4).

    Masks are probabilities, things stand in falling score and stuff in ascending label with `VOID` first.
    """
    is_thing = torch.tensor([*categories.things, False], device=segments.labels.device)[segments.labels]
    kept = (is_thing & (segments.scores >= settings.thing_score)).nonzero()[:, 0]
    stuff = (~is_thing).nonzero()[:, 0]
    labels, scores = segments.labels.tolist(), segments.scores.tolist()
    found: list[Segment] = []
    covered = cover(segments.pick(kept), settings.mask_threshold)
    accepted = accepted_things(covered.areas, covered.patterns, covered.counts, settings.overlap)
    for row in kept.cpu().numpy()[accepted]:
        found.append(Segment(len(found) + 1, labels[row], 0, scores[row], source=int(row)))
    ids = _pasted(covered, accepted)
    winner = best_of_stuff(segments.pick(stuff))
    winner[ids > 0] = 0
    areas = np.bincount(winner.reshape(-1), minlength=len(stuff) + 1)
    id_of = np.zeros(len(stuff) + 1, dtype=np.int32)
    for position, row in enumerate(stuff.tolist(), start=1):
        if labels[row] != VOID and areas[position] >= settings.least_area:
            found.append(Segment(len(found) + 1, labels[row], 0, scores[row], source=row))
            id_of[position] = len(found)
    ids += id_of[winner]
    areas = np.bincount(ids.reshape(-1), minlength=len(found) + 1)
    final = tuple(Segment(s.id, s.label, int(areas[s.id]), s.score, source=s.source) for s in found)
    return Panoptic(ids, final, categories)


# ---- things first, band by band


def _bands(segments: Segments, above: float) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Restore masks band by band: (pixel rows, which segments, their values [n, rows, W]).

    A segment is left out of the bands where none of its values can be above a limit: bilinear values lie between those
    of their cells. Resizing is two products with banded matrices, block by block; nothing larger than a band is made.
    """
    rows, columns = segments.frame.axes(segments.masks)
    reaches = (segments.masks > above).any(2)
    first = reaches.int().argmax(1)
    last = (reaches.shape[1] - 1 - reaches.flip(1).int().argmax(1)).masked_fill(~reaches.any(1), -1)
    for start in range(0, len(rows), BAND_ROWS):
        stop = min(len(rows), start + BAND_ROWS)
        cells = rows.cells(start, stop)
        chosen = ((first < cells.stop) & (last >= cells.start)).nonzero()[:, 0]
        if not len(chosen):
            continue
        wide = torch.matmul(rows.weights[start:stop, cells], segments.masks[chosen, cells].float()).flatten(0, 1)
        values = wide.new_empty((len(wide), len(columns)))
        for left in range(0, len(columns), BLOCK_COLUMNS):
            right = min(len(columns), left + BLOCK_COLUMNS)
            reads = columns.cells(left, right)
            torch.mm(wide[:, reads], columns.weights[left:right, reads].T, out=values[:, left:right])
        yield slice(start, stop), chosen, values.view(len(chosen), stop - start, -1)


@dataclass(frozen=True)
class Covered:
    """Which things cover which pixels (N things, K pixels that several cover, U different sets of things there)."""

    areas: npt.NDArray[np.int64]
    """[N] pixels of each thing's mask."""
    only: npt.NDArray[np.int32]
    """[H, W] the one thing that covers a pixel, counted from 1; 0 where none or several do."""
    shared: npt.NDArray[np.int64]
    """[K] flat positions of the pixels that several cover."""
    pattern: npt.NDArray[np.int64]
    """[K] which of the sets."""
    patterns: npt.NDArray[np.bool_]
    """[U, N] the things of each set."""
    counts: npt.NDArray[np.int64]
    """[U] its pixels."""


def cover(things: Segments, threshold: float) -> Covered:
    """Restore the things' masks and note what covers each pixel: the thing where it is one, a set where several do."""
    N, (H, W), device = len(things), things.frame.original, things.masks.device
    codes = _codes(N, device)
    areas = torch.zeros(N, dtype=torch.long, device=device)
    only = torch.zeros((H, W), dtype=torch.int32, device=device)
    places, planes = [areas.new_zeros(0)], [areas.new_zeros((len(codes) - 2, 0))]
    for rows, chosen, values in _bands(things, threshold):
        inside = values.gt_(threshold).flatten(1)
        areas[chosen] += inside.sum(1).long()
        sums = codes[:, chosen] @ inside  # exact: whole numbers below 2^24
        shared = (sums[0] > 1).nonzero()[:, 0]
        only[rows] = (sums[1] * (sums[0] == 1)).view(-1, W).int()
        places.append(shared + rows.start * W)
        planes.append(sums[2:, shared].long())
    patterns, pattern, counts = _different(torch.cat(planes, dim=1))
    bits = torch.arange(PLANE, device=device)
    members = ((patterns[:, None] >> bits[:, None]) & 1).flatten(0, 1)[:N].T.bool()
    return Covered(*(t.cpu().numpy() for t in (areas, only, torch.cat(places), pattern, members, counts)))


def _codes(count: int, device: torch.device) -> Float[Tensor, "codes N"]:
    """Return rows whose sums over a pixel's things are their number, their places from 1, and sets of bits."""
    place = torch.arange(count, device=device)
    plane = torch.arange(-(-count // PLANE), device=device)[:, None]
    bits = torch.where(place // PLANE == plane, 2.0 ** (place % PLANE), 0.0)
    return torch.cat([torch.ones((1, count), device=device), place[None] + 1.0, bits])


def _different(planes: Int[Tensor, "planes K"]) -> tuple[Int[Tensor, "planes U"], Int[Tensor, "K"], Int[Tensor, "U"]]:
    """Return the different columns, which of them each column is, and how often each occurs."""
    code = planes.new_zeros(planes.shape[1])
    for plane in planes:
        code = torch.unique((code << PLANE) + plane, return_inverse=True)[1]
    counts = torch.bincount(code)
    different = planes.new_zeros((len(planes), len(counts)))
    different[:, code] = planes
    return different, code, counts


def accepted_things(
    areas: npt.NDArray[np.int64], patterns: npt.NDArray[np.bool_], counts: npt.NDArray[np.int64], overlap: float
) -> npt.NDArray[np.bool_]:
    """Return which of N things stay: those of whose pixels at most a share `overlap` belongs to earlier ones that stay.

    `areas` [N] are their pixels; `patterns` [U, N] the sets of things that share pixels, `counts` [U] how many. Whether
    a thing stays hangs on earlier ones alone, so each round of asking all at once settles one more, and the answer
    that no longer changes is that of asking them one after the other; mostly it takes two or three rounds.
    """
    accepted = areas > 0
    while True:
        taken = taken_pixels(patterns, counts, accepted)
        stays = (areas > 0) & (taken / np.maximum(areas, 1) <= overlap)
        if (stays == accepted).all():
            return stays
        accepted = stays


def taken_pixels(
    patterns: npt.NDArray[np.bool_], counts: npt.NDArray[np.int64], accepted: npt.NDArray[np.bool_]
) -> npt.NDArray[np.int64]:
    """Return how many pixels of each of N things earlier ones have, of those that are `accepted` [N].

    `patterns` [U, N] and `counts` [U] are those of `accepted_things`.
    """
    owner = _owners(patterns, accepted)
    taken: npt.NDArray[np.int64] = counts @ (patterns & (owner[:, None] < np.arange(len(accepted))))
    return taken


def _owners(patterns: npt.NDArray[np.bool_], accepted: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Return the first thing of each set that stays; their number where none does."""
    none = np.ones((len(patterns), 1), dtype=bool)
    first: npt.NDArray[np.int64] = np.concatenate([patterns & accepted, none], axis=1).argmax(axis=1)
    return first


def _pasted(covered: Covered, accepted: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
    """Return the ids of the accepted things, 1, 2, ... in their order, where each lies before the later ones."""
    id_of = np.zeros(len(accepted) + 1, dtype=np.int32)
    id_of[:-1][accepted] = np.arange(1, accepted.sum() + 1)
    ids = np.concatenate([id_of[-1:], id_of[:-1]])[covered.only]
    ids.reshape(-1)[covered.shared] = id_of[_owners(covered.patterns, accepted)][covered.pattern]
    return ids


def best_of_stuff(stuff: Segments) -> npt.NDArray[np.int16]:
    """Return the row of each pixel's highest probability, counted from 1; the first wins a tie, 0 where all are 0.

    Sure probabilities differ by their last bits alone, so they are resized by torch's own roundings, not in bands.
    """
    best = stuff.masks.new_zeros(stuff.frame.original)
    winner = torch.zeros_like(best, dtype=torch.int16)
    falling = torch.arange(len(stuff), 0, -1.0, device=winner.device)[:, None, None]
    start = 0
    for chunk in restore_in_chunks(stuff, STUFF_PIXELS):
        highest = chunk.amax(0)
        first = chunk.eq_(highest).mul_(falling[start : start + len(chunk)]).amax(0)  # max(0) is far slower
        winner = torch.where(highest > best, (len(stuff) + 1 - first).to(torch.int16), winner)
        best = torch.maximum(best, highest)
        start += len(chunk)
    return winner.cpu().numpy()


# ---- by argmax


@dataclass(frozen=True, eq=False)
class Round:
    """One round of a merge by argmax: the pixels are dealt among `rows`, of which some are too small and drop out."""

    rows: list[int]
    """That compete."""
    owner: npt.NDArray[np.int64]
    """The row of each pixel's largest logit, at the resized picture's size; changed by the next round."""
    whole: npt.NDArray[np.int64]
    """The row whose segment each pixel of the picture is in."""
    areas: npt.NDArray[np.int64]
    """[N] pixels of each row's segment in `whole`."""
    left: list[int]
    """Rows that are segments and large enough."""


def merge_by_argmax(segments: Segments, categories: Categories, min_area: int) -> Panoptic:
    """Give each pixel to the segment of the largest logit; stuff of one class is one segment.

    That is done at the resized picture's size, and brought to picture size by nearest neighbours. Then segments of
    `min_area` pixels or fewer are dropped, and their pixels go to the best of the rest, until none is. Ids rise in the
    order of the rows; the first row wins a tie (Carion et al. 2020, section 4.4).
    """
    return _map_of_last(rounds_by_argmax(segments, categories, min_area), segments, categories)


def rounds_by_argmax(segments: Segments, categories: Categories, min_area: int) -> Iterator[Round]:
    """Yield the rounds of `merge_by_argmax`; none where there are no rows."""
    first = np.array(first_of_class(segments.labels.tolist(), categories), dtype=np.int64)
    rows = list(range(len(segments)))
    resized = at_resized_size(segments)
    owner = _winners(resized, rows)
    while rows:
        whole = nearest_rows(first[owner], segments.frame.original)
        areas = np.bincount(whole.reshape(-1), minlength=len(segments))
        left = sorted({*first[rows].tolist()})
        tiny = [row for row in left if areas[row] <= min_area]
        yield Round(rows, owner, whole, areas, [row for row in left if row not in tiny])
        if not tiny:
            return
        rows = [row for row in rows if first[row] not in tiny]
        freed = np.isin(first[owner], tiny)
        if rows and freed.any():
            owner[freed] = _winners(resized, rows)[freed]


def merge_by_argmax_as_released(segments: Segments, categories: Categories, min_area: int) -> Panoptic:
    """Merge as the released code of DETR does, its fault included: merged stuff loses its pixels in the second round.

    Rows that merging has emptied are dropped like tiny ones, and what they had won is dealt again among the rest.
    """
    return _map_of_last(rounds_by_argmax_as_released(segments, categories, min_area), segments, categories)


def rounds_by_argmax_as_released(segments: Segments, categories: Categories, min_area: int) -> Iterator[Round]:
    """Yield the rounds of `merge_by_argmax_as_released`; none where there are no rows."""
    rows = list(range(len(segments)))
    first = first_of_class(segments.labels.tolist(), categories)
    resized = at_resized_size(segments)
    while rows:
        owner = _winners(resized, rows)
        # the first round alone merges stuff
        merged = np.array(first, dtype=np.int64)[owner] if len(rows) == len(first) else owner
        whole = nearest_rows(merged, segments.frame.original)
        areas = np.bincount(whole.reshape(-1), minlength=len(first))
        left = [row for row in rows if areas[row] > min_area]
        yield Round(rows, owner, whole, areas, left)
        if left == rows:
            return
        rows = left


def _map_of_last(rounds: Iterator[Round], segments: Segments, categories: Categories) -> Panoptic:
    last: Round | None = None
    for last in rounds:  # noqa: B007 - only the last round counts
        pass
    if last is None or not last.left:
        return Panoptic(np.zeros(segments.frame.original, dtype=np.int32), (), categories)
    return _numbered(segments, categories, last)


def at_resized_size(segments: Segments) -> Segments:
    """Return segments that are restored to the resized picture's size instead of the picture's own."""
    frame = Frame(segments.frame.canvas, segments.frame.size, segments.frame.size)
    return Segments(segments.masks, segments.labels, segments.scores, frame)


def first_of_class(labels: Sequence[int], categories: Categories) -> list[int]:
    """Return for each row the first row of its class if that is stuff, else the row itself."""
    return [row if categories.things[label] else labels.index(label) for row, label in enumerate(labels)]


def _winners(segments: Segments, rows: Sequence[int]) -> npt.NDArray[np.int64]:
    """Return the row of the largest value of each pixel at picture size, among some rows; the first wins a tie."""
    size = segments.frame.original
    best: Tensor | None = None
    winner = torch.zeros(size, dtype=torch.long, device=segments.masks.device)
    start = 0
    for chunk in restore_in_chunks(segments.pick(rows)):
        value, row = chunk.max(dim=0)
        if best is None:
            best, winner = value, row
        else:
            better = value > best
            best, winner = torch.where(better, value, best), torch.where(better, row + start, winner)
        start += len(chunk)
    return np.array(rows, dtype=np.int64)[winner.cpu().numpy()] if rows else winner.cpu().numpy()


def nearest_rows(rows: npt.NDArray[np.int64], size: Size) -> npt.NDArray[np.int64]:
    """Return a map of rows brought to another size by nearest neighbours."""
    if rows.shape == size:
        return rows
    image = Image.fromarray(rows.astype(np.int32)).resize((size[1], size[0]), Image.Resampling.NEAREST)
    return np.asarray(image).astype(np.int64)


def _numbered(segments: Segments, categories: Categories, last: Round) -> Panoptic:
    """Return the panoptic map of the last round; the segments that are left get the ids 1, 2, ..."""
    ids = np.zeros(len(segments), dtype=np.int32)
    ids[last.left] = np.arange(1, len(last.left) + 1)
    labels, scores = segments.labels.tolist(), segments.scores.tolist()
    final = tuple(
        Segment(int(ids[row]), labels[row], int(last.areas[row]), min(1.0, scores[row]), source=row)
        for row in last.left
    )
    return Panoptic(ids[last.whole], final, categories)
