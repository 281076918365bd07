"""The doctor: a data set read in full, split by split, and everything odd about it told."""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import chain, combinations
from pathlib import Path
from typing import Any, NamedTuple

from thingstuff.checking.duplicates import Prints, alike_across, equal_within
from thingstuff.checking.examination import Examination, Examined, Job, SplitFiles
from thingstuff.checking.findings import Finding, Findings
from thingstuff.checking.suggestions import Suggestion, suggest
from thingstuff.checking.tally import Tally, class_findings, is_train, split_findings
from thingstuff.convert.pool import in_processes
from thingstuff.data.coco import locate
from thingstuff.data.coco import splits as splits_of
from thingstuff.errors import InputError
from thingstuff.evaluation.picture_index import PictureIndex
from thingstuff.evaluation.problems import EvaluationProblemsError, Problems, clean, shown
from thingstuff.evaluation.segments import ImageId

Progress = Callable[[int, int], None]
"""Told (pictures done, of how many)."""
FEW = 40
"""Pictures up to which other processes would take longer to start than the work does."""


class SplitTwins(NamedTuple):
    """A picture that is in two splits, by their names and its image id in each."""

    first: str
    first_id: ImageId
    second: str
    second_id: ImageId


@dataclass(frozen=True)
class CheckResult:
    """What a check found, what it counted in each split it could open, and settings that fit the data set.

    `twins` are the pictures that are in two splits, or nearly so.
    """

    findings: Findings
    tallies: tuple[Tally, ...]
    suggestions: tuple[Suggestion, ...]
    twins: tuple[SplitTwins, ...] = ()

    @property
    def statistics(self) -> dict[str, Any]:
        """The counts of each split as plain JSON values."""
        return {tally.split: tally.to_json() for tally in self.tallies}

    def to_json(self) -> dict[str, Any]:
        """Return findings, counts and suggestions as plain JSON values."""
        suggestions = [{"key": s.key, "value": s.value, "why": s.why} for s in self.suggestions]
        return {"findings": self.findings.to_json(), "statistics": self.statistics, "suggestions": suggestions}


@dataclass(frozen=True)
class OpenSplit:
    """A split whose JSON is indexed."""

    files: SplitFiles
    index: PictureIndex


def check(
    data: str | Path,
    splits: Sequence[str] | None = None,
    *,
    quick: bool = False,
    workers: int | None = None,
    progress: Progress | None = None,
) -> CheckResult:
    """Look for everything that is wrong, doubtful or worth knowing in some splits of a data set, or in all it has.

    Every picture and map is decoded, unless `quick`: then the JSON and the files' headers are looked at. What splits
    are beside each other is told only where all are looked at. Raises `InputError` where there is no data set or no
    such split.
    """
    names = chosen_splits(data, splits)
    findings = Findings()
    with ExitStack() as stack:
        opened = list(open_splits(data, names, findings, stack))
        tallies = [Tally(s.files.name, s.files.paths.json, s.files.classes.categories) for s in opened]
        prints = [Prints() for _ in opened]
        annotated = [0] * len(opened)
        # entered last, so that it ends before what it reads from
        for examined in stack.enter_context(closing(_examined(opened, quick, workers, progress))):
            _take_in(examined, opened, tallies, prints, findings)
            annotated[examined.split] += examined.annotated
    for split, tally, count in zip(opened, tallies, annotated, strict=True):
        if tally.pictures and not count:
            findings.add(tally.finding("nothing annotated", f"no picture of {split.files.name} has a segment"))
    twins: list[SplitTwins] = []
    found = [_duplicates(opened, prints, twins), class_findings(tallies)]
    if splits is None:
        found.append(split_findings(tallies))
    for finding in chain.from_iterable(found):
        findings.add(finding)
    learned = next((tally for tally in tallies if is_train(tally.split)), tallies[0] if tallies else None)
    return CheckResult(findings, tuple(tallies), suggest(learned) if learned is not None else (), tuple(twins))


