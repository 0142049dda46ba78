"""Figures for monitoring: each job counted once, and nothing of them lost when a customer goes."""

from __future__ import annotations

import time
from datetime import timedelta
from threading import Thread
from typing import Any

import pytest
from sqlalchemy import update

from core.errors import JobFailed
from core.settings import Settings
from core.words import JobKind, new_id
from storage import erasure, figures, jobs, scheduler, totals
from storage.tables import Job, Mail, Total, now
from storage.wiring import Storage, open_storage
from tests.unit.storage.conftest import FakePost, World, job_settings


@pytest.fixture
def settings(tmp_path: Any) -> Settings:
    return job_settings(tmp_path, gpu_price_per_hour=3.6, currency="EUR")


def ended(storage: Storage, world: World, state: str = "succeeded", account: Any = None, **values: Any) -> Job:
    account = account or world.account(f"{new_id('a')}@example.com")
    with storage.db.session() as session:
        job = jobs.create(session, account.id, JobKind.PORTRAIT, new_id("por"))
        at = job.created_at
        values = {"started_at": at + timedelta(seconds=2), "completed_at": at + timedelta(seconds=12), "attempts": 1} | values
        session.execute(update(Job).where(Job.id == job.id).values(state=state, **values))
    return job


def value(storage: Storage, name: str, **labels: str) -> float | None:
    found = {figure.name: figure for figure in figures.read(storage)}
    return next((value for have, value in found[name].samples if dict(have) == labels), None) if name in found else None


def test_what_ended_is_counted_once(storage: Storage, world: World) -> None:
    metrics = {"seconds": {"load": 1.0, "render": 9.0}, "device": "cuda:1", "adapter_from": "disk", "images": 4}
    ended(storage, world, metrics=metrics)
    ended(storage, world, metrics=metrics | {"adapter_from": "ram"}, attempts=2)
    assert (totals.count_ended(storage), totals.count_ended(storage)) == (2, 0)
    assert value(storage, "jobs", kind="portrait", state="succeeded", reason="", cause="") == 2
    assert value(storage, "attempts", kind="portrait") == 3
    assert value(storage, "stage_seconds", kind="portrait", stage="render") == 18
    assert value(storage, "device_seconds", kind="portrait", device="cuda") == 20
    assert value(storage, "cost", kind="portrait", currency="EUR") == pytest.approx(20 / 3600 * 3.6)
    assert (value(storage, "wait_seconds", kind="portrait"), value(storage, "run_seconds", kind="portrait")) == (4, 20)
    assert (value(storage, "adapter_loads", tier="disk"), value(storage, "adapter_loads", tier="ram")) == (1, 1)
    assert value(storage, "images") == 8


