"""What every model's walk must be: complete, consistent, and drawn from the pass itself."""

import importlib
import re
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from thingstuff.explaining import explain
from thingstuff.models.base import PanopticModel, Picture
from thingstuff.panoptic import Panoptic
from thingstuff.walk import MapView, MarksView, MatrixView, PixelsView, TableView, View, Walk


def check_walk(model: PanopticModel, picture: Picture, truth: Panoptic) -> Walk:
    """Assert what every step of every walk must have; return the walk."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    walk = explain(model, picture)
    assert model.training
    model.eval()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    predicted = model.predict(picture)
    assert (walk.result.ids == predicted.ids).all()
    assert walk.result.segments == predicted.segments
    names = [step.name for step in walk.steps]
    assert names[0] == "picture"
    assert names[-1] == "result"
    assert len(set(names)) == len(names)
    ids = {segment.id for segment in walk.result.segments}
    assert ids, "an empty map tests little"
    for position, step in enumerate(walk.steps):
        assert not step.after if position == 0 else step.after or step.layers, step.name
        assert set(step.after) <= set(names[:position]), step.name
        assert step.question.endswith("?"), step.name
        assert step.chapter, step.name
        assert step.title, step.name
        assert step.paper, step.name
        assert step.text.endswith("."), step.name
        assert importable(step.source), step.source
        assert step.tensors, step.name
        assert step.views, step.name
        assert set(step.notes) <= ids, step.name
        for labelled in step.tensors:
            assert labelled.tensor.device.type == "cpu"
            assert not labelled.tensor.requires_grad
            assert not labelled.tensor.is_floating_point() or not labelled.tensor.isnan().any(), step.name
        for view in step.views:
            check_view(view, ids)
    for name in ids:
        told = [step.name for step in walk.steps if name in step.notes]
        assert len(told) >= 3, f"segment {name} is followed through {told} alone"
    assert names == [step.name for step in explain(model, picture, truth).steps], "ground truth adds views, not steps"
    return walk


def importable(dotted: str) -> bool:
    """Whether a dotted name is a module's attribute, or that of a class in it."""
    parts = dotted.split(".")
    for split in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:split]))
        except ModuleNotFoundError:
            continue
        for part in parts[split:]:
            found = getattr(found, part)
        return split < len(parts)
    return False


def check_view(view: View, ids: set[int]) -> None:
    assert view.title
    assert set(view.segments) <= ids
    if isinstance(view, MapView):
        assert view.values.size
        assert np.isfinite(view.values).all()
    elif isinstance(view, PixelsView):
        assert view.pixels.size
    elif isinstance(view, MarksView):
        assert all(set(mark.segments) <= ids for mark in view.marks)
        assert all(np.isfinite(mark.box).all() for mark in view.marks)
    elif isinstance(view, TableView):
        assert all(len(row.cells) == len(view.columns) for row in view.rows)
        assert all(set(row.segments) <= ids for row in view.rows)
        assert all(-1e-6 <= cell <= 1 + 1e-6 for row in view.rows for cell in row.cells if isinstance(cell, float))
    elif isinstance(view, MatrixView):
        assert view.values.shape == (len(view.names),) * 2
        assert len(view.groups) == len(view.row_segments) == len(view.names)


def check_every_parameter_has_a_step(model: PanopticModel, walk: Walk) -> None:
    """Assert that nothing in the model is left unexplained, and no layer is named that is not there."""
    layers = [layer for step in walk.steps for layer in step.layers]
    names = [name for name, parameter in model.named_parameters() if parameter.numel()]
    assert not [name for name in names if not name.startswith(tuple(layers))]
    assert not [layer for layer in layers if not any(name.startswith(layer) for name in names)]


def check_zeroing(model: PanopticModel, picture: Picture, *, thorough: bool, idle: str = "") -> None:
    """Assert that other weights of a layer, zeros first, change the tensors of the steps downstream, and of no other.

    `idle` are parameters, as a regular expression, that by the model's own design change nothing.
    """
    walk = explain(model, picture)
    chosen = {}
    for step in walk.steps:
        for layer in step.layers if thorough else step.layers[-1:]:
            found = [name for name in weighted(model, layer) if not re.fullmatch(idle, f"{name}.weight")]
            chosen |= dict.fromkeys([*found[:1], *found[-1:]] if thorough else found[-1:])
    assert chosen
    for module_name in chosen:
        users = [s.name for s in walk.steps if f"{module_name}.weight".startswith(s.layers)]
        weight = model.get_submodule(module_name).weight
        kept = weight.detach().clone()
        noise = torch.randn(kept.shape, generator=torch.Generator().manual_seed(0)) * kept.std()
        wanted, found = walk.downstream(users), set[str]()
        try:
            # where boxes or peaks are chosen, other numbers may leave the same ones: then other weights must move them
            for other_weight in (torch.zeros_like(kept), -kept, noise):
                with torch.no_grad():
                    weight.copy_(other_weight)
                other = explain(model, picture)
                assert [s.name for s in other.steps] == [s.name for s in walk.steps]
                found |= changed(walk, other)
                assert set(users) <= found <= wanted, module_name
                if found == wanted:
                    break
        finally:
            with torch.no_grad():
                weight.copy_(kept)
        assert found == wanted, module_name


def weighted(model: nn.Module, prefix: str) -> Iterator[str]:
    """Yield the modules below a prefix that have a weight that is no norm's."""
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, nn.Parameter) and weight.ndim > 1 and f"{name}.".startswith(prefix) and weight.numel():
            yield name


def changed(walk: Walk, other: Walk) -> set[str]:
    """Return the steps of which a tensor differs."""
    differing = set()
    for step, again in zip(walk.steps, other.steps, strict=True):
        pairs = zip(step.tensors, again.tensors, strict=True)
        if any(a.tensor.shape != b.tensor.shape or not torch.equal(a.tensor, b.tensor) for a, b in pairs):
            differing.add(step.name)
    return differing
