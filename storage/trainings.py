"""Trainings: one run each, from photos to an adapter."""

from __future__ import annotations

import secrets
from typing import Any

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from core.errors import UserError, not_found
from core.settings import Settings
from core.words import JobKind, JobState, new_id
from storage import jobs, photos, subjects
from storage.database import Database
from storage.tables import Job, Training, now
from storage.trigger import new_trigger_token

RUNNING = (JobState.STARTING, JobState.PROCESSING)


def waiting(db: Database, base_model: str, *, besides: str, limit: int) -> list[str]:
    """Job ids of trainings on that base model that no worker has, oldest first, without the job ``besides``."""
    queued = (Job.kind == JobKind.TRAINING) & (Job.state == JobState.STARTING) & ~Job.cancel_requested & (Job.id != besides)
    query = select(Job.id).join(Training, Training.id == Job.target_id).where(queued, Training.base_model == base_model)
    with db.reader() as session:
        return list(session.scalars(query.order_by(Job.created_at).limit(limit)))


def create(
    session: Session, settings: Settings, account_id: str, subject_id: str, seed: int | None = None, recipe: dict[str, Any] | None = None
) -> tuple[Training, Job]:
    """A training and its job, after checking the photos; publish the job after the commit with :func:`storage.publishing.publish_new`.

    :class:`core.errors.UserError`: ``photos/too-few``, ``photos/too-many``, ``training/already-running`` (409).
    """
    subject = subjects.lock(session, account_id, subject_id)
    _raise_if_running(session, subject_id)
    photos.check_count(session, settings, subject_id)
    training = Training(
        id=new_id("trn"),
        account_id=account_id,
        subject_id=subject.id,
        base_model=settings.base_model,
        trigger_token=_trigger_token(session, account_id, subject_id),
        seed=secrets.randbits(31) if seed is None else seed,
        recipe=recipe or {},
        created_at=now(),
    )
    session.add(training)
    session.flush()
    return training, jobs.create(session, account_id, JobKind.TRAINING, training.id)


def get(session: Session, account_id: str, training_id: str) -> tuple[Training, Job]:
    row = session.execute(select(Training, Job).join(Job, Job.target_id == Training.id).where(Training.id == training_id)).first()
    if row is None or row[0].account_id != account_id:
        raise not_found("training")
    return row[0], row[1]


def of_account(account_id: str, subject_id: str | None = None) -> Select[Training]:
    """For :func:`storage.paging.page`."""
    query = select(Training).where(Training.account_id == account_id)
    return query.where(Training.subject_id == subject_id) if subject_id else query


def cancel(session: Session, account_id: str, training_id: str) -> tuple[Training, Job]:
    training, job = get(session, account_id, training_id)
    jobs.request_cancel(session, job)
    return training, job


def _raise_if_running(session: Session, subject_id: str) -> None:
    query = select(Training.id).join(Job, Job.target_id == Training.id).where(Training.subject_id == subject_id, Job.state.in_(RUNNING))
    running = session.scalar(query.limit(1))
    if running:
        detail = "Wait until it ends, or cancel it first."
        extra = {"training_id": running}
        raise UserError("training/already-running", "A training of this subject is under way", detail, status=409, extra=extra)


def _trigger_token(session: Session, account_id: str, subject_id: str) -> str:
    """The subject's own, kept over its trainings; no two subjects of an account share one."""
    rows = session.execute(select(Training.trigger_token, Training.subject_id).where(Training.account_id == account_id))
    used = {token: owner for token, owner in rows}  # noqa: C416 (a Row is not a pair to the type checker)
    for token, owner in used.items():
        if owner == subject_id:
            return token
    token = new_trigger_token()
    while token in used:
        token = new_trigger_token()
    return token
