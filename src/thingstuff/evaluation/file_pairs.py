"""One picture of two COCO panoptic files: its maps read, every fault found, and what can be scored compared.

Letters: H W pixels of a picture.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32

from thingstuff.evaluation.counting import overlaps
from thingstuff.evaluation.file_categories import FileCategories
from thingstuff.evaluation.picture_index import FilePair
from thingstuff.evaluation.picture_side import PictureSide, SideFiles
from thingstuff.evaluation.problems import Problem
from thingstuff.evaluation.segments import (
    Areas,
    ImageId,
    Overlaps,
    ScoredPicture,
    TruthSegment,
    match_segments,
    segment_areas,
)
from thingstuff.io import Size

CALLS = 3
"""Of loops over pixels that a pair needs: two maps read, their pairs of ids counted."""


class PairPaths(NamedTuple):
    """Where a picture's two maps lie, and its own file name where the ground truth's `images` has a usable one."""

    truth: Path
    prediction: Path
    picture: str | None


class ComparedPair(NamedTuple):
    """A picture's comparison (None where it was left out), its faults, and how many segments its JSONs list.

    `filled` are those of the ground truth that were left out because a model filled them in.
    """

    image_id: ImageId
    picture: ScoredPicture | None
    problems: list[Problem]
    annotated: int
    predicted: int
    filled: int = 0


@dataclass(frozen=True)
class PairComparison:
    """How pictures of two files are compared: what has a fault is left out as narrowly as can be, and told.

    With `leave_out_filled`, what a model filled into the ground truth is void.
    """

    truth: SideFiles
    prediction: SideFiles
    classes: FileCategories
    boundary: bool
    leave_out_filled: bool = False

    def __call__(self, pair: FilePair) -> ComparedPair:
        """Compare one picture; `ScoredPicture` where there is anything to compare, areas as counted in the maps.

        Raises `InputError` where a JSON was changed since it was indexed.
        """
        problems: list[Problem] = []
        truth = PictureSide(self.truth, pair.image_id, self.classes, problems, is_truth=True)
        prediction = PictureSide(self.prediction, pair.image_id, self.classes, problems, is_truth=False)
        truth.read(pair.truth)
        if pair.prediction is None:
            prediction.problem("missing prediction", "has no prediction")
        else:
            prediction.read(pair.prediction)
        _check_sizes(truth, prediction, pair.size)
        picture, filled = None, 0
        if truth.usable and prediction.usable:
            picture, filled = self._compared(truth, prediction)
        else:
            truth.check(truth.areas())
            prediction.check(prediction.areas())
        return ComparedPair(pair.image_id, picture, problems, len(truth.infos), len(prediction.infos), filled)

    def _compared(self, truth: PictureSide, prediction: PictureSide) -> tuple[ScoredPicture | None, int]:
        assert truth.ids is not None
        assert prediction.ids is not None
        maps = truth.ids, prediction.ids
        shared = overlaps(*maps)
        areas = segment_areas(shared)
        truth.check(areas[0])
        prediction.check(areas[1])
        if not (truth.fits and prediction.fits):
            return None, 0
        filled = truth.leave_out_filled() if self.leave_out_filled else 0
        voided = truth.voided(areas[0]), prediction.voided(areas[1])
        if any(voided):
            maps = _blanked(truth.ids, voided[0]), _blanked(prediction.ids, voided[1])
            shared = overlaps(*maps)
            areas = segment_areas(shared)
        predictions = {i: segment.category_id for i, segment in prediction.segments.items()}
        picture = scored(truth.image_id, maps, truth.segments, predictions, shared, areas, self.boundary)
        return picture, filled


def scored(
    image_id: ImageId,
    maps: tuple[Int32[np.ndarray, "H W"], Int32[np.ndarray, "H W"]],
    truths: Mapping[int, TruthSegment],
    predictions: Mapping[int, int],
    shared: Overlaps,
    areas: Areas,
    boundary: bool,
) -> ScoredPicture:
    """Match the segments of two maps [H, W], of the ground truth and of the prediction, that share `shared`."""
    matches = match_segments(shared, truths, predictions, areas[1])
    if not boundary:
        return ScoredPicture(image_id, shared, truths, predictions, matches, counted=areas)
    from thingstuff.evaluation.boundary import boundary_matches

    own = boundary_matches(*maps, truths, predictions, shared)
    return ScoredPicture(image_id, shared, truths, predictions, matches, own, areas)


def _check_sizes(truth: PictureSide, prediction: PictureSide, stated: Size | None) -> None:
    """Tell of maps that have another size than they should have."""
    wanted, of = stated, "by the ground truth's images"
    if truth.ids is not None:
        truth.check_size(stated, of)
        wanted, of = (truth.ids.shape[0], truth.ids.shape[1]), "in the ground truth's map"
    prediction.check_size(wanted, of)


def _blanked(ids: Int32[np.ndarray, "H W"], voided: Iterable[int]) -> Int32[np.ndarray, "H W"]:
    return np.where(np.isin(ids, list(voided)), np.int32(0), ids).astype(np.int32)
