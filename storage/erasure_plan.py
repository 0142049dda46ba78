"""What belongs to a target of erasure: rows by id, and objects by prefix. The target is locked, so that nothing joins it meanwhile."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from core.errors import UserError, not_found
from storage import keys
from storage.locks import begin_in_account
from storage.retention_rules import old_portraits, photos_last_used
from storage.tables import Account, Adapter, Base, Job, Photo, Portrait, RetentionNotice, Subject, Training


@dataclass
class Plan:
    """Ids by table, and objects by prefix or key. ``about``: what stays and may be told of the erasure (``subject_id``, …)."""

    account_id: str
    whole_account: bool = False
    subjects: list[str] = field(default_factory=list)
    trainings: list[str] = field(default_factory=list)
    adapters: list[str] = field(default_factory=list)
    portraits: list[str] = field(default_factory=list)
    photos: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    prefixes: list[str] = field(default_factory=list)
    object_keys: list[str] = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def ids(self) -> list[str]:
        return [*self.subjects, *self.trainings, *self.adapters, *self.portraits, *self.photos, *self.notices]


def make_plan(session: Session, scope: str, target_id: str, account_id: str | None) -> Plan:
    """Everything under the target; :class:`core.errors.UserError` (404) if it does not exist or belongs to another account."""
    table, build = SCOPES[scope]
    _lock_above(session, table, target_id)
    row: Any = session.get(table, target_id, with_for_update=True)
    owner = None if row is None else (row.id if scope == "account" else row.account_id)
    if row is None or account_id not in (None, owner):
        raise not_found(scope)
    return build(session, row)


def _lock_above(session: Session, table: Any, target_id: str) -> None:
    """In the order of :mod:`storage.locks`. The subject of photos is locked too, so that no training of it starts meanwhile."""
    if table is Account:
        return
    begin_in_account(session, session.scalar(select(table.account_id).where(table.id == target_id)))
    subject_of = {Photo: Photo.subject_id, RetentionNotice: RetentionNotice.target_id}
    if table in subject_of:
        subject = select(subject_of[table]).where(table.id == target_id).scalar_subquery()
        session.scalar(select(Subject.id).where(Subject.id == subject).with_for_update())


def _account(session: Session, account: Account) -> Plan:
    adapters = _ids(session, Adapter, Adapter.account_id == account.id)
    return Plan(account.id, whole_account=True, adapters=adapters, prefixes=[keys.account_prefix(account.id)])


def _subject(session: Session, subject: Subject) -> Plan:
    plan = _adapters(session, subject.account_id, _ids(session, Adapter, Adapter.subject_id == subject.id))
    plan.subjects = [subject.id]
    plan.trainings = _ids(session, Training, Training.subject_id == subject.id)
    plan.photos = _ids(session, Photo, Photo.subject_id == subject.id)
    plan.prefixes.append(keys.subject_prefix(subject.account_id, subject.id))
    return plan


def _adapter(session: Session, adapter: Adapter) -> Plan:
    plan = _adapters(session, adapter.account_id, [adapter.id])
    plan.about = {"subject_id": adapter.subject_id}
    return plan


def _adapters(session: Session, account_id: str, adapters: list[str]) -> Plan:
    portraits = _ids(session, Portrait, Portrait.adapter_id.in_(adapters))
    prefixes = [keys.adapter_prefix(account_id, one) for one in adapters]
    return Plan(account_id, adapters=adapters, portraits=portraits, prefixes=prefixes + _portrait_prefixes(account_id, portraits))


def _portrait(session: Session, portrait: Portrait) -> Plan:
    subject = session.scalar(select(Adapter.subject_id).where(Adapter.id == portrait.adapter_id))
    prefixes = _portrait_prefixes(portrait.account_id, [portrait.id])
    return Plan(portrait.account_id, portraits=[portrait.id], prefixes=prefixes, about={"subject_id": subject} if subject else {})


def _portrait_prefixes(account_id: str, portraits: list[str]) -> list[str]:
    return [keys.portrait_prefix(account_id, one) for one in portraits]


def _photo(session: Session, photo: Photo) -> Plan:
    """Also what trainings kept of it: latents and previews lie under their prefixes. A running training that uses it is canceled.

    The adapters fitted on it stay; erasing them is the customer's choice, one by one or with the subject.
    """
    plan = _photos(session, photo.account_id, photo.subject_id, [photo])
    trainings = select(Training.id).where(Training.subject_id == photo.subject_id)
    session.execute(update(Job).where(Job.target_id.in_(trainings), Job.completed_at.is_(None)).values(cancel_requested=True))
    return plan


def _photos(session: Session, account_id: str, subject_id: str, photos: list[Photo]) -> Plan:
    trainings = _ids(session, Training, Training.subject_id == subject_id)
    plan = Plan(account_id, photos=[photo.id for photo in photos], about={"subject_id": subject_id})
    plan.prefixes = [keys.training_prefix(account_id, subject_id, one) for one in trainings]
    plan.object_keys = [key for photo in photos for key in (photo.object_key, photo.thumb_key)]
    return plan


def _unused_photos(session: Session, notice: RetentionNotice) -> Plan:
    """All photos of a subject, as the notice said; ``retention/in-use`` (409) if they were used since."""
    photos = list(session.scalars(select(Photo).where(Photo.subject_id == notice.target_id).order_by(Photo.id)))
    plan = _photos(session, notice.account_id, notice.target_id, photos)
    last_used = photos_last_used(session, [notice.target_id]).get(notice.target_id)
    if last_used is None or last_used > notice.unused_since:
        raise UserError("retention/in-use", "These photos are used again", status=409)
    plan.notices, plan.about = [notice.id], plan.about | {"count": len(photos)}
    return plan


def _old_portraits(session: Session, notice: RetentionNotice) -> Plan:
    portraits = old_portraits(session, notice.account_id, notice.unused_since)
    prefixes = _portrait_prefixes(notice.account_id, portraits)
    return Plan(notice.account_id, portraits=portraits, notices=[notice.id], prefixes=prefixes, about={"count": len(portraits)})


SCOPES: dict[str, tuple[type[Base], Any]] = {
    "account": (Account, _account),
    "subject": (Subject, _subject),
    "adapter": (Adapter, _adapter),
    "portrait": (Portrait, _portrait),
    "photo": (Photo, _photo),
    "photos": (RetentionNotice, _unused_photos),  # by retention: the target is the notice that was given
    "portraits": (RetentionNotice, _old_portraits),
}


def _ids(session: Session, table: Any, condition: Any) -> list[str]:
    """Locked: on PostgreSQL a portrait of an adapter waits here too, and then finds the adapter gone."""
    return list(session.scalars(select(table.id).where(condition).order_by(table.id).with_for_update()))
