"""One worker at a time, whatever dies; every end has its reason."""

from __future__ import annotations

import errno
import threading
import time
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from core.errors import JobCanceled, JobFailed, LeaseLost, ServiceDown, UserError
from storage import endings, jobs, publishing
from storage.jobs import Lease
from storage.tables import Account, Consent, Job, Mail, Training, now
from storage.wiring import Storage
from tests.unit.storage.conftest import World


@pytest.fixture
def job(world: World) -> Job:
    return world.training(world.subject(world.account()))[1]


def succeed(lease: Lease) -> None:
    with lease.succeed():
        pass


def expire(storage: Storage, job: Job) -> None:
    with storage.db.session() as session:
        session.execute(update(Job).where(Job.id == job.id).values(lease_until=now() - timedelta(seconds=1)))


def mails_of(storage: Storage, job: Job) -> list[Mail]:
    with storage.db.reader() as session:
        return list(session.scalars(select(Mail).where(Mail.account_id == job.account_id)))


def test_work_that_succeeds(storage: Storage, world: World, job: Job) -> None:
    def work(lease: Lease) -> None:
        with lease.stage("fit"):
            lease.check()
            lease.progress(step=3, total=9, loss=0.5)
        lease.metrics(gpu_seconds=1.5)
        with lease.succeed() as session:
            session.get_one(Training, lease.target_id).adapter_id = "ada_1"

    assert jobs.run(storage, job.id, "worker-1", work) == "succeeded"
    ended = world.job(job)
    assert (ended.state, ended.attempts, ended.worker) == ("succeeded", 1, "worker-1")
    assert ended.progress == {"stage": "fit", "step": 3, "total": 9, "loss": 0.5, "message": "", "eta_s": None}
    assert ended.metrics["gpu_seconds"] == 1.5
    assert ended.metrics["seconds"]["fit"] >= 0
    assert ended.completed_at is not None
    with storage.db.reader() as session:
        assert session.get_one(Training, job.target_id).adapter_id == "ada_1"


def test_a_new_stage_does_not_end_when_the_one_before_would_have(storage: Storage, world: World, job: Job) -> None:
    seen: list[dict[str, Any]] = []

    def work(lease: Lease) -> None:
        with lease.stage("fit"):
            lease.progress(step=9, total=9, loss=0.5, eta_s=0.0)
        with lease.stage("select"):
            seen.append(dict(world.job(job).progress))
        succeed(lease)

    assert jobs.run(storage, job.id, "w", work) == "succeeded"
    assert (seen[0]["stage"], seen[0]["loss"], seen[0]["eta_s"]) == ("select", 0.5, None)


