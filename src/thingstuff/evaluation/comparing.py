"""Several predictions for the same pictures side by side, with bootstrap confidence intervals over the pictures.

The percentile bootstrap (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13): pictures are drawn
with replacement, as many as there are, and PQ is computed anew; every prediction gets the same draws.

Letters: R resamples, N pictures, C classes.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64

from thingstuff.errors import InputError
from thingstuff.evaluation.picture_sums import PictureSums
from thingstuff.evaluation.pq import Progress
from thingstuff.panoptic import Categories

if TYPE_CHECKING:
    from rich.table import Table

GROUPS = ("all", "things", "stuff")
MEASURES = ("pq", "sq", "rq")
INTERVAL = (2.5, 97.5)
"""The percentiles between which 95 % of the resamples lie."""
FEW_PICTURES = 20
"""Below so many the interval of a percentile bootstrap is too narrow to be relied on."""
_CHUNK = 512


class Estimate(NamedTuple):
    """A value over all pictures compared and its 95 % interval, as fractions; None where no class occurs."""

    value: float | None
    low: float | None
    high: float | None


class Difference(NamedTuple):
    """A prediction's value less the first one's, as `Estimate`; `above`: share of the resamples in which it is > 0."""

    value: float | None
    low: float | None
    high: float | None
    above: float | None

    @property
    def clear(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class ComparisonRow:
    """One measure ("pq", "sq", "rq") of one group ("all", "things", "stuff") of classes.

    `values` has an entry for each prediction, `differences` for each but the first.
    """

    group: str
    measure: str
    values: tuple[Estimate, ...]
    differences: tuple[Difference, ...]


@dataclass(frozen=True)
class Comparison:
    """Predictions by name against the first of them, over the `pictures` that all of them have.

    `scored` says how many each prediction has on its own; `rows` go by group, then measure.
    """

    names: tuple[str, ...]
    rows: tuple[ComparisonRow, ...]
    pictures: int
    scored: tuple[int, ...]
    resamples: int
    seed: int

    def row(self, group: str, measure: str) -> ComparisonRow:
        """Return one row; raises `InputError` where there is none of that name."""
        for row in self.rows:
            if (row.group, row.measure) == (group, measure):
                return row
        raise InputError(f"no row {group!r}, {measure!r}; groups: {', '.join(GROUPS)}; measures: {', '.join(MEASURES)}")

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values, exact to the bit; `from_json` reads them back."""
        rows = [
            {
                "group": row.group,
                "measure": row.measure,
                "values": [estimate._asdict() for estimate in row.values],
                "differences": [difference._asdict() for difference in row.differences],
            }
            for row in self.rows
        ]
        counts = {"pictures": self.pictures, "scored": list(self.scored)}
        return {"names": list(self.names), **counts, "resamples": self.resamples, "seed": self.seed, "rows": rows}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Comparison":
        """Read what `to_json` returned. Raises `InputError` where a field is missing or wrong."""
        try:
            rows = [
                ComparisonRow(
                    row["group"],
                    row["measure"],
                    tuple(Estimate(**entry) for entry in row["values"]),
                    tuple(Difference(**entry) for entry in row["differences"]),
                )
                for row in data["rows"]
            ]
            counts = data["pictures"], tuple(data["scored"]), data["resamples"], data["seed"]
            return cls(tuple(data["names"]), tuple(rows), *counts)
        except (KeyError, TypeError) as error:
            raise InputError(f"no comparison: {error!r}; give what to_json() returned") from None

    def table(self) -> "Table":
        """Return a table for the terminal, in percent: predictions side by side, then the differences to the first.

        A difference stands with its interval and, where that excludes 0, a star, and with the share above 0; a single
        prediction with its own intervals.
        """
        from rich.table import Column, Table
        from rich.text import Text

        first, *others = self.names
        headers = [*self.names]
        for name in others:
            headers += [f"{name} - {first}", "above 0"]
        columns = (Column(Text(header, overflow="fold"), justify="right") for header in headers)
        table = Table("", *columns, caption=Text("\n".join(self._notes())), caption_justify="left")
        for row in self.rows:
            cells = [Text(_percent(estimate) if others else _percent_within(estimate)) for estimate in row.values]
            for difference in row.differences:
                bold = "bold" if difference.clear else ""
                cells += [Text(_points_within(difference), bold), Text(_share(difference.above))]
            table.add_row(f"{row.group.capitalize()} {row.measure.upper()}", *cells, end_section=row.measure == "rq")
        return table

    def _notes(self) -> list[str]:
        pictures = f"{self.pictures} picture{'s' * (self.pictures != 1)}"
        notes = [f"[95 % intervals] from {self.resamples} resamples of {pictures} (seed {self.seed})"]
        if len(self.names) > 1:
            notes[0] += "; * excludes 0"
        if len({self.pictures, *self.scored}) > 1:
            scored = ", ".join(f"{name} {count}" for name, count in zip(self.names, self.scored, strict=True))
            notes.append(f"only pictures that all predictions have are compared; scored: {scored}")
        if self.pictures < FEW_PICTURES:
            notes.append(f"with fewer than {FEW_PICTURES} pictures the intervals are unreliable")
        return notes


