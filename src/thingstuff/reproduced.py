"""Files of a reproduced table: the paper's figures and the measured ones side by side, as Markdown and JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thingstuff.evaluation.result import Evaluation
from thingstuff.io import atomic_write
from thingstuff.published import UNCHECKED
from thingstuff.tables import CHECKED, Row, Table

HEADS = {
    "pq": "PQ",
    "sq": "SQ",
    "rq": "RQ",
    "pq_things": "PQth",
    "sq_things": "SQth",
    "rq_things": "RQth",
    "pq_stuff": "PQst",
    "sq_stuff": "SQst",
    "rq_stuff": "RQst",
    "ap": "AP",
    "miou": "mIoU",
}
NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Measured:
    """What was measured of a row: the result, the folder that holds it, and the weights where they were given."""

    result: Evaluation
    folder: Path
    weights: str | None = None


def measured_figures(result: Evaluation) -> dict[str, float | None]:
    """Return what an evaluation measured of a table's columns, in percent; None where no class of the kind occurs."""
    means = {"": result.all, "_things": result.things, "_stuff": result.stuff}
    figures = {f"{name}{ending}": getattr(mean, name) for ending, mean in means.items() for name in ("pq", "sq", "rq")}
    figures["miou"] = result.semantic.miou
    if result.ap is not None:
        figures["ap"] = result.ap.ap
    return {name: None if value is None else 100 * value for name, value in figures.items()}


def write_table(
    out: Path, table: Table, measured: Mapping[str, Measured], other: Sequence[str], recipe: str | None = None
) -> tuple[Path, Path]:
    """Write a table with its rows' results and the folders that hold them; return the Markdown and the JSON file.

    `other` is in what the training differs from the paper's, `recipe` what all rows were trained with instead of
    their own.
    """
    rows = [_row(out, table, row, measured.get(row.name), recipe) for row in table.rows]
    source = CHECKED if table.checked else UNCHECKED
    head = {"table": table.name, "title": table.title, "paper": source, "checked": table.checked}
    markdown, plain = out / f"{table.name}.md", out / f"{table.name}.json"
    atomic_write(plain, json.dumps({**head, "measured_with": list(other), "rows": rows}, indent=1) + "\n")
    atomic_write(markdown, _markdown(table, rows, other))
    return markdown, plain


def _row(out: Path, table: Table, row: Row, measured: Measured | None, recipe: str | None) -> dict[str, Any]:
    ours = {} if measured is None else measured_figures(measured.result)
    return {
        "row": row.name,
        "recipe": recipe or row.recipe,
        "settings": dict(row.settings),
        "paper": {key: getattr(row.paper, key) for key in table.columns},
        "measured": {key: ours[key] for key in table.columns if key in ours},
        "pictures": None if measured is None else measured.result.pictures,
        "run": None if measured is None else measured.folder.relative_to(out).as_posix(),
        "weights": None if measured is None else measured.weights,
    }


def _markdown(table: Table, rows: Sequence[Mapping[str, Any]], other: Sequence[str]) -> str:
    mark = "" if table.checked else " †"
    lines = [f"# {table.title}", "", f"Table `{table.name}`; percent."]
    lines += [f"Measured with {', '.join(f'`{o}`' for o in other)}: not the paper's training."] if other else []
    lines += ["", "| row | | " + " | ".join(HEADS[key] for key in table.columns) + " |"]
    lines += ["|---|---|" + "---:|" * len(table.columns)]
    for row in rows:
        theirs = [_percent(row["paper"][key], "-") for key in table.columns]
        ours = [_measured(row, key) for key in table.columns]
        lines += [f"| {row['row']} | paper{mark} | {' | '.join(theirs)} |"]
        lines += [f"| | measured | {' | '.join(ours)} |"]
    lines += ["", f"{mark.strip() or 'Paper:'} {CHECKED if table.checked else UNCHECKED}.", ""]
    given = [row for row in rows if row["weights"]]
    lines += [f"- Row {row['row']}: weights `{row['weights']}` given, not trained here" for row in given]
    lines += [""] if given else []
    lines += [f"[{row['row']}]: {row['run']}" for row in rows if row["run"]]
    lines += [""] if any(row["run"] for row in rows) else []
    return "\n".join(lines)


def _measured(row: Mapping[str, Any], key: str) -> str:
    if key not in row["measured"]:
        return NOT_MEASURED
    return f"[{_percent(row['measured'][key], 'n/a')}][{row['row']}]"


def _percent(value: float | None, missing: str) -> str:
    return missing if value is None else f"{value:.1f}"
