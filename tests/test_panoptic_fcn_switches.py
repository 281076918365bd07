"""Every switch of Panoptic FCN's network against formulas of their own (`switches_plain`), learning and predicting.

Those of inference and of training alone have files beside this one.
"""

import dataclasses
from typing import Any

import pytest
import torch

import switches_plain as plain
from models_contract import descend, scene, target
from switches_models import assert_found, canvas, maps_of, model, noise

# ---- the network


@pytest.mark.parametrize(
    "changes",
    [
        *({"position_convs": n, "position_deformable": d} for n in (1, 2, 3, 4) for d in (False, True)),
        *({"kernel_convs": n} for n in (1, 3, 4)),
        *({"encoder_convs": n, "encoder_deformable": d} for n in (1, 2, 3, 4) for d in (False, True)),
        *({"kernel_coordinates": w, "encoder_coordinates": f} for w in (False, True) for f in (False, True)),
        *({"encoder_channels": n} for n in (16, 32, 64, 128)),
        *({"feature_type": kind, "encoder_coordinates": f} for kind in ("p2", "summed") for f in (False, True)),
    ],
    ids=lambda changes: "-".join(f"{value}" for value in changes.values()),
)
@torch.no_grad()
def test_the_network_is_its_formula_whether_it_learns_or_predicts(changes: dict[str, Any]) -> None:
    net, pyramids, inputs = model(**changes), [], []
    net.fpn.register_forward_hook(lambda _module, _inputs, output: pyramids.append(output))
    net.feature_encoder.register_forward_hook(lambda _module, given, _output: inputs.append(given[0]))
    for learning in (False, True):
        ours = net.train(learning)(canvas(2, 64, 96))
        torch.testing.assert_close(inputs[-1], plain.encoder_input(net, pyramids[-1]), atol=1e-5, rtol=1e-4)
        expected = plain.network(net, pyramids[-1])
        for part in ("centres", "regions", "kernels"):
            for mine, theirs in zip(getattr(ours, part), getattr(expected, part), strict=True):
                torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(ours.feature, expected.feature, atol=1e-4, rtol=1e-4)
        assert ours.feature.shape == (2, net.config.encoder_channels, 16, 24)
        assert (ours.feature > 0).any()


@pytest.mark.parametrize("coord_w", [False, True])
@pytest.mark.parametrize("coord_f", [False, True])
def test_coordinates_widen_the_first_conv_of_their_own_head_alone(coord_w: bool, coord_f: bool) -> None:
    state = model(kernel_coordinates=coord_w, encoder_coordinates=coord_f).state_dict()
    assert state["kernel_head.blocks.0.conv.weight"].shape == (32, 16 + 2 * coord_w, 3, 3)
    assert state["feature_encoder.blocks.0.conv.weight"].shape == (8, 32 + 2 * coord_f, 3, 3)
    assert state["position_head.blocks.0.conv.weight"].shape == (32, 16, 3, 3)


@pytest.mark.parametrize("width", [16, 32, 64, 128])
def test_embeddings_are_as_wide_as_the_encoder(width: int) -> None:
    net = model(encoder_channels=width)
    for embedding in (net.thing_embedding, net.stuff_embedding):
        assert embedding.weight.shape == (width, 32)
        assert embedding.bias.shape == (width,)
    last = net.feature_encoder.blocks[-1].conv
    assert last.weight.shape[0] == width
    maps = dataclasses.replace(maps_of(), feature=noise(1, width, 32, 64))
    (found,) = net.segments(maps, canvas())
    assert_found(found, plain.segments(net, [maps]))


@pytest.mark.parametrize("kind", ["semantic", "p2", "summed"])
def test_a_feature_type_has_the_parameters_it_needs_and_all_learn(kind: str) -> None:
    net = model(feature_type=kind)
    names = {name for name, _ in net.named_parameters()}
    every = {name for name, _ in model().named_parameters()}
    assert every - names == ({n for n in every if n.startswith("semantic_fpn.")} if kind != "semantic" else set())
    assert names <= every
    first = net.feature_encoder.blocks[0].conv.weight
    assert first.shape[1] == 2 + (32 if kind == "semantic" else 16)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    pictures, truths = zip(scene(128, 160), scene(128, 160, 9), strict=True)
    descend(net, net.pad(list(pictures)), [target(truth) for truth in truths], 1, 0.003)
    still = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == []
    assert all(not torch.equal(before[name], p) for name, p in net.named_parameters())
