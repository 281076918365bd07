"""The HTML report of an evaluation: the score, the worst and best pictures to look at, and why it is what it is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from thingstuff.evaluation.result import Evaluation
from thingstuff.panoptic import Categories
from thingstuff.report_page import problem_values, render, why_values, write_page
from thingstuff.report_pictures import Example, drawn_examples


@dataclass(frozen=True)
class EvaluationReport:
    """What an evaluation's report is made of.

    `command` evaluates again; `worst` are the pictures of `evaluation.errors.worst` that are shown, worst first, `best`
    those of the highest PQ, best first; `notes` are shown as they are; `config_yaml` are the settings of the model that
    predicted, empty where there is none.
    """

    title: str
    command: str
    categories: Categories
    evaluation: Evaluation
    worst: Sequence[Example] = ()
    best: Sequence[Example] = ()
    notes: Mapping[str, str] = field(default_factory=dict)
    config_yaml: str = ""


def write_evaluation_report(path: Path, report: EvaluationReport) -> Path:
    """Write an evaluation's report as one self-contained HTML file and return its path.

    Written aside and then renamed, so that a report already there stays whole until the new one is. Raises `InputError`
    where the file cannot be written, a picture's sizes disagree, or its errors speak of other segments than its maps.
    """
    worst, best = drawn_examples(report.worst, report.best)
    evaluation = report.evaluation
    page = render(
        "evaluation.html.jinja",
        report=report,
        evaluation=evaluation,
        result=evaluation.pq,
        weights="",
        rows=[("this prediction", evaluation.pq)],
        worst=worst,
        best=best,
        **problem_values(evaluation.left_out),
        **why_values(evaluation.errors),
    )
    return write_page(path, page)
