"""How many pixels each pair of ids shares in two maps.

Letters: H W pixels of a picture.
"""

import numpy as np
from jaxtyping import Integer

from thingstuff.evaluation.segments import Overlaps


def overlaps(truth: Integer[np.ndarray, "H W"], prediction: Integer[np.ndarray, "H W"]) -> Overlaps:
    """Count the pixels of each pair of ids that meet in two maps of one size."""
    pairs = (truth.astype(np.int64) << 32 | prediction.astype(np.int64)).ravel()
    # ids come in long runs: sorting one entry per run instead of per pixel is most of the speed
    starts = np.flatnonzero(np.diff(pairs, prepend=-1))
    lengths = np.diff(starts, append=pairs.size)
    keys, inverse = np.unique(pairs[starts], return_inverse=True)
    areas = np.bincount(inverse, weights=lengths).astype(np.int64)
    return {(key >> 32, key & 0xFFFFFFFF): area for key, area in zip(keys.tolist(), areas.tolist(), strict=True)}
