"""Walking through a model's insides: one pass over one picture, told step by step."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from thingstuff.data.transforms import remains, resize, target_of
from thingstuff.drawing import segment_places
from thingstuff.errors import InputError
from thingstuff.models.base import PanopticModel, Picture, open_picture, resize_picture
from thingstuff.panoptic import Panoptic
from thingstuff.structures import Size, Target
from thingstuff.walk import Seen, Walk
from thingstuff.watching import Watch


@torch.no_grad()
def explain(model: PanopticModel, picture: "str | Path | Image.Image | Picture", truth: Panoptic | None = None) -> Walk:
    """Return the walk through a model's pass over one picture: what each step made, and what it says.

    The pass is that of `predict`, in fp32 and not compiled, and the walk's `result` is what it gives. With ground truth
    (of the picture's size and the model's categories) steps show what they should have made. Raises `InputError` for
    what is no picture, and where the ground truth is of another size or other categories.
    """
    pixels = open_picture(picture)
    if truth is not None:
        _check_truth(model, pixels, truth)
    training, network = model.training, model._network
    model.eval()
    model._network = None
    try:
        with torch.autocast(model.device.type, enabled=False):
            return _walk(model, pixels, picture, truth)
    finally:
        model.train(training)
        model._network = network


def _walk(
    model: PanopticModel, pixels: Picture, picture: "str | Path | Image.Image | Picture", truth: Panoptic | None
) -> Walk:
    images = model.batch([pixels])
    with Watch(model, model.watched()) as calls:
        output = model.look(images)
        (segments,) = model.segments(output, images)
    result = model.merge(segments)
    canvas = np.zeros((*images.canvas, 3), dtype=np.uint8)
    height, width = images.sizes[0]
    canvas[:height, :width] = resize_picture(pixels, images.sizes[0])
    target = None if truth is None else _target(truth, images.sizes[0])
    seen = Seen(pixels, canvas, images, output, segments, result, calls, truth, target)
    steps = model.steps(seen)
    return Walk(
        model=model.name or type(model).__name__,
        kind=type(model).__name__,
        categories=model.categories,
        name=Path(picture).name if isinstance(picture, (str, Path)) else "picture",
        picture=pixels,
        canvas=canvas,
        frame=images.frame(0),
        steps=tuple(steps),
        result=result,
    )


def _check_truth(model: PanopticModel, picture: Picture, truth: Any) -> None:
    if not isinstance(truth, Panoptic):
        raise InputError(
            f"the ground truth must be a Panoptic (`CocoPanoptic.panoptic`); this is {type(truth).__name__}"
        )
    if truth.size != picture.shape[:2]:
        raise InputError(
            f"the ground truth is {truth.size[1]} x {truth.size[0]} pixels, the picture {picture.shape[1]} x "
            f"{picture.shape[0]}; give the map of this picture"
        )
    if truth.categories != model.categories:
        raise InputError(
            "the ground truth has other categories than the model; give it with those of the model (names, kinds, ids)"
        )


def _target(truth: Panoptic, size: Size) -> Target:
    """Return what a picture teaches at the size of the network's input."""
    places = segment_places(truth).astype(np.int32)
    _, places = resize(np.zeros((*truth.size, 3), dtype=np.uint8), places, size)
    segments = truth.segments
    return target_of(places, remains(places), [s.label for s in segments], [s.iscrowd for s in segments])
