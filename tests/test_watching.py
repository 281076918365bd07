"""Keeping what modules take in and give out, and the walk's pass around it."""

import threading

import numpy as np
import pytest
import torch
from jaxtyping import config as jaxtyping_config
from torch import nn

from models_contract import CATEGORIES, scene
from thingstuff.errors import InputError
from thingstuff.explaining import explain
from thingstuff.models import create
from thingstuff.models.base import PanopticModel
from thingstuff.watching import Watch, Watched


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 3), nn.ReLU(inplace=True))


def test_copies_are_kept_of_what_was_asked_for():
    net, x = small(), torch.randn(2, 3)
    with torch.no_grad(), Watch(net, [Watched("0"), Watched("1", inputs=True, output=False)]) as calls:
        net(x)
        net(x + 1)
    (first, second), others = calls["0"], calls["1"]
    assert torch.equal(first.output, net[0](x))  # though ReLU wrote over it
    assert first.output.min() < 0
    assert not torch.equal(first.output, second.output)
    assert first.inputs == ()
    assert [call.output for call in others] == [None, None]
    assert torch.equal(others[0].inputs[0].relu(), net(x))
    assert not any(module._forward_hooks for module in net)


def test_calls_of_other_threads_are_not_kept():
    net = small()
    with Watch(net, [Watched("0")]) as calls:
        other = threading.Thread(target=net, args=(torch.randn(5, 3),))
        other.start()
        other.join()
        net(torch.randn(2, 3))
    assert [call.output.shape for call in calls["0"]] == [(2, 3)]


@pytest.fixture(params=["panoptic-fcn-tiny", "panoptic-fpn-tiny", "detr-panoptic-tiny"])
def model(request: pytest.FixtureRequest) -> PanopticModel:
    torch.manual_seed(0)
    return create(request.param, CATEGORIES)


def test_a_pass_that_fails_leaves_the_model_as_it_was(model, monkeypatch):
    model.train()
    model._network = network = model.forward

    def fail(*_: object) -> None:
        raise RuntimeError("in the middle")

    monkeypatch.setattr(type(model), "merge", fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        explain(model, scene()[0])
    assert model.training
    assert model._network == network
    assert not any(module._forward_hooks for module in model.modules())


def test_a_walk_is_in_fp32_whatever_is_around_it(model):
    picture = scene()[0]
    plain = explain(model, picture)
    with torch.autocast("cpu", torch.bfloat16):
        around = explain(model, picture)
    assert np.array_equal(plain.result.ids, around.result.ids)
    for step, other in zip(plain.steps, around.steps, strict=True):
        for ours, theirs in zip(step.tensors, other.tensors, strict=True):
            assert ours.tensor.dtype == theirs.tensor.dtype
            assert torch.equal(ours.tensor, theirs.tensor)


def test_wrong_input_is_told(model):
    with pytest.raises(InputError, match="0 x 0 pixels has nothing"):
        explain(model, np.zeros((0, 0, 3), dtype=np.uint8))
    jaxtyping_config.update("jaxtyping_disable", True)  # the checks of annotations that tests add would answer first
    try:
        with pytest.raises(InputError, match=r"must be a Panoptic .*this is str"):
            explain(model, scene()[0], "truth.png")
    finally:
        jaxtyping_config.update("jaxtyping_disable", False)
