"""The `thingstuff` command: every subcommand is one library function."""

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from thingstuff.cli_data import check, convert, show
from thingstuff.cli_inside import ceiling, explain
from thingstuff.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(
    help="Panoptic segmentation: train on your own pictures, measure, predict.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
weights_app = typer.Typer(help="Published weights.", no_args_is_help=True)
app.add_typer(weights_app, name="weights")
for command in (convert, check, show, explain, ceiling):
    app.command()(command)
DEMO_FOLDER = Path("thingstuff-demo")


def main() -> None:
    """Run the command; what a user can mend is one message and exit code 2."""
    # OpenMP's threads spin long while they wait, which stalls training where another program wants the cores too.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    try:
        app()
    except InputError as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")


def _fail(message: str) -> None:
    print(f"thingstuff: {message}", file=sys.stderr)
    raise SystemExit(2)


def _console() -> "Console":
    from rich.console import Console

    from thingstuff.runs import is_main_process

    return Console(quiet=not is_main_process())


def _version(value: bool | None) -> None:
    if value:
        from thingstuff import __version__

        print(__version__)
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool | None, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = None,
) -> None:
    """Panoptic segmentation: train on your own pictures, measure, predict."""


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for pictures and run.")] = DEMO_FOLDER,
    pictures: Annotated[int, typer.Option(min=1, help="Pictures to learn from.")] = 400,
    val_pictures: Annotated[int, typer.Option(min=1, help="Pictures to score on.")] = 60,
    steps: Annotated[int, typer.Option(min=1, help="Updates of the weights.")] = 1150,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier demo in the folder.")] = False,
) -> None:
    """Make pictures, train on them, measure, and write a report: the main job, offline, in minutes."""
    from thingstuff.demo import DemoSize, run_demo

    console = _console()
    with _resumable(out / "run"):
        run = run_demo(out, DemoSize(pictures, val_pictures, steps), overwrite=overwrite, console=console)
    _say(console, f"report: {run.report}")
    target = shlex.join([str(out / "data" / "val"), "--weights", str(run.folder), "--out", str(out / "predictions")])
    _say(console, f"next:   thingstuff predict {target}")


@app.command()
def train(
    data: Annotated[str | None, typer.Argument(help="Data folder or YAML (not needed with --resume).")] = None,
    settings: Annotated[list[str] | None, typer.Argument(help="key=value, such as steps=2000 optim.lr=1e-4")] = None,
    model: Annotated[
        str | None, typer.Option(help="A model's name; that of --from or --recipe, or panoptic-fcn-r50.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the run.")] = Path("runs/a"),
    recipe: Annotated[str | None, typer.Option(help="Training recipe by name.")] = None,
    first_weights: Annotated[
        str | None, typer.Option("--from", help="Begin with a run's, a file's or a published model's weights.")
    ] = None,
    val_split: Annotated[str | None, typer.Option(help="Split to score on: val if not given, 'none' for none.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on after the run's last checkpoint.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run in the folder.")] = False,
) -> None:
    """Train a model on labelled pictures and write a run folder with weights, metrics and a report."""
    from thingstuff.config import parse_overrides
    from thingstuff.display import TrainingDisplay
    from thingstuff.runs import make_config, next_command, resumed_config, train_run

    changes = parse_overrides([*([data] if data and "=" in data else []), *(settings or [])])
    folder = data if data and "=" not in data else None
    console = _console()
    if resume:
        if recipe or val_split or overwrite or first_weights:
            raise InputError(
                "--resume keeps the run's recipe, val split and first weights and overwrites nothing: leave --recipe, "
                "--val-split, --overwrite and --from out, or start a run in another --out"
            )
        config = resumed_config(out, folder, model, changes)
    elif folder is None:
        raise InputError("which data? Give its folder: thingstuff train DATA --model NAME --out FOLDER")
    else:
        split = None if val_split == "none" else val_split or "val"
        config = make_config(folder, model, changes, recipe, split, first_weights)
    with _resumable(out), TrainingDisplay(console) as display:
        run = train_run(
            config, out, resume=resume, overwrite=overwrite, listener=display, say=lambda text: _say(console, text)
        )
    if run.result is not None:
        console.print(run.result.table())
    _say(console, f"report: {run.report}")
    _say(console, f"next:   {next_command(config, run)}")


