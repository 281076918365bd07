"""What a conversion has done so far, picture by picture, so that a second run goes on and never overwrites an edit."""

import hashlib
import json
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

from thingstuff.convert.source import SourcePicture
from thingstuff.errors import InputError
from thingstuff.io import atomic_write, read_json

FOLDER = ".convert"
"""Where it lies, in the folder of the conversion."""
_VERSION = 1
_BEGUN, _GONE = "begun", "gone"  # entries that are no picture: one that is being replaced, one that is removed


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
    """The converted pictures of a folder by their key; a picture is added when all its files are there.

    One run at a time has it open; `close` it.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any]) -> None:
        self.out, self.settings = out, settings
        self.done: dict[str, Done] = {}
        self.category_ids: dict[str, int] = {}
        self.replaces = False
        self._jsons: dict[str, str] = {}
        self._old: list[Done] = []
        self._begun: set[str] = set()
        self._lock: IO[bytes] | None = None
        self._lines, self._settings = out / FOLDER / "pictures.jsonl", out / FOLDER / "settings.json"

    def open(self, overwrite: bool) -> None:
        """Read what an earlier run left, or begin; with `overwrite` it is to be replaced (`replaces`, see `replace`).

        Raises `InputError` where the folder holds anything else, or without `overwrite` a conversion with other
        settings, or one whose JSONs were changed by somebody else.
        """
        if self.out.exists() and not self.out.is_dir():
            raise InputError(f"{self.out} is a file; give a folder (--to)")
        if self._settings.is_file():
            self._lock = _locked(self.out / FOLDER / "lock", self.out)
            self._go_on(overwrite)
        elif self.out.is_dir() and any(self.out.iterdir()):
            raise InputError(f"{self.out} is not empty and holds no conversion; give another folder (--to)")
        else:
            (self.out / FOLDER).mkdir(parents=True, exist_ok=True)
            self._lock = _locked(self.out / FOLDER / "lock", self.out)
        if not self._settings.is_file():
            self._write_settings()

    def replace(self) -> None:
        """Remove what the earlier conversion wrote, and begin anew."""
        self._remove()
        self._write_settings()
        self.replaces = False

    def close(self) -> None:
        """Let another run have it."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def add(self, done: Done) -> None:
        """Write a picture down."""
        self._take(done)
        self._append(done._asdict())

    def begin(self, keys: Iterable[str]) -> None:
        """Make ready to convert pictures: those that were converted before are written down as ours to replace.

        Raises `InputError` where a map that is to be replaced was changed since by somebody else.
        """
        again = [key for key in keys if key in self.done and key not in self._begun]
        for key in again:
            self._check_unchanged(key)
        for key in again:
            self._begun.add(key)
            self._append({_BEGUN: key})

    def tidy(self, keys: Collection[str]) -> None:
        """Remove what earlier runs wrote and this one does not have: of pictures but `keys`, and of former splits.

        A map that somebody changed stays, with its picture.
        """
        gone = [done for key, done in self.done.items() if key not in keys]
        current = [done for key, done in self.done.items() if key in keys]
        kept = {name for done in current for name in (done.picture, done.map)}
        for done in (*self._old, *gone):
            path = self.out / done.map
            if done.map not in kept and path.is_file() and stamp(path) != done.stamp:
                continue
            for name in {done.picture, done.map} - kept:
                (self.out / name).unlink(missing_ok=True)
        for split in {done.split for done in (*self._old, *gone)} - {done.split for done in current}:
            (self.out / f"panoptic_{split}.json").unlink(missing_ok=True)
        for done in gone:
            del self.done[done.key]
            self._append({_GONE: done.key})
        self._old = []

    def keep_categories(self, ids: Mapping[str, int]) -> None:
        """Write down the categories' ids, so that later runs give the same classes the same ids."""
        if dict(ids) != self.category_ids:
            self.category_ids = {**self.category_ids, **ids}
            self._write_settings()

    def write_jsons(self, write: Callable[[], tuple[Path, ...]]) -> tuple[Path, ...]:
        """Have the JSONs written, and write down how they were left; returns what `write` does."""
        self._jsons = {}
        self._write_settings()
        paths = write()
        self._jsons = {path.relative_to(self.out).as_posix(): stamp(path) for path in paths}
        self._write_settings()
        return paths

    def current(self, picture: SourcePicture, split: str, kinds: Mapping[str, bool]) -> bool:
        """Whether a picture is converted as its files are now, its map is there, and its categories are as they were.

        `kinds` tells of each category whether it is a thing.
        """
        done = self.done.get(picture.key)
        if done is None or picture.key in self._begun or done.split != split:
            return False
        if done.fingerprint != fingerprint(picture):
            return False
        if any(kinds.get(s["category_id"]) != bool(s["isthing"]) for s in done.segments):
            return False
        return (self.out / done.map).is_file() and (self.out / done.picture).exists()

    def _check_unchanged(self, key: str) -> None:
        done = self.done[key]
        if (path := self.out / done.map).is_file() and stamp(path) != done.stamp:
            raise InputError(
                f"{path} was changed after it was converted, and so were its labels; move one of them away, or "
                "convert to another folder (--to)"
            )

    def _take(self, done: Done) -> None:
        before = self.done.get(done.key)
        if before is not None and (before.map, before.picture) != (done.map, done.picture):
            self._old.append(before)
        self.done[done.key] = done
        self._begun.discard(done.key)

    def _append(self, entry: Mapping[str, Any]) -> None:
        with self._lines.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def _go_on(self, overwrite: bool) -> None:
        stored = read_json(self._settings)
        settings = stored.get("settings") if isinstance(stored, dict) else None
        if not isinstance(settings, dict) or stored.get("version") != _VERSION:
            raise InputError(f"{self._settings} is of another version; give another folder (--to)")
        self._read_lines()
        was, now = _flat(settings), _flat(self.settings)
        changed = sorted(k for k in {**was, **now} if was.get(k) != now.get(k))
        if changed and not overwrite:
            told = "; ".join(f"{k} was {was.get(k)!r:.60}, now {now.get(k)!r:.60}" for k in changed)
            raise InputError(
                f"{self.out} holds a conversion with other settings ({told}); give another --to, or --overwrite"
            )
        if overwrite:
            self.replaces = True
            self._old, self.done = [*self._old, *self.done.values()], {}
            return
        self.category_ids, self._jsons = dict(stored.get("categories", {})), dict(stored.get("jsons", {}))
        for name, written in self._jsons.items():
            if (path := self.out / name).is_file() and stamp(path) != written:
                raise InputError(
                    f"{path} was changed after it was written; convert to another folder (--to), or write it anew with "
                    "all else (--overwrite)"
                )

    def _read_lines(self) -> None:
        if not self._lines.is_file():
            return
        text = self._lines.read_text(encoding="utf-8")
        for line in text.splitlines():
            try:
                self._read_entry(json.loads(line))
            except (ValueError, TypeError):
                continue  # the line at which a run was killed: its picture is converted again
        if text and not text.endswith("\n"):
            with self._lines.open("a", encoding="utf-8") as file:
                file.write("\n")

    def _read_entry(self, entry: Any) -> None:
        if not isinstance(entry, dict):
            return
        if _BEGUN in entry:
            self._begun.add(entry[_BEGUN])
        elif _GONE in entry:
            self.done.pop(entry[_GONE], None)
        else:
            self._take(Done(**entry))

    def _remove(self) -> None:
        for done in (*self._old, *self.done.values()):
            for name in (done.picture, done.map, f"panoptic_{done.split}.json"):
                (self.out / name).unlink(missing_ok=True)
        for path in (self._lines, self._settings):
            path.unlink(missing_ok=True)
        self.done, self.category_ids, self._jsons, self._old, self._begun = {}, {}, {}, [], set()

    def _write_settings(self) -> None:
        stored = {"settings": self.settings, "categories": self.category_ids, "jsons": self._jsons}
        atomic_write(self._settings, json.dumps({"version": _VERSION, **stored}, indent=1))


def _locked(path: Path, out: Path) -> IO[bytes]:
    """Open a lock that lasts as long as its file is open, however its process ends."""
    file = path.open("ab")
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise InputError(f"another run is converting to {out}; wait for its end, or give another --to") from None
    return file


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with those in a setting under `name.own`, so that a difference is told by its own name."""
    parts = ((k, v.items()) if isinstance(v, Mapping) else (k, ((None, v),)) for k, v in settings.items())
    return {f"{k}.{own}" if own else k: v for k, inner in parts for own, v in inner}


def fingerprint(picture: SourcePicture) -> str:
    """Return a text that changes when a picture or its labels do."""
    parts = [picture.key, repr(picture.image_id), repr(picture.payload), repr(sorted(picture.extra.items()))]
    parts += [stamp(path) for path in (picture.picture, *picture.labels) if path.exists()]
    return hashlib.sha256("\n".join(parts).encode(errors="backslashreplace")).hexdigest()[:32]


def stamp(path: Path) -> str:
    """Return a file's size and time of change."""
    found = path.stat()
    return f"{found.st_size}-{found.st_mtime_ns}"
