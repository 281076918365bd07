"""What a conversion has done so far, picture by picture, so that a second run goes on and never overwrites an edit."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from thingstuff.convert.source import SourcePicture
from thingstuff.errors import InputError
from thingstuff.io import atomic_write, read_json

FOLDER = ".convert"
"""Where it lies, in the folder of the conversion."""
_VERSION = 1


class Done(NamedTuple):
    """A converted picture: what it was made from, where it went, its entries, and what is to be told of it.

    `picture` and `map` are paths in the conversion's folder; `stamp` is the map's size and time as it was written;
    `segments` are entries of segments_info whose `category_id` is still the category's name.
    """

    key: str
    fingerprint: str
    split: str
    picture: str
    map: str
    stamp: str
    image: Mapping[str, Any]
    segments: list[dict[str, Any]]
    report: Mapping[str, Any]


class Ledger:
    """The converted pictures of a folder by their key; a picture is added when all its files are there."""

    def __init__(self, out: Path, settings: Mapping[str, Any]) -> None:
        self.out, self.settings = out, settings
        self.done: dict[str, Done] = {}
        self.category_ids: dict[str, int] = {}
        self._lines, self._settings = out / FOLDER / "pictures.jsonl", out / FOLDER / "settings.json"

    def open(self, overwrite: bool) -> None:
        """Read what an earlier run left, or begin.

        Raises `InputError` where the folder holds anything else, or a conversion with other settings and `overwrite`
        is not set; with it, what that one wrote is removed.
        """
        if self.out.exists() and not self.out.is_dir():
            raise InputError(f"{self.out} is a file; give a folder (--to)")
        if self._settings.is_file():
            self._go_on(overwrite)
        elif self.out.is_dir() and any(self.out.iterdir()):
            raise InputError(f"{self.out} is not empty and holds no conversion; give another folder (--to)")
        if not self._settings.is_file():
            self._settings.parent.mkdir(parents=True, exist_ok=True)
            self._write_settings()

    def add(self, done: Done) -> None:
        """Write a picture down."""
        self.done[done.key] = done
        with self._lines.open("a", encoding="utf-8") as file:
            file.write(json.dumps(done._asdict()) + "\n")

    def keep_categories(self, ids: Mapping[str, int]) -> None:
        """Write down the categories' ids, so that later runs give the same classes the same ids."""
        if dict(ids) != self.category_ids:
            self.category_ids = {**self.category_ids, **ids}
            self._write_settings()

    def current(self, picture: SourcePicture, split: str) -> bool:
        """Whether a picture is converted as its files are now, and its map is there."""
        done = self.done.get(picture.key)
        if done is None or done.split != split or done.fingerprint != fingerprint(picture):
            return False
        return (self.out / done.map).is_file() and (self.out / done.picture).exists()

    def check_unchanged(self, key: str) -> None:
        """Raise `InputError` where a map that is to be written again was changed since by somebody else."""
        done = self.done.get(key)
        if done is not None and (path := self.out / done.map).is_file() and stamp(path) != done.stamp:
            raise InputError(
                f"{path} was changed after it was converted, and so were its labels; move one of them away, or "
                "convert to another folder (--to)"
            )

    def _go_on(self, overwrite: bool) -> None:
        stored = read_json(self._settings)
        settings = stored.get("settings") if isinstance(stored, dict) else None
        if not isinstance(settings, dict) or stored.get("version") != _VERSION:
            raise InputError(f"{self._settings} is of another version; give another folder (--to)")
        self._read_lines()
        changed = sorted(k for k in {**settings, **self.settings} if settings.get(k) != self.settings.get(k))
        if changed and not overwrite:
            told = "; ".join(f"{k} was {settings.get(k)!r:.60}, now {self.settings.get(k)!r:.60}" for k in changed)
            raise InputError(
                f"{self.out} holds a conversion with other settings ({told}); give another --to, or --overwrite"
            )
        if changed or overwrite:
            self._remove()
        else:
            self.category_ids = dict(stored.get("categories", {}))

    def _read_lines(self) -> None:
        if not self._lines.is_file():
            return
        for line in self._lines.read_text(encoding="utf-8").splitlines():
            try:
                done = Done(**json.loads(line))
            except (ValueError, TypeError):
                continue  # the line at which a run was killed: its picture is converted again
            self.done[done.key] = done

    def _remove(self) -> None:
        for done in self.done.values():
            for name in (done.picture, done.map, f"panoptic_{done.split}.json"):
                (self.out / name).unlink(missing_ok=True)
        for path in (self._lines, self._settings):
            path.unlink(missing_ok=True)
        self.done = {}

    def _write_settings(self) -> None:
        stored = {"version": _VERSION, "settings": self.settings, "categories": self.category_ids}
        atomic_write(self._settings, json.dumps(stored, indent=1))


def fingerprint(picture: SourcePicture) -> str:
    """Return a text that changes when a picture or its labels do."""
    parts = [picture.key, repr(picture.image_id), repr(picture.payload), repr(sorted(picture.extra.items()))]
    parts += [stamp(path) for path in (picture.picture, *picture.labels) if path.exists()]
    return hashlib.sha256("\n".join(parts).encode(errors="backslashreplace")).hexdigest()[:32]


def stamp(path: Path) -> str:
    """Return a file's size and time of change."""
    found = path.stat()
    return f"{found.st_size}-{found.st_mtime_ns}"
