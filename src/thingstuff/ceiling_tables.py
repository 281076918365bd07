"""What masks of each stride leave of a data set and what they cost, as tables for terminals of 80 columns."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Column, Table

from thingstuff.evaluation.errors import SIZES
from thingstuff.head_cost import Work

if TYPE_CHECKING:
    from thingstuff.ceiling import CeilingRow

_LEFT = "PQ that is left of the ground truth"
_UNITS = "MMAC: millions of multiply-adds.\nMiB kept: fp32 that a training keeps to learn from."


def quality_table(rows: "Sequence[CeilingRow]") -> Table:
    """Return PQ in percent by input size and stride: of all classes, things, stuff, and of segments by size."""
    names = ("Input", "Stride", "PQ", "Things", "Stuff", *SIZES)
    table = Table(*(Column(name, justify="right") for name in names), title=_LEFT, title_justify="left")
    for row, new in zip(rows, _begins(rows), strict=True):
        means = (row.pq.all, row.pq.things, row.pq.stuff, *(row.sizes[size].all for size in SIZES))
        if new and table.row_count:
            table.add_section()
        table.add_row(_input(row) if new else "", str(row.stride), *(_percent(mean.pq) for mean in means))
    return table


def cost_tables(rows: "Sequence[CeilingRow]") -> tuple[Table, ...]:
    """Return multiply-adds and memory by input size and stride, once a picture and for each mask: a table a model."""
    return tuple(_cost_table(rows, n) for n in range(len(rows[0].costs) if rows else 0))


def _cost_table(rows: "Sequence[CeilingRow]", which: int) -> Table:
    first = rows[0].costs[which]
    names = [f"{when}:\n{what}" for when in ("Once", f"Each {first.mask}") for what in ("MMAC", "MiB kept")]
    table = Table(
        *(Column(name, justify="right") for name in ("Input", "Stride", *names)),
        title=f"Cost of the masks of {first.head}",
        title_justify="left",
        caption=_UNITS,
        caption_justify="left",
    )
    for row, new in zip(rows, _begins(rows), strict=True):
        cost = row.costs[which]
        if new and table.row_count:
            table.add_section()
        where = f"{row.canvas[0]} x {row.canvas[1]}" if new else ""
        table.add_row(where, str(row.stride), *_work(cost.once), *_work(cost.each))
    return table


def _begins(rows: "Sequence[CeilingRow]") -> list[bool]:
    """Return which rows begin another input size."""
    sides = [row.short_side for row in rows]
    return [n == 0 or side != sides[n - 1] for n, side in enumerate(sides)]


def _input(row: "CeilingRow") -> str:
    return f"{row.short_side} to {row.max_side}"


def _work(work: Work) -> tuple[str, str]:
    return _figure(work.multiply_adds / 1e6, 4), _figure(work.bytes / 2**20, 3)


def _figure(value: float, digits: int) -> str:
    """Return a number rounded to so many digits, without an exponent."""
    return f"{float(f'{value:.{digits}g}'):,.10g}"


def _percent(value: float | None) -> str:
    return "n/a" if value is None else f"{100 * value:.1f}"
