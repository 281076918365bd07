"""DETR: what its losses leave out, outputs that are no category's, learning in parts, half precision, two processes."""

import dataclasses
import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from thingstuff.backbones import BackboneConfig
from thingstuff.config import changed
from thingstuff.errors import InputError
from thingstuff.losses import sigmoid_focal_loss
from thingstuff.models.detr import DETRConfig, DETROutput, DETRPanoptic, relative_boxes, to_level
from thingstuff.panoptic import VOID, Categories
from thingstuff.structures import Images, Target

CATEGORIES = Categories(("sky", "disc", "ground", "box"), (False, True, False, True), (3, 7, 11, 12))
SKY, DISC, GROUND, BOX = range(4)
SMALL = DETRConfig(
    backbone=BackboneConfig(depth=18, weights="none", norm="group", stem_channels=8, res2_channels=8, frozen_stages=2),
    hidden=128,
    encoder_layers=1,
    decoder_layers=2,
    feedforward=32,
    queries=6,
    dropout=0.0,
)
SIZE = (64, 96)
OF_MASKS = ("attention_maps.", "mask_head.")


def small(**changes: Any) -> DETRPanoptic:
    """A small model in fp64 with the same random weights every time."""
    torch.manual_seed(0)
    model = DETRPanoptic(changed(SMALL, changes), CATEGORIES).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith(("class_head", "box_head")):
                parameter.add_(0.5 * torch.randn_like(parameter))  # queries that differ
    return model


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pictures(*sizes: tuple[int, int], seed: int = 0) -> Images:
    canvas = tuple(max(axis) for axis in zip(*sizes, strict=True))
    pixels = noise(len(sizes), 3, *canvas, seed=seed)
    for row, (height, width) in zip(pixels, sizes, strict=True):
        row[:, height:] = 0
        row[:, :, width:] = 0
    return Images(pixels, sizes, sizes)


def target(boxes: Mapping[int, tuple[int, int, int, int]], crowd: tuple[int, ...] = ()) -> Target:
    """Rectangles (x0, y0, x1, y1) by label, the rest unlabelled; those of `crowd` are crowds."""
    masks = torch.zeros(len(boxes), *SIZE, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.values(), strict=True):
        mask[y0:y1, x0:x1] = True
    return Target(
        masks=masks,
        labels=torch.tensor(list(boxes), dtype=torch.long),
        boxes_xyxy=torch.tensor(list(boxes.values()), dtype=torch.float64).view(-1, 4),
        crowd=torch.tensor([label in crowd for label in boxes], dtype=torch.bool),
        unlabelled=~masks.any(0),
    )


BOXES = {SKY: (0, 0, 96, 20), DISC: (10, 30, 40, 60), BOX: (50, 20, 70, 50)}


def output_of(logits: Tensor, boxes: Tensor | None = None, canvas: tuple[int, int] = SIZE) -> DETROutput:
    """A model's output with these logits [L, B, Q, K]; masks have to be given by other means."""
    B, Q = logits.shape[1:3]
    if boxes is None:
        boxes = noise(*logits.shape[:3], 4).sigmoid()
    empty = torch.zeros(B, 0, 1, 1)
    return DETROutput(logits, boxes, torch.zeros(B, Q, 0), empty, empty, {}, None, canvas)


# ---- what losses leave out


def mask_gradients(
    unlabelled: str, wanted: Target, monkeypatch: pytest.MonkeyPatch, canvas: tuple[int, int] = SIZE
) -> tuple[dict[str, Tensor], Tensor, list[int]]:
    """Losses, their gradient with respect to mask logits of the canvas's own size, and the queries that have one."""
    model = small(unlabelled=unlabelled)
    masks = noise(1, 6, *canvas).requires_grad_()
    monkeypatch.setattr(model, "masks", lambda _output, b, queries: masks[b, queries])
    output = output_of(noise(2, 1, 6, 5), canvas=canvas)
    losses = model.loss(output, [wanted])
    (gradient,) = torch.autograd.grad(losses["mask_focal"] + losses["mask_dice"], masks)
    return losses, gradient[0], gradient[0].flatten(1).any(1).nonzero()[:, 0].tolist()