def compare_sums(
    sums: Mapping[str, PictureSums], resamples: int = 1000, seed: int = 0, progress: Progress | None = None
) -> Comparison:
    """Compare predictions by name with the first of them; the pictures that all have take part, in any order.

    `progress` is told (pictures done, of how many). Raises `InputError` where there is no prediction or no common
    picture, categories differ, a picture was added twice, a sum is not finite, or a number is out of range.
    """
    if resamples < 1 or seed < 0:
        raise InputError(f"resamples is {resamples}, seed {seed}; give at least 1 resample and a seed from 0")
    categories = _shared_categories(sums)
    positions = _shared_positions(sums)
    pictures = positions[0].size

    def weights() -> Iterator[Int64[np.ndarray, "R _"]]:
        done = 0
        for counts in resample_counts(pictures, resamples, seed):
            yield np.concatenate([np.ones_like(counts[:1]), counts])  # first of all, the pictures themselves
            done += counts.shape[1]
            if progress:
                progress(done, pictures)

    totals = resampled_totals(tuple(sums.values()), positions, weights())
    for name, total in zip(sums, totals, strict=True):
        if not np.isfinite(total).all():
            raise InputError(f"{name}: an IoU is not finite; correct the areas that the ground truth states")
    samples = [qualities(total, np.array(categories.things, bool)) for total in totals]
    scored = tuple(len(store) for store in sums.values())
    return Comparison(tuple(sums), _rows(samples), pictures, scored, resamples, seed)


def resample_counts(
    pictures: int, resamples: int, seed: int, chunk: int = _CHUNK
) -> Iterator[Int64[np.ndarray, "R _"]]:
    """Yield how often each resample draws each picture, `chunk` pictures at a time; each resample adds up to all.

    A multinomial distribution over all pictures: the draws that fall into a chunk are binomial among those left, and
    are spread over it evenly.
    """
    random = np.random.default_rng(seed)
    left = np.full(resamples, pictures, np.int64)
    for start in range(0, pictures, chunk):
        size = min(chunk, pictures - start)
        draws = random.binomial(left, size / (pictures - start))
        left -= draws
        drawn = random.integers(size, size=int(draws.sum())) + np.repeat(np.arange(resamples) * size, draws)
        yield np.bincount(drawn, minlength=resamples * size).astype(np.int64, copy=False).reshape(resamples, size)


def resampled_totals(
    stores: Sequence[PictureSums],
    positions: Sequence[Int64[np.ndarray, "N"]],
    weights: Iterable[Int64[np.ndarray, "R _"]],
) -> list[Float64[np.ndarray, "R C 4"]]:
    """Add up IoU sum, TP, FP and FN per class, each picture as often as its weight says.

    `weights` come in chunks over the pictures, and apply to the picture at the same place in each of `positions`.
    """
    totals: list[Any] = [0.0] * len(stores)
    done = 0
    for chunk in weights:
        factors, size = chunk.astype(np.float64), chunk.shape[1]
        for number, (store, places) in enumerate(zip(stores, positions, strict=True)):
            sums = store.sums_at(places[done : done + size])
            with np.errstate(invalid="ignore"):  # 0 x inf: the caller looks at what is not finite
                totals[number] += factors @ sums.reshape(size, -1)
        done += size
    return [total.reshape(len(total), -1, 4) for total in totals]


