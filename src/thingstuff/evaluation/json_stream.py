"""A COCO panoptic JSON read element by element, so that a file of any length fits into memory."""

import codecs
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from thingstuff.errors import InputError

CHUNK = 1 << 18
"""Bytes read at a time."""

_BLANKS = re.compile(r"[ \t\n\r]*")
# What is cut off by the end of the window is refused this near to it at most ("-Infinity", "\\ud83d\\ude00").
_CUT = 16


class Element(NamedTuple):
    """One entry of a list, and the `length` bytes from byte `offset` of the file that it was read from."""

    section: str
    position: int
    value: Any
    offset: int
    length: int


def read_elements(
    path: Path, required: Sequence[str], optional: Sequence[str] = (), chunk: int = CHUNK
) -> Iterator[Element]:
    """Yield the entries of the lists under the `required` and `optional` keys of a JSON object, in the file's order.

    Other keys are skipped, and so is an optional one that holds no list. Raises `InputError` where the file is missing,
    not UTF-8 or broken (with line and column), a required list is missing or no list, or a list stands there twice;
    what stands before a fault is yielded first.
    """
    wanted, seen = {*required, *optional}, set[str]()
    with _Window(path, chunk) as window:
        for key in _keys(window, required):
            if key in wanted and key in seen:
                raise InputError(f"{path}: '{key}' stands there twice; keep one")
            seen.add(key)
            if window.peek() == "[":
                for position, (value, offset, length) in enumerate(_entries(window)):
                    if key in wanted:
                        yield Element(key, position, value, offset, length)
                continue
            window.value()
            if key in required:
                raise InputError(f"{path}: '{key}' is no list; a COCO panoptic JSON has the lists {_listed(required)}")
    for key in required:
        if key not in seen:
            raise InputError(f"{path}: '{key}' is missing; a COCO panoptic JSON has the lists {_listed(required)}")


def _keys(window: "_Window", required: Sequence[str]) -> Iterator[str]:
    """Yield the keys of the object; whoever asks for the next one has read the value."""
    first = window.peek()
    if first != "{":
        if first != "[":
            window.value()
        raise InputError(f"{window.path} is no COCO panoptic JSON: an object with {_listed(required)} was expected")
    window.step()
    more = window.peek() != "}"
    while more:
        if window.peek() != '"':
            raise window.broken("Expecting property name enclosed in double quotes")
        key = window.value()
        if window.peek() != ":":
            raise window.broken("Expecting ':' delimiter")
        window.step()
        window.peek()
        yield key
        more = _goes_on(window, "}")
    window.step()
    if window.peek():
        raise window.broken("Extra data")


def _entries(window: "_Window") -> Iterator[tuple[Any, int, int]]:
    window.step()
    more = window.peek() != "]"
    while more:
        window.peek()
        start = window.byte
        value = window.value()
        yield value, start, window.byte - start
        more = _goes_on(window, "]")
    window.step()


def _goes_on(window: "_Window", end: str) -> bool:
    """Step over a comma, or stay at the end of the list or object."""
    sign = window.peek()
    if sign not in (",", end):
        raise window.broken("Expecting ',' delimiter")
    if sign == ",":
        window.step()
    return sign == ","


class _Window:
    """The stretch of a file that is being read, and where it lies there."""

    def __init__(self, path: Path, chunk: int) -> None:
        self.path, self._chunk = path, chunk
        self._text, self._at = "", 0
        self._lines, self._columns = 0, 0  # lines before the window, characters of its first line before it
        self._byte, self._counted = 0, 0  # the byte at character `_counted` of the window
        self._read, self._ended = 0, False
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._decode = json.JSONDecoder().raw_decode
        try:
            self._file = path.open("rb")
        except FileNotFoundError:
            raise InputError(f"{path} is not there; give the path of an existing JSON file") from None
        except OSError as error:
            raise self._unreadable(error) from None

    def __enter__(self) -> "_Window":
        if self._bytes(3) != codecs.BOM_UTF8:
            self._file.seek(0)
            self._read = 0
        self._byte = self._read
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    @property
    def byte(self) -> int:
        """Where the next character stands in the file."""
        if self._text.isascii():
            self._byte += self._at - self._counted
        else:
            self._byte += len(self._text[self._counted : self._at].encode())
        self._counted = self._at
        return self._byte

    def peek(self) -> str:
        """Step over blanks and return the next character, "" at the end of the file."""
        while True:
            blanks = _BLANKS.match(self._text, self._at)
            self._at = blanks.end() if blanks else self._at
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def step(self) -> None:
        """Go one character on."""
        self._at += 1

    def value(self) -> Any:
        """Read the value that begins here and step over it."""
        while True:
            try:
                value, end = self._decode(self._text, self._at)
            except json.JSONDecodeError as error:
                # a string that has not ended is refused where it begins, however long it is
                cut = error.pos + _CUT >= len(self._text) or error.msg.startswith("Unterminated string")
                if not cut or not self._more():
                    raise self.broken(error.msg, error.pos) from None
            except RecursionError:
                raise self.broken("too many lists within lists") from None
            except ValueError:
                raise self.broken("a number of more digits than can be read") from None
            else:
                # a number near the end of the window may go on behind it: 1 of 1e-9
                if end + 2 < len(self._text) or not self._more():
                    self._at = end
                    return value

    def broken(self, message: str, at: int | None = None) -> InputError:
        """Return the error for text that is no JSON, found at a character of the window, else at the next one."""
        at = self._at if at is None else at
        before = self._text[:at]
        line = self._lines + before.count("\n") + 1
        column = at - before.rfind("\n") if "\n" in before else self._columns + at + 1
        where = f"line {line}, column {column}"
        return InputError(f"{self.path}: broken JSON at {where} ({message}); mend it or write the file anew")

    def _more(self) -> bool:
        """Drop what was read and take in more; False at the end of the file."""
        text = ""
        while not text and not self._ended:
            # an entry longer than the window doubles it, so that it is not begun anew too often
            data = self._bytes(max(self._chunk, len(self._text) - self._at))
            self._ended = not data
            pending = len(self._decoder.getstate()[0])
            try:
                text = self._decoder.decode(data, final=self._ended)
            except UnicodeDecodeError as error:
                at = self._read - len(data) - pending + error.start
                raise InputError(f"{self.path} is no UTF-8 text (byte {at}); give a JSON file saved as UTF-8") from None
        if not text:
            return False
        self._byte, dropped = self.byte, self._text[: self._at]
        lines = dropped.count("\n")
        self._lines += lines
        self._columns = len(dropped) - dropped.rfind("\n") - 1 if lines else self._columns + len(dropped)
        self._text, self._at, self._counted = self._text[self._at :] + text, 0, 0
        return True

    def _bytes(self, count: int) -> bytes:
        try:
            data = self._file.read(count)
        except OSError as error:
            raise self._unreadable(error) from None
        self._read += len(data)
        return data

    def _unreadable(self, error: OSError) -> InputError:
        return InputError(f"{self.path} cannot be read ({error.strerror or error}); give a readable JSON file")


def _listed(keys: Sequence[str]) -> str:
    return ", ".join(keys)
