"""Drawing what went wrong in a picture: each unmatched segment in the colour of its cause.

Letters: H W the picture. A *place* is a segment's position in `Panoptic.segments` plus one, 0 is void, as in `drawing`.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Int, UInt8
from PIL import Image

from thingstuff.drawing import Picture, segment_places, upright_picture
from thingstuff.drawing_labels import writable_name, write_labels
from thingstuff.errors import InputError
from thingstuff.evaluation.causes import SegmentError
from thingstuff.panoptic import Color, Panoptic

CAUSE_COLOURS: Mapping[str, Color] = {
    "missed": (200, 24, 52),
    "false": (75, 70, 250),
    "wrong class": (134, 82, 160),
    "split": (205, 248, 30),
    "merged": (210, 136, 0),
    "poor mask": (30, 245, 250),
    "duplicate": (69, 163, 145),
}
"""Found by search: as far apart as seven colours go for full, protanopic, deuteranopic and tritanopic sight."""

_BARE_GREY = 70
_FILL = 0.65
_LONGEST_NAME = 18


def error_overlay(
    picture: Picture | None,
    truth: Panoptic,
    prediction: Panoptic,
    errors: Sequence[SegmentError],
    letters: int | None = None,
) -> Image.Image:
    """Draw the unmatched segments of a picture over it, grey and dimmed, as an RGB image of its size.

    Those of the ground truth are filled and have a solid border, those of the prediction are striped and have a dashed
    one, both in the colour of their cause; of all others only a thin border is seen. `letters` is their height in
    pixels, where the picture's size does not give it. Raises `InputError` where the
    picture cannot be read, sizes differ, or an error speaks of a segment that the two maps do not have.
    """
    if truth.size != prediction.size:
        sizes = f"the ground truth is {truth.size} (height, width), the prediction {prediction.size}"
        raise InputError(f"{sizes}; give two maps of one picture")
    places = segment_places(truth), segment_places(prediction)
    causes = _causes(truth, prediction, errors)
    colours = np.array([(0, 0, 0), *CAUSE_COLOURS.values()], dtype=np.uint8)
    missed, false = (colours[cause[place]] for cause, place in zip(causes, places, strict=True))
    in_missed, in_false = (cause[place] > 0 for cause, place in zip(causes, places, strict=True))
    unit = max(1, round(max(truth.size) / 280))
    drawn = _dimmed(picture, truth.size)
    thin = _rims(places[0], 1)
    drawn[thin] += (150 - drawn[thin]) // 2
    drawn[in_missed] = (_FILL * missed[in_missed] + (1 - _FILL) * drawn[in_missed]).astype(np.uint8)
    rows, columns = np.ogrid[: truth.size[0], : truth.size[1]]
    stripes = in_false & ((rows + columns) % (5 * unit) < 2 * unit)
    drawn[stripes] = false[stripes]
    solid = in_missed & _rims(places[0], unit)
    drawn[solid] = missed[solid]
    drawn[in_missed & thin] //= 4  # two neighbours of one cause are told apart
    dashed = in_false & _rims(places[1], unit)
    # the two steps differ, so that no border along a grid or a diagonal of the picture is all dash or all gap
    dash = (2 * columns + 3 * rows) % (20 * unit) < 12 * unit
    drawn[dashed] = np.where(dash[..., None], false, 255)[dashed]
    image = Image.fromarray(drawn)
    _write_causes(image, truth, prediction, errors, places, letters)
    return image


def _causes(truth: Panoptic, prediction: Panoptic, errors: Sequence[SegmentError]) -> list[Int[np.ndarray, "places"]]:
    """Return each place's cause as its number in `CAUSE_COLOURS` plus one, 0 without, of truth and prediction."""
    numbers = {cause: number for number, cause in enumerate(CAUSE_COLOURS, 1)}
    causes = []
    for is_truth, panoptic in ((True, truth), (False, prediction)):
        own = {error.segment_id: numbers[error.cause] for error in errors if error.is_truth == is_truth}
        strange = own.keys() - {segment.id for segment in panoptic.segments}
        if strange:
            side = "ground truth" if is_truth else "prediction"
            raise InputError(f"the {side} has no segment {min(strange)}; give the errors of these two maps")
        causes.append(np.array([0, *(own.get(segment.id, 0) for segment in panoptic.segments)]))
    return causes


def _dimmed(picture: Picture | None, size: tuple[int, int]) -> UInt8[np.ndarray, "H W 3"]:
    """Return the picture [H, W, 3] in dark greys, between which and black or white every colour of a cause shows."""
    if picture is None:
        return np.full((*size, 3), _BARE_GREY, dtype=np.uint8)
    grey = np.asarray(upright_picture(picture, size).convert("L"), dtype=np.float32)
    return np.repeat((18 + 0.42 * grey).astype(np.uint8)[..., None], 3, axis=2)


def _rims(places: Int[np.ndarray, "H W"], width: int) -> Bool[np.ndarray, "H W"]:
    """Return the pixels that have another segment within so many pixels above, below, left or right of them."""
    rims = np.zeros(places.shape, dtype=bool)
    for reach in range(1, width + 1):
        across, down = places[:, reach:] != places[:, :-reach], places[reach:] != places[:-reach]
        rims[:, reach:] |= across
        rims[:, :-reach] |= across
        rims[reach:] |= down
        rims[:-reach] |= down
    return rims


def _write_causes(
    image: Image.Image,
    truth: Panoptic,
    prediction: Panoptic,
    errors: Sequence[SegmentError],
    places: tuple[Int[np.ndarray, "H W"], Int[np.ndarray, "H W"]],
    letters: int | None,
) -> None:
    """Write cause and class, large segments first; a prediction is named where no partner says the same of it."""
    told = {(error.cause, error.segment_id) for error in errors if error.is_truth}
    by_size = sorted(errors, key=lambda error: -error.area)
    own = [e for e in by_size if e.is_truth]
    others = [e for e in by_size if not e.is_truth and not any((e.cause, t) in told for t in e.partners)]
    taken = write_labels(image, places[0], _labels(truth, prediction, own), letters=letters)
    write_labels(image, places[1], _labels(prediction, truth, others), taken, letters)


def _labels(panoptic: Panoptic, partners: Panoptic, errors: Sequence[SegmentError]) -> dict[int, list[str]]:
    place_of = {segment.id: place for place, segment in enumerate(panoptic.segments, 1)}
    partner_of = {segment.id: segment for segment in partners.segments}
    labels = {}
    for error in errors:
        name = writable_name(panoptic, panoptic.segments[place_of[error.segment_id] - 1].label, _LONGEST_NAME)
        texts = [f"{error.cause}: {name}", error.cause]
        other = partner_of.get(error.partners[0]) if error.partners else None
        if error.cause == "wrong class" and other is not None:
            texts.insert(0, f"{texts[0]} as {writable_name(partners, other.label, _LONGEST_NAME)}")
        labels[place_of[error.segment_id]] = texts
    return labels
