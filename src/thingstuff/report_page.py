"""What the pages of a run and of an evaluation have in common: templates, numbers in words, causes, writing."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from thingstuff.error_pictures import CAUSE_COLOURS
from thingstuff.errors import InputError
from thingstuff.evaluation.error_tables import causes_in_words
from thingstuff.evaluation.errors import ErrorReport
from thingstuff.evaluation.problems import KINDS, Problem, Problems
from thingstuff.io import atomic_write

MEANINGS: Mapping[str, str] = {
    "missed": "nothing predicted comes near it",
    "false": "nothing in the ground truth comes near it",
    "wrong class": "the mask fits, the class does not",
    "split": "one segment, predicted in several parts",
    "merged": "several segments of one class, predicted as one",
    "poor mask": "found, but the masks overlap too little (IoU 0.1 to 0.5)",
    "duplicate": "lies in a segment that another prediction matches",
}
"""Each cause in half a sentence; docs/causes.md defines them."""

_PROBLEMS_LISTED = 10
_CONFUSIONS_LISTED = 12


def render(template: str, **values: Any) -> str:
    """Fill in a template of the package."""
    from jinja2 import Environment, PackageLoader, StrictUndefined  # most commands that load this write no report

    environment = Environment(
        loader=PackageLoader("thingstuff"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["percent"] = percent
    environment.filters["points"] = points
    environment.filters["counted"] = counted
    environment.filters["css_color"] = lambda color: "#{:02x}{:02x}{:02x}".format(*color)
    environment.filters["causes"] = causes_in_words
    environment.globals["meanings"] = MEANINGS
    environment.globals["cause_colours"] = CAUSE_COLOURS
    return environment.get_template(template).render(**values)


def write_page(path: Path, page: str) -> Path:
    """Write a page aside, then rename it, so that one already there stays whole until then; return its path.

    Raises `InputError` where the file cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # a name may hold half a character, which UTF-8 has no bytes for
        atomic_write(path, page.encode(errors="backslashreplace"))
    except OSError as error:
        raise InputError(
            f"{path}: the page cannot be written ({error.strerror or error}); give a file in a folder with room"
        ) from error
    return path


def percent(fraction: float | None) -> str:
    """Return a fraction as a percentage with one decimal, "n/a" for None."""
    return "n/a" if fraction is None else f"{100 * fraction:.1f}"


def counted(count: int, one: str, several: str) -> str:
    """Return a count with the word for one, or for several."""
    return f"{count:,} {one if count == 1 else several}"


def points(gain: float | None) -> str:
    """Return a rise as percentage points with a sign, "n/a" for None."""
    # + 0.0: what rounds to nothing has no minus to show
    return "n/a" if gain is None else f"{round(100 * gain, 1) + 0.0:+.1f}"


def why_values(errors: ErrorReport) -> dict[str, Any]:
    """Return what the templates about causes need."""
    gains = [row.gain for row in errors.causes] + [errors.mask_gain]
    return {
        "errors": errors,
        "class_names": {row.category_id: row.name for row in errors.per_class},
        "largest_gain": max((gain for gain in gains if gain is not None), default=0.0),
        "confusions": errors.confusions[:_CONFUSIONS_LISTED],
        "classes_with_causes": [row for row in errors.per_class if any(c.truths + c.predictions for c in row.causes)],
    }


def problem_values(left_out: Iterable[Problem]) -> dict[str, Any]:
    """Return what the templates about problems need: by kind some of them and how many more, and their number."""
    by_kind: dict[str, list[Problem]] = {}
    for problem in left_out:
        by_kind.setdefault(problem.kind, []).append(problem)
    groups = [
        (kind, by_kind[name][:_PROBLEMS_LISTED], max(0, len(by_kind[name]) - _PROBLEMS_LISTED))
        for name, kind in KINDS.items()
        if name in by_kind
    ]
    problems = Problems(problem for found in by_kind.values() for problem in found)
    return {"left_out": groups, "left_out_count": problems.count() if problems.grave else ""}
