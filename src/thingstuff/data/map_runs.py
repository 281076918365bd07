"""A map of ids as runs: its pixels repeat along a row, so that a run is looked at where pixels would be many.

Letters: H W pixels of a map, R runs, N ids that occur.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int64, Integer, Shaped

Size = tuple[int, int]


class MapRuns(NamedTuple):
    """A map's pixels in reading order, as runs of one id that end with their row at the latest."""

    size: Size
    """(height, width) in pixels."""
    ids: Integer[np.ndarray, "N"]
    """Those that occur, ascending."""
    which: Integer[np.ndarray, "R"]
    """Position in `ids` of each run's id."""
    starts: Integer[np.ndarray, "R"]
    """First pixel of each run, counted in reading order."""
    lengths: Integer[np.ndarray, "R"]

    def areas(self) -> Int64[np.ndarray, "N"]:
        """Return the pixels of each id."""
        areas = np.zeros(len(self.ids), np.int64)
        np.add.at(areas, self.which, self.lengths)
        return areas

    def boxes(self) -> Float32[np.ndarray, "N 4"]:
        """Return the XYXY box of each id, half-open (last + 1)."""
        rows, lefts = np.divmod(self.starts, self.size[1])
        lowest, highest = np.full((2, len(self.ids)), np.iinfo(np.int64).max), np.zeros((2, len(self.ids)), np.int64)
        for least, values in zip(lowest, (lefts, rows), strict=True):
            np.minimum.at(least, self.which, values)
        for most, values in zip(highest, (lefts + self.lengths, rows + 1), strict=True):
            np.maximum.at(most, self.which, values)
        return np.asarray(np.concatenate([lowest, highest]).T, np.float32)

    def painted(self, values: Shaped[np.ndarray, "N"]) -> Shaped[np.ndarray, "H W"]:
        """Return the map with each id replaced by a value."""
        return np.repeat(values[self.which], self.lengths).reshape(self.size)


def map_runs(ids: Integer[np.ndarray, "H W"]) -> MapRuns:
    """Find a map's runs."""
    begins = np.ones(ids.shape, np.bool_)
    np.not_equal(ids[:, 1:], ids[:, :-1], out=begins[:, 1:])
    starts = np.flatnonzero(begins)
    present, which = np.unique(ids.ravel()[starts], return_inverse=True)
    return MapRuns((ids.shape[0], ids.shape[1]), present, which, starts, np.diff(starts, append=ids.size))
