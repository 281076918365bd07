"""Panoptic quality (Kirillov et al., Panoptic Segmentation, CVPR 2019), to the bit as COCO's panopticapi sums it.

Letters: H W pixels of a picture.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Integer

from thingstuff.data import coco
from thingstuff.errors import InputError
from thingstuff.io import raise_problems, read_id_map, read_sections
from thingstuff.panoptic import Categories, Panoptic

if TYPE_CHECKING:
    from rich.table import Table

ImageId = int | str
Progress = Callable[[int, int], None]
"""Told (pictures done, of how many)."""
Overlaps = dict[tuple[int, int], int]
"""(ground-truth id, predicted id) -> pixels they share, ascending."""


@dataclass
class ClassSums:
    """The sum of a class's IoUs over its matches, its matches (tp), unmatched predictions (fp) and truths (fn)."""

    iou: float = 0.0
    tp: int = 0
    fp: int = 0
    fn: int = 0


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
        pq, sq, rq = (_running_sum(column) / len(qualities) for column in zip(*qualities, strict=True))
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
            per_class = [ClassPQ(**{key: entry[key] for key in keys}) for entry in data["per_class"]]
            unlisted = {e["category_id"]: ClassSums(e["iou"], e["tp"], e["fp"], e["fn"]) for e in data["unlisted"]}
            return cls.of(per_class, data["pictures"], unlisted)
        except (KeyError, TypeError) as error:
            raise InputError(f"no PQ result: {error!r}; give what to_json() returned") from None

    def table(self, per_class: bool = False) -> "Table":
        """Return a table for the terminal: All, Things, Stuff (and every class) in percent, "n/a" where none occurs."""
        from rich.table import Column, Table
        from rich.text import Text

        table = Table("", *(Column(name, justify="right") for name in ("PQ", "SQ", "RQ", "N")))
        for name, mean in (("All", self.all), ("Things", self.things), ("Stuff", self.stuff)):
            table.add_row(name, *map(_percent, (mean.pq, mean.sq, mean.rq)), str(mean.classes))
        if per_class:
            table.add_section()
            for c in self.per_class:
                table.add_row(Text(c.name), *map(_percent, (c.pq, c.sq, c.rq)), "")
        return table


class Match(NamedTuple):
    """A ground-truth segment and the prediction that found it (IoU > 0.5)."""

    truth_id: int
    prediction_id: int
    category_id: int
    iou: float


@dataclass(frozen=True)
class PictureMatches:
    """What became of every segment of one picture, except the ground truth's crowds.

    `matched` pairs in ascending order of (ground-truth id, predicted id); then id -> category_id of `missed` truths,
    `false` predictions, and those `ignored` because more than half lies in void and crowds of their class.
    """

    matched: tuple[Match, ...]
    missed: Mapping[int, int]
    false: Mapping[int, int]
    ignored: Mapping[int, int]

    def add_to(self, sums: dict[int, ClassSums]) -> None:
        """Add to sums per category_id, one IoU after the other: the order decides the last bit."""
        for match in self.matched:
            entry = sums.setdefault(match.category_id, ClassSums())
            entry.tp += 1
            entry.iou += match.iou
        for category_id in self.missed.values():
            sums.setdefault(category_id, ClassSums()).fn += 1
        for category_id in self.false.values():
            sums.setdefault(category_id, ClassSums()).fp += 1

    def sums(self) -> dict[int, ClassSums]:
        """Return the picture's own sums per category_id that occurs."""
        sums: dict[int, ClassSums] = {}
        self.add_to(sums)
        return sums


class TruthSegment(NamedTuple):
    """What matching needs of a ground-truth segment."""

    category_id: int
    area: float
    iscrowd: bool


def overlaps(truth: Integer[np.ndarray, "H W"], prediction: Integer[np.ndarray, "H W"]) -> Overlaps:
    """Count the pixels of each pair of ids that meet in two maps of one size."""
    pairs = (truth.astype(np.int64) << 32 | prediction.astype(np.int64)).ravel()
    # ids come in long runs: sorting one entry per run instead of per pixel is most of the speed
    starts = np.flatnonzero(np.diff(pairs, prepend=-1))
    lengths = np.diff(starts, append=pairs.size)
    keys, inverse = np.unique(pairs[starts], return_inverse=True)
    areas = np.bincount(inverse, weights=lengths).astype(np.int64)
    return {(key >> 32, key & 0xFFFFFFFF): area for key, area in zip(keys.tolist(), areas.tolist(), strict=True)}


