"""A row in every table of any revision, written and read without the code's own tables, which know only the newest."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from alembic.script import ScriptDirectory
from sqlalchemy import JSON, Boolean, Column, DateTime, Float, Integer, LargeBinary, MetaData, select
from sqlalchemy.engine import Engine

from storage import migrations
from storage.database import Database

Rows = dict[str, list[dict[str, Any]]]
NAME = "x"  # of every row, so that foreign keys fit
MOMENT = datetime(2026, 11, 21, 12, 30, 15, 250000, UTC)


def revisions() -> list[str]:
    """Oldest first."""
    return [script.revision for script in reversed(list(ScriptDirectory.from_config(migrations.config()).walk_revisions()))]


def there_and_back(url: str, start: str) -> tuple[Rows, Rows, Rows]:
    """Rows written at ``start``; what the newest revision has of them; what is left after going back."""
    migrations.upgrade(url, start)
    engine = Database(url).engine
    written = fill(engine)
    migrations.upgrade(url)
    above = read(engine)
    migrations.downgrade(url, start)
    below = read(engine)
    engine.dispose()
    return written, above, below


def fill(engine: Engine) -> Rows:
    tables = _tables(engine)
    with engine.begin() as connection:
        for table in tables.sorted_tables:
            connection.execute(table.insert().values({column.name: _value(column) for column in table.columns}))
    return read(engine)


def read(engine: Engine) -> Rows:
    tables = _tables(engine).sorted_tables
    with engine.begin() as connection:
        return {table.name: [dict(row) for row in connection.execute(select(table)).mappings()] for table in tables}


def kept(rows: Rows, of: Rows) -> Rows:
    """``rows``, without the tables and columns that ``of`` does not know."""
    return {table: [{name: row[name] for name in of[table][0]} for row in rows[table]] for table in of}


def _tables(engine: Engine) -> MetaData:
    found = MetaData()
    found.reflect(engine)
    found.remove(found.tables["alembic_version"])
    return found


def _value(column: Column[Any]) -> Any:
    of_type: tuple[tuple[Any, Any], ...] = (
        (JSON, {"ä": [1, None]}),
        (DateTime, MOMENT),
        (Boolean, True),
        (Float, 0.5),
        (Integer, 7),
        (LargeBinary, b"\0x"),
    )
    return next((value for kind, value in of_type if isinstance(column.type, kind)), NAME)
