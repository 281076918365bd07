"""Panoptic FCN's published weights: the authors' keys to ours, and what keys and shapes tell of the config."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from thingstuff.backbone_weights import backbone_fields, count_of, shape_of
from thingstuff.coco_categories import COCO_PANOPTIC
from thingstuff.config import changed
from thingstuff.errors import InputError
from thingstuff.models import create
from thingstuff.models.base import PanopticModel
from thingstuff.models.panoptic_fcn import PanopticFCNConfig
from thingstuff.panoptic import Categories
from thingstuff.recipes.panoptic_fcn import AUTHORS_MEAN, AUTHORS_MODEL
from thingstuff.weights import Rules, renamed

AUTHORS_SETTINGS: Mapping[str, Any] = {
    "preprocess.channel_order": "BGR",
    "preprocess.mean": AUTHORS_MEAN,
    "preprocess.std": (1, 1, 1),
    "backbone.stride_in_1x1": True,
    **AUTHORS_MODEL,
}
"""How the authors' models see pictures and learn, which their weights do not tell and which is the same for all."""
NAMES = {101: "panoptic-fcn-r101", 50: "panoptic-fcn-r50", 34: "panoptic-fcn-r18", 18: "panoptic-fcn-r18"}
"""Depth -> the model's name that is nearest."""
FEATURE = "feature_type"

PANOPTIC_FCN_RULES: Rules = (
    (r"backbone\.fpn_(lateral|output)(\d)\.(.*)", r"fpn.\1.\2.\3"),
    (r"backbone\.top_block\.(p6|p7)\.(.*)", r"fpn.\1.\2"),
    (r"backbone\.bottom_up\.stem\.conv1\.norm\.(.*)", r"backbone.bn1.\1"),
    (r"backbone\.bottom_up\.stem\.conv1\.(.*)", r"backbone.conv1.\1"),
    (r"backbone\.bottom_up\.res(\d)\.(\d+)\.shortcut\.norm\.(.*)", r"backbone.layer{\1-1}.\2.downsample.1.\3"),
    (r"backbone\.bottom_up\.res(\d)\.(\d+)\.shortcut\.(.*)", r"backbone.layer{\1-1}.\2.downsample.0.\3"),
    (r"backbone\.bottom_up\.res(\d)\.(\d+)\.conv2_offset\.(.*)", r"backbone.layer{\1-1}.\2.conv2.offset.\3"),
    (r"backbone\.bottom_up\.res(\d)\.(\d+)\.conv(\d)\.norm\.(.*)", r"backbone.layer{\1-1}.\2.bn\3.\4"),
    (r"backbone\.bottom_up\.res(\d)\.(\d+)\.conv(\d)\.(.*)", r"backbone.layer{\1-1}.\2.conv\3.\4"),
    (r"semantic_fpn\.p(\d)\.(\d)\.norm\.(.*)", r"semantic_fpn.levels.\1.{\2/2}.norm.\3"),
    (r"semantic_fpn\.p(\d)\.(\d)\.(.*)", r"semantic_fpn.levels.\1.{\2/2}.conv.\3"),
    (r"position_head\.out_inst\.(.*)", r"position_head.centres.\1"),
    (r"position_head\.out_sem\.(.*)", r"position_head.regions.\1"),
    (r"kernel_head\.out_conv\.(.*)", r"kernel_head.out.\1"),
    (r"(thing|stuff)_generator\.embed_extractor\.(.*)", r"\1_embedding.\2"),
    (r"(?:position|kernel|encode)_head\.\w+_head_(\d)\.(.*)", r"blocks.{\1-1}.\2"),
)
"""From the authors' keys to ours; `{n-1}` and the like are computed, see `renamed`."""


