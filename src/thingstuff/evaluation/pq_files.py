"""COCO panoptic JSONs and PNGs against each other, picture by picture: strictly, leniently or as panopticapi does."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Protocol, runtime_checkable

from thingstuff.errors import InputError
from thingstuff.evaluation.file_pairs import CALLS, PairComparison, PairPaths
from thingstuff.evaluation.like_panopticapi import PairsLikePanopticapi
from thingstuff.evaluation.picture_index import PictureIndex
from thingstuff.evaluation.picture_side import SideFiles, picture_name
from thingstuff.evaluation.pq import PQAccumulator, Progress
from thingstuff.evaluation.problems import EvaluationProblemsError, ProblemFile, Problems, tell_filled
from thingstuff.evaluation.segments import ImageId, ScoredPicture
from thingstuff.evaluation.threads import in_order, thread_count
from thingstuff.io import map_folder
from thingstuff.loops import compiled_loops
from thingstuff.panoptic import Categories

ADVICE = "--lenient scores what can be scored"
"""Stands under problems that a lenient evaluation gets over."""


@runtime_checkable
class ScoredPairs(Protocol):
    """Pictures of two files compared one by one; `problems` is complete when all are."""

    categories: Categories
    problems: Problems
    total: int

    def __iter__(self) -> Iterator[ScoredPicture]:
        """Yield the pictures in the order of the ground truth's annotations."""
        ...

    def paths(self, image_id: ImageId) -> PairPaths:
        """Return where a picture's files lie."""
        ...

    def close(self) -> None:
        """Let go of the files."""
        ...


def scored_pairs(
    gt: str | Path,
    pred: str | Path,
    gt_folder: str | Path | None = None,
    pred_folder: str | Path | None = None,
    *,
    lenient: bool = False,
    like_panopticapi: bool = False,
    boundary: bool = False,
    leave_out_filled: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> ScoredPairs:
    """Open a prediction's COCO panoptic JSON and PNGs against the ground truth's, to be compared as they are asked for.

    A folder of PNGs defaults to the JSON's path without .json, else to panoptic/ beside it. `threads` defaults to all
    cores; the order does not depend on them. `progress` is told (pictures done, of how many). See `FilePairs` for
    strict and lenient, `PairsLikePanopticapi` for that. With `boundary`, Boundary PQ's matching is added; with
    `leave_out_filled`, the ground truth's segments that carry the mark "filled" are void. Raises `InputError` where a
    JSON cannot be read; close what is returned.
    """
    if lenient and like_panopticapi:
        raise InputError("lenient and like_panopticapi are two ways to take faulty files; choose one of them")
    truth = SideFiles(Path(gt), map_folder(gt, gt_folder, "gt_folder, --gt-folder"))
    prediction = SideFiles(Path(pred), map_folder(pred, pred_folder, "pred_folder, --pred-folder"))
    if like_panopticapi and leave_out_filled:
        raise InputError("panopticapi knows no filled segments; leave out like_panopticapi or leave_out_filled")
    if like_panopticapi:
        return PairsLikePanopticapi(truth, prediction, boundary, threads, progress)
    return FilePairs(truth, prediction, lenient, boundary, leave_out_filled, threads, progress)


def score_files(
    gt: str | Path,
    pred: str | Path,
    gt_folder: str | Path | None = None,
    pred_folder: str | Path | None = None,
    like_panopticapi: bool = False,
    progress: Progress | None = None,
    *,
    lenient: bool = False,
    threads: int | None = None,
) -> PQAccumulator:
    """Score a prediction's COCO panoptic JSON and PNGs against the ground truth's, as `scored_pairs` reads them.

    Raises `InputError` where a JSON cannot be read, and `EvaluationProblemsError` with whatever is wrong with the files
    (lenient: where nothing is left to score). `like_panopticapi` scores what panopticapi scores and raises `InputError`
    where it raises; of an image id that comes twice, `per_picture` keeps the last.
    """
    options = {"lenient": lenient, "like_panopticapi": like_panopticapi}
    with closing(
        scored_pairs(gt, pred, gt_folder, pred_folder, **options, threads=threads, progress=progress)
    ) as pairs:
        scores = PQAccumulator(pairs.categories)
        for picture in pairs:
            scores.add_matches(picture.image_id, picture.matches)
    return scores


class FilePairs:
    """Iterates over the pictures of two files, compared, in the order of the ground truth's annotations.

    Strict: one pass finds every problem of every picture, then `EvaluationProblemsError`; what was yielded
    before is worth nothing then. Lenient: what has a fault is left out as narrowly as the problem's kind says, and
    `EvaluationProblemsError` is raised only where nothing is left or no segment is annotated.
    """

    def __init__(
        self,
        truth: SideFiles,
        prediction: SideFiles,
        lenient: bool,
        boundary: bool,
        leave_out_filled: bool,
        threads: int | None,
        progress: Progress | None,
    ) -> None:
        self.problems = Problems()
        self._truth, self._prediction, self._lenient = truth, prediction, lenient
        self._threads, self._progress = thread_count(threads), progress
        self._index = PictureIndex(truth.json, prediction.json, self.problems)
        self._of_files = tuple(self.problems)
        self._compare = PairComparison(truth, prediction, self._index.classes, boundary, leave_out_filled)
        self.categories, self.total = self._index.classes.categories, self._index.total

    def __iter__(self) -> Iterator[ScoredPicture]:
        self.problems = Problems(self._of_files)
        compiled_loops(CALLS * self.total)
        annotated = predicted = usable = filled = 0
        for done, pair in enumerate(in_order(self._compare, self._index, self._threads), 1):
            for problem in pair.problems:
                self.problems.add(problem)
            annotated, predicted = annotated + pair.annotated, predicted + pair.predicted
            filled += pair.filled
            if self._progress:
                self._progress(done, self.total)
            if pair.picture is not None:
                usable += 1
                if self._lenient or not self.problems.grave:
                    yield pair.picture
        if self._compare.leave_out_filled:
            tell_filled(ProblemFile(self.problems, self._truth.json), filled)
        self._finish(annotated, predicted, usable)

    def paths(self, image_id: ImageId) -> PairPaths:
        """Return where a picture's two maps lie, and its file name where the ground truth's `images` has one.

        Raises `InputError` for a picture without annotation or prediction.
        """
        truth, prediction, picture = self._index.file_names(image_id)
        if truth is None or prediction is None:
            lacking = self._truth.json if truth is None else self._prediction.json
            raise InputError(f"image {image_id!r} is not in {lacking}; give the image_id of a scored picture")
        return PairPaths(self._truth.maps / truth, self._prediction.maps / prediction, picture_name(picture))

    def close(self) -> None:
        """Let go of the files."""
        self._index.close()

    def _finish(self, annotated: int, predicted: int, usable: int) -> None:
        if self.total and not annotated:
            ProblemFile(self.problems, self._truth.json)("nothing annotated", "no picture has a segment")
        if annotated and not predicted:
            ProblemFile(self.problems, self._prediction.json)("nothing predicted", "no picture has a segment")
        heading = f"{self._prediction.json} cannot be scored against {self._truth.json}: {self.problems.count()}"
        if self._lenient and not (usable and annotated):
            raise EvaluationProblemsError(f"{heading}, nothing is left to score", self.problems)
        if not self._lenient and self.problems.grave:
            raise EvaluationProblemsError(heading, self.problems, ADVICE if usable and annotated else "")
