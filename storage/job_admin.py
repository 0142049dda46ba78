"""Jobs as an operator sees them, over all accounts: to look, to try again, to stop."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from core.errors import UserError, not_found
from core.words import JobKind, JobState
from storage.tables import Account, Job, now
from storage.totals import BEFORE

STALLED_AFTER_S = 300.0


def newest(session: Session, state: JobState | None = None, kind: JobKind | None = None, limit: int = 50) -> Sequence[Job]:
    """Newest first."""
    wanted = [column == value for column, value in ((Job.state, state), (Job.kind, kind)) if value]
    return session.scalars(select(Job).where(*wanted).order_by(Job.created_at.desc(), Job.id).limit(limit)).all()


def find(session: Session, name: str) -> Job:
    """By its own id or that of its training or portrait."""
    found = session.scalar(select(Job).where((Job.id == name) | (Job.target_id == name)))
    if found is None:
        raise not_found("job")
    return found


def retry(session: Session, job: Job) -> None:
    """A failed job back to the queue with all its attempts, in the caller's transaction; the scheduler publishes it.

    What earlier attempts died of stays on record, and so does what they cost. The customer has read of the failure already; a second one is
    not mailed again, a success is. :class:`core.errors.UserError` for a job in any other state.
    """
    died_of = (job.error or {}).get("attempts", [])
    known = {"attempts": died_of, "before_retry": len(died_of)}
    metrics = {**(job.metrics or {}), BEFORE: dict((job.metrics or {}).get("seconds", {}))}
    fresh = {"state": JobState.STARTING, "attempts": 0, "worker": None, "lease_until": None, "cancel_requested": False, "error": known}
    fresh["progress"] = {name: value for name, value in (job.progress or {}).items() if name != "kept"}
    times = {"published_at": None, "publish_after": now(), "completed_at": None, "counted_at": None}
    stands = (Job.id == job.id, Job.state == JobState.FAILED, Job.account_id.in_(select(Account.id).where(~Account.gone)))
    again = update(Job).where(*stands).values(metrics=metrics, **fresh, **times).returning(Job.id)
    if session.execute(again, execution_options={"synchronize_session": False}).first() is None:
        raise UserError("jobs/not-failed", f"The job is {job.state}", "Only a failed job of a standing account can be tried again.")
    session.refresh(job)


def stalled(session: Session, kind: JobKind, host: str, after_s: float = STALLED_AFTER_S) -> Job | None:
    """A job that workers of this host were told of long ago and left lying while they held none: their consumer is deaf (celery#8091)."""
    held = select(Job.id).where(
        Job.state == JobState.PROCESSING, Job.kind == kind, Job.worker.endswith(f"@{host}"), Job.lease_until > now()
    )
    if session.scalar(held.limit(1)) is not None:
        return None
    lies = (Job.state == JobState.STARTING, Job.kind == kind, Job.published_at < now() - timedelta(seconds=after_s))
    return session.scalar(select(Job).where(*lies).order_by(Job.created_at).limit(1))
