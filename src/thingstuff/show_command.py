"""What `thingstuff show` does: look at a data set, then make the pages that show it and what was found."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from thingstuff.checking.checker import check
from thingstuff.checking.findings import Findings
from thingstuff.display import counting
from thingstuff.errors import InputError
from thingstuff.io import read_json
from thingstuff.showing.show import show

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Request:
    """The options of `thingstuff show`, by their names there."""

    data: Path
    out: Path
    split: Sequence[str] | None = None
    limit: int | None = None
    no_check: bool = False
    findings: Path | None = None
    workers: int | None = None


def run_show(request: Request, console: "Console") -> None:
    """Do what `thingstuff show` was asked for; raises `InputError` where the data set or a file cannot be read."""
    if request.no_check and request.findings is not None:
        raise InputError("--no-check leaves findings out and --findings shows them; leave one of them out")
    found = None if request.no_check else _findings(request, console)
    with counting(console, "drawing") as progress:
        page = show(
            request.data,
            request.out,
            splits=request.split,
            findings=found,
            limit=request.limit,
            workers=request.workers,
            progress=progress,
        )
    console.print(f"page: {page}", highlight=False, markup=False, soft_wrap=True)


def _findings(request: Request, console: "Console") -> Findings:
    if request.findings is not None:
        content = read_json(request.findings)
        return Findings.from_json(content.get("findings", content) if isinstance(content, dict) else content)
    with counting(console, "looking") as progress:
        return check(request.data, request.split, workers=request.workers, progress=progress).findings
