"""What is wrong with the files of an evaluation: every fault by its kind, in words that say what to do."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from thingstuff.data.coco import FILLED
from thingstuff.errors import InputError
from thingstuff.evaluation.segments import ImageId


class ProblemKind(NamedTuple):
    """A sort of fault: what it means and how to mend it, and what a lenient evaluation does about it.

    A note is told and never refused.
    """

    name: str
    meaning: str
    lenient: str
    note: bool = False


_KINDS = (
    ProblemKind("empty list", "a list without entries; write the files anew", "scores what is left"),
    ProblemKind(
        "faulty category", "a class without usable id or isthing; correct it", "leaves it out: its segments are void"
    ),
    ProblemKind("category name", "a class without a name of its own; give it one", "names it by its id"),
    ProblemKind("duplicate category", "a category id that comes twice; keep one", "takes the first"),
    ProblemKind(
        "category colour", "a colour that is not three numbers from 0 to 255", "takes another colour", note=True
    ),
    ProblemKind("one kind of classes", "classes of which all are things, or all stuff", "scores them", note=True),
    ProblemKind(
        "categories differ",
        "a class of another name or kind in the prediction's own list; check that both speak of the same classes",
        "goes by the ids and the ground truth's list",
    ),
    ProblemKind("faulty picture entry", "an entry of images with a wrong field; correct it", "does without the field"),
    ProblemKind("duplicate picture", "a picture that stands twice in images; keep one", "takes the first"),
    ProblemKind("faulty annotation", "an annotation with a wrong field; correct it", "leaves the picture out"),
    ProblemKind("duplicate annotation", "a second annotation of a picture; keep one", "takes the first"),
    ProblemKind("duplicate prediction", "a second prediction of a picture; keep one", "takes the first"),
    ProblemKind(
        "text and number",
        "an image id that is text in one place and a number in the other; write it the same way in both",
        "takes them for the same picture",
    ),
    ProblemKind(
        "picture without annotation",
        "a picture of the ground truth that has no annotation; add one (segments_info may be []) or remove the picture",
        "leaves the picture out",
    ),
    ProblemKind(
        "annotation without picture",
        "an annotation whose picture is not in images; add it there or remove the annotation",
        "scores it all the same",
    ),
    ProblemKind(
        "unknown picture", "a prediction for a picture that the ground truth does not have; remove it", "leaves it out"
    ),
    ProblemKind("missing prediction", "a picture without a prediction; predict it too", "leaves the picture out"),
    ProblemKind(
        "outside the folder", "a file_name that leads out of the folder of maps; correct it", "leaves the picture out"
    ),
    ProblemKind("missing map", "a PNG that is not there; put it there or correct file_name", "leaves the picture out"),
    ProblemKind("shared map", "a PNG named for more than one picture; check that it is meant", "scores it", note=True),
    ProblemKind("unreadable map", "a file that holds no segment ids; write it anew", "leaves the picture out"),
    ProblemKind(
        "wrong size", "a map of another size; predict and label at the picture's own size", "leaves the picture out"
    ),
    ProblemKind("faulty segment", "a segment without a usable id; correct it", "makes its pixels void"),
    ProblemKind("duplicate segment", "a segment id that comes twice in a picture; keep one", "takes the first"),
    ProblemKind(
        "number written otherwise",
        "a number in quotation marks or with a point; write it as a whole number",
        "reads it as the number",
    ),
    ProblemKind("faulty category_id", "a segment without a usable category_id; correct it", "makes its pixels void"),
    ProblemKind(
        "unknown category",
        "a segment of a class that the ground truth does not list; add the class or correct the segment",
        "makes its pixels void",
    ),
    ProblemKind("faulty iscrowd", "a ground-truth segment without iscrowd 0 or 1; add it", "takes it for 0"),
    ProblemKind("wrong area", "an area that is not that in the map; correct the JSON", "counts in the map"),
    ProblemKind(
        "infinite IoU",
        "a stated area so wrong that PQ is infinite, panopticapi's too; correct it",
        "counts in the map",
        note=True,
    ),
    ProblemKind("unlisted id", "an id in a map that segments_info lacks; list it or paint it 0", "makes it void"),
    ProblemKind(
        "segment without pixels", "a listed segment that is not in its map; remove it or mend the map", "leaves it out"
    ),
    ProblemKind("filled segments", "what a model filled in is left out, as was asked", "leaves it out", note=True),
    ProblemKind("faulty instance", "a scored instance that cannot be used; correct it", "leaves it out"),
    ProblemKind("nothing annotated", "a ground truth without any segment", "refuses it too"),
    ProblemKind("nothing predicted", "a prediction without any segment", "scores it: a PQ of 0", note=True),
    ProblemKind("no instances", "scored instances without a single one", "scores them: an AP of 0", note=True),
)
KINDS = {kind.name: kind for kind in _KINDS}
"""Every kind by its name, in the order of listings."""


@dataclass(frozen=True)
class Problem:
    """One fault: its kind, the file it is in, the picture and the segment where it concerns one, and the details."""

    kind: str
    file: str
    image_id: ImageId | None
    segment_id: int | None
    message: str

    def __str__(self) -> str:
        return placed(self.file, self.image_id, self.segment_id, self.message)


class Problems:
    """Collects problems in the order they are found: the ground truth's file, the prediction's, the pictures."""

    def __init__(self, problems: Iterable[Problem] = ()) -> None:
        self._by_kind: dict[str, list[Problem]] = {}
        self._all: list[Problem] = []
        for problem in problems:
            self.add(problem)

    def add(self, problem: Problem) -> None:
        """Add one."""
        self._all.append(problem)
        self._by_kind.setdefault(KINDS[problem.kind].name, []).append(problem)

    def __iter__(self) -> Iterator[Problem]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    @property
    def grave(self) -> int:
        """How many there are, notes aside."""
        return sum(len(self._by_kind[name]) for name in self._grave_kinds)

    @property
    def _grave_kinds(self) -> list[str]:
        return [name for name in self._by_kind if not KINDS[name].note]

    def count(self) -> str:
        """Return how many there are in words, notes aside."""
        problems, kinds = self.grave, len(self._grave_kinds)
        return f"{problems:,} problem{'s' * (problems != 1)} of {kinds} kind{'s' * (kinds != 1)}"

    def text(self, examples: int = 10) -> str:
        """List them by kind with counts; of each kind at most `examples`, the rest is counted."""
        lines: list[str] = []
        for name, kind in KINDS.items():
            found = self._by_kind.get(name, [])
            if not found:
                continue
            head = "note" if kind.note else f"{name} ({len(found):,})"
            lines.append(f"{head}: {kind.meaning}" + ("" if kind.note else f" [--lenient {kind.lenient}]"))
            lines += listed(found, len(found), examples)
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Return all of them as plain JSON values, by kind."""
        kinds = []
        for kind in KINDS.values():
            found = self._by_kind.get(kind.name, [])
            rows = [
                {"file": p.file, "image_id": p.image_id, "segment_id": p.segment_id, "message": p.message}
                for p in found
            ]
            if rows:
                kinds.append({**kind._asdict(), "count": len(rows), "problems": rows})
        return {"count": self.grave, "kinds": kinds}


