"""mIoU and pixel accuracies: a prediction as semantic segmentation, its segments painted with their classes.

Letters: C classes.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from thingstuff.errors import InputError
from thingstuff.evaluation.segments import ScoredPicture
from thingstuff.panoptic import Categories

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class ClassIoU:
    """One class's pixels: of the ground truth, of the prediction where the ground truth is not void, and of both.

    IoU and accuracy are fractions, None ("n/a") where the ground truth has no pixel of the class.
    """

    category_id: int
    name: str
    isthing: bool
    truth: int
    predicted: int
    correct: int

    @property
    def iou(self) -> float | None:
        """Correct pixels over those of the class on either side."""
        return self.correct / (self.truth + self.predicted - self.correct) if self.truth else None

    @property
    def accuracy(self) -> float | None:
        """Correct pixels over the ground truth's."""
        return self.correct / self.truth if self.truth else None


@dataclass(frozen=True, eq=False)
class SemanticResult:
    """Semantic segmentation's measures over `pictures`; `confusion` [C, C + 1] int64 counts pixels.

    Its rows are the ground truth's classes in the order of `categories`, its columns the prediction's, the last one
    void. Measures are fractions, None ("n/a") where the ground truth has no pixel.
    """

    categories: Categories
    confusion: npt.NDArray[np.int64]
    pictures: int

    def __eq__(self, other: object) -> bool:
        """Compare every count and the classes."""
        return isinstance(other, SemanticResult) and self.to_json() == other.to_json()

    @cached_property
    def per_class(self) -> tuple[ClassIoU, ...]:
        """Every class, in the order of `categories`."""
        classes = len(self.categories)
        truth, predicted = self.confusion.sum(axis=1).tolist(), self.confusion.sum(axis=0)[:classes].tolist()
        correct = self.confusion.diagonal().tolist()
        names = (self.categories.ids, self.categories.names, self.categories.things)
        return tuple(ClassIoU(*row) for row in zip(*names, truth, predicted, correct, strict=True))

    @property
    def classes(self) -> int:
        """The classes that the means run over: those the ground truth has a pixel of."""
        return sum(c.truth > 0 for c in self.per_class)

    @property
    def miou(self) -> float | None:
        """Mean IoU over the classes that occur."""
        return _mean([(c.iou, 1) for c in self.per_class])

    @property
    def mean_accuracy(self) -> float | None:
        """Mean accuracy over the classes that occur."""
        return _mean([(c.accuracy, 1) for c in self.per_class])

    @property
    def frequency_weighted_iou(self) -> float | None:
        """Mean of the classes' IoU, each counting by its pixels in the ground truth."""
        return _mean([(c.iou, c.truth) for c in self.per_class])

    @property
    def pixel_accuracy(self) -> float | None:
        """Correct pixels over all pixels that the ground truth gives a class."""
        total = int(self.confusion.sum())
        return int(self.confusion.diagonal().sum()) / total if total else None

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values, exact to the bit; `from_json` reads them back."""
        measures = ("miou", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou", "classes")
        per_class = [
            {"category_id": c.category_id, "name": c.name, "isthing": c.isthing, "iou": c.iou, "accuracy": c.accuracy}
            for c in self.per_class
        ]
        means = {name: getattr(self, name) for name in measures}
        return {"pictures": self.pictures, **means, "per_class": per_class, "confusion": self.confusion.tolist()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "SemanticResult":
        """Read what `to_json` returned. Raises `InputError` where a field is missing or wrong."""
        try:
            rows = [(entry["name"], entry["isthing"], entry["category_id"]) for entry in data["per_class"]]
            names, things, ids = zip(*rows, strict=True) if rows else ((), (), ())
            confusion = np.array(data["confusion"], dtype=np.int64).reshape(len(rows), len(rows) + 1)
            return cls(Categories(names, things, ids), confusion, data["pictures"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"no semantic result: {error!r}; give what to_json() returned") from None

    def table(self, per_class: bool = False) -> "Table":
        """Return a table for the terminal: the means (and every class) in percent, "n/a" where none occurs.

        A mean over pixels weights classes by their pixels: of the accuracies, that is pixel accuracy.
        """
        from rich.table import Column, Table
        from rich.text import Text

        table = Table("", *(Column(name, justify="right") for name in ("IoU", "Accuracy", "N")))
        over_classes, over_pixels = (self.miou, self.mean_accuracy), (self.frequency_weighted_iou, self.pixel_accuracy)
        table.add_row("Mean over classes (mIoU, mAcc)", *map(_percent, over_classes), str(self.classes))
        table.add_row("Mean over pixels (fwIoU, pAcc)", *map(_percent, over_pixels), str(self.classes))
        if per_class:
            table.add_section()
            for c in self.per_class:
                table.add_row(Text(c.name), _percent(c.iou), _percent(c.accuracy), "")
        return table


class ClassPixels:
    """Counts pixels per class of the ground truth and of the prediction.

    A crowd's pixels count as its class, those of a ground-truth category that `categories` does not list nowhere.
    """

    def __init__(self, categories: Categories) -> None:
        self.categories = categories
        self._counts = [0] * (len(categories) + 1) ** 2  # a list: to count up one entry of an array takes far longer

    def add(self, picture: ScoredPicture) -> None:
        """Add one picture; no pixel is looked at, what the segments share says it all."""
        label_of, counts = self.categories.label_of, self._counts
        void = len(label_of)
        columns = {i: label_of.get(category_id, void) for i, category_id in picture.predictions.items()}
        # where each ground-truth id's row starts in the flattened matrix
        starts = {
            i: label_of[t.category_id] * (void + 1) for i, t in picture.truths.items() if t.category_id in label_of
        }
        starts[0] = void * (void + 1)
        for (truth_id, predicted_id), pixels in picture.shared.items():
            if truth_id in starts:
                counts[starts[truth_id] + columns.get(predicted_id, void)] += pixels

    def matrix(self) -> npt.NDArray[np.int64]:
        """Return the counts [C + 1, C + 1], ground truth by row, prediction by column, void last."""
        side = len(self.categories) + 1
        return np.array(self._counts, dtype=np.int64).reshape(side, side)


class SemanticAccumulator:
    """Adds up the pixels of pictures per class of the ground truth and of the prediction.

    As in detectron2's semantic evaluator, void pixels of the ground truth are left out and the means run over the
    classes that the ground truth has. A pixel predicted as void is wrong; there, models have a class for every pixel
    and the question does not come up. A crowd's pixels count as its class, those of a category that `categories` does
    not list as void. `pixels` that several measures share are counted by whoever gives them.
    """

    def __init__(self, categories: Categories, pixels: ClassPixels | None = None) -> None:
        self.categories = categories
        self._pixels, self._counts = pixels or ClassPixels(categories), pixels is None
        self._pictures = 0

    def add(self, picture: ScoredPicture) -> None:
        """Add one picture."""
        if self._counts:
            self._pixels.add(picture)
        self._pictures += 1

    def result(self) -> SemanticResult:
        """Return the result over the pictures so far."""
        return SemanticResult(self.categories, self._pixels.matrix()[:-1], self._pictures)


def _mean(weighted: list[tuple[float | None, int]]) -> float | None:
    """The mean of (value, weight), those without a value left out; None where none has one."""
    known = [(value, weight) for value, weight in weighted if value is not None]
    return math.fsum(value * weight for value, weight in known) / sum(weight for _, weight in known) if known else None


def _percent(value: float | None) -> str:
    return "n/a" if value is None else f"{100 * value:.1f}"
