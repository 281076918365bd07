"""Reading recorded Panoptic FCN cases: their settings, weights, pictures and targets in our terms.

The layout is that of golden/panoptic_fcn (its README); settings carry the names of the authors' configs.
"""

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from conftest import golden_folder
from thingstuff.backbones import BackboneConfig
from thingstuff.config import changed
from thingstuff.models.base import Picture, PreprocessConfig
from thingstuff.models.panoptic_fcn import PanopticFCN, PanopticFCNConfig, PanopticFCNOutput
from thingstuff.panoptic import Categories, Segment
from thingstuff.panoptic_fcn_weights import panoptic_fcn_from_authors
from thingstuff.recipes import RECIPES
from thingstuff.structures import Images, Target

RESNET, POSITION, ENCODER = "MODEL.RESNETS", "MODEL.POSITION_HEAD", "MODEL.FEATURE_ENCODER"

FIELDS = {
    f"{RESNET}.STEM_OUT_CHANNELS": "backbone.stem_channels",
    f"{RESNET}.RES2_OUT_CHANNELS": "backbone.res2_channels",
    f"{RESNET}.WIDTH_PER_GROUP": "backbone.bottleneck_width",
    "MODEL.FPN.OUT_CHANNELS": "fpn_channels",
    "MODEL.SEMANTIC_FPN.CONVS_DIM": "semantic_channels",
    f"{POSITION}.CONVS_DIM": "position_channels",
    f"{POSITION}.DEFORM": "position_deformable",
    f"{POSITION}.THING.POS_NUM": "positives",
    f"{POSITION}.THING.THRES": "thing_threshold",
    f"{POSITION}.THING.TOP_NUM": "candidates",
    f"{POSITION}.STUFF.THRES": "stuff_threshold",
    f"{POSITION}.STUFF.WITH_THING": "region_has_thing",
    "MODEL.KERNEL_HEAD.CONVS_DIM": "kernel_channels",
    "MODEL.KERNEL_HEAD.COORD": "kernel_coordinates",
    f"{ENCODER}.CONVS_DIM": "encoder_channels",
    f"{ENCODER}.COORD": "encoder_coordinates",
    f"{ENCODER}.DEFORM": "encoder_deformable",
    "MODEL.INFERENCE.COMBINE.STUFF_AREA_LIMIT": "stuff_area",
}
"""The authors' config keys that are fields of ours."""

THING_CLASSES, STUFF_CLASSES = f"{POSITION}.THING.NUM_CLASSES", f"{POSITION}.STUFF.NUM_CLASSES"
SEM_SEG_CLASSES = "MODEL.SEM_SEG_HEAD.NUM_CLASSES"
TENSOR_DIM = "MODEL.TENSOR_DIM"
"""The rows of their padded target tensors: not a setting of ours, whose targets have no padding."""
COUNTS = {THING_CLASSES: 80, STUFF_CLASSES: 54, SEM_SEG_CLASSES: 54, TENSOR_DIM: 100}
"""Keys that say how many classes and rows there are, with the authors' defaults."""

AUTHORS = PanopticFCNConfig(
    preprocess=PreprocessConfig(channel_order="BGR", std=(1, 1, 1)),
    backbone=BackboneConfig(stride_in_1x1=True, weights="none", res2_channels=256),
    unlabelled="negative",
    stuff_area_relative=False,
)
"""The authors' base config: ours with their colour order, stride placement, and treatment of unlabelled pixels."""


def recipe_name(yaml_name: str) -> str:
    """The name of our recipe for one of the authors' twelve config files; KeyError for other files."""
    name = f"panoptic-fcn-{yaml_name.removeprefix('PanopticFCN-').removesuffix('.yaml').lower()}"
    if not yaml_name.endswith(".yaml") or name not in RECIPES:
        raise KeyError(f"base_config {yaml_name!r} is none of the authors' twelve")
    return name


