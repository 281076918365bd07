"""Pictures filled in by a panoptic model: what `thingstuff convert --fill-stuff-with` puts under drawn labels."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from thingstuff import pretrained
from thingstuff.convert.classes import ClassPlan
from thingstuff.convert.fill_classes import FillClasses, match_classes
from thingstuff.convert.filled import FillRules, fill
from thingstuff.convert.painting import Painted
from thingstuff.errors import InputError
from thingstuff.io import read_picture
from thingstuff.memory import is_of_memory
from thingstuff.models.base import PanopticModel

DEFAULT_MODEL = "detr-panoptic-r50"
"""The model that fills in where none is named: DETR, which knows COCO panoptic's 53 classes of stuff."""


class ModelFiller:
    """A `convert.painting.Filler`: a model's segments laid under drawn ones; it belongs to the process that made it.

    `by` is the model's name in the marks of what it fills in.
    """

    def __init__(self, model: PanopticModel, matched: FillClasses, rules: FillRules, by: str) -> None:
        self.model, self.matched, self.rules, self.by = model, matched, rules, by
        self.classes = matched.brought
        """The categories that it may bring and the person does not have."""
        self.fingerprint = f"{by} {_digest(model, matched, rules)}"

    @classmethod
    def load(
        cls,
        weights: str | Path,
        own: ClassPlan,
        *,
        renamed: Mapping[str, str] | None = None,
        things: bool = False,
        rules: FillRules | None = None,
        device: str | torch.device | None = None,
    ) -> "ModelFiller":
        """Load a model by what `pretrained.load` takes, to fill in under a person's own classes.

        `renamed` and `things` are those of `match_classes`. `device` is the CUDA GPU where there is one, else the CPU.
        Raises `InputError` as `pretrained.load` and `match_classes` do.
        """
        model = pretrained.load(weights, device)
        try:
            matched = match_classes(model.categories, own, renamed, things)
        except InputError as error:
            raise InputError(f"{weights} cannot fill in: {error}") from None
        return cls(model, matched, rules or FillRules(), str(weights))

    def __call__(self, picture: Path, painted: Painted) -> Painted:
        """Return the map with the model's segments where nothing was labelled, as `convert.filled.fill` says.

        The picture is turned by its EXIF orientation where the map is. Raises `InputError` naming the picture where it
        has not the map's size, and where memory does not suffice for it.
        """
        if painted.ids.all():
            return painted
        height, width = painted.ids.shape
        pixels = np.asarray(read_picture(picture, (height, width)))
        try:
            predicted = self.model.predict(pixels)
        except (RuntimeError, MemoryError) as error:
            if not is_of_memory(error):
                raise
            raise InputError(
                f"out of memory while {self.by} looked at {picture} ({width} x {height}): close what else uses the "
                "memory, use the CPU (CUDA_VISIBLE_DEVICES= before the command), or choose a smaller model; the same "
                "command then goes on with the pictures that are left"
            ) from None
        return fill(painted, predicted, self.matched, self.rules, self.by)


def _digest(model: PanopticModel, matched: FillClasses, rules: FillRules) -> str:
    """Return a text that changes with the model's weights and settings and with whatever was said of the filling.

    The weights themselves are looked at (DETR's in a fraction of a second), so that a run that was trained further is
    not taken for what it was.
    """
    found = hashlib.blake2b(digest_size=16)
    for name, tensor in model.state_dict().items():
        found.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    settings = model.config.model_dump_json()
    said = [settings, model.categories.to_coco(), [*matched.names.items()], sorted(matched.things), asdict(rules)]
    found.update(json.dumps(said).encode())
    return found.hexdigest()
