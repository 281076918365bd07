"""What `thingstuff evaluate` does: score, side by side where there are several, print the tables, write what was asked.

Loads torch only to score a model.
"""

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from thingstuff.display import counting
from thingstuff.errors import InputError
from thingstuff.evaluation.causes import segment_errors
from thingstuff.evaluation.evaluator import compare_evaluations, evaluate_pairs, read_maps
from thingstuff.evaluation.pq import Progress
from thingstuff.evaluation.pq_files import ScoredPairs, scored_pairs
from thingstuff.evaluation.problems import EvaluationProblemsError, Problems
from thingstuff.evaluation_report import EvaluationReport, write_evaluation_report
from thingstuff.io import atomic_write, read_picture
from thingstuff.report_pictures import Example

if TYPE_CHECKING:
    from rich.console import Console

    from thingstuff.evaluation.comparing import Comparison
    from thingstuff.evaluation.result import Evaluation

EXAMPLES = 8
"""Worst pictures of a report."""
Counting = Callable[[str], AbstractContextManager[Progress]]
"""Shows how far a piece of work is, given what it is."""


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
    per_class: bool = False
    why: bool = False
    json: Path | None = None
    report: Path | None = None
    per_picture: Path | None = None

    def check(self) -> None:
        """Raise `InputError` where the options do not go together, or a file to write is there already."""
        model = (self.data, self.weights, self.settings, self.ap)
        flags = (self.threads, self.lenient, self.like_panopticapi)
        files = (self.gt, self.pred, self.gt_folder, self.pred_folder, self.instances, self.pictures, *flags)
        whole = (self.data and self.weights and not any(files)) or (self.gt and self.pred and not any(model))
        if not whole or (model[0] is None) != (model[1] is None):
            raise InputError(
                "give either DATA --weights RUN (a model) or --gt FILE --pred FILE (files) with their own options"
            )
        for option in ("json", "report", "per_picture"):
            path = getattr(self, option)
            if path is not None and (path.exists() or not path.parent.is_dir()):
                wrong = "is there already" if path.exists() else "lies in no folder"
                raise InputError(f"{path} {wrong}; give another --{option.replace('_', '-')} file")
        self._check_files(self.pred or (), self.pred_folder or ())

    def _check_files(self, preds: Sequence[Path], folders: Sequence[Path]) -> None:
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
    def command(self) -> str:
        """The command that scores so again."""
        words = ["thingstuff", "evaluate", *([self.data] if self.data else [])]
        for option in fields(self):
            value = getattr(self, option.name)
            if option.name == "data" or value in (None, False, option.default):
                continue
            flag = "--set" if option.name == "settings" else f"--{option.name.replace('_', '-')}"
            values = value if isinstance(value, (list, tuple)) else [value]
            words += [flag] if value is True else [word for v in values for word in (flag, str(v))]
        return shlex.join(words)


@dataclass(frozen=True)
class Scores:
    """Evaluations by the short names of their predictions, and their comparison where there are several."""

    evaluations: "Mapping[str, Evaluation]"
    comparison: "Comparison | None"

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
            scores = evaluate_files(request, lambda what: counting(console, what))
        else:
            from thingstuff.model_evaluation import evaluate_as_asked

            with counting(console, "predicting") as progress:
                scores = Scores({str(request.weights): evaluate_as_asked(request, progress)}, None)
    except EvaluationProblemsError as error:
        if request.json is not None:
            problems = {"scored": False, "problems": error.problems.to_json()}
            atomic_write(request.json, json.dumps(problems, indent=1))
        raise
    show(console, scores, request.per_class, request.why)
    if request.json is not None:
        atomic_write(request.json, json.dumps(scores.to_json(), indent=1))


