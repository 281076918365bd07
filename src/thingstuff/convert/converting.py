"""Conversion to COCO panoptic: labels read and painted over cores, maps and pictures written, then the JSONs.

Every picture is written down when it is done, so that a run that was stopped goes on, and pictures that are new or
whose labels were changed are all that a later run converts.
"""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from thingstuff.convert.classes import ClassPlan, ClassRules, plan_classes
from thingstuff.convert.conversion_report import ConversionReport, report_of
from thingstuff.convert.dataset_files import write_data_set, written_categories
from thingstuff.convert.ledger import FOLDER, Done, Ledger
from thingstuff.convert.painting import Filler, Overlap, PaintRules
from thingstuff.convert.picture_work import Drawn, Finish, Task, Trial, Work, WorkAndFinish, name_in_split
from thingstuff.convert.pool import in_processes
from thingstuff.convert.source import Source, SourceClass, SourcePicture
from thingstuff.convert.splits import SplitRules
from thingstuff.errors import InputError, raise_problems

Progress = Callable[[int, int], None]
_MARKED = ("coco-panoptic", "coco-instances")  # formats in which a segment keeps its marks
_UP, _DRIVE = re.compile(r"[/\\]\.{0,2}[/\\]"), re.compile(r"[A-Za-z]:[/\\]")


@dataclass(frozen=True)
class ConvertRules:
    """How labels become a data set; see `thingstuff convert --help`."""

    classes: ClassRules = field(default_factory=ClassRules)
    overlap: Overlap = Overlap.SMALLER_ON_TOP
    min_area: int = 0
    """Segments with fewer pixels become void."""
    splits: SplitRules = field(default_factory=SplitRules)
    drop_filled: bool = False
    """Leave out what a model filled in before."""


@dataclass(frozen=True)
class Conversion:
    """What a conversion came to: the folder, what is to be told, and how many pictures were there already."""

    out: Path
    report: ConversionReport
    jsons: tuple[Path, ...]
    earlier: int


