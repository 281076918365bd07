"""What `thingstuff evaluate` does: score, side by side where there are several, print the tables, write what was asked.

Loads torch only to score a model.
"""

import json
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from rich.markup import escape

from thingstuff.display import counting
from thingstuff.errors import InputError
from thingstuff.evaluation.best_pictures import KeepingBest, better_than, worst_shown
from thingstuff.evaluation.causes import segment_errors
from thingstuff.evaluation.evaluator import (
    compare_evaluations,
    evaluate_pairs,
    read_prediction,
    read_truth,
    refuse_binary,
)
from thingstuff.evaluation.pq import Progress
from thingstuff.evaluation.pq_files import ADVICE, ScoredPairs, scored_pairs
from thingstuff.evaluation.problems import EvaluationProblemsError, Problems
from thingstuff.evaluation.result import classes_table, measures_table
from thingstuff.evaluation_report import EvaluationReport, write_evaluation_report
from thingstuff.io import Size, atomic_write, finite, read_picture
from thingstuff.report_pictures import Example

if TYPE_CHECKING:
    from rich.console import Console

    from thingstuff.evaluation.comparing import Comparison
    from thingstuff.evaluation.result import Evaluation
    from thingstuff.evaluation.segments import ScoredPicture

EXAMPLES, BEST = 8, 4
"""Worst and best pictures of a report."""
Counting = Callable[[str], AbstractContextManager[Progress]]
"""Shows how far a piece of work is, given what it is."""
_OF_A_MODEL = ("data", "weights", "split", "ap", "settings")
_OF_PAIRS = ("gt", "pred", "gt_folder", "pred_folder")
_OUTPUTS = ("json", "report", "per_picture")
_OF_FILES = (*_OF_PAIRS, "instances", "pictures", "lenient", "like_panopticapi", "threads")


