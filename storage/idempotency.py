"""Idempotency-Key: a POST that is sent twice acts once, and both get the same answer.

A process may die between the act and the note of its answer. What costs GPU time, a job, is therefore noted in the transaction that makes
it (:func:`made`): the repeat then gets the same training or portrait, and not a second one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from hashlib import sha256

from sqlalchemy import delete, update
from sqlalchemy.orm import Session

from core.errors import UserError
from storage.erasure_rows import names_erased
from storage.locks import hold_account, hold_account_whole
from storage.tables import IdempotencyRecord, now

KEPT = timedelta(hours=24)
ABANDONED = timedelta(seconds=60)  # whoever began it died before answering: the next one may act


_acting: ContextVar[tuple[str, str] | None] = ContextVar("acting", default=None)


@contextmanager
def acting(account_id: str, key: str) -> Iterator[None]:
    """Around the act of a request: what it makes is noted under the key."""
    token = _acting.set((account_id, key))
    try:
        yield
    finally:
        _acting.reset(token)


def made(session: Session, target_id: str) -> None:
    """A job was created for this target; in the same transaction."""
    if (request := _acting.get()) is not None:
        mine = (IdempotencyRecord.account_id == request[0]) & (IdempotencyRecord.key == request[1])
        session.execute(update(IdempotencyRecord).where(mine).values(target_id=target_id))


def digest(method: str, path: str, body: bytes) -> str:
    return sha256(b"\0".join([method.encode(), path.encode(), body])).hexdigest()


def begin(session: Session, account_id: str, key: str, request_sha256: str) -> IdempotencyRecord | None:
    """None: act, then :func:`finish` (or :func:`forget`). A record: answer with its ``status`` and ``body``, or, if nobody lived to note
    these, with what ``target_id`` is now. Commit before acting.

    ``idempotency/other-request`` (422) for another body under the same key, ``idempotency/in-progress`` (409) while the first one runs.
    """
    if not 1 <= len(key) <= 200:
        raise UserError("idempotency/key", "This Idempotency-Key cannot be used", "Use 1 to 200 characters, such as a UUID.", status=400)
    hold_account(session, account_id)
    record = session.get(IdempotencyRecord, (account_id, key), with_for_update=True)
    if record is not None and _stale(record):
        session.delete(record)
        session.flush()
        record = None
    if record is None:
        session.add(IdempotencyRecord(account_id=account_id, key=key, request_sha256=request_sha256, created_at=now()))
        session.flush()
        return None
    return _answered(record, request_sha256)


def finish(session: Session, account_id: str, key: str, status: int, body: bytes) -> None:
    """Remember the answer; one that names what was erased meanwhile is not kept."""
    hold_account_whole(session, account_id)
    record = session.get(IdempotencyRecord, (account_id, key))
    if record is None:  # the account, or what was made, was erased meanwhile
        return
    if names_erased(session, account_id, body.decode(errors="replace")):
        session.delete(record)
    else:
        record.status, record.body = status, body


def forget(session: Session, account_id: str, key: str) -> None:
    """The act failed on our side: a repeat may try again, unless something was made all the same."""
    mine = (IdempotencyRecord.account_id == account_id) & (IdempotencyRecord.key == key)
    session.execute(delete(IdempotencyRecord).where(mine, IdempotencyRecord.target_id.is_(None)))


def _stale(record: IdempotencyRecord) -> bool:
    age = now() - record.created_at
    return age > KEPT or (record.status is None and record.target_id is None and age > ABANDONED)


def _answered(record: IdempotencyRecord, request_sha256: str) -> IdempotencyRecord:
    if record.request_sha256 != request_sha256:
        detail = "Use a new key for a new request."
        raise UserError("idempotency/other-request", "This Idempotency-Key was used for another request", detail)
    if record.status is None and record.target_id is None:
        detail = "Wait a moment, then send it again."
        raise UserError("idempotency/in-progress", "The first request with this key is still running", detail, status=409)
    return record
