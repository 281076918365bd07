"""Two panoptic maps in memory against each other."""

from collections.abc import Mapping

from thingstuff.errors import InputError
from thingstuff.evaluation.boundary import boundary_matches
from thingstuff.evaluation.counting import overlaps
from thingstuff.evaluation.segments import ImageId, ScoredPicture, TruthSegment, match_segments, segment_areas
from thingstuff.panoptic import Categories, Panoptic


def compare_maps(
    truth: Panoptic, prediction: Panoptic, image_id: ImageId, categories: Categories, boundary: bool = False
) -> ScoredPicture:
    """Compare a picture's ground truth and prediction; areas are counted in the maps.

    With `boundary`, Boundary PQ's matching is added. Raises `InputError` where the two differ in size, speak of other
    categories than `categories`, or a map and its segments disagree.
    """
    if truth.size != prediction.size:
        sizes = f"the ground truth is {truth.size} (height, width), the prediction {prediction.size}"
        raise InputError(f"image {image_id}: {sizes}; predict at the picture's own size")
    shared = overlaps(truth.ids, prediction.ids)
    areas, predicted_areas = counted = segment_areas(shared)
    _check_segments(f"image {image_id}: ground truth", truth, areas, categories)
    _check_segments(f"image {image_id}: prediction", prediction, predicted_areas, categories)
    ids = categories.ids
    truths = {s.id: TruthSegment(ids[s.label], areas[s.id], s.iscrowd) for s in truth.segments}
    predictions = {s.id: ids[s.label] for s in prediction.segments}
    matches = match_segments(shared, truths, predictions, predicted_areas)
    outlines = boundary_matches(truth.ids, prediction.ids, truths, predictions, shared) if boundary else None
    return ScoredPicture(image_id, shared, truths, predictions, matches, outlines, counted)


def _check_segments(at: str, panoptic: Panoptic, areas: Mapping[int, int], categories: Categories) -> None:
    own, listed = panoptic.categories, [segment.id for segment in panoptic.segments]
    if (own.names, own.things, own.ids) != (categories.names, categories.things, categories.ids):
        raise InputError(f"{at}: has other categories; use those of the ground truth")
    if len({*listed}) != len(listed) or {*areas} - {0} != {*listed}:
        raise InputError(f"{at}: the ids in the map and those of its segments differ; list each id > 0 of the map once")
