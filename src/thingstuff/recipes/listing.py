"""The list of recipes with what others measured of their models."""

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


def recipe_table() -> "Table":
    """Return the recipes as a table for the terminal; its caption names the figures' sources."""
    from rich.table import Column, Table

    rows = recipe_rows()
    figures = [Column(head, justify="right", no_wrap=True) for head in COLUMNS.values()]
    table = Table(Column("recipe", no_wrap=True), "model", "what it is", *figures, caption_justify="left")
    for row in rows:
        values = ["-" if row[key] is None else f"{row[key]:.1f}{row['mark']}" for key in COLUMNS]
        table.add_row(row["recipe"], row["model"] or "any", row["about"], *values)
    sources = dict.fromkeys((row["mark"], row["source"]) for row in rows if row["source"])
    table.caption = "Figures of others, none measured by this project:\n" + "\n".join(
        f"{mark} {source}".strip() for mark, source in sources
    )
    return table
