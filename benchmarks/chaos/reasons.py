"""Whether what failed attempts say of themselves is true: a reason is true if a fault that does such a thing came just before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from benchmarks.chaos.faults import Injected
from core.words import JobState
from storage import endings
from storage.tables import Job

LONGEST_OVERRUN_S = 30.0
CLOCKS_S = 1.0  # an attempt's time is written in whole seconds
LOST = {"kill_train_worker", "kill_render_worker", "kill_worker_child", "pause_worker", "crash_database", "stop_worker"}
DOWN = {"store_answers_500", "store_hangs", "crash_database"}


@dataclass(frozen=True)
class Cause:
    """What an attempt may truthfully say it died of: after which faults, and how long after their end."""

    faults: frozenset[str]
    within_s: float


def causes(lease_s: float) -> dict[str, Cause]:
    """A lease runs out and is found within the limit; a request that hangs times out, is repeated, and ends; a full disk tells at once."""
    return {
        endings.WORKER_LOST: Cause(frozenset(LOST), lease_s + LONGEST_OVERRUN_S),
        endings.SERVER_DOWN: Cause(frozenset(DOWN), 45.0),
        endings.DISK_FULL: Cause(frozenset({"fill_disk"}), 15.0),
    }


def failures(jobs: Iterable[Job], faults: Sequence[Injected], lease_s: float, max_attempts: int) -> Iterator[str]:
    """Errors of our own program are never a reason here."""
    known = causes(lease_s)
    for job in jobs:
        error = job.error or {}
        attempts = error.get("attempts", [])
        yield from (
            f"untrue reason: attempt {one} of {job.target_id} fits no fault" for one in attempts if not _explained(one, faults, known)
        )
        if job.state == JobState.FAILED:
            yield from _gave_up(job, error, max_attempts)


def _gave_up(job: Job, error: dict[str, Any], max_attempts: int) -> Iterator[str]:
    attempts = error.get("attempts", [])
    if not (error.get("type") and error.get("message")):
        yield f"no reason: {job.target_id} failed silently"
    if error.get("type") != "job/gave-up":
        yield f"untrue reason: {job.target_id} failed with {error}"
    if len(attempts) != job.attempts or not endings.is_last(_before_the_last(job, attempts), attempts[-1], max_attempts):
        yield f"untrue reason: {job.target_id} gave up after {len(attempts)} attempts: {attempts}"


def _before_the_last(job: Job, attempts: Sequence[Any]) -> Job:
    return Job(attempts=job.attempts, error={"attempts": list(attempts[:-1])})


def _explained(attempt: dict[str, Any], faults: Sequence[Injected], known: dict[str, Cause]) -> bool:
    at = datetime.fromisoformat(attempt["at"]).timestamp()
    cause = known.get(attempt["cause"])
    return cause is not None and any(
        fault.kind in cause.faults
        and fault.began - CLOCKS_S <= at <= fault.ended + cause.within_s + CLOCKS_S
        and _hit(fault, attempt.get("worker") or "")
        for fault in faults
    )


def _hit(fault: Injected, worker: str) -> bool:
    """A fault of a worker explains attempts of that kind of worker only; one of a server, anybody's."""
    roles = [role for role in ("train", "render") if fault.target.startswith(role)]
    return not roles or any(worker.startswith(role) for role in roles)
