"""All measures of a prediction in one pass."""

from collections.abc import Sequence
from pathlib import Path

from thingstuff.errors import InputError
from thingstuff.evaluation.pq import PQAccumulator, PQResult, Progress
from thingstuff.panoptic import Panoptic


def evaluate(
    gt: str | Path | Sequence[Panoptic],
    pred: str | Path | Sequence[Panoptic],
    gt_folder: str | Path | None = None,
    pred_folder: str | Path | None = None,
    like_panopticapi: bool = False,
    progress: Progress | None = None,
) -> PQResult:
    """Score predictions against ground truth: two COCO panoptic JSON files, or two lists of `Panoptic` in one order.

    For files, see `pq_files.score_files`; lists are compared strictly, and folders and leniency are refused there.
    """
    if isinstance(gt, str | Path) and isinstance(pred, str | Path):
        from thingstuff.evaluation.pq_files import score_files

        return score_files(gt, pred, gt_folder, pred_folder, like_panopticapi, progress).result()
    if isinstance(gt, str | Path) or isinstance(pred, str | Path) or gt_folder or pred_folder or like_panopticapi:
        raise InputError("give two JSON files, or two lists of Panoptic without folders and like_panopticapi")
    if len(gt) != len(pred) or not gt:
        raise InputError(f"{len(gt)} maps of ground truth and {len(pred)} predictions: give one for one, at least one")
    scores = PQAccumulator(gt[0].categories)
    for done, (truth, prediction) in enumerate(zip(gt, pred, strict=True), 1):
        scores.add(truth, prediction)
        if progress:
            progress(done, len(gt))
    return scores.result()