def panoptic_fcn_from_authors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the authors' Panoptic FCN state dict (detectron2 keys) to ours.

    Raises `InputError` naming the first keys that do not belong to such a model.
    """
    result, strange = {}, []
    for key, tensor in state.items():
        if key.endswith("num_batches_tracked"):  # which nothing reads
            continue
        head, _, rest = key.partition(".")
        if head in ("position_head", "kernel_head", "feature_encoder") and re.match(r"\w+\.\w+_head_\d", rest):
            name = renamed(rest, PANOPTIC_FCN_RULES)
            name = name and f"{head}.{_deformable(name)}"
        else:
            name = renamed(key, PANOPTIC_FCN_RULES)
        if name is None:
            strange.append(key)
            continue
        result[name] = tensor.flatten(1) if name.endswith("_embedding.weight") and tensor.ndim > 1 else tensor
    if strange:
        raise InputError(f"not Panoptic FCN's weights: unknown keys {', '.join(strange[:5])}")
    return result


def _deformable(name: str) -> str:
    """Turn `blocks.0.dcnv2.norm.weight`, `blocks.0.norm.weight` and `blocks.0.weight` into ours."""
    block, rest = name.split(".", 2)[:2], name.split(".", 2)[2]
    for old, new in (
        ("offset_mask_conv.", "conv.offset."),
        ("dcnv2.norm.", "norm."),
        ("dcnv2.", "conv."),
        ("norm.", "norm."),
    ):
        if rest.startswith(old):
            return ".".join([*block, new + rest[len(old) :]])
    return ".".join([*block, f"conv.{rest}"])


@dataclass(frozen=True)
class Outputs:
    """How many things and regions the heads of some weights tell apart."""

    things: int
    regions: int

    def told(self) -> str:
        """Return them for people."""
        return (
            f"{self.things} thing outputs and {self.regions} region outputs ({max(self.regions - 1, 0)} stuff and "
            f'"some thing", or {self.regions} stuff)'
        )

    def categories(self) -> Categories:
        """Return COCO panoptic's categories where the outputs are so many; raises `InputError` for others."""
        if self.things == len(COCO_PANOPTIC.thing_labels) and self._has_thing(COCO_PANOPTIC) is not None:
            return COCO_PANOPTIC
        raise InputError(
            f"the weights have {self.told()}, which are not COCO's 80 and 54, and nothing tells their names; give "
            "them: thingstuff weights import FILE --categories CATEGORIES.json --out w"
        )

    def region_has_thing(self, categories: Categories) -> bool:
        """Tell whether region 0 is "some thing"; raises `InputError` where categories are not as many as outputs."""
        has_thing = self._has_thing(categories)
        if has_thing is None or len(categories.thing_labels) != self.things:
            things, stuff = len(categories.thing_labels), len(categories.stuff_labels)
            raise InputError(f"{things} thing and {stuff} stuff categories do not fit weights with {self.told()}")
        return has_thing

    def _has_thing(self, categories: Categories) -> bool | None:
        return {1: True, 0: False}.get(self.regions - len(categories.stuff_labels))


def panoptic_fcn_outputs(state: Mapping[str, Tensor]) -> Outputs:
    """Return how many outputs a state dict under our keys has."""
    things, regions = (shape_of(state, f"position_head.{part}.weight", 4)[0] for part in ("centres", "regions"))
    return Outputs(things, regions)


