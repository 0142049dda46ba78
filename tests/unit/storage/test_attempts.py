"""When a job that is lost again and again is given up: after three attempts that kept nothing, or ten in all."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import update

from core.errors import LeaseLost, ServiceDown
from storage import endings, job_admin, jobs
from storage.jobs import Lease
from storage.tables import Job, now
from storage.wiring import Storage
from tests.unit.storage.conftest import World


@pytest.fixture
def job(world: World) -> Job:
    return world.training(world.subject(world.account()))[1]


def lose(storage: Storage, job: Job, kept: int | None = None) -> str:
    """A worker claims, may store a state, and is killed: nothing runs to end the attempt. The job's state after the scheduler."""

    def work(lease: Lease) -> None:
        if kept is not None:
            lease.kept(kept)
        with storage.db.session() as session:
            session.execute(update(Job).where(Job.id == job.id).values(lease_until=now() - timedelta(seconds=1)))
        raise LeaseLost

    make_ready(storage, job)
    assert jobs.run(storage, job.id, "spot", work) == "stepped back"
    assert jobs.requeue_expired(storage) == 1
    return state(storage, job)


def make_ready(storage: Storage, job: Job) -> None:
    with storage.db.session() as session:
        session.execute(update(Job).where(Job.id == job.id).values(publish_after=now()))


def state(storage: Storage, job: Job) -> str:
    with storage.db.reader() as session:
        return str(session.get_one(Job, job.id).state)


def test_losses_between_which_it_got_further_do_not_end_it(storage: Storage, world: World, job: Job) -> None:
    assert [lose(storage, job, kept) for kept in (10, 20, 30, 40, 50)] == ["starting"] * 5
    assert [lose(storage, job) for _ in range(3)] == ["starting", "starting", "failed"], "three that kept nothing are the end"
    error = world.job(job).error or {}
    assert [one["kept"] for one in error["attempts"]] == [10, 20, 30, 40, 50, 50, 50, 50]
    assert "stopped 8 times" in error["message"] and endings.WORKER_LOST in error["message"]


def test_the_same_step_again_is_no_progress(storage: Storage, job: Job) -> None:
    assert [lose(storage, job, 10) for _ in range(4)] == ["starting", "starting", "starting", "failed"]


def test_ten_are_the_end_whatever_was_kept(storage: Storage, job: Job) -> None:
    assert [lose(storage, job, kept) for kept in range(1, 11)] == ["starting"] * 9 + ["failed"]


def test_a_fault_of_the_program_counts_although_it_got_further(storage: Storage, job: Job) -> None:
    steps = iter(range(1, 9))

    def breaks(lease: Lease) -> None:
        lease.kept(next(steps))
        raise RuntimeError("a bug at this step")

    assert [jobs.run(storage, job.id, "worker", breaks) for _ in range(3)] == ["requeued", "requeued", "failed"]


def test_an_outage_after_progress_does_not_count_and_is_not_waited_for_longer_and_longer(storage: Storage, world: World, job: Job) -> None:
    steps = iter(range(1, 9))

    def outage(lease: Lease) -> None:
        lease.kept(next(steps))
        raise ServiceDown("the object store does not answer")

    for _ in range(5):
        assert jobs.run(storage, job.id, "worker", outage) == "requeued"
        assert world.job(job).publish_after < now() + timedelta(seconds=endings.RETRY_OUTAGE_S)


def test_the_next_worker_comes_before_the_scheduler(storage: Storage, world: World, job: Job) -> None:
    """It takes over at once only where the scheduler would not give up."""
    for attempt in (1, 2, 3, 4):
        with storage.db.session() as session:
            dead = {"state": "processing", "attempts": attempt, "fence": attempt, "lease_until": now() - timedelta(seconds=1)}
            session.execute(update(Job).where(Job.id == job.id).values(**dead, progress={"kept": 7}))
        taken = jobs._claim(storage, job.id, "next")
        assert (taken is not None) == (attempt < 4)
    assert jobs.requeue_expired(storage) == 1
    assert state(storage, job) == "failed" and len((world.job(job).error or {})["attempts"]) == 4


def test_an_operators_retry_begins_anew(storage: Storage, job: Job) -> None:
    assert [lose(storage, job, 10), *(lose(storage, job) for _ in range(3))][-1] == "failed"
    with storage.db.session() as session:
        job_admin.retry(session, session.get_one(Job, job.id))
    assert [lose(storage, job) for _ in range(3)] == ["starting", "starting", "failed"], "the old step is not counted as new"
