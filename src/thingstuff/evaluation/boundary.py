"""Boundary PQ (Cheng et al., Boundary IoU, CVPR 2021): PQ that asks for exact outlines too.

Letters: H W pixels of a picture.
"""

import itertools
import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import Int32, Integer

from thingstuff.evaluation.counting import overlaps
from thingstuff.evaluation.segments import (
    Match,
    Overlaps,
    PictureMatches,
    TruthSegment,
    match_segments,
    segment_areas,
)
from thingstuff.loops import compiled_loops

BOUNDARY_RATIO = 0.02
"""Width of a boundary over the picture's diagonal: the authors' for COCO."""


def boundary_matches(
    truth_ids: Integer[np.ndarray, "H W"],
    predicted_ids: Integer[np.ndarray, "H W"],
    truths: Mapping[int, TruthSegment],
    predictions: Mapping[int, int],
    shared: Overlaps,
) -> PictureMatches:
    """Match one picture's segments by the smaller of mask IoU and boundary IoU; their PQ is Boundary PQ.

    The ids of two maps [H, W], their segments and what they share, as `match_segments` takes them. The paper takes the
    minimum of both IoUs for the match (> 0.5) and for the sum; where it leaves a choice, this is what the authors'
    boundary_iou_api computes for COCO. A segment's boundary is what `boundary_map` keeps of it. As void pixels of the
    prediction are left out of the masks' union, those of its boundary are left out of the boundaries'. Which unmatched
    predictions are ignored is asked of whole masks, as in PQ. Not followed: the authors repaint interior pixels with
    the largest category_id + 1, and so count the interiors of all segments to one that has this number for its id.
    """
    matches = match_segments(shared, truths, predictions)
    edges = _boundary_overlaps(truth_ids, predicted_ids, shared) if matches.matched else {}
    truth_areas, predicted_areas = segment_areas(edges)
    kept = []
    for match in matches.matched:
        truth_id, predicted_id = match.truth_id, match.prediction_id
        common = edges.get((truth_id, predicted_id), 0)
        # never 0: the truth has pixels, so it has a boundary, and none of it lies in void
        union = predicted_areas[predicted_id] + truth_areas[truth_id] - common - edges.get((0, predicted_id), 0)
        iou = min(match.iou, common / union)
        if iou > 0.5:
            kept.append(Match(truth_id, predicted_id, match.category_id, iou))
    found_truths, found_predictions = {m.truth_id for m in kept}, {m.prediction_id for m in kept}
    missed = {i: t.category_id for i, t in truths.items() if not t.iscrowd and i not in found_truths}
    # against crowds alone nothing matches: what is left is PQ's rule for what is false and what is ignored
    crowds = {i: t for i, t in truths.items() if t.iscrowd}
    rest = match_segments(shared, crowds, {i: c for i, c in predictions.items() if i not in found_predictions})
    return PictureMatches(tuple(kept), missed, rest.false, rest.ignored)


def boundary_width(size: tuple[int, int]) -> int:
    """Return the width in pixels of boundaries in a picture of `size` (height, width): 2 % of its diagonal, at least 1.

    Halves go to the even number, as the authors' `round` takes them.
    """
    height, width = size
    return max(1, round(BOUNDARY_RATIO * math.sqrt(height**2 + width**2)))


def boundary_map(ids: Integer[np.ndarray, "H W"], width: int, interior: int) -> Int32[np.ndarray, "H W"]:
    """Return a map of ids [H, W] in which the `interior` id takes the place of every pixel that is in no boundary.

    A boundary is a mask less what `width` erosions by a square of 3 x 3 leave of it, the picture's rim counting as
    outside. What they leave, for all masks at once, are the pixels whose window of 2 `width` + 1 lies in the picture
    and holds one id. Void (0) stays as it is.
    """
    ids = np.ascontiguousarray(ids, dtype=np.int32)
    marked, loops = np.array(ids), compiled_loops()
    mark = loops.mark_interior if loops else _mark_interior
    mark(ids, width, interior, marked)
    return marked


def _boundary_overlaps(
    truth_ids: Integer[np.ndarray, "H W"], predicted_ids: Integer[np.ndarray, "H W"], shared: Overlaps
) -> Overlaps:
    width = boundary_width((truth_ids.shape[0], truth_ids.shape[1]))
    taken = {truth_id for truth_id, _ in shared}
    unused = next(i for i in itertools.count(1) if i not in taken)
    # void counts in the ground truth alone, so that a prediction's interior may pass for it
    return overlaps(boundary_map(truth_ids, width, unused), boundary_map(predicted_ids, width, 0))


def _mark_interior(ids: Int32[np.ndarray, "H W"], width: int, interior: int, marked: Int32[np.ndarray, "H W"]) -> None:
    (height, columns), side = ids.shape, 2 * width
    corner = ids[:-1, :-1]
    mixed = (ids[1:, 1:] != corner) | (ids[1:, :-1] != corner) | (ids[:-1, 1:] != corner)
    # a window holds one id where none of its squares of 2 x 2 is mixed; those are counted in a summed-area table
    sums = np.zeros((height, columns), dtype=np.int32)
    np.cumsum(np.cumsum(mixed, axis=0, dtype=np.int32), axis=1, out=sums[1:, 1:])
    count = sums[side:, side:] - sums[side:, :-side] - sums[:-side, side:] + sums[:-side, :-side]
    centres = marked[width : height - width, width : columns - width]
    centres[(count == 0) & (centres != 0)] = interior
