"""What an evaluation found, in one value: PQ, the other measures, and why the PQ is what it is."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from thingstuff.errors import InputError
from thingstuff.evaluation.average_precision import APResult
from thingstuff.evaluation.errors import ErrorReport
from thingstuff.evaluation.miou import SemanticResult
from thingstuff.evaluation.picture_sums import PictureSums
from thingstuff.evaluation.pq import AveragePQ, ClassPQ, PQResult, absent_note
from thingstuff.evaluation.problems import Problem
from thingstuff.evaluation.segments import ScoredPicture

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Evaluation:
    """Every measure of one prediction, as fractions (None: "n/a").

    `total` are the pictures of the ground truth, of which a lenient evaluation may leave some out. `boundary` is
    Boundary PQ and `ap` AP of the things' instances, None where they were not asked for. `left_out` is what a lenient
    evaluation did not score, and notes. `sums` are each picture's own sums, which `compare` resamples,
    and `worst` the pictures that `errors` calls the worst; JSON holds neither.
    """

    pq: PQResult
    semantic: SemanticResult
    errors: ErrorReport
    total: int
    boundary: PQResult | None = None
    ap: APResult | None = None
    left_out: tuple[Problem, ...] = ()
    sums: PictureSums | None = field(default=None, repr=False, compare=False)
    worst: tuple[ScoredPicture, ...] = field(default=(), repr=False, compare=False)

    @property
    def all(self) -> AveragePQ:
        """PQ, SQ and RQ over all classes."""
        return self.pq.all

    @property
    def things(self) -> AveragePQ:
        """PQ, SQ and RQ over the things."""
        return self.pq.things

    @property
    def stuff(self) -> AveragePQ:
        """PQ, SQ and RQ over the stuff."""
        return self.pq.stuff

    @property
    def per_class(self) -> tuple[ClassPQ, ...]:
        """PQ, SQ and RQ of each class."""
        return self.pq.per_class

    @property
    def pictures(self) -> int:
        """The pictures that were scored."""
        return self.pq.pictures

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values, exact to the bit; `from_json` reads them back."""
        return {
            **self.pq.to_json(),
            "total_pictures": self.total,
            "semantic": self.semantic.to_json(),
            "boundary": self.boundary.to_json() if self.boundary else None,
            "ap": self.ap.to_json() if self.ap else None,
            "errors": self.errors.to_json(),
            "left_out": [asdict(problem) for problem in self.left_out],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Evaluation":
        """Read what `to_json` returned. Raises `InputError` where a field is missing or wrong."""
        try:
            return cls(
                PQResult.from_json(data),
                SemanticResult.from_json(data["semantic"]),
                ErrorReport.from_json(data["errors"]),
                data["total_pictures"],
                None if data["boundary"] is None else PQResult.from_json(data["boundary"]),
                None if data["ap"] is None else APResult.from_json(data["ap"]),
                tuple(Problem(**entry) for entry in data["left_out"]),
            )
        except (KeyError, TypeError) as error:
            raise InputError(f"no evaluation: {error!r}; give what to_json() returned") from None

    @property
    def measures(self) -> dict[str, float | None]:
        """Whatever was measured besides PQ, under its usual name, as fractions."""
        found = {"mIoU": self.semantic.miou, "pixel accuracy": self.semantic.pixel_accuracy}
        if self.ap is not None:
            found |= {"AP": self.ap.ap, "AP50": self.ap.ap50, "AP75": self.ap.ap75}
        if self.boundary is not None:
            means = {"": self.boundary.all, " things": self.boundary.things, " stuff": self.boundary.stuff}
            found |= {f"Boundary PQ{name}": mean.pq for name, mean in means.items()}
        return found

    def table(self, per_class: bool = False) -> "Table":
        """Return the table of PQ, SQ and RQ as panopticapi prints it, in percent, with every class on request."""
        return self.pq.table(per_class)

    def short_tables(self, per_class: bool = False) -> "list[Table]":
        """Return the tables that say most: PQ, the other measures in a row, and the causes of error."""
        return [self.table(per_class), measures_table({"": self}), *self.errors.tables()[:1]]

    def tables(self, per_class: bool = False) -> "list[Table]":
        """Return every table for the terminal: PQ, the other measures, causes of error, confusions, worst pictures."""
        found = [self.table(per_class), self.semantic.table(per_class)]
        if self.ap is not None:
            found.append(self.ap.table(per_class))
        if self.boundary is not None:
            boundary = self.boundary.table(per_class)
            boundary.title = "Boundary PQ"
            found.append(boundary)
        return found + self.errors.tables(per_class)


def measures_table(evaluations: Mapping[str, Evaluation]) -> "Table":
    """Return a table for the terminal of what was measured besides PQ, in percent: a row for each, by its name.

    Of several, it has their pictures too where not all were scored.
    """
    from rich.table import Column, Table
    from rich.text import Text

    names = dict.fromkeys(name for evaluation in evaluations.values() for name in evaluation.measures)
    named = any(evaluations)
    counted = named and any(e.pictures != e.total for e in evaluations.values())
    headers = [*(["pictures"] if counted else []), *names]
    table = Table(*([""] if named else []), *(Column(header, justify="right") for header in headers))
    for own, evaluation in evaluations.items():
        values = (evaluation.measures.get(name) for name in names)
        cells = ["n/a" if value is None else f"{100 * value:.1f}" for value in values]
        pictures = [f"{evaluation.pictures} of {evaluation.total}"] if counted else []
        table.add_row(*([Text(own, overflow="fold")] if named else []), *pictures, *cells)
    return table


def classes_table(evaluations: Mapping[str, Evaluation]) -> "Table":
    """Return a table for the terminal of each class's PQ in percent, a column for each prediction, by its name.

    Of two, the second's difference from the first stands beside them, and the largest one first. Each prediction
    counts on its own pictures; classes that occur in none are named below the table.
    """
    from rich.table import Column, Table
    from rich.text import Text

    names = [*evaluations]
    headers = [*names, f"{names[1]} - {names[0]}"] if len(names) == 2 else names
    columns = (Column(Text(header, overflow="fold"), justify="right") for header in headers)
    rows = [*zip(*(evaluation.per_class for evaluation in evaluations.values()), strict=True)]
    notes = [absent_note([row[0].name for row in rows if all(c.pq is None for c in row)])]
    if any(e.pictures != e.total for e in evaluations.values()):
        notes.append("each prediction over its own pictures")
    caption = Text("\n".join(filter(None, notes)))
    table = Table("PQ of each class", *columns, caption=caption, caption_justify="left")
    differing = [(row, _difference(row) if len(names) == 2 else None) for row in rows]
    differing.sort(key=lambda entry: -1.0 if entry[1] is None else abs(entry[1]), reverse=True)
    for row, difference in differing:
        if any(c.pq is not None for c in row):
            cells = ["n/a" if c.pq is None else f"{100 * c.pq:.1f}" for c in row]
            # + 0.0: what rounds to nothing has no sign to show
            change = "n/a" if difference is None else f"{round(100 * difference, 1) + 0.0:+.1f}"
            table.add_row(Text(row[0].name), *cells, *([change] if len(names) == 2 else []))
    return table


def _difference(row: Sequence[ClassPQ]) -> float | None:
    first, second = (c.pq for c in row)
    return None if first is None or second is None else second - first
