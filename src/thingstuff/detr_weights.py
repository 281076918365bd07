"""DETR's published weights: the authors' and Hugging Face's keys to ours, and what their shapes tell of the config."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from thingstuff.backbone_weights import backbone_fields, count_of, shape_of
from thingstuff.coco_categories import COCO_PANOPTIC
from thingstuff.config import validated
from thingstuff.errors import InputError
from thingstuff.models.detr import DETRConfig
from thingstuff.panoptic import Categories
from thingstuff.weights import Rules, renamed

_LAYERS = r"((?:en|de)coder\.layers\.\d+)"
AUTHORS_RULES: Rules = (
    (r"backbone\.0\.body\.(.*)", r"backbone.\1"),
    (r"input_proj\.(.*)", r"projection.\1"),
    (rf"transformer\.{_LAYERS}\.self_attn\.(in_proj_.*)", r"\1.self_attention.\2"),
    (rf"transformer\.{_LAYERS}\.multihead_attn\.(in_proj_.*)", r"\1.cross_attention.\2"),
    (rf"transformer\.{_LAYERS}\.self_attn\.out_proj\.(.*)", r"\1.self_attention.out.\2"),
    (rf"transformer\.{_LAYERS}\.multihead_attn\.out_proj\.(.*)", r"\1.cross_attention.out.\2"),
    (rf"transformer\.{_LAYERS}\.(linear\d|norm\d)\.(.*)", r"\1.\2.\3"),
    (r"transformer\.decoder\.norm\.(.*)", r"decoder.norm.\1"),
    (r"query_embed\.(.*)", r"queries.\1"),
    (r"class_embed\.(.*)", r"class_head.\1"),
    (r"bbox_embed\.(.*)", r"box_head.\1"),
    (r"bbox_attention\.([qk])_linear\.(.*)", r"attention_maps.\1.\2"),
    (r"mask_head\.lay(\d)\.(.*)", r"mask_head.convs.{\1-1}.\2"),
    (r"mask_head\.gn(\d)\.(.*)", r"mask_head.norms.{\1-1}.\2"),
    (r"mask_head\.adapter(\d)\.(.*)", r"mask_head.laterals.{5-\1}.\2"),
    (r"mask_head\.out_lay\.(.*)", r"mask_head.out.\1"),
)
"""From the authors' keys (less a leading `detr.`) to ours; `in_proj` is split afterwards."""