class EvaluationProblemsError(InputError):
    """Files that cannot be scored against each other; `problems` holds every fault that was found."""

    def __init__(self, heading: str, problems: Problems, advice: str = "") -> None:
        super().__init__("\n".join(part for part in (heading, problems.text(), advice) if part))
        self.problems = problems


class ProblemFile:
    """Writes down the problems of one file, or of one picture in it."""

    def __init__(self, problems: Problems | list[Problem], file: Path, image_id: ImageId | None = None) -> None:
        self._add = problems.append if isinstance(problems, list) else problems.add
        self._file, self._image_id = file, image_id

    def __call__(self, kind: str, message: str, segment_id: int | None = None, image_id: ImageId | None = None) -> None:
        """Write one down; `image_id` where the whole file is spoken of otherwise."""
        image = self._image_id if image_id is None else image_id
        self._add(Problem(kind, clean(str(self._file)), image, segment_id, clean(message)))


def tell_filled(tell: ProblemFile, count: int) -> None:
    """Write down how many segments of the ground truth were left out because a model filled them in."""
    tell("filled segments", f"{count:,} segment{' carries' if count == 1 else 's carry'} the mark '{FILLED}'")


def placed(file: str, image_id: ImageId | None, segment_id: int | None, message: str) -> str:
    """Return a message behind the file, the picture and the segment it is about, as far as it is about one."""
    image = [] if image_id is None else [f"image {shown(image_id)}"]
    segment = [] if segment_id is None else [f"segment {segment_id}"]
    return ": ".join([file, *image, *segment, message])


def listed(found: Sequence[object], count: int, examples: int) -> list[str]:
    """Return a line for each of the first `examples` found, and one for how many more there are of `count`."""
    lines = [f"  - {one}" for one in found[:examples]]
    return [*lines, f"  and {count - examples:,} more"] if count > examples else lines


def shown(value: object) -> str:
    """Return a value of a file as it may be printed: in quotation marks where it is text, and not too long."""
    text = clean(f"{value!r}")
    return text if len(text) <= 60 else f"{text[:57]}..."


def clean(text: str) -> str:
    """Return a text of a file with what cannot be printed written out, as \\x1b."""
    # names from a file may hold line ends, terminal codes and halves of characters, which no terminal should get
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
