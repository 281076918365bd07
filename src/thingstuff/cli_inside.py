"""The commands that look inside models: explain and ceiling."""

import sys
from pathlib import Path
from typing import Annotated

import typer


def explain(
    picture: Annotated[Path, typer.Argument(help="A picture of any kind.")],
    weights: Annotated[
        str, typer.Option(help="Run folder, checkpoint, published weights' file, or a name on the hub.")
    ] = "detr-panoptic-r50",
    out: Annotated[Path, typer.Option(help="File for the page.")] = Path("page.html"),
    truth: Annotated[
        Path | None, typer.Option(help="COCO panoptic JSON or data folder that lists the picture: targets, too.")
    ] = None,
    figures: Annotated[Path | None, typer.Option(help="Folder for every view as a PNG, too.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="key=value of the model, such as threshold=0.5; repeatable.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of weights on the hub.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier page and figures.")] = False,
) -> None:
    """Walk through a model's pass over your picture, step by step, on one page."""
    given = locals()
    from thingstuff.display import wide_console
    from thingstuff.explain_command import Request, run_explain

    try:
        run_explain(Request(**given), wide_console())
    except KeyboardInterrupt:
        print("stopped; no page was written", file=sys.stderr)
        raise SystemExit(130) from None


def ceiling(
    data: Annotated[Path, typer.Argument(help="Data folder or YAML.")],
    split: Annotated[str, typer.Option(help="Split to measure.")] = "val",
    strides: Annotated[str, typer.Option(help="Pixels of the network input to a cell of a mask: of 1,2,4,8.")] = (
        "1,2,4,8"
    ),
    short_side: Annotated[
        str | None, typer.Option(help="Input sizes to compare, such as 480,800; the model's if not given.")
    ] = None,
    max_side: Annotated[int | None, typer.Option(help="Longest side of the input; the model's if not given.")] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Whose size rule and mask head; without it, panoptic-fcn-r50's (800) and two heads."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Measure so many pictures, the first ones.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write all figures to this file.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; all cores if not given.")] = None,
) -> None:
    """Measure what PQ is left of a data set's ground truth as masks of each stride and input size, and their cost."""
    given = locals()
    from thingstuff.ceiling_command import Request, run_ceiling
    from thingstuff.display import wide_console

    try:
        run_ceiling(Request(**{**given, "data": str(data)}), wide_console())
    except KeyboardInterrupt:
        print("stopped; nothing was written", file=sys.stderr)
        raise SystemExit(130) from None
