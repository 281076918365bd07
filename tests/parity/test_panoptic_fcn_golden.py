"""Our Panoptic FCN's inference against the numbers that the authors' code gave: every tensor and field of every case.

Features and heads agree to 1e-4 of the largest value, scores to 1e-5, maps to two pixels, everything discrete exactly.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pytest
import torch
from golden_compare import Rules, assert_same, exactly, flat, of_largest, pixels, within
from panoptic_fcn_case import (
    CASES,
    FOLDER,
    NOT_RESULTS_OF_A_BLOCK,
    Case,
    in_recorded_format,
    one_thread,  # noqa: F401
    output_as_recorded,
    per_case,
    picture,
    segment_fields,
    translated,
    unpacked,
)
from torch import Tensor

from stuff_probabilities import semantic_probabilities
from thingstuff.boxes import boxes_of_masks
from thingstuff.models.panoptic_fcn import PanopticFCN, PanopticFCNOutput
from thingstuff.models.panoptic_fcn_kernels import Kernels, concatenate, find_peaks
from thingstuff.panoptic import Panoptic
from thingstuff.panoptic_fcn_weights import panoptic_fcn_from_authors
from thingstuff.structures import Images, Segments

HEADS = of_largest(1e-4)
SCORES = within(1e-5)


def test_the_folder_holds_cases_and_nothing_that_no_test_reads() -> None:
    assert CASES, f"no *_state.safetensors in {FOLDER}"
    known = {"README.md", "configs_and_schedules.json", "keys_r50.json", "keys_r50_star.json"}
    known |= {"unit.json", "unit.safetensors"}
    for case in CASES:
        stems = (f"{case.name}_state", *case.blocks.values())
        known |= {f"{case.name}.json", *(f"{stem}.safetensors" for stem in stems)}
    assert {path.name for path in FOLDER.iterdir()} <= known


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_case_is_described_by_fields_we_know(case: Case) -> None:
    descriptions = {"split", "seed", "base_config", "overrides", "torch", "notes", "note"}
    assert case.json.keys() <= {"case", *descriptions, *case.blocks}
    assert case.json.get("case", case.name) == case.name
    translated(case.settings())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_recorded_weight_has_its_place(case: Case) -> None:
    state = case.file(f"{case.name}_state")
    ours = case.model().state_dict()
    named = {key: next(iter(panoptic_fcn_from_authors({key: value}))) for key, value in state.items()}
    assert sorted(named.values()) == sorted(ours)
    for key, value in state.items():
        torch.testing.assert_close(ours[named[key]].flatten(), value.flatten(), rtol=0, atol=0, msg=key)


@dataclass(frozen=True)
class Inference:
    """What our model makes of a recorded picture."""

    model: PanopticFCN
    images: Images
    output: PanopticFCNOutput

    @cached_property
    def segments(self) -> Segments:
        return self.model.segments(self.output, self.images)[0]

    @cached_property
    def panoptic(self) -> Panoptic:
        return self.model.merge(self.segments)

    @cached_property
    def semantic(self) -> Tensor:
        """Their sem_seg: "some thing" (zero where regions have no such class), then the stuff."""
        probabilities = semantic_probabilities(self.segments, self.model.categories)
        return torch.cat([probabilities[-1:], probabilities[list(self.model.categories.stuff_labels)]])


@torch.no_grad()
def inference_of(case: Case, changes: Mapping[str, Any] | None = None) -> Inference:
    model = case.model(changes)
    block = "inference" if "inference" in case.blocks else "variants"
    maps = [t for key, t in case.file(case.blocks[block]).items() if key.endswith("panoptic_seg")]
    size = case.json.get("inference") or {"height": maps[0].shape[0], "width": maps[0].shape[1]}
    original = (size["height"], size["width"])
    images = in_recorded_format(model.pad([picture(case, block, "image")], [original]))
    result = Inference(model, images, output_as_recorded(model, images))
    assert result.panoptic.size == original
    return result


def region_ids(run: Inference, labels: Tensor) -> list[int]:
    """The authors' contiguous ids of region classes: without a thing class they count from 1."""
    return [label + (not run.model.config.region_has_thing) for label in labels.tolist()]


