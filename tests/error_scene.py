"""The worked example of docs/causes.md as two maps: every cause once, with figures that were reckoned by hand."""

import numpy as np
import numpy.typing as npt

from thingstuff.evaluation.causes import SegmentError
from thingstuff.evaluation.errors import WorstPicture
from thingstuff.evaluation.evaluator import Evaluator
from thingstuff.evaluation.pairs import compare_maps
from thingstuff.evaluation.result import Evaluation
from thingstuff.panoptic import Categories, Panoptic, Segment

CATEGORIES = Categories(("dog", "car", "sky"), (True, True, False), (18, 3, 187))
DOG, CAR, SKY = range(3)
TRUTH = ("aaaaaassssss", "bbbcccssssss", "ddddddssssss", "eeeeeessssss", "ffffffssssss", "ggggggssssss")
PREDICTION = ("AAABBBSSSSSS", "CCCCCCSSSSSS", "DDDDDDSSSSSS", "EE....SSSSSS", "FFFFGGSSSSSS", "......SSSSHH")
SCALE = 40


def panoptic(rows: tuple[str, ...], labels: dict[str, int], scale: int = SCALE) -> Panoptic:
    """Draw a map of squares; a letter is a segment and its code the id, a dot is void."""
    codes = np.array([[0 if letter == "." else ord(letter) for letter in row] for row in rows], dtype=np.int32)
    ids = codes.repeat(scale, axis=0).repeat(scale, axis=1)
    found, areas = (values.tolist() for values in np.unique(ids[ids > 0], return_counts=True))
    segments = tuple(Segment(i, labels[chr(i)], area) for i, area in zip(found, areas, strict=True))
    return Panoptic(ids, segments, CATEGORIES)


def truth(scale: int = SCALE) -> Panoptic:
    """The ground truth."""
    return panoptic(TRUTH, {**dict.fromkeys("abcef", DOG), **dict.fromkeys("dg", CAR), "s": SKY}, scale)


def prediction(scale: int = SCALE) -> Panoptic:
    """The prediction."""
    return panoptic(PREDICTION, {**dict.fromkeys("ABCDEFGH", DOG), "S": SKY}, scale)


def picture(scale: int = SCALE) -> npt.NDArray[np.uint8]:
    """A picture of one colour to lay them over."""
    return np.full((6 * scale, 12 * scale, 3), (180, 60, 60), dtype=np.uint8)


def evaluation(boundary: bool = False) -> Evaluation:
    """What an evaluation says of the pair as picture "a<b>.jpg"."""
    evaluator = Evaluator(CATEGORIES, boundary=boundary)
    evaluator.add(compare_maps(truth(), prediction(), "a<b>.jpg", CATEGORIES, boundary))
    return evaluator.result()


def errors() -> tuple[SegmentError, ...]:
    """The unmatched segments with their causes."""
    (worst,) = evaluation().errors.worst
    assert isinstance(worst, WorstPicture)
    return worst.errors
