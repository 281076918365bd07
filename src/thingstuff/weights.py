"""Published weights: reading their files safely, renaming their keys to ours, fetching ImageNet backbones."""

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from thingstuff.backbones import ResNet
from thingstuff.errors import InputError

Rules = Sequence[tuple[str, str]]
_ESCAPE_CODE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|.)?")
"""A terminal's, such as bold, which torch writes into its messages."""

PANOPTIC_FCN_RULES: Rules = (
    (r"backbone\.fpn_(lateral|output)(\d)\.(.*)", r"fpn.\1.\2.\3"),
    (r"backbone\.top_block\.(p6|p7)\.(.*)", r"fpn.\1.\2"),
    (r"backbone\.bottom_up\.stem\.conv1\.norm\.(.*)", r"backbone.bn1.\1"),
    (r"backbone\.bottom_up\.stem\.conv1\.(.*)", r"backbone.conv1.\1"),
    (r"backbone\.bottom_up\.res(\d)\.(\d+)\.shortcut\.norm\.(.*)", r"backbone.layer{\1-1}.\2.downsample.1.\3"),
    (r"backbone\.bottom_up\.res(\d)\.(\d+)\.shortcut\.(.*)", r"backbone.layer{\1-1}.\2.downsample.0.\3"),
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


def renamed(key: str, rules: Rules) -> str | None:
    """Return a key under the first rule that matches it whole, or None; `{a+b}`, `{a-b}` and `{a/b}` are computed."""
    for pattern, replacement in rules:
        match = re.fullmatch(pattern, key)
        if match:
            return re.sub(r"\{(\d+)([-+/])(\d+)\}", _computed, match.expand(replacement))
    return None


def _computed(sum_of: re.Match[str]) -> str:
    first, last = int(sum_of[1]), int(sum_of[3])
    return str({"+": first + last, "-": first - last, "/": first // max(last, 1)}[sum_of[2]])


def panoptic_fcn_from_authors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the authors' Panoptic FCN state dict (detectron2 keys) to ours.

    Raises `InputError` naming the first keys that do not belong to such a model.
    """
    result, strange = {}, []
    for key, tensor in state.items():
        head, _, rest = key.partition(".")
        if head in ("position_head", "kernel_head", "feature_encoder") and re.match(r"\w+\.\w+_head_\d", rest):
            name = renamed(rest, PANOPTIC_FCN_RULES)
            name = name and f"{head}.{_deformable(name)}"
        else:
            name = renamed(key, PANOPTIC_FCN_RULES)
        if name is None:
            strange.append(key)
            continue
        result[name] = tensor.flatten(1) if name.endswith("_embedding.weight") else tensor
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


def read_state(path: Path) -> dict[str, Any]:
    """Read a `.safetensors` or `.pth` file of tensors (nothing pickled is executed: `weights_only`).

    Training checkpoints may hold their command's arguments beside the tensors. A dict under "model" or "state_dict" is
    unwrapped. Raises `InputError` naming the file for what is none.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such weights file")
    try:
        if path.suffix == ".safetensors":
            state: Any = load_file(path)
        else:
            with torch.serialization.safe_globals([argparse.Namespace]):  # plain values, as DETR's authors keep them
                state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 -- a broken file raises one of many kinds, all mean the same to its owner
        text = _ESCAPE_CODE.sub("", str(error)).strip()
        told = text and not isinstance(error, LookupError)  # whose text is a key of the reader's own
        reason = text.splitlines()[0] if told else "it is no file of PyTorch, or a broken one"
        raise InputError(
            f"{path} cannot be read as weights ({reason}); give a .safetensors or .pth of tensors"
        ) from None
    for wrapper in ("model", "state_dict"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise InputError(f"{path} holds no state dict of tensors")
    return state


def imagenet_state(depth: int) -> dict[str, Tensor]:
    """Fetch torchvision's ImageNet weights of a ResNet (cached by torch hub).

    Raises `InputError` where they cannot be fetched, saying how to go on without.
    """
    import torchvision.models as tv

    weights = tv.get_model_weights(f"resnet{depth}").IMAGENET1K_V1
    try:
        state: dict[str, Tensor] = weights.get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"ImageNet weights of ResNet-{depth} could not be fetched from {weights.url} ({error}). "
            "Go online once, or give a file (backbone.weights=resnet.pth), "
            "or start from scratch (backbone.weights=none backbone.norm=group backbone.frozen_stages=0)"
        ) from None
    return state


def load_backbone(backbone: ResNet) -> str:
    """Load the first weights that a backbone's config names and return what was done, for people."""
    config = backbone.config
    if config.weights == "none":
        if config.norm == "frozen" or config.frozen_stages:
            raise InputError(
                "a backbone without weights cannot be frozen: with backbone.weights=none also set "
                "backbone.norm=group (or batch) and backbone.frozen_stages=0"
            )
        return "backbone from scratch"
    if config.weights == "imagenet":
        state, source = imagenet_state(config.depth), "torchvision's ImageNet weights"
    else:
        state, source = read_state(Path(config.weights)), config.weights
    state = {k: v for k, v in state.items() if not k.startswith("fc.") and not k.endswith("num_batches_tracked")}
    load_strictly(backbone, state, f"ResNet-{config.depth} backbone from {source}")
    return f"backbone from {source}"


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Load a state dict that has every key of the module, no other, and each in the module's shape.

    `what` names the state's source. Raises `InputError` with the first keys that it lacks, that are unknown and that
    have another shape. A missing `num_batches_tracked`, which nothing reads, is no fault.
    """
    ours = module.state_dict()
    lacking = [k for k in ours if k not in state and not k.endswith("num_batches_tracked")]
    unknown = [k for k in state if k not in ours]
    misshapen = [
        f"{k} ({list(state[k].shape)} instead of {list(ours[k].shape)})"
        for k in ours
        if k in state and ours[k].shape != state[k].shape
    ]
    problems = [
        f"{problem} {', '.join(keys[:3])}{f' and {len(keys) - 3} more' if len(keys) > 3 else ''}"
        for problem, keys in (("lacks", lacking), ("has the unknown", unknown), ("has another shape in", misshapen))
        if keys
    ]
    if problems:
        raise InputError(f"{what} {'; '.join(problems)}")
    module.load_state_dict(state, strict=False)
