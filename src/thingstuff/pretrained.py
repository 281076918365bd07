"""Weights from anywhere: our runs and checkpoints, published files, and the Hugging Face hub by a model's name."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from thingstuff import checkpoint
from thingstuff.backbone_weights import refuse_backbone
from thingstuff.config import changed
from thingstuff.detr_weights import (
    detr_categories,
    detr_config,
    detr_from_authors,
    detr_from_hugging_face,
    detr_known_names,
)
from thingstuff.errors import InputError
from thingstuff.models import create
from thingstuff.models.base import PanopticModel
from thingstuff.models.detr import DETRConfig
from thingstuff.panoptic import Categories
from thingstuff.panoptic_fcn_weights import FEATURE, build_panoptic_fcn
from thingstuff.weights import load_strictly, read_state

PUBLISHED = {
    "detr-panoptic-r50": "facebook/detr-resnet-50-panoptic",
    "detr-panoptic-r101": "facebook/detr-resnet-101-panoptic",
    "detr-panoptic-r50-dc5": "facebook/detr-resnet-50-dc5-panoptic",
}
"""A model's name -> the repository on the Hugging Face hub that holds its published weights."""
HUB_FILES = ("model.safetensors", "pytorch_model.bin")
"""A hub repository's weights, the better first."""
HUB_CONFIG = "config.json"


class Origin(Enum):
    """Whose names a state dict's keys are."""

    OURS = "thingstuff"
    DETR_AUTHORS = "DETR's authors"
    DETR_HUGGING_FACE = "Hugging Face's DETR"
    PANOPTIC_FCN_AUTHORS = "Panoptic FCN's authors"
    UNKNOWN = "unknown"


_SIGNS = (
    ("transformer.decoder.norm.weight", Origin.DETR_AUTHORS),
    ("model.decoder.layernorm.weight", Origin.DETR_HUGGING_FACE),
    ("position_head.out_inst.weight", Origin.PANOPTIC_FCN_AUTHORS),
    ("class_head.weight", Origin.OURS),
)


def recognise(state: Mapping[str, Tensor]) -> Origin:
    """Tell whose names a state dict's keys are, by one key that only they have."""
    keys = {key.removeprefix("detr.") for key in state}
    return next((origin for sign, origin in _SIGNS if sign in keys), Origin.UNKNOWN)


def load(
    weights: str | Path, device: str | torch.device | None = None, revision: str | None = None, **changes: Any
) -> PanopticModel:
    """Load a model, ready to predict.

    `weights` is a run folder or checkpoint of ours, a file of published weights (`.pth`, `.bin`, `.safetensors`), or a
    name of `PUBLISHED`, whose weights are fetched from the Hugging Face hub once (`revision`: its branch, tag or
    commit). A path that exists goes before a name. `device` is the CUDA GPU where there is one, else the CPU.
    `changes` are settings of the model (threshold=0.5; dotted keys as `**{"preprocess.short_side": 640}`).
    Raises `InputError` for what is none of these, does not fit, has learned boxes alone, or cannot be fetched.
    """
    return load_changed(weights, changes, device, revision)


def load_changed(
    weights: str | Path,
    changes: Mapping[str, Any],
    device: str | torch.device | None = None,
    revision: str | None = None,
) -> PanopticModel:
    """Load a model as `load` does, with settings by dotted key, which may be any."""
    source = _open(weights, revision, _build_whole)
    _check_segments(source, weights)
    return checkpoint.ready(_with_settings(source.model, changes, weights), device)


def _check_segments(source: "Source", weights: str | Path) -> None:
    """Raise `InputError` for a model whose training went no further than a part without segments."""
    model = source.model
    model.learning = source.learned
    measurable = model.measurable
    model.learning = "all"
    if not measurable:
        raise InputError(
            f"{weights} has learned {source.learned} only, no masks yet; go on with: "
            f"thingstuff train DATA --from {weights} --recipe detr-masks --out OTHER"
        )


def _with_settings(model: PanopticModel, changes: Mapping[str, Any], weights: str | Path) -> PanopticModel:
    """Return the model with settings changed; `InputError` for those that its weights do not fit."""
    if not changes:
        return model
    again = type(model)(changed(model.config, changes, f"model {weights}"), model.categories)
    again.name = model.name
    settings = ", ".join(f"{key}={value}" for key, value in changes.items())
    load_strictly(again, model.state_dict(), f"{weights} was not trained with {settings}: it")
    return again


@dataclass(frozen=True)
class Source:
    """A model to begin another from, on the CPU, and those of its keys that the weights did not hold.

    `learned` is the part that its training learned last.
    """

    model: PanopticModel
    missing: frozenset[str] = frozenset()
    learned: str = "all"


def load_source(weights: str | Path) -> Source:
    """Open weights that another model is to begin with: what `load` takes, and more of the published DETRs.

    One for boxes alone may lack the masks' part, and categories may be unknown: their classes are those whose names are
    known. Raises `InputError` as `load` does.
    """
    return _open(weights, None, _build_part)


