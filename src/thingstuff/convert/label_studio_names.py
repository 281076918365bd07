"""Which picture a task of Label Studio is of: URLs, uploads with a prefix, and local storage, matched with files."""

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from thingstuff.convert.picture_files import PICTURE_SUFFIXES
from thingstuff.errors import InputError

_UPLOAD = re.compile(r"^[0-9a-f]{8}-")


def picture_name(data: Mapping[str, Any]) -> PurePosixPath:
    """Return a task's picture, as a path with forward slashes.

    Raises `InputError` where its data name none or several.
    """
    if any(
        isinstance(v, list) and v and all(type(n) is str and _is_picture(_path(n)) for n in v) for v in data.values()
    ):
        raise InputError("it has several pictures; Label Studio's tasks must be of one picture each")
    named = {k: _path(v) for k, v in data.items() if type(v) is str and k != "file_upload" and _is_picture(_path(v))}
    if "image" in named or len(named) == 1:
        return named.get("image") or next(iter(named.values()))
    if named:
        raise InputError(
            f"its data name several pictures ({', '.join(named)}); rename the one that is labelled 'image'"
        )
    upload = data.get("file_upload")
    if type(upload) is str and _is_picture(_path(upload)):
        return _path(upload)
    raise InputError(f"its data ({', '.join(k for k in data if k != 'file_upload')}) name no picture file; add 'image'")


def _path(text: str) -> PurePosixPath:
    """Return the path in a URL, as it stands; local storage has it in the query (/data/local-files/?d=...)."""
    path = text
    if "://" in text or "/local-files" in text:
        try:
            url = urlsplit(text)
        except ValueError:
            return PurePosixPath(text)
        path = parse_qs(url.query).get("d", [url.path])[0]
    return PurePosixPath(path.replace("\\", "/"))


def _is_picture(path: PurePosixPath) -> bool:
    return path.suffix.lower() in PICTURE_SUFFIXES


def match(name: PurePosixPath, by_name: Mapping[str, Sequence[Path]]) -> Path | None:
    """Return the picture of that name; of several the one whose folders agree the furthest.

    Raises `InputError` where that leaves more than one.
    """
    # URLs are percent-encoded, and so are paths of uploads
    plain = PurePosixPath(unquote(str(name)))
    called = (name.name, _UPLOAD.sub("", name.name), plain.name, _UPLOAD.sub("", plain.name))
    paths: Sequence[Path] = next((by_name[text] for text in called if text in by_name), ())
    if len(paths) < 2:
        return paths[0] if paths else None
    agreeing = [_agreeing(path.parts[-2::-1], plain.parts[-2::-1]) for path in paths]
    best = [path for path, count in zip(paths, agreeing, strict=True) if count == max(agreeing)]
    if len(best) > 1:
        raise InputError(f"{best[0]} and {best[1]} may both be its picture {name}; keep one, or rename")
    return best[0]


def _agreeing(parts: Iterable[str], others: Iterable[str]) -> int:
    return len([*takewhile(lambda pair: pair[0] == pair[1], zip(parts, others, strict=False))])
