"""A stand-in for the hub on a loopback port: one repository, whose files come over HTTP with ranges. It can break off in the middle."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

COMMIT = "a" * 40
LARGE = 10_000


@dataclass
class FakeHub:
    repository: str
    files: dict[str, bytes]
    card: dict[str, Any] = field(default_factory=dict)
    gated: bool = False
    piece: int | None = None  # bytes of a large file that it sends before it cuts the connection
    sent: list[tuple[str, str]] = field(default_factory=list)  # file and Range header of every GET
    endpoint: str = ""

    def about(self) -> dict[str, Any]:
        siblings = [{"rfilename": name, "size": len(data)} for name, data in self.files.items()]
        return {
            "id": self.repository,
            "modelId": self.repository,
            "sha": COMMIT,
            "siblings": siblings,
            "cardData": self.card,
            "gated": False,
        }

    def tree(self) -> list[dict[str, Any]]:
        return [{"type": "file", "path": name, "size": len(data), "oid": etag(data)} for name, data in self.files.items()]


def etag(data: bytes) -> str:
    return sha256(data).hexdigest()[:40]


@contextmanager
def serving(hub: FakeHub) -> Iterator[FakeHub]:
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub

    def do_HEAD(self) -> None:
        self._file(body=False)

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        api = f"/api/models/{self.hub.repository}"
        if path in (api, f"{api}/revision/main", f"{api}/revision/{COMMIT}"):
            self._json(self.hub.about())
        elif path == f"{api}/tree/{COMMIT}":
            self._json(self.hub.tree())
        elif path.startswith("/api/"):
            self._refuse(404, "RevisionNotFound" if path.startswith(api) else "RepoNotFound")
        else:
            self._file(body=True)

    def _file(self, body: bool) -> None:
        name = urlsplit(self.path).path.removeprefix(f"/{self.hub.repository}/resolve/{COMMIT}/")
        data = self.hub.files.get(name)
        if self.hub.gated or data is None:
            self._refuse(403 if self.hub.gated else 404, "GatedRepo" if self.hub.gated else "EntryNotFound")
            return
        wanted = self.headers.get("Range", "")
        start = int(wanted.removeprefix("bytes=").partition("-")[0] or 0) if wanted else 0
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        for header, value in (("ETag", f'"{etag(data)}"'), ("X-Repo-Commit", COMMIT), ("Content-Length", str(len(data) - start))):
            self.send_header(header, value)
        self.end_headers()
        if body:
            self.hub.sent.append((name, wanted))
            self.wfile.write(data[start:][: self.hub.piece if len(data) > LARGE else None])

    def _json(self, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Quiet."""
