"""Two segmenters without a model, to say what a PQ is worth: class by position, and class by colour.

Letters: C classes, H W a picture, h w a grid over it, R runs of equal pixels in a row.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from jaxtyping import Int32, UInt8

from thingstuff.errors import InputError
from thingstuff.evaluation.pq import PQAccumulator, PQResult
from thingstuff.panoptic import VOID, Categories, Panoptic, Segment

Labels = Int32[np.ndarray, "H W"]
Picture = UInt8[np.ndarray, "H W 3"]


@runtime_checkable
class LabelledPictures(Protocol):
    """Pictures with their ground truth, such as `CocoPanoptic`."""

    @property
    def categories(self) -> Categories:
        """The classes."""
        ...

    def __len__(self) -> int:
        """Count the pictures."""
        ...

    def picture(self, index: int, /) -> Picture:
        """Return one picture [H, W, 3], RGB."""
        ...

    def panoptic(self, index: int, /) -> Panoptic:
        """Return one picture's ground truth."""
        ...


@runtime_checkable
class Baseline(Protocol):
    """What was learned from a training split, ready to segment a picture."""

    @property
    def name(self) -> str:
        """What the baseline does, in a few words."""
        ...

    @property
    def categories(self) -> Categories:
        """The classes."""
        ...

    def predict(self, picture: Picture) -> Panoptic:
        """Segment one picture [H, W, 3], RGB."""
        ...


@dataclass(frozen=True, eq=False)
class MostFrequentClass:
    """The class seen most often at each position: `labels` [h, w], a grid laid over a picture of any size.

    Things are the connected regions of their class.
    """

    labels: Int32[np.ndarray, "h w"]
    categories: Categories
    min_area: int = 25
    name: str = "most frequent class per position"

    @classmethod
    def fit(cls, train: LabelledPictures, grid: tuple[int, int] = (64, 64)) -> "MostFrequentClass":
        """Count the classes of the training pictures on a `grid` of (rows, columns).

        Raises `InputError` where there is no picture.
        """
        _refuse_empty(train)
        classes = len(train.categories)
        counts = np.zeros((classes + 1, *grid), dtype=np.int64)
        rows, columns = np.indices(grid)
        for index in range(len(train)):
            # VOID is -1, so that it falls on the last row and is left out there.
            counts[_resized(train.panoptic(index).semantic(), grid), rows, columns] += 1
        return cls(_most_frequent(counts[:classes]), train.categories)

    def predict(self, picture: Picture) -> Panoptic:
        """Lay the grid over a picture [H, W, 3]; only its size is looked at."""
        return segments_of_labels(
            _resized(self.labels, (picture.shape[0], picture.shape[1])), self.categories, self.min_area
        )


@dataclass(frozen=True, eq=False)
class ColourThreshold:
    """The class seen most often with each colour: `labels` [bins^3], red counting most, over equal steps per channel.

    Colours that training never showed take the most frequent class of all. The labels are smoothed by the majority in
    a square window, then things are the connected regions of their class.
    """

    labels: Int32[np.ndarray, "colours"]
    categories: Categories
    bins: int = 8
    window: int = 9
    min_area: int = 25
    name: str = "colour thresholds and connected components"

    @classmethod
    def fit(cls, train: LabelledPictures, bins: int = 8) -> "ColourThreshold":
        """Count the classes of the training pixels in `bins` x `bins` x `bins` colours.

        Raises `InputError` where there is no picture, or for fewer than 1 or more than 64 bins.
        """
        _refuse_empty(train)
        if not 1 <= bins <= 64:
            raise InputError(f"bins={bins}: colours are counted in 1 to 64 steps per channel")
        classes = len(train.categories)
        counts = np.zeros((classes + 1) * bins**3, dtype=np.int64)
        for index in range(len(train)):
            # VOID is -1: shifted to row 0, which is left out below.
            row = train.panoptic(index).semantic().astype(np.int64) + 1
            counts += np.bincount(
                (row * bins**3 + _colour_bin(train.picture(index), bins)).ravel(), minlength=len(counts)
            )
        per_colour = counts.reshape(classes + 1, bins**3)[1:]
        overall = _most_frequent(per_colour.sum(axis=1, keepdims=True))
        labels = np.where(per_colour.sum(axis=0) > 0, _most_frequent(per_colour), overall)
        return cls(labels.astype(np.int32), train.categories, bins)

    def predict(self, picture: Picture) -> Panoptic:
        """Segment a picture [H, W, 3] by the colour of each pixel."""
        labels = majority(self.labels[_colour_bin(picture, self.bins)], self.window)
        return segments_of_labels(labels, self.categories, self.min_area)


def score_baseline(baseline: Baseline, truths: Iterable[Panoptic], pictures: Iterable[Picture]) -> PQResult:
    """Return the PQ of a fitted baseline on `pictures` [H, W, 3], whose ground truths come in the same order."""
    accumulator = PQAccumulator(baseline.categories)
    for truth, picture in zip(truths, pictures, strict=True):
        accumulator.add(truth, baseline.predict(picture))
    return accumulator.result()


