"""What masks of each stride can reach and what they cost, as tables for the terminal."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Column, Table

from thingstuff.evaluation.errors import SIZES
from thingstuff.head_cost import Work

if TYPE_CHECKING:
    from thingstuff.ceiling import CeilingRow


def quality_table(rows: "Sequence[CeilingRow]") -> Table:
    """Return PQ in percent by input size and stride: of all classes, things, stuff, and of segments by size."""
    names = ("Input", "Stride", "PQ", "Things", "Stuff", *SIZES)
    table = Table(*(Column(name, justify="right") for name in names), title="Highest PQ", title_justify="left")
    for row, new in zip(rows, _begins(rows), strict=True):
        means = (row.pq.all, row.pq.things, row.pq.stuff, *(row.sizes[size].all for size in SIZES))
        if new and table.row_count:
            table.add_section()
        table.add_row(_input(row) if new else "", str(row.stride), *(_percent(mean.pq) for mean in means))
    return table


def cost_table(rows: "Sequence[CeilingRow]") -> Table:
    """Return multiply-adds and memory by input size and stride: once a picture and for each mask, head by head."""
    columns = [Column("Input", justify="right"), Column("Stride", justify="right")]
    for cost in rows[0].costs if rows else ():
        for what in (f"{cost.head}, once", f"each {cost.mask}"):
            columns += [Column(f"{what}: MMAC", justify="right"), Column("MiB", justify="right")]
    table = Table(*columns, title="Cost of the masks", title_justify="left")
    for row, new in zip(rows, _begins(rows), strict=True):
        cells = [cell for cost in row.costs for work in (cost.once, cost.each) for cell in _work(work)]
        if new and table.row_count:
            table.add_section()
        table.add_row(f"{row.canvas[0]} x {row.canvas[1]}" if new else "", str(row.stride), *cells)
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
