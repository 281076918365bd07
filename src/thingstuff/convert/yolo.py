"""YOLO segmentation as Ultralytics has it: data.yaml, images/.../x.jpg and labels/.../x.txt.

The format: docs.ultralytics.com, "Instance Segmentation Datasets Overview". Letters: H W pixels of a picture.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from thingstuff.convert.class_names import digest_of, read_class_names
from thingstuff.convert.picture_files import by_key, find_pictures, keys_apart, picture_size
from thingstuff.convert.shapes import polygon_region
from thingstuff.convert.source import (
    BOX_ALONE,
    Size,
    Source,
    SourceClass,
    SourceLabels,
    SourceObject,
    SourceOptions,
    SourcePicture,
)
from thingstuff.errors import InputError, raise_problems

_YAML = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
_NAMES = "classes.txt"
_SPLITS = {"train": "train", "val": "val", "validation": "val", "valid": "val", "test": "test"}
_OPTIONAL = "test"  # data.yaml often names one that was never made
_LARGEST_YAML = 1 << 20  # bytes
_SIGNS = (re.compile(r"^\s*names\b", re.MULTILINE), re.compile(r"^\s*(train|val|test)\w*\s*:", re.MULTILINE))
_LINE = re.compile(r"\d+(\.0*)?(\s+-?\d+(\.\d*)?(e-?\d+)?){4,}\s*")
_LOOKED_AT = 50  # text files, of which the first may be empty
_FARTHEST = 0.5  # outside the picture, in its width or height: more is no share but pixels


def recognise(path: Path) -> str | None:
    """Say why a path holds YOLO's labels."""
    try:
        file = _yaml_file(path)
        if file is not None:
            return f"{file.name} names classes and the pictures of splits"
        labels = path / "labels"
        if not (labels.is_dir() and (path / "images").is_dir()):
            return None
        first = next((p for p in islice(labels.rglob("*.txt"), _LOOKED_AT) if _first_line(p)), None)
    except OSError:
        return None
    return f"{first.relative_to(path).as_posix()} holds lines of a class and shares" if first else None


def open_source(path: Path, reason: str, options: SourceOptions) -> Source:
    """Open a data set by its data.yaml, or images/ and labels/ with classes.txt or --names.

    A class's category_id is its index plus 1. A picture without a text file has no objects. Raises `InputError` where
    folders, pictures or names are missing, where there is no text file at all, or where labels are keypoints.
    """
    options.refuse_unused("YOLO", "names")
    file = _yaml_file(path)
    notes: list[str] = []
    if file is not None:
        content = _load(file)
        if "kpt_shape" in content:
            raise InputError(f"{file}: kpt_shape: its labels are keypoints, which are no masks; give segments")
        entries = list(_entries(file, content))
        pictures = [p for split, entry in entries for p in _of_split(file, content, split, entry, notes)]
        splits = {split for split, entry in entries if any(_resolved(file, content, text) for text in entry)}
    else:
        pictures, splits = _of_folder(path)
    names = read_class_names(options.names or file or _names_beside(path))
    if not pictures:
        raise InputError(f"{file or path} leads to no picture; correct train and val, or put pictures there")
    if not any(p.labels for p in pictures):
        raise InputError(
            f"{label_path(pictures[0].picture)} is not there, nor is a text file for any other picture; put labels/ "
            "beside images/"
        )
    classes = tuple(SourceClass(entry.name, entry.index + 1) for entry in names)
    read = Reader({entry.index: entry.name for entry in names})
    told = digest_of(sorted(read.names.items()))
    found = keys_apart([p._replace(payload=told) for p in pictures], splits)
    return Source("yolo", reason, classes, found, read, notes=tuple(notes))


