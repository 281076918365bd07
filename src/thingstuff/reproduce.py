"""Reproducing the paper's tables: what a table's rows need is trained and evaluated once, and goes on where it stopped.

A folder holds reproduce.json (what it was begun with), <table>.md and <table>.json, and runs/, where each training is
one run folder. Rows, of one table or several, that differ only in what acts in inference share their training; each
evaluation lies in its run folder, under evaluations/.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from thingstuff import pretrained
from thingstuff.backbone_weights import read_settings
from thingstuff.data.coco import CocoPanoptic
from thingstuff.errors import InputError
from thingstuff.io import atomic_write
from thingstuff.models import create, find
from thingstuff.models.base import PanopticModel
from thingstuff.reproduce_folder import begin, begun, option
from thingstuff.reproduce_plans import Plan, Request, find_table, plan_of, plans_of
from thingstuff.reproduced import Measured, write_table
from thingstuff.runs import RESULT, is_main_process, train_run
from thingstuff.scoring import evaluate_model, refuse_other_categories
from thingstuff.tables import Table
from thingstuff.training import Listener, Silence
from thingstuff.weights import backbone_file

EVALUATION = "evaluation.json"
"""What was measured: beside the result."""


def reproduce(
    request: Request, listener: Listener | None = None, say: Callable[[str], None] = lambda _: None
) -> tuple[Path, Path]:
    """Train and evaluate what a table needs and is not there yet; return its Markdown and its JSON file.

    Both are written again after every row. Raises `InputError`, before anything is written, for an unknown table or
    row, missing data, settings in which the rows differ, given weights that are none of their row's model, and
    others than the folder was begun with; `Interrupted` on Ctrl-C, after which the same call goes on.
    """
    table = find_table(request.table)
    new = [name for name, path in request.weights.items() if path]
    request = begun(request, table)
    plans = plans_of(request)
    val = _checked_data(request, plans)
    _check_given(request, table, plans, new, val)
    begin(request)
    to_train = {plan.run for plan in plans if not plan.trained}
    say(f"{table.name}: {_counted(len(plans), 'row')}, {_counted(len(to_train), 'training')} to do")
    written = _write(request, table)
    for plan in plans:
        if plan.result() is not None:
            say(f"{plan.row.name}: measured before, {plan.evaluation}")
            continue
        if plan.run in to_train:
            say(f"{plan.row.name}: training in {plan.run}")
            train_run(plan.config, plan.run, resume=True, listener=listener, say=say)
            to_train.remove(plan.run)
        if is_main_process():
            say(f"{plan.row.name}: evaluating {plan.weights}")
            _evaluate(plan, val, "ap" in table.columns, listener or Silence())
            written = _write(request, table)
    return written


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


# ---- before anything is written


def _checked_data(request: Request, plans: Sequence[Plan]) -> CocoPanoptic:
    """Return the val split, with the files checked of every split that there is work for."""
    val = CocoPanoptic.open(request.coco, "val")
    if any(plan.result() is None for plan in plans):
        val.check_files()
    if any(not plan.trained for plan in plans):
        CocoPanoptic.open(request.coco, "train").check_files()
    return val


def _check_given(request: Request, table: Table, plans: Sequence[Plan], new: Sequence[str], val: CocoPanoptic) -> None:
    """Refuse given weights that no model of their row has: those of this call, and those that are to be evaluated."""
    needed = {plan.row.name for plan in plans if plan.given and plan.result() is None}
    for row in table.rows:
        if row.name in needed or row.name in new:
            plan = plan_of(request, row)
            try:
                model = _model_of(plan)
                _refuse_other_network(plan, model)
                refuse_other_categories(model, str(plan.given), val)
            except InputError as error:
                raise InputError(f"row {row.name}: {error}; --weights {row.name}= trains it after all") from None


def _model_of(plan: Plan) -> PanopticModel:
    assert plan.given is not None
    if backbone_file(Path(plan.given)).is_file() and read_settings(plan.given) is not None:
        raise InputError(f"{plan.given} holds a backbone alone, which --backbone or backbone.weights= takes")
    return pretrained.load_source(plan.given).model


def _refuse_other_network(plan: Plan, model: PanopticModel) -> None:
    name, (_, model_class) = plan.config.model_name, find(plan.config.model_name)
    if not isinstance(model, model_class):
        raise InputError(
            f"{plan.given} is a {model.name}, row {plan.row.name} needs a {model_class.__name__} ({name}); give other "
            "--weights"
        )
    with torch.device("meta"):
        wanted = create(name, model.categories, plan.config.model)
    shapes, ours = ({key: tuple(value.shape) for key, value in m.state_dict().items()} for m in (model, wanted))
    differing = [key for key in {**ours, **shapes} if ours.get(key) != shapes.get(key)]
    if differing:
        key = differing[0]
        raise InputError(
            f"{plan.given} is no model of row {plan.row.name}: {key} is {shapes.get(key, 'missing')} there and "
            f"{ours.get(key, 'missing')} here; give other --weights"
        )


# ---- measuring


def _evaluate(plan: Plan, val: CocoPanoptic, ap: bool, listener: Listener) -> None:
    model = pretrained.load_changed(plan.weights, plan.changes)
    folder = plan.evaluation
    result = evaluate_model(model, val, progress=listener.evaluating, ap=ap)
    folder.mkdir(parents=True, exist_ok=True)
    what = {"weights": str(plan.weights), "changes": dict(plan.changes), "data": str(val.paths.json)}
    atomic_write(folder / EVALUATION, json.dumps(what, indent=1))
    atomic_write(folder / RESULT, json.dumps(result.to_json(), indent=1))


def _write(request: Request, table: Table) -> tuple[Path, Path]:
    """Write a table's files with what has been measured so far, of rows that were not asked for too."""
    plans: dict[str, Plan] = {}
    for row in table.rows:
        try:
            plans[row.name] = plan_of(request, row)
        except InputError:  # a row that cannot be made with this model, and was not asked for
            continue
    shared = Counter(plan.evaluation for plan in plans.values())
    measured = {}
    for name, plan in plans.items():
        asked = not request.rows or name in request.rows
        if not asked and shared[plan.evaluation] > 1:  # what it was asked for as is another row
            continue
        result = plan.result()
        if result is not None:
            measured[name] = Measured(result, plan.evaluation, plan.given)
    options = ("model", "recipe", "backbone", "settings")
    other = [option(name, getattr(request, name)) for name in options if getattr(request, name)]
    return write_table(request.out, table, measured, other, request.recipe)
