"""Scoring a model on a split of a data set, and its pictures to look at."""

from collections.abc import Callable, Sequence

import numpy as np
from accelerate import Accelerator
from accelerate.utils import gather_object

from thingstuff.data.coco import CocoPanoptic
from thingstuff.errors import InputError
from thingstuff.evaluation.average_precision import InstanceAccumulator
from thingstuff.evaluation.best_pictures import best_positions, better_than, worst_shown
from thingstuff.evaluation.causes import segment_errors
from thingstuff.evaluation.evaluator import Evaluator
from thingstuff.evaluation.pairs import compare_maps
from thingstuff.evaluation.picture_sums import PictureLines
from thingstuff.evaluation.problems import Problem, ProblemFile, tell_filled
from thingstuff.evaluation.result import Evaluation
from thingstuff.evaluation.segments import ScoredPicture
from thingstuff.instances import Instances
from thingstuff.models.base import PanopticModel
from thingstuff.panoptic import Panoptic
from thingstuff.report_pictures import Example


def evaluate_model(
    model: PanopticModel,
    data: CocoPanoptic,
    *,
    accelerator: Accelerator | None = None,
    progress: Callable[[int, int], None] | None = None,
    batch_size: int = 8,
    boundary: bool = False,
    ap: bool = False,
    leave_out_filled: bool = False,
    lines: PictureLines | None = None,
) -> Evaluation:
    """Predict a split and score it; with several processes each takes its share and all get the whole.

    `boundary` adds Boundary PQ; `ap` adds AP of the model's scored things, which one process alone can measure;
    `leave_out_filled` takes what a model filled into the ground truth for void. `progress` is called with the pictures
    done and in all.
    """
    rank, processes = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    assert processes == 1 or not ap
    mine = list(range(rank, len(data), processes))
    whole = Evaluator(data.categories, boundary, lines)
    instances = InstanceAccumulator(data.categories) if ap else None
    truth = data.drawn_panoptic if leave_out_filled else data.panoptic
    share: list[tuple[int, ScoredPicture]] = []
    for begin in range(0, len(mine), 4 * batch_size):
        indices = mine[begin : begin + 4 * batch_size]
        for index, picture in zip(
            indices, _compared(model, data, truth, indices, batch_size, boundary, instances), strict=True
        ):
            if processes == 1:
                whole.add(picture)
            else:
                share.append((index, picture))
        if progress:
            progress(min(begin + len(indices), len(mine)), len(mine))
    if processes > 1:
        for _, picture in sorted(gather_object(share), key=lambda entry: entry[0]):  # the order decides the last bit
            whole.add(picture)
    told: list[Problem] = []
    if leave_out_filled:
        filled = sum(segment.filled for record in data.records for segment in record.segments)
        tell_filled(ProblemFile(told, data.paths.json), filled)
    return whole.result(instances.result() if instances else None, told)


def _compared(
    model: PanopticModel,
    data: CocoPanoptic,
    truth_of: Callable[[int], Panoptic],
    indices: list[int],
    batch_size: int,
    boundary: bool,
    instances: InstanceAccumulator | None,
) -> list[ScoredPicture]:
    """Predict pictures and compare each with its ground truth."""
    pictures, image_ids = [data.picture(i) for i in indices], [data.records[i].image_id for i in indices]
    if instances is None:
        predicted = model.predict(pictures, batch_size=batch_size)
    else:

        def watch(position: int, found: Instances) -> None:
            instances.add(image_ids[position], found)

        predicted = model.predict_with_instances(pictures, watch, batch_size)
    compared = []
    for index, image_id, prediction in zip(indices, image_ids, predicted, strict=True):
        truth = truth_of(index)
        compared.append(compare_maps(truth, prediction, image_id, data.categories, boundary))
        if instances is not None:
            instances.add_truth(image_id, truth)
    return compared


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


def spread(count: int, most: int) -> list[int]:
    """Return at most so many positions, spread evenly over `count`."""
    return np.linspace(0, count - 1, min(most, count)).round().astype(int).tolist() if count else []


def shown_positions(
    data: CocoPanoptic, evaluation: Evaluation, most_worst: int, most_best: int
) -> tuple[list[int], list[int]]:
    """Return where the worst pictures to show stand in a split, worst first, and the best, best first.

    No picture is among both, and none of the best is as bad as a worst one.
    """
    assert evaluation.sums is not None
    position = {record.image_id: index for index, record in enumerate(data.records)}
    worst = evaluation.errors.worst
    pqs = [picture.pq for picture in worst]
    count = worst_shown(pqs, evaluation.pictures, most_worst)
    best = best_positions(evaluation.sums, most_best, better_than(pqs[:count]))
    return [position[picture.image_id] for picture in worst[:count]], best


def make_examples(
    model: PanopticModel, data: CocoPanoptic, chosen: Sequence[int], leave_out_filled: bool = False
) -> list[Example]:
    """Predict pictures of a split again, each with its PQ and what went wrong."""
    truth_of = data.drawn_panoptic if leave_out_filled else data.panoptic
    pictures = [data.picture(i) for i in chosen]
    examples = []
    for index, picture, prediction in zip(chosen, pictures, model.predict(pictures), strict=True):
        record, truth = data.records[index], truth_of(index)
        compared = compare_maps(truth, prediction, record.image_id, data.categories)
        errors = segment_errors(compared)
        examples.append(Example(record.file_name, picture, truth, prediction, compared.matches.pq, errors))
    return examples
