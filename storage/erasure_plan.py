"""What belongs to a target of erasure: rows, object prefixes, and messages that mention it."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import delete, or_, select, update
from sqlalchemy.orm import Session

from core.errors import not_found
from storage import keys
from storage.tables import (
    Account,
    Adapter,
    Base,
    Consent,
    IdempotencyRecord,
    Job,
    Mail,
    Photo,
    Portrait,
    PortraitImage,
    SignInToken,
    Subject,
    Tombstone,
    Training,
    Upload,
    WebhookDelivery,
    now,
)


@dataclass
class Plan:
    """Ids by table, and objects by prefix or key."""

    account_id: str
    whole_account: bool = False
    subjects: list[str] = field(default_factory=list)
    trainings: list[str] = field(default_factory=list)
    adapters: list[str] = field(default_factory=list)
    portraits: list[str] = field(default_factory=list)
    photos: list[str] = field(default_factory=list)
    prefixes: list[str] = field(default_factory=list)
    object_keys: list[str] = field(default_factory=list)

    @property
    def ids(self) -> list[str]:
        return [*self.subjects, *self.trainings, *self.adapters, *self.portraits, *self.photos]


def make_plan(session: Session, scope: str, target_id: str, account_id: str | None) -> Plan:
    """Everything under the target; :class:`core.errors.UserError` (404) if it does not exist or belongs to another account."""
    table, build = SCOPES[scope]
    row: Any = session.get(table, target_id, with_for_update=True)
    owner = None if row is None else (row.id if scope == "account" else row.account_id)
    if row is None or account_id not in (None, owner):
        raise not_found(scope)
    return build(session, row)


def remove_rows(session: Session, plan: Plan, email: str) -> dict[str, int]:
    """Delete the plan's rows and leave tombstones of its adapters. Returns ``{table: how many}``."""
    for adapter_id in plan.adapters:
        session.merge(Tombstone(target_id=adapter_id, created_at=now()))
    counts = _remove_account(session, plan.account_id, email) if plan.whole_account else _remove_parts(session, plan)
    return dict(sorted((name, count) for name, count in counts.items() if count))


def _account(session: Session, account: Account) -> Plan:
    adapters = _ids(session, Adapter, Adapter.account_id == account.id)
    return Plan(account.id, whole_account=True, adapters=adapters, prefixes=[keys.account_prefix(account.id)])


def _subject(session: Session, subject: Subject) -> Plan:
    adapters = _ids(session, Adapter, Adapter.subject_id == subject.id)
    plan = _adapters(session, subject.account_id, adapters)
    plan.subjects = [subject.id]
    plan.trainings = _ids(session, Training, Training.subject_id == subject.id)
    plan.photos = _ids(session, Photo, Photo.subject_id == subject.id)
    plan.prefixes.append(keys.subject_prefix(subject.account_id, subject.id))
    return plan


def _adapter(session: Session, adapter: Adapter) -> Plan:
    return _adapters(session, adapter.account_id, [adapter.id])


def _adapters(session: Session, account_id: str, adapters: list[str]) -> Plan:
    portraits = _ids(session, Portrait, Portrait.adapter_id.in_(adapters))
    prefixes = [keys.adapter_prefix(account_id, one) for one in adapters] + [keys.portrait_prefix(account_id, one) for one in portraits]
    return Plan(account_id, adapters=adapters, portraits=portraits, prefixes=prefixes)


def _portrait(session: Session, portrait: Portrait) -> Plan:
    return Plan(portrait.account_id, portraits=[portrait.id], prefixes=[keys.portrait_prefix(portrait.account_id, portrait.id)])


def _photo(session: Session, photo: Photo) -> Plan:
    """Also what trainings kept of it: latents and previews lie under their prefixes. A running training that uses it is canceled.

    The adapters fitted on it stay; erasing them is the customer's choice, one by one or with the subject.
    """
    trainings = _ids(session, Training, Training.subject_id == photo.subject_id)
    session.execute(update(Job).where(Job.target_id.in_(trainings), Job.completed_at.is_(None)).values(cancel_requested=True))
    prefixes = [keys.training_prefix(photo.account_id, photo.subject_id, one) for one in trainings]
    return Plan(photo.account_id, photos=[photo.id], prefixes=prefixes, object_keys=[photo.object_key, photo.thumb_key])


SCOPES: dict[str, tuple[type[Base], Any]] = {
    "account": (Account, _account),
    "subject": (Subject, _subject),
    "adapter": (Adapter, _adapter),
    "portrait": (Portrait, _portrait),
    "photo": (Photo, _photo),
}


def _ids(session: Session, table: Any, condition: Any) -> list[str]:
    return list(session.scalars(select(table.id).where(condition).order_by(table.id)))


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
    _remove_mentions(session, counts, plan)
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
        (Subject, Subject.id.in_(plan.subjects)),
    ):
        _delete(session, counts, table, condition)
    return counts


def _remove_mentions(session: Session, counts: Counter[str], plan: Plan) -> None:
    """Messages to the customer or their programs, and remembered answers, that name anything of the plan."""
    for table, column in ((Mail, "context"), (WebhookDelivery, "payload"), (IdempotencyRecord, "body")):
        for row in session.scalars(select(table).where(table.account_id == plan.account_id)):
            value = getattr(row, column) or b""
            text = value.decode(errors="replace") if isinstance(value, bytes) else json.dumps(value)
            if any(one in text for one in plan.ids):
                session.delete(row)
                counts[table.__tablename__] += 1
    session.flush()


def _delete(session: Session, counts: Counter[str], table: Any, condition: Any) -> None:
    result: Any = session.execute(delete(table).where(condition), execution_options={"synchronize_session": False})
    counts[table.__tablename__] += result.rowcount
