"""The database: one engine, short transactions. SQLite (WAL) and PostgreSQL run the same code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.engine import URL
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.orm import Session

from core.errors import ServiceDown
from storage.tables import Base

BUSY_TIMEOUT_S = 30  # how long a SQLite writer waits for the one before it
CONNECT_TIMEOUT_S = 5
QUIET: dict[str, Any] = {"hide_parameters": True}  # an error's text is logged, and the values in it are a customer's


class Database:
    """``session()`` for work that may write, ``reader()`` for queries only: on SQLite a reader never waits for a writer."""

    def __init__(self, url: str) -> None:
        self.url = make_url(url)
        self.engine = _sqlite(self.url) if self.is_sqlite else _server(self.url)
        self._reading = self.engine.execution_options(read_only=True)

    @property
    def is_sqlite(self) -> bool:
        return self.url.get_backend_name() == "sqlite"

    @contextmanager
    def session(self) -> Iterator[Session]:
        """One transaction: commits at the end, rolls back on error. Keep it short: SQLite has one writer at a time.

        Raises :class:`core.errors.ServiceDown` if the database does not answer.
        """
        with _as_service_down(), Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def reader(self) -> Iterator[Session]:
        """One snapshot for queries; nothing written here is kept."""
        with _as_service_down(), Session(self._reading, expire_on_commit=False) as session:
            yield session

    def create_all(self) -> None:
        """All tables at once, for tests; a service that lasts calls :func:`storage.migrations.upgrade`."""
        Base.metadata.create_all(self.engine)

    def forget_erased_pages(self) -> None:
        """On SQLite the log file keeps what was overwritten until it is emptied; best effort, since a reader may hold it."""
        if self.is_sqlite:
            connection = self.engine.raw_connection()
            try:
                connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
            finally:
                connection.close()

    def close(self) -> None:
        self.engine.dispose()


@contextmanager
def _as_service_down() -> Iterator[None]:
    try:
        yield
    except (OperationalError, InterfaceError) as error:
        raise ServiceDown(f"the database does not answer: {error.orig}") from error


def _server(url: URL) -> Engine:
    return create_engine(
        url, **QUIET, pool_pre_ping=True, pool_size=10, max_overflow=20, connect_args={"connect_timeout": CONNECT_TIMEOUT_S}
    )


def _sqlite(url: URL) -> Engine:
    if url.database and url.database != ":memory:":
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, **QUIET, connect_args={"timeout": BUSY_TIMEOUT_S})
    event.listen(engine, "connect", _set_up_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves
    for pragma in (
        "journal_mode=WAL",
        "synchronous=NORMAL",
        "foreign_keys=ON",
        "secure_delete=ON",
        f"busy_timeout={BUSY_TIMEOUT_S * 1000}",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that reads first and writes later cannot wait for another writer (SQLite answers "locked" at once): take the turn first.
    read_only = connection.get_execution_options().get("read_only", False)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")
