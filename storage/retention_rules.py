"""When things were last used, and so when they go: queries and dates; nothing is changed here."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, exists, func, or_, select
from sqlalchemy.orm import Session

from core.settings import Settings
from core.words import JobState
from storage.tables import Account, ApiKey, Job, Photo, Portrait, RetentionNotice, Subject, Training, now

Rows = Select[*tuple[Any, ...]]

RUNNING = (JobState.STARTING, JobState.PROCESSING)

_UPLOADED = select(func.max(Photo.created_at)).where(Photo.subject_id == Subject.id).scalar_subquery()
_TRAININGS = select(Job.id).join(Training, Job.target_id == Training.id).where(Training.subject_id == Subject.id)
_TRAINED = _TRAININGS.with_only_columns(func.max(Job.completed_at)).scalar_subquery()


def photos_last_used(session: Session, subject_ids: Sequence[str]) -> dict[str, datetime]:
    """The newest upload, or the end of the last training if that was later. A subject without photos, or in training, is not there."""
    rows = session.execute(_photo_use().where(Subject.id.in_(subject_ids)))
    return {subject: max(moment for moment in (uploaded, trained) if moment) for subject, _account, uploaded, trained in rows}


def unused_photos(before: datetime) -> Rows:
    """(subject, account, …) of subjects with photos that nobody was told of yet, unused since then and not in training."""
    unused = (before >= _UPLOADED, or_(_TRAINED.is_(None), before >= _TRAINED))
    return _photo_use().where(*unused, ~_told("photos", Subject.id)).order_by(Subject.id)


def photos_go_at(session: Session, settings: Settings, subject_ids: Sequence[str]) -> dict[str, datetime]:
    """When the photos of each subject will be erased if nothing is done with them; a subject that is not there keeps its photos for now."""
    if not settings.photos_kept_days:
        return {}
    used = photos_last_used(session, subject_ids)
    notices = session.scalars(select(RetentionNotice).where(RetentionNotice.scope == "photos", RetentionNotice.target_id.in_(used)))
    told = {notice.target_id: notice.erase_after for notice in notices if notice.unused_since >= used[notice.target_id]}
    kept, soonest = timedelta(days=settings.photos_kept_days), now() + timedelta(days=settings.retention_notice_days)
    return {subject: told.get(subject) or max(at + kept, soonest) for subject, at in used.items()}


def accounts_with_old_portraits(before: datetime) -> Rows:
    """(account, account) of accounts that have one from before then, and that were not told yet."""
    old = exists().where(Portrait.account_id == Account.id, Job.target_id == Portrait.id, Job.completed_at <= before)
    return select(Account.id, Account.id).where(old, ~_told("portraits", Account.id)).order_by(Account.id)


def old_portraits(session: Session, account_id: str, until: datetime) -> list[str]:
    query = select(Portrait.id).join(Job, Job.target_id == Portrait.id)
    return list(session.scalars(query.where(Portrait.account_id == account_id, Job.completed_at <= until).order_by(Portrait.id)))


def idle_accounts(before: datetime) -> Rows:
    """(account, account) of accounts that were not told yet and have done nothing since then, by page or by program."""
    return select(Account.id, Account.id).where(_idle_since(before), ~_told("account", Account.id)).order_by(Account.id)


def is_idle(session: Session, account_id: str, since: datetime) -> bool:
    return session.scalar(select(Account.id).where(Account.id == account_id, _idle_since(since))) is not None


def _photo_use() -> Rows:
    running = _TRAININGS.where(Job.state.in_(RUNNING)).exists()
    return select(Subject.id, Subject.account_id, _UPLOADED, _TRAINED).where(_UPLOADED.is_not(None), ~running)


def _told(scope: str, target: Any) -> ColumnElement[bool]:
    return exists().where(RetentionNotice.scope == scope, RetentionNotice.target_id == target)


def _idle_since(moment: datetime) -> ColumnElement[bool]:
    busy = (
        exists().where(ApiKey.account_id == Account.id, ApiKey.last_used_at > moment),
        exists().where(Job.account_id == Account.id, or_(Job.created_at > moment, Job.state.in_(RUNNING))),
        exists().where(Photo.account_id == Account.id, Photo.created_at > moment),
    )
    return (Account.last_seen_at <= moment) & ~Account.gone & ~or_(*busy)
