"""Which annotation, prediction and size belong to each picture of two COCO panoptic JSONs, kept outside of memory.

Entries stay in their files; a private database, which moves to the disk where it grows, remembers where they stand.
"""

import json
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from thingstuff.errors import InputError
from thingstuff.evaluation.file_categories import FileCategories, compare_categories, read_categories
from thingstuff.evaluation.json_stream import Element, read_elements
from thingstuff.evaluation.problems import EvaluationProblemsError, ProblemFile, Problems, shown
from thingstuff.evaluation.segments import ImageId
from thingstuff.io import Kind, Size, field_fault

_IMAGE_ID = Kind("a whole number or text", lambda v: type(v) in (int, str))
_SIDE = Kind("a whole number from 1 to 2147483647", lambda v: type(v) is int and 0 < v < 2**31)
_TEXT = Kind("a text", lambda v: type(v) is str and v != "")
_IMAGE_FIELDS = {"height": _SIDE, "width": _SIDE, "file_name": _TEXT}
_DIGITS = re.compile("[0-9]+")
_ROWS = 1000  # written at once
_NAMED = 3  # maps named twice, and pictures of each, that are told
# `key` is the image id as JSON, so that 12 and "12" differ; `number` is "12" for both; `name` is the file_name as
# JSON, for which any half of a character is text
_SCHEMA = """
CREATE TABLE {} (position INTEGER PRIMARY KEY, key TEXT, number TEXT, offset INTEGER, length INTEGER,
                 height INTEGER, width INTEGER, name TEXT)
"""
_INSERT = "INSERT INTO {} VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_LACKING = "SELECT a.position, a.key FROM {} a WHERE NOT EXISTS (SELECT 1 FROM {} b WHERE b.key = a.key)"


class Entry(NamedTuple):
    """An entry of `annotations`, as text."""

    position: int
    text: bytes


class FilePair(NamedTuple):
    """What the files have of a picture; `size` and `picture`, its file name, are what `images` states."""

    image_id: ImageId
    truth: Entry
    prediction: Entry | None
    size: Size | None
    picture: str | None = None