def test_unlabelled_pixels_are_ignored_or_background(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = target(BOXES)
    assert 0.2 < float(wanted.unlabelled.double().mean()) < 0.8
    _, ignored, matched = mask_gradients("ignored", wanted, monkeypatch)
    _, negative, _ = mask_gradients("negative", wanted, monkeypatch)
    assert len(matched) == 3
    assert not ignored[:, wanted.unlabelled].any()
    assert (ignored[matched][:, ~wanted.unlabelled] != 0).all()
    assert (negative[matched] != 0).all()


def test_crowds_are_ignored_or_ordinary_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = target(BOXES, crowd=(BOX,))
    crowd, labelled = wanted.masks[2], wanted.masks[:2].any(0)
    _, ignored, matched = mask_gradients("ignored", wanted, monkeypatch)
    assert len(matched) == 2
    assert not ignored[:, crowd].any()
    assert ignored[matched][:, labelled].all()
    _, negative, all_matched = mask_gradients("negative", wanted, monkeypatch)
    assert len(all_matched) == 3
    assert negative[all_matched][:, crowd].all()


def test_padding_is_background(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the authors' code, whether or not unlabelled pixels are ignored."""
    for mode in ("ignored", "negative"):
        _, gradient, matched = mask_gradients(mode, target(BOXES), monkeypatch, canvas=(80, 112))
        assert (gradient[matched][:, SIZE[0] :] > 0).all()
        assert (gradient[matched][:, :, SIZE[1] :] > 0).all()


def test_losses_of_masks_are_means_over_the_pixels_that_count(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = target(BOXES)
    model = small(focal_weight=3.0, dice_weight=2.0)
    masks = noise(1, 6, *SIZE)
    monkeypatch.setattr(model, "masks", lambda _output, b, queries: masks[b, queries])
    output = output_of(noise(2, 1, 6, 5))
    losses = model.loss(output, [wanted])
    (match,) = model.match(output, [wanted])
    focal, dice = [], []
    for query, row in zip(match.query[-1].tolist(), match.target[-1].tolist(), strict=True):
        x, t = masks[0, query][~wanted.unlabelled], wanted.masks[row][~wanted.unlabelled].double()
        focal.append(float(sigmoid_focal_loss(x, t).mean()))
        p = x.sigmoid()
        dice.append(1 - (2 * float((p * t).sum()) + 1) / (float(p.sum()) + float(t.sum()) + 1))
    assert float(losses["mask_focal"]) == pytest.approx(3 * sum(focal) / 3, rel=1e-10)
    assert float(losses["mask_dice"]) == pytest.approx(2 * sum(dice) / 3, rel=1e-10)


def test_what_masks_say_at_ignored_pixels_changes_no_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted, masks = target(BOXES, crowd=(DISC,)), noise(1, 6, *SIZE)
    other = torch.where(wanted.unlabelled | wanted.masks[1], -masks + 3, masks)
    totals: dict[str, list[dict[str, float]]] = {}
    for mode in ("ignored", "negative"):
        model, given = small(unlabelled=mode), {"masks": masks}
        monkeypatch.setattr(model, "masks", lambda _output, b, queries, given=given: given["masks"][b, queries])
        for given["masks"] in (masks, other):
            losses = model.loss(output_of(noise(2, 1, 6, 5)), [wanted])
            totals.setdefault(mode, []).append({name: float(value) for name, value in losses.items()})
    first, second = totals["ignored"]
    assert second == pytest.approx(first, rel=1e-12)
    first, second = totals["negative"]
    assert abs(second["mask_focal"] - first["mask_focal"]) > 1e-3


def test_a_batch_without_targets_gives_the_masks_zero_gradients() -> None:
    """Not missing ones, which processes that share a model would wait for."""
    model = small().train()
    nothing = target({})
    losses = model.loss(model(pictures(SIZE, SIZE)), [nothing, nothing])
    assert float(losses["mask_focal"].detach()) == float(losses["mask_dice"].detach()) == 0
    assert float(losses["box_l1"].detach()) == float(losses["box_giou"].detach()) == 0
    torch.stack(list(losses.values())).sum().backward()
    for name, parameter in model.named_parameters():
        if name.startswith(OF_MASKS):
            assert parameter.grad is not None, name
            assert not parameter.grad.any(), name
    assert model.class_head.weight.grad is not None
    assert model.class_head.weight.grad.any()


def test_the_class_loss_weighs_queries_without_a_target() -> None:
    model = small(no_object_weight=0.25, class_weight=2.0)
    output, wanted = output_of(noise(2, 1, 6, 5)), target(BOXES)
    (match,) = model.match(output, [wanted])
    expected = []
    for layer in range(2):
        labels = torch.full((6,), 4)
        labels[match.query[layer]] = wanted.labels[match.target[layer]]
        weights = torch.tensor([1.0, 1, 1, 1, 0.25], dtype=torch.float64)
        expected.append(2 * float(F.cross_entropy(output.logits[layer, 0], labels, weights)))
    ours = 2 * model.class_losses(output, [wanted], [match])
    assert ours.tolist() == pytest.approx(expected, rel=1e-12)


# ---- outputs that are ids


WITH_HOLES = {"outputs": 20}


def confident(outputs: list[int], K: int, p: float = 0.99) -> Tensor:
    """Logits [1, 1, Q, K] that give one output per query that probability."""
    logits = torch.zeros(1, 1, len(outputs), K, dtype=torch.float64)
    for q, output in enumerate(outputs):
        logits[0, 0, q, output] = math.log(p * (K - 1) / (1 - p))
    return logits


def test_an_output_is_a_categorys_id_and_others_give_no_segment(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small(**WITH_HOLES).eval()
    assert model.class_head.out_features == 21
    asked: list[list[int]] = []

    def masks(_output: DETROutput, _b: int, queries: Tensor) -> Tensor:
        asked.append(queries.tolist())
        return torch.zeros(len(queries), 16, 24)

    monkeypatch.setattr(model, "masks", masks)
    logits = confident([12, 5, 20, 7, 3, 0], 21)
    logits[0, 0, 4] *= 0.5  # not confident
    images = pictures(SIZE)
    (found,) = model.segments(output_of(logits), images)
    assert found.labels.tolist() == [BOX, DISC]
    assert asked == [[0, 3]]
    assert found.scores.tolist() == pytest.approx([0.99, 0.99])
    (boxes,) = model.boxes(output_of(logits), images)
    assert boxes.labels.tolist()[:2] + boxes.labels.tolist()[3:] == [BOX, VOID, DISC, SKY, VOID]
    assert float(boxes.scores[2]) < 0.01  # the best of the others where "no object" has nearly all


def test_without_outputs_a_position_is_a_label(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small().eval()
    assert model.class_head.out_features == 5
    monkeypatch.setattr(model, "masks", lambda _output, _b, queries: torch.zeros(len(queries), 16, 24))
    (found,) = model.segments(output_of(confident([2, 4, 0], 5)), pictures(SIZE))
    assert found.labels.tolist() == [GROUND, SKY]


def test_losses_and_matches_use_ids() -> None:
    """Where every query is sure of its target's id, boxes being alike, the class loss is nearly nothing."""
    wanted = target(BOXES)
    boxes = relative_boxes(wanted)[[2, 0, 1]].expand(1, 1, 3, 4).clone()
    right = confident([CATEGORIES.ids[label] for label in (BOX, SKY, DISC)], 21, p=0.9999)
    model = small(**WITH_HOLES)
    model.learn("boxes")
    losses = model.loss(output_of(right, boxes), [wanted])
    assert losses.keys() == {"class", "box_l1", "box_giou"}
    assert float(losses["class"]) < 1e-3
    assert float(losses["box_l1"]) == pytest.approx(0, abs=1e-12)
    assert float(losses["box_giou"]) == pytest.approx(0, abs=1e-12)
    as_labels = confident([BOX, SKY, DISC], 21, p=0.9999)
    assert float(model.loss(output_of(as_labels, boxes), [wanted])["class"]) > 5
    same_boxes = boxes[:, :, :1].expand(1, 1, 3, 4)
    (match,) = model.match(output_of(right, same_boxes), [wanted])
    assert match.target.tolist() == [[2, 0, 1]]  # by the class alone


def test_ids_beyond_the_outputs_are_refused() -> None:
    with pytest.raises(InputError, match=r"id 12 is beyond the model's 12 class outputs"):
        small(outputs=12)
    assert small(outputs=13).class_head.out_features == 14


# ---- learning in parts


def smaller_target() -> Target:
    """Of a picture of 60 x 80, which is padded."""
    whole = target({DISC: (0, 0, 30, 30)})
    return dataclasses.replace(whole, masks=whole.masks[:, :60, :80], unlabelled=whole.unlabelled[:60, :80])


def learn_a_step(model: DETRPanoptic) -> tuple[DETROutput, dict[str, Tensor]]:
    output = model(pictures(SIZE, (60, 80)))
    losses = model.loss(output, [target(BOXES), smaller_target()])
    torch.stack(list(losses.values())).sum().backward()
    return output, losses


def has_gradient(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.grad is not None}


def test_masks_alone_learn_and_the_rest_runs_without_gradients_and_dropout() -> None:
    model = small(**{"dropout": 0.5, "backbone.norm": "batch", "backbone.frozen_stages": 0})
    model.learn("masks")
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    output, losses = learn_a_step(model)
    tensors = (output.logits, output.boxes, output.states, output.memory, output.projected, *output.stages.values())
    assert not any(x.requires_grad for x in tensors)
    assert losses["mask_focal"].requires_grad
    assert losses["mask_dice"].requires_grad
    assert not losses["class"].requires_grad
    assert has_gradient(model) == {name for name, _ in model.named_parameters() if name.startswith(OF_MASKS)}
    of_rest = [m for n, m in model.named_modules() if n and not n.startswith(("attention_maps", "mask_head"))]
    assert of_rest
    assert not any(module.training for module in of_rest)
    assert model.training
    assert model.mask_head.training
    again, _ = learn_a_step(model)
    assert torch.equal(again.logits, output.logits)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())  # norms' statistics too
    assert model.measurable


def test_boxes_alone_learn_without_mask_losses() -> None:
    model = small()
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    model.learn("boxes")
    model.train()
    _, losses = learn_a_step(model)
    assert losses.keys() == {f"{name}{layer}" for name in ("class", "box_l1", "box_giou") for layer in ("", "_aux")}
    assert has_gradient(model) == {name for name in trainable if not name.startswith(OF_MASKS)}
    assert not model.measurable


def test_all_learns_after_a_part_what_was_not_frozen_from_the_start() -> None:
    model = small()
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert not any(name.startswith(("backbone.conv1", "backbone.layer1")) for name in trainable)
    for part in ("masks", "boxes", "all"):
        model.learn(part)
    model.train()
    _, losses = learn_a_step(model)
    assert {"mask_focal", "mask_dice"} <= losses.keys()
    assert has_gradient(model) == trainable
    still = {name for name, module in model.named_modules() if not module.training}
    assert still
    assert all(name.startswith(("backbone.conv1", "backbone.bn1", "backbone.layer1")) for name in still)
    with pytest.raises(InputError, match="all, boxes, masks"):
        model.learn("mask")


# ---- half precision


@pytest.mark.parametrize("part", ["all", "masks"])
def test_bfloat16_reaches_the_mask_head_and_losses_are_finite(part: str) -> None:
    model = small().float().train()
    model.learn(part)
    images = pictures(SIZE, (60, 80))
    images = Images(images.pixels.float(), images.sizes, images.original)
    wanted = [dataclasses.replace(t, boxes_xyxy=t.boxes_xyxy.float()) for t in (target(BOXES), smaller_target())]
    seen: list[torch.dtype] = []
    for norm in model.mask_head.norms:
        norm.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0].dtype))
    exact = model.loss(model(images), wanted)
    assert {*seen} == {torch.float32}
    seen.clear()
    with torch.autocast("cpu", torch.bfloat16):
        output = model(images)
        with torch.autocast("cpu", enabled=False):
            losses = model.loss(output, wanted)
    assert output.logits.dtype == torch.bfloat16
    assert {*seen} == {torch.bfloat16}
    assert {value.dtype for value in losses.values()} == {torch.float32}
    for name, value in losses.items():
        assert float(value.detach()) == pytest.approx(float(exact[name].detach()), rel=0.1), name
    torch.stack(list(losses.values())).sum().backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)