@dataclass(frozen=True)
class Request:
    """What to score, how, and what to write: the options of `thingstuff evaluate`, by their names there."""

    data: str | None = None
    weights: Path | None = None
    split: str = "val"
    ap: bool = False
    settings: Sequence[str] | None = None
    gt: Path | None = None
    pred: Sequence[Path] | None = None
    gt_folder: Path | None = None
    pred_folder: Sequence[Path] | None = None
    instances: Path | None = None
    pictures: Path | None = None
    lenient: bool = False
    like_panopticapi: bool = False
    threads: int | None = None
    boundary: bool = False
    leave_out_filled: bool = False
    per_class: bool = False
    why: bool = False
    json: Path | None = None
    report: Path | None = None
    per_picture: Path | None = None

    def check(self) -> None:
        """Raise `InputError` where the options do not go together, or a file to write is there already."""
        self._check_way()
        self._check_outputs()
        self._check_files(self.pred or (), self.pred_folder or ())

    def _check_way(self) -> None:
        model, files = self._given(_OF_A_MODEL), self._given(_OF_FILES)
        ways = "give either DATA --weights RUN (a model) or --gt FILE --pred FILE (files), each with its own options"
        if model and files:
            words = f"{', '.join(model)} {'is' if len(model) == 1 else 'are'} for a model"
            raise InputError(f"{words}, {', '.join(files)} for files; {ways}")
        needed = ("data", "weights") if model else ("gt", "pred")
        lacking = [_flag(name) for name in needed if not getattr(self, name)]
        if lacking:
            raise InputError(f"{' and '.join(lacking)} {'is' if len(lacking) == 1 else 'are'} missing; {ways}")
        if self.lenient and self.like_panopticapi:
            raise InputError("--lenient and --like-panopticapi are two ways to take faulty files; choose one of them")
        if self.leave_out_filled and self.like_panopticapi:
            raise InputError("panopticapi knows no filled segments: leave out --like-panopticapi or --leave-out-filled")

    def _given(self, names: Sequence[str]) -> list[str]:
        """Return those of the options that were given, as a user writes them."""
        unset = {option.name: option.default for option in fields(self)}
        return [_flag(name) for name in names if getattr(self, name) and getattr(self, name) != unset[name]]

    def _check_outputs(self) -> None:
        options: dict[Path, str] = {}
        for name in _OUTPUTS:
            path: Path | None = getattr(self, name)
            if path is None:
                continue
            wrong = None
            if str(path) == "-":
                wrong = "is no file's name (nothing is written to a pipe)"
            elif path.exists():
                wrong = "is there already"
            elif not path.parent.is_dir():
                wrong = "lies in no folder"
            elif not os.access(path.parent, os.W_OK | os.X_OK):
                wrong = f"cannot be written: {path.parent} may not be written to"
            elif path in options:
                wrong = f"is the {options[path]} file too"
            if wrong:
                raise InputError(f"{path} {wrong}; give another {_flag(name)} file")
            options[path] = _flag(name)

    def _check_files(self, preds: Sequence[Path], folders: Sequence[Path]) -> None:
        # of several predictions, the last is opened when the others are scored
        for path in (*([self.gt] if self.gt else []), *preds):
            if not path.is_file():
                wrong = "is a folder" if path.is_dir() else "is not there"
                raise InputError(f"{path} {wrong}; give the path of a COCO panoptic JSON")
            refuse_binary(path)
        for folder in (*([self.gt_folder] if self.gt_folder else []), *folders):
            if not folder.is_dir():
                raise InputError(f"{folder} is no folder; give the folder of the PNGs")
        if folders and len(folders) != len(preds):
            raise InputError(f"{len(preds)} --pred and {len(folders)} --pred-folder: give one folder for each, or none")
        if len(set(preds)) != len(preds):
            raise InputError("a file stands twice among the --pred; give each prediction once")
        single = {"--instances": self.instances, "--per-picture": self.per_picture, "--report": self.report}
        given = [option for option, value in single.items() if value is not None]
        if len(preds) > 1 and given:
            raise InputError(f"{given[0]} is for one prediction; give one --pred, or leave it out")
        if self.pictures is not None and self.report is None:
            raise InputError("--pictures are shown in a report; give --report FILE, or leave them out")
        if self.pictures is not None and not self.pictures.is_dir():
            raise InputError(f"{self.pictures} is no folder; give the folder of the pictures")

    @property
    def written(self) -> list[Path]:
        """Which of the files it asks for are there."""
        paths: list[Path | None] = [getattr(self, name) for name in _OUTPUTS]
        return [path for path in paths if path is not None and path.exists()]

    @property
    def command(self) -> str:
        """The command that scores so again, and writes its files under other names."""
        words = ["thingstuff", "evaluate", *([self.data] if self.data else [])]
        for option in fields(self):
            value = getattr(self, option.name)
            if option.name == "data" or value in (None, False, option.default):
                continue
            if option.name in _OUTPUTS:
                value = value.with_name(f"{value.stem}-again{value.suffix}")  # a file there already is refused
            flag = _flag(option.name)
            values = value if isinstance(value, (list, tuple)) else [value]
            words += [flag] if value is True else [word for v in values for word in (flag, str(v))]
        return shlex.join(words)


@dataclass(frozen=True)
class Scores:
    """Evaluations by the short names of their predictions, their comparison where there are several, and a report."""

    evaluations: "Mapping[str, Evaluation]"
    comparison: "Comparison | None" = None
    report: EvaluationReport | None = None

    def to_json(self) -> dict[str, Any]:
        """Return them as plain JSON values; a single evaluation as it is."""
        if self.comparison is None:
            (evaluation,) = self.evaluations.values()
            return evaluation.to_json()
        found = {name: evaluation.to_json() for name, evaluation in self.evaluations.items()}
        return {"predictions": found, "comparison": self.comparison.to_json()}