class PictureIndex:
    """Two COCO panoptic JSONs, read once; iterating yields a `FilePair` per annotation of the ground truth, in order.

    Without `pred` it is the ground truth alone. What is wrong with the files as a whole goes to `problems`. Raises
    `InputError` where one of them cannot be read or lacks a list, `EvaluationProblemsError` where the ground truth has
    no usable category.
    """

    def __init__(self, gt: Path, pred: Path | None, problems: Problems) -> None:
        self._paths = {"images": gt, "truths": gt}
        self._truth = ProblemFile(problems, gt)
        self._empty: set[str] = set()
        self._files: dict[str, BinaryIO] = {}
        # "" is a database of this connection alone: in memory while it is small, then in an unnamed file
        self._database = sqlite3.connect("", check_same_thread=False)
        self._database.execute("PRAGMA journal_mode = OFF")
        try:
            self.classes = self._read_truth()
            if not self.classes.categories:
                fault = f"{gt} cannot be used" if pred is None else f"{pred} cannot be scored against {gt}"
                raise EvaluationProblemsError(f"{fault}: no usable category", problems)
            self._join_truth()
            if pred is None:
                self._change(_SCHEMA.format("predictions"))
            else:
                self._paths["predictions"] = pred
                self._prediction = ProblemFile(problems, pred)
                self._read_prediction()
                self._join_prediction()
            ((self.total,),) = self._rows("SELECT COUNT(*) FROM truths")
            self._files = {table: path.open("rb") for table, path in self._paths.items()}
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the files and the database."""
        self._database.close()
        for file in self._files.values():
            file.close()

    def __iter__(self) -> Iterator[FilePair]:
        rows = self._rows(
            "SELECT t.key, t.position, t.offset, t.length, p.position, p.offset, p.length, i.height, i.width, i.name "
            "FROM truths t LEFT JOIN images i ON i.key = t.key LEFT JOIN predictions p ON p.key = t.key "
            "ORDER BY t.position"
        )
        for key, at, offset, length, other_at, other_offset, other_length, height, width, name in rows:
            truth = Entry(at, self._text("truths", offset, length))
            prediction = None
            if other_at is not None:
                prediction = Entry(other_at, self._text("predictions", other_offset, other_length))
            size = None if height is None or width is None else (height, width)
            yield FilePair(json.loads(key), truth, prediction, size, None if name is None else json.loads(name))

    def file_names(self, image_id: ImageId) -> tuple[str | None, str | None, str | None]:
        """Return the file_name of a picture's annotation, prediction and entry in images, None where there is none."""
        return self._name("truths", image_id), self._name("predictions", image_id), self._name("images", image_id)

    def picture_entry(self, image_id: ImageId) -> Mapping[str, Any] | None:
        """Return a picture's entry in images as it stands there, None where there is none."""
        return self._entry("images", image_id)

    def _name(self, table: str, image_id: ImageId) -> str | None:
        entry = self._entry(table, image_id)
        name = entry.get("file_name") if entry is not None else None
        return name if isinstance(name, str) else None

    def _entry(self, table: str, image_id: ImageId) -> Mapping[str, Any] | None:
        for offset, length in self._rows(f"SELECT offset, length FROM {table} WHERE key = ?", json.dumps(image_id)):
            field = "id" if table == "images" else "image_id"
            return entry_of(self._text(table, offset, length), self._paths[table], image_id, field)
        return None

    def _text(self, table: str, offset: int, length: int) -> bytes:
        file = self._files[table]
        file.seek(offset)
        return file.read(length)

    def _read_truth(self) -> FileCategories:
        categories: list[Any] = []
        sections = ("images", "annotations", "categories")
        elements = read_elements(self._paths["truths"], sections)
        self._fill(elements, {"images": "images", "annotations": "truths"}, {"categories": categories}, self._truth)
        empty = ("images" in self._empty, "truths" in self._empty, not categories)
        for section, is_empty in zip(sections, empty, strict=True):
            if is_empty:
                self._truth("empty list", f"the list of {section} is empty")
        return read_categories(categories, self._truth)

    def _read_prediction(self) -> None:
        own: list[Any] = []
        elements = read_elements(self._paths["predictions"], ("annotations",), ("categories",))
        self._fill(elements, {"annotations": "predictions"}, {"categories": own}, self._prediction)
        if "predictions" in self._empty:
            self._prediction("empty list", "the list of annotations is empty")
        compare_categories(own, self.classes, self._prediction)
        self._drop_duplicates("predictions", "duplicate prediction", self._prediction)

    def _fill(
        self, elements: Iterable[Element], tables: dict[str, str], lists: dict[str, list[Any]], problem: ProblemFile
    ) -> None:
        """Take in the elements of one file: by section into a table of the database, or into a list."""
        waiting: dict[str, list[tuple[object, ...]]] = {table: [] for table in tables.values()}
        self._empty |= waiting.keys()
        for table in waiting:
            self._change(_SCHEMA.format(table))
        for element in elements:
            if element.section in lists:
                lists[element.section].append(element.value)
                continue
            table = tables[element.section]
            self._empty.discard(table)
            row = _row(element, problem)
            if row:
                waiting[table].append(row)
            if len(waiting[table]) >= _ROWS:
                self._change(_INSERT.format(table), waiting[table])
                waiting[table].clear()
        for table, rows in waiting.items():
            self._change(_INSERT.format(table), rows)
            self._change(f"CREATE INDEX {table}_key ON {table} (key)")

    def _join_truth(self) -> None:
        self._drop_duplicates("images", "duplicate picture", self._truth)
        self._drop_duplicates("truths", "duplicate annotation", self._truth)
        if self._empty & {"images", "truths"}:
            return
        self._pair_text_and_numbers("images", "images", self._truth)
        for at, key in self._rows(_LACKING.format("images", "truths") + " ORDER BY a.position"):
            message = f"images[{at}] has no annotation"
            self._truth("picture without annotation", message, image_id=json.loads(key))
        for at, key in self._rows(_LACKING.format("truths", "images") + " ORDER BY a.position"):
            message = f"annotations[{at}] is of a picture that is not in images"
            self._truth("annotation without picture", message, image_id=json.loads(key))
        self._note_shared_maps("truths", self._truth)

    def _join_prediction(self) -> None:
        self._pair_text_and_numbers("predictions", "annotations", self._prediction)
        strangers = _LACKING.format("predictions", "truths")
        strangers += " AND NOT EXISTS (SELECT 1 FROM images c WHERE c.key = a.key) ORDER BY a.position"
        for at, key in self._rows(strangers):
            message = f"annotations[{at}] is for a picture that is not in {self._paths['truths']}"
            self._prediction("unknown picture", message, image_id=json.loads(key))
        self._note_shared_maps("predictions", self._prediction)

    def _drop_duplicates(self, table: str, kind: str, problem: ProblemFile) -> None:
        section = "images" if table == "images" else "annotations"
        later = (
            f"FROM {table} t JOIN (SELECT key, MIN(position) AS first FROM {table} GROUP BY key HAVING COUNT(*) > 1) d "
            "ON t.key = d.key WHERE t.position > d.first"
        )
        for at, key, first in self._rows(f"SELECT t.position, t.key, d.first {later} ORDER BY t.position"):
            problem(kind, f"{section}[{at}] is of the same picture as {section}[{first}]", image_id=json.loads(key))
        self._change(f"DELETE FROM {table} WHERE position IN (SELECT t.position {later})")

    def _note_shared_maps(self, table: str, problem: ProblemFile) -> None:
        """Tell of maps that several pictures have: it may be meant, and it may be a slip that no pixel shows."""
        shared = f"FROM {table} WHERE name IS NOT NULL GROUP BY name HAVING COUNT(*) > 1"
        ((count,),) = self._rows(f"SELECT COUNT(*) FROM (SELECT name {shared})")
        if not count:
            return
        first = f"SELECT name, COUNT(*) {shared} ORDER BY MIN(position) LIMIT {_NAMED}"
        texts = [f"{shown(json.loads(name))} for {self._pictures(table, name, n)}" for name, n in self._rows(first)]
        if count > len(texts):
            texts.append(f"and {count - len(texts):,} more")
        maps = "1 map is" if count == 1 else f"{count:,} maps are"
        problem("shared map", f"{maps} named more than once: {'; '.join(texts)}")

    def _pictures(self, table: str, name: str, count: int) -> str:
        keys = self._rows(f"SELECT key FROM {table} WHERE name = ? ORDER BY position LIMIT {_NAMED}", name)
        ids = ", ".join(shown(json.loads(key)) for (key,) in keys)
        return f"images {ids}" + (f" and {count - _NAMED:,} more" if count > _NAMED else "")

    def _pair_text_and_numbers(self, table: str, section: str, problem: ProblemFile) -> None:
        """Give entries without an annotation the image id of the one that differs from theirs in its type alone."""
        rows = self._rows(
            f"SELECT a.position, a.key, t.key FROM {table} a JOIN truths t ON t.number = a.number "
            "WHERE (substr(t.key, 1, 1) = '\"') != (substr(a.key, 1, 1) = '\"') "
            "AND NOT EXISTS (SELECT 1 FROM truths b WHERE b.key = a.key) "
            f"AND NOT EXISTS (SELECT 1 FROM {table} b WHERE b.key = t.key) ORDER BY a.position, t.position"
        )
        taken, changes = set[str](), dict[int, str]()
        for at, key, wanted in rows:
            if at in changes or wanted in taken:
                continue
            changes[at] = wanted
            taken.add(wanted)
            own, other = (
                f"the {'text' if type(i) is str else 'number'} {shown(i)}"
                for i in (json.loads(key), json.loads(wanted))
            )
            message = f"{section}[{at}] has {own}, the annotation in {self._paths['truths'].name} {other}"
            problem("text and number", message, image_id=json.loads(wanted))
        self._change(f"UPDATE {table} SET key = ? WHERE position = ?", ((key, at) for at, key in changes.items()))

    def _rows(self, query: str, *values: object) -> Iterator[tuple[Any, ...]]:
        try:
            cursor = self._database.execute(query, values)
            # `yield from` would close the cursor when this is let go of, which fails where the database is closed first
            while (row := cursor.fetchone()) is not None:
                yield row
        except sqlite3.OperationalError as error:  # others are faults of ours, such as use after `close`
            raise _no_room(error) from None

    def _change(self, query: str, rows: Iterable[Sequence[object]] | None = None) -> None:
        try:
            if rows is None:
                self._database.execute(query)
            else:
                self._database.executemany(query, rows)
        except sqlite3.OperationalError as error:
            raise _no_room(error) from None