@app.command()
def evaluate(
    data: Annotated[str | None, typer.Argument(help="Data folder or YAML, with --weights.")] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Run folder, checkpoint, published weights' file, or a name on the hub.")
    ] = None,
    split: Annotated[str, typer.Option(help="Split to score on.")] = "val",
    ap: Annotated[bool, typer.Option("--ap", help="AP of the model's scored things, too.")] = False,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="key=value of the model, such as threshold=0.5; repeatable.")
    ] = None,
    gt: Annotated[Path | None, typer.Option(help="Ground truth JSON (COCO panoptic), without a model.")] = None,
    pred: Annotated[
        list[Path] | None, typer.Option(help="Predictions JSON (COCO panoptic); several are compared with the first.")
    ] = None,
    gt_folder: Annotated[Path | None, typer.Option(help="Ground truth PNGs, if not beside the JSON.")] = None,
    pred_folder: Annotated[
        list[Path] | None, typer.Option(help="Predicted PNGs, if not beside the JSON; one for each --pred.")
    ] = None,
    instances: Annotated[Path | None, typer.Option(help="Scored instances (COCO results JSON), for AP.")] = None,
    pictures: Annotated[Path | None, typer.Option(help="Folder of the pictures, for --report.")] = None,
    lenient: Annotated[bool, typer.Option("--lenient", help="Score what can be scored; list the rest.")] = False,
    like_panopticapi: Annotated[
        bool, typer.Option("--like-panopticapi", help="Take what panopticapi takes silently.")
    ] = False,
    leave_out_filled: Annotated[
        bool, typer.Option("--leave-out-filled", help="Void is what a model filled into the ground truth.")
    ] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads for files; all cores if not given.")] = None,
    boundary: Annotated[bool, typer.Option("--boundary", help="Boundary PQ, too.")] = False,
    per_class: Annotated[bool, typer.Option("--per-class", help="Show every class.")] = False,
    why: Annotated[bool, typer.Option("--why", help="Show all tables: causes by size, confusions, worst.")] = False,
    json: Annotated[Path | None, typer.Option(help="Write everything measured to this file.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write an HTML report with the worst pictures.")] = None,
    per_picture: Annotated[Path | None, typer.Option(help="Stream each picture's sums to this file.")] = None,
) -> None:
    """Measure PQ and say why: a model on a split of labelled pictures, or predictions against ground truth."""
    given = locals()
    from thingstuff.display import wide_console
    from thingstuff.evaluating import Request, run

    request = Request(**given)
    try:
        run(request, wide_console())
    except KeyboardInterrupt:
        written = ", ".join(map(str, request.written))
        print(f"stopped; {f'written: {written}' if written else 'nothing was written'}", file=sys.stderr)
        raise SystemExit(130) from None


@app.command()
def predict(
    pictures: Annotated[list[Path], typer.Argument(help="Pictures, or folders of them, subfolders included.")],
    weights: Annotated[
        str, typer.Option(help="Run folder, checkpoint, published weights' file, or a name on the hub.")
    ] = "detr-panoptic-r50",
    out: Annotated[Path, typer.Option(help="Folder for maps, JSON and overlays.")] = Path("predictions"),
    images: Annotated[Path | None, typer.Option(help="COCO JSON that gives the file names their image ids.")] = None,
    alpha: Annotated[float, typer.Option(min=0, max=1, help="Share of the colours in overlays.")] = 0.55,
    legend: Annotated[bool, typer.Option("--legend", help="A legend below each overlay.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace earlier predictions in the folder.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of weights on the hub.")] = None,
    precision: Annotated[str, typer.Option(help="fp32, or bf16 or fp16, which change results; for GPUs.")] = "fp32",
    compiled: Annotated[bool, typer.Option("--compile", help="Run the network through torch.compile.")] = False,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="key=value of the model, such as threshold=0.5; repeatable.")
    ] = None,
) -> None:
    """Segment pictures: COCO panoptic PNGs and JSON, and overlays to look at."""
    import torch

    from thingstuff.config import parse_overrides
    from thingstuff.display import counting
    from thingstuff.models.base import check_precision
    from thingstuff.predicting import check_output, find_pictures, predict_pictures
    from thingstuff.pretrained import load_changed

    console = _console()
    files = find_pictures(pictures)
    check_output(out, overwrite)  # weights may take minutes to fetch
    check_precision(precision, torch.cuda.is_available())  # before weights are fetched
    changes = parse_overrides(settings or [])
    model = load_changed(weights, changes, revision=revision).speed_up(precision, compiled=compiled)
    with counting(console, "predicting") as progress:
        written = predict_pictures(
            model, files, out, overwrite=overwrite, images=images, progress=progress, alpha=alpha, legend=legend
        )
    _say(console, f"{len(files)} pictures -> {written} and {out / 'overlays'}")