def test_two_schedulers_count_each_job_once(storage: Storage, world: World, settings: Settings) -> None:
    account = world.account()
    for _ in range(60):
        ended(storage, world, account=account)
    both = [storage, open_storage(settings)]
    counted: list[int] = []
    threads = [Thread(target=lambda one=one: counted.append(totals.count_ended(one))) for one in both for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(counted) == 60
    assert value(storage, "jobs", kind="portrait", state="succeeded", reason="", cause="") == 60
    both[1].db.close()


def test_failures_are_told_apart_by_type_and_never_by_text(storage: Storage, world: World) -> None:
    ended(storage, world, "failed", error={"type": "photos/too-few", "message": "miso.jpg of ada@example.com is too dark"})
    died = [{"type": "ServiceDown", "message": "…"}, {"type": "WorkerLost", "message": "ada@example.com"}]
    ended(storage, world, "failed", error={"type": "job/gave-up", "message": "…", "attempts": died}, attempts=3)
    ended(storage, world, "canceled", error=None)
    totals.count_ended(storage)
    assert value(storage, "jobs", kind="portrait", state="failed", reason="photos/too-few", cause="") == 1
    assert value(storage, "jobs", kind="portrait", state="failed", reason="job/gave-up", cause="WorkerLost") == 1
    assert value(storage, "jobs", kind="portrait", state="canceled", reason="", cause="") == 1
    assert not any("example.com" in labels for _name, labels in totals.read(storage))


def test_counters_stand_when_the_account_is_erased(storage: Storage, world: World, post: FakePost) -> None:
    account = world.account()
    ended(storage, world, account=account, metrics={"seconds": {"render": 5.0}})
    totals.count_ended(storage)
    erasure.erase(storage, post, "account", account.id)
    assert value(storage, "stage_seconds", kind="portrait", stage="render") == 5
    assert value(storage, "jobs", kind="portrait", state="succeeded", reason="", cause="") == 1


def test_a_retry_adds_only_what_is_new(storage: Storage, world: World) -> None:
    job = ended(storage, world, metrics={"seconds": {"render": 5.0}})
    totals.count_ended(storage)
    again = {"seconds": {"render": 8.0}, totals.BEFORE: {"render": 5.0}}
    with storage.db.session() as session:
        session.execute(update(Job).where(Job.id == job.id).values(metrics=again, counted_at=None))
    totals.count_ended(storage)
    assert value(storage, "stage_seconds", kind="portrait", stage="render") == 8


def test_the_age_of_the_queue_is_that_of_the_oldest_that_waits(storage: Storage, world: World) -> None:
    account = world.account()
    with storage.db.session() as session:
        for age in (5, 90):
            job = jobs.create(session, account.id, JobKind.PORTRAIT, new_id("por"))
            session.execute(update(Job).where(Job.id == job.id).values(created_at=now() - timedelta(seconds=age)))
    assert value(storage, "queue_jobs", kind="portrait", state="starting") == 2
    assert 90 <= (value(storage, "queue_age_seconds", kind="portrait") or 0) < 120
    assert value(storage, "queue_age_seconds", kind="training") == 0


def test_leases_that_nobody_took_back_and_mails_that_wait_are_seen(storage: Storage, world: World) -> None:
    ended(storage, world, "processing", completed_at=None, lease_until=now() - timedelta(seconds=1))
    with storage.db.session() as session:
        session.add(Mail(id="m1", to="a@b.c", template="sign_in", dedupe_key="1", created_at=now() - timedelta(seconds=60)))
        session.add(Mail(id="m2", to="a@b.c", template="sign_in", dedupe_key="2", failed_at=now()))
        session.add(Mail(id="m3", to="a@b.c", template="sign_in", dedupe_key="3", sent_at=now()))
    assert value(storage, "leases_overdue") == 1
    assert (value(storage, "mails_waiting"), value(storage, "mails_failed")) == (1, 1)
    assert (value(storage, "mails_age_seconds") or 0) >= 60


def test_a_mail_that_backs_off_ages_and_one_that_nobody_sends_is_overdue(storage: Storage) -> None:
    with storage.db.session() as session:
        mail = Mail(id="m1", to="a@b.c", template="sign_in", dedupe_key="1", created_at=now() - timedelta(hours=5))
        mail.next_attempt_at = now() + timedelta(minutes=30)
        session.add(mail)
    assert (value(storage, "mails_age_seconds") or 0) > 3600 and value(storage, "mails_overdue_seconds") == 0
    with storage.db.session() as session:
        session.get_one(Mail, "m1").next_attempt_at = now() - timedelta(minutes=20)
    assert 1200 <= (value(storage, "mails_overdue_seconds") or 0) < 1300


def test_the_workers_own_reports_arrive(storage: Storage, world: World, post: FakePost) -> None:
    """Through the real way: a job that runs, fails, and is counted by the scheduler's round."""
    account = world.account()
    with storage.db.session() as session:
        job = jobs.create(session, account.id, JobKind.TRAINING, new_id("trn"))

    def work(lease: jobs.Lease) -> None:
        with lease.stage("curate"):
            time.sleep(0.02)
            raise JobFailed("These photos show nobody.")

    jobs.run(storage, job.id, "w", work)
    scheduler.tick(storage, post)
    assert value(storage, "jobs", kind="training", state="failed", reason="job/failed", cause="") == 1
    assert (value(storage, "stage_seconds", kind="training", stage="curate") or 0) >= 0.02
    assert time.time() - (value(storage, "scheduler_pass_timestamp_seconds") or 0) < 30


def test_a_round_is_noted_now_and_then(storage: Storage) -> None:
    totals.note_pass(storage)
    first = value(storage, "scheduler_pass_timestamp_seconds")
    totals.note_pass(storage)
    assert value(storage, "scheduler_pass_timestamp_seconds") == first
    with storage.db.session() as session:
        session.execute(update(Total).values(value=Total.value - 60))
    totals.note_pass(storage)
    assert (value(storage, "scheduler_pass_timestamp_seconds") or 0) >= (first or 0) > 0
