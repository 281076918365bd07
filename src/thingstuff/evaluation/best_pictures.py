"""The pictures of the highest PQ: of files while they are compared, of a model by the sums that its evaluation kept.

And how many may stand before them as the worst.
"""

import heapq
from collections.abc import Iterator, Sequence

import numpy as np

from thingstuff.evaluation.file_pairs import PairPaths
from thingstuff.evaluation.picture_sums import PictureSums
from thingstuff.evaluation.pq_files import ScoredPairs
from thingstuff.evaluation.problems import Problems
from thingstuff.evaluation.segments import ImageId, ScoredPicture

_TOGETHER = 1024
_ROUNDING = 1e-9  # sums of the same IoUs in another order


class KeepingBest:
    """Compared pictures of files as they come, of which the `most` of the highest PQ of their own are kept.

    Of equal PQ is better what matches more segments, then what came earlier. The rest is as in the pairs it is given.
    """

    def __init__(self, pairs: ScoredPairs, most: int) -> None:
        self.categories, self.total = pairs.categories, pairs.total
        self._pairs, self._most = pairs, most
        self._heap: list[tuple[float, int, int, ScoredPicture]] = []

    @property
    def problems(self) -> Problems:
        """What is wrong with the files, as far as they were read."""
        return self._pairs.problems

    @problems.setter
    def problems(self, problems: Problems) -> None:
        self._pairs.problems = problems

    def __iter__(self) -> Iterator[ScoredPicture]:
        self._heap = []
        for number, picture in enumerate(self._pairs):
            if (pq := picture.matches.pq) is not None:
                rank = (pq, len(picture.matches.matched), -number)
                heapq.heappush(self._heap, (*rank, picture))
                if len(self._heap) > self._most:
                    heapq.heappop(self._heap)
            yield picture

    def paths(self, image_id: ImageId) -> PairPaths:
        """Return where a picture's files lie."""
        return self._pairs.paths(image_id)

    def close(self) -> None:
        """Let go of the files."""
        self._pairs.close()

    def best(self, above: float) -> list[ScoredPicture]:
        """Return those kept whose PQ is higher than `above`, the best first."""
        return [picture for *_, picture in sorted(self._heap, reverse=True) if (picture.matches.pq or 0.0) > above]


def best_positions(sums: PictureSums, most: int, above: float) -> list[int]:
    """Return where the pictures of the highest PQ stand, as `KeepingBest` ranks them, the best first."""
    ranks: list[tuple[float, int, int]] = []
    for begin in range(0, len(sums), _TOGETHER):
        positions = np.arange(begin, min(begin + _TOGETHER, len(sums)))
        iou, tp, fp, fn = np.moveaxis(sums.sums_at(positions).sum(1), 1, 0)
        total = tp + 0.5 * (fp + fn)
        with_segments = np.flatnonzero(total)
        pq = iou[with_segments] / total[with_segments]
        found = zip(
            pq.tolist(), tp[with_segments].astype(int).tolist(), (-positions[with_segments]).tolist(), strict=True
        )
        ranks = heapq.nlargest(most, [*ranks, *found])
    return [-position for pq, _, position in ranks if pq > above]


def worst_shown(worst: Sequence[float | None], pictures: int, most: int) -> int:
    """Return how many of so many pictures are shown as the worst, given the lowest PQs, the lowest first.

    They are `most`, but not more than half (of one, it) and those as bad as these: `better_than` calls none of them
    one of the best.
    """
    limit = better_than(worst[: max(1, pictures // 2)])
    return min(most, sum((pq or 0.0) <= limit for pq in worst))


def better_than(worst: Sequence[float | None]) -> float:
    """Return the PQ that a picture must exceed to be called one of the best, beside the worst of these PQs."""
    return max((pq for pq in worst if pq is not None), default=-1.0) + _ROUNDING
