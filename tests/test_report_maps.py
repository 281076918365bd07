"""What a page says of the pixel that is pointed at: the maps come back as they were, every segment has its fate."""

import base64
import json

import numpy as np
import pytest

import error_scene
from error_scene import CATEGORIES, errors, prediction, truth
from thingstuff.drawing import resized_map, segment_places
from thingstuff.evaluation.causes import SegmentError
from thingstuff.panoptic import Panoptic, Segment
from thingstuff.report_maps import partners_in_words, pointed_maps


def decoded_map(text: str, size: tuple[int, int]) -> np.ndarray:
    """Read the runs back, by the format's description alone."""
    numbers, value, shift = [], 0, 0
    for byte in base64.b64decode(text):
        value, shift = value | (byte & 127) << shift, shift + 7
        if byte < 128:
            numbers.append(value)
            value = shift = 0
    return np.repeat(numbers[::2], numbers[1::2]).reshape(size[::-1])


def noise(size: tuple[int, int], segments: int = 300) -> Panoptic:
    ids = np.random.default_rng(0).integers(0, segments + 1, size).astype(np.int32)
    found, areas = np.unique(ids[ids > 0], return_counts=True)
    return Panoptic(ids, tuple(Segment(int(i), 0, int(a)) for i, a in zip(found, areas, strict=True)), CATEGORIES)


def test_small_maps_come_back_whole() -> None:
    given = noise((37, 53))
    maps = pointed_maps(given, given, (), 100_000)
    assert maps.size == (53, 37)
    assert (decoded_map(maps.truth, maps.size) == segment_places(given)).all()
    assert maps.truth == maps.prediction


def test_large_maps_are_reduced_together() -> None:
    wide, calm = noise((200, 600)), Panoptic(np.ones((200, 600), np.int32), (Segment(1, 0, 120_000),), CATEGORIES)
    maps = pointed_maps(calm, wide, (), 1_000_000)
    assert maps.size == (400, 133)
    assert (decoded_map(maps.prediction, maps.size) == segment_places(resized_map(wide, (133, 400)))).all()
    assert len(base64.b64decode(maps.truth)) == 4, "one run: place 1, 53,200 pixels"
    few = pointed_maps(calm, wide, (), 5000)
    assert len(base64.b64decode(few.prediction)) <= 5000
    assert few.size[0] < 200
    assert decoded_map(few.truth, few.size).min() == 1


def test_every_segment_is_told_by_what_became_of_it() -> None:
    told = json.loads(pointed_maps(truth(), prediction(), errors(), 10_000).segments)
    letters = [chr(segment.id) for segment in truth().segments]
    fates = {letter: (name, area, fate) for letter, (name, area, fate) in zip(letters, told["truth"], strict=True)}
    assert fates["a"] == ("dog", 9600, "split: 2 × dog, IoU 100.0")
    assert fates["d"] == ("car", 9600, "wrong class: dog, IoU 100.0")
    assert fates["g"] == ("car", 9600, "missed")
    assert fates["s"] == ("sky", 57600, "matched, IoU 94.4")
    letters = [chr(segment.id) for segment in prediction().segments]
    fates = dict(zip(letters, (fate for _, _, fate in told["prediction"]), strict=True))
    assert fates["D"] == "wrong class: car, IoU 100.0"
    assert fates["S"] == "matched, IoU 94.4"
    assert fates["H"] == "false"
    assert fates["F"].startswith("matched, IoU")
    assert fates["G"].startswith("duplicate: dog")


def test_what_is_not_scored_is_told() -> None:
    ids = np.array([[1, 1, 1, 2, 2, 2, 0, 0]], np.int32)
    own = Panoptic(ids, (Segment(1, 0, 3, iscrowd=True), Segment(2, 2, 3)), CATEGORIES)
    found = np.array([[7, 7, 7, 8, 8, 9, 9, 9]], np.int32)
    segments = (Segment(7, 0, 3, score=0.5), Segment(8, 2, 2, score=0.251), Segment(9, 1, 3, score=1.0))
    told = json.loads(pointed_maps(own, Panoptic(found, segments, CATEGORIES), (), 1000).segments)
    assert told["truth"] == [["dog", 3, "crowd, not scored"], ["sky", 3, "matched, IoU 66.7"]]
    assert told["prediction"] == [
        ["dog, score 0.50", 3, "not scored, mostly void or crowd"],
        ["sky, score 0.25", 2, "matched, IoU 66.7"],
        ["car, score 1.00", 3, "not scored, mostly void or crowd"],
    ]


def test_a_cause_that_was_told_goes_before_what_the_maps_say() -> None:
    sky = next(s.id for s in truth().segments if s.label == error_scene.SKY)
    error = SegmentError("poor mask", sky, True, 187, 57600, (ord("S"),), float("inf"))
    told = json.loads(pointed_maps(truth(), prediction(), (error,), 10_000).segments)
    assert ["sky", 57600, "poor mask: sky, IoU n/a"] in told["truth"]
    assert ["car", 9600, "not matched"] in told["truth"], "its cause was not told"


@pytest.mark.parametrize("shape", [(1, 1), (1, 2000), (2000, 1)])
def test_maps_of_any_shape(shape: tuple[int, int]) -> None:
    nothing = Panoptic(np.zeros(shape, np.int32), (), CATEGORIES)
    maps = pointed_maps(nothing, nothing, (), 1000)
    assert not decoded_map(maps.truth, maps.size).any()
    assert json.loads(maps.segments) == {"truth": [], "prediction": []}


def test_a_segment_that_lost_its_pixels_is_no_trouble() -> None:
    given = truth()
    lost = Panoptic(given.ids, (*given.segments, Segment(9, 0, 0)), CATEGORIES)
    told = json.loads(pointed_maps(lost, lost, (), 10_000).segments)
    assert told["truth"][-1] == ["dog", 0, "not matched"]


def test_partners_are_counted_by_class() -> None:
    error = SegmentError("split", ord("d"), True, 3, 1, tuple(map(ord, "ABSx")), 0.6)
    assert partners_in_words(error, prediction()) == "2 × dog, sky"
