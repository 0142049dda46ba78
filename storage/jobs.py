"""Jobs: the durable unit behind a training or a portrait. Truth is in the row; a message on a queue is only a wake-up."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, or_, select, update
from sqlalchemy.orm import Session

from core.errors import JobCanceled, JobFailed, LeaseLost, ServiceDown, UserError, WorkerStopping
from core.logs import bind, get_logger
from core.words import JobKind, JobState, new_id
from storage import endings, idempotency
from storage.heartbeat import beating
from storage.leases import Lease
from storage.locks import hold_account, hold_account_of_job
from storage.tables import Account, Job, now
from storage.wiring import Storage

__all__ = ["Lease", "create", "request_cancel", "requeue_expired", "run"]

log = get_logger("storage.jobs")

CLAIM_AGAIN_S = (0.5, 2.0, 5.0)  # pauses between tries while the database does not answer


def create(session: Session, account_id: str, kind: JobKind, target_id: str) -> Job:
    """A job in the caller's transaction; publish it after the commit with :func:`storage.publishing.publish_new`."""
    values: dict[str, Any] = {"progress": {}, "metrics": {}, "attempts": 0, "fence": 0, "cancel_requested": False}
    job = Job(id=new_id("job"), account_id=account_id, kind=kind, target_id=target_id, state=JobState.STARTING, created_at=now(), **values)
    session.add(job)
    session.flush()
    idempotency.made(session, target_id)
    return job


def run(storage: Storage, job_id: str, worker: str, work: Callable[[Lease], None], stopping: Callable[[], bool] = lambda: False) -> str:
    """Claim the job, beat while ``work(lease)`` runs, and end it. Never raises for a job's own fault.

    Returns ``succeeded``, ``failed``, ``canceled``, ``requeued``, ``handed back`` (``stopping`` said so: the attempt does not count), or
    ``stepped back`` (another's, ended, or gone: nothing was written). :class:`core.errors.ServiceDown` if it could not be claimed.
    """
    job = _claim_patiently(storage, job_id, worker)
    if job is None:
        return "stepped back"
    with bind(job=job.id, kind=job.kind, attempt=job.attempts):
        outcome = _work(storage, Lease(storage, job, stopping), job, work)
        log.info("job ended", outcome=outcome)
        return outcome


def request_cancel(session: Session, job: Job) -> None:
    """A job that waits is canceled at once; one that runs reads the flag at its next step. One that has ended stays as it is."""
    hold_account(session, job.account_id)
    session.flush()
    waiting = (Job.id == job.id) & (Job.state == JobState.STARTING)
    running = (Job.id == job.id) & (Job.state == JobState.PROCESSING)
    if not endings.cancel(session, waiting):
        session.execute(update(Job).where(running).values(cancel_requested=True))
    session.refresh(job)


def requeue_expired(storage: Storage) -> int:
    """Jobs whose worker went silent go back to the queue; after ``max_attempts`` they fail. Returns how many were touched."""
    with storage.db.reader() as session:
        silent = list(session.scalars(select(Job).where(_expired()).limit(200)))
    return sum(_recover(storage, job) for job in silent)


def _claim_patiently(storage: Storage, job_id: str, worker: str) -> Job | None:
    """A message is spent by now: a database that restarts must not cost the job its turn."""
    for pause in CLAIM_AGAIN_S:
        try:
            return _claim(storage, job_id, worker)
        except ServiceDown as error:
            log.warning("not claimed yet", job=job_id, error=str(error))
            time.sleep(pause)
    return _claim(storage, job_id, worker)


def _claim(storage: Storage, job_id: str, worker: str) -> Job | None:
    """One conditional UPDATE: whoever it succeeds for owns the job until the lease ends."""
    settings = storage.settings
    waiting = and_(Job.id == job_id, Job.state == JobState.STARTING)
    values = {
        "state": JobState.PROCESSING,
        "attempts": Job.attempts + 1,
        "fence": Job.fence + 1,
        "worker": worker,
        "lease_until": now() + timedelta(seconds=settings.lease_s),
    }
    with storage.db.session() as session:
        hold_account_of_job(session, job_id)
        _take_from_the_silent(session, job_id, settings.max_attempts)
        if endings.cancel(session, and_(waiting, _unwanted())):
            return None
        claim = update(Job).where(waiting).values(**values).returning(Job.id)
        if session.execute(claim, execution_options={"synchronize_session": False}).first() is None:
            return None
        session.execute(update(Job).where(Job.id == job_id, Job.started_at.is_(None)).values(started_at=now()))
        return session.get(Job, job_id, populate_existing=True)


