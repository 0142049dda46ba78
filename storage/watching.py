"""What those who watch need to read: jobs behind what is listed, and the few photos that stand for a subject."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from core.errors import not_found
from core.words import JobKind, JobState, PhotoVerdict
from storage.tables import Job, Photo, Receipt, Training


def jobs_of(session: Session, target_ids: Sequence[str]) -> dict[str, Job]:
    """``{training or portrait id: job}``."""
    return {job.target_id: job for job in session.scalars(select(Job).where(Job.target_id.in_(target_ids)))}


def jobs_by_id(session: Session, job_ids: Sequence[str]) -> list[Job]:
    """Those of them that still exist."""
    return list(session.scalars(select(Job).where(Job.id.in_(job_ids))))


def latest_trainings(session: Session, subject_ids: Sequence[str]) -> dict[str, tuple[Training, Job]]:
    """The newest training of each subject that has one."""
    query = select(Training, Job).join(Job, Job.target_id == Training.id).where(Training.subject_id.in_(subject_ids))
    return {training.subject_id: (training, job) for training, job in session.execute(query.order_by(Training.created_at, Training.id))}


def cover_photos(session: Session, subject_ids: Sequence[str], each: int = 3) -> dict[str, list[Photo]]:
    """The first usable photos of each subject."""
    place = func.row_number().over(partition_by=Photo.subject_id, order_by=(Photo.created_at, Photo.id)).label("place")
    usable = select(Photo.id, place).where(Photo.subject_id.in_(subject_ids), Photo.verdict != PhotoVerdict.REJECTED).subquery()
    query = select(Photo).join(usable, usable.c.id == Photo.id).where(usable.c.place <= each).order_by(usable.c.place)
    covers: dict[str, list[Photo]] = {subject_id: [] for subject_id in subject_ids}
    for photo in session.scalars(query):
        covers[photo.subject_id].append(photo)
    return covers


def receipt(session: Session, receipt_id: str) -> Receipt:
    """Receipts hold no content and belong to nobody any more: whoever knows the id may read one."""
    found = session.get(Receipt, receipt_id)
    if found is None:
        raise not_found("receipt")
    return found


def typical_seconds(session: Session, kind: JobKind, last: int = 9) -> float | None:
    """Median wait from start to end of the last successful jobs of a kind, over all accounts; None before there was one."""
    query = select(Job.started_at, Job.completed_at).where(Job.kind == kind, Job.state == JobState.SUCCEEDED, Job.started_at.is_not(None))
    rows = session.execute(query.order_by(Job.completed_at.desc()).limit(last)).all()
    waits = [(ended - began).total_seconds() for began, ended in rows if began and ended]
    return median(waits) if waits else None
