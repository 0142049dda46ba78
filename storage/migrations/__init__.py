"""Brings a database to the tables that this version of the code expects. Alembic, run from code: no ini file to keep."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from storage.database import Database


def upgrade(database_url: str, revision: str = "head") -> None:
    """Safe to call at every start, and by several processes at once: on SQLite and PostgreSQL the changes are one transaction."""
    _run(database_url, command.upgrade, revision)


def downgrade(database_url: str, revision: str) -> None:
    _run(database_url, command.downgrade, revision)


def config() -> Config:
    settings = Config()
    settings.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    return settings


def _run(database_url: str, action: object, revision: str) -> None:
    database, settings = Database(database_url), config()
    try:
        with database.engine.connect() as connection:
            settings.attributes["connection"] = connection
            action(settings, revision)  # type: ignore[operator]
    finally:
        database.close()


def current_revision(database_url: str) -> str | None:
    """The revision that the database stands at; None before the first."""
    database = Database(database_url)
    try:
        with database.engine.connect() as connection:
            return MigrationContext.configure(connection).get_current_revision()
    finally:
        database.close()


def newest_revision() -> str | None:
    return ScriptDirectory.from_config(config()).get_current_head()
