"""A customer's endpoint: a real HTTP (or HTTPS) server on the loopback that keeps what it was sent and answers as told."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


@dataclass
class Received:
    path: str
    headers: dict[str, str]  # names in lower case
    body: bytes


@dataclass
class Receiver:
    """``status``: what it answers; ``slow``: seconds between the bytes of its answer; ``location``: where it redirects to."""

    status: int = 204
    slow: float = 0.0
    location: str = ""
    received: list[Received] = field(default_factory=list)
    port: int = 0
    host: str = "127.0.0.1"

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}/hooks"


@contextmanager
def receiving(host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    receiver = Receiver(host=host)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.received.append(Received(self.path, {name.lower(): value for name, value in self.headers.items()}, body))
            if receiver.slow:
                return self._drip()
            self.send_response(receiver.status)
            if receiver.location:
                self.send_header("Location", receiver.location)
            self.send_header("Content-Length", "0")
            return self.end_headers()

        def _drip(self) -> None:
            try:
                for letter in b"HTTP/1.1 204 No Content\r\nX-Long: " + b"x" * 10_000:
                    self.wfile.write(bytes([letter]))
                    time.sleep(receiver.slow)
            except OSError:
                pass  # the sender has lost its patience

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer((host, 0), Handler)
    server.daemon_threads = True
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    receiver.port = server.server_port
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
