"""Panoptic quality (Kirillov et al., Panoptic Segmentation, CVPR 2019), to the bit as COCO's panopticapi sums it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import reduce
from math import inf
from operator import add
from typing import TYPE_CHECKING, Any

from thingstuff.errors import InputError
from thingstuff.evaluation.pairs import compare_maps
from thingstuff.evaluation.segments import ClassSums, ImageId, PictureMatches
from thingstuff.panoptic import Categories, Panoptic

if TYPE_CHECKING:
    from rich.table import Table

Progress = Callable[[int, int], None]  # (pictures done, of how many)


@dataclass(frozen=True)
class ClassPQ:
    """One class's result; PQ, SQ and RQ are fractions, None ("n/a") where the class never occurs."""

    category_id: int
    name: str
    isthing: bool
    iou: float
    tp: int
    fp: int
    fn: int

    @property
    def pq(self) -> float | None:
        """Panoptic quality, SQ x RQ."""
        return self.iou / self._occurrences if self._occurrences else None

    @property
    def sq(self) -> float | None:
        """Segmentation quality: mean IoU of the matches, 0 where nothing matches."""
        return (self.iou / self.tp if self.tp else 0.0) if self._occurrences else None

    @property
    def rq(self) -> float | None:
        """Recognition quality: F1 of the matches."""
        return self.tp / self._occurrences if self._occurrences else None

    @property
    def _occurrences(self) -> float:
        return self.tp + 0.5 * self.fp + 0.5 * self.fn


@dataclass(frozen=True)
class AveragePQ:
    """Means over the `classes` that occur, as fractions; None where none does."""

    pq: float | None
    sq: float | None
    rq: float | None
    classes: int

    @classmethod
    def of(cls, results: Iterable[ClassPQ]) -> "AveragePQ":
        """Average over the classes that occur, in the order given (which decides the last bit)."""
        qualities = [(r.pq, r.sq, r.rq) for r in results if r.pq is not None and r.sq is not None and r.rq is not None]
        if not qualities:
            return cls(None, None, None, 0)
        # not sum(): from Python 3.12 it compensates rounding errors, which panopticapi does not
        pq, sq, rq = (reduce(add, column, 0.0) / len(qualities) for column in zip(*qualities, strict=True))
        return cls(pq, sq, rq, len(qualities))


