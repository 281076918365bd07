"""Opening our pages in a real browser: headless Chromium driven by playwright, skipped where there is none."""

import atexit
import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Request, sync_playwright

DESKTOP, PHONE = (1280, 900), (390, 844)
"""(width, height) of a window, in CSS pixels."""
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def chromium() -> str:
    """Return the browser's path; skips the test where none is installed."""
    for name in NAMES:
        if found := shutil.which(name):
            return found
    pytest.skip(f"no browser here: none of {', '.join(NAMES)} is on PATH (Debian: apt-get install chromium)")


@cache
def browser() -> Browser:
    """Return a browser that all tests of this process share: starting one takes longer than most of them."""
    playwright = sync_playwright().start()
    atexit.register(playwright.stop)
    started = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"])
    atexit.register(started.close)
    return started


@dataclass
class Opened:
    """A page in the browser, and what it did that it should not: `errors` of its scripts, `requests` that leave it."""

    page: Page
    path: Path
    """The page's file: all that may be fetched."""
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def go(self, path: Path) -> Page:
        """Open another page of ours in the same window."""
        self.path = path
        self.page.goto(path.resolve().as_uri())
        return self.page

    def note(self, request: Request) -> None:
        """Keep a request that leaves the page."""
        own = request.url.partition("#")[0] == self.path.resolve().as_uri()
        if not own and not request.url.startswith(("data:", "blob:")):
            self.requests.append(request.url)

    def check(self) -> None:
        """Assert that no script failed, nothing was fetched but the page itself, and nothing is wider than it."""
        assert self.errors == [], f"scripts failed: {self.errors}"
        assert self.requests == [], f"the page fetched {self.requests}"
        wide = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert self.page.evaluate(wide) <= 0, "the page scrolls sideways"


@contextlib.contextmanager
def opened(path: Path, size: tuple[int, int] = DESKTOP, *, dark: bool = False, script: bool = True) -> Iterator[Opened]:
    """Open a file as a person would, and check at the end that it did nothing it should not."""
    context = browser().new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme="dark" if dark else "light",
        has_touch=size == PHONE,
        java_script_enabled=script,
        reduced_motion="reduce",
    )
    try:
        seen = Opened(context.new_page(), path)
        context.on("request", seen.note)
        seen.page.on("pageerror", lambda error: seen.errors.append(str(error)))
        seen.page.on("console", lambda m: seen.errors.append(m.text) if m.type in ("error", "warning") else None)
        seen.page.set_default_timeout(15_000)
        seen.go(path)
        yield seen
        seen.check()
    finally:
        context.close()


def eventually(page: Page, question: Callable[[], bool]) -> bool:
    """Ask until the answer is yes, for five seconds: a page does what it was told when it gets to it."""
    for _ in range(100):
        if question():
            return True
        page.wait_for_timeout(50)
    return question()


def screenshot(page: Page, name: str, *, full: bool = True) -> None:
    """Keep a screenshot in the folder that THINGSTUFF_SCREENSHOTS names, for people to look at; else take it and go."""
    picture = page.screenshot(full_page=full)
    assert picture.startswith(b"\x89PNG")
    if folder := os.environ.get("THINGSTUFF_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / f"{name}.png").write_bytes(picture)