def convert(
    source: Source,
    out: Path,
    rules: ConvertRules | None = None,
    *,
    filler: Filler | None = None,
    copy: bool = False,
    skip_broken: bool = False,
    overwrite: bool = False,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Conversion:
    """Write a source as COCO panoptic: OUT/{split}/, OUT/panoptic_{split}/ and OUT/panoptic_{split}.json.

    Pictures are linked, or copied with `copy`. `filler` gives segments to what nobody labelled. `workers` defaults to
    all cores; `progress` is told (pictures done, of how many). Called again, it converts what is new or was changed.
    Raises `InputError` that lists the pictures that cannot be converted (`skip_broken` leaves them out), and where the
    folder is in use, a class is not there, or rules contradict.
    """
    rules = rules or ConvertRules()
    _check(source, rules, filler)
    _check_apart(source, out)
    ledger = Ledger(out, _settings(source, rules, filler, copy))
    with closing(ledger):
        return _convert(source, rules, ledger, _How(filler, copy, skip_broken, overwrite, workers, progress))


@dataclass(frozen=True)
class _How:
    """What a run does beside its rules; see `convert`."""

    filler: Filler | None
    copy: bool
    skip_broken: bool
    overwrite: bool
    workers: int | None
    progress: Progress | None


def _convert(source: Source, rules: ConvertRules, ledger: Ledger, how: _How) -> Conversion:
    plan, tasks = _prepare(source, rules, how, ledger)
    kinds = dict(zip(plan.categories.names, plan.categories.things, strict=True))
    work = Work(source.read, PaintRules(plan.names, plan.categories, rules.overlap, rules.min_area), rules.drop_filled)
    if ledger.replaces:
        # nothing of the earlier conversion is touched before it is known that the new one can be made
        _refuse_broken(_broken(work, tasks, how), tasks, how)
        ledger.replace()
    ledger.keep_categories(dict(zip(plan.categories.names, plan.categories.ids, strict=True)))
    todo = [task for task in tasks if not ledger.current(task.picture, task.split, kinds)]
    finish = Finish(ledger.out, how.copy, rules.classes.background, plan.categories)
    problems = _work_off(work, finish, ledger, todo, how, len(tasks) - len(todo))
    _refuse_broken(problems, tasks, how)
    converted = [ledger.done[task.picture.key] for task in tasks if task.picture.key not in problems]
    optional = {c.name for c in _filled(how.filler)} - {*plan.names.values()}
    categories = written_categories(converted, plan.categories, optional)
    ledger.tidy({task.picture.key for task in tasks})
    jsons = ledger.write_jsons(lambda: write_data_set(ledger.out, converted, categories, source.header))
    report = report_of(source, categories, converted, [*problems.values()])
    report.save(ledger.out / FOLDER / "report.json")
    return Conversion(ledger.out, report, jsons, len(tasks) - len(todo))


def _broken(work: Work, tasks: Sequence[Task], how: _How) -> dict[str, str]:
    """Return what is wrong with pictures that cannot be converted, by key, without writing anything."""
    broken: dict[str, str] = {}
    with closing(in_processes(Trial(work), tasks, how.workers)) as results:
        for number, (task, fault) in enumerate(zip(tasks, results, strict=True), 1):
            if fault is not None:
                broken[task.picture.key] = fault
            if how.progress:
                how.progress(number, len(tasks))
    return broken


def _refuse_broken(problems: Mapping[str, str], tasks: Sequence[Task], how: _How) -> None:
    if problems and (not how.skip_broken or len(problems) == len(tasks)):
        remedy = "" if how.skip_broken else ", or leave them out with --skip-broken"
        heading = f"{len(problems)} of {len(tasks)} pictures cannot be converted; mend them and run this again{remedy}:"
        raise_problems(list(problems.values()), heading)


def _check_apart(source: Source, out: Path) -> None:
    """Raise `InputError` where the data set would be written over what it is made of."""
    inside = os.path.join(os.path.abspath(out), "")
    files = [source.path] if source.path is not None else []
    for path in (*files, *(path for p in source.pictures for path in (p.picture, *p.labels))):
        if os.path.join(os.path.abspath(path), "").startswith(inside):
            raise InputError(f"{path} lies in {out}, which would be written over; give another --to")


def _check(source: Source, rules: ConvertRules, filler: Filler | None) -> None:
    if rules.drop_filled and source.format not in _MARKED:
        raise InputError(f"--drop-filled: {source.format} labels do not say what a model filled in; leave it out")
    if not source.pictures:
        raise InputError(f"there is no picture in the {source.format} labels ({source.reason}); give another SOURCE")
    if filler is not None and rules.classes.background is not None:
        raise InputError("--background leaves nothing to fill in; give it or --fill-stuff-with, not both")


def _prepare(source: Source, rules: ConvertRules, how: _How, ledger: Ledger) -> tuple[ClassPlan, list[Task]]:
    """Plan everything before anything is written, so that whatever is wrong with the rules is told first."""
    splits = {p.key: rules.splits.split_of(p) for p in source.pictures}
    _check_names(source.pictures, splits)
    plan_classes(source.classes, rules.classes, _filled(how.filler))
    ledger.open(how.overwrite)
    plan = plan_classes(source.classes, rules.classes, _filled(how.filler), ledger.category_ids)
    image_ids = _image_ids(source.pictures, splits, ledger)
    return plan, [Task(p, splits[p.key], image_ids[p.key]) for p in source.pictures]


def _work_off(
    work: Work, finish: Finish, ledger: Ledger, todo: Sequence[Task], how: _How, earlier: int
) -> dict[str, str]:
    """Convert pictures, write each down, and return what is wrong with those that cannot be converted, by key."""
    ledger.begin(task.picture.key for task in todo)
    tell, total = how.progress or (lambda _, __: None), earlier + len(todo)
    tell(earlier, total)
    problems: dict[str, str] = {}
    results = _results(work, finish, todo, how)
    for number, (task, result) in enumerate(zip(todo, results, strict=True), earlier + 1):
        if isinstance(result, str):
            problems[task.picture.key] = result
        else:
            ledger.add(result)
        tell(number, total)
    return problems


def _results(work: Work, finish: Finish, todo: Sequence[Task], how: _How) -> Iterator[Done | str]:
    if how.filler is None:
        with closing(in_processes(WorkAndFinish(work, finish), todo, how.workers)) as results:
            yield from results
        return
    with closing(in_processes(work, todo, how.workers)) as all_drawn:
        for drawn in all_drawn:
            yield drawn if isinstance(drawn, str) else _filled_in(drawn, finish, how.filler)


def _filled_in(drawn: Drawn, finish: Finish, filler: Filler) -> Done | str:
    # a model answers in this process alone, one picture after the other
    try:
        painted = filler(drawn.task.picture.picture, drawn.painted)
    except InputError as error:
        return str(error)
    return finish(drawn._replace(painted=painted))


def _filled(filler: Filler | None) -> tuple[SourceClass, ...]:
    return filler.classes if filler is not None else ()


def _settings(source: Source, rules: ConvertRules, filler: Filler | None, copy: bool) -> dict[str, Any]:
    return {
        "source": str(source.path),
        "format": source.format,
        "classes": rules.classes.model_dump(mode="json"),
        "overlap": rules.overlap.value,
        "min_area": rules.min_area,
        "split": list(rules.splits.shares),
        "group": rules.splits.group,
        "seed": rules.splits.seed,
        "drop_filled": rules.drop_filled,
        "fill": filler.fingerprint if filler is not None else None,
        "copy": copy,
    }


def _check_names(pictures: Sequence[SourcePicture], splits: Mapping[str, str]) -> None:
    """Raise `InputError` where two pictures would be one file, or a file would lie outside of its folder."""
    seen: dict[tuple[str, str], SourcePicture] = {}
    for picture in pictures:
        # macOS and Windows take names that differ in case alone for one file
        split = splits[picture.key]
        if _UP.search(f"/{picture.key}/") or _DRIVE.match(picture.key):
            raise InputError(f"{picture.picture}: the name {picture.key!r} leads out of the data set; correct it")
        twin = seen.setdefault((split, name_in_split(picture, split).casefold()), picture)
        if twin is not picture:
            raise InputError(f"{twin.picture} and {picture.picture} would write the same files; rename one of them")


def _image_ids(pictures: Sequence[SourcePicture], splits: Mapping[str, str], ledger: Ledger) -> dict[str, int | str]:
    """Return every picture's image id: the source's, else the earlier one, else its name's own number, else a free one.

    A name's number counts where all names are numbers, as `thingstuff predict` has it. Splits may use the same ids, as
    COCO's tools keep them apart by their JSONs.
    """
    given = Counter((splits[p.key], p.image_id) for p in pictures if p.image_id is not None)
    numbers = {} if any(given.values()) or ledger.done else _own_numbers(pictures)
    found: dict[str, int | str] = {}
    taken: set[tuple[str, int | str]] = set()

    def take(picture: SourcePicture, image_id: int | str | None) -> None:
        place = splits[picture.key], image_id
        if image_id is not None and picture.key not in found and place not in taken:
            found[picture.key] = image_id
            taken.add((splits[picture.key], image_id))

    def own(picture: SourcePicture) -> int | str | None:
        if picture.image_id is None or given[splits[picture.key], picture.image_id] > 1:
            return numbers.get(picture.key)
        return picture.image_id

    def earlier(picture: SourcePicture) -> int | str | None:
        return ledger.done[picture.key].image["id"] if picture.key in ledger.done else None

    for p in pictures:
        if own(p) is None or own(p) == earlier(p):
            take(p, earlier(p))
    for choice in (own, earlier):
        for p in pictures:
            take(p, choice(p))
    used = {*found.values()}
    free = (number for number in range(1, len(pictures) + len(used) + 1) if number not in used)
    return {p.key: found[p.key] if p.key in found else next(free) for p in pictures}


def _own_numbers(pictures: Sequence[SourcePicture]) -> dict[str, int]:
    stems = [p.key.rpartition("/")[2] for p in pictures]
    numbers = [int(stem) if stem.isdecimal() and len(stem) < 19 else 0 for stem in stems]
    good = len({*numbers}) == len(numbers) and 0 not in numbers
    return {p.key: number for p, number in zip(pictures, numbers, strict=True)} if good else {}
