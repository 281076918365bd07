"""The HTML report of a run: one page that needs nothing beside itself, the same bytes for the same input."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from thingstuff.drawing_progress import Animation
from thingstuff.errors import InputError
from thingstuff.evaluation.pq import PQResult
from thingstuff.evaluation.result import Evaluation
from thingstuff.panoptic import Categories
from thingstuff.report_page import render, why_values, write_page
from thingstuff.report_pictures import Example, drawn_examples
from thingstuff.report_progress import drawn_progress

__all__ = ["Example", "RunReport", "best_weights", "write_report"]

Points = list[tuple[float, float]]
"""(step, value) by rising step."""

_MOST_POINTS = 240


@dataclass(frozen=True)
class RunReport:
    """What a report is made of.

    `command` runs it again; `history` is metrics.jsonl: rows with `step` and `loss` (also `losses` by name, `lr`), and
    rows with `step` and `pq` ({"all", "things", "stuff"}, each with "pq", "sq", "rq"; 0 to 1 or None); `baselines` are
    results by name, shown beside `result`; `notes` are shown as they are. `evaluation` is what else was measured with
    `result`, and why; `worst` are the pictures of its `errors.worst` that are shown, worst first, `best` those of the
    highest PQ, best first; `progress` is a picture's prediction during training, empty without frames. `weights` says
    of which step those are that `result` is of, as `best_weights` does, empty where that is not known.
    """

    title: str
    command: str
    categories: Categories
    history: Sequence[Mapping[str, Any]]
    result: PQResult
    baselines: Mapping[str, PQResult] = field(default_factory=dict)
    examples: Sequence[Example] = ()
    config_yaml: str = ""
    notes: Mapping[str, str] = field(default_factory=dict)
    evaluation: Evaluation | None = None
    worst: Sequence[Example] = ()
    best: Sequence[Example] = ()
    progress: Animation = field(default_factory=Animation)
    weights: str = ""


def write_report(path: Path, report: RunReport) -> Path:
    """Write a run's report as one self-contained HTML file and return its path.

    Written aside and then renamed, so that a report already there stays whole until the new one is. Raises `InputError`
    where the file cannot be written, a row of the history has no step, an example's sizes disagree, its errors speak of
    other segments than its maps, or the progress is no GIF.
    """
    progress = drawn_progress(report.progress)
    others = progress.bytes if progress else 0
    examples, worst, best = drawn_examples(report.examples, report.worst, report.best, others=others)
    page = render(
        "report.html.jinja",
        report=report,
        evaluation=report.evaluation,
        result=report.result,
        weights=report.weights,
        charts=_charts(report.history),
        frame={"left": _LEFT, "right": _RIGHT, "bottom": _BOTTOM},
        rows=[("this model", report.result), *report.baselines.items()],
        examples=examples,
        worst=worst,
        best=best,
        progress=progress,
        **({} if report.evaluation is None else why_values(report.evaluation.errors)),
    )
    return write_page(path, page)


def best_weights(history: Sequence[Mapping[str, Any]]) -> str:
    """Return in words of which step a run's best weights are, by the PQs of its history; empty where it has none."""
    scored = [(row["step"], _at(row, ("pq", "all", "pq")) or 0.0) for row in history if "pq" in row]
    if not scored:
        return ""
    best, _ = max(scored, key=lambda row: row[1])  # of equal ones the first, which the training keeps
    if len(scored) == 1:
        return f"step {best:,}"
    last = scored[-1][0]
    of_all = f"of the {len(scored)} evaluations in training"
    return f"step {best:,}, the last and best {of_all}" if best == last else f"step {best:,}, the best {of_all}"


@dataclass(frozen=True)
class Curve:
    """A named line of a chart: the SVG polyline's points, and the dots to draw where there are few.

    `steps` and `values` are those points in words, parted by spaces, for who points at them.
    """

    name: str
    polyline: str
    steps: str
    values: str
    dots: list[tuple[float, float, str]]


@dataclass(frozen=True)
class Chart:
    """A chart ready for the template: positions are in the units of the SVG's view box, 0 0 440 240."""

    title: str
    caption: str
    curves: list[Curve]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]


_LEFT, _RIGHT, _TOP, _BOTTOM = 64.0, 428.0, 10.0, 208.0


