"""Two COCO panoptic files as panopticapi takes them: what it takes in silence is scored, where it fails we refuse."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32

from thingstuff.data.coco import id_faults
from thingstuff.errors import InputError, raise_problems
from thingstuff.evaluation.counting import overlaps
from thingstuff.evaluation.file_pairs import CALLS, PairPaths, scored
from thingstuff.evaluation.picture_side import SideFiles, picture_name
from thingstuff.evaluation.pq import Progress
from thingstuff.evaluation.problems import ProblemFile, Problems
from thingstuff.evaluation.segments import ImageId, ScoredPicture, TruthSegment, segment_areas
from thingstuff.evaluation.threads import in_order, thread_count
from thingstuff.io import read_id_map, read_json, read_sections
from thingstuff.loops import compiled_loops
from thingstuff.panoptic import Categories


class _Pair(NamedTuple):
    image_id: ImageId
    truth_map: Path
    map: Path
    truths: Mapping[int, TruthSegment]
    predictions: Mapping[int, int]

    def maps(self) -> tuple[Int32[np.ndarray, "H W"], Int32[np.ndarray, "H W"]]:
        truth, prediction = read_id_map(self.truth_map), read_id_map(self.map)
        if truth.shape != prediction.shape:
            sizes = f"{self.map} is {prediction.shape} (height, width), {self.truth_map} {truth.shape}"
            raise InputError(f"{sizes}; predict at the picture's own size")
        return truth, prediction


class PairsLikePanopticapi:
    """Iterates over the pictures of two files, compared, in the order of the ground truth's annotations.

    Raises `InputError` where panopticapi raises: at once or as it comes to the picture. An image id may come twice, and
    categories that are not listed may occur in the ground truth's segments. `problems` holds notes alone.
    """

    def __init__(
        self, truth: SideFiles, prediction: SideFiles, boundary: bool, threads: int | None, progress: Progress | None
    ) -> None:
        self.problems = Problems()
        self._truth_json, self._prediction_json, self._boundary = truth.json, prediction.json, boundary
        self._threads, self._progress = thread_count(threads), progress
        annotations, entries = read_sections(truth.json, ("annotations", "categories"))
        (found,) = read_sections(prediction.json, ("annotations",))
        try:
            self.categories = _categories(entries)
            by_image = {annotation["image_id"]: annotation for annotation in found}
            missing = [annotation["image_id"] for annotation in annotations if annotation["image_id"] not in by_image]
            raise_problems([f"image {i!r}: predict it too" for i in missing], f"{prediction.json} lacks predictions:")
            self._pairs = [_pair(truth.maps, a, prediction.maps, by_image[a["image_id"]]) for a in annotations]
        except (KeyError, TypeError) as error:
            raise self._mistaken(error) from error
        self.total = len(self._pairs)

    def __iter__(self) -> Iterator[ScoredPicture]:
        self.problems = Problems()
        compiled_loops(CALLS * self.total)
        for done, picture in enumerate(in_order(self._compared, self._pairs, self._threads), 1):
            if self._progress:
                self._progress(done, self.total)
            self._note_infinite(picture)
            yield picture

    def paths(self, image_id: ImageId) -> PairPaths:
        """Return where a picture's two maps lie, and its file name where the ground truth's `images` has one."""
        pair = self._pair_of.get(image_id)
        if pair is None:
            raise InputError(f"image {image_id!r} is not in {self._truth_json}; give the image_id of an annotation")
        return PairPaths(pair.truth_map, pair.map, picture_name(self._names.get(image_id)))

    def close(self) -> None:
        """Let go of the pictures."""
        self._pairs = []

    @cached_property
    def _pair_of(self) -> dict[ImageId, _Pair]:
        # of an image id that comes twice the last counts, as in results per picture
        return {pair.image_id: pair for pair in self._pairs}

    @cached_property
    def _names(self) -> dict[ImageId, object]:
        images = read_json(self._truth_json).get("images")
        entries = [entry for entry in images if isinstance(entry, dict)] if isinstance(images, list) else []
        return {entry["id"]: entry.get("file_name") for entry in entries if isinstance(entry.get("id"), int | str)}

    def _note_infinite(self, picture: ScoredPicture) -> None:
        for match in picture.matches.matched:
            if math.isinf(match.iou):
                message = "its stated area leaves no union: panopticapi's IoU is infinite there"
                note = ProblemFile(self.problems, self._truth_json, picture.image_id)
                note("infinite IoU", message, match.truth_id)

    def _compared(self, pair: _Pair) -> ScoredPicture:
        maps = pair.maps()
        shared = overlaps(*maps)
        areas = segment_areas(shared)
        try:
            faults = id_faults(areas[1], pair.predictions, pair.map)
            faults += [
                f"segment {segment_id}: category_id {category_id!r} is not in the ground truth's categories; correct it"
                for segment_id, category_id in pair.predictions.items()
                if category_id not in self.categories.label_of
            ]
            raise_problems(faults, f"image {pair.image_id!r}: the prediction cannot be scored, by panopticapi neither:")
            return scored(pair.image_id, maps, pair.truths, pair.predictions, shared, areas, self._boundary)
        except TypeError as error:
            raise self._mistaken(error) from error

    def _mistaken(self, error: Exception) -> InputError:
        files = f"{self._truth_json} or {self._prediction_json}"
        return InputError(f"{files} lacks or mistakes a field ({error!r}); score strictly to see where")


def _pair(gt: Path, truth: Mapping[str, Any], pred: Path, found: Mapping[str, Any]) -> _Pair:
    truths = {s["id"]: TruthSegment(s["category_id"], s["area"], s["iscrowd"] == 1) for s in truth["segments_info"]}
    predictions = {s["id"]: s["category_id"] for s in found["segments_info"]}
    # a category that is a list fails in sums, where no file is named any more
    hash(tuple(segment.category_id for segment in truths.values()))
    return _Pair(truth["image_id"], gt / truth["file_name"], pred / found["file_name"], truths, predictions)


def _categories(entries: Iterable[Mapping[str, Any]]) -> Categories:
    # it reads no names, and of an id that comes twice it keeps the last entry
    by_id = {entry["id"]: entry for entry in entries}
    names = [str(entry.get("name", category_id)) for category_id, entry in by_id.items()]
    count = Counter(names)
    unique = (f"{name} ({i})" if count[name] > 1 else name for i, name in zip(by_id, names, strict=True))
    return Categories(tuple(unique), tuple(entry["isthing"] == 1 for entry in by_id.values()), tuple(by_id))
