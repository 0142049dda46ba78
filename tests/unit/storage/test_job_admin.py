from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import update

from core.errors import JobFailed, UserError
from core.words import JobKind, JobState
from storage import job_admin, jobs, publishing, totals
from storage.leases import Lease
from storage.tables import Job, now
from storage.wiring import Storage
from tests.unit.storage.conftest import World


def fails(lease: Lease) -> None:
    with lease.stage("fit"):
        raise JobFailed("No cat in these photos.")


def row(storage: Storage, job: Job) -> Job:
    with storage.db.reader() as session:
        return session.get_one(Job, job.id)


def change(storage: Storage, job: Job, **values: object) -> None:
    with storage.db.session() as session:
        session.execute(update(Job).where(Job.id == job.id).values(**values))


def test_a_failed_job_gets_all_its_attempts_again_and_is_published(storage: Storage, world: World) -> None:
    training, job = world.training(world.subject(world.account()))
    jobs.run(storage, job.id, "w", fails)
    totals.count_ended(storage)
    with storage.db.session() as session:
        job_admin.retry(session, job_admin.find(session, training.id))
    again = row(storage, job)
    assert (again.state, again.attempts, again.completed_at, again.counted_at) == (JobState.STARTING, 0, None, None)
    assert [one.id for one in publishing.unpublished(storage.db)] == [job.id]
    assert jobs.run(storage, job.id, "w2", fails) == "failed"
    assert totals.count_ended(storage) == 1


@pytest.mark.parametrize("state", [JobState.STARTING, JobState.PROCESSING, JobState.SUCCEEDED, JobState.CANCELED])
def test_only_what_failed_is_tried_again(storage: Storage, world: World, state: JobState) -> None:
    _, job = world.training(world.subject(world.account()))
    change(storage, job, state=state)
    with storage.db.session() as session, pytest.raises(UserError, match=state):
        job_admin.retry(session, job_admin.find(session, job.id))
    assert row(storage, job).state == state


def test_what_is_not_there_is_not_found(storage: Storage) -> None:
    with storage.db.reader() as session, pytest.raises(UserError, match="No such job"):
        job_admin.find(session, "job_nowhere")


def test_the_newest_are_listed_by_state_and_kind(storage: Storage, world: World) -> None:
    subject = world.subject(world.account())
    made = [world.training(subject, f"tok{n}")[1] for n in range(4)]
    for n, job in enumerate(made):
        change(storage, job, created_at=now() + timedelta(seconds=n))
    change(storage, made[0], state=JobState.FAILED)
    with storage.db.reader() as session:
        assert [job.id for job in job_admin.newest(session, limit=2)] == [made[3].id, made[2].id]
        assert [job.id for job in job_admin.newest(session, state=JobState.FAILED)] == [made[0].id]
        assert job_admin.newest(session, kind=JobKind.PORTRAIT) == []


def test_a_worker_that_hears_nothing_is_found_out(storage: Storage, world: World) -> None:
    subject = world.subject(world.account())
    (_, waiting), (_, running) = world.training(subject, "one"), world.training(subject, "two")

    def stalled(host: str = "gpu1") -> Job | None:
        with storage.db.reader() as session:
            return job_admin.stalled(session, JobKind.TRAINING, host)

    change(storage, waiting, published_at=now() - timedelta(seconds=60))
    assert stalled() is None, "told a minute ago"
    change(storage, waiting, published_at=now() - timedelta(seconds=600))
    found = stalled()
    assert found is not None and found.id == waiting.id
    held = {"state": JobState.PROCESSING, "worker": "train-7@gpu1", "lease_until": now() + timedelta(seconds=20)}
    change(storage, running, **held)
    assert stalled() is None, "this host works on another"
    assert stalled("gpu2") is not None, "that one does not"
    change(storage, running, lease_until=now() - timedelta(seconds=1))
    assert stalled() is not None, "it fell silent"
