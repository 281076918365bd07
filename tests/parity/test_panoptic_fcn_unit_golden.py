"""Single functions of Panoptic FCN against what the authors' ones gave (unit.json, unit.safetensors)."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from golden_compare import Rules, assert_same, exactly, flat, of_largest, pixels, within
from panoptic_fcn_case import (
    FOLDER,
    one_thread,  # noqa: F401
    segment_fields,
)
from safetensors.torch import load_file
from torch import Tensor

from thingstuff.layers import with_coordinates
from thingstuff.losses import dice_loss, sigmoid_focal_loss, weighted_dice_loss
from thingstuff.merging import ThingsFirst, merge_things_first
from thingstuff.models.panoptic_fcn_kernels import Kernels, find_peaks, fuse_stuff, fuse_things
from thingstuff.models.panoptic_fcn_targets import gaussian_maps, gaussian_radius, mass_centres, reduced
from thingstuff.panoptic import Categories, Panoptic
from thingstuff.structures import Frame, Segments

SIMILARITY = 0.9
MIN_OVERLAP = 0.7
MERGE = ThingsFirst(stuff_area=256.0)

pytestmark = pytest.mark.skipif(not (FOLDER / "unit.json").is_file(), reason="this folder holds no unit recordings")


def fusions(t: Mapping[str, Tensor]) -> dict[str, Tensor]:
    kernels = Kernels(t["tf.w"], t["tf.c"], t["tf.s"])
    results = {
        "tf": fuse_things(kernels, SIMILARITY),
        "tf_agnostic": fuse_things(kernels, SIMILARITY, class_aware=False),
        "sf": fuse_stuff(Kernels(t["tf.w"], t["tf.c"] + 1, t["tf.s"])),
    }
    named = {}
    for name, fused in results.items():
        named |= {f"{name}.out_w": fused.vectors, f"{name}.out_c": fused.labels, f"{name}.out_s": fused.scores}
    return named


def gaussians(t: Mapping[str, Tensor]) -> dict[str, Tensor]:
    radius = gaussian_radius(t["gauss.wh"].flip(1), MIN_OVERLAP)
    shape = (t["gauss.map"].shape[-2], t["gauss.map"].shape[-1])
    peaks = gaussian_maps(t["gauss.centers"].flip(1), radius[: len(t["gauss.centers"])].long(), shape)
    classes = range(len(t["gauss.map"]))
    empty = torch.zeros(1, *shape)
    drawn = torch.stack([torch.cat([empty, peaks[t["gauss.classes"] == c]]).amax(0) for c in classes])
    return {"gauss.radius": radius, "gauss.map": drawn}


def masses(t: Mapping[str, Tensor]) -> dict[str, Tensor]:
    height, width = t["mass.down"].shape[-2:]
    down = reduced(t["mass.masks"].float(), (4 * height, 4 * width))
    return {"mass.down": down, "mass.centers_xy": mass_centres(down).flip(1)}


def best_peaks(t: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Their top-k of given scores by our search for peaks, which smooths and compares neighbours first.

    Cells three apart have no neighbours: each stays a peak, and a 3x3 mean turns p into (p + p / 9) / 2.
    """
    scores, limit = t["topk.in"][0], t["topk.score"].shape[1]
    classes, height, width = scores.shape
    spread = torch.full((classes, 3 * height, 3 * width), float("-inf"))
    spread[:, 1::3, 1::3] = scores.logit()
    cell = torch.zeros(1, 3 * height, 3 * width)
    cell[0, 1::3, 1::3] = torch.arange(height * width).view(height, width)
    found = find_peaks(spread, 3, limit, 0.0).read(cell)
    return {
        "topk.score": found.scores[None] * 1.8,
        "topk.class": found.labels[None],
        "topk.index": found.vectors.T.long(),
    }


def merged(t: Mapping[str, Tensor]) -> Panoptic:
    """Their merge of given masks and a map of the best stuff class, class 0 being "some thing"."""
    things, stuff = int(t["merge.classes"].max()) + 1, int(t["merge.sem"].max())
    names = tuple(f"{i}" for i in range(things + stuff))
    categories = Categories(names, (True,) * things + (False,) * stuff, tuple(range(things + stuff)))
    of_stuff = F.one_hot(t["merge.sem"].long()).permute(2, 0, 1).float()
    size = (of_stuff.shape[1], of_stuff.shape[2])
    segments = Segments(
        masks=torch.cat([t["merge.masks"].float(), of_stuff]),
        labels=torch.cat([t["merge.classes"].long(), torch.tensor([-1, *range(things, things + stuff)])]),
        scores=torch.cat([t["merge.scores"], torch.ones(stuff + 1)]),
        frame=Frame(size, size, size),
    )
    return merge_things_first(segments, categories, MERGE)


def dice_and_focal(t: Mapping[str, Tensor]) -> dict[str, Any]:
    present = t["dice.mask"].bool()
    rows, each = t["dice.val"].shape[1:]
    p, target = t["dice.pred"].sigmoid().flatten(2), t["dice.tgt"].flatten(2).flatten(0, 1)
    of_things = weighted_dice_loss(p.reshape(-1, each, p.shape[-1]), target, t["dice.val"].flatten(0, 1))
    of_stuff = dice_loss(p[:, :rows].flatten(0, 1), target)
    focal = sigmoid_focal_loss(t["focal.x"], t["focal.t"])
    return {
        "dice_thing": float(of_things[present].sum()),
        "dice_stuff": float(of_stuff[present].sum()),
        "focal_thing_sum": float(focal.sum()),
        "focal_stuff_sum": float(focal.flatten(2).mean(2).sum()),
    }


TENSORS = Rules(
    compared=(
        (r"coord1?\.out|(tf|tf_agnostic|sf)\.out_(w|s)|gauss\.map|mass\.(down|centers_xy)|topk\.score", within(1e-6)),
        (r"gauss\.radius", of_largest(1e-6)),
        (r"(tf|tf_agnostic|sf)\.out_c|topk\.(class|index)", exactly),
        (r"merge\.panoptic", pixels(1)),
    ),
    not_results=(
        r"(coord1?|topk)\.in|tf\.[cws]|dice\.(mask|pred|tgt|val)|focal\.[tx]",
        r"gauss\.(centers|classes|wh)|mass\.masks|merge\.(classes|masks|scores|sem)",
    ),
)
FACTS = Rules(
    compared=(
        (r"dice_thing|dice_stuff|focal_(thing|stuff)_sum", of_largest(1e-6)),
        (r"merge_segments_info/\d+/(id|isthing|category_id|instance_id|area)", exactly),
        (r"merge_segments_info/\d+/score", within(1e-6)),
    ),
    not_results=(r"sf|dice_stuff_note", r"tf_sim_margin|tf_chains"),
)


def test_unit_tensors() -> None:
    t = load_file(FOLDER / "unit.safetensors")
    ours = {
        **{f"{name}.out": with_coordinates(t[f"{name}.in"]) for name in ("coord", "coord1")},
        **fusions(t),
        **gaussians(t),
        **masses(t),
        **best_peaks(t),
        "merge.panoptic": torch.from_numpy(merged(t).ids),
    }
    assert_same(t, ours, TENSORS)


def test_unit_facts() -> None:
    t = load_file(FOLDER / "unit.safetensors")
    result = merged(t)
    segments = [segment_fields(s, result.categories) for s in result.segments]
    ours = flat({**dice_and_focal(t), "merge_segments_info": segments})
    assert_same(flat(json.loads((FOLDER / "unit.json").read_text(encoding="utf-8"))), ours, FACTS)
