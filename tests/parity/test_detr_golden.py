"""Our DETR's inference against the numbers that the authors' code gave: every recorded tensor and field of it.

They were recorded in fp32, whose noise their README tells: ours in fp64 lies within that noise of them, ours in fp32
within three times. What is discrete is equal. Learning is compared in test_detr_training_golden.py.
"""

import re
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detr_case import (
    CASES,
    DATA,
    FOLDER,
    META,
    categories,
    config,
    images,
    needs_weights,
    one_thread,  # noqa: F401
    recorded,
    recorded_model,
    recorded_output,
)
from golden_compare import Comparer, Rules, assert_same, exactly, flat, pixels, within
from PIL import Image
from torch import Tensor

from thingstuff.merging import Panoptic
from thingstuff.models.detr import DETROutput, DETRPanoptic, to_level
from thingstuff.structures import Images
from thingstuff.transformer import sine_positions

pytestmark = pytest.mark.usefixtures("one_thread")
DTYPES = [pytest.param(torch.float64, id="fp64"), pytest.param(torch.float32, id="fp32")]
NAMES = [name for name in META["postprocess"] if f"{name}.ids.0" in DATA]
"""The recorded panoptic post-processings."""


def test_the_folder_holds_nothing_that_no_test_reads() -> None:
    files = {"README.md", "data.safetensors", "slim_fp16.safetensors", "meta.json"}  # keys: test_detr_weights
    assert {p.name for p in FOLDER.iterdir() if not re.fullmatch(r"key(s|map)_.*\.json", p.name)} <= files
    tested = (
        r"image\.[01]",
        r"(batch|single[01])\..*",
        r"(bbox|segm)\.[01]\.(boxes|labels|scores|masks)",
        rf"({'|'.join(CASES)})\.(target\.[01]\.(boxes|labels|masks)|(joint|frozen)\.grad\..*)",
        rf"({'|'.join(NAMES)})\.(ids\.\d|pred_(logits|boxes|masks))",
    )
    assert [key for key in DATA if not any(re.fullmatch(pattern, key) for pattern in tested)] == []
    described = r"config|thing_max_id|seed|sizes|torch|note"
    results = r"batch\.feat\.\d\.mean_std|scores|labels|postprocess|weight_dict|fp32_vs_fp64_max_abs"
    cases = rf"({'|'.join(CASES)})\.(matching_margin|matcher|joint|frozen)"
    assert [key for key in META if not re.fullmatch(f"{described}|{results}|{cases}", key)] == []
    assert {"synth_tiny_and_stuff_dup", "model_batch_th0.5"} <= {*NAMES}


def noise(what: str, dtype: torch.dtype) -> Comparer:
    """How far the recording may be off: it said so itself of fp32; ours in fp32 adds its own."""
    return within(META["fp32_vs_fp64_max_abs"][what] * (1.01 if dtype == torch.float64 else 3))


def forward_rules(dtype: torch.dtype) -> Rules:
    more = 1 if dtype == torch.float64 else 2
    return Rules(
        compared=(
            (r"batch\.pred_(logits)", noise("pred_logits", dtype)),
            (r"batch\.pred_(boxes)", noise("pred_boxes", dtype)),
            (r"batch\.pred_(masks)", noise("pred_masks", dtype)),
            (r"single\d\.(aux_outputs\.0\.)?pred_logits|batch\.aux_outputs\.0\.pred_logits", within(2e-4 * more)),
            (r"single\d\.(aux_outputs\.0\.)?pred_boxes|batch\.aux_outputs\.0\.pred_boxes", within(3e-5 * more)),
            (r"single\d\.pred_masks", within(1.2e-3 * more)),
            (r"batch\.(hs|memory)", within(1e-4 * more)),
            (r"batch\.pos\.3", within(2e-6)),
            (r"batch\.bbox_attention", within(3e-5 * more)),
            (r"batch\.feat_mask\.\d", exactly),
        )
    )


@torch.no_grad()
def predictions(name: str, model: DETRPanoptic, batch: Images) -> tuple[DETROutput, dict[str, Tensor]]:
    """The output and its tensors under the recorded names."""
    output = model(batch)
    queries = torch.arange(model.config.queries)
    result = {
        f"{name}.pred_logits": output.logits[-1],
        f"{name}.pred_boxes": output.boxes[-1],
        f"{name}.pred_masks": torch.stack([model.masks(output, b, queries) for b in range(len(batch))]),
    }
    for i in range(len(output.logits) - 1):
        result[f"{name}.aux_outputs.{i}.pred_logits"] = output.logits[i]
        result[f"{name}.aux_outputs.{i}.pred_boxes"] = output.boxes[i]
    return output, result


