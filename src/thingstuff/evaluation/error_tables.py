"""An error report as tables for the terminal, in percent."""

from collections import Counter
from collections.abc import Iterable

from rich.table import Column, Table
from rich.text import Text

from thingstuff.evaluation.causes import CAUSES
from thingstuff.evaluation.errors import SIZES, ClassCause, ErrorReport, WorstPicture

_ROWS_SHOWN = 10


def error_tables(report: ErrorReport, per_class: bool = False) -> list[Table]:
    """Return the tables of a report; those without a row are left out, gains read "n/a" where there is no PQ."""
    names = {row.category_id: row.name for row in report.per_class}
    tables = [_causes(report), _sizes(report), _thing_stuff(report), _confusions(report, names), _worst(report)]
    return [table for table in [*tables, *([_classes(report)] if per_class else [])] if table.row_count]


def _table(title: str, *columns: str | Column) -> Table:
    return Table(*columns, title=title, title_justify="left")


def _right(*names: str) -> list[Column]:
    return [Column(name, justify="right") for name in names]


def _percent(fraction: float | None) -> str:
    return "n/a" if fraction is None else f"{100 * fraction:.1f}"


def _causes(report: ErrorReport) -> Table:
    columns = _right("Truths", "Predictions", "+PQ", "+PQ things", "+PQ stuff")
    table = _table("Unmatched segments by cause, and PQ's rise if it were cured", "Cause", *columns)
    for row in report.causes:
        gains = map(_percent, (row.gain, row.gain_things, row.gain_stuff))
        table.add_row(row.cause, str(row.truths), str(row.predictions), *gains)
    table.add_section()
    gains = map(_percent, (report.mask_gain, report.mask_gain_things, report.mask_gain_stuff))
    table.add_row("inexact matches", "", "", *gains)
    return table


def _sizes(report: ErrorReport) -> Table:
    columns = (name for size in SIZES for name in (size, "+PQ"))
    table = _table("By size: truths / predictions, and PQ's rise", "Cause", *_right(*columns))
    for row in report.causes:
        cells = ((f"{s.truths} / {s.predictions}", _percent(s.gain)) for s in row.sizes)
        table.add_row(row.cause, *(cell for pair in cells for cell in pair))
    return table


def _thing_stuff(report: ErrorReport) -> Table:
    total = report.labelled_pixels
    kinds = ("things", "stuff", "void")
    table = _table("Pixels as predicted, % of the labelled", "", *_right(*(f"as {k}" for k in kinds)))
    for kind, row in zip(kinds, report.thing_stuff, strict=True):
        table.add_row(kind, *(_percent(pixels / total if total else None) for pixels in row))
    return table


def _confusions(report: ErrorReport, names: dict[int, str]) -> Table:
    table = _table("Confused pixels, % of the labelled", "Truth", "Predicted", *_right("Pixels"))
    for row in report.confusions[:_ROWS_SHOWN]:
        predicted = Text("(void)" if row.predicted is None else names[row.predicted])
        table.add_row(Text(names[row.truth]), predicted, _percent(row.pixels / report.labelled_pixels))
    return table


def _worst(report: ErrorReport) -> Table:
    table = _table("The worst pictures", "Picture", *_right("PQ", "Matched"), "Unmatched")
    for row in report.worst[:_ROWS_SHOWN]:
        table.add_row(Text(str(row.image_id)), _percent(row.pq), str(row.matched), _summary(row))
    return table


def _summary(picture: WorstPicture) -> str:
    counts = Counter(error.cause for error in picture.errors)
    return ", ".join(f"{counts[cause]} {cause}" for cause in CAUSES if counts[cause])


def _classes(report: ErrorReport) -> Table:
    table = _table("Per class: unmatched segments by cause, and the class's own PQ's rise", "Class", *_right(*CAUSES))
    for row in report.per_class:
        table.add_row(Text(row.name), *_cells(row.causes))
    return table


def _cells(causes: Iterable[ClassCause]) -> list[str]:
    counted = ((c.truths + c.predictions, c.gain) for c in causes)
    return [f"{count}  {'n/a' if gain is None else f'+{_percent(gain)}'}" if count else "" for count, gain in counted]