def segment_areas(shared: Overlaps) -> tuple[Counter[int], Counter[int]]:
    """Return the pixels of each ground-truth id and of each predicted id, void (0) included."""
    truths: Counter[int] = Counter()
    predictions: Counter[int] = Counter()
    for (truth_id, predicted_id), pixels in shared.items():
        truths[truth_id] += pixels
        predictions[predicted_id] += pixels
    return truths, predictions


def match_segments(
    shared: Overlaps, truths: Mapping[int, TruthSegment], predictions: Mapping[int, int]
) -> PictureMatches:
    """Match one picture's segments; `predictions` maps id -> category_id, and each has a pixel.

    A pair of one class matches where its IoU exceeds 0.5; void pixels of the prediction are left out of the union.
    Section 4 of the paper; where it leaves a choice, panopticapi's is made (of several crowds of a class the last
    counts).
    """
    _, areas = segment_areas(shared)
    pairs = ((t, p, common) for (t, p), common in shared.items() if t in truths and p in predictions)
    matched = []
    for truth_id, predicted_id, common in pairs:
        truth = truths[truth_id]
        if truth.iscrowd or truth.category_id != predictions[predicted_id]:
            continue
        union = areas[predicted_id] + truth.area - common - shared.get((0, predicted_id), 0)
        # a stated area may be so wrong that nothing is left of the union; panopticapi divides by it all the same
        iou = common / union if union else math.inf
        if iou > 0.5:
            matched.append(Match(truth_id, predicted_id, truth.category_id, iou))
    found_truths, found_predictions = {m.truth_id for m in matched}, {m.prediction_id for m in matched}
    missed = {i: t.category_id for i, t in truths.items() if not t.iscrowd and i not in found_truths}
    crowds = {t.category_id: i for i, t in truths.items() if t.iscrowd}
    false: dict[int, int] = {}
    ignored: dict[int, int] = {}
    for predicted_id, category_id in predictions.items():
        if predicted_id in found_predictions:
            continue
        excused = shared.get((0, predicted_id), 0)
        if category_id in crowds:
            excused += shared.get((crowds[category_id], predicted_id), 0)
        (ignored if excused / areas[predicted_id] > 0.5 else false)[predicted_id] = category_id
    return PictureMatches(tuple(matched), missed, false, ignored)


class PQAccumulator:
    """Adds up pictures to a PQ; `per_picture` keeps what became of each picture's segments."""

    def __init__(self, categories: Categories) -> None:
        self.categories = categories
        self.per_picture: dict[ImageId, PictureMatches] = {}
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
        for what, panoptic in (("ground truth", truth), ("prediction", prediction)):
            if not _same_classes(panoptic.categories, self.categories):
                raise InputError(f"image {name}: the {what} has other categories; use those of the ground truth")
        if truth.size != prediction.size:
            raise InputError(
                f"image {name}: the ground truth is {truth.size} (height, width), the prediction {prediction.size}; "
                "predict at the picture's own size"
            )
        shared = overlaps(truth.ids, prediction.ids)
        areas, predicted_areas = segment_areas(shared)
        _refuse_strange_ids(f"image {name}: ground truth", truth, areas)
        _refuse_strange_ids(f"image {name}: prediction", prediction, predicted_areas)
        ids = self.categories.ids
        truths = {s.id: TruthSegment(ids[s.label], areas[s.id], s.iscrowd) for s in truth.segments}
        self.add_matches(name, match_segments(shared, truths, {s.id: ids[s.label] for s in prediction.segments}))

    def add_matches(self, image_id: ImageId, matches: PictureMatches) -> None:
        """Add one picture that is matched already."""
        self.per_picture[image_id] = matches
        matches.add_to(self._sums)
        self._pictures += 1

    def result(self) -> PQResult:
        """Return the result over the pictures so far."""
        rows = zip(self.categories.ids, self.categories.names, self.categories.things, strict=True)
        none = ClassSums()
        per_class = [ClassPQ(i, name, thing, **asdict(self._sums.get(i, none))) for i, name, thing in rows]
        unlisted = {i: sums for i, sums in self._sums.items() if i not in self.categories.label_of}
        return PQResult.of(per_class, self._pictures, unlisted)