@torch.no_grad()
def inner_tensors(model: DETRPanoptic, batch: Images) -> dict[str, Tensor]:
    """What lies between pictures and predictions of the batch."""
    states: list[Tensor] = []
    hook = model.decoder.register_forward_hook(lambda _module, _inputs, result: states.append(result))
    output = model(batch)
    hook.remove()
    assert output.valid is not None
    code = sine_positions(output.valid, model.config.hidden)
    attention = [model.attention_maps(output.states[b], output.memory[b], output.valid[b]) for b in range(len(batch))]
    sizes = [stage.shape[-2:] for _, stage in sorted(model.backbone(batch.pixels).items())]
    return {
        "batch.hs": states[0],
        "batch.memory": output.memory,
        "batch.pos.3": code.permute(0, 3, 1, 2),
        "batch.bbox_attention": torch.stack(attention),
        **{f"batch.feat_mask.{i}": ~to_level(~batch.padding, tuple(size)) for i, size in enumerate(sizes)},
    }


@needs_weights
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_batch(dtype: torch.dtype) -> None:
    model, batch = recorded_model(dtype), images(dtype=dtype)
    output, ours = predictions("batch", model, batch)
    assert_same(recorded(r"batch\..*"), {**ours, **inner_tensors(model, batch)}, forward_rules(dtype))
    assert output.valid is not None
    assert torch.equal(output.valid, DATA["batch.feat_mask.3"] == 0)


@needs_weights
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("b", [0, 1])
def test_a_picture_alone(b: int, dtype: torch.dtype) -> None:
    output, ours = predictions(f"single{b}", recorded_model(dtype), images((b,), dtype))
    assert output.valid is None
    assert_same(recorded(rf"single{b}\..*"), ours, forward_rules(dtype))


@needs_weights
@torch.no_grad()
def test_backbone_features() -> None:
    features = recorded_model(torch.float64).backbone(images(dtype=torch.float64).pixels)
    assert sorted(features) == [2, 3, 4, 5]
    for stage, feature in features.items():
        theirs = META[f"batch.feat.{stage - 2}.mean_std"]
        assert [float(feature.mean()), float(feature.std())] == pytest.approx(theirs, rel=1e-5)


@needs_weights
@torch.no_grad()
def test_boxes_scores_and_labels() -> None:
    model, batch = recorded_model(torch.float64), images(dtype=torch.float64)
    output = model(batch)
    ours: dict[str, Tensor] = {}
    for b, found in enumerate(model.boxes(output, batch)):
        ours |= {
            f"bbox.{b}.boxes": found.boxes_xyxy,
            f"bbox.{b}.labels": found.labels,
            f"bbox.{b}.scores": found.scores,
        }
    boxes = within(META["fp32_vs_fp64_max_abs"]["pred_boxes"] * 1.5 * max(map(max, batch.original)))  # x0 = cx - w / 2
    rules = Rules(((r"bbox\.\d\.boxes", boxes), (r"bbox\.\d\.labels", exactly), (r"bbox\.\d\.scores", within(3e-5))))
    assert_same(recorded(r"bbox\..*"), ours, rules)
    scores, labels = output.logits[-1].softmax(-1).max(-1)  # "no object" among them
    assert labels.tolist() == META["labels"]
    torch.testing.assert_close(scores, torch.tensor(META["scores"]).double(), rtol=0, atol=3e-5)


@needs_weights
@torch.no_grad()
def test_instance_masks() -> None:
    """To the batch's size, over one half, crop, nearest to the size that was asked for."""
    model, batch = recorded_model(torch.float64), images(dtype=torch.float64)
    output, ours = model(batch), {}
    for b, ((height, width), target) in enumerate(zip(batch.sizes, batch.original, strict=True)):
        logits = model.masks(output, b, torch.arange(model.config.queries))
        masks = F.interpolate(logits[:, None], batch.canvas, mode="bilinear").sigmoid() > 0.5
        ours[f"segm.{b}.masks"] = F.interpolate(masks[:, :, :height, :width].float(), target, mode="nearest")
    assert_same(recorded(r"segm\..*"), ours, Rules(((r"segm\.\d\.masks", pixels(40)),)))


# ---- panoptic post-processing, of recorded predictions


def post_processed(name: str, monkeypatch: pytest.MonkeyPatch, as_released: bool) -> list[Panoptic]:
    """Maps of recorded predictions, by way of the model's own `segments` and `merge`."""
    block, source = META["postprocess"][name], "batch" if name.startswith("model_batch") else name
    processed, original = (tuple(tuple(size) for size in block[key]) for key in ("processed", "target"))
    canvas = canvas_of(name)
    model = DETRPanoptic(config(threshold=block["threshold"], as_released=as_released), categories()).eval()
    monkeypatch.setattr(model, "masks", lambda _output, b, queries: DATA[f"{source}.pred_masks"][b, queries])
    batch = Images(torch.zeros(len(processed), 3, *canvas), processed, original)
    segments = model.segments(recorded_output(source, canvas), batch)
    return [model.merge(found) for found in segments]


