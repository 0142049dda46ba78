"""What attempts left in the object store: checkpoints of a training that ended, pictures and weights of an attempt that did not.

Every attempt stores under keys of its own (they carry the fence), and the rows of the one that succeeded name what stays. So what no row
names may go once the job has ended, also what a worker stored that nobody expected to wake up again.
"""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from core.words import JobKind, JobState
from storage import keys
from storage.adapters import adapter_id_of
from storage.tables import Adapter, Job, PortraitImage, Training, now
from storage.wiring import Storage

ENDED = [state for state in JobState if state.ended]
AT_ONCE = 50


def sweep_ended(storage: Storage) -> int:
    """Once for each job, ``settings.sweep_after_s`` after its end. Returns how many objects went."""
    due = (
        Job.completed_at.is_not(None),
        Job.swept_at.is_(None),
        Job.completed_at < now() - timedelta(seconds=storage.settings.sweep_after_s),
        Job.state.in_(ENDED),
    )
    with storage.db.reader() as session:
        jobs = list(session.scalars(select(Job).where(*due).order_by(Job.completed_at).limit(AT_ONCE)))
    erased = sum(_sweep(storage, job) for job in jobs)
    if jobs:
        with storage.db.session() as session:
            mine = select(Job.id).where(Job.id.in_([job.id for job in jobs]))
            free = mine.with_for_update(skip_locked=True)  # the others are being erased
            session.execute(update(Job).where(Job.id.in_(free)).values(swept_at=now()), execution_options={"synchronize_session": False})
    return erased


def _sweep(storage: Storage, job: Job) -> int:
    if job.kind == JobKind.TRAINING:
        with storage.db.reader() as session:
            prefixes = _of_training(session, job)
        return sum(storage.objects.erase(prefix).count for prefix in prefixes)
    if job.state == JobState.SUCCEEDED and job.fence == 1:  # nobody but the one that succeeded ever held it
        return 0
    with storage.db.reader() as session:
        kept = set(session.scalars(select(PortraitImage.object_key).where(PortraitImage.portrait_id == job.target_id)))
    stored = {key for fence in _fences(job) for key in storage.objects.list(keys.portrait_attempt(job.account_id, job.target_id, fence))}
    return storage.objects.erase(sorted(stored - kept)).count


def _of_training(session: Session, job: Job) -> list[str]:
    """Its checkpoints, and the weights of every attempt that has no row."""
    subject_id = session.scalar(select(Training.subject_id).where(Training.id == job.target_id))
    adapters = {adapter_id_of(job.target_id, fence) for fence in _fences(job)}
    adapters -= set(session.scalars(select(Adapter.id).where(Adapter.training_id == job.target_id)))
    checkpoints = [keys.training_prefix(job.account_id, subject_id, job.target_id)] if subject_id else []
    return checkpoints + [keys.adapter_prefix(job.account_id, adapter_id) for adapter_id in sorted(adapters)]


def _fences(job: Job) -> range:
    return range(1, job.fence + 1)