def evaluate(
    gt: str | Path | Sequence[Panoptic],
    pred: str | Path | Sequence[Panoptic],
    gt_folder: str | Path | None = None,
    pred_folder: str | Path | None = None,
    like_panopticapi: bool = False,
    progress: Progress | None = None,
) -> PQResult:
    """Score predictions against ground truth: two COCO panoptic JSON files, or two lists of `Panoptic` in one order.

    For files, see `score_files`; lists are compared strictly, and folders and leniency are refused there.
    """
    if isinstance(gt, str | Path) and isinstance(pred, str | Path):
        return score_files(gt, pred, gt_folder, pred_folder, like_panopticapi, progress).result()
    if isinstance(gt, str | Path) or isinstance(pred, str | Path) or gt_folder or pred_folder or like_panopticapi:
        raise InputError("give two JSON files, or two lists of Panoptic without folders and like_panopticapi")
    if len(gt) != len(pred) or not gt:
        raise InputError(f"{len(gt)} maps of ground truth and {len(pred)} predictions: give one for one, at least one")
    scores = PQAccumulator(gt[0].categories)
    for done, (truth, prediction) in enumerate(zip(gt, pred, strict=True), 1):
        scores.add(truth, prediction)
        if progress:
            progress(done, len(gt))
    return scores.result()


def score_files(
    gt: str | Path,
    pred: str | Path,
    gt_folder: str | Path | None = None,
    pred_folder: str | Path | None = None,
    like_panopticapi: bool = False,
    progress: Progress | None = None,
) -> PQAccumulator:
    """Score a prediction's COCO panoptic JSON and PNGs against the ground truth's, picture after picture.

    A folder of PNGs defaults to the JSON's path without .json, else to panoptic/ beside it. Strict: one `InputError`
    lists whatever is missing, doubled, unknown or disagrees in ids, sizes and areas, and nothing is scored.
    `like_panopticapi` scores what panopticapi scores and raises `InputError` where it raises; of an image id that
    comes twice, `per_picture` keeps the last. `progress` is told (pictures done, of how many).
    """
    truth = coco.SplitPaths(Path(), coco.map_folder(gt, gt_folder, "gt_folder"), Path(gt))
    prediction = coco.SplitPaths(Path(), coco.map_folder(pred, pred_folder, "pred_folder"), Path(pred))
    score = _score_like_panopticapi if like_panopticapi else _score_strictly
    return score(truth, prediction, progress or (lambda done, total: None))


def _score_strictly(gt: coco.SplitPaths, pred: coco.SplitPaths, progress: Progress) -> PQAccumulator:
    categories, records, problems = coco.read_ground_truth(gt)
    predictions = coco.read_predictions(pred, categories, problems)
    known = {record.image_id for record in records}
    problems += [
        f"{pred.json}: image {i!r}: is not in {gt.json}; remove the prediction" for i in predictions if i not in known
    ]
    scores = PQAccumulator(categories)
    for done, record in enumerate(records, 1):
        if record.image_id in predictions:
            faults = _add_strictly(scores, record, *predictions[record.image_id])
            problems += [f"image {record.image_id!r}: {fault}" for fault in faults]
        else:
            problems.append(f"{pred.json}: image {record.image_id!r}: has no usable prediction; predict it too")
        progress(done, len(records))
    raise_problems(problems, f"{pred.json} cannot be scored against {gt.json}:", limit=50)
    return scores


def _add_strictly(
    scores: PQAccumulator, record: coco.Record, map_path: Path, predictions: Mapping[int, int]
) -> list[str]:
    try:
        truth, prediction = read_id_map(record.map), read_id_map(map_path)
        coco.check_map_size(record, truth.shape)
        coco.check_map_size(record._replace(map=map_path), prediction.shape)
    except InputError as error:
        return [str(error)]
    shared = overlaps(truth, prediction)
    areas, predicted_areas = segment_areas(shared)
    faults = coco.id_faults(areas, [s.id for s in record.segments], record.map)
    faults += coco.id_faults(predicted_areas, predictions, map_path)
    faults += [
        f"segment {s.id}: its area is {s.area} in the JSON, {areas[s.id]} in {record.map}; correct the JSON"
        for s in record.segments
        if s.id in areas and areas[s.id] != s.area
    ]
    if not faults:
        ids = scores.categories.ids
        truths = {s.id: TruthSegment(ids[s.label], s.area, s.iscrowd) for s in record.segments}
        scores.add_matches(record.image_id, match_segments(shared, truths, predictions))
    return faults