def qualities(
    totals: Float64[np.ndarray, "R C 4"], things: Bool[np.ndarray, "C"]
) -> Float64[np.ndarray, "R groups measures"]:
    """Return PQ, SQ and RQ (last axis) of all classes, things and stuff, as fractions; NaN where no class occurs.

    Means over the classes that occur in the resample, as `pq.AveragePQ`.
    """
    iou, tp, fp, fn = np.moveaxis(totals, -1, 0)
    occurrences = tp + 0.5 * fp + 0.5 * fn
    divisor = np.where(occurrences > 0, occurrences, 1)
    per_class = np.stack([iou / divisor, iou / np.where(tp > 0, tp, 1), tp / divisor], axis=-1)
    groups = []
    for group in (np.ones_like(things), things, ~things):
        counted = (occurrences > 0) & group
        with np.errstate(invalid="ignore"):
            groups.append((per_class * counted[..., None]).sum(axis=1) / counted.sum(axis=1, keepdims=True))
    return np.stack(groups, axis=1)


def _shared_categories(sums: Mapping[str, PictureSums]) -> Categories:
    if not sums:
        raise InputError("there is no prediction to compare; give at least one")
    (first, store), *others = sums.items()
    for name, other in others:
        if other.categories != store.categories:
            raise InputError(f"{first} and {name} were scored with different categories; use one ground truth for both")
    return store.categories


def _shared_positions(sums: Mapping[str, PictureSums]) -> list[Int64[np.ndarray, "N"]]:
    """Return where each store has the pictures that all have, in the first one's order."""
    keys = [store.keys() for store in sums.values()]
    for name, own in zip(sums, keys, strict=True):
        if np.unique(own).size != own.size:
            raise InputError(f"{name}: a picture was added twice; add each picture once")
    common = keys[0]
    for own in keys[1:]:
        common = common[np.isin(common, own)]
    if not common.size:
        raise InputError(f"no picture is scored in all of {', '.join(sums)}; predict the same pictures")
    orders = [np.argsort(own) for own in keys]
    return [order[np.searchsorted(own, common, sorter=order)] for own, order in zip(keys, orders, strict=True)]


def _rows(samples: Sequence[Float64[np.ndarray, "R groups measures"]]) -> tuple[ComparisonRow, ...]:
    rows = []
    for g, group in enumerate(GROUPS):
        for m, measure in enumerate(MEASURES):
            first, *others = (sample[:, g, m] for sample in samples)
            values = tuple(Estimate(*_interval(sample)) for sample in (first, *others))
            differences = tuple(_difference(sample - first) for sample in others)
            rows.append(ComparisonRow(group, measure, values, differences))
    return tuple(rows)


def _difference(sample: Float64[np.ndarray, "R"]) -> Difference:
    defined = sample[1:][~np.isnan(sample[1:])]
    return Difference(*_interval(sample), float((defined > 0).mean()) if defined.size else None)


def _interval(sample: Float64[np.ndarray, "R"]) -> tuple[float | None, float | None, float | None]:
    """Return the value, which stands first, and the interval of the resamples behind it."""
    value = None if np.isnan(sample[0]) else float(sample[0])
    defined = sample[1:][~np.isnan(sample[1:])]
    if not defined.size:
        return value, None, None
    low, high = np.percentile(defined, INTERVAL)
    return value, float(low), float(high)


def _percent(estimate: Estimate) -> str:
    return "n/a" if estimate.value is None else f"{100 * estimate.value:.1f}"


def _percent_within(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return _percent(estimate)
    return f"{_percent(estimate)} [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"


def _points_within(difference: Difference) -> str:
    if difference.value is None or difference.low is None or difference.high is None:
        return "n/a"
    # + 0.0: what rounds to nothing has no sign to show
    value, low, high = (f"{round(100 * v, 2) + 0.0:+.2f}" for v in (difference.value, difference.low, difference.high))
    return f"{value} [{low}, {high}]{' *' if difference.clear else '  '}"


def _share(above: float | None) -> str:
    return "n/a" if above is None else f"{100 * above:.0f} %"