def candidate_tensors(run: Inference) -> dict[str, Tensor]:
    """The kernels of each level, then embedded and fused."""
    model, result = run.model, {}
    things, stuff = model.thing_candidates(run.output, 0), model.stuff_candidates(run.output, 0)
    for i, (of_things, of_stuff) in enumerate(zip(things, stuff, strict=True)):
        for what, kernels in (("thing", of_things), ("stuff", of_stuff)):
            result[f"level.{i}.{what}_kernel"] = kernels.vectors
            result[f"level.{i}.{what}_class"] = kernels.labels
            result[f"level.{i}.{what}_score"] = kernels.scores
    all_things, all_stuff = concatenate(things), concatenate(stuff)
    all_things = all_things.pick(all_things.scores.argsort(descending=True, stable=True))
    result |= {
        "things.sorted_kernel": all_things.vectors,
        "things.sorted_class": all_things.labels,
        "things.sorted_score": all_things.scores,
        "things.embed_before_fusion": model.thing_embedding(all_things.vectors),
        "stuff.embed_before_fusion": model.stuff_embedding(all_stuff.vectors),
        "stuff.class_before_fusion": all_stuff.labels,
        "stuff.score_before_fusion": all_stuff.scores,
    }
    fused_things, fused_stuff = model.kernels(run.output, 0)
    for what, fused in (("things", fused_things), ("stuff", fused_stuff)):
        result[f"{what}.embed_after_fusion"] = fused.vectors
        result[f"{what}.class_after_fusion"] = fused.labels
        result[f"{what}.score_after_fusion"] = fused.scores
    result["things.mask_logits_first12"] = mask_logits(fused_things, run.output)[:, :12]
    result["stuff.mask_logits"] = mask_logits(fused_stuff, run.output)
    return result


def mask_logits(kernels: Kernels, output: PanopticFCNOutput) -> Tensor:
    return torch.einsum("ne,behw->bnhw", kernels.vectors, output.feature)


@torch.no_grad()
def inference_tensors(run: Inference) -> dict[str, Tensor]:
    model, pixels_in = run.model, run.images.pixels
    stages = model.backbone(pixels_in)
    pyramid = model.fpn(stages)
    result = {
        "net_input_sub7": pixels_in[:, :, ::7, ::7],
        "backbone.res5": stages[5],
        "semantic_fpn_ch8": model.semantic_fpn(pyramid)[:, ::8],
        "encode_feat": run.output.feature,
        **{f"fpn.p{level}": pyramid[level] for level in range(2, 8)},
        **candidate_tensors(run),
    }
    for i in range(5):
        result[f"pred_center.{i}"] = run.output.centres[i]
        result[f"pred_region.{i}"] = run.output.regions[i]
        result[f"pred_weight.{i}"] = run.output.kernels[i]
    return {
        **result,
        **instance_tensors(run),
        "sem_seg_sub2": run.semantic[:, ::2, ::2],
        "sem_seg_argmax": run.semantic.argmax(0),
        "panoptic_seg": torch.from_numpy(run.panoptic.ids),
    }


def instance_tensors(run: Inference) -> dict[str, Tensor]:
    found = run.model.instances(run.segments)
    masks = torch.from_numpy(found.masks)
    return {
        "inst.masks": masks,
        "inst.mask_area": masks.flatten(1).sum(1),
        "inst.boxes": boxes_of_masks(masks),
        "inst.classes": torch.from_numpy(found.labels),
        "inst.scores": torch.from_numpy(found.scores),
    }


