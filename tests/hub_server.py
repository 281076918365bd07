"""A small server on localhost that speaks the Hugging Face hub's protocol for files."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from huggingface_hub import constants

Files = dict[str, bytes]


@dataclass
class Hub:
    """Repositories -> revisions -> files; what was asked for; and what to do wrong."""

    repositories: dict[str, dict[str, Files]]
    requests: list[str] = field(default_factory=list)
    cut_short: bool = False
    status: int | None = None
    endpoint: str = ""

    def downloads(self) -> list[str]:
        """Return the repositories' files that were sent; the client asks for other things of its own too."""
        return [line.rsplit("/", 1)[-1] for line in self.requests if line.startswith("GET") and "/resolve/" in line]


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_HEAD(self) -> None:
        self._answer(send=False)

    def do_GET(self) -> None:
        self._answer(send=True)

    def _answer(self, send: bool) -> None:
        self.hub.requests.append(f"{self.command} {self.path}")
        repository, _, rest = self.path.strip("/").partition("/resolve/")
        revision, _, name = rest.partition("/")
        revisions = self.hub.repositories.get(repository)
        if self.hub.status is not None:
            self._refuse(self.hub.status, "")
        elif revisions is None:
            self._refuse(404, "RepoNotFound")
        elif revision not in revisions:
            self._refuse(404, "RevisionNotFound")
        elif name not in revisions[revision]:
            self._refuse(404, "EntryNotFound")
        else:
            self._send(revisions[revision], name, send)

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, files: Files, name: str, send: bool) -> None:
        content = files[name]
        self.send_response(200)
        self.send_header("X-Repo-Commit", hashlib.sha1(b"".join(files.values())).hexdigest())
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        length = len(content) // 2 if send and self.hub.cut_short else len(content)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if send:
            self.wfile.write(content[:length])

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the tests read `Hub.requests`."""


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Serve a hub's files for as long as the block lasts."""
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def empty_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the hub's client keep what it fetches in an empty folder."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return folder


def use(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the hub's client, which reads HF_ENDPOINT when it is imported, ask another server."""
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
