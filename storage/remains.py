"""Whether anything of an account is left: the check after an erasure, for tests and for the operator."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import LargeBinary, String, Table, cast, or_, select
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
    columns: list[Any] = [column if isinstance(column.type, LargeBinary) else cast(column, String) for column in table.columns]
    named = or_(*(cast(column, String).contains(word, autoescape=True) for column in columns for word in words))
    for row in session.execute(select(*table.primary_key).where(named)):
        yield "/".join([table.name, *map(str, row)])
