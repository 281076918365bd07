"""One picture of a data set through masks of every input size and stride: what a worker process does."""

from bisect import bisect_right
from collections.abc import Sequence
from multiprocessing import parent_process
from typing import NamedTuple

import torch

from thingstuff.coarse_maps import through_cells
from thingstuff.data.coco import CocoPanoptic, Record, SplitPaths
from thingstuff.evaluation.errors import SIZE_LIMITS, SIZES
from thingstuff.evaluation.pairs import compare_maps
from thingstuff.evaluation.segments import PictureMatches, ScoredPicture
from thingstuff.panoptic import Categories
from thingstuff.structures import Frame


class Task(NamedTuple):
    """One picture, and where it lies in the network input at each of the input sizes."""

    record: Record
    frames: tuple[Frame, ...]


def picture_matches(
    task: Task, cases: Sequence[tuple[int, int]], paths: SplitPaths, categories: Categories
) -> list[list[PictureMatches]]:
    """Return one picture's matches for each case (which input size, which stride): all, then those of each size.

    Raises `InputError` where the map cannot be read.
    """
    if parent_process() is not None:
        torch.set_num_threads(1)  # each core has its process
    truth = CocoPanoptic(paths, categories, (task.record,)).panoptic(0)
    found = []
    for index, stride in cases:
        returned = through_cells(truth, task.frames[index], stride)
        picture = compare_maps(truth, returned, task.record.image_id, categories)
        found.append([picture.matches, *by_size(picture)])
    return found


def by_size(picture: ScoredPicture) -> list[PictureMatches]:
    """Take a picture's matches apart by the size of the ground-truth segment, whose id what came back of it keeps."""
    areas, m = picture.areas[0], picture.matches
    size = {i: bisect_right(SIZE_LIMITS, areas[i]) for i in picture.truths}

    def of(kind: int) -> PictureMatches:
        matched = tuple(match for match in m.matched if size[match.truth_id] == kind)
        missed, false, ignored = (
            {i: category_id for i, category_id in part.items() if size[i] == kind}
            for part in (m.missed, m.false, m.ignored)
        )
        return PictureMatches(matched, missed, false, ignored)

    return [of(kind) for kind in range(len(SIZES))]