def canvas_of(name: str) -> tuple[int, int]:
    """The padded size of a post-processed batch, a quarter of which its masks have."""
    rows, columns = zip(*META["postprocess"][name]["processed"], strict=True)
    return max(rows), max(columns)


def segments_info(result: Panoptic) -> list[dict[str, Any]]:
    """Segments as recorded, where ids start at 0."""
    return [
        {
            "id": s.id - 1,
            "isthing": result.categories.things[s.label],
            "category_id": result.categories.ids[s.label],
            "area": s.area,
        }
        for s in result.segments
    ]


@pytest.mark.parametrize("name", NAMES)
def test_panoptic_maps_as_released(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    results = post_processed(name, monkeypatch, as_released=True)
    ours = {}
    for b, result in enumerate(results):
        assert bool(result.segments) == bool((result.ids > 0).all())
        ours[f"{name}.ids.{b}"] = torch.from_numpy(result.ids) - int(bool(result.segments))
    inputs = (rf"{re.escape(name)}\.pred_(logits|boxes|masks)",)
    assert_same(recorded(rf"{re.escape(name)}\..*"), ours, Rules(((r".*\.ids\.\d", exactly),), inputs))
    recorded_info = {"segments_info": META["postprocess"][name]["segments_info"]}
    ours_info = {"segments_info": [segments_info(result) for result in results]}
    assert_same(flat(recorded_info), flat(ours_info), Rules(((r"segments_info.*", exactly),)))


def corrected(name: str, b: int) -> tuple[Tensor, list[tuple[int, int]]]:
    """The map as it should be, one segment per kept query or stuff class; and (label, area) of each segment.

    Padding is cut off before the winners, at the resized picture's size, are brought to the picture's; in every round
    all pixels are handed out anew.
    """
    block, source = META["postprocess"][name], "batch" if name.startswith("model_batch") else name
    scores, labels = DATA[f"{source}.pred_logits"][b].double().softmax(-1).max(-1)
    queries = [q for q in range(len(labels)) if labels[q] < len(categories()) and scores[q] > block["threshold"]]
    (height, width), target = block["processed"][b], block["target"][b]
    maps = F.interpolate(DATA[f"{source}.pred_masks"][b, queries][:, None], canvas_of(name), mode="bilinear")
    maps = maps[:, :, :height, :width]
    segments: list[list[int]] = []  # the rows of each
    for row, q in enumerate(queries):
        label = int(labels[q])
        same = [s for s in segments if not categories().things[label] and int(labels[queries[s[0]]]) == label]
        if same:
            same[0].append(row)
        else:
            segments.append([row])
    while segments:
        best = torch.stack([maps[rows, 0].amax(0) for rows in segments])  # the first wins a tie
        rows = Image.fromarray(best.argmax(0).int().numpy()).resize(target[::-1], Image.Resampling.NEAREST)
        owner = torch.from_numpy(np.array(rows))
        areas = [int((owner == i).sum()) for i in range(len(segments))]
        if min(areas) > 4:
            return owner + 1, [
                (int(labels[queries[rows[0]]]), area) for rows, area in zip(segments, areas, strict=True)
            ]
        segments = [rows for rows, area in zip(segments, areas, strict=True) if area > 4]
    return torch.zeros(target, dtype=torch.long), []


@pytest.mark.parametrize("name", NAMES)
def test_panoptic_maps_without_the_faults(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for b, result in enumerate(post_processed(name, monkeypatch, as_released=False)):
        ids, found = corrected(name, b)
        assert (torch.from_numpy(result.ids) == ids).all()
        assert [(s.label, s.area) for s in result.segments] == found


def test_merged_stuff_keeps_its_pixels_and_padding_squeezes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The two recordings in which the faults show: without them other maps come out."""
    name = "synth_tiny_and_stuff_dup"
    (ours,), (released,) = (post_processed(name, monkeypatch, as_released=flag) for flag in (False, True))
    stuff = {label: sum(s.area for s in ours.segments if s.label == label) for label in ours.categories.stuff_labels}
    theirs = {label: sum(s.area for s in released.segments if s.label == label) for label in stuff}
    assert max(stuff[label] - theirs[label] for label in stuff) > 100
    for ours, released in zip(
        *(post_processed("model_batch_th0.5", monkeypatch, as_released=flag) for flag in (False, True)), strict=True
    ):
        assert not {s.label for s in (*ours.segments, *released.segments)} & {*ours.categories.stuff_labels}
        assert (ours.semantic() != released.semantic()).mean() > 0.05