# ---- several processes

PROCESS = """
import json, sys
sys.path[:0] = [{tests!r}]
import torch
import torch.distributed as dist
from test_detr import gradients_of, shared_batch, small
dist.init_process_group("gloo")
rank = dist.get_rank()
losses, gradients = gradients_of(small(), *shared_batch(slice(rank, rank + 1)))
for tensor in (*losses.values(), *gradients.values()):
    dist.all_reduce(tensor)
    tensor /= dist.get_world_size()
if rank == 0:
    norms = {{name: float(gradient.norm()) for name, gradient in gradients.items()}}
    print(json.dumps([{{name: float(value) for name, value in losses.items()}}, norms]))
dist.destroy_process_group()
"""


def shared_batch(rows: slice) -> tuple[Images, list[Target]]:
    """Two pictures with three targets and one, or those of them that one process has."""
    images = pictures(SIZE, SIZE)
    wanted = [target(BOXES), target({GROUND: (0, 32, 96, 64)})]
    return Images(images.pixels[rows], images.sizes[rows], images.original[rows]), wanted[rows]


def gradients_of(
    model: DETRPanoptic, images: Images, wanted: list[Target]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    losses = model.train().loss(model(images), wanted)
    torch.stack(list(losses.values())).sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {name: value.detach() for name, value in losses.items()}, gradients


@pytest.fixture(scope="module")
def of_two_processes(tmp_path_factory: pytest.TempPathFactory) -> Any:
    script = tmp_path_factory.mktemp("two") / "process.py"
    script.write_text(PROCESS.format(tests=str(Path(__file__).parent)), encoding="utf-8")
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(line, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.mark.parametrize("about", ["class", "box", "mask"])
def test_two_processes_have_the_losses_of_one_with_both_pictures(of_two_processes: Any, about: str) -> None:
    losses, _ = gradients_of(small(), *shared_batch(slice(0, 2)))
    expected = {name: float(value) for name, value in losses.items() if name.startswith(about)}
    assert len(expected) >= 2
    assert {name: of_two_processes[0][name] for name in expected} == pytest.approx(expected, rel=1e-9)


def test_two_processes_have_the_gradients_of_one_with_both_pictures(of_two_processes: Any) -> None:
    _, gradients = gradients_of(small(), *shared_batch(slice(0, 2)))
    expected = {name: float(value.norm()) for name, value in gradients.items()}
    assert of_two_processes[1] == pytest.approx(expected, rel=1e-7, abs=1e-9)


# ---- boxes, padding


def test_boxes_are_in_pixels_of_the_original_picture() -> None:
    model = small().eval()
    relative = torch.tensor([0.5, 0.5, 0.5, 1.0], dtype=torch.float64).expand(2, 1, 6, 4)
    images = Images(pictures(SIZE).pixels, (SIZE,), ((200, 300),))
    (found,) = model.boxes(output_of(noise(2, 1, 6, 5), relative), images)
    assert found.boxes_xyxy.tolist() == [[75.0, 0.0, 225.0, 200.0]] * 6
    assert found.labels.max() <= BOX
    torch.testing.assert_close(relative_boxes(target({DISC: (24, 0, 72, 64)})), relative[0, 0, :1])


def test_valid_cells_are_those_whose_first_pixel_is() -> None:
    valid = torch.zeros(1, 64, 96, dtype=torch.bool)
    valid[:, :33, :64] = True
    assert to_level(valid, (2, 3))[0].tolist() == [[True, True, False], [True, True, False]]
    valid[:, 32:] = False
    assert to_level(valid, (2, 3))[0].tolist() == [[True, True, False], [False, False, False]]


@torch.no_grad()
def test_padding_does_not_matter_to_what_a_picture_holds() -> None:
    """Cells of padding are no keys, whatever they hold: the encoder, decoder and attention maps do not see them."""
    model = small().eval()
    images = pictures((64, 96), (32, 64))
    assert model(Images(images.pixels[:1], images.sizes[:1], images.original[:1])).valid is None
    before = model(images)
    assert before.valid is not None
    assert before.valid[1].tolist() == [[True, True, False], [False, False, False]]
    projection = model.projection.register_forward_hook(
        lambda _module, _inputs, y: torch.where(before.valid[:, None], y, torch.full_like(y, 50.0))
    )
    after = model(images)
    projection.remove()
    torch.testing.assert_close(after.logits, before.logits, rtol=0, atol=1e-12)
    torch.testing.assert_close(after.boxes, before.boxes, rtol=0, atol=1e-12)
    maps = [model.attention_maps(o.states[1], o.memory[1], before.valid[1]) for o in (before, after)]
    torch.testing.assert_close(maps[1], maps[0], rtol=0, atol=1e-12)
