"""A small DETR's weights under each of the names that published ones have."""

import io
import json
import re

import torch
from safetensors.torch import save
from torch import Tensor

from hub_server import Files
from thingstuff.backbones import BackboneConfig
from thingstuff.coco_categories import COCO_PANOPTIC
from thingstuff.models import create
from thingstuff.models.base import PanopticModel
from thingstuff.models.detr import DETRConfig

State = dict[str, Tensor]
SETTINGS = {"encoder_attention_heads": 8, "decoder_attention_heads": 8, "dilation": False}
SMALL = DETRConfig(
    backbone=BackboneConfig(stem_channels=8, res2_channels=16, bottleneck_width=4),
    hidden=128,
    encoder_layers=1,
    decoder_layers=1,
    feedforward=32,
    queries=5,
    outputs=250,
)


def small_model(config: DETRConfig = SMALL, seed: int = 0) -> PanopticModel:
    """Return a model whose every weight and buffer is random, so that none can be mistaken for another."""
    torch.manual_seed(seed)
    model = create("detr-panoptic-r50", COCO_PANOPTIC, config).eval()
    for tensor in model.state_dict().values():
        tensor.copy_(torch.rand_like(tensor) * 0.1 + 0.5)
    return model


def as_authors(ours: State) -> State:
    """Return our state dict with the authors' keys; queries, keys and values in one tensor."""
    result = {}
    for key, value in ours.items():
        name = key
        if key.startswith(("attention_maps.", "mask_head.")):
            result[_masks_as_authors(key)] = value
            continue
        for old, new in (
            ("backbone.", "backbone.0.body."),
            ("projection.", "input_proj."),
            ("queries.", "query_embed."),
            ("class_head.", "class_embed."),
            ("box_head.", "bbox_embed."),
            ("encoder.", "transformer.encoder."),
            ("decoder.", "transformer.decoder."),
        ):
            if key.startswith(old):
                name = new + key[len(old) :]
        name = name.replace("self_attention", "self_attn").replace("cross_attention", "multihead_attn")
        name = name.replace("attn.out.", "attn.out_proj.")
        if part := re.fullmatch(r"(.*attn\.)q\.(\w+)", name):
            qkv = [ours[re.sub(r"\.q\.(\w+)$", rf".{letter}.\1", key)] for letter in "qkv"]
            result[f"detr.{part[1]}in_proj_{part[2]}"] = torch.cat(qkv)
        elif not re.search(r"attn\.[kv]\.", name):
            result[f"detr.{name}"] = value
    return result


def _masks_as_authors(key: str) -> str:
    name = re.sub(r"attention_maps\.([qk])\.", r"bbox_attention.\1_linear.", key)
    for i in range(5):
        name = name.replace(f"convs.{i}.", f"lay{i + 1}.").replace(f"norms.{i}.", f"gn{i + 1}.")
    for stage, number in ((4, 1), (3, 2), (2, 3)):
        name = name.replace(f"laterals.{stage}.", f"adapter{number}.")
    return name.replace("mask_head.out.", "mask_head.out_lay.")


def as_hugging_face_file(ours: State) -> State:
    """Return our state dict with the keys of the files on the hub."""
    return {_hugging_face_name(key): value for key, value in ours.items()}


def _hugging_face_name(key: str) -> str:
    if key.startswith(("attention_maps.", "mask_head.")):
        return _masks_as_authors(key)
    name = re.sub(r"\b([qkv]|out)\.(weight|bias)$", r"\1_proj.\2", key)
    for old, new in (
        (r"^backbone", "model.backbone.conv_encoder.model"),
        (r"^projection", "model.input_projection"),
        (r"^queries", "model.query_position_embeddings"),
        (r"^class_head", "class_labels_classifier"),
        (r"^box_head", "bbox_predictor"),
        (r"^(encoder|decoder)\.", r"model.\1."),
        (r"decoder\.norm\.", "decoder.layernorm."),
        (r"self_attention", "self_attn"),
        (r"cross_attention", "encoder_attn"),
        (r"\.linear(\d)", r".fc\1"),
        (r"(layers\.\d+)\.norm1", r"\1.self_attn_layer_norm"),
        (r"(encoder\.layers\.\d+)\.norm2", r"\1.final_layer_norm"),
        (r"(decoder\.layers\.\d+)\.norm2", r"\1.encoder_attn_layer_norm"),
        (r"(layers\.\d+)\.norm3", r"\1.final_layer_norm"),
    ):
        name = re.sub(old, new, name)
    return f"detr.{name}"


def as_hugging_face_memory(ours: State) -> State:
    """Return our state dict with the keys that transformers 5 has in memory."""
    result = {}
    for key, value in as_hugging_face_file(ours).items():
        name = (
            key.replace("backbone.conv_encoder.", "backbone.").replace("out_proj", "o_proj").replace(".fc", ".mlp.fc")
        )
        name = re.sub(r"bbox_attention\.([qk])_linear", r"bbox_attention.\1_proj", name)
        name = name.replace("mask_head.out_lay", "mask_head.output_conv")
        for i in (1, 2):
            name = name.replace(f"head.lay{i}.", f"head.conv{i}.conv.").replace(f"head.gn{i}.", f"head.conv{i}.norm.")
        for i in range(3):
            stage = f"head.fpn_stages.{i}"
            name = name.replace(f"head.lay{i + 3}.", f"{stage}.refine.conv.")
            name = name.replace(f"head.gn{i + 3}.", f"{stage}.refine.norm.")
            name = name.replace(f"head.adapter{i + 1}.", f"{stage}.fpn_adapter.")
        result[name] = value
    return result


def without_masks(state: State, prefix: str = "detr.") -> State:
    """Return what a DETR for boxes alone has: no masks' part, and no prefix before the rest."""
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def pickled(state: State) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def hub_files(model: PanopticModel, *names: str) -> Files:
    """Return a repository's files: its weights in the formats that are named, and its settings."""
    state = {k: v.contiguous() for k, v in as_hugging_face_file(model.state_dict()).items()}
    files = {
        "model.safetensors": lambda: save(state, {"format": "pt"}),
        "pytorch_model.bin": lambda: pickled(state),
        "config.json": lambda: json.dumps(SETTINGS).encode(),
    }
    return {name: files[name]() for name in (*names, "config.json")}