def _take_from_the_silent(session: Session, job_id: str, max_attempts: int) -> None:
    """A worker that comes before the scheduler goes on at once, and notes what became of the attempt before; a last one is left to it."""
    lost = session.scalar(select(Job).where(Job.id == job_id, _expired()))
    if lost is not None and not endings.is_last(lost, record := endings.lost_record(lost), max_attempts):
        held = and_(Job.id == job_id, Job.fence == lost.fence, _expired())
        endings.try_again(session, lost, held, record, max_attempts, wait_s=0.0)


def _expired() -> ColumnElement[bool]:
    return and_(Job.state == JobState.PROCESSING, Job.lease_until < now())


def _unwanted() -> ColumnElement[bool]:
    """Canceled while nobody worked on it, or its account is being erased."""
    return or_(Job.cancel_requested, Job.account_id.in_(select(Account.id).where(Account.gone)))


def _work(storage: Storage, lease: Lease, job: Job, work: Callable[[Lease], None]) -> str:
    try:
        with beating(lease, storage.settings.heartbeat_s):
            work(lease)
        return _after_work(storage, lease, job)
    except LeaseLost:
        return "stepped back"
    except Exception as error:
        return _after_error(storage, lease, job, error)
    except BaseException:  # the process is told to stop
        _hand_back(storage, lease, job)
        raise


def _after_error(storage: Storage, lease: Lease, job: Job, error: Exception) -> str:
    match error:
        case WorkerStopping():
            return _hand_back(storage, lease, job)
        case JobCanceled():
            return _end(storage, lease, lambda session: endings.cancel(session, lease.held()) and "canceled")
        case UserError():
            return _fail(storage, lease, job, error.type, str(error))
        case JobFailed():
            return _fail(storage, lease, job, "job/failed", str(error))
    log.error("attempt failed", exc_info=error)
    return _retry(storage, lease, job, error)


def _after_work(storage: Storage, lease: Lease, job: Job) -> str:
    with storage.db.reader() as session:
        state = session.scalar(select(Job.state).where(Job.id == job.id, Job.fence == lease.fence))
    if state == JobState.PROCESSING:
        return _retry(storage, lease, job, RuntimeError("the work ended without lease.succeed()"))
    return state or "stepped back"


def _hand_back(storage: Storage, lease: Lease, job: Job) -> str:
    return _end(storage, lease, lambda session: endings.hand_back(session, job, lease.held()) and "handed back")


def _fail(storage: Storage, lease: Lease, job: Job, type: str, reason: str) -> str:
    return _end(storage, lease, lambda session: endings.fail(session, job, lease.held(), type, reason) and "failed")


def _retry(storage: Storage, lease: Lease, job: Job, error: Exception) -> str:
    return _end(storage, lease, lambda session: _again(session, job.id, lease.held(), error, storage.settings.max_attempts))


def _recover(storage: Storage, job: Job) -> bool:
    held = and_(Job.id == job.id, Job.fence == job.fence, _expired())
    with storage.db.session() as session:
        hold_account(session, job.account_id)
        if endings.cancel(session, and_(held, _unwanted())):
            return True
        outcome = _again(session, job.id, held, None, storage.settings.max_attempts)
    log.warning("lease ran out", job=job.id, worker=job.worker, outcome=outcome)
    return outcome is not None


def _again(session: Session, job_id: str, held: ColumnElement[bool], error: Exception | None, max_attempts: int) -> str | None:
    """Without an error its worker went silent."""
    job = session.get(Job, job_id)
    if job is None:
        return None
    record = endings.attempt_record(job, error) if error else endings.lost_record(job)
    return endings.try_again(session, job, held, record, max_attempts)


def _end(storage: Storage, lease: Lease, ending: Callable[[Session], str | bool | None]) -> str:
    """Keeps what the attempt measured, then ends it. If the database is down, the lease runs out and the scheduler goes on from there."""
    try:
        with storage.db.session() as session:
            hold_account(session, lease.account_id)
            session.execute(update(Job).where(lease.held()).values(metrics=lease.all_metrics()))
            return str(ending(session) or "stepped back")
    except ServiceDown as error:
        log.warning("end not written", error=str(error))
        return "stepped back"
