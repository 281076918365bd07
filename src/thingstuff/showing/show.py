"""`thingstuff show`: the folder with a data set's contact sheets and the page to leaf through its pictures."""

import json
import re
from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from pathlib import Path

from thingstuff import __version__
from thingstuff.checking.findings import Findings
from thingstuff.convert.pool import in_processes
from thingstuff.data.coco import splits as splits_of
from thingstuff.errors import InputError
from thingstuff.evaluation.problems import clean
from thingstuff.io import atomic_write
from thingstuff.showing.contact_sheets import PER_SHEET, LegendEntry, Sheet, Tile, draw_sheet
from thingstuff.showing.entries import Entry, ShownClasses, join_classes, read_entries
from thingstuff.showing.page import DATA, Shown, write_pages
from thingstuff.showing.picture_files import MAPS, PICTURES, THUMBNAILS, Made, PictureMaker, total_counts

Progress = Callable[[int, int], None]
"""Told how many pictures and sheets are done, and of how many."""

MARKER = "thingstuff-show.json"
"""The file by which a folder is known as one of ours."""

_OURS = re.compile(r"[0-9a-f]{24}\.(?:jpg|js)|(?:pictures|found|kind)-\d+\.js|contact-sheet(?:-\d+)?\.jpg")


def show(
    data: Path,
    out: Path,
    *,
    splits: Sequence[str] | None = None,
    findings: Findings | None = None,
    limit: int | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Make contact sheets and a page of a COCO panoptic data set's pictures with their maps; return the page's path.

    Faulty pictures are shown as far as they can be, with what is wrong. `findings` are those of a check, which the page
    leads to; `limit` shows so many pictures, those with errors first, else spread evenly. What an earlier run made of
    unchanged files is taken up. Raises `InputError` where a JSON cannot be read, there is nothing to show, or `out`
    holds files and is no folder of an earlier run.
    """
    data, out = Path(data), Path(out)
    if limit is not None and limit < 1:
        raise InputError(f"limit {limit} leaves no picture to show; give 1 or more")
    names = tuple(dict.fromkeys(splits)) if splits else splits_of(data)
    if not names:
        raise InputError(f"{data} has no split: no panoptic_*.json is in it or in annotations/ in it")
    read = {split: read_entries(data, split) for split in names}
    classes = join_classes({split: categories for split, (categories, _) in read.items()})
    everything = [entry for _, found in read.values() for entry in found]
    entries = _chosen(everything, limit, findings)
    if not entries:
        raise InputError(f"{data} has no pictures in split {', '.join(names)}: the lists of images are empty")
    _claim(out)
    title = clean(data.resolve().name)
    some = f" ({len(entries):,} of {len(everything):,} pictures)" if len(entries) < len(everything) else ""
    made, sheets = _make(out, title + some, entries, classes, workers, progress)
    files = tuple(sheet.path.name for sheet in sheets)
    shown = Shown(title, names, tuple(entries), made, classes, findings, files, len(everything))
    written = write_pages(out, shown)
    _remove_old(out, {*written, *shown.sheets, *(f"{m.name}.{kind}" for m in made for kind in ("jpg", "js"))})
    return out / "index.html"


def _chosen(entries: list[Entry], limit: int | None, findings: Findings | None) -> list[Entry]:
    """Return what is to be shown, in the order of the data set."""
    if limit is None or len(entries) <= limit:
        return entries
    kinds = findings.kinds("error") if findings is not None else []
    wrong = {(f.split, f.image_id) for kind in kinds for f in findings.of_kind(kind.name)} if findings else set()
    is_faulty = [bool(entry.faults) or (entry.split, entry.image_id) in wrong for entry in entries]
    faulty = _spread([i for i, wrong in enumerate(is_faulty) if wrong], limit)
    others = _spread([i for i, wrong in enumerate(is_faulty) if not wrong], limit - len(faulty))
    return [entries[i] for i in sorted(faulty + others)]


def _spread(positions: list[int], wanted: int) -> list[int]:
    count = min(wanted, len(positions))
    return [positions[i * len(positions) // count] for i in range(count)]


def _claim(out: Path) -> None:
    """Make the folder ours; raises `InputError` where it holds anything that no earlier run put there."""
    try:
        if out.exists() and not (out / MARKER).is_file() and (not out.is_dir() or any(out.iterdir())):
            raise InputError(f"{out} is not empty and was not made by thingstuff show; give another folder")
        for folder in (PICTURES, THUMBNAILS, MAPS, DATA):
            (out / folder).mkdir(parents=True, exist_ok=True)
        atomic_write(out / MARKER, json.dumps({"made by": f"thingstuff show {__version__}"}) + "\n")
    except OSError as error:
        raise InputError(f"{out}: the folder cannot be made ({error}); give one that can be written to") from error


def _make(
    out: Path,
    title: str,
    entries: list[Entry],
    classes: ShownClasses,
    workers: int | None,
    progress: Progress | None,
) -> tuple[tuple[Made, ...], list[Sheet]]:
    """Make the files of all pictures, then the contact sheets."""
    total = len(entries) + -(-len(entries) // PER_SHEET)
    made: list[Made] = []
    with closing(in_processes(PictureMaker(out, classes), entries, workers)) as pictures:
        for picture in pictures:
            made.append(picture)
            if progress is not None:
                progress(len(made), total)
    sheets = _sheets(out, title, entries, made, classes)
    with closing(in_processes(draw_sheet, sheets, workers)) as drawn:
        for done, _ in enumerate(drawn, len(made) + 1):
            if progress is not None:
                progress(done, total)
    return tuple(made), sheets


def _sheets(
    out: Path, title: str, entries: Sequence[Entry], made: Sequence[Made], classes: ShownClasses
) -> list[Sheet]:
    sheets = []
    for number, start in enumerate(range(0, len(made), PER_SHEET), 1):
        end = min(start + PER_SHEET, len(made))
        tiles = tuple(
            Tile(out / THUMBNAILS / f"{m.name}.jpg", m.thumbnail, _caption(entry, m), m.faults > 0)
            for entry, m in zip(entries[start:end], made[start:end], strict=True)
        )
        name = "contact-sheet.jpg" if number == 1 else f"contact-sheet-{number}.jpg"
        which = f"{title} · pictures {start + 1:,} to {end:,} of {len(made):,}"
        sheets.append(Sheet(out / name, which, tiles, _legend(made[start:end], classes)))
    return sheets


def _caption(entry: Entry, made: Made) -> str:
    return clean(f"{entry.split} · {entry.name}" + (" · faulty, see the page" if made.faults else ""))


def _legend(made: Sequence[Made], classes: ShownClasses) -> tuple[LegendEntry, ...]:
    """Return the classes of some pictures: things, then stuff, each by name, and last what is no class."""
    totals = total_counts(made)
    categories = classes.categories

    def place(label: int) -> tuple[bool, bool, str]:
        return label >= classes.not_listed, not categories.things[label], categories.names[label].casefold()

    return tuple(
        LegendEntry(categories.names[i], categories.colors[i], totals[i][1], categories.things[i])
        for i in sorted(totals, key=place)
    )


def _remove_old(out: Path, kept: Collection[str]) -> None:
    """Remove what an earlier run made and this one does not show; files of other names are not ours."""
    for folder in (out, *(out / name for name in (PICTURES, THUMBNAILS, MAPS, DATA))):
        for path in folder.iterdir():
            if _OURS.fullmatch(path.name) and path.name not in kept:
                path.unlink()