def test_of_two_claimers_one_works(storage: Storage, job: Job) -> None:
    began = threading.Barrier(6)
    worked: list[str] = []
    outcomes: list[str] = []

    def claim(name: str) -> None:
        def work(lease: Lease) -> None:
            worked.append(name)
            time.sleep(0.1)
            succeed(lease)

        began.wait()
        outcomes.append(jobs.run(storage, job.id, name, work))

    threads = [threading.Thread(target=claim, args=(f"worker-{n}",)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(worked) == 1
    assert sorted(outcomes) == ["stepped back"] * 5 + ["succeeded"]


def test_a_worker_that_lost_its_lease_cannot_write(storage: Storage, world: World, job: Job) -> None:
    """The first stalls, the second takes over and succeeds; nothing of the first is kept."""
    refusals: list[type[BaseException]] = []

    def stalled(lease: Lease) -> None:
        expire(storage, job)
        assert jobs.run(storage, job.id, "second", succeed) == "succeeded"
        for write in (lambda: lease.put("accounts/x/late", b"x"), lambda: lease.progress(stage="late"), lease.check, lambda: lose(lease)):
            with pytest.raises(LeaseLost) as refusal:
                write()
            refusals.append(refusal.type)
        raise LeaseLost

    def lose(lease: Lease) -> None:
        with lease.succeed() as session:
            session.get_one(Training, lease.target_id).adapter_id = "ada_late"

    assert jobs.run(storage, job.id, "first", stalled) == "stepped back"
    assert len(refusals) == 4
    ended = world.job(job)
    assert (ended.state, ended.worker, ended.fence) == ("succeeded", "second", 2)
    assert "stage" not in ended.progress
    assert list(storage.objects.list("accounts/")) == []


def test_the_fence_is_in_the_database_too(storage: Storage, world: World, job: Job) -> None:
    """A worker that has not noticed yet: its own clock says that all is well, and its last act is refused."""

    def unaware(lease: Lease) -> None:
        with lease.succeed() as session:
            session.get_one(Training, lease.target_id).adapter_id = "ada_late"
            session.execute(update(Job).where(Job.id == job.id).values(fence=Job.fence + 1))  # as another's claim does

    assert jobs.run(storage, job.id, "first", unaware) == "stepped back"
    with storage.db.reader() as session:
        assert session.get_one(Training, job.target_id).adapter_id is None


def with_short_leases(storage: Storage) -> Storage:
    return replace(storage, settings=storage.settings.model_copy(update={"lease_s": 1.0, "heartbeat_s": 0.2}))


def test_the_heartbeat_outlives_the_lease(storage: Storage, job: Job) -> None:
    storage = with_short_leases(storage)

    def long_work(lease: Lease) -> None:
        ends = time.monotonic() + 1.5 * storage.settings.lease_s
        while time.monotonic() < ends:
            lease.check()
            assert jobs.requeue_expired(storage) == 0
            time.sleep(0.05)
        succeed(lease)

    assert jobs.run(storage, job.id, "worker", long_work) == "succeeded"


def test_without_heartbeats_a_worker_stops_by_its_own_clock(storage: Storage, job: Job) -> None:
    """As when the database cannot be reached: by the end of the lease it may be another's."""
    lease = Lease(with_short_leases(storage), job)
    lease.check()
    time.sleep(1.1)
    with pytest.raises(LeaseLost):
        lease.check()


def test_cancel_while_waiting_is_at_once(storage: Storage, world: World, job: Job) -> None:
    with storage.db.session() as session:
        jobs.request_cancel(session, session.get_one(Job, job.id))
    assert world.job(job).state == "canceled"
    assert jobs.run(storage, job.id, "worker", succeed) == "stepped back"


def test_cancel_while_running_stops_at_the_next_check(storage: Storage, world: World, job: Job) -> None:
    steps = 0

    def work(lease: Lease) -> None:
        nonlocal steps
        for steps in range(200):
            lease.check()
            if steps == 2:
                with storage.db.session() as session:
                    jobs.request_cancel(session, session.get_one(Job, job.id))
            time.sleep(0.02)

    assert jobs.run(storage, job.id, "worker", work) == "canceled"
    assert 2 < steps < 150
    assert world.job(job).state == "canceled"
    assert mails_of(storage, job) == []


def test_a_cancel_just_before_the_end_wins(storage: Storage, world: World, job: Job) -> None:
    def work(lease: Lease) -> None:
        with storage.db.session() as session:
            jobs.request_cancel(session, session.get_one(Job, job.id))
        succeed(lease)

    assert jobs.run(storage, job.id, "worker", work) == "canceled"


def test_cancel_after_the_end_changes_nothing(storage: Storage, world: World, job: Job) -> None:
    jobs.run(storage, job.id, "worker", succeed)
    with storage.db.session() as session:
        jobs.request_cancel(session, session.get_one(Job, job.id))
    assert world.job(job).state == "succeeded"


@pytest.mark.parametrize(
    ("error", "type_", "reason"),
    [
        (JobFailed("Only 4 photos show the cat. Add 6 more."), "job/failed", "Only 4 photos show the cat. Add 6 more."),
        (UserError("photos/too-few", "Too few photos", "Add 6 more."), "photos/too-few", "Too few photos: Add 6 more."),
    ],
)
def test_a_stated_failure_is_final_and_told(storage: Storage, world: World, job: Job, error: Exception, type_: str, reason: str) -> None:
    def work(lease: Lease) -> None:
        raise error

    assert jobs.run(storage, job.id, "worker", work) == "failed"
    ended = world.job(job)
    assert (ended.state, ended.error) == ("failed", {"type": type_, "message": reason})
    (mail,) = mails_of(storage, job)
    assert (mail.template, mail.to, mail.context["reason"], mail.context["subject_name"]) == (
        "training_failed",
        "ada@example.com",
        reason,
        "Miso",
    )


def test_a_fault_is_tried_again_and_then_told_once(storage: Storage, world: World, job: Job) -> None:
    def work(lease: Lease) -> None:
        raise RuntimeError("CUDA error: secret path /srv")

    assert [jobs.run(storage, job.id, "worker", work) for _ in range(4)] == ["requeued", "requeued", "failed", "stepped back"]
    ended = world.job(job)
    assert ended.error is not None
    assert [(one["n"], one["type"]) for one in ended.error["attempts"]] == [(1, "RuntimeError"), (2, "RuntimeError"), (3, "RuntimeError")]
    assert "3 times" in ended.error["message"]
    (mail,) = mails_of(storage, job)
    assert "CUDA" not in mail.context["reason"]


def test_a_requeued_job_is_published_again_after_a_wait(storage: Storage, world: World, job: Job) -> None:
    def work(lease: Lease) -> None:
        raise ServiceDown("the object store does not answer")

    with storage.db.session() as session:
        session.get_one(Job, job.id).published_at = now()
    assert publishing.unpublished(storage.db) == []
    jobs.run(storage, job.id, "worker", work)
    waiting = world.job(job)
    assert waiting.published_at is None
    assert waiting.publish_after > now() + timedelta(seconds=5)
    assert publishing.unpublished(storage.db) == []
    with storage.db.session() as session:
        session.get_one(Job, job.id).publish_after = now()
    assert [one.id for one in publishing.unpublished(storage.db)] == [job.id]


def test_work_that_forgets_to_succeed_is_a_fault(storage: Storage, world: World, job: Job) -> None:
    assert jobs.run(storage, job.id, "worker", lambda lease: None) == "requeued"
    assert "succeed" in (world.job(job).error or {})["attempts"][0]["message"]


def test_silent_workers_lose_their_jobs_and_the_third_silence_is_final(storage: Storage, world: World, job: Job) -> None:
    """A killed worker: the row stays as it was at the kill, since nothing runs to change it."""
    for attempt in (1, 2, 3):
        with storage.db.session() as session:
            killed = {
                "state": "processing",
                "attempts": attempt,
                "fence": attempt,
                "worker": "killed",
                "lease_until": now() - timedelta(seconds=1),
            }
            session.execute(update(Job).where(Job.id == job.id).values(**killed))
        assert jobs.requeue_expired(storage) == 1
        assert world.job(job).state == ("failed" if attempt == 3 else "starting")
    assert jobs.requeue_expired(storage) == 0
    assert len(mails_of(storage, job)) == 1
    assert [one["type"] for one in (world.job(job).error or {})["attempts"]] == ["WorkerLost"] * 3


def test_a_worker_that_comes_before_the_scheduler_notes_the_lost_attempt(storage: Storage, world: World, job: Job) -> None:
    """Else the job would give up after three attempts and name but two."""
    with storage.db.session() as session:
        dead = {"state": "processing", "attempts": 1, "fence": 1, "worker": "killed", "lease_until": now() - timedelta(seconds=1)}
        session.execute(update(Job).where(Job.id == job.id).values(**dead))

    def fails(lease: Lease) -> None:
        raise JobFailed("Too few photos.")

    assert jobs.run(storage, job.id, "next", fails) == "failed"
    ended = world.job(job)
    assert (ended.attempts, ended.fence, ended.worker) == (2, 2, "next")
    assert [(one["n"], one["worker"], one["type"]) for one in (ended.error or {})["attempts"]] == [(1, "killed", "WorkerLost")]


def test_two_schedulers_requeue_once(storage: Storage, world: World, job: Job) -> None:
    with storage.db.session() as session:
        dead = {"state": "processing", "attempts": 1, "fence": 1, "lease_until": now() - timedelta(seconds=1)}
        session.execute(update(Job).where(Job.id == job.id).values(**dead))
    counts: list[int] = []
    threads = [threading.Thread(target=lambda: counts.append(jobs.requeue_expired(storage))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(counts) == 1
    assert len((world.job(job).error or {})["attempts"]) == 1


def test_the_seconds_of_failed_attempts_count_too(storage: Storage, world: World, job: Job) -> None:
    def work(lease: Lease) -> None:
        with lease.stage("fit"):
            time.sleep(0.1)
            if lease.attempt == 1:
                raise RuntimeError
        succeed(lease)

    jobs.run(storage, job.id, "worker", work)
    assert world.job(job).metrics["seconds"]["fit"] >= 0.1
    assert jobs.run(storage, job.id, "worker", work) == "succeeded"
    assert world.job(job).metrics["seconds"]["fit"] >= 0.2


def test_a_job_of_an_account_that_is_going_is_canceled(storage: Storage, world: World, job: Job) -> None:
    with storage.db.session() as session:
        session.get_one(Account, job.account_id).gone = True
    assert jobs.run(storage, job.id, "worker", succeed) == "stepped back"
    assert world.job(job).state == "canceled"


def test_a_worker_whose_account_is_going_stops(storage: Storage, job: Job) -> None:
    def work(lease: Lease) -> None:
        with storage.db.session() as session:
            session.get_one(Account, job.account_id).gone = True
        with pytest.raises(JobCanceled):
            lease.put("accounts/x/late", b"x")
        raise JobCanceled

    assert jobs.run(storage, job.id, "worker", work) == "canceled"
    assert not storage.objects.exists("accounts/x/late")


@pytest.mark.parametrize("told_by", ["the flag", "the system"])
def test_a_worker_told_to_stop_gives_its_job_back_uncounted(storage: Storage, world: World, job: Job, told_by: str) -> None:
    def work(lease: Lease) -> None:
        if told_by == "the system":
            raise SystemExit
        lease.check()

    if told_by == "the system":
        with pytest.raises(SystemExit):
            jobs.run(storage, job.id, "worker", work)
    else:
        assert jobs.run(storage, job.id, "worker", work, stopping=lambda: True) == "handed back"
    back = world.job(job)
    assert (back.state, back.attempts, back.published_at, back.error) == ("starting", 0, None, None)
    assert [one.id for one in publishing.unpublished(storage.db)] == [job.id], "at once, not when the lease would have ended"
    assert jobs.run(storage, job.id, "worker", succeed) == "succeeded"


def test_an_object_that_lands_after_the_lease_was_lost_is_taken_back(storage: Storage, job: Job) -> None:
    """As when a worker is paused in the middle of an upload, and another takes over meanwhile."""

    class Slow:
        def put(self, key: str, data: bytes, content_type: str) -> None:
            expire(storage, job)
            assert jobs.run(storage, job.id, "second", succeed) == "succeeded"
            storage.objects.put(key, data, content_type)

        def __getattr__(self, name: str) -> Any:
            return getattr(storage.objects, name)

    def work(lease: Lease) -> None:
        lease.put("accounts/x/1/late", b"x")

    assert jobs.run(replace(storage, objects=Slow()), job.id, "first", work) == "stepped back"
    assert list(storage.objects.list("accounts/")) == []


def test_the_end_is_written_when_the_database_is_back(storage: Storage, world: World, job: Job) -> None:
    tries = 0

    def work(lease: Lease) -> None:
        def write(session: Session) -> None:
            nonlocal tries
            tries += 1
            session.get_one(Training, lease.target_id).adapter_id = "ada_1"
            if tries < 3:
                raise ServiceDown("the database restarts")

        lease.finish(write)

    assert jobs.run(storage, job.id, "worker", work) == "succeeded"
    assert tries == 3
    with storage.db.reader() as session:
        assert session.get_one(Training, job.target_id).adapter_id == "ada_1"


def test_a_database_that_stays_away_costs_the_attempt_and_not_more(storage: Storage, world: World, job: Job) -> None:
    def write(session: Session) -> None:
        raise ServiceDown("the database is gone")

    assert jobs.run(with_short_leases(storage), job.id, "worker", lambda lease: lease.finish(write)) == "requeued"
    assert world.job(job).state == "starting"


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (ServiceDown("s3.internal:9000 does not answer"), endings.SERVER_DOWN),
        (OSError(errno.ENOSPC, "No space left on device"), endings.DISK_FULL),
        (RuntimeError("I/O error: No space left on device (os error 28)"), endings.DISK_FULL),
        (KeyError("x"), endings.PROGRAM_FAULT),
        (RuntimeError("CUDA error: device-side assert triggered\nCompile with `TORCH_USE_CUDA_DSA`"), endings.DEVICE_FAULT),
        (RuntimeError("Triton Error [CUDA]: device-side assert triggered"), endings.DEVICE_FAULT),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), endings.DEVICE_FULL),
    ],
)
def test_the_customer_reads_what_kind_of_fault_it_was(storage: Storage, world: World, job: Job, error: Exception, cause: str) -> None:
    def work(lease: Lease) -> None:
        raise error

    waits = []
    for _ in range(3):
        jobs.run(storage, job.id, "worker", work)
        waits.append((world.job(job).publish_after - now()).total_seconds())
    failed = world.job(job).error or {}
    assert cause in failed["message"] and str(error) not in failed["message"]
    assert failed["attempts"][2]["message"] == str(error)
    first, factor = (endings.RETRY_OUTAGE_S, 4) if cause in (endings.SERVER_DOWN, endings.DISK_FULL) else (endings.RETRY_S, 4)
    assert waits[:2] == [pytest.approx(first, abs=1), pytest.approx(first * factor, abs=1)]


