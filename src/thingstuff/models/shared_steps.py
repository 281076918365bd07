"""The steps that every model's walk begins and ends with: the padded picture, the backbone, the final map."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from thingstuff.backbones import ResNet
from thingstuff.feature_views import feature_views
from thingstuff.models.base import PanopticModel
from thingstuff.models.true_map import true_map_view
from thingstuff.panoptic import Segment
from thingstuff.walk import Labelled, PixelsView, ResultView, Row, Seen, Step, TableView

ROWS, COLUMNS = "rows, {} px of the canvas each", "columns, {} px each"


def map_axes(channels: str, stride: int) -> tuple[str, str, str]:
    """Return what the axes of [C, h, w] mean, for a map of that stride."""
    return channels, ROWS.format(stride), COLUMNS.format(stride)


def picture_step(model: PanopticModel, seen: Seen, paper: str) -> Step:
    """Return the first step: the picture resized, normalised and padded; `paper` is the section that says so."""
    rule, frame = model.config.preprocess, seen.images.frame(0)
    canvas = f"a canvas of {frame.canvas[1]} × {frame.canvas[0]}"
    padding = (
        f"That fills {canvas}; no padding was needed."
        if frame.size == frame.canvas
        else f"Zeros at the right and bottom fill {canvas}: padding, black here."
    )
    size = f"{frame.size[1]} × {frame.size[0]}"
    resized = (
        f"The picture of {size} pixels is used at its own size"
        if frame.size == frame.original
        else f"The picture of {frame.original[1]} × {frame.original[0]} pixels is resized to {size}"
    )
    return Step(
        name="picture",
        chapter="The picture",
        title="The padded picture",
        question="What does the network see of my picture?",
        text=(
            f"{resized} (shorter side {rule.short_side}, the longer at most {rule.max_side}). Its "
            f"{rule.channel_order} channels lose their mean and are divided by their deviation. {padding}"
        ),
        paper=paper,
        source="thingstuff.models.base.PanopticModel.batch",
        tensors=(
            Labelled("pixels", seen.images.pixels[0].cpu(), (f"channels, {rule.channel_order}", "rows", "columns")),
        ),
        views=(PixelsView(title="What the network sees", pixels=seen.canvas, smooth=True),),
    )


def backbone_steps(
    model: PanopticModel, stages: Mapping[int, Tensor], seen: Seen, used: Mapping[int, str], paper: str
) -> list[Step]:
    """Return a step for each stage of the ResNet.

    `stages` are Res2..Res5 as [1, C, h, w], `used` says in a sentence where each is used again, `paper` the section.
    """
    backbone = model.get_submodule("backbone")
    assert isinstance(backbone, ResNet)
    frame, steps = seen.images.frame(0), []
    resnet = f"the ResNet-{backbone.config.depth}"
    for stage, features in stages.items():
        what = f"Stem and first stage of {resnet} describe" if stage == 2 else f"This stage of {resnet} describes"
        stride = backbone.config.strides[stage]
        layers = (
            ("backbone.conv1.", "backbone.bn1.", "backbone.layer1.") if stage == 2 else (f"backbone.layer{stage - 1}.",)
        )
        steps.append(
            Step(
                name=f"res{stage}",
                chapter="The backbone",
                title=f"Res{stage}: features at stride {stride}",
                question=f"What does the ResNet's stage {stage} say of each place, and where is that used again?",
                text=(f"{what} each {stride} × {stride} pixels by {features.shape[1]} numbers. {used[stage]}"),
                paper=f"He et al. 2016, table 1; {paper}",
                source="thingstuff.backbones.ResNet",
                tensors=(Labelled(f"Res{stage}", features[0].cpu(), map_axes("channels", stride)),),
                views=feature_views(f"Res{stage}", features[0], frame),
                after=("picture",) if stage == 2 else (f"res{stage - 1}",),
                layers=layers,
            )
        )
    return steps


def result_step(seen: Seen, after: tuple[str, ...], how: str) -> Step:
    """Return the last step: the final map; `how` says in a sentence how ids and areas came about."""
    categories = seen.result.categories
    pixels = max(1, seen.result.ids.size)
    void = int((seen.result.ids == 0).sum())
    outside = (
        f"{in_percent(void / pixels)} of the pixels belong to none (void)" if void else "every pixel belongs to one"
    )
    rows = tuple(
        Row(
            (
                str(s.id),
                categories.names[s.label],
                "thing" if categories.things[s.label] else "stuff",
                "" if s.score is None else f"{s.score:.2f}",
                s.area / pixels,
            ),
            segments=(s.id,),
        )
        for s in seen.result.segments
    )
    scores = [s.score or 0.0 for s in seen.result.segments]
    sources = [-1 if s.source is None else s.source for s in seen.result.segments]
    return Step(
        name="result",
        chapter="The map",
        title="The final map",
        question="What came out, and where did each segment come from?",
        text=(
            f"{how} {counted(len(rows), 'segment', 'segments')}; {outside}. Click a segment to follow it back through "
            "all steps."
        ),
        paper="Kirillov et al. 2019a, section 3 (the task)",
        source="thingstuff.panoptic.Panoptic",
        tensors=(
            Labelled("ids", torch.from_numpy(seen.result.ids), ("rows of the picture", "columns")),
            Labelled("scores", torch.tensor(scores, dtype=torch.float32), ("segments",)),
            Labelled("rows", torch.tensor(sources, dtype=torch.long), ("segments: which candidate each one was",)),
        ),
        views=(
            ResultView(title="Final map"),
            *([] if seen.truth is None else [true_map_view(seen.truth)]),
            TableView(title="Segments", columns=("id", "class", "kind", "score", "share of the picture"), rows=rows),
        ),
        after=after,
        notes={s.id: summary(seen, s) for s in seen.result.segments},
    )


def summary(seen: Seen, segment: Segment) -> str:
    """Return a final segment in a few words."""
    score = "" if segment.score is None else f", score {segment.score:.2f}"
    return f"{seen.result.name(segment)} (segment {segment.id}): {segment.area:,} pixels{score}."


def segment_of_row(seen: Seen) -> dict[int, int]:
    """Return the final segment's id of each row of `Segments` that became one."""
    return {s.source: s.id for s in seen.result.segments if s.source is not None}


def best_and_final(count: int, most: int, final: Iterable[int]) -> list[int]:
    """Return the first rows of `count`, at most `most`, and those behind them that final segments came from."""
    return [*range(min(count, most)), *sorted(row for row in final if row >= most)]


def counted(count: int, one: str, many: str) -> str:
    """Return "1 box", "2,000 boxes"."""
    return f"{count:,} {one if count == 1 else many}"


def in_percent(share: float) -> str:
    """Return a share as text, to a tenth of a percent; what is neither nothing nor all is not told as such."""
    if 0 < share < 0.0005:
        return "under 0.1%"
    if 0.9995 <= share < 1:
        return "over 99.9%"
    return f"{share:.1%}" if 0 < share < 1 else f"{share:.0%}"


def share(value: float) -> float:
    """Return a number that is no share by rounding alone as a table draws it, from 0 to 1."""
    return min(1.0, max(0.0, value))