def load_published(path: Path, categories: Categories | None = None) -> PanopticModel:
    """Build the DETR or Panoptic FCN whose published weights a file holds, on the CPU.

    A Hugging Face config.json is read where it lies beside the file. `categories` are needed for weights of other
    classes than COCO panoptic's: one for each output in their order (of a Panoptic FCN: things and stuff each in
    theirs), or for a DETR with the outputs' indices as category ids.
    Raises `InputError` naming the file for weights of another model and for missing, extra and mis-shaped keys.
    """
    return build_published(path, read_state(path), categories)


def build_published(
    path: Path,
    theirs: Mapping[str, Tensor],
    categories: Categories | None = None,
    changes: Mapping[str, Any] | None = None,
) -> PanopticModel:
    """Build a model of a file's published weights as `load_published` does, from what was read of it.

    `changes` are settings of the model by dotted key.
    """
    changes = changes or {}
    model = _build(path, theirs, _settings_beside(path), _is_dilated(path), categories, changes)
    return _with_settings(model, changes, path)


Builder = Callable[[Path, Mapping[str, Any], bool], Source]
"""Of a file of published weights, Hugging Face's settings, and whether its name tells of dilation."""


def _open(weights: str | Path, revision: str | None, build: Builder) -> Source:
    path = Path(weights)
    if path.exists():
        if revision:
            raise InputError(f"{path} is there, and revision={revision!r} is for weights from the hub; leave one out")
        return _from_path(path, build)
    if str(weights) in PUBLISHED:
        return _from_hub(str(weights), revision, build)
    raise InputError(
        f"{weights}: no such weights; give a run folder (runs/a), a file (.safetensors, .pth, .bin) "
        f"or one of {', '.join(PUBLISHED)}"
    )


def _from_path(path: Path, build: Builder) -> Source:
    if path.is_dir():
        if not any((path / f"{name}{checkpoint.SUFFIX}").is_file() for name in ("best", "last")):
            for name in HUB_FILES:
                if (path / name).is_file():
                    return _from_path(path / name, build)
            refuse_backbone(path)
        path = checkpoint.find_file(path)
    if checkpoint.is_checkpoint(path):
        model, training = checkpoint.load_training(path)
        return Source(model, learned=(training.values.get("stage") or {}).get("learns", "all"))
    refuse_backbone(path)
    return build(path, _settings_beside(path), _is_dilated(path))


def _from_hub(name: str, revision: str | None, build: Builder) -> Source:
    file, config = _fetch(PUBLISHED[name], revision)
    try:
        source = build(file, _read_settings(config) if config else {}, name.endswith("-dc5"))
    except InputError as error:
        raise InputError(f"{PUBLISHED[name]} from the hub: {error}; delete the file to fetch it again") from None
    source.model.name = name
    return source


def _build_whole(path: Path, settings: Mapping[str, Any], dilated: bool) -> Source:
    return Source(_build(path, read_state(path), settings, dilated, None))


def _build(
    path: Path,
    theirs: Mapping[str, Tensor],
    settings: Mapping[str, Any],
    dilated: bool,
    categories: Categories | None,
    changes: Mapping[str, Any] | None = None,
) -> PanopticModel:
    if recognise(theirs) is Origin.PANOPTIC_FCN_AUTHORS:
        return _build_panoptic_fcn(path, theirs, categories, changes or {})
    known = (lambda count: detr_categories(count, settings)) if categories is None else (lambda _: categories)
    model, state = _prepared(path, theirs, settings, dilated, known)
    alone = not state.keys() & {*model.parameters_of("masks")}
    try:
        load_strictly(model, state, str(path))
    except InputError as error:
        remedy = f"; it knows boxes alone: learn masks by thingstuff train DATA --from {path}" if alone else ""
        raise InputError(f"{error}{remedy}") from None
    return model


def _build_part(path: Path, settings: Mapping[str, Any], dilated: bool) -> Source:
    """Build the model of a file which need not hold the masks' part nor tell its categories."""
    theirs = read_state(path)
    if recognise(theirs) is Origin.PANOPTIC_FCN_AUTHORS:
        return Source(_build_panoptic_fcn(path, theirs, None, {}))
    model, state = _prepared(path, theirs, settings, dilated, lambda count: detr_known_names(count, settings))
    of_masks = {*model.parameters_of("masks")}
    missing = of_masks if not of_masks & state.keys() else set()
    load_strictly(model, {**{key: model.state_dict()[key] for key in missing}, **state}, str(path))
    return Source(model, frozenset(missing))


def _build_panoptic_fcn(
    path: Path, theirs: Mapping[str, Tensor], categories: Categories | None, changes: Mapping[str, Any]
) -> PanopticModel:
    try:
        model, state = build_panoptic_fcn(theirs, categories, {k: v for k, v in changes.items() if k == FEATURE})
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    load_strictly(model, state, str(path))
    return model


