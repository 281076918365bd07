"""An error report as tables for the terminal, in percent."""

from collections import Counter
from collections.abc import Iterable
from math import isnan

from rich.table import Column, Table
from rich.text import Text

from thingstuff.evaluation.causes import CAUSES, SegmentError
from thingstuff.evaluation.errors import SIZES, ClassCause, ErrorReport

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
    return "n/a" if fraction is None or isnan(fraction) else f"{100 * fraction:.1f}"


def _causes(report: ErrorReport) -> Table:
    columns = Column("Cause", no_wrap=True), *_right("Truths", "Predictions", "+PQ", "+PQ things", "+PQ stuff")
    table = _table("Unmatched segments by cause, and PQ's rise if it were cured", *columns)
    for row in report.causes:
        gains = map(_percent, (row.gain, row.gain_things, row.gain_stuff))
        table.add_row(row.cause, str(row.truths), str(row.predictions), *gains)
    table.add_section()
    gains = map(_percent, (report.mask_gain, report.mask_gain_things, report.mask_gain_stuff))
    table.add_row("inexact matches", "", "", *gains)
    return table


def _sizes(report: ErrorReport) -> Table:
    columns = (name for size in SIZES for name in (size, "+PQ"))
    table = _table("By size: truths / predictions, and PQ's rise", Column("Cause", no_wrap=True), *_right(*columns))
    for row in report.causes:
        cells = ((f"{s.truths} / {s.predictions}", _percent(s.gain)) for s in row.sizes)
        table.add_row(row.cause, *(cell for pair in cells for cell in pair))
    return table


def _thing_stuff(report: ErrorReport) -> Table:
    total = report.labelled_pixels
    columns = _right("as things", "as stuff", "as void")
    table = _table("Pixels as predicted, % of the labelled", "Ground truth", *columns)
    # those that the ground truth leaves void are not labelled
    for kind, row in zip(("things", "stuff"), report.thing_stuff[:2], strict=True):
        table.add_row(kind, *(_percent(pixels / total if total else None) for pixels in row))
    return table


def _confusions(report: ErrorReport, names: dict[int, str]) -> Table:
    table = _table("Confused pixels, % of the labelled", "Truth", "Predicted", *_right("Pixels"))
    for row in report.confusions[:_ROWS_SHOWN]:
        predicted = Text("(void)" if row.predicted is None else names[row.predicted])
        table.add_row(Text(names[row.truth]), predicted, _percent(row.pixels / report.labelled_pixels))
    return table


def _worst(report: ErrorReport) -> Table:
    table = _table("The worst pictures", "Picture", *_right("PQ", "Matched"), "Unmatched: truths / predictions")
    for row in report.worst[:_ROWS_SHOWN]:
        table.add_row(Text(str(row.image_id)), _percent(row.pq), str(row.matched), causes_in_words(row.errors))
    return table


def cause_counts(errors: Iterable[SegmentError]) -> dict[str, str]:
    """Return how many truths / predictions have each cause that occurs, in the order of `CAUSES`."""
    counts = Counter((error.cause, error.is_truth) for error in errors)
    pairs = {cause: (counts[cause, True], counts[cause, False]) for cause in CAUSES}
    return {cause: f"{truths}/{predictions}" for cause, (truths, predictions) in pairs.items() if truths + predictions}


def causes_in_words(errors: Iterable[SegmentError]) -> str:
    """Return how many truths / predictions have each cause, as "1/2 split"."""
    return ", ".join(f"{counted} {cause}" for cause, counted in cause_counts(errors).items())


def _classes(report: ErrorReport) -> Table:
    title = "Per class: unmatched truths / predictions by cause, and the class's own PQ's rise"
    table = _table(title, "Class", *_right(*CAUSES))
    for row in report.per_class:
        table.add_row(Text(row.name), *_cells(row.causes))
    return table


def _cells(causes: Iterable[ClassCause]) -> list[str]:
    return [_cell(cause) if cause.truths + cause.predictions else "" for cause in causes]


def _cell(cause: ClassCause) -> str:
    gain = "n/a" if cause.gain is None else f"+{_percent(cause.gain)}"
    return f"{cause.truths}/{cause.predictions} {gain}"