@dataclass(frozen=True)
class PQResult:
    """PQ, SQ, RQ of all, things, stuff and every class, over `pictures`.

    `unlisted` holds what the ground truth has of categories it does not list: no average counts it. Only a lenient
    evaluation (`like_panopticapi`) gets that far.
    """

    all: AveragePQ
    things: AveragePQ
    stuff: AveragePQ
    per_class: tuple[ClassPQ, ...]
    pictures: int
    unlisted: Mapping[int, ClassSums] = field(default_factory=dict)

    @classmethod
    def of(
        cls, per_class: Sequence[ClassPQ], pictures: int, unlisted: Mapping[int, ClassSums] | None = None
    ) -> "PQResult":
        """Average class results given in the order of the categories."""
        things, stuff = (AveragePQ.of(c for c in per_class if c.isthing == thing) for thing in (True, False))
        return cls(AveragePQ.of(per_class), things, stuff, tuple(per_class), pictures, unlisted or {})

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values, exact to the bit; `from_json` reads them back."""
        per_class = [{**asdict(c), "pq": c.pq, "sq": c.sq, "rq": c.rq} for c in self.per_class]
        unlisted = [{"category_id": category_id, **asdict(sums)} for category_id, sums in self.unlisted.items()]
        averages = {"all": asdict(self.all), "things": asdict(self.things), "stuff": asdict(self.stuff)}
        return {"pictures": self.pictures, **averages, "per_class": per_class, "unlisted": unlisted}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "PQResult":
        """Read what `to_json` returned. Raises `InputError` where a field is missing or wrong."""
        keys = ("category_id", "name", "isthing", "iou", "tp", "fp", "fn")
        try:
            rows = [{key: entry[key] for key in keys} for entry in data["per_class"]]
            # JSON has no infinity: the command writes null, where a stated area leaves no union (like panopticapi)
            per_class = [ClassPQ(**{**row, "iou": inf if row["iou"] is None else row["iou"]}) for row in rows]
            unlisted = {e["category_id"]: ClassSums(e["iou"], e["tp"], e["fp"], e["fn"]) for e in data["unlisted"]}
            return cls.of(per_class, data["pictures"], unlisted)
        except (KeyError, TypeError) as error:
            raise InputError(f"no PQ result: {error!r}; give what to_json() returned") from None

    def table(self, per_class: bool = False) -> "Table":
        """Return a table for the terminal: All, Things, Stuff in percent, "n/a" where none occurs.

        With `per_class` every class that occurs, with its TP, FP and FN; the others are named below the table.
        """
        from rich.table import Column, Table
        from rich.text import Text

        headers = ("PQ", "SQ", "RQ", "N", *(("TP", "FP", "FN") if per_class else ()))
        table = Table("", *(Column(name, justify="right") for name in headers))
        for name, mean, kinds in (
            ("All", self.all, (True, False)),
            ("Things", self.things, (True,)),
            ("Stuff", self.stuff, (False,)),
        ):
            sums = _counts(c for c in self.per_class if c.isthing in kinds) if per_class else ()
            table.add_row(name, *map(_percent, (mean.pq, mean.sq, mean.rq)), str(mean.classes), *sums)
        if per_class:
            table.add_section()
            for c in self.per_class:
                if c.pq is not None:
                    table.add_row(Text(c.name), *map(_percent, (c.pq, c.sq, c.rq)), "", *_counts([c]))
            table.caption = Text(absent_note([c.name for c in self.per_class if c.pq is None]))
            table.caption_justify = "left"
        return table


class PQAccumulator:
    """Adds up pictures to a PQ; `per_picture` keeps what became of each picture's segments, unless `keep` is False."""

    def __init__(self, categories: Categories, keep: bool = True) -> None:
        self.categories = categories
        self.per_picture: dict[ImageId, PictureMatches] = {}
        self._keep = keep
        self._sums: dict[int, ClassSums] = {}
        self._pictures = 0

    def add(self, truth: Panoptic, prediction: Panoptic, image_id: ImageId | None = None) -> None:
        """Add one picture, named by `image_id` (else by its number, from 0); areas are counted in the maps.

        Raises `InputError` where the two differ in size, speak of other categories than the accumulator, a map and
        its segments disagree, or the picture was added before.
        """
        name = self._pictures if image_id is None else image_id
        if name in self.per_picture:
            raise InputError(f"image {name} was added before; add each picture once")
        self.add_matches(name, compare_maps(truth, prediction, name, self.categories).matches)

    def add_matches(self, image_id: ImageId, matches: PictureMatches) -> None:
        """Add one picture that is matched already."""
        if self._keep:
            self.per_picture[image_id] = matches
        matches.add_to(self._sums)
        self._pictures += 1

    def result(self) -> PQResult:
        """Return the result over the pictures so far."""
        rows = zip(self.categories.ids, self.categories.names, self.categories.things, strict=True)
        per_class = [ClassPQ(i, name, thing, **asdict(self._sums.get(i, ClassSums()))) for i, name, thing in rows]
        unlisted = {i: sums for i, sums in self._sums.items() if i not in self.categories.label_of}
        return PQResult.of(per_class, self._pictures, unlisted)


def absent_note(names: Sequence[str]) -> str:
    """Name the classes that occur neither in ground truth nor in a prediction; empty where there is none."""
    if not names:
        return ""
    return f"{len(names)} class{' does' if len(names) == 1 else 'es do'} not occur: {', '.join(names)}"


def _counts(results: Iterable[ClassPQ]) -> tuple[str, str, str]:
    rows = tuple(results)
    return str(sum(c.tp for c in rows)), str(sum(c.fp for c in rows)), str(sum(c.fn for c in rows))


def _percent(value: float | None) -> str:
    return "n/a" if value is None else f"{100 * value:.1f}"
