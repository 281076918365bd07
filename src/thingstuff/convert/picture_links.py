"""Pictures of a new data set: links to the old ones, or copies."""

import os
import secrets
import shutil
from pathlib import Path

from thingstuff.errors import InputError


def place_picture(source: Path, target: Path, copy: bool) -> None:
    """Make `target` a symbolic link to a picture, or a copy where `copy` is set or links are not to be had.

    Folders are made as needed. What stands at `target` already is replaced, unless it is that very link. Either is made
    aside and renamed: `target` is never half a picture. Raises `InputError` where there is no picture; an `OSError`
    (disk full) comes through.
    """
    source = source.resolve()
    if not source.is_file():
        raise InputError(f"{source} is not there; put the picture there or correct the name")
    if not copy and target.is_symlink() and Path(os.readlink(target)) == source:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{secrets.token_hex(8)}.part")  # not the target's name, which may be as long as can be
    try:
        if copy or not _linked(source, aside):
            shutil.copyfile(source, aside)
        os.replace(aside, target)
    finally:
        aside.unlink(missing_ok=True)


def _linked(source: Path, target: Path) -> bool:
    try:
        target.symlink_to(source)
    except OSError:  # Windows without the right to, file systems without links
        return False
    return True
