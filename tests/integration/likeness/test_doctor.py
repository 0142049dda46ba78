"""The doctor before real servers: PostgreSQL, and Redis as it should and should not be set."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
import redis

from core.settings import Settings
from core.words import new_id
from likeness.checks import Finding, servers
from likeness.doctor import examine
from storage.migrations import downgrade, upgrade
from storage.redis_child import find_redis_server, start_embedded_redis
from tests.integration.storage.postgres.conftest import free_port, postgres

__all__ = ["postgres"]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(_env_file=None, var_dir=tmp_path / "var")  # type: ignore[call-arg]


def found(check: object, settings: Settings, name: str) -> dict[str, Finding]:
    return {finding.what: finding for finding in examine(name, check, settings)}  # type: ignore[arg-type]


@contextmanager
def redis_with(tmp_path: Path, *options: str) -> Iterator[str]:
    port = free_port()
    command = [find_redis_server(), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(tmp_path), "--save", "", *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        client = redis.Redis(port=port)
        for _ in range(100):
            try:
                client.ping()
                break
            except redis.ConnectionError:
                time.sleep(0.05)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.wait(10)


def test_a_real_postgres_is_known_by_its_version_and_its_clock(settings: Settings, postgres: str) -> None:
    name = new_id("t")
    with psycopg.connect(f"postgresql://likeness@{postgres}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    settings = settings.model_copy(update={"database_url": f"postgresql+psycopg://likeness:secret@{postgres}/{name}"})
    findings = found(servers.database, settings, "database")
    assert set(findings) == {"database"}, "one clock"
    assert "PostgreSQL" in findings["database"].said and "secret" not in findings["database"].said
    assert found(servers.migrations, settings, "migrations")["migrations"].level == "fail"
    upgrade(settings.database)
    assert found(servers.migrations, settings, "migrations")["migrations"].level == "ok"
    downgrade(settings.database, "-1")
    behind = found(servers.migrations, settings, "migrations")["migrations"]
    assert (behind.level, behind.fix) == ("fail", "Run: likeness migrate")


def test_the_embedded_broker_keeps_what_it_holds(settings: Settings) -> None:
    child = start_embedded_redis(settings)
    try:
        assert {name: one.level for name, one in found(servers.broker, settings, "broker").items()} == {
            "broker": "ok",
            "broker keeps": "ok",
        }
    finally:
        child.stop()


@pytest.mark.parametrize(
    ("options", "level", "advice"),
    [
        (["--maxmemory-policy", "allkeys-lru", "--appendonly", "yes"], "fail", "noeviction"),
        (["--maxmemory-policy", "noeviction", "--appendonly", "no"], "warn", "appendonly"),
        (["--maxmemory-policy", "noeviction", "--appendonly", "yes"], "ok", ""),
    ],
)
def test_a_broker_that_forgets_is_named(settings: Settings, tmp_path: Path, options: list[str], level: str, advice: str) -> None:
    with redis_with(tmp_path, *options) as url:
        keeps = found(servers.broker, settings.model_copy(update={"broker_url": url}), "broker")["broker keeps"]
    assert keeps.level == level and advice in keeps.fix


def test_a_broker_that_is_down_is_a_failure_and_soon_known(settings: Settings) -> None:
    began = time.monotonic()
    down = found(servers.broker, settings.model_copy(update={"broker_url": "redis://127.0.0.1:1/0"}), "broker")["broker"]
    assert down.level == "fail" and "jobs wait in the database" in down.fix
    assert time.monotonic() - began < 15
