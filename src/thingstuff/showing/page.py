"""The page of `thingstuff show`: index.html, and its data as scripts, as file:// lets a page read nothing else."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from thingstuff.checking.findings import Finding, FindingKind, Findings
from thingstuff.errors import InputError
from thingstuff.evaluation.problems import clean
from thingstuff.io import atomic_write
from thingstuff.panoptic import Color
from thingstuff.report_page import render, write_page
from thingstuff.showing.entries import Entry, ShownClasses
from thingstuff.showing.picture_files import Made, total_counts
from thingstuff.showing.shown_map import CROWD, FILLED, NO_PIXELS, NOT_LISTED

DATA = "data"
"""The folder of the scripts."""

_CHUNK = 500  # pictures of one script: the page is of use when the first is there
_MESSAGE = 400


@dataclass(frozen=True)
class Shown:
    """All that a page speaks of; `made` goes with `entries`, `sheets` are names of files beside the page.

    `total` is how many pictures the data set has in these splits, shown or not.
    """

    title: str
    splits: tuple[str, ...]
    entries: tuple[Entry, ...]
    made: tuple[Made, ...]
    classes: ShownClasses
    findings: Findings | None
    sheets: tuple[str, ...]
    total: int


class ClassRow(NamedTuple):
    """A class of the page: its label, and how many pictures and segments have it."""

    label: int
    name: str
    color: Color
    thing: bool
    pictures: int
    segments: int


class KindRow(NamedTuple):
    """A kind of finding and how many there are."""

    kind: FindingKind
    found: int


def write_pages(out: Path, shown: Shown) -> set[str]:
    """Write the scripts, then index.html, and return the scripts' names; raises `InputError` where that fails."""
    scripts = _pictures_and_findings(shown)
    try:
        for name, text in scripts.items():
            atomic_write(out / DATA / name, text)
    except OSError as error:
        raise InputError(f"{out}: the page cannot be written ({error}); give a folder with room") from error
    write_page(out / "index.html", _index(shown))
    return set(scripts)


def _pictures_and_findings(shown: Shown) -> dict[str, str]:
    """Return the scripts by name: the pictures in chunks, what was found in these, and the findings of each kind."""
    by_picture: dict[int, list[list[Any]]] = {}
    number_of = _numbers(shown.entries)
    scripts = {}
    for k, row in enumerate(_kinds(shown)):
        rows = []
        for finding in shown.findings.of_kind(row.kind.name) if shown.findings is not None else ():
            number = number_of.get((finding.split, finding.image_id), -1)
            rows.append([number, finding.segment_id, _place(finding), clean(finding.message)[:_MESSAGE]])
            if number >= 0:
                by_picture.setdefault(number, []).append([k, finding.segment_id, rows[-1][3]])
        scripts[f"kind-{k}.js"] = _call("kind", k, rows)
    for chunk, start in enumerate(range(0, len(shown.entries), _CHUNK)):
        numbers = range(start, min(start + _CHUNK, len(shown.entries)))
        pictures = [_picture_row(shown, n, by_picture.get(n, ())) for n in numbers]
        scripts[f"pictures-{chunk}.js"] = _call("pictures", chunk, pictures)
        scripts[f"found-{chunk}.js"] = _call("found", chunk, {n: by_picture[n] for n in numbers if n in by_picture})
    return scripts


def _picture_row(shown: Shown, number: int, found: Any) -> list[Any]:
    """Return a picture as show.js has it: see `field` there."""
    entry, made = shown.entries[number], shown.made[number]
    codes = [count.label << 3 | count.kinds for count in made.counts]
    kinds = sorted({k for k, _, _ in found})
    split = shown.splits.index(entry.split)
    return [
        made.name,
        split,
        clean(entry.name),
        entry.image_id,
        *made.size,
        *made.thumbnail,
        codes,
        made.faults,
        kinds,
    ]


def _numbers(entries: tuple[Entry, ...]) -> Mapping[tuple[str | None, int | str | None], int]:
    """Return the number of each picture that has an id, by its split and that id."""
    return {(entry.split, entry.image_id): n for n, entry in enumerate(entries) if entry.image_id is not None}


def _kinds(shown: Shown) -> list[KindRow]:
    if shown.findings is None:
        return []
    return [KindRow(kind, shown.findings.count(kind.name)) for kind in shown.findings.kinds()]


def _place(finding: Finding) -> str:
    parts = [finding.split or "", Path(finding.file).name]
    parts += [f"segment {finding.segment_id}"] if finding.segment_id is not None else []
    return clean(" · ".join(part for part in parts if part))


def _index(shown: Shown) -> str:
    categories = shown.classes.categories
    totals = total_counts(shown.made)
    rows = [
        ClassRow(i, categories.names[i], categories.colors[i], categories.things[i], *totals.get(i, (0, 0, 0))[:2])
        for i in range(len(categories))
    ]
    listed = [row for row in rows if row.segments or row.label < shown.classes.not_listed]
    order = sorted(listed, key=lambda r: (r.label >= shown.classes.not_listed, not r.segments, not r.thing, r.label))
    kinds = _kinds(shown)
    settings = {
        "pictures": len(shown.entries),
        "chunk": _CHUNK,
        "splits": shown.splits,
        "classes": [[row.name, row.thing] for row in rows],
        "notListed": shown.classes.not_listed,
        "kinds": [[row.kind.name, row.kind.grade] for row in kinds],
        "flags": {"crowd": CROWD, "filled": FILLED, "notListed": NOT_LISTED, "noPixels": NO_PIXELS},
    }
    return render(
        "show.html.jinja",
        title=shown.title,
        splits=shown.splits,
        pictures=len(shown.entries),
        total=shown.total,
        faulty=sum(1 for made in shown.made if made.faults),
        has_crowds=any(count.kinds & 2 for made in shown.made for count in made.counts),
        has_filled=any(count.kinds & 4 for made in shown.made for count in made.counts),
        has_unlisted=any(row.segments for row in rows[shown.classes.not_listed :]),
        classes=order,
        kinds=kinds,
        checked=shown.findings is not None,
        sheets=shown.sheets,
        settings=json.dumps(settings),
    )


def _call(function: str, number: int, value: Any) -> str:
    return f"thingstuff.{function}({number},{json.dumps(value, separators=(',', ':'))});\n"
