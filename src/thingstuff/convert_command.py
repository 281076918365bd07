"""What `thingstuff convert` does: labels of any tool in, COCO panoptic out, or COCO panoptic in and others out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from thingstuff.convert.classes import ClassRules, joined_rules, plan_classes, read_rules
from thingstuff.convert.converting import Conversion, ConvertRules, convert
from thingstuff.convert.exporting import TARGETS, export
from thingstuff.convert.fill_classes import parse_fill_map
from thingstuff.convert.filled import FillRules
from thingstuff.convert.formats import open_source
from thingstuff.convert.painting import Filler, Overlap
from thingstuff.convert.source import Source, SourceOptions
from thingstuff.convert.splits import NAMES as SPLITS
from thingstuff.convert.splits import SplitRules, parse_shares
from thingstuff.display import counting
from thingstuff.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

PANOPTIC = "coco-panoptic"
_BROKEN_SHOWN = 10
_FAR = 0.05  # from the share that was asked for


@dataclass(frozen=True)
class Request:
    """The command's arguments, as given."""

    source: Path
    to: Path
    from_format: str | None = None
    as_format: str = PANOPTIC
    pictures: Path | None = None
    semantic: Path | None = None
    names: Path | None = None
    components: bool = False
    overlap: str = Overlap.SMALLER_ON_TOP.value
    min_area: int = 0
    background: str | None = None
    things: Sequence[str] | None = None
    stuff: Sequence[str] | None = None
    merge: Sequence[str] | None = None
    drop: Sequence[str] | None = None
    classes: Path | None = None
    split: str | None = None
    group: str | None = None
    seed: int = 0
    fill_stuff: bool = False
    fill_stuff_with: str | None = None
    fill_things: bool = False
    fill_map: Sequence[str] | None = None
    rim: int | None = None
    min_score: float | None = None
    drop_filled: bool = False
    skip_broken: bool = False
    copy: bool = False
    overwrite: bool = False
    workers: int | None = None

    @property
    def given(self) -> set[str]:
        """Names of the arguments that say how labels become COCO panoptic, of those that were given."""
        plain = Request(self.source, self.to)
        spoken = {name for name in vars(self) if getattr(self, name) != getattr(plain, name)}
        return spoken - {"source", "to", "from_format", "as_format", "copy", "overwrite", "workers"}


def run(request: Request, console: "Console") -> None:
    """Convert, and print what was recognised and what became of it; raises `InputError` for whatever can be mended."""
    if request.as_format != PANOPTIC:
        _export(request, console)
        return
    rules = class_rules(request)
    source = open_source(request.source, request.from_format, _options(request, rules))
    _say(console, f"format: {source.format} ({source.reason})")
    pictures, classes = len(source.pictures), len(source.classes)
    _say(console, f"found:  {pictures:,} picture{'s' * (pictures != 1)}, {classes:,} class{'es' * (classes != 1)}")
    filler = _filler(request, source, rules)
    shares = parse_shares(request.split) if request.split else ()
    splits = SplitRules(shares, request.group, request.seed)
    how = ConvertRules(rules, _overlap(request.overlap), request.min_area, splits, request.drop_filled)
    with counting(console, "converting") as progress:
        conversion = convert(
            source,
            request.to,
            how,
            filler=filler,
            copy=request.copy,
            skip_broken=request.skip_broken,
            overwrite=request.overwrite,
            workers=request.workers,
            progress=progress,
        )
    _tell(conversion, request, console)


def class_rules(request: Request) -> ClassRules:
    """Return the rules of the file of classes and of the command line; raises `InputError` where they are wrong."""
    given = ClassRules(
        things=_names(request.things),
        stuff=_names(request.stuff),
        merge=dict(_merged(text) for text in request.merge or ()),
        drop=_names(request.drop),
        background=request.background or None,
    )
    return joined_rules(read_rules(request.classes) if request.classes else ClassRules(), given)