def panoptic_fcn_config(
    state: Mapping[str, Tensor], categories: Categories, changes: Mapping[str, Any] | None = None
) -> PanopticFCNConfig:
    """Return the config that a state dict under our keys was made with, by its keys and shapes.

    What they do not tell is the authors' (`AUTHORS_SETTINGS`) or in `changes`, settings by dotted key. Raises
    `InputError` for a key that is lacking or of another shape, categories that do not fit, and for weights without a
    semantic FPN where `changes` do not say what the encoder sees instead.
    """
    changes = changes or {}
    known: dict[str, Any] = dict(AUTHORS_SETTINGS)
    known |= {f"backbone.{field}": value for field, value in backbone_fields(state, "backbone.").items()}
    stages = (3, 4, 5)
    known["backbone.deformable_stages"] = tuple(
        s for s in stages if f"backbone.layer{s - 1}.0.conv2.offset.weight" in state
    )
    fpn = known["fpn_channels"] = shape_of(state, "fpn.lateral.2.weight", 4)[0]
    feature = fpn
    if any(key.startswith("semantic_fpn.") for key in state):
        feature = known["semantic_channels"] = shape_of(state, "semantic_fpn.levels.2.0.conv.weight", 4)[0]
    elif changes.get(FEATURE) not in ("p2", "summed"):
        raise InputError(
            "the weights have no semantic FPN, and nothing tells whether their encoder sees P2 alone or all levels "
            f"added: say so by --set {FEATURE}=p2 or --set {FEATURE}=summed of thingstuff weights import"
        )
    known["position_channels"] = shape_of(state, "position_head.centres.weight", 4)[1]
    known["kernel_channels"] = shape_of(state, "kernel_head.out.weight", 4)[0]
    known["encoder_channels"] = shape_of(state, "thing_embedding.weight", 2)[0]
    known |= _head(state, "position_head", "position")
    known |= _head(state, "kernel_head", "kernel") | _coordinates(state, "kernel_head", "kernel", fpn)
    known |= _head(state, "feature_encoder", "encoder") | _coordinates(state, "feature_encoder", "encoder", feature)
    known["level_ranges"] = _level_ranges(state)
    known["region_has_thing"] = panoptic_fcn_outputs(state).region_has_thing(categories)
    return changed(changed(PanopticFCNConfig(), known, "Panoptic FCN's weights"), changes)


def _head(state: Mapping[str, Tensor], place: str, name: str) -> dict[str, Any]:
    """Return the settings of a head's blocks: how many there are, and whether they are deformable."""
    settings: dict[str, Any] = {f"{name}_convs": count_of(state, f"{place}.blocks")}
    deformable = f"{place}.blocks.0.conv.offset.weight" in state
    if name != "kernel":
        settings[f"{name}_deformable"] = deformable
    elif deformable:
        raise InputError("the weights have a deformable kernel head, which our Panoptic FCN does not have")
    return settings


def _coordinates(state: Mapping[str, Tensor], place: str, name: str, channels: int) -> dict[str, Any]:
    inputs = shape_of(state, f"{place}.blocks.0.conv.weight", 4)[1]
    if inputs not in (channels, channels + 2):
        raise InputError(
            f"the weights' {place} has {inputs} input channels where {channels}, or {channels + 2} with coordinates, "
            "were expected"
        )
    return {f"{name}_coordinates": inputs == channels + 2}


def _level_ranges(state: Mapping[str, Tensor]) -> tuple[tuple[float, float], ...]:
    """Return the usual sizes of the levels that there are; the coarsest takes all that is larger."""
    usual = tuple((float(low), float(high)) for low, high in PanopticFCNConfig().level_ranges)
    count = 3 + sum(f"fpn.{level}.weight" in state for level in ("p6", "p7"))
    return usual if count == len(usual) else (*usual[: count - 1], (usual[count - 1][0], usual[-1][1]))


def build_panoptic_fcn(
    theirs: Mapping[str, Tensor], categories: Categories | None = None, changes: Mapping[str, Any] | None = None
) -> tuple[PanopticModel, dict[str, Tensor]]:
    """Return the model that the authors' state dict is of, and the weights under its keys, not yet loaded.

    Without `categories` they are COCO panoptic's, where there are as many outputs. Raises `InputError` for keys and
    shapes of another model, and where categories are lacking or do not fit.
    """
    state = panoptic_fcn_from_authors(theirs)
    categories = panoptic_fcn_outputs(state).categories() if categories is None else categories
    config = panoptic_fcn_config(state, categories, changes)
    return create(NAMES[config.backbone.depth], categories, config), state


def describe_panoptic_fcn(model: PanopticModel) -> str:
    """Return for people what an imported Panoptic FCN has."""
    config = model.config
    assert isinstance(config, PanopticFCNConfig)
    parts = {"position head": config.position_deformable, "encoder": config.encoder_deformable}
    deformable = [part for part, is_deformable in parts.items() if is_deformable]
    deformable += [f"res{stage}" for stage in config.backbone.deformable_stages]
    return (
        f"FPN to P{len(config.level_ranges) + 2}, encoder {config.encoder_channels} channels, "
        f"deformable: {', '.join(deformable) or 'nothing'}"
    )
