"""A folder that is there whole or not at all."""

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from thingstuff.errors import InputError


@contextmanager
def made_aside(out: Path, option: str) -> Iterator[Path]:
    """Give a new folder that takes the name `out` when all went well, and is removed where anything did not.

    Raises `InputError` where `out` is there already and holds anything; `option` is what the user named it by.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"{out} is there already and not empty; nothing is overwritten: give another {option}")
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    aside = out.absolute().with_name(f".{out.absolute().name}.{secrets.token_hex(4)}.part")
    aside.mkdir()
    try:
        yield aside
        if out.exists():
            out.rmdir()
        aside.rename(out)
    except BaseException:
        shutil.rmtree(aside)
        raise
