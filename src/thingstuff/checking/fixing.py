"""A repaired copy of a data set: what can be decided safely is, and everything that was done is told."""

import json
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thingstuff.checking.checker import (
    CheckResult,
    OpenSplit,
    Progress,
    check,
    chosen_splits,
    open_splits,
    processes,
)
from thingstuff.checking.findings import Finding, Findings
from thingstuff.checking.mended_picture import CopyFolders, Mended, Mending, MendJob
from thingstuff.checking.mending import mended_categories
from thingstuff.checking.tally import is_train
from thingstuff.convert.aside import made_aside
from thingstuff.convert.pool import in_processes
from thingstuff.errors import InputError
from thingstuff.evaluation.picture_index import FilePair, entry_of
from thingstuff.evaluation.problems import clean, shown
from thingstuff.evaluation.segments import ImageId
from thingstuff.io import atomic_write, read_json

_REPAIRED = {"duplicate picture", "duplicate annotation", "text and number", "category name", "duplicate category"}
_REPAIRED |= {"category colour"}
_LEFT_OUT = {"picture without annotation", "unusable split"}  # also entries that have no picture of their own


@dataclass(frozen=True)
class FixResult:
    """A repaired copy: what was changed, which pictures were left out and why, and what a check of the copy finds."""

    out: Path
    changed: Findings
    left_out: Findings
    checked: CheckResult

    @property
    def sound(self) -> bool:
        """Whether all pictures are in the copy, and a check of it finds no error."""
        return not len(self.left_out) and not self.checked.findings.grade_count("error")

    def to_json(self) -> dict[str, Any]:
        """Return all of it as plain JSON values."""
        return {
            "out": str(self.out),
            "changed": self.changed.to_json(),
            "left_out": self.left_out.to_json(),
            "checked": self.checked.to_json(),
        }


