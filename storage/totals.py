"""Totals over all accounts, for monitoring: each job that ends is added once, in one transaction with the mark that it was.

Rows of jobs cannot serve: they go with their account, and a counter that falls is read as one that began again. A total names no account.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import and_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from core.settings import Settings
from core.words import JobState
from storage.accounting import cost_of, device_seconds
from storage.tables import Job, Total, now
from storage.wiring import Storage

JOBS, ATTEMPTS = "jobs", "attempts"
STAGE_SECONDS, DEVICE_SECONDS, COST = "stage_seconds", "device_seconds", "cost"
WAIT_SECONDS, RUN_SECONDS = "wait_seconds", "run_seconds"
ADAPTER_LOADS, IMAGES, SCHEDULER_PASS = "adapter_loads", "images", "scheduler_pass"

AT_ONCE = 500
PASS_NOTED_EVERY_S = 15.0
BEFORE = "counted_before"  # in a job's metrics: what an operator's retry found already counted

Amounts = Counter[tuple[str, str]]
_UNCOUNTED = and_(Job.completed_at.is_not(None), Job.counted_at.is_(None))
_INSERT: dict[str, Any] = {"postgresql": postgresql.insert, "sqlite": sqlite.insert}


def count_ended(storage: Storage) -> int:
    """Add the jobs that ended since; how many. Safe to run twice at once: a job is counted by whoever marks it."""
    with storage.db.reader() as session:
        if session.scalar(select(Job.id).where(_UNCOUNTED).limit(1)) is None:
            return 0
    with storage.db.session() as session:
        some = select(Job.id).where(_UNCOUNTED).order_by(Job.completed_at).limit(AT_ONCE).with_for_update(skip_locked=True)
        mark = update(Job).where(Job.id.in_(some), _UNCOUNTED).values(counted_at=now()).returning(Job)
        jobs = list(session.scalars(mark, execution_options={"synchronize_session": False}))
        amounts: Amounts = Counter()
        for job in jobs:
            amounts.update(dict(_amounts(job, storage.settings)))
        _add(session, amounts)
    return len(jobs)


def note_pass(storage: Storage) -> int:
    """A scheduler is at work: the moment, in Unix seconds, written now and then. Returns 0: it is no work that waited."""
    if time.time() - last_pass(storage) >= PASS_NOTED_EVERY_S:
        with storage.db.session() as session:
            _upsert(session, (SCHEDULER_PASS, _labels()), time.time(), time.time())
    return 0


def last_pass(storage: Storage) -> float:
    """When a scheduler last went its round, in Unix seconds; 0: never."""
    return read(storage).get((SCHEDULER_PASS, _labels()), 0.0)


def read(storage: Storage) -> dict[tuple[str, str], float]:
    """``{(name, labels as JSON): value}``."""
    with storage.db.reader() as session:
        return {(row.name, row.labels): row.value for row in session.scalars(select(Total))}


def _amounts(job: Job, settings: Settings) -> Iterator[tuple[tuple[str, str], float]]:
    """What one job adds."""
    metrics = job.metrics or {}
    yield (JOBS, _labels(kind=job.kind, state=job.state, **_reason(job))), 1
    yield (ATTEMPTS, _labels(kind=job.kind)), job.attempts
    yield from _seconds(job, metrics.get(BEFORE, {}), settings)
    if tier := metrics.get("adapter_from"):
        yield (ADAPTER_LOADS, _labels(tier=tier)), 1
    if images := metrics.get("images"):
        yield (IMAGES, _labels()), images


def _reason(job: Job) -> dict[str, str]:
    """The stable type of a failure, and what its last attempt died of; never their text, which may name a customer's file."""
    error = (job.error or {}) if job.state == JobState.FAILED else {}
    return {"reason": error.get("type", ""), "cause": (error.get("attempts") or [{}])[-1].get("type", "")}


def _seconds(job: Job, before: Mapping[str, float], settings: Settings) -> Iterator[tuple[tuple[str, str], float]]:
    kind, metrics = job.kind, job.metrics or {}
    for stage, seconds in metrics.get("seconds", {}).items():
        yield (STAGE_SECONDS, _labels(kind=kind, stage=stage)), max(0.0, seconds - before.get(stage, 0.0))
    held = max(0.0, device_seconds(metrics.get("seconds", {})) - device_seconds(before))
    yield (DEVICE_SECONDS, _labels(kind=kind, device=str(metrics.get("device", "unknown")).partition(":")[0])), held
    if settings.gpu_price_per_hour:
        yield (COST, _labels(kind=kind, currency=settings.currency)), cost_of(settings, held)
    if job.started_at and job.completed_at and not before:  # the pause before an operator's retry is nobody's wait
        yield (WAIT_SECONDS, _labels(kind=kind)), (job.started_at - job.created_at).total_seconds()
        yield (RUN_SECONDS, _labels(kind=kind)), (job.completed_at - job.started_at).total_seconds()


def _labels(**values: str) -> str:
    return json.dumps(values, sort_keys=True)


def _add(session: Session, amounts: Amounts) -> None:
    for key in sorted(amounts):  # in one order everywhere, so that two writers cannot wait for each other
        _upsert(session, key, amounts[key], Total.value + amounts[key])


def _upsert(session: Session, key: tuple[str, str], first: float, then: Any) -> None:
    name, labels = key
    insert = _INSERT[session.get_bind().dialect.name](Total).values(name=name, labels=labels, value=float(first))
    session.execute(insert.on_conflict_do_update(index_elements=[Total.name, Total.labels], set_={"value": then}))
