"""How many pixels each pair of ids shares in two maps.

Letters: H W pixels of a picture.
"""

import numpy as np
import numpy.typing as npt
from jaxtyping import Integer

from thingstuff.evaluation.segments import Overlaps
from thingstuff.loops import compiled_loops


def overlaps(truth: Integer[np.ndarray, "H W"], prediction: Integer[np.ndarray, "H W"]) -> Overlaps:
    """Count the pixels of each pair of ids that meet in two maps; ids from 0 to 2^32 - 1.

    Raises `ValueError` where the maps differ in size.
    """
    if truth.shape != prediction.shape:
        raise ValueError(f"maps of {truth.shape} and {prediction.shape} (height, width) share no pixels")
    if not truth.size:
        return {}
    loops, pair = compiled_loops(), (_flat(truth), _flat(prediction))
    keys, pixels = loops.count_pairs(*pair) if loops else _count_pairs(*pair)
    # not by numpy: for the few pairs of a picture, its many small calls take longer
    rows = sorted(zip(keys.tolist(), pixels.tolist(), strict=True))
    return {(key >> 32, key & 0xFFFFFFFF): count for key, count in rows}


def _flat(ids: Integer[np.ndarray, "H W"]) -> npt.NDArray[np.uint32]:
    flat = np.ascontiguousarray(ids).reshape(-1)
    return flat.view(np.uint32) if flat.dtype == np.int32 else flat.astype(np.uint32)


def _count_pairs(
    truth: npt.NDArray[np.uint32], prediction: npt.NDArray[np.uint32]
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    pairs = truth.astype(np.uint64) << 32 | prediction
    # ids come in long runs: sorting one entry per run instead of per pixel is most of the speed
    starts = np.flatnonzero(np.concatenate([[True], pairs[1:] != pairs[:-1]]))
    lengths = np.diff(starts, append=pairs.size)
    keys, inverse = np.unique(pairs[starts], return_inverse=True)
    return keys, np.bincount(inverse, weights=lengths).astype(np.int64)
