"""The customer's right: everything of a target goes, from rows, objects (every version) and mails, and a signed receipt stays.

Three steps, each of which may be repeated: ``_begin`` removes the rows in one transaction and notes what else must go, so nothing new can
start and a running worker finds its job gone; then objects and sent mails; then the receipt. After a crash the scheduler resumes. A worker
may be in the middle of storing an object: the prefixes are swept again for an hour, and adapters leave a tombstone for workers' caches.
"""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from core.errors import not_found
from storage import receipts
from storage.erasure_plan import SCOPES, make_plan, remove_rows
from storage.mails import Post
from storage.objects import key_digest
from storage.tables import Account, Erasure, Receipt, now
from storage.wiring import Storage

__all__ = ["SCOPES", "erase", "resume_unfinished", "sweep_again"]

SWEPT_FOR, SWEPT_EVERY = timedelta(hours=1), timedelta(minutes=1)
RESUMED_AFTER = timedelta(minutes=1)


def erase(storage: Storage, post: Post, scope: str, target_id: str, account_id: str | None = None) -> Receipt:
    """Erase an ``account``, ``subject``, ``adapter``, ``portrait`` or ``photo``, and return the receipt; a repeat returns the same one.

    With ``account_id``, what belongs to another account is not found. :class:`core.errors.ServiceDown` if a store is down in the middle:
    rows are gone by then, nothing is reachable any more, and the scheduler finishes the rest.
    """
    if scope not in SCOPES:
        raise ValueError(f"scope must be one of {', '.join(SCOPES)}, not {scope!r}")
    with storage.db.session() as session:
        receipt = receipts.of_target(session, target_id)
        if receipt is None:
            _begin(session, scope, target_id, account_id)
        elif account_id is not None and receipt.body["account_sha256"] != receipts.target_digest(account_id):
            raise not_found(scope)
    return receipt or _finish(storage, post, target_id)


def resume_unfinished(storage: Storage, post: Post) -> int:
    """Erasures that a crash or a store that was down left unfinished."""
    with storage.db.reader() as session:
        left = list(
            session.scalars(select(Erasure.target_id).where(Erasure.finished_at.is_(None), Erasure.started_at < now() - RESUMED_AFTER))
        )
    for target_id in left:
        _finish(storage, post, target_id)
    return len(left)


def sweep_again(storage: Storage) -> int:
    """Once more, each minute, over what was erased within the hour, for what a worker stored late. Returns how many objects that were."""
    due = (Erasure.finished_at.is_not(None), Erasure.swept_at < now() - SWEPT_EVERY)
    with storage.db.reader() as session:
        if session.scalar(select(Erasure.target_id).where(*due).limit(1)) is None:
            return 0
    with storage.db.session() as session:
        session.execute(delete(Erasure).where(Erasure.finished_at < now() - SWEPT_FOR))
        swept = update(Erasure).where(*due).values(swept_at=now()).returning(Erasure.prefixes)
        prefixes = [prefix for found in session.scalars(swept) for prefix in found]
    return sum(storage.objects.erase(prefix).count for prefix in prefixes)


def _begin(session: Session, scope: str, target_id: str, account_id: str | None) -> None:
    begun = session.get(Erasure, target_id)
    if begun is not None:
        _check_owner(begun, account_id)
        return
    plan = make_plan(session, scope, target_id, account_id)
    email = session.scalar(select(Account.email).where(Account.id == plan.account_id)) or ""
    rows = remove_rows(session, plan, email)
    session.add(
        Erasure(
            target_id=target_id,
            scope=scope,
            account_id=plan.account_id,
            address=email if scope == "account" else "",
            prefixes=plan.prefixes,
            object_keys=plan.object_keys,
            rows=rows,
            started_at=now(),
        )
    )


def _check_owner(erasure: Erasure, account_id: str | None) -> None:
    if account_id not in (None, erasure.account_id):
        raise not_found(erasure.scope)


def _finish(storage: Storage, post: Post, target_id: str) -> Receipt:
    with storage.db.reader() as session:
        erasure = session.get_one(Erasure, target_id)
    keys = [key for key in erasure.object_keys if storage.objects.exists(key)]
    keys += [key for prefix in erasure.prefixes for key in storage.objects.list(prefix)]
    with storage.db.session() as session:  # noted before they go: a crash must not make the receipt forget them
        session.get_one(Erasure, target_id).digests = sorted({*erasure.digests, *map(key_digest, keys)})
    versions = storage.objects.erase(erasure.object_keys).count + sum(storage.objects.erase(prefix).count for prefix in erasure.prefixes)
    mails = post.erase_for(erasure.address) if erasure.address else 0
    with storage.db.session() as session:
        receipt = _write_receipt(session, storage, target_id, versions, mails)
    storage.db.forget_erased_pages()
    return receipt


def _write_receipt(session: Session, storage: Storage, target_id: str, versions: int, mails: int) -> Receipt:
    erasure = session.get_one(Erasure, target_id, with_for_update=True)
    written = receipts.of_target(session, target_id)
    if written is not None:  # another process finished it first
        return written
    erasure.versions, erasure.address, erasure.object_keys, erasure.finished_at = versions, "", [], now()
    return receipts.write(session, storage.settings, erasure, mails)
