"""What a page says of the pixel that is pointed at: both maps of a picture as runs, and every segment in words.

Letters: h w the maps on the page. A *place* is a segment's position in `Panoptic.segments` plus one, 0 is void, as in
`drawing`.
"""

import base64
import html
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np
from jaxtyping import Int

from thingstuff.drawing import place_runs, resized_map, segment_places
from thingstuff.evaluation.causes import SegmentError
from thingstuff.evaluation.counting import overlaps
from thingstuff.evaluation.segments import PictureMatches, TruthSegment, match_segments, segment_areas
from thingstuff.panoptic import Panoptic, Segment

_LONGEST_SIDE = 400
_LEAST_SIDE = 48


@dataclass(frozen=True)
class PointedMaps:
    """Ground truth and prediction of a picture as a page has them, both of `size` (width, height).

    `truth` and `prediction` are base64 of the maps' runs, row by row: place, length, place, length, ... as LEB128
    (seven bits a byte, the lowest first, the eighth bit where more follow). `segments` is JSON: by "truth" and
    "prediction" the [name, pixels, what became of it] of each place from 1 on.
    """

    size: tuple[int, int]
    truth: str
    prediction: str
    segments: str

    @property
    def characters(self) -> int:
        """How long all this is in a page, where quotation marks are escaped."""
        return len(self.truth) + len(self.prediction) + len(html.escape(self.segments))


def pointed_maps(truth: Panoptic, prediction: Panoptic, errors: Sequence[SegmentError], most_bytes: int) -> PointedMaps:
    """Return a picture's two maps as a page has them, at a size at which the runs of each are at most so many bytes.

    `errors` are the causes that are told of unmatched segments; below 48 pixels a map does not shrink further.
    """
    height, width = truth.size
    longest = min(_LONGEST_SIDE, max(width, height))
    while True:
        scale = longest / max(width, height)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        runs = [place_runs(segment_places(resized_map(panoptic, size[::-1]))) for panoptic in (truth, prediction)]
        if max(map(_byte_count, runs)) <= most_bytes or longest <= _LEAST_SIDE:
            break
        longest = longest * 3 // 4
    own, found = (base64.b64encode(_leb128(numbers)).decode("ascii") for numbers in runs)
    return PointedMaps(size, own, found, json.dumps(_in_words(truth, prediction, errors), separators=(",", ":")))


def partners_in_words(error: SegmentError, other: Panoptic) -> str:
    """Return the classes of an error's partners, which are segments of the other map: "dog", "2 × dog, car"."""
    segments = {segment.id: segment for segment in other.segments}
    names = Counter(other.name(segments[i]) for i in error.partners if i in segments)
    return ", ".join(name if count == 1 else f"{count} × {name}" for name, count in names.items())


def _byte_count(numbers: Int[np.ndarray, "numbers"]) -> int:
    return numbers.size + sum(int((numbers >= 1 << bits).sum()) for bits in range(7, 35, 7))


def _leb128(numbers: Int[np.ndarray, "numbers"]) -> bytes:
    found = bytearray()
    for number in numbers.tolist():
        while number > 127:
            found.append(number & 127 | 128)
            number >>= 7
        found.append(number)
    return bytes(found)


def _in_words(
    truth: Panoptic, prediction: Panoptic, errors: Sequence[SegmentError]
) -> dict[str, list[tuple[str, int, str]]]:
    """Return of each segment of both maps its name, its pixels and what became of it."""
    matches = _matches(truth, prediction)
    fates: dict[tuple[bool, int], str] = dict.fromkeys(
        ((False, i) for i in matches.ignored), "not scored, mostly void or crowd"
    )
    fates |= {(True, segment.id): "crowd, not scored" for segment in truth.segments if segment.iscrowd}
    for match in matches.matched:
        words = f"matched, IoU {_percent(match.iou)}"
        fates |= {(True, match.truth_id): words, (False, match.prediction_id): words}
    # what was told of the picture goes before what is found in its maps, where areas were stated, not counted
    for error in errors:
        fates[error.is_truth, error.segment_id] = _error_words(error, prediction if error.is_truth else truth)
    return {
        side: [
            (_name(panoptic, segment), segment.area, fates.get((panoptic is truth, segment.id), "not matched"))
            for segment in panoptic.segments
        ]
        for side, panoptic in (("truth", truth), ("prediction", prediction))
    }


def _matches(truth: Panoptic, prediction: Panoptic) -> PictureMatches:
    shared = overlaps(truth.ids, prediction.ids)
    areas, predicted_areas = segment_areas(shared)
    truths = {
        s.id: TruthSegment(truth.categories.ids[s.label], areas[s.id], s.iscrowd) for s in truth.segments if areas[s.id]
    }
    predictions = {s.id: prediction.categories.ids[s.label] for s in prediction.segments if predicted_areas[s.id]}
    return match_segments(shared, truths, predictions, predicted_areas)


def _name(panoptic: Panoptic, segment: Segment) -> str:
    name = panoptic.name(segment)
    return name if segment.score is None else f"{name}, score {segment.score:.2f}"


def _error_words(error: SegmentError, other: Panoptic) -> str:
    partners = partners_in_words(error, other)
    return f"{error.cause}: {partners}, IoU {_percent(error.iou)}" if partners else error.cause


def _percent(iou: float) -> str:
    return f"{100 * iou:.1f}" if isfinite(iou) else "n/a"
