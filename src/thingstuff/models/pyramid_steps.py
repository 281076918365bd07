"""The steps of a feature pyramid, and of the semantic FPN above it, for the walks of the models that have them."""

from torch import Tensor

from thingstuff.feature_views import feature_views
from thingstuff.models.shared_steps import map_axes
from thingstuff.walk import Labelled, Seen, Step, View
from thingstuff.watching import Watched

STAGES = (2, 3, 4, 5)
WATCHED = (Watched("fpn"), *(Watched(f"fpn.output.{stage}", inputs=True) for stage in STAGES))
"""What a model watches for `fpn_steps`."""
SEMANTIC_WATCHED = (Watched("semantic_fpn"), *(Watched(f"semantic_fpn.levels.{s}.{max(0, s - 3)}") for s in STAGES))
"""What it watches for `semantic_fpn_step`: the whole, and the last block of each level."""


def level_steps(levels: tuple[int, ...]) -> tuple[str, ...]:
    """Return the names of the steps that show some levels: each its own, but P7 that of P6."""
    return tuple(dict.fromkeys(f"p{min(level, 6)}" for level in levels))


def fpn_steps(seen: Seen, use: str, paper: str) -> list[Step]:
    """Return a step for each of P5, P4, P3, P2, and one, `p6`, for the levels that convolutions make from P5.

    Each names all parameters it hangs on, so that a level hangs on no other level's output convolution. `use` says in a
    sentence what the levels are for, `paper` where the paper says so.
    """
    pyramid: dict[int, Tensor] = seen.calls["fpn"][0].output
    steps = [_level_step(seen, stage, use, paper) for stage in reversed(STAGES)]
    return [*steps, _extra_step(seen, use, paper)] if max(pyramid) > STAGES[-1] else steps


def _level_step(seen: Seen, stage: int, use: str, paper: str) -> Step:
    (call,) = seen.calls[f"fpn.output.{stage}"][:1]
    summed, level = call.inputs[0][0].cpu(), call.output[0].cpu()
    stride, above, frame = 2**stage, tuple(range(stage, 6)), seen.images.frame(0)
    if stage == 5:
        sources = f"A 1 × 1 convolution brings Res5 to {len(level)} channels"
    else:
        sources = (
            f"A 1 × 1 convolution brings Res{stage} to {len(level)} channels; the sum above, that of stride "
            f"{2 * stride}, is enlarged to twice its size (each cell becomes four alike) and added"
        )
    views: list[View] = list(feature_views(f"P{stage}", level, frame))
    if stage < 5:
        views.append(feature_views(f"Sum at stride {stride}, before the 3 × 3 convolution", summed, frame)[0])
    return Step(
        name=f"p{stage}",
        chapter="The feature pyramid",
        title="P5: the top of the pyramid" if stage == 5 else f"P{stage}: Res{stage}, and what is known from above",
        question="What is P5 made of?" if stage == 5 else f"What is added to make P{stage}, and where is it from?",
        text=(
            f"{sources}. A 3 × 3 convolution makes P{stage} of it, {level.shape[1]} × {level.shape[2]} cells of "
            f"{len(level)} numbers. {use}"
        ),
        paper=f"Lin et al. 2017a, section 3; {paper}",
        source="thingstuff.layers.FPN",
        tensors=(
            Labelled(f"sum at stride {stride}", summed, map_axes("channels", stride)),
            Labelled(f"P{stage}", level, map_axes("channels", stride)),
        ),
        views=tuple(views),
        after=tuple(f"res{s}" for s in above),
        layers=(*(f"fpn.lateral.{s}." for s in above), f"fpn.output.{stage}."),
    )


def _extra_step(seen: Seen, use: str, paper: str) -> Step:
    pyramid: dict[int, Tensor] = seen.calls["fpn"][0].output
    levels = {level: maps[0].cpu() for level, maps in pyramid.items() if level > STAGES[-1]}
    names = " and ".join(f"P{level}" for level in levels)
    cells = ", ".join(f"{m.shape[1]} × {m.shape[2]} at stride {2**level}" for level, m in levels.items())
    views = [view for level, m in levels.items() for view in feature_views(f"P{level}", m, seen.images.frame(0))]
    return Step(
        name="p6",
        chapter="The feature pyramid",
        title=f"{names}: coarser still",
        question="Where do the levels above the ResNet's last stage come from?",
        text=(
            f"3 × 3 convolutions with stride 2 halve the map: P5 becomes P6{', and that P7' if 7 in levels else ''}. "
            f"So there are {cells}. {use}"
        ),
        paper=f"Lin et al. 2017b (RetinaNet), section 4; {paper}",
        source="thingstuff.layers.FPN",
        tensors=tuple(Labelled(f"P{level}", m, map_axes("channels", 2**level)) for level, m in levels.items()),
        views=tuple(views),
        after=("p5",),
        layers=tuple(f"fpn.p{level}." for level in levels),
    )


def semantic_fpn_step(seen: Seen, name: str, chapter: str, use: str, paper: str = "") -> Step:
    """Return the step in which a semantic FPN adds P2..P5 at stride 4; `use` says in a sentence what the sum is for.

    `paper` is what cites it, where that is another than the paper that it comes from.
    """
    frame = seen.images.frame(0)
    total = seen.calls["semantic_fpn"][0].output[0].cpu()
    branches = {
        s: seen.calls[watched.name][0].output[0].cpu() for s, watched in zip(STAGES, SEMANTIC_WATCHED[1:], strict=True)
    }
    views: list[View] = list(feature_views("Sum", total, frame))
    views += [feature_views(f"What comes from P{s}", branch, frame)[1] for s, branch in branches.items()]
    return Step(
        name=name,
        chapter=chapter,
        title="The semantic FPN: P2 to P5 added at stride 4",
        question="What is added here to get one feature for the whole picture?",
        text=(
            "Each level is brought to stride 4 by steps: a 3 × 3 convolution with group norm and ReLU, then an "
            "enlargement to twice the size, once for P3, twice for P4, three times for P5 (P2 has the convolution "
            f"alone). Their sum has {total.shape[1]} × {total.shape[2]} cells of {len(total)} numbers. {use}"
        ),
        paper="; ".join(filter(None, ("Kirillov et al. 2019b (Panoptic FPN), section 3.1 and figure 3", paper))),
        source="thingstuff.layers.SemanticFPN",
        tensors=(
            *(
                Labelled(f"of P{s}, before its last enlargement", branch, map_axes("channels", 4 * (2 if s > 2 else 1)))
                for s, branch in branches.items()
            ),
            Labelled("sum", total, map_axes("channels", 4)),
        ),
        views=tuple(views),
        after=level_steps(STAGES),
        layers=("semantic_fpn.",),
    )
