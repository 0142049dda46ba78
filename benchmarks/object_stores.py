"""Object stores on this machine's loopback: moto's S3 server where it is installed, else plain HTTP as a stand-in that says so.

moto reads a whole object for each range that it is asked for, so a server that reads only ranges stands beside it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol
from unittest.mock import patch

S3 = "moto's S3 server on loopback, by boto3"
RANGES = "server of ranges on loopback, by boto3"
STAND_IN = "HTTP server on loopback, a stand-in for S3"

BUCKET = "benchmark"
URL = f"s3://{BUCKET}?endpoint_url=http://127.0.0.1:{{port}}&region=us-east-1&addressing=path"
KEYS = {"AWS_ACCESS_KEY_ID": "benchmark", "AWS_SECRET_ACCESS_KEY": "benchmark"}

_CLIENT, _SERVER = ("boto3",), ("moto", "flask", "flask_cors")
_MOTO = "benchmarks.moto_server"


class Downloads(Protocol):
    """What an adapter cache asks of an object store."""

    def download(self, key: str, path: Path) -> None: ...


class S3Server:
    """moto's S3 server, a process of its own, so that its work does not slow the one that watches. ``log``: what it says."""

    def __init__(self, log: Path) -> None:
        with log.open("ab") as out:
            command = [sys.executable, "-m", _MOTO]
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=out, text=True, start_new_session=True)
        assert self.process.stdout is not None
        port = self.process.stdout.readline()
        if not port:
            self.close()
            raise RuntimeError(f"moto's server did not start: {log.read_text(errors='replace')[-2000:]}")
        self.port = int(port)
        self._wait()

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(20)

    def _wait(self) -> None:
        """Until it answers: its first answer takes seconds, since it imports what it serves only then."""
        ends = time.monotonic() + 60
        while time.monotonic() < ends:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{self.port}/moto-api/", timeout=2):
                return
            time.sleep(0.2)
        self.close()
        raise RuntimeError("moto's server does not answer")


class LoopbackStore:
    """Objects over plain HTTP from this machine."""

    def __init__(self, url: str) -> None:
        self.url = url

    def download(self, key: str, path: Path) -> None:
        with urllib.request.urlopen(f"{self.url}/{key}") as answer, path.open("wb") as file:
            while block := answer.read(1 << 22):
                file.write(block)


@contextmanager
def loopback_store(folder: Path) -> Iterator[tuple[Downloads, str]]:
    """The most real store that this machine offers, and its name for a row of figures. The stand-in serves what lies in ``folder``."""
    with s3_store(folder) if s3_installed() else stand_in(folder) as store:
        yield store, S3 if s3_installed() else STAND_IN


def s3_installed() -> bool:
    return client_installed() and all(find_spec(name) for name in _SERVER)


def client_installed() -> bool:
    """Of S3: enough for the server of ranges."""
    return all(find_spec(name) for name in _CLIENT)


@contextmanager
def s3_store(folder: Path) -> Iterator[Any]:
    """The product's own S3 store over a fresh bucket; the server's log goes into ``folder``."""
    from storage.s3 import S3Store  # boto3 is not on every machine that renders

    folder.mkdir(parents=True, exist_ok=True)
    server = S3Server(folder / "moto.log")
    try:
        with patch.dict(os.environ, KEYS):
            store = S3Store.from_url(URL.format(port=server.port))
            store.client.create_bucket(Bucket=store.bucket)
            yield store
    finally:
        server.close()


class RangedStore:
    """Files of a folder, downloaded by the product's own S3 store from a process that reads no more than the ranges it is asked for."""

    def __init__(self, port: int) -> None:
        from storage.s3 import S3Store

        with patch.dict(os.environ, KEYS):
            self._store = S3Store.from_url(URL.format(port=port))

    def download(self, key: str, path: Path) -> None:
        self._store.download(key, path)


@contextmanager
def ranged_store(folder: Path) -> Iterator[RangedStore]:
    """Objects are the files in ``folder / BUCKET``."""
    command = [sys.executable, "-m", "benchmarks.range_server", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert process.stdout is not None
        yield RangedStore(int(process.stdout.readline()))
    finally:
        process.terminate()
        process.wait(20)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        return None


@contextmanager
def stand_in(folder: Path) -> Iterator[LoopbackStore]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield LoopbackStore(f"http://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        server.server_close()