def base_settings(yaml_name: str) -> dict[str, Any]:
    """What our recipe for one of the authors' config files sets, under their keys."""
    settings = RECIPES[recipe_name(yaml_name)](AUTHORS.preprocess).model
    return {key: settings[field] for key, field in FIELDS.items() if field in settings}


def translated(settings: Mapping[str, Any]) -> tuple[PanopticFCNConfig, Categories]:
    """Our config and categories for the authors' settings; an unknown key raises KeyError with its name.

    Region classes are named by the authors' contiguous ids, which count from 1 whether or not 0 is "some thing".
    """
    unknown = sorted(settings.keys() - FIELDS.keys() - COUNTS.keys())
    if unknown:
        raise KeyError(f"config keys without a counterpart here: {', '.join(unknown)}")
    config = changed(AUTHORS, {FIELDS[key]: value for key, value in settings.items() if key in FIELDS})
    counts = {key: settings.get(key, default) for key, default in COUNTS.items()}
    if counts[STUFF_CLASSES] != counts[SEM_SEG_CLASSES]:
        raise KeyError(f"{STUFF_CLASSES} and {SEM_SEG_CLASSES} differ: {counts}")
    things, stuff = counts[THING_CLASSES], counts[STUFF_CLASSES] - config.region_has_thing
    names = [f"thing {i}" for i in range(things)] + [f"stuff {i + 1}" for i in range(stuff)]
    return config, Categories(tuple(names), (True,) * things + (False,) * stuff, tuple(range(len(names))))