def _export(request: Request, console: "Console") -> None:
    if request.as_format not in TARGETS:
        known = ", ".join((PANOPTIC, *TARGETS))
        raise InputError(f"--as {request.as_format}: no such format to write; there are {known}")
    if request.given:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(request.given))
        raise InputError(
            f"--as {request.as_format} writes a COCO panoptic data set as it is; convert with {options} to "
            f"{PANOPTIC} first, then that"
        )
    if request.overwrite:
        raise InputError(
            f"--overwrite replaces an earlier conversion to {PANOPTIC} alone; with --as {request.as_format} name a new "
            f"folder, or remove {request.to} first"
        )
    if request.from_format not in (None, PANOPTIC):
        raise InputError(f"--as {request.as_format} reads {PANOPTIC} alone; convert {request.source} to that first")
    with counting(console, "converting") as progress:
        result = export(
            request.source,
            request.to,
            request.as_format,
            copy=request.copy,
            workers=request.workers,
            progress=progress,
        )
    _say(console, result.text())
    _say(console, f"written: {result.out}")


def _filler(request: Request, source: Source, rules: ClassRules) -> "Filler | None":
    if request.fill_stuff_with is None and not request.fill_stuff:
        about = ("fill_things", "fill_map", "rim", "min_score")
        for name in sorted(request.given.intersection(about)):
            raise InputError(
                f"--{name.replace('_', '-')} speaks of filling in; give --fill-stuff or --fill-stuff-with MODEL too"
            )
        return None
    from thingstuff.filling import DEFAULT_MODEL, ModelFiller

    fill_rules = FillRules(
        rim=request.rim,
        min_score=FillRules.min_score if request.min_score is None else request.min_score,
        min_area=request.min_area,
    )
    own = plan_classes(source.classes, rules)
    renamed = parse_fill_map(",".join(request.fill_map)) if request.fill_map else None
    weights = request.fill_stuff_with or DEFAULT_MODEL
    return ModelFiller.load(weights, own, renamed=renamed, things=request.fill_things, rules=fill_rules)


def _overlap(name: str) -> Overlap:
    try:
        return Overlap(name)
    except ValueError:
        raise InputError(f"--overlap {name}: give one of {', '.join(rule.value for rule in Overlap)}") from None


def _names(texts: Sequence[str] | None) -> tuple[str, ...]:
    return tuple(name for text in texts or () for part in text.split(",") if (name := part.strip()))


def _merged(text: str) -> tuple[str, tuple[str, ...]]:
    new, sign, old = text.partition("=")
    names = _names([old])
    if not sign or not new.strip() or not names:
        raise InputError(f"--merge {text!r} is not of the form NEW=OLD1,OLD2, such as nut=hazelnut,walnut")
    return new.strip(), names


def _options(request: Request, rules: ClassRules) -> SourceOptions:
    # what a merged thing is made of is a thing before it is merged, too
    things = (*rules.things, *(old for new, olds in rules.merge.items() if new in rules.things for old in olds))
    return SourceOptions(request.pictures, request.semantic, request.names, request.components, things)


def _tell(conversion: Conversion, request: Request, console: "Console") -> None:
    report = conversion.report
    for table in report.tables():
        console.print(table)
    if report.broken:
        count = len(report.broken)
        _say(console, f"left out: {count:,} picture{'s' * (count != 1)} that could not be converted")
        for text in report.broken[:_BROKEN_SHOWN]:
            _say(console, f"  - {text}")
    if conversion.earlier:
        _say(console, f"{conversion.earlier:,} of the pictures were converted before and are as they were")
    if note := _stray(conversion, request):
        _say(console, note)
    _say(console, f"written: {', '.join(map(str, conversion.jsons))}")
    _say(console, f"next:    thingstuff check {request.to}")


def _stray(conversion: Conversion, request: Request) -> str | None:
    """Say where the splits are far from what was asked for, as chance has it with few pictures or large groups."""
    rows = conversion.report.splits
    if not request.split:
        return None
    asked, total = parse_shares(request.split)[0], sum(row.pictures for row in rows)
    train = sum(row.pictures for row in rows if row.name == SPLITS[0]) / max(1, total)
    if len(rows) > 1 and abs(train - asked) <= _FAR:
        return None
    return (
        f"note: {train:.0%} of the pictures fell to train, {asked:.0%} were asked for: each picture's split hangs on "
        "its name alone, so few pictures stray; another --seed may come nearer"
    )


def _say(console: "Console", text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