_RESNET = r"model\.backbone\.(?:conv_encoder\.)?model\."
HUGGING_FACE_RULES: Rules = (
    (rf"{_RESNET}embedder\.embedder\.convolution\.(.*)", r"backbone.conv1.\1"),
    (rf"{_RESNET}embedder\.embedder\.normalization\.(.*)", r"backbone.bn1.\1"),
    (
        rf"{_RESNET}encoder\.stages\.(\d)\.layers\.(\d+)\.shortcut\.convolution\.(.*)",
        r"backbone.layer{\1+1}.\2.downsample.0.\3",
    ),
    (
        rf"{_RESNET}encoder\.stages\.(\d)\.layers\.(\d+)\.shortcut\.normalization\.(.*)",
        r"backbone.layer{\1+1}.\2.downsample.1.\3",
    ),
    (
        rf"{_RESNET}encoder\.stages\.(\d)\.layers\.(\d+)\.layer\.(\d)\.convolution\.(.*)",
        r"backbone.layer{\1+1}.\2.conv{\3+1}.\4",
    ),
    (
        rf"{_RESNET}encoder\.stages\.(\d)\.layers\.(\d+)\.layer\.(\d)\.normalization\.(.*)",
        r"backbone.layer{\1+1}.\2.bn{\3+1}.\4",
    ),
    (rf"{_RESNET}((?:conv1|bn1|layer\d)\..*)", r"backbone.\1"),
    (r"model\.input_projection\.(.*)", r"projection.\1"),
    (r"model\.query_position_embeddings\.(.*)", r"queries.\1"),
    (rf"model\.{_LAYERS}\.self_attn\.([qkv])_proj\.(.*)", r"\1.self_attention.\2.\3"),
    (rf"model\.{_LAYERS}\.self_attn\.(?:out|o)_proj\.(.*)", r"\1.self_attention.out.\2"),
    (rf"model\.{_LAYERS}\.encoder_attn\.([qkv])_proj\.(.*)", r"\1.cross_attention.\2.\3"),
    (rf"model\.{_LAYERS}\.encoder_attn\.(?:out|o)_proj\.(.*)", r"\1.cross_attention.out.\2"),
    (rf"model\.{_LAYERS}\.(?:mlp\.)?fc(\d)\.(.*)", r"\1.linear\2.\3"),
    (rf"model\.{_LAYERS}\.self_attn_layer_norm\.(.*)", r"\1.norm1.\2"),
    (rf"model\.{_LAYERS}\.encoder_attn_layer_norm\.(.*)", r"\1.norm2.\2"),
    (r"model\.(encoder\.layers\.\d+)\.final_layer_norm\.(.*)", r"\1.norm2.\2"),
    (r"model\.(decoder\.layers\.\d+)\.final_layer_norm\.(.*)", r"\1.norm3.\2"),
    (r"model\.decoder\.layernorm\.(.*)", r"decoder.norm.\1"),
    (r"class_labels_classifier\.(.*)", r"class_head.\1"),
    (r"bbox_predictor\.(.*)", r"box_head.\1"),
    (r"bbox_attention\.([qk])_proj\.(.*)", r"attention_maps.\1.\2"),
    (r"mask_head\.conv(\d)\.conv\.(.*)", r"mask_head.convs.{\1-1}.\2"),
    (r"mask_head\.conv(\d)\.norm\.(.*)", r"mask_head.norms.{\1-1}.\2"),
    (r"mask_head\.fpn_stages\.(\d)\.refine\.conv\.(.*)", r"mask_head.convs.{\1+2}.\2"),
    (r"mask_head\.fpn_stages\.(\d)\.refine\.norm\.(.*)", r"mask_head.norms.{\1+2}.\2"),
    (r"mask_head\.fpn_stages\.(\d)\.fpn_adapter\.(.*)", r"mask_head.laterals.{4-\1}.\2"),
    (r"mask_head\.output_conv\.(.*)", r"mask_head.out.\1"),
    # The files name the masks' part as the authors do.
    *(rule for rule in AUTHORS_RULES if rule[0].startswith(("bbox_attention", "mask_head"))),
)
"""From Hugging Face's keys (less a leading `detr.`) to ours: of files and of models in memory, either ResNet."""

COCO_OUTPUTS = 250
"""Outputs (without "no object") of the weights published for COCO panoptic: an output's index is the category_id."""
COCO_BOX_OUTPUTS = 91
"""Those of the weights published for COCO's boxes, which know things alone: as above."""
_HALVES = ("decoder", "encoder")


def detr_from_authors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the authors' DETR state dict, with or without the masks' part, to ours.

    Raises `InputError` naming the first keys that do not belong to such a model.
    """
    result = {}
    for key, tensor in _renamed_all(state, AUTHORS_RULES, "the authors' DETR").items():
        place, sign, kind = key.partition(".in_proj_")
        if not sign:
            result[key] = tensor
            continue
        if tensor.ndim == 0 or len(tensor) % 3:
            raise InputError(f"not the authors' DETR: {key} {list(tensor.shape)} is not three of a kind")
        for name, part in zip("qkv", tensor.chunk(3), strict=True):
            result[f"{place}.{name}.{kind}"] = part
    return result


def detr_from_hugging_face(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a Hugging Face DETR state dict, of a file or a model in memory, with or without the masks' part, to ours.

    Raises `InputError` naming the first keys that do not belong to such a model.
    """
    return _renamed_all(state, HUGGING_FACE_RULES, "Hugging Face's DETR")


def _renamed_all(state: Mapping[str, Tensor], rules: Rules, model: str) -> dict[str, Tensor]:
    result, strange = {}, []
    for key, tensor in state.items():
        if key.endswith("num_batches_tracked"):
            continue
        name = renamed(key.removeprefix("detr."), rules)
        if name is None:
            strange.append(key)
        else:
            result[name] = tensor
    if strange:
        more = f" and {len(strange) - 5} more" if len(strange) > 5 else ""
        raise InputError(f"not {model}: unknown keys {', '.join(strange[:5])}{more}")
    return result


