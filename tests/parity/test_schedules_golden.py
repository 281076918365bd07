"""The authors' training settings, recorded for their twelve config files, against our recipes and optimiser."""

import ast
import json
from collections import Counter
from typing import Any

import pytest
import torch
from golden_compare import Rules, assert_same, exactly, flat, of_largest
from panoptic_fcn_case import FOLDER, base_settings, recipe_name, translated

from thingstuff.models.panoptic_fcn import PanopticFCN
from thingstuff.optim import learning_rate, parameter_groups
from thingstuff.recipes.panoptic_fcn import panoptic_fcn_paper
from thingstuff.runs import make_config
from thingstuff.training import TrainConfig

FILE = FOLDER / "configs_and_schedules.json"
RECORDED: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8")) if FILE.is_file() else {}
CONFIGS = sorted(key for key in RECORDED if key.endswith(".yaml"))
RULES = Rules(
    compared=(
        (r"lr_at_iter/\d+", of_largest(1e-9)),
        (r"MAX_ITER|IMS_PER_BATCH|CLIP/.*|INPUT/(MIN_SIZE_TRAIN/\d+|MAX_SIZE_TRAIN|RANDOM_FLIP)", exactly),
    ),
    not_results=(
        # compared in test_panoptic_fcn_configs_golden.py
        r"POS_NUM|(THING|STUFF)\.THRES|ENC_DIM|ENC_DEFORM|INPUT/(FORMAT|M(IN|AX)_SIZE_TEST)|test_resize_hw/.*",
        # how detectron2 reads and samples, and a norm that clipping by value has no use for
        r"INPUT/(MIN_SIZE_TRAIN_SAMPLING|MASK_FORMAT)|CLIP/NORM_TYPE",
    ),
)


def recipe_facts(recipe: TrainConfig, recorded: dict[str, Any]) -> dict[str, Any]:
    """A recipe in the recording's terms; flips are horizontal ones with their default chance of one half."""
    steps = [int(step) for step in recorded["lr_at_iter"]]
    return {
        "lr_at_iter": {str(step): learning_rate(recipe.optim, step, recipe.steps) for step in steps},
        "MAX_ITER": recipe.steps,
        "IMS_PER_BATCH": recipe.batch_size,
        "INPUT": {
            "MIN_SIZE_TRAIN": list(recipe.augment.short_sides),
            "MAX_SIZE_TRAIN": recipe.augment.max_side,
            "RANDOM_FLIP": {0.5: "horizontal", 0.0: "none"}.get(recipe.augment.flip, "other"),
        },
        "CLIP": {
            "ENABLED": recipe.optim.clip != "none",
            "CLIP_TYPE": recipe.optim.clip,
            "CLIP_VALUE": recipe.optim.clip_at,
        },
    }


@pytest.mark.parametrize("name", CONFIGS)
def test_our_recipe_is_theirs(name: str) -> None:
    recorded = RECORDED[name]
    train = make_config("data", None, {}, recipe_name(name)).train
    assert_same(flat(recorded), flat(recipe_facts(train, recorded)), RULES)


def test_all_twelve_files_are_compared() -> None:
    if not RECORDED:
        pytest.skip("this folder holds no schedules")
    assert len({recipe_name(name) for name in CONFIGS}) == 12


@pytest.mark.skipif(not RECORDED, reason="this folder holds no schedules")
def test_optimiser_groups_are_theirs() -> None:
    known = {*CONFIGS, "optimizer_class", "optimizer_groups_lr_wd_momentum_to_tensor_count"}
    assert RECORDED.keys() <= known
    assert RECORDED["optimizer_class"].split("/")[0].lower() == panoptic_fcn_paper().optim.kind
    optim = panoptic_fcn_paper().optim
    with torch.device("meta"):
        model = PanopticFCN(*translated(base_settings("PanopticFCN-R50-3x.yaml")))
    ours: Counter[tuple[float, float, float]] = Counter()
    for group in parameter_groups(model, optim):
        ours[optim.lr * group["scale"], group["weight_decay"], optim.momentum] += len(group["params"])
    recorded = RECORDED["optimizer_groups_lr_wd_momentum_to_tensor_count"]
    assert ours == {ast.literal_eval(key): count for key, count in recorded.items()}