def evaluate_files(request: Request, counting: Counting) -> Scores:
    """Score prediction files, and write the report and the sums per picture that a request asks for.

    Raises `InputError` as `evaluate` does; of several predictions, the problems of all are told.
    """
    names = short_names(tuple(request.pred or ()))
    evaluations, faulty = {}, []
    for position, name in enumerate(names):
        try:
            with counting("comparing" if len(names) == 1 else f"comparing {name}") as progress:
                evaluations[name] = _evaluate_one(request, position, progress)
        except EvaluationProblemsError as error:
            faulty.append(error)
    if faulty:
        raise faulty[0] if len(faulty) == 1 else _joined(faulty)
    if len(names) == 1:
        return Scores(evaluations, None)
    with counting("resampling") as progress:
        return Scores(evaluations, compare_evaluations(evaluations, progress=progress))


def short_names(paths: tuple[Path, ...]) -> tuple[str, ...]:
    """Return the shortest end of each path that tells it from the others, without what all have in common."""
    parts = [path.with_suffix("").parts for path in paths]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(p[-depth:]) for p in parts]
        if len(set(names)) == len(names):
            shared = {p[-1] for p in parts} if depth > 1 else set()
            # runs/a/panoptic.json and runs/b/panoptic.json: "a" and "b" say all there is to say
            brief = ["/".join(p[-depth:-1]) for p in parts]
            return tuple(brief if len(shared) == 1 and len(set(brief)) == len(brief) else names)
    return tuple(map(str, paths))


def show(console: "Console", scores: Scores, per_class: bool = False, why: bool = False) -> None:
    """Print the tables of an evaluation, or of several side by side, and what was left out or noted.

    Of several, each one's own tables are printed where `per_class` or `why` asks for more.
    """
    several = scores.comparison is not None
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
            head = f"left out: {problems.count()}" if problems.grave else "to note:"
            console.print(f"{head}\n{problems.text()}", highlight=False, markup=False, soft_wrap=True)
    if scores.comparison is not None:
        console.print(scores.comparison.table())


def _evaluate_one(request: Request, position: int, progress: Progress) -> "Evaluation":
    assert request.gt is not None
    assert request.pred is not None
    folder = request.pred_folder[position] if request.pred_folder else None
    pairs = scored_pairs(
        request.gt,
        request.pred[position],
        request.gt_folder,
        folder,
        lenient=request.lenient,
        like_panopticapi=request.like_panopticapi,
        boundary=request.boundary,
        threads=request.threads,
        progress=progress,
    )
    with closing(pairs):
        evaluation = evaluate_pairs(pairs, request.boundary, request.instances, request.per_picture, request.lenient)
        if request.report is not None:
            worst = _worst(pairs, evaluation, request.pictures)
            lacking = sum(example.picture is None for example in worst) if request.pictures else 0
            report = EvaluationReport(
                title=f"{request.pred[position]} against {request.gt}",
                command=request.command,
                categories=pairs.categories,
                evaluation=evaluation,
                worst=worst,
                notes={"pictures": f"{lacking} of these are not in {request.pictures}"} if lacking else {},
            )
            write_evaluation_report(request.report, report)
    return evaluation


def _worst(pairs: ScoredPairs, evaluation: "Evaluation", pictures: Path | None) -> list[Example]:
    """Read the worst pictures again for a report."""
    found = []
    for scored in evaluation.worst[:EXAMPLES]:
        paths = pairs.paths(scored.image_id)
        truth, prediction = read_maps(scored, paths, pairs.categories)
        file = pictures / paths.picture if pictures is not None and paths.picture is not None else None
        there = file is not None and file.is_file()
        picture = np.asarray(read_picture(file, truth.size)) if file is not None and there else None
        errors = tuple(e for e in segment_errors(scored) if e.category_id in pairs.categories.label_of)
        name = f"{scored.image_id}" if paths.picture is None else paths.picture
        found.append(Example(name, picture, truth, prediction, scored.matches.pq, errors))
    return found


def _joined(errors: list[EvaluationProblemsError]) -> EvaluationProblemsError:
    """Put the problems of several predictions together."""
    heading = "\n".join(str(error).splitlines()[0] for error in errors)
    problems = Problems(problem for error in errors for problem in error.problems)
    return EvaluationProblemsError(heading, problems, "--lenient scores what can be scored")