def detr_config(state: Mapping[str, Tensor], settings: Mapping[str, Any], dilated: bool) -> DETRConfig:
    """Return the config that a DETR state dict under our keys was made with.

    `settings` is Hugging Face's config.json (empty where there is none), which tells what shapes do not: heads and
    dilation. `dilated` is what a name says of the latter. Raises `InputError` for a key that is missing or mis-shaped
    and a setting that we do not have.
    """
    strides = [_inner(settings, key).get("output_stride") for key in ("backbone_config", "backbone_kwargs")]
    dilated = dilated or settings.get("dilation") is True or 16 in strides
    outputs = shape_of(state, "class_head.weight", 2)[0] - 1
    if outputs < 1:
        raise InputError('class_head.weight has no row beside that of "no object"')
    queries, hidden = shape_of(state, "queries.weight", 2)
    return validated(
        DETRConfig,
        {
            "backbone": {**backbone_fields(state, "backbone."), "dilated": dilated},
            "hidden": hidden,
            "queries": queries,
            "feedforward": shape_of(state, "encoder.layers.0.linear1.weight", 2)[0],
            "encoder_layers": count_of(state, "encoder.layers"),
            "decoder_layers": count_of(state, "decoder.layers"),
            "heads": _heads(settings),
            "outputs": outputs if outputs == COCO_OUTPUTS else None,
        },
        "DETR weights",
    )


def _inner(settings: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return the settings under a key; none where something else stands there."""
    inner = settings.get(key)
    return inner if isinstance(inner, Mapping) else {}


def _heads(settings: Mapping[str, Any]) -> Any:
    """Return the attention heads that settings tell, in one place or both; raise `InputError` for what we lack."""
    told = [settings[f"{part}_attention_heads"] for part in _HALVES if f"{part}_attention_heads" in settings]
    heads = told[0] if told else DETRConfig().heads
    for key, ours in (
        ("activation_function", "relu"),
        ("position_embedding_type", "sine"),
        ("encoder_attention_heads", heads),
    ):
        if key in settings and settings[key] != ours:
            raise InputError(f"config.json: {key}={settings[key]!r}, which our DETR does not have; it has {ours!r}")
    return heads


def detr_categories(outputs: int, settings: Mapping[str, Any]) -> Categories:
    """Return the categories of weights with so many outputs (without "no object"), which is known of COCO panoptic's.

    Raises `InputError` for others: neither shapes nor Hugging Face's config.json tell things from stuff.
    """
    if outputs == COCO_OUTPUTS:
        return COCO_PANOPTIC
    names = list(_inner(settings, "id2label").values())
    listed = f" ({', '.join(map(str, names[:3]))}{', ...' if len(names) > 3 else ''})" if names else ""
    raise InputError(
        f"the weights have {outputs} classes{listed} and nothing tells which are things and which are stuff; give the "
        "categories: thingstuff weights import FILE --categories CATEGORIES.json --out w"
    )


def detr_known_names(outputs: int, settings: Mapping[str, Any]) -> Categories:
    """Return those classes of weights with so many outputs whose names are known; ids are the outputs' positions.

    Names from Hugging Face's config.json all stand as things, since it does not tell.
    """
    if outputs == COCO_OUTPUTS:
        return COCO_PANOPTIC
    if outputs == COCO_BOX_OUTPUTS:
        named = {COCO_PANOPTIC.ids[label]: COCO_PANOPTIC.names[label] for label in COCO_PANOPTIC.thing_labels}
    else:
        listed = _inner(settings, "id2label")
        named = {int(key): str(name) for key, name in listed.items() if str(key).isdecimal() and int(key) < outputs}
    values = list(named.values())
    once = {position: name for position, name in named.items() if values.count(name) == 1}  # holes share "N/A"
    return Categories(tuple(once.values()), (True,) * len(once), tuple(once))
