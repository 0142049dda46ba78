"""Real worker processes, real signals: redelivery, pauses past the lease, shutdown, children that die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest
from sqlalchemy import update

from core.settings import Settings
from storage import broker, job_keeping, jobs, publishing
from storage.redis_child import EmbeddedRedis
from storage.tables import Job, now
from storage.wiring import Storage
from tests.integration.storage import small_worker
from tests.integration.storage.test_broker import new_job, row, until

pytestmark = pytest.mark.usefixtures("redis_child")


@contextmanager
def worker(settings: Settings, name: str, *gpus: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", small_worker.__name__, str(settings.var_dir), name, *gpus]
    process = subprocess.Popen(command, start_new_session=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def notes(settings: Settings) -> list[str]:
    path = settings.var_dir / "notes"
    return path.read_text().splitlines() if path.exists() else []


def working(storage: Storage, job: Job) -> bool:
    return row(storage, job).progress.get("step", 0) > 0


def published(storage: Storage) -> Job:
    job = new_job(storage)
    assert publishing.publish_new(storage, job)
    return job


def recovered(storage: Storage, job: Job, state: str = "succeeded") -> bool:
    """What the scheduler does all the time; retries need not wait here."""
    job_keeping.keep_jobs(storage)
    with storage.db.session() as session:
        session.execute(update(Job).where(Job.id == job.id).values(publish_after=now()))
    return row(storage, job).state == state


def test_a_redelivered_message_finds_the_job_taken(storage: Storage, settings: Settings) -> None:
    job = new_job(storage)
    for _ in range(2):
        broker.publish(storage.settings, jobs.JobKind.TRAINING, job.id)
    with worker(settings, "one"), worker(settings, "two"):
        until(lambda: any(note.endswith("stepped back") for note in notes(settings)), 60)
        (settings.var_dir / "go").touch()
        until(lambda: row(storage, job).state == "succeeded")
    assert sum(note.endswith("works") for note in notes(settings)) == 1
    assert (row(storage, job).attempts, list(storage.objects.list("accounts/"))) == (1, ["accounts/x/1"])


def test_a_worker_paused_past_its_lease_overwrites_nothing(storage: Storage, settings: Settings) -> None:
    job = published(storage)
    with worker(settings, "paused") as first:
        until(lambda: working(storage, job), 60)
        family = [psutil.Process(first.pid), *psutil.Process(first.pid).children(recursive=True)]
        for process in family:
            process.suspend()
        (settings.var_dir / "go").touch()
        with worker(settings, "second"):
            until(lambda: recovered(storage, job), 60)
        ended = row(storage, job)
        assert ended.worker and ended.worker.startswith("second")
        for process in family:
            process.resume()
        until(lambda: any(note.startswith("paused") and note.endswith("stepped back") for note in notes(settings)))
    after = row(storage, job)
    assert (after.state, after.worker, after.fence, after.progress) == ("succeeded", ended.worker, 2, ended.progress)
    assert {key: storage.objects.get(key) for key in storage.objects.list("accounts/")} == {"accounts/x/2": ended.worker.encode()}


def test_a_worker_told_to_stop_hands_its_job_back_and_ends(storage: Storage, settings: Settings) -> None:
    job = published(storage)
    with worker(settings, "leaving") as first:
        until(lambda: working(storage, job), 60)
        first.terminate()
        began = time.monotonic()
        until(lambda: row(storage, job).state == "starting", 5)
        assert time.monotonic() - began < settings.lease_s / 2, "at once, not when the lease ran out"
        assert first.wait(10) == 0
    (settings.var_dir / "go").touch()
    with worker(settings, "next"):
        until(lambda: recovered(storage, job), 60)
    assert (row(storage, job).attempts, row(storage, job).error) == (1, None)


def test_a_job_that_does_not_listen_cannot_keep_the_process(storage: Storage, settings: Settings) -> None:
    job = published(storage)
    (settings.var_dir / "deaf").touch()
    with worker(settings, "deaf") as first:
        until(lambda: working(storage, job), 60)
        first.terminate()
        assert first.wait(15) == os.EX_TEMPFAIL
    until(lambda: recovered(storage, job, "starting"))
    assert (row(storage, job).error or {})["attempts"][0]["type"] == "WorkerLost"


@pytest.mark.parametrize("how", ["killed", "its device is gone"])
def test_a_child_that_dies_is_replaced_and_the_job_goes_on(
    storage: Storage, settings: Settings, redis_child: EmbeddedRedis, how: str
) -> None:
    job = published(storage)
    with worker(settings, "parent") as parent:
        until(lambda: working(storage, job), 60)
        first = str(row(storage, job).worker)
        if how == "killed":
            os.kill(int(first.rpartition("-")[2]), signal.SIGKILL)
        else:
            (settings.var_dir / "fault").touch()
        until(lambda: recovered(storage, job, "processing") and row(storage, job).worker != first, 60)
        (settings.var_dir / "go").touch()
        until(lambda: recovered(storage, job), 60)
        assert parent.poll() is None
    ended = row(storage, job)
    assert ended.worker and ended.worker.startswith("parent-") and ended.worker != first
    assert ended.attempts == 2


def test_each_child_has_a_gpu_of_its_own_and_leaves_it_to_its_heir(storage: Storage, settings: Settings) -> None:
    ordered = [published(storage), published(storage)]
    with worker(settings, "dealt", "GPU-a", "GPU-b"):
        until(lambda: all(working(storage, job) for job in ordered), 60)  # at the same time
        seen = gpus_seen(settings)
        assert sorted(seen.values()) == ["GPU-a", "GPU-b"]
        faulted = row(storage, ordered[0]).worker or ""
        os.kill(int(faulted.rpartition("-")[2]), signal.SIGKILL)
        until(lambda: len(gpus_seen(settings)) == 3, 60)
        (heir,) = set(gpus_seen(settings)) - set(seen)
        assert gpus_seen(settings)[heir] == seen[faulted]
        (settings.var_dir / "go").touch()
        until(lambda: all(recovered(storage, job) for job in ordered))


def gpus_seen(settings: Settings) -> dict[str, str]:
    """By child."""
    told = (note.partition(" sees ") for note in notes(settings))
    return {child: gpu for child, _, gpu in told if gpu}
