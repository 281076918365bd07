"""What a table's rows need: a training that rows may share, or weights that were given, and an evaluation each."""

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

from pydantic_core import to_jsonable_python

from thingstuff import checkpoint
from thingstuff.config import changed, dotted_keys
from thingstuff.errors import InputError
from thingstuff.evaluation.result import Evaluation
from thingstuff.models import find
from thingstuff.models.base import ModelConfig, PreprocessConfig
from thingstuff.recipes import RECIPES, fits
from thingstuff.recipes.settings import differences
from thingstuff.runs import REPORT, RESULT, RunConfig, make_config
from thingstuff.tables import TABLES, Row, Table
from thingstuff.training import TrainConfig

Read = TypeVar("Read")
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
    """File of the backbone's first weights, or the folder it lies in."""
    weights: Mapping[str, str] = field(default_factory=dict)
    """Row -> weights that are evaluated instead of training the row's model; "" to train one after all."""
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
    told: Mapping[str, Any]
    """Those of the changes that the evaluation's folder is named after."""

    @property
    def weights(self) -> str | Path:
        """What is evaluated: the weights after the last step, as in the paper, not those that did best on val."""
        return self.given or self.run / f"last{checkpoint.SUFFIX}"

    @property
    def evaluation(self) -> Path:
        """The evaluation's folder: another one after the weights have changed."""
        identity = [self.changes, *_state(Path(self.weights))]
        return self.run / "evaluations" / _readable("" if self.told else "as-trained", self.told, identity)

    @property
    def trained(self) -> bool:
        """Tell whether there is nothing left to train."""
        return self.given is not None or (self.run / REPORT).is_file()

    def result(self) -> Evaluation | None:
        """Read what was measured, None where it was not yet. Raises `InputError` for a damaged file."""
        path = self.evaluation / RESULT
        remedy = "remove it to measure again, restore it, or give another --out"
        return read_own(path, Evaluation.from_json, remedy) if path.is_file() else None