def with_masks_unpacked(recorded: dict[str, Tensor], run: Inference) -> dict[str, Tensor]:
    """Replace the packed masks by masks, and add their areas."""
    packed = recorded.pop("inst.masks_packed", None)
    if packed is not None:
        masks = unpacked(packed, *run.panoptic.size)
        recorded |= {"inst.masks": masks, "inst.mask_area": masks.flatten(1).sum(1)}
    return recorded


def box_may_follow_mask(ours: dict[str, Tensor], recorded: Mapping[str, Tensor]) -> None:
    """Compare the boxes of those instances alone whose masks are equal: where a pixel differs the box may, too."""
    what = "inst.masks" if "inst.masks" in recorded else "inst.mask_area"
    if recorded.get(what, torch.zeros(0)).shape == ours[what].shape and "inst.boxes" in recorded:
        same = (ours[what] == recorded[what]).reshape(len(ours[what]), -1).all(1)
        ours["inst.boxes"] = torch.where(same[:, None], ours["inst.boxes"], recorded["inst.boxes"])


def shift_is_free(ours: dict[str, Tensor], recorded: Mapping[str, Tensor], run: Inference) -> None:
    """Without a thing class the recorded region classes may count from 1: take theirs where all differ by that one."""
    if run.model.config.region_has_thing:
        return
    for key in [key for key in ours if re.fullmatch(r"level\.\d\.stuff_class|stuff\.class_.*", key)]:
        if key in recorded and recorded[key].shape == ours[key].shape and (recorded[key] - ours[key] == 1).all():
            ours[key] = recorded[key]


INFERENCE = Rules(
    compared=(
        (r"net_input_sub7|backbone\.res5|semantic_fpn_ch8|encode_feat|fpn\.p\d", HEADS),
        (r"pred_(center|region|weight)\.\d", HEADS),
        (r"level\.\d\.(thing|stuff)_kernel|things\.sorted_kernel", HEADS),
        (r"(things|stuff)\.(embed_(before|after)_fusion|mask_logits.*)", HEADS),
        (r"level\.\d\.(thing|stuff)_class|(things|stuff)\.(sorted_class|class_.*)|inst\.classes", exactly),
        (r"level\.\d\.(thing|stuff)_score|(things|stuff)\.(sorted_score|score_.*)|inst\.scores", SCORES),
        (r"sem_seg_sub2", HEADS),
        (r"inst\.masks|sem_seg_argmax|panoptic_seg", pixels(2)),
        (r"inst\.mask_area", within(2)),
        (r"inst\.boxes", exactly),
    ),
    not_results=("image",),
)


@per_case("inference")
def test_inference_tensors(case: Case, block: str) -> None:
    run = inference_of(case)
    recorded = with_masks_unpacked(case.file(case.blocks[block]), run)
    ours = inference_tensors(run)
    box_may_follow_mask(ours, recorded)
    shift_is_free(ours, recorded, run)
    assert_same(recorded, ours, INFERENCE)


def passing_per_level(run: Inference) -> list[int]:
    """Peaks above the threshold on each level, before the best of them are taken."""
    counts = []
    for i, (centres, kernels) in enumerate(zip(run.output.centres, run.output.kernels, strict=True)):
        smoothing, cells = (3, 3, 3, 5, 5)[i], centres[0, 0].numel()
        counts.append(
            len(find_peaks(centres[0], smoothing, cells, run.model.config.thing_threshold).read(kernels[0]).labels)
        )
    return counts


