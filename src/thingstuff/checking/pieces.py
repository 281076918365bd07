"""Connected pieces of an id map, all at once: what boxes, areas and disconnected segments are read from.

Letters: H W pixels of a map.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from jaxtyping import Int32
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

Box = tuple[int, int, int, int]
"""[x, y, width, height] in pixels."""
_ALIKE = 16  # pixels of a piece that may be an object of its own
_Numbers = npt.NDArray[np.int64]


class Pieces(NamedTuple):
    """A row per connected piece (8 neighbours) of pixels with one id: where it lies, the ends exclusive.

    Pieces of one id stand together, larger ones first.
    """

    ids: _Numbers
    areas: _Numbers
    tops: _Numbers
    lefts: _Numbers
    bottoms: _Numbers
    rights: _Numbers


def pieces_of(ids: Int32[np.ndarray, "H W"]) -> Pieces:
    """Find the connected pieces of an id map, those of void (0) too."""
    width = ids.shape[1]
    # runs of equal pixels in a row are the nodes: thousands, where there are hundreds of thousands of pixels
    begins = np.ones(ids.shape, dtype=np.bool_)
    begins[:, 1:] = ids[:, 1:] != ids[:, :-1]
    starts = np.flatnonzero(begins)
    piece = _joined(ids, begins, len(starts))
    lengths = np.diff(starts, append=ids.size)
    rows, lefts = np.divmod(starts, max(1, width))
    order = np.argsort(piece, kind="stable")
    firsts = np.flatnonzero(np.diff(piece[order], prepend=-1))
    if not len(firsts):
        return Pieces(*(np.zeros(0, np.int64) for _ in Pieces._fields))
    found = Pieces(
        ids.reshape(-1)[starts[order[firsts]]].astype(np.int64),
        np.add.reduceat(lengths[order], firsts),
        np.minimum.reduceat(rows[order], firsts),
        np.minimum.reduceat(lefts[order], firsts),
        np.maximum.reduceat(rows[order], firsts) + 1,
        np.maximum.reduceat((lefts + lengths)[order], firsts),
    )
    by_id = np.lexsort((-found.areas, found.ids))
    return Pieces(*(column[by_id] for column in found))


def boxes_of(pieces: Pieces) -> Mapping[int, Box]:
    """Return the box of each id, all its pieces together."""
    if not len(pieces.ids):
        return {}
    firsts = np.flatnonzero(np.diff(pieces.ids, prepend=-1))
    x, y = np.minimum.reduceat(pieces.lefts, firsts), np.minimum.reduceat(pieces.tops, firsts)
    width = np.maximum.reduceat(pieces.rights, firsts) - x
    height = np.maximum.reduceat(pieces.bottoms, firsts) - y
    boxes = zip(x.tolist(), y.tolist(), width.tolist(), height.tolist(), strict=True)
    return dict(zip(pieces.ids[firsts].tolist(), boxes, strict=True))


def areas_of(pieces: Pieces) -> Mapping[int, int]:
    """Return the pixels of each id."""
    if not len(pieces.ids):
        return {}
    firsts = np.flatnonzero(np.diff(pieces.ids, prepend=-1))
    areas = np.add.reduceat(pieces.areas, firsts)
    return dict(zip(pieces.ids[firsts].tolist(), areas.tolist(), strict=True))


def far_apart(pieces: Pieces, first: int) -> bool:
    """Whether an id's two largest pieces, in row `first` and the next, are alike and further apart than long."""
    second = first + 1
    if pieces.areas[second] * 2 < pieces.areas[first] or pieces.areas[second] < _ALIKE:
        return False
    columns = pieces.lefts, pieces.rights, pieces.tops, pieces.bottoms
    left, right, top, bottom = ((int(c[first]), int(c[second])) for c in columns)
    gap = max(max(left) - min(right), max(top) - min(bottom))
    return gap > max(right[0] - left[0], bottom[0] - top[0], right[1] - left[1], bottom[1] - top[1])


def _joined(ids: Int32[np.ndarray, "H W"], begins: npt.NDArray[np.bool_], count: int) -> npt.NDArray[np.int32]:
    """Return the piece of each run, `count` of them, as numbers from 0."""
    run = np.cumsum(begins.reshape(-1), dtype=np.int32).reshape(ids.shape) - np.int32(1)
    upper, lower = ids[:-1], ids[1:]
    # of two runs that lie upon each other, the pixel where the later begins is enough
    below = (upper == lower) & (begins[:-1] | begins[1:])
    # corners join what no straight neighbour does: both rows change between the two columns
    corner = begins[:-1, 1:] & begins[1:, 1:]
    falling = corner & (upper[:, :-1] == lower[:, 1:])
    rising = corner & (upper[:, 1:] == lower[:, :-1])
    ends = (
        (run[:-1][below], run[1:][below]),
        (run[:-1, :-1][falling], run[1:, 1:][falling]),
        (run[:-1, 1:][rising], run[1:, :-1][rising]),
    )
    first, second = (np.concatenate(side) for side in zip(*ends, strict=True))
    graph = coo_matrix((np.ones(len(first)), (first, second)), shape=(count, count))
    _, piece = connected_components(graph, directed=False)
    found: npt.NDArray[np.int32] = piece
    return found