@dataclass(frozen=True)
class Reader:
    """Reads a picture's text file; `names` are the classes' by their index.

    An object of several pieces, or with holes, is one outline in this format: who wrote it joined them by bridges of no
    width (Ultralytics: merge_multi_segment), which cover no pixels, so that there is nothing to undo.
    """

    names: Mapping[int, str]

    def __call__(self, picture: SourcePicture) -> SourceLabels:
        """Return a picture's labels; raises `InputError` that names the text file and the line."""
        size = picture_size(picture.picture)
        if not picture.labels:
            return SourceLabels(size, ())
        path, objects, notes = picture.labels[0], [], []
        for number, line in enumerate(_read_text(path).splitlines(), 1):
            try:
                words = line.split()
                if len(words) in (5, 6):
                    notes.append(BOX_ALONE)
                elif words:
                    objects.append(self._object(words, size))
            except InputError as error:
                raise InputError(f"{path}: line {number}: {error}; correct it") from None
        return SourceLabels(size, tuple(objects), notes=tuple(notes))

    def _object(self, words: Sequence[str], size: Size) -> SourceObject:
        name = self._name(words[0])
        try:
            shares = [float(word) for word in words[1:]]
        except ValueError as error:
            raise InputError(str(error)) from None
        if len(shares) % 2:
            raise InputError(f"{len(shares)} numbers after the class are no pairs; leave out a confidence at the end")
        strange = [share for share in shares if not -_FARTHEST <= share <= 1 + _FARTHEST]
        if strange:
            raise InputError(
                f"{strange[0]:g} is no share of the picture from 0 to 1; divide pixels by width and height"
            )
        height, width = size
        corners = [share * (height if place % 2 else width) for place, share in enumerate(shares)]
        return SourceObject(name, polygon_region([corners], size))

    def _name(self, word: str) -> str:
        try:
            index = float(word)
        except ValueError:
            raise InputError(f"{word!r:.40} is no index of a class") from None
        name = self.names.get(int(index)) if index.is_integer() else None
        if name is None:
            raise InputError(f"class {word} is none of the {len(self.names)} that are named, counted from 0")
        return name


def label_path(picture: Path) -> Path:
    """Return where a picture's labels are: the last folder `images` of its path becomes `labels`."""
    folders = [*picture.parent.parts]
    if "images" in folders:
        last = len(folders) - 1 - folders[::-1].index("images")
        folders[last] = "labels"
    return Path(*folders, f"{picture.stem}.txt")


def _yaml_file(path: Path) -> Path | None:
    """Return the YAML that names classes and pictures: the path itself, or one in the folder."""
    if path.is_dir():
        others = sorted(p for p in path.glob("*.y*ml") if p.name not in _YAML)
        candidates = [*(path / name for name in _YAML), *others[:5]]
    else:
        candidates = [path]
    for file in candidates:
        if file.suffix.lower() in (".yaml", ".yml") and file.is_file() and file.stat().st_size <= _LARGEST_YAML:
            try:
                content = _load(file)
            except InputError:
                if _seems_ours(file):  # what is wrong with it is told when it is opened
                    return file
                continue
            if "names" in content and {"train", "val", "validation", "test"} & {*content}:
                return file
    return None


def _seems_ours(file: Path) -> bool:
    """Whether a file that is no YAML, or none in UTF-8, speaks of names and splits; of either, by its usual names."""
    try:
        text = file.read_bytes().replace(b"\0", b"").decode(errors="ignore")
    except OSError:
        return False
    found = [sign.search(text) is not None for sign in _SIGNS]
    return any(found) if file.name in _YAML else all(found)


def _load(file: Path) -> dict[str, Any]:
    """Return what a YAML says, nothing where that is no mapping; raises `InputError` where it is no YAML."""
    text = _read_text(file)
    try:
        content = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = f": line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise InputError(f"{file}{line}: it is no YAML ({error.problem}); correct it") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise InputError(f"{file} is no YAML ({error}); correct it") from None
    return {str(key): value for key, value in content.items()} if isinstance(content, dict) else {}


