from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from alembic import op
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect

from storage import migrations
from storage.database import Database
from storage.tables import Base
from tests.unit.storage.migrating import kept, revisions, there_and_back


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


@pytest.mark.parametrize("start", revisions())
def test_no_row_is_lost_on_the_way_up_or_down(tmp_path: Path, start: str) -> None:
    written, above, below = there_and_back(url(tmp_path), start)
    assert all(written.values())
    assert kept(above, of=written) == written
    assert below == written


def test_a_step_that_fails_takes_those_before_it_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So all are one transaction, in which a process that starts at the same moment cannot meet this one."""

    def fail(*_: object) -> None:
        raise RuntimeError("in the middle")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="in the middle"):
        patch.setattr(op, "add_column", fail)
        migrations.upgrade(url(tmp_path))
    assert migrations.current_revision(url(tmp_path)) is None
    assert inspect(Database(url(tmp_path)).engine).get_table_names() == []
    migrations.upgrade(url(tmp_path))
    assert migrations.current_revision(url(tmp_path)) == migrations.newest_revision()


def test_processes_that_start_at_the_same_moment_do_not_meet(tmp_path: Path) -> None:
    code = f"from storage.migrations import upgrade; upgrade({url(tmp_path)!r})"
    starts = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) for _ in range(3)]
    assert [(start.communicate(timeout=60)[1], start.returncode) for start in starts] == [(b"", 0)] * 3
    assert "accounts" in inspect(Database(url(tmp_path)).engine).get_table_names()
