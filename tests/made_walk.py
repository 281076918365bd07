"""A walk with a view of every kind, made by hand: a picture of 60 x 80 pixels on a canvas of 64 x 96."""

import numpy as np
import torch

from thingstuff.panoptic import Categories, Panoptic, Segment
from thingstuff.structures import Frame
from thingstuff.walk import (
    AttentionView,
    Labelled,
    MapView,
    Mark,
    MarksView,
    MatrixView,
    PixelsView,
    ResultView,
    Row,
    Step,
    TableView,
    View,
    Walk,
)

CATEGORIES = Categories(("sky", "cat", "</script><b>&\"'"), (False, True, True), (3, 7, 9))
HEIGHT, WIDTH = 60, 80
FRAME = Frame(canvas=(64, 96), size=(HEIGHT, WIDTH), original=(HEIGHT, WIDTH))
SKY, CAT, ODD = 1, 5, 8
"""The segments' ids."""
COVERED = 11
"""Of one that has no pixel: others lie over it."""


def made_result() -> Panoptic:
    """Sky above, void below, a cat at the left and another thing at the right."""
    ids = np.zeros((HEIGHT, WIDTH), dtype=np.int32)
    ids[:30] = SKY
    ids[20:50, 5:35] = CAT
    ids[25:45, 50:75] = ODD
    segments = ((SKY, 0, None), (CAT, 1, 0.91), (ODD, 2, 0.6))
    return Panoptic(ids, tuple(Segment(i, k, int((ids == i).sum()), s) for i, k, s in segments), CATEGORIES)


def with_covered(result: Panoptic) -> Panoptic:
    """The same map with a cat more that lies below other things."""
    covered = Segment(COVERED, 1, 0, 0.3)
    return Panoptic(result.ids, (*result.segments, covered), result.categories)


def made_picture(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A picture with a gradient and some noise."""
    rows, columns = np.mgrid[:height, :width]
    noise = np.random.default_rng(0).integers(0, 30, (height, width))
    return np.stack([rows * 200 // height + noise, columns * 200 // width, noise + 80], axis=-1).astype(np.uint8)


def step(name: str, after: tuple[str, ...], views: tuple[View, ...], notes: dict[int, str] | None = None) -> Step:
    return Step(
        name=name,
        chapter="The picture" if not after else "The map" if name == "result" else "The middle",
        title=f"Step {name}",
        question=f"What is {name}?",
        text=f"This is what {name} made of it.",
        paper="section 3.1",
        source="thingstuff.walk.Walk",
        tensors=(Labelled(name, torch.arange(6.0).view(1, 2, 3), ("channels", "rows", "columns")),),
        views=views,
        after=after,
        layers=(f"{name}.",) if after else (),
        notes=notes or {},
    )


def made_views(cells: tuple[int, int] = (8, 12), each: int = 1) -> tuple[View, ...]:
    """Return maps of that many cells, of all three segments `each` times, and one view of every other kind."""
    values = np.linspace(-1, 2, cells[0] * cells[1], dtype=np.float32).reshape(cells)
    attention = np.random.default_rng(1).random((6, 4, 6), dtype=np.float32)
    attention /= attention.sum((1, 2), keepdims=True)
    return (
        MapView(title="Energy", caption="How strong.", values=values, unit="logit"),
        MapView(title="Signed", values=values, unit="logit", signed=True),
        PixelsView(title="Colours", pixels=made_picture(*cells)),
        *(
            MapView(title=f"Mask {turn} of {i}", values=values, unit="probability", segments=(i,), low=0.0, high=1.0)
            for turn in range(each)
            for i in (SKY, CAT, ODD)
        ),
        MarksView(
            title="Boxes and peaks",
            marks=(
                Mark((5.0, 20.0, 35.0, 50.0), "cat 0.91", (255, 0, 0), segments=(CAT,)),
                Mark((60.0, 30.0, 60.0, 30.0), "peak of </title>", (0, 255, 0), segments=(ODD,)),
                Mark((1.0, 1.0, 20.0, 9.0), "dropped", (90, 90, 255), kept=False),
            ),
            values=np.clip(values, 0, 1),
        ),
        TableView(
            title="Queries",
            columns=("class", "score", "what became of it"),
            rows=(Row(("cat", 0.91, "kept"), segments=(CAT,)), Row(("sky", 0.2, "below the threshold"), kept=False)),
        ),
        MatrixView(
            title="Alike kernels",
            values=np.array([[1, -0.5, 0.9], [-0.5, 1, 0], [0.9, 0, 1]], dtype=np.float32),
            unit="cosine",
            names=("cat at 1", "sky", "cat at 2"),
            groups=(0, 1, 0),
            row_segments=((CAT,), (SKY,), (CAT,)),
        ),
        AttentionView(title="Attention", grid=(2, 3), maps={"layer 1": attention, "layer 2": attention[::-1]}),
    )


def made_walk(views: tuple[View, ...] | None = None, result: Panoptic | None = None) -> Walk:
    """Return the walk: a picture, a step with the views, one that treats nothing, and the final map."""
    result = made_result() if result is None else result
    picture, canvas = made_picture(), np.zeros((*FRAME.canvas, 3), dtype=np.uint8)
    canvas[:HEIGHT, :WIDTH] = picture
    notes = {i: f"Made {i}." for i in (SKY, CAT, ODD) if result.segments}
    views = made_views() if views is None else views
    steps = (
        step("picture", (), (PixelsView(title="What the network sees", pixels=canvas, smooth=True),)),
        step("middle", ("picture",), views, notes),
        step("quiet", ("middle",), (PixelsView(title="Colours of its own", pixels=made_picture(4, 6)),)),
        step("result", ("quiet", "middle"), (ResultView(title="Final map"),), notes),
    )
    return Walk("made", "MadeModel", CATEGORIES, "a <picture>.jpg", picture, canvas, FRAME, steps, result)
