"""What `thingstuff check` does: look at a data set, print what is found, write it down, write a repaired copy."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from thingstuff.checking.checker import CheckResult, check
from thingstuff.checking.findings import Findings
from thingstuff.checking.fixing import FixResult, fix
from thingstuff.display import counting
from thingstuff.errors import InputError
from thingstuff.io import atomic_write, finite

if TYPE_CHECKING:
    from rich.console import Console

_COLOURS = {"error": "bold red", "warning": "yellow", "note": "cyan"}


@dataclass(frozen=True)
class Request:
    """What to look at and what to write: the options of `thingstuff check`, by their names there."""

    data: str
    split: Sequence[str] | None = None
    fix: Path | None = None
    copy: bool = False
    min_area: int = 0
    drop_duplicates: bool = False
    quick: bool = False
    json: Path | None = None
    workers: int | None = None

    def check(self) -> None:
        """Raise `InputError` where the options do not go together, or what is to be written is there already."""
        if self.fix is None:
            for name in ("copy", "min_area", "drop_duplicates"):
                if getattr(self, name):
                    raise InputError(f"--{name.replace('_', '-')} is for a repaired copy; give --fix OUT too")
        elif self.quick:
            raise InputError("--quick leaves pictures and maps unread, --fix reads them all; leave one of them out")
        elif self.fix.exists() and (not self.fix.is_dir() or any(self.fix.iterdir())):
            raise InputError(f"{self.fix} is there already and not empty; give another --fix folder")
        if self.json is None:
            return
        if self.json.exists():
            raise InputError(f"{self.json} is there already; give another --json file")
        if not self.json.parent.is_dir() or not os.access(self.json.parent, os.W_OK | os.X_OK):
            raise InputError(f"{self.json.parent} is no folder that can be written to; give another --json file")


def run_check(request: Request, console: "Console") -> int:
    """Do what `thingstuff check` was asked for; return 1 where errors are found, those of a repaired copy if any.

    Raises `InputError` where the options do not go together, or there is no such data set.
    """
    request.check()
    with counting(console, "looking") as progress:
        checked = check(request.data, request.split, quick=request.quick, workers=request.workers, progress=progress)
    show(console, checked)
    content: dict[str, Any] = checked.to_json()
    failed = checked.findings.grade_count("error") > 0
    if request.fix is not None:
        fixed = _fixed(request, request.fix, checked, console)
        content, failed = {**content, "fix": fixed.to_json()}, not fixed.sound
    if request.json is not None:
        atomic_write(request.json, json.dumps(finite(content), indent=1, allow_nan=False))
    return int(failed)


def show(console: "Console", checked: CheckResult) -> None:
    """Print how much there is of what, the findings, and settings that fit."""
    table = Table("split", "pictures", "segments", "crowds", "void", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for tally in checked.tallies:
        void = f"{100 * tally.void / tally.pixels:.1f} %" if tally.pixels else "-"
        counts = (tally.pictures, tally.segments.total(), tally.crowds)
        table.add_row(Text(tally.split), *(f"{count:,}" for count in counts), void)
    console.print(table)
    _print_findings(console, checked.findings)
    console.print(f"found: {checked.findings.summary()}", highlight=False)
    if checked.suggestions:
        console.print("\nsettings that fit, for thingstuff train:", highlight=False)
        for suggestion in checked.suggestions:
            console.print(f"  {suggestion}  ({suggestion.why})", highlight=False, markup=False, soft_wrap=True)


def _fixed(request: Request, out: Path, checked: CheckResult, console: "Console") -> FixResult:
    with counting(console, "repairing") as progress:
        fixed = fix(
            request.data,
            out,
            request.split,
            copy=request.copy,
            min_area=request.min_area,
            drop_duplicates=request.drop_duplicates,
            checked=checked,
            workers=request.workers,
            progress=progress,
        )
    for heading, findings in (("changed in", fixed.changed), ("left out of", fixed.left_out)):
        if len(findings):
            console.print(f"\n{heading} {out}:", highlight=False, markup=False, soft_wrap=True)
            _print_done(console, findings)
    console.print(f"\n{out} has {fixed.checked.findings.summary()}", highlight=False, markup=False, soft_wrap=True)
    for line in fixed.checked.findings.text(grades=("error",)).splitlines():
        _print_line(console, line)
    return fixed


def _print_findings(console: "Console", findings: Findings) -> None:
    for line in findings.text().splitlines():
        _print_line(console, line)


def _print_done(console: "Console", findings: Findings, examples: int = 3) -> None:
    """Print what was done, by kind; what the kinds mean was said before."""
    for kind in findings.kinds():
        found, count = findings.of_kind(kind.name), findings.count(kind.name)
        _print_line(console, f"{kind.name} ({count:,})")
        for finding in found[:examples]:
            _print_line(console, f"  - {finding}")
        if count > examples:
            _print_line(console, f"  and {count - examples:,} more")


def _print_line(console: "Console", line: str) -> None:
    grade, colon, rest = line.partition(": ")
    text = Text.assemble((f"{grade}:", _COLOURS[grade]), f" {rest}") if colon and grade in _COLOURS else Text(line)
    console.print(text, soft_wrap=True)
