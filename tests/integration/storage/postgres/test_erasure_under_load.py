"""On PostgreSQL, where transactions do not wait for one another as they do on SQLite."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from core.settings import Settings
from storage.wiring import Storage, open_storage
from tests.integration.storage.erasing_under_load import (
    SETTINGS,
    accounts,
    impatient,
    load,
    quiet,
    test_nothing_of_a_part_is_left_while_everything_goes_on,
    test_nothing_of_the_account_is_left_and_the_neighbour_lost_nothing,
)
from tests.unit.storage.conftest import job_settings

__all__ = [
    "accounts",
    "impatient",
    "load",
    "quiet",
    "test_nothing_of_a_part_is_left_while_everything_goes_on",
    "test_nothing_of_the_account_is_left_and_the_neighbour_lost_nothing",
]


@pytest.fixture
def storage(settings: Settings, tmp_path: Path) -> Iterator[Storage]:
    opened = open_storage(job_settings(tmp_path, **SETTINGS, database_url=settings.database_url))
    opened.db.create_all()
    yield opened
    deadlocks = deadlocks_of(opened)
    opened.db.close()
    assert deadlocks == 0, "two transactions waited for each other, though one of them may have been repeated with success"


def deadlocks_of(storage: Storage) -> int:
    """Since the database was made. A session reports its own at most a second after its transaction, and when it ends."""
    time.sleep(1.5)
    with storage.db.session() as session:
        return int(session.scalar(text("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")) or 0)