def fix(
    data: str | Path,
    out: str | Path,
    splits: Sequence[str] | None = None,
    *,
    copy: bool = False,
    min_area: int = 0,
    drop_duplicates: bool = False,
    checked: CheckResult | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> FixResult:
    """Write a repaired copy of some splits, or of all: OUT/{split}/, OUT/panoptic_{split}/, OUT/panoptic_{split}.json.

    Pictures are linked, or copied with `copy`; nothing of the original is changed. Segments below `min_area` pixels
    become void. `drop_duplicates` leaves pictures out of the training split that another split has too; which these
    are `checked` says, or a check before the repair. It is there whole or not at all. Raises `InputError` where
    there is no data set, nothing of it can be copied, or OUT is in use.
    """
    out = Path(out)
    if drop_duplicates and checked is None:
        checked = check(data, splits, workers=workers, progress=progress)
    dropped = _dropped(checked) if drop_duplicates and checked is not None else {}
    changed, left_out, found = Findings(), Findings(), Findings()
    with ExitStack() as stack:
        aside = stack.enter_context(made_aside(out, "--fix"))
        opened = list(open_splits(data, chosen_splits(data, splits), found, stack))
        _sort(found, changed, left_out)
        if not opened:
            raise InputError(f"nothing of {data} can be copied:\n{left_out.text() or found.text()}")
        made = [_Copy(split, aside, dropped.get(split.files.name, set())) for split in opened]
        total = sum(split.index.total for split in opened)
        mending = Mending(
            tuple(split.files for split in opened), tuple(split.folders for split in made), copy, min_area
        )
        jobs = (MendJob(at, *row) for at, split in enumerate(made) for row in split.pairs(changed, left_out))
        # entered last, so that it ends before what it reads from
        results = stack.enter_context(closing(in_processes(mending, jobs, processes(total, workers))))
        for done, mended in enumerate(results, 1):
            made[mended.split].add(mended)
            # of what was repaired before a picture had to be left out, nothing is in the copy
            for finding in mended.changed if mended.entry is not None else ():
                changed.add(finding)
            for finding in mended.left_out:
                left_out.add(finding)
            if progress is not None:
                progress(done, total)
        for split in made:
            split.write()
    again = check(out, [split.files.name for split in opened] if splits else None, workers=workers, progress=progress)
    return FixResult(out, changed, left_out, again)


def _dropped(checked: CheckResult) -> Mapping[str, set[ImageId]]:
    """Return the pictures, by split, that training would have in common with another split."""
    found: dict[str, set[ImageId]] = defaultdict(set)
    for twins in checked.twins:
        for name, image_id, other in (
            (twins.first, twins.first_id, twins.second),
            (twins.second, twins.second_id, twins.first),
        ):
            if is_train(name) and not is_train(other):
                found[name].add(image_id)
    return found


def _sort(found: Findings, changed: Findings, left_out: Findings) -> None:
    """Share out what is wrong with the files as a whole: what the copy has right, and what it lacks."""
    for finding in found:
        nameless = finding.kind in ("faulty annotation", "faulty picture entry") and finding.image_id is None
        if finding.kind in _REPAIRED:
            changed.add(finding)
        elif finding.kind in _LEFT_OUT or nameless:
            left_out.add(finding)


class _Copy:
    """The copy of a split: where its files go, and what its JSON will hold."""

    def __init__(self, split: OpenSplit, out: Path, dropped: Collection[ImageId]) -> None:
        self.split, self.dropped, name = split, dropped, split.files.name
        self.folders = CopyFolders(out / name, out / f"panoptic_{name}")
        self._json = out / f"panoptic_{name}.json"
        self._images: list[Mapping[str, Any]] = []
        self._annotations: list[Mapping[str, Any]] = []

    def pairs(self, changed: Findings, left_out: Findings) -> Iterator[tuple[FilePair, str]]:
        """Yield the pictures with a name of its own for each map; those to drop, and strangers to images, are told."""
        taken: dict[str, str] = {}
        for pair in self.split.index:
            if pair.image_id in self.dropped:
                message = "is left out, as another split has it too"
                changed.add(self._finding("duplicate across splits", pair.image_id, message))
                continue
            if self.split.index.picture_entry(pair.image_id) is None:
                left_out.add(self._finding("annotation without picture", pair.image_id, "is not in images"))
                continue
            entry = entry_of(pair.truth.text, self.split.files.paths.json, pair.image_id)
            name = entry.get("file_name")
            if not isinstance(name, str) or not name:
                yield pair, ""  # whoever reads it tells of it
                continue
            free = _free_name(name, taken)
            if free != name:
                kind = "shared map" if name in taken.values() else "names differ in case"
                changed.add(self._finding(kind, pair.image_id, f"its map is {shown(free)} now"))
            taken[free.casefold()] = free
            yield pair, free

    def add(self, mended: Mended) -> None:
        """Take in a picture, unless it was left out."""
        image_id = mended.pair.image_id
        image = self.split.index.picture_entry(image_id)
        if mended.entry is None or image is None:
            return
        size = {} if mended.size is None else {"height": mended.size[0], "width": mended.size[1]}
        self._images.append({**image, "id": image_id, **size})
        self._annotations.append(mended.entry)

    def _finding(self, kind: str, image_id: ImageId, message: str) -> Finding:
        return Finding(kind, self.split.files.name, clean(str(self.split.files.paths.json)), image_id, None, message)

    def write(self) -> None:
        """Write the JSON, with whatever else the original's has beside its lists."""
        original = read_json(self.split.files.paths.json)
        own = {
            "images": self._images,
            "annotations": self._annotations,
            "categories": mended_categories(original["categories"], self.split.files.classes),
        }
        for folder in self.folders:
            folder.mkdir(parents=True, exist_ok=True)
        atomic_write(self._json, json.dumps({**original, **own}))


def _free_name(name: str, taken: Collection[str]) -> str:
    """Return a map's name, changed where an earlier map has it, be it in other letters: one file on some systems."""
    path, free, number = Path(name), name, 1
    while free.casefold() in taken:
        number += 1
        free = path.with_name(f"{path.stem}_{number}{path.suffix}").as_posix()
    return free
