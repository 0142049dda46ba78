"""How the service stands, in figures for monitoring: all of it from the database, so that any process can answer and none must be asked."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from core.words import JobKind, JobState
from storage import totals
from storage.tables import Erasure, Job, Mail, WebhookDelivery, now
from storage.wiring import Storage

Sample = tuple[Mapping[str, str], float]


@dataclass(frozen=True)
class Figure:
    """``kind`` is ``gauge`` or ``counter``; the name has no prefix and, for a counter, no ``_total``."""

    name: str
    help: str
    kind: str
    samples: Sequence[Sample]


_COUNTERS = {
    totals.JOBS: "Jobs that ended, by state; for failures the reason that the customer was given and what the last attempt died of.",
    totals.ATTEMPTS: "Attempts of jobs that ended; more than jobs where workers were lost or servers down.",
    totals.STAGE_SECONDS: "Seconds that ended jobs spent in each stage, over all attempts.",
    totals.DEVICE_SECONDS: "Seconds that ended jobs held a worker's device (cuda: GPU seconds), over all attempts.",
    totals.COST: "Device seconds of ended jobs at LIKENESS_GPU_PRICE_PER_HOUR.",
    totals.WAIT_SECONDS: "Seconds from creation to the first claim, of jobs that ended.",
    totals.RUN_SECONDS: "Seconds from the first claim to the end, of jobs that ended.",
    totals.ADAPTER_LOADS: "Portraits' adapters by the nearest place that had them: ram, disk, or store (a miss).",
    totals.IMAGES: "Pictures rendered.",
}


def read(storage: Storage) -> list[Figure]:
    """A handful of indexed queries. :class:`core.errors.ServiceDown` if the database does not answer."""
    with storage.db.reader() as session:
        waiting = [*_jobs(session), *_mails(session), *_webhooks(session), *_erasures(session)]
    return waiting + _totals(storage)


def _jobs(session: Session) -> list[Figure]:
    active = (JobState.STARTING, JobState.PROCESSING)
    query = select(Job.kind, Job.state, func.count(), func.min(Job.created_at)).where(Job.state.in_(active)).group_by(Job.kind, Job.state)
    found = {(kind, state): (count, oldest) for kind, state, count, oldest in session.execute(query)}
    counts = [({"kind": kind, "state": state}, found.get((kind, state), (0, None))[0]) for kind in JobKind for state in active]
    ages = [({"kind": kind}, _age_s(found.get((kind, JobState.STARTING), (0, None))[1])) for kind in JobKind]
    overdue = session.scalar(select(func.count()).where(Job.state == JobState.PROCESSING, Job.lease_until < now()))
    return [
        Figure("queue_jobs", "Jobs that wait (starting) or are worked on (processing).", "gauge", counts),
        Figure("queue_age_seconds", "Age of the oldest job that waits; 0 if none does.", "gauge", ages),
        Figure("leases_overdue", "Jobs whose worker went silent and that no scheduler has taken back yet.", "gauge", [({}, overdue or 0)]),
    ]


def _mails(session: Session) -> list[Figure]:
    return _backlog(session, "mails", "Mails", Mail, Mail.sent_at)


def _webhooks(session: Session) -> list[Figure]:
    return _backlog(session, "webhook_deliveries", "Webhook deliveries", WebhookDelivery, WebhookDelivery.delivered_at)


def _backlog(session: Session, name: str, called: str, table: Any, ended: Any) -> list[Figure]:
    waits = (ended.is_(None), table.failed_at.is_(None))
    facts = select(func.count(), func.min(table.created_at), func.min(table.next_attempt_at))
    count, oldest, due = session.execute(facts.where(*waits)).one()
    failed = session.scalar(select(func.count()).select_from(table).where(table.failed_at.is_not(None)))
    return [
        Figure(f"{name}_waiting", f"{called} that wait to go out.", "gauge", [({}, count)]),
        Figure(f"{name}_age_seconds", f"{called}: age of the oldest that waits.", "gauge", [({}, _age_s(oldest))]),
        Figure(f"{name}_overdue_seconds", f"{called}: how long an attempt is overdue, as when nobody sends.", "gauge", [({}, _age_s(due))]),
        Figure(f"{name}_failed", f"{called} that were given up and are still on record.", "gauge", [({}, failed or 0)]),
    ]


def _erasures(session: Session) -> list[Figure]:
    query = select(func.count(), func.min(Erasure.started_at)).where(Erasure.finished_at.is_(None))
    count, oldest = session.execute(query).one()
    return [
        Figure("erasures_unfinished", "Erasures under way.", "gauge", [({}, count)]),
        Figure("erasures_age_seconds", "Age of the oldest erasure under way.", "gauge", [({}, _age_s(oldest))]),
    ]


def _totals(storage: Storage) -> list[Figure]:
    by_name: dict[str, list[Sample]] = defaultdict(list)
    for (name, labels), value in sorted(totals.read(storage).items()):
        by_name[name].append((json.loads(labels), value))
    last_pass = by_name.get(totals.SCHEDULER_PASS, [({}, 0.0)])
    counters = [Figure(name, help, "counter", by_name[name]) for name, help in _COUNTERS.items() if by_name[name]]
    return [*counters, Figure("scheduler_pass_timestamp_seconds", "When a scheduler last went its round (Unix time).", "gauge", last_pass)]


def _age_s(moment: datetime | None) -> float:
    return max(0.0, (now() - moment).total_seconds()) if moment else 0.0
