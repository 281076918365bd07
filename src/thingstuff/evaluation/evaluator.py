"""All measures of a prediction in one pass, from files or in memory, and several predictions side by side."""

from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np

from thingstuff.errors import InputError
from thingstuff.evaluation.average_precision import APResult, InstanceAccumulator
from thingstuff.evaluation.comparing import Comparison, compare_sums
from thingstuff.evaluation.errors import ErrorAccumulator
from thingstuff.evaluation.instance_files import instances_from_results
from thingstuff.evaluation.miou import ClassPixels, SemanticAccumulator
from thingstuff.evaluation.pairs import compare_maps
from thingstuff.evaluation.picture_sums import PictureLines, PictureSums, picture_lines
from thingstuff.evaluation.pq import PQAccumulator, Progress
from thingstuff.evaluation.pq_files import ADVICE, ScoredPairs, scored_pairs
from thingstuff.evaluation.problems import EvaluationProblemsError, Problem, ProblemFile, Problems
from thingstuff.evaluation.result import Evaluation
from thingstuff.evaluation.segments import ScoredPicture
from thingstuff.io import read_id_map
from thingstuff.loops import compiled_loops
from thingstuff.panoptic import Categories, Panoptic, Segment

Source = str | Path | Sequence[Panoptic]
"""A COCO panoptic JSON, or maps in memory."""


class Evaluator:
    """Adds up compared pictures to every measure at once, in flat memory.

    With `boundary` pictures carry Boundary PQ's matching; `lines` is told each picture's sums as it comes.
    """

    def __init__(
        self, categories: Categories, boundary: bool = False, lines: PictureLines | None = None, worst: int = 20
    ) -> None:
        self.categories = categories
        self._pq = PQAccumulator(categories, keep=False)
        self._boundary = PQAccumulator(categories, keep=False) if boundary else None
        self._pixels = ClassPixels(categories)
        self._semantic = SemanticAccumulator(categories, self._pixels)
        self._errors = ErrorAccumulator(categories, worst, self._pixels)
        self._sums = PictureSums(categories)
        self._lines = lines

    def add(self, picture: ScoredPicture) -> None:
        """Add one picture."""
        self._pq.add_matches(picture.image_id, picture.matches)
        if self._boundary is not None:
            assert picture.boundary is not None
            self._boundary.add_matches(picture.image_id, picture.boundary)
        self._pixels.add(picture)
        self._semantic.add(picture)
        self._errors.add(picture)
        self._sums.add(picture)
        if self._lines is not None:
            self._lines.add(picture)

    def result(
        self, ap: APResult | None = None, left_out: Sequence[Problem] = (), total: int | None = None
    ) -> Evaluation:
        """Return the result over the pictures so far, with what was measured and told elsewhere.

        `total` are the pictures of the ground truth, those so far if not given.
        """
        pq = self._pq.result()
        boundary = self._boundary.result() if self._boundary is not None else None
        left = tuple(left_out)
        errors, worst = self._errors.result(pq), self._errors.worst_pictures()
        total = pq.pictures if total is None else total
        return Evaluation(pq, self._semantic.result(), errors, total, boundary, ap, left, self._sums, worst)


