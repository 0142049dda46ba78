"""On PostgreSQL."""

from __future__ import annotations

import subprocess
import sys

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect

from core.settings import Settings
from storage import migrations
from storage.database import Database
from storage.tables import Base
from tests.unit.storage.migrating import kept, revisions, there_and_back


def test_migrations_agree_with_the_code_and_go_back(settings: Settings) -> None:
    migrations.upgrade(settings.database)
    with Database(settings.database).engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), Base.metadata) == []
    migrations.downgrade(settings.database, "base")
    assert inspect(Database(settings.database).engine).get_table_names() == ["alembic_version"]


@pytest.mark.parametrize("start", revisions())
def test_no_row_is_lost_on_the_way_up_or_down(settings: Settings, start: str) -> None:
    written, above, below = there_and_back(settings.database, start)
    assert all(written.values())
    assert kept(above, of=written) == written
    assert below == written


def test_processes_that_start_at_the_same_moment_do_not_meet(settings: Settings) -> None:
    code = f"from storage.migrations import upgrade; upgrade({settings.database!r})"
    starts = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) for _ in range(3)]
    assert [(start.communicate(timeout=60)[1], start.returncode) for start in starts] == [(b"", 0)] * 3
