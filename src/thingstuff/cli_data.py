"""The commands about data: convert, check and show."""

from pathlib import Path
from typing import Annotated, NoReturn

import typer

OVERLAPS = "smaller-on-top, larger-on-top, last, first, or error"
Names = list[str] | None
Workers = Annotated[int | None, typer.Option(min=1, help="Processes; all cores if not given.")]
Copy = Annotated[bool, typer.Option("--copy", help="Copy the pictures instead of linking them.")]
Components = Annotated[
    bool, typer.Option("--components", help="Things of semantic PNGs are their connected components.")
]
FillStuff = Annotated[bool, typer.Option("--fill-stuff", help="Fill unlabelled pixels with COCO's stuff, by DETR.")]
FillStuffWith = Annotated[str | None, typer.Option(help="The model to fill with, such as runs/a or a name on the hub.")]
FillMap = Annotated[Names, typer.Option(help="MODEL'S=YOURS, or MODEL'S= to leave a class out: a=b,c=; repeatable.")]

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an earlier conversion there; not with --as.")]
SkipBroken = Annotated[bool, typer.Option("--skip-broken", help="Leave out pictures that cannot be converted.")]
Rim = Annotated[
    int | None, typer.Option(min=0, help="Pixels around drawn things left void; 1 % of the shorter side if not given.")
]
MinScore = Annotated[
    float | None, typer.Option(min=0, max=1, help="Confidence below which nothing is filled; 0.5 if not given.")
]


def convert(
    source: Annotated[Path, typer.Argument(help="File or folder of labels; its format is recognised.")],
    to: Annotated[Path, typer.Option(help="Folder for the data set; going on where an earlier run stopped.")],
    from_format: Annotated[str | None, typer.Option("--from", help="The format, if not to be recognised.")] = None,
    as_format: Annotated[
        str, typer.Option("--as", help="coco-panoptic; or of COCO panoptic: coco-instances, semantic, yolo.")
    ] = "coco-panoptic",
    pictures: Annotated[Path | None, typer.Option(help="Folder of the pictures, if not beside the labels.")] = None,
    semantic: Annotated[Path | None, typer.Option(help="Folder of semantic PNGs: stuff below the instances.")] = None,
    names: Annotated[Path | None, typer.Option(help="File of class names: a line each, or YAML.")] = None,
    components: Components = False,
    overlap: Annotated[str, typer.Option(help=f"Who gets pixels of several: {OVERLAPS}.")] = "smaller-on-top",
    min_area: Annotated[int, typer.Option(min=0, help="Segments of fewer pixels become void.")] = 0,
    background: Annotated[str | None, typer.Option(help="Class of stuff for unlabelled pixels; else void.")] = None,
    things: Annotated[Names, typer.Option(help="Classes that are things: a,b; repeatable.")] = None,
    stuff: Annotated[Names, typer.Option(help="Classes that are stuff: a,b; repeatable.")] = None,
    merge: Annotated[Names, typer.Option(help="NEW=OLD1,OLD2: classes that become one; repeatable.")] = None,
    drop: Annotated[Names, typer.Option(help="Classes to leave out, as if unlabelled: a,b; repeatable.")] = None,
    classes: Annotated[Path | None, typer.Option(help="YAML: things, stuff, merge, drop, ids, background.")] = None,
    split: Annotated[
        str | None, typer.Option(help="Train's share, such as 0.8; or 0.8,0.1 for train, val and test.")
    ] = None,
    group: Annotated[
        str | None, typer.Option(help="Regular expression: pictures of one match stay in one split.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Another one splits otherwise.")] = 0,
    fill_stuff: FillStuff = False,
    fill_stuff_with: FillStuffWith = None,
    fill_things: Annotated[
        bool, typer.Option("--fill-things", help="Fill in its things of other classes, too.")
    ] = False,
    fill_map: FillMap = None,
    rim: Annotated[
        int | None,
        typer.Option(min=0, help="Pixels around drawn things left void; 1 % of the shorter side if not given."),
    ] = None,
    min_score: Annotated[
        float | None, typer.Option(min=0, max=1, help="Confidence below which nothing is filled; 0.5 if not given.")
    ] = None,
    drop_filled: Annotated[
        bool, typer.Option("--drop-filled", help="Leave out what a model filled in before (to fill again).")
    ] = False,
    skip_broken: SkipBroken = False,
    copy: Copy = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier conversion there; not with --as.")
    ] = False,
    workers: Workers = None,
) -> None:
    """Make a COCO panoptic data set of labels of any tool, or labels of other formats of COCO panoptic."""
    given = locals()
    from thingstuff.convert_command import Request, run
    from thingstuff.display import wide_console

    try:
        run(Request(**given), wide_console())
    except KeyboardInterrupt:
        _stopped("go on with the same command")


def check(
    data: Annotated[Path, typer.Argument(help="Data folder or YAML.")],
    split: Annotated[Names, typer.Option(help="Split to look at, all if not given; repeatable.")] = None,
    fix: Annotated[Path | None, typer.Option(help="Folder for a repaired copy; the data set stays as it is.")] = None,
    copy: Copy = False,
    min_area: Annotated[int, typer.Option(min=0, help="Segments of fewer pixels become void (--fix).")] = 0,
    drop_duplicates: Annotated[
        bool, typer.Option("--drop-duplicates", help="Leave pictures that val has too out of train (--fix).")
    ] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Look at the JSONs and the files' headers alone.")] = False,
    json: Annotated[Path | None, typer.Option(help="Write all findings to this file.")] = None,
    workers: Workers = None,
) -> None:
    """Find what is wrong or odd in a COCO panoptic data set; exit code 1 where there are errors."""
    given = locals()
    from thingstuff.checking_command import Request, run_check
    from thingstuff.display import wide_console

    try:
        code = run_check(Request(**{**given, "data": str(data)}), wide_console())
    except KeyboardInterrupt:
        _stopped("nothing was written")
    raise typer.Exit(code)


def show(
    data: Annotated[Path, typer.Argument(help="Data folder or YAML.")],
    out: Annotated[Path, typer.Option(help="Folder for the page and the contact sheets.")] = Path("pages"),
    split: Annotated[Names, typer.Option(help="Split to show, all if not given; repeatable.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Show so many pictures, those with errors first.")] = None,
    no_check: Annotated[bool, typer.Option("--no-check", help="Do not look for what is wrong or odd.")] = False,
    findings: Annotated[Path | None, typer.Option(help="What an earlier check wrote (--json), instead.")] = None,
    workers: Workers = None,
) -> None:
    """Make a page to leaf through pictures with their maps, and contact sheets."""
    given = locals()
    from thingstuff.display import wide_console
    from thingstuff.show_command import Request, run_show

    try:
        run_show(Request(**given), wide_console())
    except KeyboardInterrupt:
        _stopped("go on with the same command")


def _stopped(remedy: str) -> NoReturn:
    import sys

    print(f"stopped; {remedy}", file=sys.stderr)
    raise SystemExit(130) from None
