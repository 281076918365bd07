"""Files of class names: a line each, numbered lines, YAML or JSON, VOC's labelmap.txt and tables with colours."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from thingstuff.errors import InputError, raise_problems
from thingstuff.panoptic import Color

UNLABELLED_NAMES = frozenset({"background", "_background_", "__background__", "unlabeled", "unlabelled", "unlabel"})
"""Names, in small letters, that say of a value that nothing was drawn there."""

IGNORED_NAMES = frozenset({"ignore", "ignored", "__ignore__", "_ignore_", "void", "_void_"})
"""Names, in small letters, that say of a value that its pixels are not to be judged."""

_NO_NAME_BLACK, _NO_NAME_BORDER = -1, -2  # values that no map of numbers has
_REMEDY = "write a class name on each line, or YAML such as '1: road'"
_COLORED = re.compile(r"[^:]+:\s*\d+\s*,\s*\d+\s*,\s*\d+\s*")


@dataclass(frozen=True)
class NamedClass:
    """A class as a file of names has it: its value in maps, counted from 0 where the file has no numbers."""

    name: str
    index: int
    color: Color | None = None


@dataclass(frozen=True)
class Legend:
    """What the values of a map of classes mean, and which value each colour of an RGB map stands for."""

    names: Mapping[int, str]
    colors: Mapping[Color, int]
    unlabelled: frozenset[int]
    ignored: frozenset[int]

    def refuse_unnamed(self, values: Iterable[int], path: Path) -> None:
        """Raise `InputError` for values of a map that mean nothing."""
        unnamed = [v for v in values if v not in self.names and v not in self.unlabelled and v not in self.ignored]
        if unnamed:
            told = ", ".join(map(str, unnamed[:10])) + (f" and {len(unnamed) - 10} more" if len(unnamed) > 10 else "")
            raise InputError(
                f"{path} holds the value{'s' if len(unnamed) > 1 else ''} {told}, and no class has that number; name "
                "every value (--names), such as '7: road' on a line"
            )

    def digest(self) -> str:
        """Return a short text that is another one for another legend."""
        named, colors = sorted(self.names.items()), sorted(self.colors.items())
        return digest_of(named, colors, sorted(self.unlabelled), sorted(self.ignored))


def digest_of(*parts: Any) -> str:
    """Return a short text that is another one for other values, told apart by their `repr`."""
    return hashlib.sha256(repr(parts).encode(errors="backslashreplace")).hexdigest()[:16]


def legend_of(classes: Iterable[NamedClass]) -> Legend:
    """Return what values mean by their names.

    The background means unlabelled where it is 0 or black (a background that somebody gave a number of its own is a
    class like any other), and so does a name for unlabelled; one for void is ignored. Where they have no name, 0 and
    black are unlabelled; 255, with 16 bits 65535, and VOC's colour of 255 are ignored.
    """
    classes = tuple(classes)
    lower = {entry.index: entry.name.lower() for entry in classes}
    unlabelled = {entry.index for entry in classes if _says_nothing(entry)} | {_NO_NAME_BLACK}
    ignored = {index for index, name in lower.items() if name in IGNORED_NAMES} | {_NO_NAME_BORDER}
    colors = {entry.color: entry.index for entry in classes if entry.color}
    if colors:
        colors = {(0, 0, 0): _NO_NAME_BLACK, voc_color(255): _NO_NAME_BORDER, **colors}
    names = {entry.index: entry.name for entry in classes if entry.index not in unlabelled | ignored}
    return Legend(names, colors, frozenset(unlabelled | {0} - {*lower}), frozenset(ignored | {255, 65535} - {*lower}))


def _says_nothing(entry: NamedClass) -> bool:
    name = entry.name.lower()
    return name in UNLABELLED_NAMES and ("background" not in name or entry.index == 0 or entry.color == (0, 0, 0))


def voc_color(index: int) -> Color:
    """Return the colour of a value in VOC's palette: its bits from the lowest go to R, G, B in turn, highest first."""
    red, green, blue = (
        sum((index >> (3 * place + channel) & 1) << (7 - place) for place in range(3)) for channel in range(3)
    )
    return red, green, blue


