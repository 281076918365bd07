"""Average precision of scored instances (Lin et al., Microsoft COCO, ECCV 2014), as pycocotools computes it.

AP ranks every instance that a model proposes by its score, before they compete for pixels. The segments of a panoptic
prediction are no such ranking, so none is made of them: merging has dropped the less certain ones, which AP rewards,
and has cut the rest to what nothing else covers.

The ground truth is the things of the panoptic maps. AP in papers is mostly by COCO's own instance annotations, which
may overlap where maps cannot: another number.

Letters: T IoU thresholds, R recalls, K classes, A ranges of area, N instances, H W pixels of a picture.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from io import StringIO
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pycocotools import mask as run_lengths
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval, Params

from thingstuff.errors import InputError
from thingstuff.evaluation.segments import ImageId
from thingstuff.instances import MOST_INSTANCES, Instances
from thingstuff.panoptic import Categories, Panoptic

if TYPE_CHECKING:
    from rich.table import Table

Size = tuple[int, int]
"""(height, width) in pixels."""
RunLengths = Mapping[str, Any]
"""COCO's run-length encoding of a mask: `size` [height, width], and `counts` as its compressed bytes."""


class EncodedInstance(NamedTuple):
    """A scored instance whose mask is encoded."""

    category_id: int
    score: float
    mask: RunLengths


@dataclass(frozen=True)
class AveragePrecision:
    """AP over IoU thresholds .5:.05:.95, at .5 and .75, and of things below 32 x 32 pixels, below 96 x 96, and above.

    Fractions; None ("n/a") where the ground truth has no such thing.
    """

    ap: float | None
    ap50: float | None
    ap75: float | None
    ap_small: float | None
    ap_medium: float | None
    ap_large: float | None


@dataclass(frozen=True)
class ClassAP(AveragePrecision):
    """One class's result; `truths` counts its things without crowds, `instances` those that were ranked."""

    category_id: int
    name: str
    truths: int
    instances: int


