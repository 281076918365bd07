"""What a check of a data set found: every finding by its kind, in words that say what it means and what to do."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from thingstuff.errors import InputError
from thingstuff.evaluation.problems import KINDS as PROBLEM_KINDS
from thingstuff.evaluation.problems import Problem, listed, placed
from thingstuff.evaluation.segments import ImageId

Grade = Literal["error", "warning", "note"]
GRADES: tuple[Grade, ...] = ("error", "warning", "note")
KEPT = 10_000
"""Findings of a kind that are kept; of more, only the number is."""


class FindingKind(NamedTuple):
    """A sort of finding: its grade, what it means and how to mend it, and what `--fix` does (nothing where empty).

    An error keeps the data set from being trained on or evaluated with, or makes it wrong; a warning spoils results or
    may well be a slip; a note is good to know.
    """

    name: str
    grade: Grade
    meaning: str
    fix: str = ""


# What evaluation has words for, and what a repaired copy does about it. What is left out of the copy stays told.
_OF_EVALUATION = {
    "empty list": "",
    "faulty category": "",
    "category name": "names it by its id",
    "duplicate category": "keeps the first",
    "category colour": "gives it another colour",
    "one kind of classes": "",
    "faulty picture entry": "takes the size from picture and map, else leaves it out",
    "duplicate picture": "keeps the first",
    "faulty annotation": "leaves the picture out",
    "duplicate annotation": "keeps the first",
    "text and number": "writes both as the annotation has it",
    "picture without annotation": "leaves the picture out",
    "annotation without picture": "leaves it out",
    "outside the folder": "leaves the picture out",
    "missing map": "leaves the picture out",
    "shared map": "gives each picture a map of its own",
    "unreadable map": "leaves the picture out",
    "wrong size": "corrects the stated size where picture and map agree",
    "faulty segment": "",
    "duplicate segment": "keeps the first",
    "number written otherwise": "writes it as a number",
    "faulty category_id": "",
    "unknown category": "",
    "faulty iscrowd": "writes 0",
    "wrong area": "counts it in the map",
    "unlisted id": "makes its pixels void",
    "segment without pixels": "removes it",
    "nothing annotated": "",
}
_REGRADED: Mapping[str, Grade] = {"one kind of classes": "warning", "shared map": "warning"}


def _of_evaluation(name: str, fix: str) -> FindingKind:
    kind = PROBLEM_KINDS[name]
    return FindingKind(name, _REGRADED.get(name, "note" if kind.note else "error"), kind.meaning, fix)


_OWN = (
    FindingKind("unusable split", "error", "a split whose files cannot be opened; see what is said of it"),
    FindingKind(
        "different categories", "error", "splits whose lists of categories differ; write the same list into each"
    ),
    FindingKind(
        "missing picture",
        "error",
        "a picture that is not there; put it there or correct file_name",
        "leaves the picture out",
    ),
    FindingKind(
        "unreadable picture",
        "error",
        "a picture that is damaged or cut off; replace it by a whole one",
        "leaves the picture out",
    ),
    FindingKind("picture size", "error", "a picture of another size than its map; put the right one there"),
    FindingKind(
        "palette map",
        "error",
        "a map saved as palette or grey PNG; save it as 8-bit RGB with id = R + 256 G + 65536 B",
        "writes it so where its ids can only be read in one way, else leaves the picture out",
    ),
    FindingKind(
        "swapped channels",
        "error",
        "a map whose red and blue are swapped, as OpenCV writes it; swap them",
        "swaps them",
    ),
    FindingKind(
        "lossy map",
        "error",
        "a map with specks of ids that no segment has, or a JPEG: it was saved with loss or resized smoothly; write it "
        "anew from its source as PNG, and resize by nearest neighbour",
        "leaves the picture out",
    ),
    FindingKind(
        "wrong box", "warning", "a bbox that is not that of the map; correct the JSON", "measures it in the map"
    ),
    FindingKind(
        "stuff in several segments",
        "warning",
        "a class of stuff with more than one segment in a picture, each of which is scored alone; merge them",
        "merges them",
    ),
    FindingKind(
        "crowd of stuff",
        "warning",
        "a segment of stuff with iscrowd 1, which counts as neither found nor missed; a crowd is many things in one "
        "segment: write 0, or correct the class",
    ),
    FindingKind(
        "tiny segment",
        "warning",
        "a segment of fewer than 4 pixels, often a slip of the hand; remove it",
        "removes those below --min-area where it is given",
    ),
    FindingKind(
        "possibly merged objects",
        "warning",
        "a thing of two pieces of like size that lie far apart; give each object its own id if they are two",
    ),
    FindingKind("picture without segments", "warning", "a picture that teaches nothing; annotate it or leave it out"),
    FindingKind("nearly all void", "warning", "a picture with next to no pixel annotated; annotate it or leave it out"),
    FindingKind(
        "turned by EXIF",
        "warning",
        "a picture that its EXIF orientation turns away from its map, which fits the stored pixels; programs differ "
        "in how they read it",
        "turns the map as the picture is seen",
    ),
    FindingKind(
        "orientation unclear",
        "warning",
        "a picture that its EXIF orientation turns or mirrors without changing its size, so that nothing tells whether "
        "its map is turned too; look at it (it is read as it is seen)",
    ),
    FindingKind("shared picture", "warning", "a picture file named by two entries; check that it is meant"),
    FindingKind(
        "names differ in case",
        "warning",
        "files whose names differ in case alone, which are one file on macOS and Windows; rename one",
    ),
    FindingKind(
        "category without segments", "warning", "a class that no split has a segment of; annotate it or remove it"
    ),
    FindingKind(
        "category not in train", "warning", "a class that is tested and never learned; share the pictures out anew"
    ),
    FindingKind(
        "duplicate across splits",
        "warning",
        "a picture that is in another split too, or nearly so, which makes scores too good; keep it in one",
        "removes it from train where --drop-duplicates is given",
    ),
    FindingKind("no val split", "warning", "no split to measure on; put every fifth picture into val"),
    FindingKind("tiny val split", "warning", "a val split of a few pictures, whose scores are chance; add pictures"),
    FindingKind("category not in val", "note", "a class whose quality val does not measure"),
    FindingKind(
        "class imbalance", "note", "classes with very different numbers of segments; the rare ones learn slowly"
    ),
    FindingKind("thing in pieces", "note", "a thing of several pieces, as where something stands in front of it"),
    FindingKind("duplicate in a split", "note", "a file that is byte for byte another one's; keep one"),
    FindingKind(
        "image id in two splits",
        "note",
        "image ids that two splits share, which is fine as long as the splits stay apart; renumber them before a merge",
    ),
    FindingKind(
        "upright by EXIF", "note", "a picture whose map fits once EXIF has turned it; programs that ignore EXIF err"
    ),
    FindingKind(
        "class names alike",
        "note",
        "classes whose names differ in case or spaces alone; if they are one, join them by convert's --merge",
    ),
    FindingKind(
        "isthing of a segment",
        "note",
        "a segment whose isthing is not that of its class; the list of categories counts",
        "writes that of the class",
    ),
    FindingKind("no box", "note", "a segment without bbox, which other programs ask for", "measures it in the map"),
)
KINDS = {kind.name: kind for kind in (*(_of_evaluation(*row) for row in _OF_EVALUATION.items()), *_OWN)}
"""Every kind by its name, in the order of listings within a grade."""


@dataclass(frozen=True)
class Finding:
    """One finding: its kind, the split and file, the picture and segment where it concerns one, and the details."""

    kind: str
    split: str | None
    file: str
    image_id: ImageId | None
    segment_id: int | None
    message: str

    def __str__(self) -> str:
        return placed(self.file, self.image_id, self.segment_id, self.message)

    @classmethod
    def of(cls, problem: Problem, split: str | None) -> "Finding":
        """Return a finding of what evaluation found."""
        return cls(problem.kind, split, problem.file, problem.image_id, problem.segment_id, problem.message)


class Findings:
    """Collects findings in the order they come; of each kind the first `KEPT`, and the number of all."""

    def __init__(self, findings: Iterable[Finding] = ()) -> None:
        self._by_kind: dict[str, list[Finding]] = {}
        self._counts: Counter[str] = Counter()
        for finding in findings:
            self.add(finding)

    def add(self, finding: Finding) -> None:
        """Add one."""
        kept = self._by_kind.setdefault(KINDS[finding.kind].name, [])
        self._counts[finding.kind] += 1
        if len(kept) < KEPT:
            kept.append(finding)

    def __iter__(self) -> Iterator[Finding]:
        """Yield those that are kept, the gravest kinds first."""
        for kind in self.kinds():
            yield from self._by_kind[kind.name]

    def __len__(self) -> int:
        return self._counts.total()

    def kinds(self, grade: Grade | None = None) -> list[FindingKind]:
        """Return the kinds that were found, of one grade or of all, the gravest first."""
        found = [kind for kind in KINDS.values() if kind.name in self._by_kind and grade in (None, kind.grade)]
        return sorted(found, key=lambda kind: GRADES.index(kind.grade))

    def of_kind(self, name: str) -> tuple[Finding, ...]:
        """Return those of a kind that are kept."""
        return tuple(self._by_kind.get(name, ()))

    def count(self, name: str) -> int:
        """Return how many there are of a kind."""
        return self._counts[name]

    def grade_count(self, grade: Grade) -> int:
        """Return how many errors, warnings or notes there are."""
        return sum(self._counts[kind.name] for kind in self.kinds(grade))

    def summary(self) -> str:
        """Return how many there are of each grade in words."""
        counts = [(self.grade_count(grade), grade) for grade in GRADES]
        return ", ".join(f"{count:,} {grade}{'s' * (count != 1)}" for count, grade in counts)

    def text(self, examples: int = 3, grades: Sequence[Grade] = GRADES) -> str:
        """List those of some grades, by kind with counts; of each kind at most `examples`, the rest is counted."""
        lines: list[str] = []
        for kind in self.kinds():
            if kind.grade not in grades:
                continue
            found, count = self._by_kind[kind.name], self._counts[kind.name]
            fix = f" [--fix {kind.fix}]" if kind.fix else ""
            lines.append(f"{kind.grade}: {kind.name} ({count:,}): {kind.meaning}{fix}")
            lines += listed(found, count, examples)
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Return all that are kept as plain JSON values, by kind, with the number of all."""
        kinds = []
        for kind in self.kinds():
            rows = [
                {
                    "split": f.split,
                    "file": f.file,
                    "image_id": f.image_id,
                    "segment_id": f.segment_id,
                    "message": f.message,
                }
                for f in self._by_kind[kind.name]
            ]
            kinds.append({**kind._asdict(), "count": self._counts[kind.name], "findings": rows})
        return {"counts": {grade: self.grade_count(grade) for grade in GRADES}, "kinds": kinds}

    @classmethod
    def from_json(cls, data: Any, where: str = "findings") -> "Findings":
        """Return what `to_json` gave; raises `InputError` that names `where` for anything else."""
        findings = cls()
        try:
            for kind in data["kinds"]:
                for row in kind["findings"]:
                    findings.add(Finding(KINDS[kind["name"]].name, **row))
                findings._counts[kind["name"]] = int(kind["count"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{where} holds no findings of a check ({error!r:.60}); write it anew with thingstuff check --json"
            ) from None
        return findings