def evaluate(
    gt: Source,
    pred: Source,
    gt_folder: str | Path | None = None,
    pred_folder: str | Path | None = None,
    *,
    like_panopticapi: bool = False,
    lenient: bool = False,
    boundary: bool = False,
    leave_out_filled: bool = False,
    instances: str | Path | None = None,
    per_picture: str | Path | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Score a prediction against ground truth: two COCO panoptic JSON files, or two lists of `Panoptic` in one order.

    A folder of PNGs defaults to the JSON's path without .json, else to panoptic/ beside it. Files are checked as they
    are scored: strictly, one `EvaluationProblemsError` (an `InputError`) lists all that is wrong with them; `lenient`
    scores what can be scored and tells what it left out (docs/evaluation.md); `like_panopticapi` takes and refuses
    what panopticapi does. `leave_out_filled` takes what a model filled into the ground truth (`thingstuff convert
    --fill-stuff-with`) for void. `boundary` adds Boundary PQ, `instances` (a COCO results JSON) AP of the things.
    `per_picture` streams every picture's sums to a new file, a JSON line each. `threads` defaults to all cores.
    `progress` is told (pictures done, of how many). Of lists, areas are counted; what speaks of files is refused there.
    """
    refuse_other_sources({"gt": gt, "pred": pred})
    if not isinstance(gt, str | Path) and not isinstance(pred, str | Path):
        if gt_folder or pred_folder or like_panopticapi or lenient or leave_out_filled or instances or threads:
            alone = "folders, like_panopticapi, lenient, leave_out_filled, instances and threads"
            raise InputError(f"two lists of Panoptic without {alone}, which are for files")
        return _evaluate_maps(gt, pred, boundary, per_picture, progress)
    if not isinstance(gt, str | Path) or not isinstance(pred, str | Path):
        raise InputError("give two JSON files, or two lists of Panoptic")
    for path in (gt, pred):
        refuse_binary(path)
    how = {"lenient": lenient, "like_panopticapi": like_panopticapi, "boundary": boundary}
    how["leave_out_filled"] = leave_out_filled
    with closing(scored_pairs(gt, pred, gt_folder, pred_folder, **how, threads=threads, progress=progress)) as pairs:
        return evaluate_pairs(pairs, boundary, instances, per_picture, lenient)


def refuse_other_sources(sources: Mapping[str, object]) -> None:
    """Raise `InputError` for an argument, given by its name, that is neither a JSON's path nor a list of maps."""
    for name, source in sources.items():
        if isinstance(source, str | Path):
            continue
        strange = f"is of type {type(source).__name__}"
        if isinstance(source, Sequence):
            kinds = [(i, type(entry).__name__) for i, entry in enumerate(source) if not isinstance(entry, Panoptic)]
            if not kinds:
                continue
            strange = "holds at [{}] what is of type {}".format(*kinds[0])
        raise InputError(f"{name} {strange}; give two JSON files, or two lists of Panoptic")


def refuse_binary(path: str | Path) -> None:
    """Raise `InputError` where a file is a picture, or anything else that is no text, in the place of a JSON."""
    if not Path(path).is_file():  # said in other words, where it is opened
        return
    with Path(path).open("rb") as file:
        head = file.read(16)
    if head.startswith((BOM_UTF8, BOM_UTF16_LE, BOM_UTF16_BE)):  # text, of whichever encoding
        return
    if b"\0" in head or head[:1] >= b"\x80":
        folder = "the PNGs' folder is gt_folder or pred_folder (--gt-folder, --pred-folder)"
        raise InputError(f"{path} is a picture or another binary file, no JSON; give a COCO panoptic JSON: {folder}")


def evaluate_pairs(
    pairs: ScoredPairs,
    boundary: bool = False,
    instances: str | Path | None = None,
    per_picture: str | Path | None = None,
    lenient: bool = False,
) -> Evaluation:
    """Score the pictures of two files that `scored_pairs` opened; see `evaluate`."""
    if instances is not None and not Path(instances).is_file():  # it is read last, when the pictures' sizes are known
        raise InputError(f"{instances} is not there; give the path of a COCO results JSON")
    things = InstanceAccumulator(pairs.categories) if instances is not None else None
    with picture_lines(per_picture) as lines:
        evaluator = Evaluator(pairs.categories, boundary, lines)
        for picture in pairs:
            evaluator.add(picture)
            if things is not None:
                path = pairs.paths(picture.image_id).truth
                things.add_truth(picture.image_id, read_truth(picture, path, pairs.categories))
        ap = None
        if things is not None and instances is not None:
            _add_instances(things, Path(instances), pairs.problems, lenient)
            ap = things.result()
    return evaluator.result(ap, tuple(pairs.problems), pairs.total)


def _add_instances(things: InstanceAccumulator, path: Path, problems: Problems, lenient: bool) -> None:
    faults: list[str] = []
    instances = instances_from_results(path, things.categories, things.sizes, faults)
    for image_id, found in instances.items():
        things.add_encoded(image_id, found)
    tell = ProblemFile(problems, path)
    for fault in faults:
        tell("faulty instance", fault.removeprefix(f"{path}: "))
    if faults and not lenient:
        heading = f"{path} cannot be scored: {problems.count()}"
        raise EvaluationProblemsError(heading, problems, ADVICE)
    if not instances:
        tell("no instances", f"its list has {'no entry that can be used' if faults else 'no entry'}")


def read_truth(picture: ScoredPicture, path: Path, categories: Categories) -> Panoptic:
    """Read a scored picture's ground truth again, with the segments that took part; the rest is void."""
    listed = {i: (t.category_id, t.iscrowd) for i, t in picture.truths.items()}
    return _read_map(path, listed, picture.areas[0], categories)


def read_prediction(picture: ScoredPicture, path: Path, categories: Categories) -> Panoptic:
    """Read a scored picture's prediction again, with the segments that took part; the rest is void."""
    listed = {i: (category_id, False) for i, category_id in picture.predictions.items()}
    return _read_map(path, listed, picture.areas[1], categories)


def _read_map(
    path: Path, listed: Mapping[int, tuple[int, bool]], areas: Mapping[int, int], categories: Categories
) -> Panoptic:
    segments = tuple(
        Segment(i, categories.label_of[category_id], areas[i], iscrowd=iscrowd)
        for i, (category_id, iscrowd) in listed.items()
        if category_id in categories.label_of and i in areas
    )
    ids = read_id_map(path)
    return Panoptic(np.where(np.isin(ids, [s.id for s in segments]), ids, 0), segments, categories)


def _evaluate_maps(
    gt: Sequence[Panoptic],
    pred: Sequence[Panoptic],
    boundary: bool,
    per_picture: str | Path | None,
    progress: Progress | None,
) -> Evaluation:
    if len(gt) != len(pred) or not gt:
        raise InputError(f"{len(gt)} maps of ground truth and {len(pred)} predictions: give one for one, at least one")
    compiled_loops(len(gt))
    with picture_lines(per_picture) as lines:
        evaluator = Evaluator(gt[0].categories, boundary, lines)
        for number, (truth, prediction) in enumerate(zip(gt, pred, strict=True)):
            evaluator.add(compare_maps(truth, prediction, number, evaluator.categories, boundary))
            if progress:
                progress(number + 1, len(gt))
    return evaluator.result()


class ComparedPredictions(NamedTuple):
    """Several predictions: each one's evaluation by name, and how they differ from the first."""

    evaluations: Mapping[str, Evaluation]
    comparison: Comparison


def compare(
    gt: Source,
    preds: Mapping[str, Source],
    gt_folder: str | Path | None = None,
    pred_folders: Mapping[str, str | Path] | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
    lenient: bool = False,
    like_panopticapi: bool = False,
    boundary: bool = False,
    leave_out_filled: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> ComparedPredictions:
    """Score several predictions, by name, against one ground truth, with bootstrap intervals over the pictures.

    Each is scored as by `evaluate`, which says what the other arguments are; `resamples` times the pictures are drawn
    with replacement, the same for all predictions. Raises `InputError` as `evaluate` does, for the first faulty one.
    """
    _refuse_other_names({"preds": preds, "pred_folders": pred_folders or {}})
    folders = pred_folders or {}
    strange = [name for name in folders if name not in preds]
    if strange:
        raise InputError(f"pred_folders has {strange[0]!r}, which is none of preds; give both the same names")
    evaluations = {}
    for name, pred in preds.items():
        evaluations[name] = evaluate(
            gt,
            pred,
            gt_folder,
            folders.get(name),
            like_panopticapi=like_panopticapi,
            lenient=lenient,
            boundary=boundary,
            leave_out_filled=leave_out_filled,
            threads=threads,
            progress=progress,
        )
    return ComparedPredictions(evaluations, compare_evaluations(evaluations, resamples, seed))


def _refuse_other_names(arguments: Mapping[str, object]) -> None:
    for name, value in arguments.items():
        if not isinstance(value, Mapping):
            own = type(value).__name__
            raise InputError(f"{name} is of type {own}; give a dictionary by the predictions' names: {{'a': ...}}")


def compare_evaluations(
    evaluations: Mapping[str, Evaluation], resamples: int = 1000, seed: int = 0, progress: Progress | None = None
) -> Comparison:
    """Compare evaluations of several predictions against one ground truth with the first of them.

    Raises `InputError` for one that was read from JSON, which holds no sums per picture.
    """
    sums = {name: evaluation.sums for name, evaluation in evaluations.items() if evaluation.sums is not None}
    if len(sums) != len(evaluations):
        lacking = next(name for name in evaluations if name not in sums)
        raise InputError(f"{lacking}: an evaluation read from JSON has no sums per picture; evaluate it again")
    return compare_sums(sums, resamples, seed, progress)
