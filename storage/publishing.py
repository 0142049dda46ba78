"""Telling the workers. A message is only a wake-up; here are the rules by which one that was lost is sent again."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from core.errors import ServiceDown
from core.logs import get_logger
from core.words import JobKind, JobState
from storage import broker
from storage.database import Database
from storage.tables import Job, now
from storage.wiring import Storage

log = get_logger("storage.publishing")

PATIENCE = timedelta(seconds=30)  # a message may be on its way for so long before it can count as lost
AT_ONCE = 100


def publish_new(storage: Storage, job: Job) -> bool:
    """Tell the workers, after the commit. A broker that answers nothing costs two seconds at most (:data:`storage.broker.HELD_UP_S`); the
    scheduler publishes later then. True if told."""
    try:
        broker.publish(storage.settings, JobKind(job.kind), job.id)
        with storage.db.session() as session:
            waiting = (Job.id == job.id) & (Job.state == JobState.STARTING)
            session.execute(update(Job).where(waiting).values(published_at=now()))
    except ServiceDown as error:
        log.warning("not published yet", job=job.id, error=str(error))
        return False
    return True


def publish_waiting(storage: Storage) -> int:
    """What no worker was told of, and what it was told of in vain. Stops at the first that the broker refuses, and asks it nothing more."""
    count = 0
    for find in (lambda: unpublished(storage.db), lambda: forgotten(storage)):
        for job in find():
            if not publish_new(storage, job):
                return count
            count += 1
    return count


def unpublished(db: Database, limit: int = AT_ONCE) -> list[Job]:
    """Jobs that wait and that no worker was told of, oldest first."""
    unended = Job.published_at.is_(None) & Job.completed_at.is_(None)  # in the words of its index
    query = select(Job).where(unended, Job.state == JobState.STARTING, Job.publish_after <= now())
    with db.reader() as session:
        return list(session.scalars(query.order_by(Job.created_at).limit(limit)))


def forgotten(storage: Storage, limit: int = AT_ONCE) -> list[Job]:
    """Jobs that wait although their message is gone: the queue is empty, or a job that was published after them is being worked on.

    So a broker that lost its data is made up for within a minute, and a long queue never gets a second message a job.
    """
    with storage.db.reader() as session:
        try:
            return [job for kind in JobKind for job in _forgotten_of(storage, session, kind, limit)]
        except ServiceDown:  # the broker does not say; then nothing could be published either
            return []


def _forgotten_of(storage: Storage, session: Session, kind: JobKind, limit: int) -> list[Job]:
    patient_until = now() - PATIENCE
    if not _waiting_since(session, kind, patient_until, 1):
        return []
    empty = broker.waiting(storage.settings, kind) == 0
    overtaken_by = session.scalar(select(func.max(Job.published_at)).where(Job.state == JobState.PROCESSING, Job.kind == kind))
    if empty:
        return _waiting_since(session, kind, patient_until, limit)
    return _waiting_since(session, kind, min(overtaken_by - PATIENCE, patient_until), limit) if overtaken_by else []


def _waiting_since(session: Session, kind: JobKind, before: datetime, limit: int) -> list[Job]:
    query = select(Job).where(Job.state == JobState.STARTING, Job.kind == kind, Job.published_at < before)
    return list(session.scalars(query.order_by(Job.published_at).limit(limit)))