@dataclass(frozen=True)
class Case:
    """One recorded model: `<name>.json`, `<name>_state.safetensors` and what was recorded with it."""

    folder: Path
    name: str

    @cached_property
    def json(self) -> dict[str, Any]:
        return json.loads((self.folder / f"{self.name}.json").read_text(encoding="utf-8"))

    @cached_property
    def blocks(self) -> dict[str, str]:
        """The file stem of each recorded block: inference, variants, train (or several train...)."""
        stems = {"inference": f"{self.name}_infer", "variants": f"{self.name}_variants"}
        stems.update({block: f"{self.name}_{block}" for block in self.json if block.startswith("train")})
        return {block: stem for block, stem in stems.items() if block in self.json}

    def file(self, stem: str) -> dict[str, Tensor]:
        """The tensors of a file, none where it is missing."""
        path = self.folder / f"{stem}.safetensors"
        return load_file(path) if path.is_file() else {}

    def settings(self, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
        return {**base_settings(self.json["base_config"]), **self.json["overrides"], **(changes or {})}

    def model(self, changes: Mapping[str, Any] | None = None) -> PanopticFCN:
        """Our model with the case's weights; `changes` are a variant's overrides."""
        model = PanopticFCN(*translated(self.settings(changes)))
        model.load_state_dict(panoptic_fcn_from_authors(self.file(f"{self.name}_state")))
        return model.eval()


def cases_of(folder: Path) -> list[Case]:
    """Every case of a folder: wherever there are weights."""
    return [Case(folder, p.name.removesuffix("_state.safetensors")) for p in sorted(folder.glob("*_state.safetensors"))]


def picture_of(image: Tensor) -> Picture:
    """A recorded picture (uint8 [3, H, W], BGR) as ours (uint8 [H, W, 3], RGB)."""
    return image.flip(0).permute(1, 2, 0).contiguous().numpy()


def unpacked(packed: Tensor, height: int, width: int) -> Tensor:
    """Undo numpy.packbits along the last axis: bool [N, height, width]."""
    rows = packed.numpy().reshape(-1, height, -(-width // 8))
    return torch.from_numpy(np.unpackbits(rows, axis=-1)[..., :width].astype(bool))


def picture(case: Case, block: str, key: str) -> Picture:
    """A block's picture under its key, or where `image_in_file` says: a file's name, its key there after a colon."""
    tensors = case.file(case.blocks[block])
    if key in tensors:
        return picture_of(tensors[key])
    elsewhere = case.json[block].get("image_in_file", {})
    place = next(
        (elsewhere[k] for k in (key, key.removesuffix(".image"), re.sub(r"\D", "", key)) if k in elsewhere), None
    )
    if place is None:
        raise KeyError(f"{case.name}: {block} holds no {key}, and image_in_file {elsewhere} does not say where it is")
    stem, _, inner = place.partition(":")
    other = case.file(stem.removesuffix(".safetensors"))
    return picture_of(next(other[k] for k in (inner, key, "image") if k in other))


def training_pictures(case: Case, block: str) -> list[Picture]:
    """The pictures of a training batch."""
    return [picture(case, block, f"gt{i}.image") for i in range(batch_size(case.file(case.blocks[block])))]


def batch_size(tensors: Mapping[str, Tensor]) -> int:
    """How many pictures a training file has."""
    return sum(bool(re.fullmatch(r"gt\d+\.sem_seg", key)) for key in tensors)


def training_targets(tensors: Mapping[str, Tensor], categories: Categories) -> list[Target]:
    """The ground truth of a training batch; without things their masks, boxes and classes may be missing.

    Stuff gets a segment per class that occurs; its boxes are nowhere used.
    """
    targets = []
    for i in range(batch_size(tensors)):
        semantic = tensors[f"gt{i}.sem_seg"].long()
        height, width = semantic.shape
        masks = unpacked(tensors.get(f"gt{i}.masks_packed", torch.zeros(0, dtype=torch.uint8)), height, width)
        labels = tensors.get(f"gt{i}.classes", torch.zeros(0)).long().reshape(-1)
        boxes = tensors.get(f"gt{i}.boxes", torch.zeros(0)).float().reshape(-1, 4)
        stuff = [c for c in range(1, len(categories.stuff_labels) + 1) if (semantic == c).any()]
        masks = torch.cat([masks, *((semantic == c)[None] for c in stuff)])
        first = len(categories.thing_labels) - 1
        targets.append(
            Target(
                masks=masks,
                labels=torch.cat([labels, torch.tensor(stuff, dtype=torch.long) + first]),
                boxes_xyxy=torch.cat([boxes, torch.zeros(len(stuff), 4)]),
                crowd=torch.zeros(len(masks), dtype=torch.bool),
                unlabelled=semantic == 255,
            )
        )
    return targets


def segment_fields(segment: Segment, categories: Categories) -> dict[str, Any]:
    """A segment as the authors' `segments_info` has it; things are the first of the categories."""
    things = len(categories.thing_labels)
    if segment.label < things:
        return {
            "id": segment.id,
            "isthing": True,
            "score": segment.score,
            "category_id": segment.label,
            "instance_id": segment.source,
        }
    return {"id": segment.id, "isthing": False, "category_id": segment.label - things + 1, "area": segment.area}


FOLDER = golden_folder("panoptic_fcn")
CASES = cases_of(FOLDER)
NOT_RESULTS_OF_A_BLOCK = (
    r"margins/.*",
    r"overrides(/.*)?",
    r"fragile(/.*)?",
    r"notes?(/.*)?",
    r"image_in_file(/.*)?",
    r"official_raises",
)
"""JSON fields that describe a recording; what `margins` counts is compared all the same."""


def per_case(block: str) -> pytest.MarkDecorator:
    """Run a test on every case that recorded such a block."""
    chosen = [(case, name) for case in CASES for name in case.blocks if name.startswith(block)]
    return pytest.mark.parametrize(("case", "block"), chosen, ids=[f"{case.name}-{name}" for case, name in chosen])


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads change the order of sums, which the recordings' README puts at 3e-5."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def in_recorded_format(images: Images) -> Images:
    """The reference ran in torch's first memory format; in ours rounding alone takes most of what is allowed."""
    return dataclasses.replace(images, pixels=images.pixels.contiguous())


def output_as_recorded(model: PanopticFCN, images: Images) -> PanopticFCNOutput:
    """The output with norms after their convs, as recorded; test_backbones.py holds the folded ones against these."""
    model.backbone.folds = False
    output: PanopticFCNOutput = model(images)
    return output
