"""One order of locks, so that no two transactions wait for each other: account, subject, what belongs to it, its job, messages.

On PostgreSQL a row that refers to another locks that one as it is written, and an erasure locks what it erases before what hangs on it. So
whoever writes rows of an account in more than one table holds the account first. Holders share it; only its erasure waits for all of them,
and they for it. SQLite, with one writer at a time, needs none of this and takes no locks of rows.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from storage.tables import Account, Job


def hold_account(session: Session, account_id: str | None) -> bool:
    """Nobody erases the account until the transaction ends. False if it is erased already."""
    return _hold(session, Account.id == account_id)


def hold_account_whole(session: Session, account_id: str) -> bool:
    """The same, and nobody begins to erase a part of it."""
    return session.scalar(select(Account.id).where(Account.id == account_id).with_for_update(read=True)) is not None


def begin_in_account(session: Session, account_id: str | None) -> bool:
    """For the erasure of a part: one at a time in an account; everything else goes on."""
    return session.scalar(select(Account.id).where(Account.id == account_id).with_for_update(key_share=True)) is not None


def hold_account_of_job(session: Session, job_id: str) -> bool:
    """The same, for who knows a job's id alone."""
    return _hold(session, Account.id == select(Job.account_id).where(Job.id == job_id).scalar_subquery())


def hold_account_of_address(session: Session, email: str) -> bool:
    return _hold(session, Account.email == email)


def _hold(session: Session, which: ColumnElement[bool]) -> bool:
    query: Any = select(Account.id).where(which).with_for_update(read=True, key_share=True)
    return session.scalar(query) is not None
