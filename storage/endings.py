"""How a job ends other than well, or goes back to the queue: one conditional UPDATE each; mail and webhooks are in its transaction."""

from __future__ import annotations

import errno
import os
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, select, update
from sqlalchemy.orm import Session

from core.errors import ServiceDown
from core.words import JobKind, JobState
from storage import mails, webhook_events
from storage.tables import Account, Job, Subject, Training, now

GAVE_UP = "This stopped {n} times because of a fault on our side: {cause}. Nothing that you did caused it. Please start it again later."
WORKER_LOST = "the machine that worked on it stopped answering"
DISK_FULL = "the disk of the machine that worked on it was full"
SERVER_DOWN = "a server that we need did not answer"
DEVICE_FAULT = "the graphics processor that worked on it failed"
DEVICE_FULL = "the graphics processor that worked on it had too little memory"
PROGRAM_FAULT = "an error in our program"
DEVICE_WORDS = ("CUDA error", "Triton Error [CUDA]", "CUBLAS_STATUS", "CUDNN_STATUS")  # of torch and what it calls
OUT_OF_MEMORY = "CUDA out of memory"
RETRY_S, RETRY_OUTAGE_S = 2.0, 15.0  # wait before the second attempt; four times as long before the third
MOST_CLAIMS = 10  # attempts that kept something do not count against max_attempts; so many of any kind are the end all the same


def fail(session: Session, job: Job, held: ColumnElement[bool], type: str, reason: str) -> bool:
    """Set the job failed with the reason that the customer reads, and queue the mail. False if the job is no longer ``held``."""
    error = {**(job.error or {}), "type": type, "message": reason}
    values = {"state": JobState.FAILED, "error": error, "completed_at": now(), "lease_until": None}
    if not _change(session, held, values):
        return False
    if job.kind == JobKind.TRAINING:
        _tell_of_failure(session, job, reason)
    return True


def cancel(session: Session, held: ColumnElement[bool]) -> bool:
    return _change(session, held, {"state": JobState.CANCELED, "completed_at": now(), "lease_until": None})


def try_again(
    session: Session, job: Job, held: ColumnElement[bool], attempt: dict[str, Any], max_attempts: int, wait_s: float | None = None
) -> str | None:
    """Back to the queue, or failed if it :func:`is_last`: ``requeued``, ``failed``, or None if the job is no longer ``held``.

    ``wait_s`` None: a server or disk gets time to recover; a worker that died, or a fault of the program, is tried again soon.
    """
    last, wait_s = is_last(job, attempt, max_attempts), retry_wait_s(job, attempt) if wait_s is None else wait_s
    error = job.error = {**(job.error or {}), "attempts": [*(job.error or {}).get("attempts", []), attempt]}
    session.expunge(job)  # the conditional UPDATE below is the only write
    if last:
        return "failed" if fail(session, job, held, "job/gave-up", GAVE_UP.format(n=job.attempts, cause=attempt["cause"])) else None
    values = {"state": JobState.STARTING, "worker": None, "lease_until": None, "error": error, "published_at": None}
    return "requeued" if _change(session, held, values | {"publish_after": now() + timedelta(seconds=wait_s)}) else None


def is_last(job: Job, attempt: dict[str, Any], max_attempts: int) -> bool:
    """Whether the job fails with this attempt: the last of ``max_attempts`` in a row that kept nothing, or of ``MOST_CLAIMS`` in all."""
    return fruitless(job, attempt) >= max_attempts or job.attempts >= max(max_attempts, MOST_CLAIMS)


def fruitless(job: Job, attempt: dict[str, Any]) -> int:
    """How many attempts in a row, this one last, left no more to the next than they found. An error of our program always counts."""
    error = job.error or {}
    series = [*error.get("attempts", []), attempt][error.get("before_retry", 0) :]  # since an operator began anew
    count, kept = max(0, job.attempts - len(series)), 0  # one that is not on record has kept nothing
    for one in series:
        gained = one.get("kept", 0) > kept and one["cause"] != PROGRAM_FAULT
        count, kept = 0 if gained else count + 1, max(kept, one.get("kept", 0))
    return count


def hand_back(session: Session, job: Job, held: ColumnElement[bool]) -> bool:
    """A worker that is told to stop gives its job back; the attempt does not count."""
    values = {"state": JobState.STARTING, "worker": None, "lease_until": None, "published_at": None, "publish_after": now()}
    return _change(session, held, values | {"attempts": job.attempts - 1})


def attempt_record(job: Job, error: Exception) -> dict[str, Any]:
    """For the operator: what one attempt died of. The customer reads no more than its ``cause``."""
    return _attempt(job, type(error).__name__, str(error)[:2000], cause_of(error))


def lost_record(job: Job) -> dict[str, Any]:
    return _attempt(job, "WorkerLost", f"no heartbeat since the lease ended at {job.lease_until}", WORKER_LOST)


def cause_of(error: Exception) -> str:
    """In words that a customer may read."""
    if isinstance(error, ServiceDown):
        return SERVER_DOWN
    no_space = os.strerror(errno.ENOSPC)  # safetensors says so in words alone
    if getattr(error, "errno", None) == errno.ENOSPC or no_space in str(error):
        return DISK_FULL
    if OUT_OF_MEMORY in str(error):
        return DEVICE_FULL
    return DEVICE_FAULT if any(words in str(error) for words in DEVICE_WORDS) else PROGRAM_FAULT


def retry_wait_s(job: Job, attempt: dict[str, Any]) -> float:
    first = RETRY_OUTAGE_S if attempt["cause"] in (SERVER_DOWN, DISK_FULL) else RETRY_S
    return first * 4.0 ** max(0, fruitless(job, attempt) - 1)


def _attempt(job: Job, type: str, message: str, cause: str) -> dict[str, Any]:
    at = now().isoformat(timespec="seconds")
    kept = (job.progress or {}).get("kept", 0)
    return {"n": job.attempts, "worker": job.worker, "type": type, "message": message, "cause": cause, "at": at, "kept": kept}


def _change(session: Session, held: ColumnElement[bool], values: dict[str, Any]) -> bool:
    change = update(Job).where(held).values(**values).returning(Job.id)
    changed = session.execute(change, execution_options={"synchronize_session": False}).scalar()
    if changed and values["state"].ended:
        webhook_events.job_ended(session, changed)
    return changed is not None


def _tell_of_failure(session: Session, job: Job, reason: str) -> None:
    row = session.execute(
        select(Account.email, Subject.id, Subject.name)
        .join(Training, Training.account_id == Account.id)
        .join(Subject, Subject.id == Training.subject_id)
        .where(Training.id == job.target_id, ~Account.gone)
    ).first()
    if row:
        email, subject_id, subject_name = row
        context = {"subject_id": subject_id, "subject_name": subject_name, "training_id": job.target_id, "reason": reason}
        mails.enqueue(session, email, "training_failed", context, f"training_failed:{job.target_id}", job.account_id)
