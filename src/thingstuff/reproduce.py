"""Reproducing the paper's tables: what a table's rows need is trained and evaluated once, and goes on where it stopped.

A folder holds reproduce.json (what it was begun with), <table>.md and <table>.json, and runs/, where each training is
one run folder. Rows, of one table or several, that differ only in what acts in inference share their training; each
evaluation lies in its run folder, under evaluations/.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from pydantic_core import to_jsonable_python

from thingstuff import checkpoint, pretrained
from thingstuff.config import changed, dotted_keys
from thingstuff.data.coco import CocoPanoptic
from thingstuff.errors import InputError
from thingstuff.evaluation.pq import PQResult
from thingstuff.io import atomic_write
from thingstuff.models import create, find
from thingstuff.models.base import ModelConfig, PanopticModel
from thingstuff.recipes import RECIPES
from thingstuff.recipes.settings import differences
from thingstuff.reproduced import write_table
from thingstuff.runs import REPORT, RESULT, RunConfig, is_main_process, make_config, train_run
from thingstuff.scoring import evaluate_model
from thingstuff.tables import TABLES, Row, Table
from thingstuff.training import Listener, Silence, TrainConfig

BEGUN = "reproduce.json"
INFERENCE_ONLY = frozenset(
    {
        "preprocess.short_side",  # training pictures have the sizes of `augment`
        "preprocess.max_side",
        "thing_threshold",
        "stuff_threshold",
        "candidates",
        "kernel_fusion",
        "similarity",
        "class_aware",
        "nms",
        "flip",
        "mask_threshold",
        "rescored_threshold",
        "thing_score",
        "overlap",
        "stuff_area",
        "stuff_area_relative",
    }
)
"""Settings of a model that no training sees."""
WITHOUT_EFFECT = frozenset({"workers", "threads", "evaluate_every", "save_every"})
"""Settings of a training that leave its weights as they are."""


@dataclass(frozen=True)
class Request:
    """What is to be reproduced, where, and in what it is to differ from the paper's training."""

    table: str
    """A name in TABLES."""
    coco: str
    """Data folder or YAML, with the splits train and val."""
    out: Path
    """Where everything is written; tables may share it."""
    model: str | None = None
    """A model instead of the recipe's."""
    recipe: str | None = None
    """A recipe instead of the ablations' own."""
    backbone: str | None = None
    """File of the backbone's first weights."""
    weights: Mapping[str, str] = field(default_factory=dict)
    """Row -> weights that are evaluated instead of training the row's model."""
    rows: tuple[str, ...] = ()
    """The rows to do; empty for all."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings of all rows' models and trainings by dotted key."""


