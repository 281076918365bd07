"""Our Panoptic FCN's targets and losses against the numbers that the authors' code gave, of every case.

Targets agree to 1e-6, from the boxes given with them; losses to 1e-5.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from golden_compare import Rules, assert_same, exactly, flat, of_largest, within
from panoptic_fcn_case import (
    NOT_RESULTS_OF_A_BLOCK,
    TENSOR_DIM,
    Case,
    one_thread,  # noqa: F401
    per_case,
    unpacked,
)
from panoptic_fcn_training import Training
from torch import Tensor

from thingstuff.losses import sigmoid_focal_loss
from thingstuff.models.panoptic_fcn import positive_kernels


def in_rows(batch: int, rows: int, picture: Tensor, values: Tensor) -> Tensor:
    """Lay the pairs' values out as the authors do: [batch, rows, ...], each picture's in leading rows, zeros after."""
    result = values.new_zeros((batch, rows, *values.shape[1:]))
    for b in range(batch):
        own = values[picture == b]
        result[b, : len(own)] = own
    return result


def level_tensors(train: Training, i: int) -> dict[str, Tensor]:
    """The authors' padded target tensors of a level, from ours that have no padding."""
    level, batch = train.levels[i], len(train.images)
    rows = int(train.case.settings().get(TENSOR_DIM, 100))
    width = level.centres.shape[-1]
    classes = train.model.position_head.regions.out_channels
    support, present = torch.zeros(level.regions.shape, dtype=torch.bool), torch.zeros(batch, classes)
    for b in range(batch):
        chosen = train.regions_of(level, b)
        support[b, : len(chosen)] = level.regions[b, chosen] > 0
        present[b, : len(chosen)] = 1
    guidance, _ = positive_kernels(
        train.output.centres[i], train.output.kernels[i], train.masks, level, train.model.config.positives
    )
    most = max(1, *(len(train.things_of(level, b)) for b in range(batch)))
    return {
        f"gt.center.{i}": level.centres,
        f"gt.class.{i}": in_rows(batch, rows, level.picture, level.label),
        f"gt.index.{i}": in_rows(batch, rows, level.picture, level.cell[:, 0] * width + level.cell[:, 1]),
        f"gt.index_mask.{i}": in_rows(batch, rows, level.picture, torch.ones(len(level.picture))),
        f"gt.sem_scores.{i}": level.regions,
        f"gt.sem_masks.{i}": support,
        f"gt.sem_index.{i}": present,
        f"weighted_values.{i}": in_rows(batch, most, level.picture, guidance),
        f"pred_center.{i}": train.output.centres[i],
        f"pred_region.{i}": train.output.regions[i],
        f"pred_weight.{i}": train.output.kernels[i],
    }


@torch.no_grad()
def training_tensors(train: Training) -> dict[str, Tensor]:
    result = {"encode_feat": train.output.feature}
    for i in range(len(train.levels)):
        result |= level_tensors(train, i)
    for b, (height, width) in enumerate(train.images.sizes):
        h, w = int(height / 4 + 0.5), int(width / 4 + 0.5)
        for name, maps in (("masks_down", train.masks.things[b]), ("sem_down", train.masks.regions[b])):
            assert not maps[:, h:].any()
            assert not maps[:, :, w:].any()
            result[f"gt{b}.{name}"] = maps[:, :h, :w]
    return result


def with_regions_unpacked(recorded: dict[str, Tensor]) -> dict[str, Tensor]:
    """Replace the packed supports of regions by masks of the level's size."""
    for key in [key for key in recorded if key.startswith("gt.sem_masks_packed.")]:
        packed, level = recorded.pop(key), key.rsplit(".", 1)[1]
        height, width = recorded[f"gt.sem_scores.{level}"].shape[-2:]
        recorded[f"gt.sem_masks.{level}"] = unpacked(packed, height, width).reshape(*packed.shape[:2], height, width)
    return recorded


TRAINING = Rules(
    compared=(
        (r"encode_feat|pred_(center|region|weight)\.\d", of_largest(1e-4)),
        (r"gt\.(center|sem_scores)\.\d|gt\d+\.(masks|sem)_down", within(1e-6)),
        (r"gt\.(class|index|index_mask|sem_masks|sem_index)\.\d", exactly),
        # sigmoid turns the README's 1e-3 of pred_center into as much of a weight
        (r"weighted_values\.\d", of_largest(1e-3)),
    ),
    not_results=(r"gt\d+\.(image|sem_seg|masks_packed|boxes|classes)",),
)


@per_case("train")
def test_training_tensors(case: Case, block: str) -> None:
    train = Training(case, block)
    recorded = with_regions_unpacked(dict(train.tensors))
    assert_same(recorded, training_tensors(train), TRAINING)


@torch.no_grad()
def level_facts(train: Training, i: int) -> dict[str, Any]:
    """A level's summed losses, and the rows that the authors take from it (at least one)."""
    level, batch = train.levels[i], range(len(train.images))
    things = sigmoid_focal_loss(train.output.centres[i], level.centres)
    stuff = sigmoid_focal_loss(train.output.regions[i], level.regions)
    return {
        "pos_th_sum": float(things.sum()),
        "pos_st_sum": float(stuff.flatten(2).mean(2).sum()),
        "thing_num": max(1, *(len(train.things_of(level, b)) for b in batch)),
        "stuff_num": max(1, *(len(train.regions_of(level, b)) for b in batch)),
    }


def training_facts(train: Training) -> dict[str, Any]:
    batch = range(len(train.images))
    return flat(
        {
            "losses": {key: float(value.detach()) for key, value in train.losses.items()},
            "total_loss": float(sum(train.losses.values()).detach()),
            "levels": [level_facts(train, i) for i in range(len(train.levels))],
            "assigned_pairs_per_level": [len(level.picture) for level in train.levels],
            "net_input_shape": list(train.images.pixels.shape),
            "inst_rows": [[train.things_of(level, b).tolist() for b in batch] for level in train.levels],
            "sem_rows": [[train.regions_of(level, b).tolist() for b in batch] for level in train.levels],
        }
    )


def training_rules(recorded: Mapping[str, Any]) -> Rules:
    """Losses to 1e-5; a level's part of one to 1e-4 of itself, as the heads, or 1e-6 of the largest part."""
    parts = []
    for key, value in recorded.items():
        if match := re.fullmatch(r"levels/\d/(pos_(?:th|st)_sum)", key):
            largest = max(v for k, v in recorded.items() if k.endswith(match[1]))
            parts.append((key, within(max(1e-4 * value, 1e-6 * largest))))
    return Rules(
        compared=(
            (r"losses/\w+|total_loss", of_largest(1e-5)),
            (r"levels/\d/(thing|stuff)_num|assigned_pairs_per_level/\d|net_input_shape/\d|(inst|sem)_rows/.*", exactly),
            *parts,
        ),
        not_results=NOT_RESULTS_OF_A_BLOCK,
    )


@per_case("train")
def test_training_facts(case: Case, block: str) -> None:
    recorded = flat({key: value for key, value in case.json[block].items() if not key.startswith("grad_")})
    train = Training(case, block)
    assert all(value.isfinite() for value in train.losses.values())
    assert_same(recorded, training_facts(train), training_rules(recorded))