def _prepared(
    path: Path,
    theirs: Mapping[str, Tensor],
    settings: Mapping[str, Any],
    dilated: bool,
    categories_of: Callable[[int], Categories],
) -> tuple[PanopticModel, dict[str, Tensor]]:
    """Return the DETR that a file's weights are of, and these under its keys, not yet loaded."""
    try:
        state = _converted(theirs)
        config = detr_config(state, settings, dilated)
        outputs = state["class_head.weight"].shape[0] - 1
        categories = categories_of(outputs)
        if len(categories) != outputs:  # then an output's index is the category's id
            config = config.model_copy(update={"outputs": outputs})
        return create(_name_of(config), categories, config), state
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _is_dilated(path: Path) -> bool:
    """Tell by the names of a file and its folder whether its backbone is dilated (DC5), which no shape tells."""
    path = path.absolute()
    return any("dc5" in name.lower() for name in (path.name, path.parent.name))


def _name_of(config: DETRConfig) -> str:
    """Return the name of the published model that a config is nearest to."""
    if config.backbone.depth == 101:
        return "detr-panoptic-r101"
    return "detr-panoptic-r50-dc5" if config.backbone.dilated else "detr-panoptic-r50"


def _converted(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a DETR's state dict under our keys."""
    origin = recognise(state)
    if origin is Origin.DETR_AUTHORS:
        return detr_from_authors(state)
    if origin is Origin.DETR_HUGGING_FACE:
        return detr_from_hugging_face(state)
    if origin is Origin.OURS and "projection.weight" in state:
        return dict(state)
    raise InputError(
        f"the weights are of no model that is known here (first keys {', '.join(sorted(state)[:3]) or 'none'}); give a "
        "checkpoint of thingstuff or published weights of DETR or Panoptic FCN"
    )


def _settings_beside(path: Path) -> dict[str, Any]:
    beside = path.with_name(HUB_CONFIG)
    return _read_settings(beside) if path.name in HUB_FILES and beside.is_file() else {}


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is no JSON ({error}); fetch it again") from None
    if not isinstance(settings, dict):
        raise InputError(f"{path} holds no settings (no JSON object); fetch it again")
    return settings


# ---- the hub


def _fetch(repository: str, revision: str | None) -> tuple[Path, Path | None]:
    """Return the weights' file and config.json of a hub repository from the cache, which is filled first.

    Raises `InputError` where neither the hub nor the cache gives weights.
    """
    for name in HUB_FILES:
        file = _fetch_file(repository, name, revision)
        if file:
            return file, _fetch_settings(repository, revision)
    raise _unfetched(repository, revision, " or ".join(HUB_FILES), "the repository has no such file")


def _fetch_settings(repository: str, revision: str | None) -> Path | None:
    try:
        return _fetch_file(repository, HUB_CONFIG, revision)
    except InputError:  # the published models' settings are known without, so weights in the cache are enough offline
        return None


def _fetch_file(repository: str, name: str, revision: str | None) -> Path | None:
    """Return a file's place in the cache, or None where the repository is known not to have it."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        if not isinstance(try_to_load_from_cache(repository, name, revision=revision), str):
            # One request tells what is wrong at once and by its name; the download would try again for a long while.
            get_hf_file_metadata(hf_hub_url(repository, name, revision=revision))
        return Path(hf_hub_download(repository, name, revision=revision))
    except Exception as error:  # noqa: BLE001 -- the kinds depend on the hub client's version and its HTTP library
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            return None
        spare = HUB_FILES[HUB_FILES.index(name) + 1 :] if name in HUB_FILES else ()
        if any(isinstance(try_to_load_from_cache(repository, other, revision=revision), str) for other in spare):
            return None
        raise _unfetched(repository, revision, name, _reason(error)) from None


def _reason(error: Exception) -> str:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    reasons = {  # the special before the general
        GatedRepoError: "it is open only to those who accepted its terms: log in with `hf auth login`",
        RepositoryNotFoundError: "the hub has no such repository, or it asks for a login",
        RevisionNotFoundError: "the repository has no such revision",
    }
    for kind, reason in reasons.items():
        if isinstance(error, kind):
            return reason
    if getattr(getattr(error, "response", None), "status_code", None) == 401:
        return reasons[RepositoryNotFoundError]  # which the hub answers to strangers, so as not to tell what there is
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _unfetched(repository: str, revision: str | None, name: str, reason: str) -> InputError:
    from huggingface_hub import constants

    return InputError(
        f"weights could not be fetched: {name} of {repository} (revision {revision or 'main'}) from "
        f"{constants.ENDPOINT}: {reason}. Nothing of it is in the cache {constants.HF_HUB_CACHE} either. Go online "
        "once, or give a file: --weights FILE (to train: --from FILE), a checkpoint of thingstuff or published weights "
        "(.pth, .bin or .safetensors)"
    )
