"""Whether anything of an account is left: the check after an erasure, for tests and for the operator."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import Column, ColumnElement, LargeBinary, String, Table, cast, func, or_, select
from sqlalchemy.orm import Session

from storage import keys
from storage.mails import Post
from storage.tables import Base
from storage.wiring import Storage

_OPERATIONAL = ("erasures",)  # gone an hour after; holds ids only


def scan(storage: Storage, account_id: str, email: str | None = None, post: Post | None = None) -> list[str]:
    """What still names the account or its address: ``table/primary key``, object keys (once a version), sent mails.

    Empty after an erasure, once the last mail is sent: until then its row, which belongs to no account, holds the address.
    """
    words = [word for word in (account_id, email) if word]
    with storage.db.reader() as session:
        found = [row for table in Base.metadata.sorted_tables if table.name not in _OPERATIONAL for row in _rows(session, table, words)]
    found += list(storage.objects.versions(keys.account_prefix(account_id)))
    return found + ([f"sent mail to {email}"] * post.held_for(email) if post and email else [])


def _rows(session: Session, table: Table, words: list[str]) -> Iterator[str]:
    server = session.get_bind().dialect.name == "postgresql"
    texts = [_text(column, server) for column in table.columns]
    named = or_(*(text.contains(word, autoescape=True) for text in texts for word in words))
    for row in session.execute(select(*table.primary_key).where(named)):
        yield "/".join([table.name, *map(str, row)])


def _text(column: Column[Any], server: bool) -> ColumnElement[str]:
    """Bytes too: PostgreSQL would cast them to hexadecimal digits, in which no word is found."""
    return func.encode(column, "escape") if server and isinstance(column.type, LargeBinary) else cast(column, String)
