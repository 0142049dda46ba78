"""What must happen although nobody asks. Every chore is a conditional write, so two schedulers may run at once."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from sqlalchemy import delete, select

from storage import erasure, leftovers, mails, outgoing, retention, webhook_sending
from storage.idempotency import KEPT as IDEMPOTENCY_KEPT
from storage.job_keeping import do_all, keep_jobs
from storage.mails import Post
from storage.tables import IdempotencyRecord, Mail, SignInToken, Upload, WebhookDelivery, WebSession, Write, now
from storage.wiring import Storage

SENT_MAILS_KEPT = timedelta(days=30)  # as marks against sending twice; their words go when they are sent
DELIVERIES_KEPT = timedelta(days=30)  # the log that customers see
LINKS_KEPT = timedelta(hours=1)  # after they expire: the limit on links counts them


def tick(storage: Storage, post: Post) -> dict[str, int]:
    """One pass of everything, for tests and small tools. :func:`keep_jobs` and :func:`keep_house` are its halves."""
    return {**keep_jobs(storage), **keep_house(storage, post)}


def keep_house(storage: Storage, post: Post) -> dict[str, int]:
    """What may take its time: stores and mail servers that hang are waited for here."""
    chores: dict[str, Callable[[], int]] = {
        "mails_sent": lambda: mails.deliver_due(storage, post),
        "webhooks_sent": lambda: webhook_sending.deliver_due(storage),
        "expired": lambda: retention.run(storage, post),
        "purged": lambda: purge(storage),
        "erasures_resumed": lambda: erasure.resume_unfinished(storage, post),
        "late_objects_erased": lambda: erasure.sweep_again(storage),
        "leftovers_erased": lambda: leftovers.sweep_ended(storage),
    }
    return do_all(chores)


def purge(storage: Storage) -> int:
    """Rows that have had their time, and uploads that never became photos."""
    at = now()
    old: tuple[tuple[Any, Any], ...] = (
        (SignInToken, SignInToken.expires_at < at - LINKS_KEPT),
        (WebSession, WebSession.expires_at < at),
        (IdempotencyRecord, IdempotencyRecord.created_at < at - IDEMPOTENCY_KEPT),
        (Write, Write.ends_by < at),
        (Mail, Mail.sent_at < at - SENT_MAILS_KEPT),
        (Mail, Mail.failed_at < at - SENT_MAILS_KEPT),
        (WebhookDelivery, (WebhookDelivery.created_at < at - DELIVERIES_KEPT) & ~outgoing.waits(WebhookDelivery)),
    )
    if not _anything(storage, old):  # most passes: no writing turn is taken
        return _purge_uploads(storage)
    return sum(_delete(storage, table, condition) for table, condition in old) + _purge_uploads(storage)


def _delete(storage: Storage, table: Any, condition: Any) -> int:
    with storage.db.session() as session:  # one a table: rows of several in one transaction would cross an erasure's
        result: Any = session.execute(delete(table).where(condition))
        return int(result.rowcount)


def _anything(storage: Storage, old: tuple[tuple[Any, Any], ...]) -> bool:
    with storage.db.reader() as session:
        return any(session.scalar(select(1).where(condition).limit(1)) for _table, condition in old)


def _purge_uploads(storage: Storage) -> int:
    with storage.db.reader() as session:
        expired = list(session.scalars(select(Upload).where(Upload.expires_at < now() - timedelta(minutes=5)).limit(500)))
    if expired:
        storage.objects.erase([upload.object_key for upload in expired])
        with storage.db.session() as session:
            session.execute(delete(Upload).where(Upload.id.in_([upload.id for upload in expired])))
    return len(expired)
