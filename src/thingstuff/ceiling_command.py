"""What `thingstuff ceiling` does: measure what masks of each stride leave of a data set, print it, write it down."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from thingstuff.ceiling import SIZE_RULE, Ceiling, ceiling
from thingstuff.display import counting
from thingstuff.errors import InputError
from thingstuff.io import atomic_write, finite

if TYPE_CHECKING:
    from rich.console import Console

_ENLARGED = 1.005  # less is not seen in three digits


@dataclass(frozen=True)
class Request:
    """What to measure and what to write: the options of `thingstuff ceiling`, by their names there."""

    data: str
    split: str = "val"
    strides: str = "1,2,4,8"
    short_side: str | None = None
    max_side: int | None = None
    model: str | None = None
    limit: int | None = None
    json: Path | None = None
    workers: int | None = None

    def check(self) -> None:
        """Raise `InputError` where what is to be written is there already, or has no folder."""
        if self.json is None:
            return
        if self.json.exists():
            raise InputError(f"{self.json} is there already; give another --json file")
        if not self.json.parent.is_dir() or not os.access(self.json.parent, os.W_OK | os.X_OK):
            raise InputError(f"{self.json.parent} is no folder that can be written to; give another --json file")


def run_ceiling(request: Request, console: "Console") -> Ceiling:
    """Do what `thingstuff ceiling` was asked for.

    Raises `InputError` where a number or the data cannot be used.
    """
    request.check()
    strides = whole_numbers(request.strides, "--strides")
    short_sides = None if request.short_side is None else whole_numbers(request.short_side, "--short-side")
    with counting(console, "measuring") as progress:
        measured = ceiling(
            request.data,
            request.split,
            strides=strides,
            short_sides=short_sides,
            max_side=request.max_side,
            model=request.model,
            limit=request.limit,
            workers=request.workers,
            progress=progress,
        )
    console.print(measured.table())
    if any(row.costs for row in measured.rows):
        for table in measured.cost_tables():
            console.print(table)
    else:
        console.print(f"{request.model}: {measured.uncounted}", highlight=False)
    for line in (f"pictures: {measured.pictures:,}", *enlarged(measured, request)):
        console.print(line, highlight=False)
    if request.json is not None:
        atomic_write(request.json, json.dumps(finite(measured.to_json()), indent=1, allow_nan=False))
    return measured


def enlarged(measured: Ceiling, request: Request) -> list[str]:
    """Return lines that say which inputs are larger than the pictures, if any is, and how to ask for others."""
    scales = {row.short_side: row.scale for row in measured.rows if row.scale >= _ENLARGED}
    if not scales:
        return []
    smallest, largest = measured.picture_sides
    sides = f"{smallest}" if smallest == largest else f"{smallest} to {largest}"
    inputs = ", ".join(f"{side} ({scale:.3g} times)" for side, scale in scales.items())
    lines = [
        f"your pictures have short sides of {sides} pixels; they are enlarged to {inputs}",
        "the more they are enlarged, the less is lost to stride",
    ]
    if request.short_side is None:
        rule = f"the input is that of {SIZE_RULE}; --model names yours, " if request.model is None else ""
        lines.append(f"{rule}--short-side measures others")
    return lines


def whole_numbers(text: str, option: str) -> tuple[int, ...]:
    """Return the numbers of a list such as 1,2,4; raises `InputError` naming the option for anything else."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"{option} {text!r} is no list of whole numbers; give some such as 1,2,4") from None