def _charts(history: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """Return the charts of a history, without those that it has no numbers for."""
    for number, row in enumerate(history, 1):
        if not isinstance(row.get("step"), int | float):
            raise InputError(f"history row {number} has no step; every row of metrics.jsonl needs a number there")
    parts = sorted({name for row in history for name in row.get("losses") or {}})
    quality = {kind: _points(history, "pq", kind, "pq") for kind in ("all", "things", "stuff")}
    charts = [
        _chart("Loss", {"total": _points(history, "loss")}, log=True),
        _chart("Loss by part", {name: _points(history, "losses", name) for name in parts}, log=True),
        _chart("PQ during training, %", {kind: [(s, 100 * v) for s, v in points] for kind, points in quality.items()}),
        _chart("Learning rate", {"learning rate": _points(history, "lr")}),
    ]
    return [chart for chart in charts if chart is not None]


def _points(history: Iterable[Mapping[str, Any]], *keys: str) -> Points:
    """Return the finite values of one quantity, found in each row by following the keys."""
    pairs = [(float(row["step"]), _at(row, keys)) for row in history]
    return sorted((step, float(value)) for step, value in pairs if value is not None and math.isfinite(value))


def _at(row: Mapping[str, Any], keys: Sequence[str]) -> Any:
    value: Any = row
    for key in keys:
        value = (value or {}).get(key)
    return value


def _chart(title: str, lines: Mapping[str, Points], log: bool = False) -> Chart | None:
    """Lay out a chart; `log` asks for a logarithmic axis where the values span much. None where there is no point."""
    lines = {name: points for name, points in lines.items() if points}
    if not lines:
        return None
    together = -(-max(len(points) for points in lines.values()) // _MOST_POINTS)
    lines = {name: _means(points, together) for name, points in lines.items()}
    steps = [step for points in lines.values() for step, _ in points]
    values = [value for points in lines.values() for _, value in points]
    log = log and min(values) > 0 and max(values) > 30 * min(values)
    x_low, x_high = min(0.0, *steps), max(*steps, 1.0)
    y_low, y_high, y_values = _log_axis(values) if log else _linear_axis(values)
    scale_x = _scale(x_low, x_high, _LEFT, _RIGHT)
    scale_y = _scale(math.log(y_low), math.log(y_high), _BOTTOM, _TOP) if log else _scale(y_low, y_high, _BOTTOM, _TOP)
    place = [
        (name, [(scale_x(s), scale_y(math.log(v) if log else v), s, v) for s, v in p]) for name, p in lines.items()
    ]
    notes = (["logarithmic"] if log else []) + ([f"each point is the mean of {together} rows"] if together > 1 else [])
    return Chart(
        title,
        ", ".join(notes),
        [_curve(name, placed) for name, placed in place],
        [(scale_x(x), f"{x:,.0f}") for x in _ticks(x_low, x_high, least=1.0)],
        [(scale_y(math.log(y) if log else y), f"{y:.4g}") for y in y_values],
    )


def _curve(name: str, placed: list[tuple[float, float, float, float]]) -> Curve:
    dots = [(x, y, f"{name}: {value:.4g} at step {step:,.0f}") for x, y, step, value in placed]
    return Curve(
        name,
        " ".join(f"{x:.1f},{y:.1f}" for x, y, _, _ in placed),
        " ".join(f"{step:,.0f}" for _, _, step, _ in placed),
        " ".join(f"{value:.4g}" for _, _, _, value in placed),
        dots if len(dots) <= 40 else [],
    )


def _means(points: Points, together: int) -> Points:
    """Return the mean of every so many points."""
    groups = [points[i : i + together] for i in range(0, len(points), together)]
    return [(sum(s for s, _ in g) / len(g), sum(v for _, v in g) / len(g)) for g in groups]


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    return lambda value: start + (value - low) / (high - low) * (end - start)


def _linear_axis(values: Sequence[float]) -> tuple[float, float, list[float]]:
    """Return an axis from 0 (or below) to a round number above the values: its ends and its ticks."""
    low, high = min(0.0, *values), max(0.0, *values)
    high = high if high > low else low + 1.0
    ticks = _ticks(low, high)
    step = ticks[1] - ticks[0]
    top = high if high <= ticks[-1] else ticks[-1] + step
    return min(low, ticks[0]), top, [*ticks, top] if top > ticks[-1] else ticks


def _log_axis(values: Sequence[float]) -> tuple[float, float, list[float]]:
    """Return a logarithmic axis around positive values: its ends and its ticks at powers of ten (1, 2, 5 if few)."""
    low, high = min(values), max(values)
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    fine, coarse = (
        [tick for e in exponents for factor in factors if low <= (tick := factor * 10.0**e) <= high]
        for factors in ((1, 2, 5), (1,))
    )
    return low, high, fine if len(fine) <= 8 else coarse[:: -(-len(coarse) // 8)]


def _ticks(low: float, high: float, least: float = 0.0) -> list[float]:
    """Return about five round numbers (1, 2 or 5 times a power of ten apart, at least `least`) from low to high."""
    rough = max((high - low) / 5, least)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]
