"""PQ of files: COCO panoptic JSON and PNGs against each other, strictly or as panopticapi takes them."""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from thingstuff.data import coco
from thingstuff.errors import InputError, raise_problems
from thingstuff.evaluation.counting import overlaps
from thingstuff.evaluation.pq import PQAccumulator, Progress
from thingstuff.evaluation.segments import ImageId, Overlaps, TruthSegment, match_segments, segment_areas
from thingstuff.io import id_map_size, map_folder, read_id_map, read_sections
from thingstuff.panoptic import Categories


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
    truth = coco.SplitPaths(Path(), map_folder(gt, gt_folder, "gt_folder"), Path(gt))
    prediction = coco.SplitPaths(Path(), map_folder(pred, pred_folder, "pred_folder"), Path(pred))
    score = _score_like_panopticapi if like_panopticapi else _score_strictly
    return score(truth, prediction, progress or (lambda done, total: None))


class _Pair(NamedTuple):
    image_id: ImageId
    truth_map: Path
    map: Path
    truths: Mapping[int, TruthSegment]
    predictions: Mapping[int, int]

    def overlaps(self) -> Overlaps:
        truth, prediction = read_id_map(self.truth_map), read_id_map(self.map)
        if truth.shape != prediction.shape:
            sizes = f"{self.map} is {prediction.shape} (height, width), {self.truth_map} {truth.shape}"
            raise InputError(f"{sizes}; predict at the picture's own size")
        return overlaps(truth, prediction)


def _score_strictly(gt: coco.SplitPaths, pred: coco.SplitPaths, progress: Progress) -> PQAccumulator:
    categories, records, problems = coco.read_ground_truth(gt)
    predictions = coco.read_predictions(pred, categories, problems)
    strangers = predictions.keys() - {record.image_id for record in records}
    problems += [f"{pred.json}: image {i!r}: is not in {gt.json}; remove it" for i in predictions if i in strangers]
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


def _add_strictly(scores: PQAccumulator, record: coco.Record, path: Path, predictions: Mapping[int, int]) -> list[str]:
    ids = scores.categories.ids
    truths = {s.id: TruthSegment(ids[s.label], s.area, s.iscrowd) for s in record.segments}
    try:
        coco.check_map_size(record, id_map_size(record.map))
        shared = _Pair(record.image_id, record.map, path, truths, predictions).overlaps()
    except InputError as error:
        return [str(error)]
    areas, predicted_areas = segment_areas(shared)
    faults = coco.id_faults(areas, truths, record.map) + coco.id_faults(predicted_areas, predictions, path)
    faults += [
        f"segment {i}: its area is {truth.area} in the JSON, {areas[i]} in {record.map}; correct the JSON"
        for i, truth in truths.items()
        if i in areas and areas[i] != truth.area
    ]
    if not faults:
        scores.add_matches(record.image_id, match_segments(shared, truths, predictions))
    return faults


def _score_like_panopticapi(gt: coco.SplitPaths, pred: coco.SplitPaths, progress: Progress) -> PQAccumulator:
    annotations, entries = read_sections(gt.json, ("annotations", "categories"))
    (found,) = read_sections(pred.json, ("annotations",))
    try:
        scores = PQAccumulator(_categories_like_panopticapi(entries))
        by_image = {annotation["image_id"]: annotation for annotation in found}
        missing = [annotation["image_id"] for annotation in annotations if annotation["image_id"] not in by_image]
        raise_problems([f"image {i!r}: predict it too" for i in missing], f"{pred.json} lacks predictions:")
        pairs = [_pair_like_panopticapi(gt.maps, a, pred.maps, by_image[a["image_id"]]) for a in annotations]
    except (KeyError, TypeError) as error:
        files = f"{gt.json} or {pred.json}"
        raise InputError(f"{files} lacks or mistakes a field ({error!r}); score strictly to see where") from error
    for done, pair in enumerate(pairs, 1):
        _add_like_panopticapi(scores, pair)
        progress(done, len(pairs))
    return scores


def _pair_like_panopticapi(gt: Path, truth: Mapping[str, Any], pred: Path, found: Mapping[str, Any]) -> _Pair:
    truths = {s["id"]: TruthSegment(s["category_id"], s["area"], s["iscrowd"] == 1) for s in truth["segments_info"]}
    predictions = {s["id"]: s["category_id"] for s in found["segments_info"]}
    return _Pair(truth["image_id"], gt / truth["file_name"], pred / found["file_name"], truths, predictions)


def _add_like_panopticapi(scores: PQAccumulator, pair: _Pair) -> None:
    shared = pair.overlaps()
    faults = coco.id_faults(segment_areas(shared)[1], pair.predictions, pair.map)
    faults += [
        f"segment {segment_id}: category_id {category_id!r} is not in the ground truth's categories; correct it"
        for segment_id, category_id in pair.predictions.items()
        if category_id not in scores.categories.label_of
    ]
    raise_problems(faults, f"image {pair.image_id!r}: the prediction cannot be scored, by panopticapi neither:")
    scores.add_matches(pair.image_id, match_segments(shared, pair.truths, pair.predictions))


def _categories_like_panopticapi(entries: Iterable[Mapping[str, Any]]) -> Categories:
    # it reads no names, and of an id that comes twice it keeps the last entry
    by_id = {entry["id"]: entry for entry in entries}
    names = [str(entry.get("name", category_id)) for category_id, entry in by_id.items()]
    count = Counter(names)
    unique = (f"{name} ({i})" if count[name] > 1 else name for i, name in zip(by_id, names, strict=True))
    return Categories(tuple(unique), tuple(entry["isthing"] == 1 for entry in by_id.values()), tuple(by_id))