def read_own(path: Path, parse: Callable[[dict[str, Any]], Read], remedy: str) -> Read:
    """Read a JSON object that was written here; raises `InputError` with a remedy where it is damaged."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise TypeError("no JSON object")
        return parse(values)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} is damaged ({reason}); {remedy}") from None


def find_table(name: str) -> Table:
    """Return a table; raises `InputError` naming the known ones."""
    if name not in TABLES:
        raise InputError(f"unknown table {name!r}; known are {', '.join(TABLES)}")
    return TABLES[name]


def plans_of(request: Request) -> list[Plan]:
    """Return what the rows asked for need.

    Raises `InputError` for unknown tables and rows, a row whose model cannot be made, settings in which the rows
    differ, and settings with which two of them would be the same.
    """
    table = find_table(request.table)
    plans = []
    for row in _chosen(request, table):
        try:
            plans.append(plan_of(request, row))
        except InputError as error:
            others = any(_can_be_planned(request, other) for other in table.rows)
            hint = "; with --rows it can be left out" if others else ""
            raise InputError(f"row {row.name}: {error}{hint}") from None
    same: dict[Path, Plan] = {}
    for plan in plans:
        twin = same.setdefault(plan.evaluation, plan)
        if twin is not plan:
            raise InputError(
                f"with these settings and weights the rows {twin.row.name} and {plan.row.name} of table {table.name} "
                "are the same; leave out what makes them so, or choose one by --rows"
            )
    return plans


def _can_be_planned(request: Request, row: Row) -> bool:
    try:
        plan_of(request, row)
    except InputError:
        return False
    return True


def _chosen(request: Request, table: Table) -> list[Row]:
    """Return the rows to do. Raises `InputError` for unknown rows and settings that would blur the rows."""
    names = [row.name for row in table.rows]
    for asked, option in ((request.rows, "--rows"), (tuple(request.weights), "--weights")):
        unknown = [name for name in asked if name not in names]
        if unknown:
            raise InputError(f"{option}: table {table.name} has no row {unknown[0]!r}; it has {', '.join(names)}")
    blurred = sorted({key.removeprefix("model.") for key in request.settings} & _varied(table))
    if blurred:
        raise InputError(f"{blurred[0]} is what the rows of table {table.name} differ in; leave it out")
    if request.recipe is not None and table.recipes_differ:
        raise InputError(f"the rows of table {table.name} are recipes; leave --recipe out")
    return [row for row in table.rows if not request.rows or row.name in request.rows]


def _varied(table: Table) -> set[str]:
    """Return the model settings in which rows differ, by themselves or by their recipes.

    Sizes of pictures are none of them: a small try on small pictures needs to set them.
    """
    models = [RECIPES[row.recipe](PreprocessConfig()).model for row in table.rows]
    values = {key: {json.dumps(model.get(key)) for model in models} for key in set().union(*models)}
    by_recipe = {key for key, found in values.items() if len(found) > 1 and not key.startswith("preprocess.")}
    return by_recipe | table.varied


def plan_of(request: Request, row: Row) -> Plan:
    """Return what one row needs; raises `InputError` where its model cannot be made as asked for."""
    recipe = request.recipe or row.recipe
    _refuse_other_class(request, recipe)
    backbone = {"backbone.weights": request.backbone} if request.backbone else {}
    config = make_config(request.coco, request.model, {**row.settings, **backbone, **request.settings}, recipe, "val")
    preset, _ = find(config.model_name)
    unusual = _model_differences(config.model, preset)
    given = request.weights.get(row.name)
    if not given:
        trained = _trained_config(config)
        changes = _model_differences(config.model, trained.model)
        return Plan(row, trained, request.out / "runs" / _run_name(trained), None, changes, changes)
    # All of them: the weights' own thresholds and sizes must not take the place of the row's.
    changes = {key: _value(config.model, key) for key in sorted(INFERENCE_ONLY & {*dotted_keys(config.model)})}
    told = {key: value for key, value in unusual.items() if key in INFERENCE_ONLY}
    return Plan(row, config, request.out / "runs" / _given_name(given), given, changes, told)


def _refuse_other_class(request: Request, recipe_name: str) -> None:
    if request.model is None or recipe_name not in RECIPES:
        return
    recipe = RECIPES[recipe_name](PreprocessConfig())
    if not fits(recipe, find(request.model)[1]):
        remedy = "leave --model out"
        if not find_table(request.table).recipes_differ:
            remedy += " or give another --recipe"
        raise InputError(
            f"recipe {recipe_name} is for {recipe.model_name} and models of its class, which {request.model} is not; "
            f"{remedy}"
        )


def _trained_config(config: RunConfig) -> RunConfig:
    """Return the config of the training that all rows share which differ from this one in inference only."""
    preset, _ = find(config.model_name)
    usual = {key: _value(preset, key) for key in dotted_keys(preset) if key in INFERENCE_ONLY}
    return config.model_copy(update={"model": changed(config.model, usual)})


# ---- names


def _run_name(config: RunConfig) -> str:
    """Return a run's folder: readable, and another one for every other training."""
    preset, _ = find(config.model_name)
    model = _model_differences(config.model, preset)
    train = differences(config.train.model_dump(mode="json"), TrainConfig().model_dump(mode="json"))
    train = {key: value for key, value in train.items() if key not in WITHOUT_EFFECT}
    train["batch_size"] = config.train.batch_size * int(os.environ.get("WORLD_SIZE", "1"))
    stage = config.train
    length = f"{stage.steps}-steps" if stage.epochs is None else f"{stage.epochs:g}-epochs"
    return _readable(f"{config.model_name}-{length}", model, [config.model_name, model, train])


def _given_name(weights: str) -> str:
    path = Path(weights)
    return _readable(f"given-{path.name}", {}, [str(path.resolve()) if path.exists() else weights, *_state(path)])


def _state(weights: Path) -> list[int]:
    """Return what changes with a weights file: its size and the time it was written."""
    try:
        found = checkpoint.find_file(weights).stat()
    except InputError:  # a name on the hub, a run that is not trained yet, or what is refused where it is opened
        return []
    return [found.st_size, found.st_mtime_ns]


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