@dataclass(frozen=True)
class APResult(AveragePrecision):
    """The mean over the thing classes that occur, and every thing class, over `pictures`."""

    per_class: tuple[ClassAP, ...]
    pictures: int

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values, exact to the bit; `from_json` reads them back."""
        return {**asdict(self), "per_class": [asdict(c) for c in self.per_class]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "APResult":
        """Read what `to_json` returned. Raises `InputError` where a field is missing or unknown."""
        try:
            return cls(**{**data, "per_class": tuple(ClassAP(**entry) for entry in data["per_class"])})
        except (KeyError, TypeError) as error:
            raise InputError(f"no AP result: {error!r}; give what to_json() returned") from None

    def table(self, per_class: bool = False) -> "Table":
        """Return a table for the terminal: the mean (and every class) in percent, "n/a" where there is nothing."""
        from rich.table import Column, Table
        from rich.text import Text

        heads = ("AP", "AP50", "AP75", "APs", "APm", "APl", "Truths", "Instances")
        table = Table("", *(Column(name, justify="right") for name in heads))
        truths, instances = sum(c.truths for c in self.per_class), sum(c.instances for c in self.per_class)
        table.add_row("Things", *_percents(self), str(truths), str(instances))
        if per_class:
            table.add_section()
            for c in self.per_class:
                table.add_row(Text(c.name), *_percents(c), str(c.truths), str(c.instances))
        return table


class _Truth(NamedTuple):
    mask: RunLengths
    iscrowd: bool


class InstanceAccumulator:
    """Gathers true and scored things picture by picture, in any order; only their run lengths are kept.

    Of each picture and class the 100 best are ranked, as pycocotools does.
    """

    def __init__(self, categories: Categories) -> None:
        self.categories = categories
        things = [categories.ids[label] for label in categories.thing_labels]
        self._truths: dict[int, list[tuple[ImageId, _Truth]]] = {category_id: [] for category_id in things}
        self._found: dict[int, list[tuple[ImageId, EncodedInstance]]] = {category_id: [] for category_id in things}
        self._with_truth: set[ImageId] = set()
        self._with_found: set[ImageId] = set()
        self._sizes: dict[ImageId, Size] = {}

    @property
    def sizes(self) -> Mapping[ImageId, Size]:
        """(height, width) of each picture so far."""
        return self._sizes

    def add_truth(self, image_id: ImageId, truth: Panoptic) -> None:
        """Add the things of a picture's ground truth, crowds too; what has no pixel in the map is left out.

        Raises `InputError` where it was added before, has other categories than the accumulator, or another size than
        the picture's instances.
        """
        self._check_categories(f"image {image_id}: ground truth", truth.categories)
        if image_id in self._with_truth:
            raise InputError(f"image {image_id}: its ground truth was added before; add each picture once")
        self._check_size(image_id, truth.size)
        self._with_truth.add(image_id)
        ids = np.asfortranarray(truth.ids)  # as run lengths go: down the columns
        for segment in truth.segments:
            encoded = run_lengths.encode((ids == segment.id).view(np.uint8)) if self._is_thing(segment.label) else None
            if encoded is not None and run_lengths.area(encoded):
                category_id = self.categories.ids[segment.label]
                self._truths[category_id].append((image_id, _Truth(encoded, segment.iscrowd)))

    def add(self, image_id: ImageId, instances: Instances) -> None:
        """Add a picture's scored things.

        Raises `InputError` where they were added before, have other categories than the accumulator, are stuff, have
        another size than the picture, or a score is no finite number.
        """
        self._check_categories(f"image {image_id}: instances", instances.categories)
        ids = self.categories.ids
        stuff = [label for label in instances.labels.tolist() if not self._is_thing(label)]
        if stuff:
            raise InputError(f"image {image_id}: label {stuff[0]} is no thing's; give things alone")
        masks = (run_lengths.encode(np.asfortranarray(mask).view(np.uint8)) for mask in instances.masks)
        rows = zip(instances.labels.tolist(), instances.scores.tolist(), masks, strict=True)
        self.add_encoded(image_id, [EncodedInstance(ids[label], score, mask) for label, score, mask in rows])

    def add_encoded(self, image_id: ImageId, instances: Sequence[EncodedInstance]) -> None:
        """Add a picture's scored things whose masks are encoded already; errors are those of `add`."""
        if image_id in self._with_found:
            raise InputError(f"image {image_id}: its instances were added before; add each picture once")
        for instance in instances:
            if instance.category_id not in self._found:
                raise InputError(
                    f"image {image_id}: category_id {instance.category_id} is no thing's; give things alone"
                )
            if not np.isfinite(instance.score):
                raise InputError(f"image {image_id}: the score {instance.score} is no finite number; correct it")
            height, width = instance.mask["size"]
            self._check_size(image_id, (height, width))
        self._with_found.add(image_id)
        taken = dict.fromkeys(self._found, 0)
        for instance in sorted(instances, key=lambda instance: -instance.score):
            taken[instance.category_id] += 1
            if taken[instance.category_id] <= MOST_INSTANCES:
                self._found[instance.category_id].append((image_id, instance))

    def result(self) -> APResult:
        """Return the result over the pictures so far; one without instances is one where nothing was found.

        Raises `InputError` where a picture has instances but no ground truth.
        """
        strangers = sorted(map(str, self._with_found - self._with_truth))
        if strangers:
            raise InputError(f"image {strangers[0]}: has instances but no ground truth; add it, or leave them out")
        pictures = sorted(self._with_truth, key=lambda i: (isinstance(i, str), i if isinstance(i, int) else 0, str(i)))
        number = {image_id: position for position, image_id in enumerate(pictures, 1)}
        with redirect_stdout(StringIO()):  # pycocotools tells its progress, class by class
            tables = [self._precision(category_id, number) for category_id in self._truths]
        empty = np.zeros((*_SHAPE[:2], 0, _SHAPE[2]))
        precision = np.concatenate([empty, *(table[:, :, None] for table in tables)], axis=2)
        rows = enumerate(zip(self._truths.items(), self._found.values(), strict=True))
        per_class = tuple(
            ClassAP(
                **_averages(precision[:, :, [k]]),
                category_id=category_id,
                name=self.categories.names[self.categories.label_of[category_id]],
                truths=sum(not truth.iscrowd for _, truth in truths),
                instances=len(found),
            )
            for k, ((category_id, truths), found) in rows
        )
        return APResult(**_averages(precision), per_class=per_class, pictures=len(pictures))

    def _precision(self, category_id: int, number: Mapping[ImageId, int]) -> npt.NDArray[np.float64]:
        """Return a class's precision [T, R, A]; -1 where the ground truth has no such thing.

        A class at a time, and only the pictures where it occurs: pycocotools visits every picture for every class.
        """
        truths, found = self._truths[category_id], self._found[category_id]
        present = {image_id for image_id, _ in (*truths, *found)}
        if not truths:
            return np.full(_SHAPE, -1.0)
        images = [{"id": number[i], "height": self._sizes[i][0], "width": self._sizes[i][1]} for i in present]
        true = ({"image_id": number[i], "segmentation": t.mask, "iscrowd": int(t.iscrowd)} for i, t in truths)
        scored = ({"image_id": number[i], "segmentation": f.mask, "iscrowd": 0, "score": f.score} for i, f in found)
        evaluator = COCOeval(_coco(category_id, images, true), _coco(category_id, images, scored), iouType="segm")
        evaluator.params.maxDets = [MOST_INSTANCES]
        evaluator.evaluate()
        evaluator.accumulate()
        precision: npt.NDArray[np.float64] = evaluator.eval["precision"][:, :, 0, :, 0]
        return precision

    def _is_thing(self, label: int) -> bool:
        return 0 <= label < len(self.categories) and self.categories.things[label]

    def _check_categories(self, at: str, own: Categories) -> None:
        ours = self.categories
        if (own.names, own.things, own.ids) != (ours.names, ours.things, ours.ids):
            raise InputError(f"{at}: has other categories; use those of the ground truth")

    def _check_size(self, image_id: ImageId, size: Size) -> None:
        known = self._sizes.setdefault(image_id, size)
        if known != size:
            sizes = f"masks of {size} and of {known} (height, width)"
            raise InputError(f"image {image_id}: {sizes}; instances need the size of the ground truth")