def inference_facts(run: Inference, recorded: Mapping[str, Any]) -> dict[str, Any]:
    """What the JSON holds of an inference; of `margins` the counts, the rest are distances to thresholds."""
    segments = run.panoptic.segments
    candidates = concatenate(run.model.thing_candidates(run.output, 0))
    fused_things, fused_stuff = run.model.kernels(run.output, 0)
    inst = len(run.model.instances(run.segments))
    things = sum(run.model.categories.things[s.label] for s in segments)
    counts = {
        "pass_per_level": passing_per_level(run),
        "n_cand": len(candidates.labels),
        "n_fused": len(fused_things.labels),
        "n_inst": inst,
        "pan_things": things,
        "pan_stuff": len(segments) - things,
    }
    facts = {
        "image_hw": list(run.images.sizes[0]),
        "height": run.panoptic.size[0],
        "width": run.panoptic.size[1],
        "segments_info": [segment_fields(s, run.model.categories) for s in segments],
        "n_instances": inst,
        "net_input_shape": list(run.images.pixels.shape),
        "net_input_sum": float(run.images.pixels.double().sum()),
        "sem_seg_shape": list(run.semantic.shape),
        "sem_seg_sum_per_class": run.semantic.double().sum((1, 2)).tolist(),
        "stuff_classes": region_ids(run, fused_stuff.labels),
        "margins": {key: value for key, value in counts.items() if recorded.get("margins", {}).get(key) is not None},
    }
    if "semantic_fpn_sum" in recorded:
        semantic_fpn = run.model.semantic_fpn(run.model.fpn(run.model.backbone(run.images.pixels)))
        facts |= {
            "semantic_fpn_shape": list(semantic_fpn.shape),
            "semantic_fpn_sum": float(semantic_fpn.double().sum()),
        }
    return flat({key: value for key, value in facts.items() if value not in ([], {}) or key in recorded})


FACTS = Rules(
    compared=(
        (r"image_hw/\d|height|width|n_instances|(net_input|semantic_fpn|sem_seg)_shape/\d", exactly),
        (r"segments_info(/\d+/(id|isthing|category_id|instance_id))?", exactly),
        (r"segments_info/\d+/score", SCORES),
        (r"segments_info/\d+/area", within(2)),
        (r"stuff_classes(/\d+)?|margins/(pass_per_level/\d|n_cand|n_fused|n_inst|pan_things|pan_stuff)", exactly),
        (r"(net_input|semantic_fpn)_sum|sem_seg_sum_per_class/\d+", HEADS),
    ),
    not_results=NOT_RESULTS_OF_A_BLOCK,
)


@torch.no_grad()
def check_facts(run: Inference, recorded: Mapping[str, Any]) -> None:
    """Compare a block's JSON; where the authors' code raises, ours answers with a map without stuff."""
    if "official_raises" in recorded:
        assert all(run.model.categories.things[s.label] for s in run.panoptic.segments), "stuff where theirs finds none"
        assert set(run.panoptic.ids.ravel().tolist()) - {0} == {s.id for s in run.panoptic.segments}
    assert_same(flat(recorded), inference_facts(run, recorded), FACTS)


@per_case("inference")
def test_inference_facts(case: Case, block: str) -> None:
    check_facts(inference_of(case), case.json[block])


VARIANTS = [(case, name) for case in CASES for name in case.json.get("variants", {})]


@pytest.mark.parametrize(("case", "name"), VARIANTS, ids=[f"{case.name}-{name}" for case, name in VARIANTS])
def test_variant(case: Case, name: str) -> None:
    block = case.json["variants"][name]
    if block.get("fragile"):
        pytest.skip(f"fragile, no variant to judge by: {block['fragile']}")
    run = inference_of(case, block["overrides"])
    check_facts(run, block)
    tensors = case.file(f"{case.name}_variants")
    recorded = {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
    recorded = with_masks_unpacked(recorded, run)
    ours = inference_tensors(run)
    if "inst.masks" not in recorded:
        ours.pop("inst.masks")
    box_may_follow_mask(ours, recorded)
    assert_same(recorded, ours, INFERENCE)


@per_case("variants")
def test_every_variant_tensor_belongs_to_a_variant(case: Case, block: str) -> None:
    names = tuple(f"{name}." for name in case.json[block])
    assert [key for key in case.file(case.blocks[block]) if not key.startswith(names) and key != "image"] == []
