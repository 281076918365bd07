"""Scoring a model on a split of a data set."""

from collections.abc import Callable

from accelerate import Accelerator
from accelerate.utils import gather_object

from thingstuff.data.coco import CocoPanoptic
from thingstuff.errors import InputError
from thingstuff.evaluation.pq import PQAccumulator
from thingstuff.models.base import PanopticModel


def evaluate_model(
    model: PanopticModel,
    data: CocoPanoptic,
    *,
    accelerator: Accelerator | None = None,
    progress: Callable[[int, int], None] | None = None,
    batch_size: int = 8,
) -> PQAccumulator:
    """Predict a split and score it; with several processes each takes its share and all get the sum.

    `progress` is called with the pictures done and in all. Raises `InputError` where model and data differ in their
    categories.
    """
    rank, processes = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    mine = list(range(rank, len(data), processes))
    own = PQAccumulator(data.categories)
    for begin in range(0, len(mine), 4 * batch_size):
        share = mine[begin : begin + 4 * batch_size]
        predicted = model.predict([data.picture(i) for i in share], batch_size=batch_size)
        for index, prediction in zip(share, predicted, strict=True):
            own.add(data.panoptic(index), prediction, data.records[index].image_id)
        if progress:
            progress(min(begin + len(share), len(mine)), len(mine))
    if accelerator is None or processes == 1:
        return own
    parts = dict(gather_object(list(own.per_picture.items())))
    whole = PQAccumulator(data.categories)
    for record in data.records:  # in the order of the ground truth, which decides the last bit of the sums
        whole.add_matches(record.image_id, parts[record.image_id])
    return whole


def refuse_other_categories(model: PanopticModel, weights: str, data: CocoPanoptic) -> None:
    """Raise `InputError`, before anything is predicted, where a model's categories are not the data's."""
    theirs, ours = model.categories, data.categories
    if theirs == ours:
        return
    lists = (
        ("the data lack", [name for name in theirs.names if name not in ours.names]),
        ("the weights lack", [name for name in ours.names if name not in theirs.names]),
    )
    parts = [f"{who} {', '.join(names[:3])}{' and more' if len(names) > 3 else ''}" for who, names in lists if names]
    raise InputError(
        f"{weights}: the categories of the weights are not those of {data.paths.json} "
        f"({'; '.join(parts) or 'equal names in another order, with other ids or kinds'}); give other weights or data"
    )
