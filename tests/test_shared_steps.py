"""What the walks of all models tell alike: shares in words, the picture's own size, the true map, whom they cite."""

import re
from collections import Counter
from functools import cache

import numpy as np
import pytest
import torch

from models_contract import scene
from thingstuff.data.scenes import SCENE_CATEGORIES, make_scene
from thingstuff.explaining import explain
from thingstuff.models import create
from thingstuff.models.shared_steps import in_percent
from thingstuff.models.true_map import true_map
from thingstuff.panoptic import Categories, Panoptic, Segment
from thingstuff.walk import PixelsView, ResultView, Walk

MODELS = ("detr-panoptic-tiny", "panoptic-fcn-tiny", "panoptic-fpn-tiny")


@cache
def walk_of(name: str) -> Walk:
    """A walk with ground truth through a model that has learned nothing, at the picture's own size."""
    torch.manual_seed(0)
    model = create(name, SCENE_CATEGORIES, **{"preprocess.short_side": 128, "preprocess.max_side": 160})
    return explain(model, *make_scene(np.random.default_rng(0)))


@pytest.mark.parametrize(
    ("share", "told"),
    [(0.0, "0%"), (0.0004, "under 0.1%"), (0.0006, "0.1%"), (0.5, "50.0%"), (0.9994, "99.9%"), (0.9997, "over 99.9%")],
)
def test_next_to_nothing_is_not_told_as_nothing(share: float, told: str) -> None:
    assert in_percent(share) == told
    assert in_percent(1.0) == "100%"


@pytest.mark.parametrize("name", MODELS)
def test_the_true_map_lies_beside_the_final_one(name: str) -> None:
    walk, (_, truth) = walk_of(name), make_scene(np.random.default_rng(0))
    final, true = walk["result"].views[:2]
    assert isinstance(final, ResultView)
    assert isinstance(true, PixelsView)
    assert true.title == "Ground truth"
    assert not true.padded
    assert np.array_equal(true.pixels, true_map(truth))


def test_without_ground_truth_there_is_no_true_map() -> None:
    torch.manual_seed(0)
    walk = explain(create(MODELS[1], SCENE_CATEGORIES), scene()[0])
    assert not [view for view in walk["result"].views if isinstance(view, PixelsView)]


def test_the_true_map_has_colours_of_classes_and_parts_instances() -> None:
    categories = Categories(("sky", "cat"), (False, True), (1, 2))
    ids = np.array([[9, 9, 9, 9, 4, 4, 0, 0], [9, 9, 9, 9, 4, 4, 0, 7]], dtype=np.int32)  # 7: nobody's
    pixels = true_map(Panoptic(ids, (Segment(9, 1, 8), Segment(4, 1, 4)), categories))
    cat = categories.colors[1]
    assert [tuple(p) for p in pixels[1].tolist()] == [
        *[cat] * 3, tuple(c // 4 for c in cat), cat, tuple(c // 4 for c in cat), *[(0, 0, 0)] * 2
    ]  # fmt: skip
    assert not true_map(Panoptic(ids, (), categories)).any()


@pytest.mark.parametrize("name", MODELS)
def test_a_picture_of_the_right_size_is_not_said_to_be_resized(name: str) -> None:
    text = walk_of(name)["picture"].text
    assert text.startswith("The picture of 160 × 128 pixels is used at its own size")
    torch.manual_seed(0)
    other = explain(create(name, SCENE_CATEGORIES), np.zeros((100, 90, 3), dtype=np.uint8))["picture"].text
    assert "The picture of 90 × 100 pixels is resized to " in other


@pytest.mark.parametrize("name", MODELS)
def test_each_paper_is_cited_once_and_in_one_form(name: str) -> None:
    forms: dict[str, set[str]] = {}
    for step in walk_of(name).steps:
        cited = re.findall(r"((?:\w+ et al\.|Girshick) \d{4})(\w?)", step.paper)
        assert not [paper for paper, count in Counter(cited).items() if count > 1], step.paper
        for paper, letter in cited:
            forms.setdefault(paper, set()).add(letter)
    assert forms
    assert not [paper for paper, letters in forms.items() if "" in letters and len(letters) > 1]
    assert "" not in forms.get("Lin et al. 2017", {"a"})
