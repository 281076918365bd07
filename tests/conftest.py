"""Shapes in signatures are enforced while the tests run."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

# Several processes share the cores: torch's own threads would get in each other's way.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from jaxtyping import install_import_hook

install_import_hook("thingstuff", "beartype.beartype").__enter__()

import pytest  # noqa: E402

SHARED = Path(__file__).resolve().parents[2] / "shared"


def golden_folder(name: str) -> Path:
    """The recorded numbers: THINGSTUFF_GOLDEN, else ../shared/golden, else the subset kept here."""
    chosen = os.environ.get("THINGSTUFF_GOLDEN")
    if chosen:
        return Path(chosen) / name
    shared = SHARED / "golden" / name
    return shared if shared.is_dir() else Path(__file__).parent / "golden" / name


@pytest.fixture
def shared_data() -> Path:
    """Folder of the small real data sets; tests that need it are skipped where it is missing."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip("the shared data sets are not here")
    return folder


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGINT as in a terminal, for this process and those it starts: background jobs are born ignoring it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