@dataclass(frozen=True)
class Plan:
    """What a row needs: a run (or given weights) and the model's settings in its evaluation."""

    row: Row
    config: RunConfig
    run: Path
    given: str | None
    changes: Mapping[str, Any]

    @property
    def weights(self) -> str | Path:
        """What is evaluated: the weights after the last step, as in the paper, not those that did best on val."""
        return self.given or self.run / f"last{checkpoint.SUFFIX}"

    @property
    def evaluation(self) -> Path:
        """The evaluation's folder."""
        return self.run / "evaluations" / _readable("" if self.changes else "as-trained", self.changes, self.changes)

    @property
    def trained(self) -> bool:
        """Tell whether there is nothing left to train."""
        return self.given is not None or (self.run / REPORT).is_file()

    def result(self) -> PQResult | None:
        """Read what was measured, None where it was not yet."""
        path = self.evaluation / RESULT
        return PQResult.from_json(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def reproduce(
    request: Request, listener: Listener | None = None, say: Callable[[str], None] = lambda _: None
) -> tuple[Path, Path]:
    """Train and evaluate what a table needs and is not there yet; return its Markdown and its JSON file.

    Both are written again after every row. Raises `InputError`, before anything is written, for an unknown table or
    row, missing data, settings in which the rows differ, and others than the folder was begun with; `Interrupted` on
    Ctrl-C, after which the same call goes on.
    """
    table = find_table(request.table)
    request = _begun(request, table)
    plans = plans_of(request)
    val = CocoPanoptic.open(request.coco, "val")
    if any(not plan.trained for plan in plans):
        CocoPanoptic.open(request.coco, "train")
    _begin(request)
    to_train = {plan.run for plan in plans if not plan.trained}
    say(f"{table.name}: {len(plans)} rows, {len(to_train)} trainings to do")
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
            _evaluate(plan, val, listener or Silence())
            written = _write(request, table)
    return written


def find_table(name: str) -> Table:
    """Return a table; raises `InputError` naming the known ones."""
    if name not in TABLES:
        raise InputError(f"unknown table {name!r}; known are {', '.join(TABLES)}")
    return TABLES[name]


# ---- what a row needs


def plans_of(request: Request) -> list[Plan]:
    """Return what the rows asked for need; raises `InputError` as `reproduce` does for table, rows and settings."""
    table = find_table(request.table)
    return [_plan(request, row) for row in _chosen(request, table)]


def _chosen(request: Request, table: Table) -> list[Row]:
    """Return the rows to do. Raises `InputError` for unknown rows and settings that would blur the rows."""
    names = [row.name for row in table.rows]
    for asked, option in ((request.rows, "--rows"), (tuple(request.weights), "--weights")):
        unknown = [name for name in asked if name not in names]
        if unknown:
            raise InputError(f"{option}: table {table.name} has no row {unknown[0]!r}; it has {', '.join(names)}")
    blurred = sorted({key.removeprefix("model.") for key in request.settings} & table.varied)
    if blurred:
        raise InputError(f"{blurred[0]} is what the rows of table {table.name} differ in; leave it out")
    if request.recipe is not None and table.recipes_differ:
        raise InputError(f"the rows of table {table.name} are recipes; leave --recipe out")
    return [row for row in table.rows if not request.rows or row.name in request.rows]


def _plan(request: Request, row: Row) -> Plan:
    recipe = request.recipe or row.recipe
    backbone = {"backbone.weights": request.backbone} if request.backbone else {}
    try:
        config = make_config(
            request.coco, request.model, {**row.settings, **backbone, **request.settings}, recipe, "val"
        )
    except InputError as error:
        raise InputError(f"row {row.name}: {error}; with --rows it can be left out") from None
    given = request.weights.get(row.name)
    if given is None:
        trained = _trained_config(config)
        run = request.out / "runs" / _run_name(trained)
        return Plan(row, trained, run, None, _model_differences(config.model, trained.model))
    named = {key.removeprefix("model.") for key in (*RECIPES[recipe](config.model.preprocess).model, *row.settings)}
    named |= {key.removeprefix("model.") for key in request.settings}
    run = request.out / "runs" / _given_name(given)
    changes = {key: _value(config.model, key) for key in sorted(named & INFERENCE_ONLY)}
    return Plan(row, config, run, given, changes)


def _trained_config(config: RunConfig) -> RunConfig:
    """Return the config of the training that all rows share which differ from this one in inference only."""
    preset, _ = find(config.model_name)
    usual = {key: _value(preset, key) for key in dotted_keys(preset) if key in INFERENCE_ONLY}
    return config.model_copy(update={"model": changed(config.model, usual)})


def _run_name(config: RunConfig) -> str:
    """Return a run's folder: readable, and another one for every other training."""
    preset, _ = find(config.model_name)
    model = _model_differences(config.model, preset)
    train = differences(config.train.model_dump(mode="json"), TrainConfig().model_dump(mode="json"))
    train = {key: value for key, value in train.items() if key not in WITHOUT_EFFECT}
    train["batch_size"] = config.train.batch_size * int(os.environ.get("WORLD_SIZE", "1"))
    return _readable(f"{config.model_name}-{config.train.steps}-steps", model, [config.model_name, model, train])


def _given_name(weights: str) -> str:
    path = Path(weights)
    file = checkpoint.find_file(path) if path.is_dir() else path
    state = [file.stat().st_size, file.stat().st_mtime_ns] if file.is_file() else []
    return _readable(f"given-{path.name}", {}, [str(path.resolve()) if path.exists() else weights, *state])


def _readable(head: str, settings: Mapping[str, Any], identity: Any) -> str:
    """Return a folder's name: a head, what of the settings fits in, and a short hash of what must not be mixed up."""
    parts = [f"{key.rsplit('.', 1)[-1]}={json.dumps(value)}".replace('"', "") for key, value in settings.items()]
    tail = re.sub(r"[^\w.=-]+", "_", "-".join(parts))[:80].strip("_-")
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
    return "-".join(part for part in (re.sub(r"[^\w.=-]+", "_", head), tail, digest) if part)


def _model_differences(model: ModelConfig, usual: ModelConfig) -> dict[str, Any]:
    return differences(model.model_dump(mode="json"), usual.model_dump(mode="json"))


def _value(model: ModelConfig, key: str) -> Any:
    return to_jsonable_python(attrgetter(key)(model))


# ---- what a folder was begun with


def _begun(request: Request, table: Table) -> Request:
    """Return a request with the weights that earlier calls gave; raises `InputError` where it differs from theirs."""
    if request.backbone is not None and not Path(request.backbone).is_file():
        raise InputError(f"--backbone {request.backbone}: no such file; give weights that `thingstuff weights` wrote")
    path = request.out / BEGUN
    if not path.is_file():
        return request
    before, now = json.loads(path.read_text(encoding="utf-8")), _record(request)
    of_table = before["tables"].get(table.name, {"recipe": request.recipe, "weights": {}})
    before["recipe"], now["recipe"] = of_table["recipe"], request.recipe
    for name in ("coco", "model", "recipe", "backbone"):
        if before[name] != now[name]:
            _refuse_change(request, _option(name, before[name]), _option(name, now[name]))
    for key in {**before["settings"], **now["settings"]}:
        was, is_now = (
            f"{key}={json.dumps(r['settings'][key])}" if key in r["settings"] else f"no {key}" for r in (before, now)
        )
        if was != is_now:
            _refuse_change(request, was, is_now)
    return replace(request, weights={**of_table["weights"], **request.weights})


def _refuse_change(request: Request, was: str, is_now: str) -> None:
    raise InputError(
        f"{request.out}: table {request.table} was begun with {was}, now it is {is_now}; "
        "leave that as it was, or give another --out"
    )


def _record(request: Request) -> dict[str, Any]:
    """Return what must stay the same from call to call."""
    settings = {key.removeprefix("model."): value for key, value in request.settings.items()}
    return {
        "coco": str(Path(request.coco).resolve()),
        "model": request.model,
        "backbone": str(Path(request.backbone).resolve()) if request.backbone else None,
        "settings": {key: value for key, value in settings.items() if key not in WITHOUT_EFFECT},
    }


def _option(name: str, value: Any) -> str:
    if name != "settings":
        return f"--{name} {value}" if value is not None else f"no --{name}"
    return " ".join(f"{key}={json.dumps(v)}" for key, v in value.items())


def _begin(request: Request) -> None:
    """Write down what the folder is begun with."""
    if not is_main_process():
        return
    request.out.mkdir(parents=True, exist_ok=True)
    path = request.out / BEGUN
    tables = json.loads(path.read_text(encoding="utf-8"))["tables"] if path.is_file() else {}
    weights = {row: str(Path(w).resolve()) if Path(w).exists() else w for row, w in request.weights.items()}
    tables[request.table] = {"recipe": request.recipe, "weights": weights}
    atomic_write(path, json.dumps({**_record(request), "tables": tables}, indent=1))


# ---- measuring


def _evaluate(plan: Plan, val: CocoPanoptic, listener: Listener) -> None:
    model = pretrained.load_changed(plan.weights, plan.changes)
    if plan.given is not None:
        _refuse_other_network(plan, model)
    result = evaluate_model(model, val, progress=listener.evaluating).result()
    plan.evaluation.mkdir(parents=True, exist_ok=True)
    atomic_write(plan.evaluation / RESULT, json.dumps(result.to_json(), indent=1))


def _refuse_other_network(plan: Plan, model: PanopticModel) -> None:
    with torch.device("meta"):
        wanted = create(plan.config.model_name, model.categories, plan.config.model)
    shapes, ours = ({key: tuple(value.shape) for key, value in m.state_dict().items()} for m in (model, wanted))
    differing = [key for key in {**ours, **shapes} if ours.get(key) != shapes.get(key)]
    if differing:
        key = differing[0]
        raise InputError(
            f"{plan.given} is no model of row {plan.row.name}: {key} is {shapes.get(key, 'missing')} there and "
            f"{ours.get(key, 'missing')} here; give other --weights"
        )


def _write(request: Request, table: Table) -> tuple[Path, Path]:
    """Write a table's files with what has been measured so far, of rows that were not asked for too."""
    measured: dict[str, tuple[PQResult, Path]] = {}
    for row in table.rows:
        try:
            plan = _plan(request, row)
        except InputError:  # a row that cannot be made with this model, and was not asked for
            continue
        result = plan.result()
        if result is not None:
            measured[row.name] = (result, plan.evaluation)
    options = ("model", "recipe", "backbone", "settings")
    other = [_option(name, getattr(request, name)) for name in options if getattr(request, name)]
    return write_table(request.out, table, measured, other)
