"""The customer's right: everything of a target goes, from rows, objects (every version) and mails, and a signed receipt stays.

Three steps, each of which may be repeated: ``_begin`` removes the rows in one transaction and notes what else must go, so nothing new can
start and a running worker finds its job gone; then objects and sent mails, once more when the last write under way has ended
(:mod:`storage.writing`); then the receipt. After a crash the scheduler resumes. A browser may still hold a link to upload by: the prefixes
are swept again for an hour. Adapters leave a tombstone for workers' caches.
"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from datetime import timedelta

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from core.errors import ServiceDown, UserError, not_found
from storage import erasure_news, receipts, writing
from storage.erasure_plan import SCOPES, make_plan
from storage.erasure_rows import remove_mentions, remove_rows
from storage.locks import hold_account
from storage.mails import Post
from storage.objects import key_digest
from storage.tables import Account, Erasure, Receipt, now
from storage.wiring import Storage
from storage.writing import StillWriting

__all__ = ["SCOPES", "erase", "resume_unfinished", "sweep_again"]

SWEPT_FOR, SWEPT_EVERY = timedelta(hours=1), timedelta(minutes=1)
SETTLES_WITHIN_S = 15.0  # for writes under way, while somebody waits for the answer
RESUMED_AFTER = timedelta(minutes=1)
BEGIN_ATTEMPTS = 3  # a database that restarts, or that ends one of two transactions that wait for each other, is asked again


def erase(storage: Storage, post: Post, scope: str, target_id: str, account_id: str | None = None) -> Receipt:
    """Erase an ``account``, ``subject``, ``adapter``, ``portrait`` or ``photo``, and return the receipt; a repeat returns the same one.

    With ``account_id``, what belongs to another account is not found. :class:`core.errors.ServiceDown` if a store is down in the middle, or
    if something of it is being stored for longer than ``SETTLES_WITHIN_S``: rows are gone by then, nothing is reachable any more, and the
    scheduler finishes the rest.
    """
    if scope not in SCOPES:
        raise ValueError(f"scope must be one of {', '.join(SCOPES)}, not {scope!r}")
    return _begin_surely(storage, scope, target_id, account_id) or _finish(storage, post, target_id, SETTLES_WITHIN_S)


def resume_unfinished(storage: Storage, post: Post) -> int:
    """Erasures that a crash or a store that was down left unfinished."""
    with storage.db.reader() as session:
        left = list(
            session.scalars(select(Erasure.target_id).where(Erasure.finished_at.is_(None), Erasure.started_at < now() - RESUMED_AFTER))
        )
    for target_id in left:
        with suppress(StillWriting):  # the next one may be settled
            _finish(storage, post, target_id, settles_within_s=0.0)
    return len(left)


def sweep_again(storage: Storage) -> int:
    """Once more, each minute, over what was erased within the hour, for objects and messages that came late. Returns how many that were."""
    due = (Erasure.finished_at.is_not(None), Erasure.swept_at < now() - SWEPT_EVERY)
    with storage.db.reader() as session:
        if session.scalar(select(Erasure.target_id).where(*due).limit(1)) is None:
            return 0
    with storage.db.session() as session:
        session.execute(delete(Erasure).where(Erasure.finished_at < now() - SWEPT_FOR))
        swept = update(Erasure).where(*due).values(swept_at=now()).returning(Erasure.prefixes, Erasure.account_id, Erasure.about)
        found = session.execute(swept).all()
    mentions = 0
    for _, account_id, about in found:
        with storage.db.session() as session:
            hold_account(session, account_id)
            mentions += remove_mentions(session, account_id, about.get("ids", [])).total()
    return mentions + sum(storage.objects.erase(prefix).count for prefixes, _, _ in found for prefix in prefixes)


def _begin_surely(storage: Storage, scope: str, target_id: str, account_id: str | None) -> Receipt | None:
    for attempt in range(1, BEGIN_ATTEMPTS + 1):
        try:
            with storage.db.session() as session:
                return _begin(session, scope, target_id, account_id)
        except ServiceDown:
            if attempt == BEGIN_ATTEMPTS:
                raise
    raise AssertionError("unreachable")


def _begin(session: Session, scope: str, target_id: str, account_id: str | None) -> Receipt | None:
    """The receipt, if it was all done before; None once the erasure has begun, here or in another process."""
    if (receipt := receipts.of_target(session, target_id)) is not None:
        if account_id is not None and receipt.body["account_sha256"] != receipts.target_digest(account_id):
            raise not_found(scope)
        return receipt
    if _begun(session, target_id, account_id):
        return None
    try:
        plan = make_plan(session, scope, target_id, account_id)
    except UserError:
        if _begun(session, target_id, account_id):  # by another process, while this one waited for its lock
            return None
        raise
    email = session.scalar(select(Account.email).where(Account.id == plan.account_id)) or ""
    rows = remove_rows(session, plan, email)
    erasure = Erasure(target_id=target_id, scope=scope, account_id=plan.account_id, rows=rows, started_at=now())
    erasure.prefixes, erasure.object_keys = plan.prefixes, plan.object_keys
    erasure.address, erasure.about = email if scope == "account" else "", plan.about | {"ids": plan.ids}
    session.add(erasure)
    return None


def _begun(session: Session, target_id: str, account_id: str | None) -> bool:
    erasure = session.get(Erasure, target_id)
    if erasure is not None and account_id not in (None, erasure.account_id):
        raise not_found(erasure.scope)
    return erasure is not None


def _finish(storage: Storage, post: Post, target_id: str, settles_within_s: float) -> Receipt:
    erasure = _erase_objects(storage, target_id)
    if writing.settle(storage, [*erasure.prefixes, *erasure.object_keys], settles_within_s):
        _erase_objects(storage, target_id)
    mails = post.erase_for(erasure.address) if erasure.address else 0
    with storage.db.session() as session:
        receipt = _write_receipt(session, storage, target_id, mails)
    storage.db.forget_erased_pages()
    return receipt


def _erase_objects(storage: Storage, target_id: str) -> Erasure:
    erasure = _note_objects(storage, target_id)
    storage.objects.erase(erasure.object_keys)
    for prefix in erasure.prefixes:
        storage.objects.erase(prefix)
    return erasure


def _note_objects(storage: Storage, target_id: str) -> Erasure:
    """Noted before they go: neither a crash nor a second process that finds less must make the receipt forget them."""
    with storage.db.reader() as session:
        erasure = session.get_one(Erasure, target_id)
    found = Counter(key for prefix in erasure.prefixes for key in storage.objects.versions(prefix))
    for wanted in erasure.object_keys:
        found[wanted] += sum(key == wanted for key in storage.objects.versions(wanted))
    with storage.db.session() as session:
        noted = session.get_one(Erasure, target_id, with_for_update=True)
        noted.digests = sorted({*noted.digests, *map(key_digest, +found)})
        noted.versions = max(noted.versions, found.total())
        return noted


def _write_receipt(session: Session, storage: Storage, target_id: str, mails: int) -> Receipt:
    hold_account(session, session.scalar(select(Erasure.account_id).where(Erasure.target_id == target_id)))
    erasure = session.get_one(Erasure, target_id, with_for_update=True)
    written = receipts.of_target(session, target_id)
    if written is not None:  # another process finished it first
        return written
    receipt = receipts.write(session, storage.settings, erasure, mails)
    erasure_news.tell(session, erasure, receipt)
    erasure.address, erasure.object_keys, erasure.finished_at = "", [], now()
    return receipt
