"""What `thingstuff evaluate` does with a model: predict a split, score it, and show its worst and best pictures."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from thingstuff import pretrained
from thingstuff.config import parse_overrides
from thingstuff.data.coco import CocoPanoptic
from thingstuff.evaluating import BEST, EXAMPLES, Request
from thingstuff.evaluation.picture_sums import picture_lines
from thingstuff.evaluation.pq import Progress
from thingstuff.evaluation.result import Evaluation
from thingstuff.evaluation_report import EvaluationReport
from thingstuff.models.base import PanopticModel
from thingstuff.scoring import evaluate_model, make_examples, refuse_other_categories, shown_positions


def evaluate_run(
    weights: Path,
    data: str,
    split: str,
    progress: Progress | None = None,
    changes: Mapping[str, Any] | None = None,
    *,
    boundary: bool = False,
    ap: bool = False,
    leave_out_filled: bool = False,
) -> Evaluation:
    """Score a checkpoint, a run's best one or published weights on a split, with settings of the model by dotted key.

    `boundary` adds Boundary PQ, `ap` AP of the scored things; `leave_out_filled` takes what a model filled into
    the ground truth for void. Raises `InputError` where model and data differ in their
    categories, and for files that cannot be read.
    """
    model, dataset = _opened(weights, data, split, changes or {})
    return evaluate_model(
        model, dataset, progress=progress, boundary=boundary, ap=ap, leave_out_filled=leave_out_filled
    )


def evaluate_as_asked(request: Request, progress: Progress | None = None) -> tuple[Evaluation, EvaluationReport | None]:
    """Score the model of a request, write the sums per picture it asks for, and make its report; see `evaluate_run`."""
    assert request.data is not None
    assert request.weights is not None
    changes = parse_overrides(list(request.settings or ()))
    model, data = _opened(request.weights, request.data, request.split, changes)
    with picture_lines(request.per_picture) as lines:
        result = evaluate_model(
            model,
            data,
            progress=progress,
            boundary=request.boundary,
            ap=request.ap,
            leave_out_filled=request.leave_out_filled,
            lines=lines,
        )
    if request.report is None:
        return result, None
    return result, _report(request, model, data, result)


def _report(request: Request, model: PanopticModel, data: CocoPanoptic, result: Evaluation) -> EvaluationReport:
    """Predict the worst and the best pictures again for a report."""
    worst, best = shown_positions(data, result, EXAMPLES, BEST)
    settings = {"model_name": model.name, "model": model.config.model_dump(mode="json")}
    return EvaluationReport(
        title=f"{request.weights} on {request.split} of {request.data}",
        command=request.command,
        categories=data.categories,
        evaluation=result,
        worst=make_examples(model, data, worst, request.leave_out_filled),
        best=make_examples(model, data, best, request.leave_out_filled),
        config_yaml=yaml.safe_dump(settings, sort_keys=False),
    )


def _opened(weights: Path, data: str, split: str, changes: Mapping[str, Any]) -> tuple[PanopticModel, CocoPanoptic]:
    dataset = CocoPanoptic.open(data, split)
    dataset.check_files()
    model = pretrained.load_changed(weights, changes)
    refuse_other_categories(model, str(weights), dataset)
    return model, dataset
