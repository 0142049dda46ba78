from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect

from storage import migrations
from storage.database import Database
from storage.tables import Base


def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'x.db'}"


def test_migrations_make_the_tables_that_the_code_expects(tmp_path: Path) -> None:
    migrations.upgrade(url(tmp_path))
    with Database(url(tmp_path)).engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), Base.metadata) == []


def test_every_step_goes_back(tmp_path: Path) -> None:
    migrations.upgrade(url(tmp_path))
    migrations.downgrade(url(tmp_path), "base")
    assert inspect(Database(url(tmp_path)).engine).get_table_names() == ["alembic_version"]
    migrations.upgrade(url(tmp_path))


def test_processes_that_start_at_the_same_moment_do_not_meet(tmp_path: Path) -> None:
    code = f"from storage.migrations import upgrade; upgrade({url(tmp_path)!r})"
    starts = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) for _ in range(3)]
    assert [(start.communicate(timeout=60)[1], start.returncode) for start in starts] == [(b"", 0)] * 3
    assert "accounts" in inspect(Database(url(tmp_path)).engine).get_table_names()