def score_baselines(train: LabelledPictures, val: LabelledPictures) -> dict[str, PQResult]:
    """Fit both baselines on `train` and return each one's PQ on `val` under its name.

    Raises `InputError` where a split has no picture or the two have different categories.
    """
    _refuse_empty(val)
    baselines: tuple[Baseline, ...] = (MostFrequentClass.fit(train), ColourThreshold.fit(train))
    every = range(len(val))
    return {b.name: score_baseline(b, map(val.panoptic, every), map(val.picture, every)) for b in baselines}


def segments_of_labels(labels: Labels, categories: Categories, min_area: int = 1) -> Panoptic:
    """Turn a label map [H, W] into a panoptic map: stuff by class, things by connected region.

    Things of fewer than `min_area` pixels, and stuff classes of fewer, become void.
    """
    is_thing = np.array([*categories.things, False])[labels]  # VOID is -1 and reads the last entry
    regions = connected_components(np.where(is_thing, labels, VOID).astype(np.int32))
    things = int(regions.max(initial=0))
    rows = [(labels == label, label) for label in categories.stuff_labels]
    region_labels = np.zeros(things + 1, dtype=np.int32)
    region_labels[regions] = labels
    areas = np.bincount(regions.ravel(), minlength=things + 1)
    rows += [(regions == r, int(region_labels[r])) for r in range(1, things + 1) if areas[r] >= min_area]
    ids = np.zeros(labels.shape, dtype=np.int32)
    segments: list[Segment] = []
    for mask, label in rows:
        area = int(np.count_nonzero(mask))
        if area >= max(min_area, 1):
            segments.append(Segment(len(segments) + 1, label, area))
            ids[mask] = len(segments)
    return Panoptic(ids, tuple(segments), categories)


def connected_components(labels: Labels) -> Labels:
    """Number the 4-connected regions of equal label in a map [H, W], from 1 in reading order; `VOID` gets 0."""
    height, width = labels.shape
    if labels.size == 0:
        return np.zeros((height, width), dtype=np.int32)
    starts = np.ones((height, width), dtype=bool)
    starts[:, 1:] = labels[:, 1:] != labels[:, :-1]
    runs = np.cumsum(starts.ravel()).reshape(height, width) - 1
    touching = labels[1:] == labels[:-1]
    pairs = np.unique(np.stack([runs[:-1][touching], runs[1:][touching]], axis=1), axis=0)
    roots = _joined(pairs, int(runs[-1, -1]) + 1)
    # A root is the first run of its region, so that ascending roots are reading order.
    kept = (roots == np.arange(len(roots))) & (labels[starts] != VOID)
    number = np.where(labels[starts] != VOID, np.cumsum(kept)[roots], 0)
    return np.asarray(number[runs], dtype=np.int32)


def _joined(pairs: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    """The smallest member of the group of each of `count` items [R], where `pairs` [.., 2] of items belong together."""
    roots = np.arange(count)
    while True:
        first, second = roots[pairs[:, 0]], roots[pairs[:, 1]]
        apart = first != second
        if not apart.any():
            return roots
        low, high = np.minimum(first, second)[apart], np.maximum(first, second)[apart]
        np.minimum.at(roots, high, low)
        while (roots[roots] != roots).any():
            roots = roots[roots]


def majority(labels: Labels, window: int) -> Labels:
    """Give each pixel of a label map [H, W] the label that is most frequent in the square `window` around it.

    The window is cut off at the map's rim; of equally frequent labels the smallest wins. `window` is odd, or
    `InputError`; 1 changes nothing.
    """
    if window < 1 or window % 2 == 0:
        raise InputError(f"window={window}: a smoothing window is an odd number of pixels, 1 or more")
    best, winner = np.zeros(labels.shape, dtype=np.int32), np.array(labels, dtype=np.int32)
    for label in np.unique(labels):
        count: Labels = _window_sum(_window_sum((labels == label).astype(np.int32), window).T, window).T
        winner[count > best] = label
        np.maximum(best, count, out=best)
    return winner


def _window_sum(values: npt.NDArray[np.int32], window: int) -> npt.NDArray[np.int32]:
    """Sum over `window` rows around each row, fewer at the rim."""
    height, half = len(values), window // 2
    sums = np.zeros((height + 1, *values.shape[1:]), dtype=np.int32)
    np.cumsum(values, axis=0, out=sums[1:])
    rows = np.arange(height)
    return np.asarray(sums[np.minimum(rows + half + 1, height)] - sums[np.maximum(rows - half, 0)], dtype=np.int32)


def _resized(labels: Labels, size: tuple[int, int]) -> Int32[np.ndarray, "h w"]:
    """Resize a label map [H, W] by the nearest pixel centre."""
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(np.int64) for new, old in zip(size, labels.shape, strict=True)
    )
    resized: npt.NDArray[np.int32] = labels[rows[:, None], columns]
    return resized


def _most_frequent(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    """The label of the largest count along the first axis [C, ..], `VOID` where all are 0."""
    return np.asarray(np.where(counts.max(axis=0) > 0, counts.argmax(axis=0), VOID), dtype=np.int32)


def _colour_bin(picture: Picture, bins: int) -> npt.NDArray[np.int64]:
    red, green, blue = np.moveaxis(picture.astype(np.int64) * bins // 256, -1, 0)
    return np.asarray((red * bins + green) * bins + blue, dtype=np.int64)


def _refuse_empty(pictures: LabelledPictures) -> None:
    if len(pictures) == 0:
        raise InputError("baselines: the split has no picture; they need at least one to learn from and one to score")