def run(request: Request, console: "Console") -> None:
    """Do what `thingstuff evaluate` was asked for: score, print, write.

    Raises `InputError` where the options do not go together, and as `evaluate` does; of files that cannot be scored,
    all problems are written to the JSON that was asked for.
    """
    request.check()
    try:
        if request.gt is not None:
            scores = evaluate_files(request, lambda what: counting(console, escape(what)))
        else:
            from thingstuff.model_evaluation import evaluate_as_asked

            with counting(console, "predicting") as progress:
                evaluation, report = evaluate_as_asked(request, progress)
                scores = Scores({str(request.weights): evaluation}, report=report)
    except EvaluationProblemsError as error:
        if request.json is not None:
            problems = {"scored": False, "problems": error.problems.to_json()}
            atomic_write(request.json, json.dumps(problems, indent=1))
        raise
    try:
        if request.json is not None:
            atomic_write(request.json, json.dumps(finite(scores.to_json()), indent=1, allow_nan=False))
        if request.report is not None and scores.report is not None:
            write_evaluation_report(request.report, scores.report)
    finally:  # a full disk takes not the tables, a reader that reads no further not the file
        show(console, scores, request.per_class, request.why)


def evaluate_files(request: Request, counting: Counting) -> Scores:
    """Score prediction files, write the sums per picture that a request asks for, and make its report ready.

    Raises `InputError` as `evaluate` does; of several predictions, the problems of all are told.
    """
    names = short_names(tuple(request.pred or ()))
    evaluations, faulty, report = {}, [], None
    for position, name in enumerate(names):
        try:
            with counting("comparing" if len(names) == 1 else f"comparing {name}") as progress:
                evaluations[name], report = _evaluate_one(request, position, progress)
        except EvaluationProblemsError as error:
            faulty.append(error)
    if faulty:
        raise faulty[0] if len(faulty) == 1 else _joined(faulty)
    if len(names) == 1:
        return Scores(evaluations, report=report)
    with counting("resampling") as progress:
        return Scores(evaluations, compare_evaluations(evaluations, progress=progress))


def short_names(paths: tuple[Path, ...]) -> tuple[str, ...]:
    """Return the shortest end of each path that tells it from the others, without what all have in common."""
    parts = [(path.parent / path.stem).parts for path in paths]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(p[-depth:]) for p in parts]
        if len(set(names)) == len(names):
            shared = {p[-1] for p in parts} if depth > 1 else set()
            # runs/a/panoptic.json and runs/b/panoptic.json: "a" and "b" say all there is to say
            brief = ["/".join(p[-depth:-1]) for p in parts]
            return tuple(brief if len(shared) == 1 and all(brief) and len(set(brief)) == len(brief) else names)
    return tuple(map(str, paths))


def show(console: "Console", scores: Scores, per_class: bool = False, why: bool = False) -> None:
    """Print how many pictures there are, the tables of an evaluation, and what was left out or noted.

    Of several, the comparison comes first, then each one's own tables where `per_class` or `why` asks for more.
    """
    several = scores.comparison is not None
    console.print(_pictures(scores), highlight=False, markup=False)
    if scores.comparison is not None:
        console.print(scores.comparison.table())
        if per_class:
            console.print(classes_table(scores.evaluations))
        console.print(measures_table(scores.evaluations))
    for name, evaluation in scores.evaluations.items():
        if several and (per_class or why or evaluation.left_out):
            console.print(f"\n{name}", style="bold", highlight=False, markup=False)
        if why:
            tables = evaluation.tables(per_class)
        elif per_class or not several:
            tables = evaluation.short_tables(per_class)
        else:
            tables = []
        for table in tables:
            console.print(table)
        if evaluation.left_out:
            problems = Problems(evaluation.left_out)
            head = f"left out or corrected: {problems.count()}" if problems.grave else "to note:"
            console.print(f"{head}\n{problems.text()}", highlight=False, markup=False, soft_wrap=True)


