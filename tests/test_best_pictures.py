"""Which pictures are called the best: of files while they are compared, of a model by the sums of its evaluation."""

import random
from pathlib import Path

import numpy as np
import pytest

from error_scene import CATEGORIES
from thingstuff.evaluation.best_pictures import KeepingBest, best_positions, better_than, worst_shown
from thingstuff.evaluation.evaluator import Evaluator
from thingstuff.evaluation.file_pairs import PairPaths
from thingstuff.evaluation.pairs import compare_maps
from thingstuff.evaluation.pq_files import ScoredPairs
from thingstuff.evaluation.problems import Problems
from thingstuff.evaluation.segments import ScoredPicture
from thingstuff.panoptic import Panoptic, Segment


def panoptic(text: str) -> Panoptic:
    """A row of pixels: letters are segments, a and b dogs, s the sky; a dot is void."""
    ids = np.array([[0 if letter == "." else ord(letter) for letter in text]], np.int32)
    labels = {"a": 0, "b": 0, "s": 2}
    segments = tuple(Segment(ord(c), labels[c], text.count(c)) for c in sorted(set(text) - {"."}))
    return Panoptic(ids, segments, CATEGORIES)


def scored(*pairs: tuple[str, str]) -> list[ScoredPicture]:
    return [compare_maps(panoptic(t), panoptic(p), number, CATEGORIES) for number, (t, p) in enumerate(pairs)]


class Pairs:
    """Pairs that are compared already."""

    def __init__(self, pictures: list[ScoredPicture]) -> None:
        self.categories, self.total, self.problems, self.closed = CATEGORIES, len(pictures), Problems(), False
        self.pictures = pictures

    def __iter__(self):
        self.problems = Problems()
        yield from self.pictures

    def paths(self, image_id):
        return PairPaths(Path("truth"), Path("prediction"), f"{image_id}.jpg")

    def close(self) -> None:
        self.closed = True


PICTURES = (
    ("aaaa....", "aaaa...."),  # 0: exact, one segment
    ("aaaassss", "aaaassss"),  # 1: exact, two
    ("aaaassss", "aaa.ssss"),  # 2: 7/8
    ("aaaassss", "........"),  # 3: nothing
    ("........", "........"),  # 4: no segment at all
    ("aaaassss", "aaaassss"),  # 5: as 1, later
)


def ids(pictures: list[ScoredPicture]) -> list[object]:
    return [picture.image_id for picture in pictures]


def test_the_best_of_files_are_kept() -> None:
    given = Pairs(scored(*PICTURES))
    kept = KeepingBest(given, 4)
    assert isinstance(kept, ScoredPairs)
    assert ids(list(kept)) == [0, 1, 2, 3, 4, 5], "all pass through"
    assert ids(kept.best(-1.0)) == [1, 5, 0, 2], "of equal ones that with more matches, then the earlier"
    assert ids(kept.best(0.9)) == [1, 5, 0]
    assert ids(kept.best(1.0)) == []
    assert ids(list(kept)) == [0, 1, 2, 3, 4, 5]
    assert ids(kept.best(-1.0)) == [1, 5, 0, 2], "a second pass begins anew"
    assert kept.problems is given.problems
    assert (kept.categories, kept.total, kept.paths(3).picture) == (CATEGORIES, 6, "3.jpg")
    kept.close()
    assert given.closed


@pytest.mark.parametrize("most", [0, 1, 3, 100])
def test_both_ways_agree(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thingstuff.evaluation.best_pictures._TOGETHER", 7)
    draw = random.Random(most)
    texts = ["".join(draw.choice("aabss.") for _ in range(8)) for _ in range(60)]
    pictures = scored(*PICTURES, *zip(texts, texts[::-1], strict=True), *zip(texts[:9], texts[:9], strict=True))
    kept, evaluator = KeepingBest(Pairs(pictures), most), Evaluator(CATEGORIES)
    for picture in kept:
        evaluator.add(picture)
    sums = evaluator.result().sums
    assert sums is not None
    for above in (-1.0, 0.4, 0.99):
        assert best_positions(sums, most, above) == ids(kept.best(above))


def test_no_picture_as_bad_as_the_worst_is_called_one_of_the_best() -> None:
    pictures = scored(*[("aaaassss", "aaa.ssss")] * 3, ("ssss", "ssss"))
    evaluator = Evaluator(CATEGORIES)
    for picture in pictures:
        evaluator.add(picture)
    result = evaluator.result()
    assert result.sums is not None
    assert best_positions(result.sums, 4, better_than([picture.pq for picture in result.errors.worst[:1]])) == [3]
    assert best_positions(result.sums, 4, better_than([])) == [3, 0, 1, 2]
    assert better_than([None]) < 0


def test_of_few_pictures_not_more_than_half_are_called_the_worst() -> None:
    rising = [0.01 * i for i in range(20)]
    found = [worst_shown(rising[:pictures], pictures, 6) for pictures in (0, 1, 2, 3, 6, 11, 12, 20)]
    assert found == [0, 1, 1, 1, 3, 5, 6, 6]
    assert worst_shown(rising, 5000, 6) == 6
    assert worst_shown([0.2], 6, 6) == 1, "the others are perfect"
    assert worst_shown([0.0, 0.1, 0.1, 0.1, 0.2, 0.3], 6, 6) == 4, "one as bad as the worst cannot be one of the best"
    assert worst_shown([0.0] * 20, 30, 6) == 6
    assert worst_shown([], 3, 6) == 0