def test_progress_is_throttled_but_stages_show_at_once(storage: Storage, world: World, job: Job) -> None:
    seen: list[tuple[str, int]] = []

    def work(lease: Lease) -> None:
        for stage in ("encode", "fit"):
            lease.progress(stage=stage, step=0)
            for step in range(1, 50):
                lease.progress(step=step)
            seen.append((world.job(job).progress["stage"], world.job(job).progress["step"]))
        succeed(lease)

    jobs.run(storage, job.id, "worker", work)
    assert seen == [("encode", 0), ("fit", 0)]
    assert world.job(job).progress["step"] == 49


def test_create_publishes_nothing_and_rolls_back_with_its_caller(storage: Storage, world: World) -> None:
    account = world.account("b@example.com")
    with pytest.raises(ZeroDivisionError), storage.db.session() as session:
        session.add(Consent(id="con", account_id=account.id, text="x", text_sha256="x"))
        jobs.create(session, account.id, jobs.JobKind.TRAINING, "trn_1")
        raise ZeroDivisionError
    assert publishing.unpublished(storage.db) == []


def test_publishing_without_a_broker_fails_fast_and_leaves_the_job_to_the_scheduler(storage: Storage, job: Job) -> None:
    began = time.monotonic()
    assert publishing.publish_new(storage, job) is False
    assert time.monotonic() - began < 1
    assert [one.id for one in publishing.unpublished(storage.db)] == [job.id]