def chosen_splits(data: str | Path, splits: Sequence[str] | None) -> tuple[str, ...]:
    """Return the splits to look at: as given, else all that a data set has, train before the others.

    Raises `InputError` where there is no data set, none of its splits, or not one that was asked for.
    """
    there = splits_of(data)
    for name in splits or ():
        if name not in there:
            locate(data, name)  # says what there is, and takes train for train2017
    names = tuple(splits or sorted(there, key=lambda name: (not is_train(name), name)))
    if not names:
        raise InputError(f"{data} has no split: no panoptic_*.json is there or in annotations/; name the data's folder")
    return names


def open_splits(data: str | Path, names: Sequence[str], findings: Findings, stack: ExitStack) -> Iterator[OpenSplit]:
    """Index the JSON of each split and tell what is wrong with it as a whole; one that cannot be used is left out."""
    for name in names:
        problems = Problems()
        try:
            paths = locate(data, name)
            index = _index(paths.json, problems)
        except InputError as error:
            findings.add(Finding("unusable split", name, clean(str(data)), None, None, clean(str(error))))
            continue
        for problem in problems:
            findings.add(Finding.of(problem, name))
        if index is not None:
            stack.enter_context(closing(index))
            yield OpenSplit(SplitFiles(name, paths, index.classes), index)


def _index(json: Path, problems: Problems) -> PictureIndex | None:
    try:
        return PictureIndex(json, None, problems)
    except EvaluationProblemsError:  # `problems` says that there is no usable category
        return None


def jobs(opened: Sequence[OpenSplit]) -> Iterator[Job]:
    """Yield the pictures of all splits."""
    return (Job(position, pair) for position, split in enumerate(opened) for pair in split.index)


def processes(total: int, workers: int | None) -> int | None:
    """Return how many processes to use for so many pictures: as given, one for a few, else one for each core."""
    return 1 if workers is None and total <= FEW else workers


def _examined(
    opened: Sequence[OpenSplit], quick: bool, workers: int | None, progress: Progress | None
) -> Generator[Examined, None, None]:
    total = sum(split.index.total for split in opened)
    examination = Examination(tuple(split.files for split in opened), quick)
    count = processes(total, 1 if quick and workers is None else workers)
    with closing(in_processes(examination, jobs(opened), count)) as found:
        for done, examined in enumerate(found, 1):
            yield examined
            if progress is not None:
                progress(done, total)


def _take_in(
    examined: Examined,
    opened: Sequence[OpenSplit],
    tallies: Sequence[Tally],
    prints: Sequence[Prints],
    findings: Findings,
) -> None:
    """Add what was found in a picture to all that was."""
    tally = tallies[examined.split]
    for finding in examined.findings:
        findings.add(finding)
    for finding in tally.add_names(examined.image_id, examined.picture, examined.map):
        findings.add(finding)
    tally.add(examined.image_id, examined.size, examined.segments, examined.void)
    if examined.fingerprint is not None and examined.picture is not None:
        path = opened[examined.split].files.paths.pictures / examined.picture
        prints[examined.split].add(examined.image_id, path, examined.fingerprint)


def _duplicates(opened: Sequence[OpenSplit], prints: Sequence[Prints], across: list[SplitTwins]) -> Iterator[Finding]:
    """Yield what pictures are there twice; those of two splits are added to `across`."""
    for split, own in zip(opened, prints, strict=True):
        for twins in equal_within(own):
            message = f"is the same file as {clean(own.files[twins.first].name)}"
            yield _twin("duplicate in a split", split, own, twins.second, message)
    for (first, firsts), (second, seconds) in combinations(zip(opened, prints, strict=True), 2):
        for twins in alike_across(firsts, seconds):
            ids = firsts.ids[twins.first], seconds.ids[twins.second]
            across.append(SplitTwins(first.files.name, ids[0], second.files.name, ids[1]))
            how = "the same file as" if twins.equal else "nearly the same picture as"
            message = f"is {how} {clean(str(firsts.files[twins.first]))} (image {shown(ids[0])})"
            yield _twin("duplicate across splits", second, seconds, twins.second, message)


def _twin(kind: str, split: OpenSplit, prints: Prints, position: int, message: str) -> Finding:
    file = clean(str(prints.files[position]))
    return Finding(kind, split.files.name, file, prints.ids[position], None, message)
