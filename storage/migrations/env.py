"""What Alembic runs. The connection comes from :func:`storage.migrations.upgrade`."""

from __future__ import annotations

from alembic import context
from sqlalchemy import text

from storage.tables import Base

LOCK = 7_214_093_001  # any number that nothing else in the database uses

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=Base.metadata,
    render_as_batch=connection.dialect.name == "sqlite",
    compare_type=True,
    transactional_ddl=True,  # as SQLite can, though Alembic does not count on it: else each revision is committed alone
)
with context.begin_transaction():
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SELECT pg_advisory_xact_lock({LOCK})"))  # SQLite's BEGIN IMMEDIATE does the same
    context.run_migrations()