_PARAMS = Params("segm")
_RANGES = list(_PARAMS.areaRngLbl)
_SHAPE = (len(_PARAMS.iouThrs), len(_PARAMS.recThrs), len(_RANGES))


def _coco(category_id: int, images: list[dict[str, Any]], entries: Iterable[dict[str, Any]]) -> COCO:
    """Return pycocotools' data set of one class; its matching takes the id 0 for "none", so ids count from 1."""
    found = COCO()
    annotations = [{**entry, "id": i, "category_id": category_id} for i, entry in enumerate(entries, 1)]
    for annotation in annotations:
        annotation["area"] = int(run_lengths.area(annotation["segmentation"]))
    found.dataset = {"images": images, "annotations": annotations, "categories": [{"id": category_id}]}
    found.createIndex()
    return found


def _averages(precision: npt.NDArray[np.float64]) -> dict[str, float | None]:
    """Average [T, R, K, A] as pycocotools' summary does, to the bit."""
    whole, small, medium, large = (precision[..., _RANGES.index(name)] for name in ("all", "small", "medium", "large"))
    half, strict = (whole[np.flatnonzero(_PARAMS.iouThrs == limit)] for limit in (0.5, 0.75))
    parts = {"ap": whole, "ap50": half, "ap75": strict, "ap_small": small, "ap_medium": medium, "ap_large": large}
    return {name: float(np.mean(part[part > -1])) if (part > -1).any() else None for name, part in parts.items()}


def _percents(values: AveragePrecision) -> list[str]:
    columns = (values.ap, values.ap50, values.ap75, values.ap_small, values.ap_medium, values.ap_large)
    return ["n/a" if value is None else f"{100 * value:.1f}" for value in columns]
