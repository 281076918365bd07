"""The list of recipes with what others measured of their models."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from thingstuff.models.base import PreprocessConfig
from thingstuff.published import FIGURES, NONE
from thingstuff.recipes import RECIPES

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = {
    "pq": "PQ",
    "sq": "SQ",
    "rq": "RQ",
    "pq_things": "PQth",
    "pq_stuff": "PQst",
    "ap": "AP",
    "miou": "mIoU",
}
"""Figures and their heads; percent."""
ABOUT, FIGURE = 24, 5
"""Characters that a meaning, which may go over several lines, and a figure with its mark need."""


def recipe_rows() -> list[dict[str, Any]]:
    """Return every recipe's name, model (None: any), meaning, steps or epochs, and its source's figures in percent."""
    rows = []
    for name, make in RECIPES.items():
        recipe, figures = make(PreprocessConfig()), FIGURES.get(name, NONE)
        lengths = [
            {"steps": stage.steps} if stage.epochs is None else {"epochs": stage.epochs}
            for stage in recipe.train.stages
        ]
        measured = {key: getattr(figures, key) for key in COLUMNS}
        head = {"recipe": name, "model": recipe.model_name, "about": recipe.about, "stages": lengths}
        rows.append({**head, **measured, "source": figures.source, "mark": figures.mark})
    return rows


def recipe_table(width: int = 160) -> "Table":
    """Return the recipes as a table for a terminal of so many characters; its caption names the figures' sources.

    Where a line has no room for them, models and meanings are left out, so that names and figures stay whole.
    """
    from rich.table import Column, Table

    rows = recipe_rows()
    whole = width >= _needed(rows)
    figures = [Column(head, justify="right", no_wrap=True) for head in COLUMNS.values()]
    texts = [Column("model", no_wrap=True), Column("what it is")] if whole else []
    table = Table(Column("recipe", no_wrap=True), *texts, *figures, caption_justify="left")
    if not whole:
        table.box, table.padding, table.pad_edge = None, (0, 1, 0, 0), False
    for row in rows:
        values = ["-" if row[key] is None else f"{row[key]:.1f}{row['mark']}" for key in COLUMNS]
        meaning = [row["model"] or "any", row["about"]] if whole else []
        table.add_row(row["recipe"], *meaning, *values)
    table.caption = _caption(rows)
    if not whole:
        table.caption += "\nModels and meanings are shown in a wider terminal, or by --json."
    return table


def _needed(rows: Sequence[Mapping[str, Any]]) -> int:
    """Return the width from which the table has room for models and meanings."""
    names = max(len(row["recipe"]) for row in rows) + max(len(row["model"] or "any") for row in rows)
    return names + ABOUT + FIGURE * len(COLUMNS) + 3 * (3 + len(COLUMNS)) + 1


def _caption(rows: Sequence[Mapping[str, Any]]) -> str:
    sources = dict.fromkeys((row["mark"], row["source"]) for row in rows if row["source"])
    lines = [f"{mark} {source}".strip() for mark, source in sources]
    last = "- not in the sources that we could read"
    return "\n".join(["Figures of others, none measured by this project:", *lines, last])
