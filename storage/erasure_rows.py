"""Removes the rows of an erasure's plan, and every message or remembered answer that mentions them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from sqlalchemy import delete, or_, select, update
from sqlalchemy.orm import Session

from storage.erasure_plan import Plan
from storage.tables import (
    Account,
    Adapter,
    Base,
    Consent,
    Erasure,
    IdempotencyRecord,
    Job,
    Mail,
    Photo,
    Portrait,
    PortraitImage,
    RetentionNotice,
    SignInToken,
    Subject,
    Tombstone,
    Training,
    Upload,
    WebhookDelivery,
    now,
)

_MENTIONS: tuple[tuple[Any, tuple[str, ...]], ...] = (
    (Mail, ("context", "dedupe_key")),
    (WebhookDelivery, ("payload",)),
    (IdempotencyRecord, ("body", "target_id")),
)


def remove_rows(session: Session, plan: Plan, email: str) -> dict[str, int]:
    """Delete the plan's rows and leave tombstones of its adapters. Returns ``{table: how many}``."""
    for adapter_id in plan.adapters:
        session.merge(Tombstone(target_id=adapter_id, created_at=now()))
    counts = _remove_account(session, plan.account_id, email) if plan.whole_account else _remove_parts(session, plan)
    return dict(sorted((name, count) for name, count in counts.items() if count))


def remove_mentions(session: Session, account_id: str, ids: Sequence[str]) -> Counter[str]:
    """Messages to the customer or their programs, and remembered answers, that name any of the ids."""
    counts: Counter[str] = Counter()
    for table, columns in _MENTIONS:
        for row in session.scalars(select(table).where(table.account_id == account_id)):
            text = " ".join(_text(getattr(row, column)) for column in columns)
            if any(one in text for one in ids):
                session.delete(row)
                counts[table.__tablename__] += 1
    session.flush()
    return counts


def names_erased(session: Session, account_id: str, text: str) -> bool:
    """Whether a text that is about to be kept names something of the account that was erased within the hour."""
    erased = session.scalars(select(Erasure.about).where(Erasure.account_id == account_id))
    return any(one in text for about in erased for one in about.get("ids", []))


def _remove_account(session: Session, account_id: str, email: str) -> Counter[str]:
    counts: Counter[str] = Counter()
    _delete(session, counts, Mail, or_(Mail.account_id == account_id, Mail.to == email))
    _delete(session, counts, SignInToken, SignInToken.email == email)
    for table in reversed(Base.metadata.sorted_tables):
        if "account_id" in table.c and table.name not in ("erasures", "mails"):
            result: Any = session.execute(delete(table).where(table.c.account_id == account_id))
            counts[table.name] += result.rowcount
    _delete(session, counts, Account, Account.id == account_id)
    return counts


def _remove_parts(session: Session, plan: Plan) -> Counter[str]:
    counts: Counter[str] = Counter()
    session.execute(update(Training).where(Training.adapter_id.in_(plan.adapters)).values(adapter_id=None))
    for table, condition in (
        (Job, Job.target_id.in_([*plan.trainings, *plan.portraits])),
        (PortraitImage, PortraitImage.portrait_id.in_(plan.portraits)),
        (Portrait, Portrait.id.in_(plan.portraits)),
        (Adapter, Adapter.id.in_(plan.adapters)),
        (Training, Training.id.in_(plan.trainings)),
        (Photo, Photo.id.in_(plan.photos)),
        (Upload, Upload.subject_id.in_(plan.subjects)),
        (Consent, Consent.subject_id.in_(plan.subjects)),
        (RetentionNotice, or_(RetentionNotice.target_id.in_(plan.subjects), RetentionNotice.id.in_(plan.notices))),
        (Subject, Subject.id.in_(plan.subjects)),
    ):
        _delete(session, counts, table, condition)
    # Last: a job that was just ending has committed its mail by the time that its row could be deleted.
    return counts + remove_mentions(session, plan.account_id, plan.ids)


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else json.dumps(value)


def _delete(session: Session, counts: Counter[str], table: Any, condition: Any) -> None:
    result: Any = session.execute(delete(table).where(condition), execution_options={"synchronize_session": False})
    counts[table.__tablename__] += result.rowcount