def _entries(file: Path, content: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Yield each split with the folders or lists of pictures that it names."""
    for key, value in content.items():
        entry = [value] if isinstance(value, str) else value
        if key in _SPLITS and value not in (None, "", []):
            if not isinstance(entry, list) or not all(isinstance(part, str) for part in entry):
                raise InputError(f"{file}: {key}: {value!r:.60} is neither a path nor a list of paths; correct it")
            yield _SPLITS[key], entry
        elif key not in ("path", "names", "download") and isinstance(value, str):
            path = _resolved(file, content, value)
            if path and (path.is_dir() or path.suffix == ".txt"):
                yield key, [value]  # a split of another name


def _roots(file: Path, content: Mapping[str, Any]) -> list[Path]:
    """Return the folders that paths may start from: what `path` says, and the YAML's own."""
    stated = content.get("path")
    return [*([file.parent / stated, Path(stated)] if isinstance(stated, str) and stated else []), file.parent]


def _resolved(file: Path, content: Mapping[str, Any], text: str) -> Path | None:
    """Return the file or folder that is meant, which `path`, the YAML's folder and its name's own begin may precede."""
    for root in _roots(file, content):
        # Roboflow writes ../train/images for train/images
        for part in (text, text.removeprefix("../")):
            if (root / part).exists():
                return Path(os.path.abspath(root / part))
    return None


def _of_split(
    file: Path, content: Mapping[str, Any], split: str, entry: Sequence[str], notes: list[str]
) -> list[SourcePicture]:
    listed: list[Path] = []
    folders: list[Path] = []
    for text in entry:
        path = _resolved(file, content, text)
        if path is None and split == _OPTIONAL:
            notes.append(f"{file.name} names {text} for {split}, which is not there")
        elif path is None:
            raise InputError(f"{file}: {split}: {text} is not there; put it there, or correct path and {split}")
        elif path.is_dir():
            folders.append(path)
        else:
            listed += _listed(file, content, path)
    inside = dict.fromkeys(picture for folder in folders for picture in find_pictures(folder))
    found = (
        [_picture(p, k, split) for k, p in by_key(inside, Path(os.path.commonpath(folders))).items()] if inside else []
    )
    root = Path(os.path.abspath(next(root for root in _roots(file, content) if root.is_dir())))
    alone = (picture for picture in dict.fromkeys(listed) if picture not in inside)
    return [*found, *(_picture(picture, _key_of_listed(picture, root, split), split) for picture in alone)]


def _key_of_listed(picture: Path, root: Path, split: str) -> str:
    """Return the key of a picture in a list: its path in images/ (and there in the split's folder), else in the root.

    It hangs on the picture alone: the next one in the list may lie anywhere.
    """
    inner = picture.relative_to(root if picture.is_relative_to(root) else picture.anchor)
    folders = [*inner.parent.parts]
    if "images" in folders:
        folders = folders[len(folders) - folders[::-1].index("images") :]
    if folders and _SPLITS.get(folders[0], folders[0]) == split:
        folders = folders[1:]
    return "/".join([*folders, inner.stem])


def _listed(file: Path, content: Mapping[str, Any], path: Path) -> list[Path]:
    """Return the pictures of a text file, a line each: from its own folder, or from the data set's."""
    found, missing = [], []
    for line in filter(None, map(str.strip, _read_text(path).splitlines())):
        beside = path.parent / line
        picture = Path(os.path.normpath(beside)) if beside.is_file() else _resolved(file, content, line)
        if picture is None or not picture.is_file():
            missing.append(f"{line} is not there")
        else:
            found.append(picture)
    raise_problems(missing, f"{path} names pictures that are not there; put them there or correct the lines:", limit=5)
    return found


def _of_folder(path: Path) -> tuple[list[SourcePicture], set[str]]:
    """Return the pictures in images/, and the splits that folders in it are named after."""
    images = path / "images"
    if path.is_file():
        _load(path)  # tells where it is no YAML
    if not images.is_dir():
        what = (
            "has neither a YAML with train, val and names nor images/"
            if path.is_dir()
            else "names no classes and splits"
        )
        raise InputError(f"{path} {what}; give a data.yaml with names, train and val")
    splits = {folder.name: _SPLITS[folder.name] for folder in images.iterdir() if folder.name in _SPLITS}
    found = []
    for key, picture in by_key(find_pictures(images), images).items():
        folder, _, inner = key.partition("/")
        split = splits.get(folder) if inner else None
        found.append(_picture(picture, inner if split else key, split))
    return found, {*splits.values()}


def _names_beside(path: Path) -> Path:
    for folder in (path, path / "labels"):
        if (folder / _NAMES).is_file():
            return folder / _NAMES
    raise InputError(f"{path} has no {_NAMES}; write a class name a line into it, or name such a file (--names)")


def _picture(path: Path, key: str, split: str | None) -> SourcePicture:
    labels = label_path(path)
    return SourcePicture(key, path, (labels,) if labels.is_file() else (), split)


def _first_line(path: Path) -> bool:
    """Return whether a text file's first line is a class and shares."""
    try:
        with path.open(encoding="utf-8") as file:
            return _LINE.fullmatch(file.readline(1 << 20).rstrip("\n")) is not None
    except (OSError, UnicodeDecodeError):
        return False


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no UTF-8 text (byte {error.start}); write it anew") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}); give a readable file") from None