def _pictures(scores: Scores) -> str:
    """Say how many pictures were scored, or compared, of how many."""
    total = max(evaluation.total for evaluation in scores.evaluations.values())
    if scores.comparison is not None:
        taken, what = scores.comparison.pictures, "compared"
    else:
        (evaluation,) = scores.evaluations.values()
        taken, what = evaluation.pictures, "scored"
    everything = f"{total:,} picture{'s' * (total != 1)}"
    return everything if taken == total else f"{what} {taken:,} of {everything}"


def _evaluate_one(request: Request, position: int, progress: Progress) -> "tuple[Evaluation, EvaluationReport | None]":
    assert request.gt is not None
    assert request.pred is not None
    folder = request.pred_folder[position] if request.pred_folder else None
    compared = scored_pairs(
        request.gt,
        request.pred[position],
        request.gt_folder,
        folder,
        lenient=request.lenient,
        like_panopticapi=request.like_panopticapi,
        boundary=request.boundary,
        leave_out_filled=request.leave_out_filled,
        threads=request.threads,
        progress=progress,
    )
    with closing(KeepingBest(compared, BEST)) as pairs:
        evaluation = evaluate_pairs(pairs, request.boundary, request.instances, request.per_picture, request.lenient)
        if request.report is None:
            return evaluation, None
        lacking: dict[str, str] = {}
        pqs = [scored.matches.pq for scored in evaluation.worst]
        count = worst_shown(pqs, evaluation.pictures, EXAMPLES)
        worst = _examples(pairs, evaluation.worst[:count], request.pictures, lacking)
        best = _examples(pairs, pairs.best(better_than(pqs[:count])), request.pictures, lacking)
    report = EvaluationReport(
        title=f"{request.pred[position]} against {request.gt}",
        command=request.command,
        categories=pairs.categories,
        evaluation=evaluation,
        worst=worst,
        best=best,
        notes={"pictures": _lacking_note(lacking)} if lacking else {},
    )
    return evaluation, report


def _examples(
    pairs: ScoredPairs, pictures: "Sequence[ScoredPicture]", folder: Path | None, lacking: dict[str, str]
) -> list[Example]:
    """Read scored pictures again for a report; `lacking` is told which cannot be shown under their maps, and why."""
    found = []
    for scored in pictures:
        paths = pairs.paths(scored.image_id)
        truth = read_truth(scored, paths.truth, pairs.categories)
        prediction = read_prediction(scored, paths.prediction, pairs.categories)
        picture = None
        name = f"{scored.image_id}" if paths.picture is None else f"{paths.picture}"
        if folder is not None:
            try:
                picture = _read(folder, paths.picture, truth.size)
            except InputError as error:
                lacking[name] = str(error)
        errors = tuple(e for e in segment_errors(scored) if e.category_id in pairs.categories.label_of)
        found.append(Example(name, picture, truth, prediction, scored.matches.pq, errors))
    return found


def _read(folder: Path, name: object, size: Size) -> npt.NDArray[np.uint8]:
    if not isinstance(name, str):  # like panopticapi, anything may stand there
        raise InputError("the ground truth's images do not name it")
    return np.asarray(read_picture(folder / name, size))


def _lacking_note(lacking: Mapping[str, str]) -> str:
    """Tell how many pictures a report lacks, and why the first of them."""
    (name, why), *others = lacking.items()
    return f"without {name} ({why})" + (f" and {len(others)} more" if others else "")


def _flag(name: str) -> str:
    """Return an option of `Request` as a user writes it."""
    return {"data": "DATA", "settings": "--set"}.get(name, f"--{name.replace('_', '-')}")


def _joined(errors: list[EvaluationProblemsError]) -> EvaluationProblemsError:
    """Put the problems of several predictions together."""
    heading = "\n".join(str(error).splitlines()[0] for error in errors)
    problems = Problems(problem for error in errors for problem in error.problems)
    mendable = all(str(error).endswith(ADVICE) for error in errors)
    return EvaluationProblemsError(heading, problems, ADVICE if mendable else "")