def read_class_names(path: str | Path) -> tuple[NamedClass, ...]:
    """Read class names in the order of their values; a text file, or YAML or JSON by its suffix.

    Text holds a name a line, `7: road` on every line (COCO-Stuff), `name:r,g,b` or `name:r,g,b:parts:actions` (VOC's
    label map, as CVAT writes it; lines that begin with # are comments there), or `name,r,g,b` with a heading or none.
    YAML holds a list, names by number, or [r, g, b] by name, by itself or under `names`. LabelMe's `__ignore__` on the
    first line is no value and is left out. Raises `InputError` where the file is missing, empty or something else, or
    where a name, number or colour stands twice.
    """
    path = Path(path)
    text = _read_text(path)
    found = _from_yaml(path, text) if path.suffix.lower() in (".yaml", ".yml", ".json") else _from_lines(path, text)
    found = sorted(found, key=lambda entry: entry.index)
    if not found:
        raise InputError(f"{path} names no class; {_REMEDY}")
    problems = [
        *_repeated("name", (entry.name for entry in found)),
        *_repeated("number", (entry.index for entry in found)),
        *_repeated("colour", (entry.color for entry in found if entry.color)),
    ]
    raise_problems(problems, f"{path} cannot be used:")
    return tuple(found)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path} is not there; give a file of class names") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no UTF-8 text (byte {error.start}); {_REMEDY}") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}); give a file of class names") from None


def _from_yaml(path: Path, text: str) -> list[NamedClass]:
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise InputError(f"{path} is no YAML: {error}; {_REMEDY}") from None
    if isinstance(content, Mapping) and "names" in content:
        content = content["names"]
    if isinstance(content, list):
        content = dict(enumerate(content))
    if not isinstance(content, Mapping):
        raise InputError(f"{path} holds neither a list of names nor names by number; {_REMEDY}")
    if all(type(name) is str and isinstance(color, list) for name, color in content.items()):
        rows = [(name.strip(), ",".join(map(str, color))) for name, color in content.items()]
        return [_colored(path, index, *row, f"{row[0]}: [{row[1]}]") for index, row in enumerate(rows)]
    return [_numbered(path, index, name) for index, name in content.items()]


def _numbered(path: Path, index: Any, name: Any) -> NamedClass:
    if type(index) is str and index.isdecimal():  # JSON has no other keys
        index = int(index)
    if type(index) is not int or index < 0:
        raise InputError(f"{path}: {index!r:.60} is no number of a class; {_REMEDY}")
    if type(name) is not str or not name.strip():
        # YAML takes unquoted yes, no, on and numbers for something else than text
        raise InputError(f"{path}: class {index}: {name!r:.60} is no name; put it in quotes")
    return NamedClass(name.strip(), index)


def _from_lines(path: Path, text: str) -> list[NamedClass]:
    lines = [line.strip() for line in text.strip().splitlines()]
    told = [line for line in lines if line and not line.startswith("#")]
    if told and (all(line.count(":") == 3 for line in told) or all(map(_COLORED.fullmatch, told))):
        return [_label_map_entry(path, position, line) for position, line in enumerate(told)]
    if told and all(re.match(r"\d+\s*:\s*\S", line) for line in told):
        return [_numbered(path, *(part.strip() for part in line.split(":", 1))) for line in told]
    if lines and all(line.count(",") == 3 for line in lines):
        return [_table_entry(path, position, line) for position, line in enumerate(lines[_has_heading(lines[0]) :])]
    if lines[:1] == ["__ignore__"]:
        lines = lines[1:]
    if "" in lines:
        number = text[: len(text) - len(text.lstrip())].count("\n") + text.strip().splitlines().index("") + 1
        raise InputError(f"{path}: line {number} is empty, so that what follows may be counted wrongly; remove it")
    table = next((line for line in lines if "\t" in line), None)
    if table is not None:
        raise InputError(f"{path}: {table!r:.60} is a row of a table, no name; {_REMEDY}")
    return [NamedClass(name, index) for index, name in enumerate(lines)]


def _has_heading(line: str) -> bool:
    return not line.rpartition(",")[2].strip().isdecimal()


def _table_entry(path: Path, index: int, line: str) -> NamedClass:
    name, colors = line.split(",", 1)
    return _colored(path, index, name.strip(), colors.strip(), line)


def _label_map_entry(path: Path, index: int, line: str) -> NamedClass:
    name, text, *_ = (part.strip() for part in line.split(":"))
    return _colored(path, index, name, text, line)


def _colored(path: Path, index: int, name: str, text: str, line: str) -> NamedClass:
    match = re.fullmatch(r"(\d{1,3})\s*,\s*(\d{1,3})\s*,\s*(\d{1,3})", text)
    color = tuple(map(int, match.groups())) if match else None
    if not name or (text and color is None) or (color and max(color) > 255):
        raise InputError(f"{path}: {line!r:.60} is no name with red, green and blue up to 255; correct it")
    return NamedClass(name, index, (color[0], color[1], color[2]) if color else None)


def _repeated(what: str, values: Iterable[Any]) -> list[str]:
    twice = [value for value, count in Counter(values).items() if count > 1]
    return [f"the {what} {value} stands more than once; give each its own" for value in twice]