@app.command()
def recipes(
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List the training recipes with the figures that others measured of their models."""
    import json as json_module

    from thingstuff.display import wide_console
    from thingstuff.recipes.listing import recipe_rows, recipe_table

    if json:
        print(json_module.dumps(recipe_rows(), indent=1, ensure_ascii=False))
        return
    console = wide_console()
    console.print(recipe_table(console.width))


@weights_app.command("import")
def import_published(
    file: Annotated[Path, typer.Argument(help="Published weights: .pth, .bin, .safetensors or .pkl.")],
    out: Annotated[Path, typer.Option(help="Folder for the converted weights.")],
    categories: Annotated[Path | None, typer.Option(help="COCO JSON of a model's categories, if not COCO's.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="key=value of the model, such as threshold=0.5; repeatable.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace earlier weights in the folder.")] = False,
) -> None:
    """Convert published weights: Panoptic FCN's, DETR's, or an ImageNet backbone's, which their keys tell."""
    from thingstuff.config import parse_overrides
    from thingstuff.importing import import_weights

    console = _console()
    imported = import_weights(file, out, categories, parse_overrides(settings or []), overwrite)
    for line in (*imported.lines, f"written: {imported.path}", f"next:    {imported.next}"):
        _say(console, line)


@app.command()
def reproduce(
    table: Annotated[str, typer.Argument(help="A table's name, such as kernel-generator or results.")],
    coco: Annotated[str, typer.Option(help="Data folder or YAML with the splits train and val.")],
    settings: Annotated[list[str] | None, typer.Argument(help="key=value for all rows, such as steps=200")] = None,
    out: Annotated[Path, typer.Option(help="Folder for tables and runs; tables may share it.")] = Path("reproduced"),
    model: Annotated[str | None, typer.Option(help="A model instead of the recipe's.")] = None,
    recipe: Annotated[str | None, typer.Option(help="A recipe instead of the ablations' own.")] = None,
    backbone: Annotated[Path | None, typer.Option(help="File or folder of the backbone's first weights.")] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(help="ROW=PATH: evaluate these weights, do not train the row (ROW=: train it after all)."),
    ] = None,
    rows: Annotated[str | None, typer.Option(help="Rows to do, as a,b; all if not given.")] = None,
) -> None:
    """Train and evaluate what a table of Panoptic FCN's paper needs; call it again to go on where it stopped."""
    from thingstuff.config import parse_overrides
    from thingstuff.display import TrainingDisplay
    from thingstuff.reproduce import reproduce as reproduce_table
    from thingstuff.reproduce_plans import Request

    chosen = tuple(name.strip() for name in (rows or "").split(",") if name.strip())
    given = dict(_row_and_path(text) for text in weights or [])
    first = str(backbone) if backbone else None
    request = Request(table, coco, out, model, recipe, first, given, chosen, parse_overrides(settings or []))
    console = _console()
    with _resumable(out, "go on with the same command"), TrainingDisplay(console) as display:
        markdown, plain = reproduce_table(request, display, lambda text: _say(console, text))
    _say(console, f"table: {markdown} and {plain}")


def _row_and_path(text: str) -> tuple[str, str]:
    row, sign, path = text.partition("=")
    if not sign or not row:
        raise InputError(f"--weights {text!r} is not of the form ROW=PATH, such as r50-3x=w/")
    return row, path


class _resumable:  # noqa: N801 -- reads as a statement
    """Turn a training that was stopped into a word on how to go on and exit code 130."""

    def __init__(self, out: Path, remedy: str | None = None) -> None:
        self.always = remedy is not None
        self.remedy = remedy or f"go on with: thingstuff train --resume --out {shlex.quote(str(out))}"

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        from thingstuff.training import Interrupted

        if isinstance(error, Interrupted):
            print(f"{error}; {self.remedy}", file=sys.stderr)
            raise SystemExit(130) from None
        if isinstance(error, KeyboardInterrupt) and self.always:  # outside of a training's steps
            print(f"stopped; {self.remedy}", file=sys.stderr)
            raise SystemExit(130) from None


def _say(console: "Console", text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
