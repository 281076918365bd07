"""What a folder of reproduced tables was begun with, which stays the same from call to call."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from thingstuff.errors import InputError
from thingstuff.io import atomic_write
from thingstuff.reproduce_plans import WITHOUT_EFFECT, Request, read_own
from thingstuff.runs import is_main_process
from thingstuff.tables import Table
from thingstuff.weights import backbone_file

BEGUN = "reproduce.json"
ANOTHER = "leave that as it was, or give another --out"


class _OfTable(BaseModel):
    """What is one table's own."""

    recipe: str | None = None
    weights: dict[str, str] = {}


class _Begun(BaseModel):
    """What reproduce.json holds."""

    coco: str
    model: str | None
    backbone: str | None
    settings: dict[str, Any]
    tables: dict[str, _OfTable]


def begun(request: Request, table: Table) -> Request:
    """Return a request with the weights that earlier calls gave; raises `InputError` where it differs from theirs.

    A row that is given "" now has its weights of before forgotten.
    """
    _refuse_file(request.out)
    if request.backbone is not None:
        file = backbone_file(Path(request.backbone))
        if not file.is_file():
            raise InputError(f"--backbone {file}: no such file; give weights that `thingstuff weights import` wrote")
        request = replace(request, backbone=str(file))
    before = _read(request.out)
    weights = dict(request.weights)
    if before is not None:
        of_table = before.tables.get(table.name, _OfTable(recipe=request.recipe))
        _refuse_changes(request, before, of_table)
        weights = {**of_table.weights, **weights}
    return replace(request, weights=weights)


def begin(request: Request) -> None:
    """Write down what the folder is begun with."""
    if not is_main_process():
        return
    request.out.mkdir(parents=True, exist_ok=True)
    before = _read(request.out)
    weights = {row: str(Path(w).resolve()) if Path(w).exists() else w for row, w in request.weights.items() if w}
    tables = {**(before.tables if before else {}), request.table: _OfTable(recipe=request.recipe, weights=weights)}
    now = _Begun(**_record(request), tables=tables)
    atomic_write(request.out / BEGUN, now.model_dump_json(indent=1))


def option(name: str, value: Any) -> str:
    """Return an option of a request as the command takes it."""
    if name != "settings":
        return f"--{name} {value}" if value is not None else f"no --{name}"
    return " ".join(f"{key}={json.dumps(v)}" for key, v in value.items())


def _refuse_file(out: Path) -> None:
    for place in (out, *out.parents):
        if place.exists() and not place.is_dir():
            raise InputError(f"{place} is a file; give a folder by --out")


def _read(out: Path) -> _Begun | None:
    path = out / BEGUN
    if not path.is_file():
        return None
    return read_own(path, _Begun.model_validate, "restore it, or give another --out")


def _refuse_changes(request: Request, before: _Begun, of_table: _OfTable) -> None:
    """Raise `InputError` where a request differs from what the folder, or its table, was begun with."""
    now = _record(request)
    for name in ("coco", "model", "backbone"):
        was, is_now = option(name, getattr(before, name)), option(name, now[name])
        if was != is_now:
            raise InputError(f"{request.out} was begun with {was}, now it is {is_now}; {ANOTHER}")
    for key in {**before.settings, **now["settings"]}:
        was, is_now = (
            f"{key}={json.dumps(settings[key])}" if key in settings else f"no {key}"
            for settings in (before.settings, now["settings"])
        )
        if was != is_now:
            raise InputError(f"{request.out} was begun with {was}, now it is {is_now}; {ANOTHER}")
    if of_table.recipe != request.recipe:
        was, is_now = option("recipe", of_table.recipe), option("recipe", request.recipe)
        raise InputError(f"{request.out}: table {request.table} was begun with {was}, now it is {is_now}; {ANOTHER}")


def _record(request: Request) -> dict[str, Any]:
    """Return what must stay the same from call to call, of all tables."""
    settings = {key.removeprefix("model."): value for key, value in request.settings.items()}
    return {
        "coco": str(Path(request.coco).resolve()),
        "model": request.model,
        "backbone": str(Path(request.backbone).resolve()) if request.backbone else None,
        "settings": {key: value for key, value in settings.items() if key not in WITHOUT_EFFECT},
    }