def _score_like_panopticapi(gt: coco.SplitPaths, pred: coco.SplitPaths, progress: Progress) -> PQAccumulator:
    annotations, entries = read_sections(gt.json, ("annotations", "categories"))
    (predictions,) = read_sections(pred.json, ("annotations",))
    with _fields_needed(gt.json, pred.json):
        scores = PQAccumulator(_categories_like_panopticapi(entries))
        by_image = {annotation["image_id"]: annotation for annotation in predictions}
    for done, annotation in enumerate(annotations, 1):
        with _fields_needed(gt.json, pred.json):
            if annotation["image_id"] not in by_image:
                raise InputError(f"{pred.json}: image {annotation['image_id']!r} has no prediction; predict it too")
            _add_like_panopticapi(scores, gt.maps, annotation, pred.maps, by_image[annotation["image_id"]])
        progress(done, len(annotations))
    return scores


@contextmanager
def _fields_needed(*paths: Path) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError) as error:
        names = " or ".join(map(str, paths))
        raise InputError(f"{names} lacks or mistakes a field ({error!r}); score strictly to see where") from error


def _add_like_panopticapi(
    scores: PQAccumulator, gt_folder: Path, truth: Mapping[str, Any], pred_folder: Path, prediction: Mapping[str, Any]
) -> None:
    gt_path, map_path = gt_folder / truth["file_name"], pred_folder / prediction["file_name"]
    gt_ids, pred_ids = read_id_map(gt_path), read_id_map(map_path)
    if gt_ids.shape != pred_ids.shape:
        raise InputError(
            f"{gt_path} is {gt_ids.shape} (height, width), {map_path} {pred_ids.shape}; predict at full size"
        )
    shared = overlaps(gt_ids, pred_ids)
    truths = {s["id"]: TruthSegment(s["category_id"], s["area"], s["iscrowd"] == 1) for s in truth["segments_info"]}
    predictions = {s["id"]: s["category_id"] for s in prediction["segments_info"]}
    faults = coco.id_faults(segment_areas(shared)[1], predictions, map_path)
    faults += [
        f"segment {segment_id}: category_id {category_id!r} is not in the ground truth's categories; correct it"
        for segment_id, category_id in predictions.items()
        if category_id not in scores.categories.label_of
    ]
    raise_problems(faults, f"image {truth['image_id']!r}: the prediction cannot be scored, by panopticapi neither:")
    scores.add_matches(truth["image_id"], match_segments(shared, truths, predictions))


def _categories_like_panopticapi(entries: Iterable[Mapping[str, Any]]) -> Categories:
    # it reads no names, and of an id that comes twice it keeps the last entry
    by_id = {entry["id"]: entry for entry in entries}
    names = [str(entry.get("name", category_id)) for category_id, entry in by_id.items()]
    count = Counter(names)
    unique = (f"{name} ({i})" if count[name] > 1 else name for i, name in zip(by_id, names, strict=True))
    return Categories(tuple(unique), tuple(entry["isthing"] == 1 for entry in by_id.values()), tuple(by_id))


def _refuse_strange_ids(at: str, panoptic: Panoptic, areas: Mapping[int, int]) -> None:
    listed = [segment.id for segment in panoptic.segments]
    if len({*listed}) != len(listed) or {*areas} - {0} != {*listed}:
        raise InputError(f"{at}: the ids in the map and those of its segments differ; list each id > 0 of the map once")


def _same_classes(one: Categories, other: Categories) -> bool:
    return one is other or (one.names, one.things, one.ids) == (other.names, other.things, other.ids)


def _running_sum(values: Iterable[float]) -> float:
    # not sum(): from Python 3.12 it compensates rounding errors, which panopticapi does not
    total = 0.0
    for value in values:
        total += value
    return total


def _percent(value: float | None) -> str:
    return "n/a" if value is None else f"{100 * value:.1f}"
