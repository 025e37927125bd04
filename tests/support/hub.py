"""A hub of one's own: folders, answered as the Hugging Face hub answers."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """Its address, and the files whose content was asked for."""

    url: str
    fetched: set[str] = field(default_factory=set)


class _Answers(BaseHTTPRequestHandler):
    server: _Server

    def do_HEAD(self) -> None:
        self._file(send=False)

    def do_GET(self) -> None:
        path, api = self.path.partition("?")[0], f"/api/models/{self.server.hub_id}"
        files = self.server.files
        if path.startswith(f"{api}/tree/"):
            self._json([_entry(name, path) for name, path in files.items()])
        elif path.startswith(api):
            siblings = [{"rfilename": name} for name in files]
            self._json({"id": self.server.hub_id, "sha": COMMIT, "siblings": siblings})
        else:
            self._file(send=True)

    def _file(self, *, send: bool) -> None:
        place = self.path.partition("?")[0].removeprefix(f"/{self.server.hub_id}/resolve/")
        name = place.partition("/")[2]
        if name not in self.server.files:
            self.send_error(404)
            return
        content = self.server.files[name].read_bytes()
        self.send_response(200)
        self.send_header("ETag", f'"{_digest(self.server.files[name])}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if send:
            self.server.hub.fetched.add(name)
            self.wfile.write(content)

    def _json(self, value: object) -> None:
        content = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    def __init__(self, hub_id: str, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.hub_id, self.hub = hub_id, Hub(f"http://127.0.0.1:{self.server_port}")
        found = sorted(path for path in folder.rglob("*") if path.is_file())
        self.files = {path.relative_to(folder).as_posix(): path for path in found}


@contextmanager
def hub_of(hub_id: str, folder: Path) -> Iterator[Hub]:
    """Serves the files of a folder as the repository `hub_id`."""
    with _Server(hub_id, folder) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.hub
        finally:
            server.shutdown()
            thread.join()


def _entry(name: str, path: Path) -> dict[str, object]:
    return {"type": "file", "path": name, "size": path.stat().st_size, "oid": _digest(path)}


def _digest(path: Path) -> str:
    return hashlib.sha1(path.read_bytes(), usedforsecurity=False).hexdigest()