def entry_of(text: bytes, path: Path, image_id: ImageId, field: str = "image_id") -> Mapping[str, Any]:
    """Read an entry that was read before, of a picture. Raises `InputError` where its file has changed since."""
    try:
        entry = json.loads(text)
    except ValueError:
        entry = None
    if not isinstance(entry, dict) or not _same(entry.get(field), image_id):
        raise InputError(f"{path} has changed since it was opened; wait until it is written, then score again")
    return entry


def _row(element: Element, problem: ProblemFile) -> tuple[object, ...] | None:
    """Return what the database keeps of an entry, None where its image id cannot be used."""
    of_images, entry = element.section == "images", element.value
    field, kind = ("id", "faulty picture entry") if of_images else ("image_id", "faulty annotation")
    at = f"{element.section}[{element.position}]"
    fault = field_fault(entry, {field: _IMAGE_ID})
    if fault:
        problem(kind, f"{at}: {fault}")
        return None
    image_id, height, width, name = entry[field], None, None, None
    if of_images:
        faults = {name: field_fault(entry, {name: needed}) for name, needed in _IMAGE_FIELDS.items()}
        for fault in filter(None, faults.values()):
            problem(kind, f"{at}: {fault}", image_id=image_id)
        if not faults["height"] and not faults["width"]:
            height, width = entry["height"], entry["width"]
        name = None if faults["file_name"] else json.dumps(entry["file_name"])
    elif field_fault(entry, {"file_name": _TEXT}) is None:
        name = json.dumps(entry["file_name"])
    key, number = json.dumps(image_id), _number(image_id)
    return element.position, key, number, element.offset, element.length, height, width, name


def _number(image_id: ImageId) -> str | None:
    """Return an image id without its type, None where it is no number."""
    if type(image_id) is int:
        return str(image_id)
    text = str(image_id)
    return text.lstrip("0") or "0" if _DIGITS.fullmatch(text) else None


def _same(found: object, image_id: ImageId) -> bool:
    """Whether an image id is the one of the picture, be it text on one side."""
    if type(found) is type(image_id) and found == image_id:
        return True
    return isinstance(found, int | str) and _number(found) == _number(image_id) is not None


def _no_room(error: sqlite3.OperationalError) -> InputError:
    return InputError(f"temporary disk space cannot be used ({error}); free some, or name another folder as TMPDIR")
