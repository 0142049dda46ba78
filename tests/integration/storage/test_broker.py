"""Messages over a real redis-server, to a real Celery worker in a process of its own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from core.errors import ServiceDown
from core.settings import Settings
from core.words import JobKind, new_id
from storage import jobs, publishing, scheduler
from storage.broker import celery_app, resolve_broker_url, start_embedded_redis
from storage.redis_child import EmbeddedRedis
from storage.tables import Account, Job
from storage.wiring import Storage, open_storage
from tests.unit.storage.conftest import FakePost

WORKER = """
import sys, time
from pathlib import Path
from core import queues
from core.settings import Settings
from storage import jobs
from storage.broker import celery_app
from storage.wiring import open_storage

settings = Settings(_env_file=None, var_dir=Path(sys.argv[1]), lease_s=2, heartbeat_s=0.2)
app = celery_app(settings, "worker")

def work(lease):
    with lease.stage("fit"):
        time.sleep(0.05)  # so that the stage takes time even if it may go on at once
        while not Path(sys.argv[1], "go").exists():
            lease.check()
            time.sleep(0.05)
    with lease.succeed():
        pass

@app.task(name=queues.RUN_TRAINING)
def run_training(job_id):
    jobs.run(open_storage(settings), job_id, sys.argv[2], work)

app.worker_main(["worker", "--pool=solo", "--queues=train", "--loglevel=WARNING", "--without-gossip", "--without-mingle"])
"""


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "it did not happen in time"
        time.sleep(0.05)


@contextmanager
def worker(settings: Settings, name: str) -> Iterator[subprocess.Popen[bytes]]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", WORKER, str(settings.var_dir), name], env=environment, start_new_session=True)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def new_job(storage: Storage) -> Job:
    with storage.db.session() as session:
        if session.get(Account, "acc_1") is None:
            session.add(Account(id="acc_1", email="a@b.c"))
            session.flush()
        return jobs.create(session, "acc_1", JobKind.TRAINING, new_id("trn"))


def row(storage: Storage, job: Job) -> Job:
    with storage.db.reader() as session:
        return session.get_one(Job, job.id)


def test_a_published_job_is_done_by_a_worker(storage: Storage, settings: Settings, redis_child: EmbeddedRedis) -> None:
    job = new_job(storage)
    assert publishing.publish_new(storage, job)
    assert row(storage, job).published_at is not None
    with worker(settings, "one"):
        until(lambda: row(storage, job).state == "processing")
        (settings.var_dir / "go").touch()
        until(lambda: row(storage, job).state == "succeeded")
    ended = row(storage, job)
    assert (ended.attempts, ended.worker) == (1, "one")
    assert ended.metrics["seconds"]["fit"] > 0


def test_a_killed_workers_job_goes_on_by_itself(storage: Storage, settings: Settings, redis_child: EmbeddedRedis) -> None:
    """The message of the dead worker is still unacknowledged; the lease, not the broker, brings the job back."""
    job, post = new_job(storage), FakePost()
    publishing.publish_new(storage, job)
    with worker(settings, "one") as first:
        until(lambda: row(storage, job).state == "processing")
        first.send_signal(signal.SIGKILL)
        first.wait()
    (settings.var_dir / "go").touch()
    with worker(settings, "two"):

        def finished() -> bool:
            scheduler.tick(storage, post)
            return row(storage, job).state == "succeeded"

        until(finished)
    ended = row(storage, job)
    assert (ended.attempts, ended.worker, ended.fence) == (2, "two", 2)


def test_what_was_not_published_is_published_when_the_broker_is_back(storage: Storage, settings: Settings) -> None:
    waiting = [new_job(storage) for _ in range(3)]
    assert not any(publishing.publish_new(storage, job) for job in waiting)
    child = start_embedded_redis(settings)
    try:
        assert scheduler.tick(storage, FakePost())["published"] == 3
        assert scheduler.tick(storage, FakePost())["published"] == 0
        assert redis.Redis(unix_socket_path=str(child.socket)).llen("train") == 3
    finally:
        child.stop()


@pytest.fixture
def black_hole() -> Iterator[str]:
    """Takes connections and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}/0"


def test_a_broker_that_hangs_does_not_hang_the_customer(storage: Storage, settings: Settings, black_hole: str) -> None:
    hanging = open_storage(settings.model_copy(update={"broker_url": black_hole}))
    job = new_job(storage)
    began = time.monotonic()
    assert publishing.publish_new(hanging, job) is False
    assert time.monotonic() - began < 1.5
    assert [one.id for one in publishing.unpublished(storage.db)] == [job.id]
    hanging.db.close()


def test_the_broker_evicts_nothing_and_takes_no_strangers(redis_child: EmbeddedRedis) -> None:
    client = redis.Redis(unix_socket_path=str(redis_child.socket), decode_responses=True)
    wanted = {"maxmemory-policy": "noeviction", "port": "0", "appendonly": "yes"}
    assert {name: client.config_get(name)[name] for name in wanted} == wanted
    assert redis_child.socket.stat().st_mode & 0o077 == 0


def test_messages_outlive_the_broker(storage: Storage, settings: Settings) -> None:
    first = start_embedded_redis(settings)
    publishing.publish_new(storage, new_job(storage))
    first.stop()
    second = start_embedded_redis(settings)
    try:
        assert redis.Redis(unix_socket_path=str(second.socket)).llen("train") == 1
        assert publishing.publish_new(storage, new_job(storage)), "the publisher reconnects"
    finally:
        second.stop()


def test_one_owner_at_a_time(settings: Settings, redis_child: EmbeddedRedis) -> None:
    with pytest.raises(ServiceDown, match="already runs"):
        start_embedded_redis(settings)
    assert resolve_broker_url(settings) == redis_child.url
    assert redis.Redis(unix_socket_path=str(redis_child.socket)).ping()


def test_an_orphan_of_a_killed_owner_is_replaced(settings: Settings) -> None:
    orphan = start_embedded_redis(settings)
    orphan.lock.close()  # as the system does when the owner is killed
    child = start_embedded_redis(settings)
    try:
        assert orphan.process.wait(10) is not None
        assert child.process.poll() is None
    finally:
        child.stop()


def test_a_broker_that_fell_runs_again_under_the_same_url(storage: Storage, settings: Settings, redis_child: EmbeddedRedis) -> None:
    assert redis_child.keep_up() is False
    assert publishing.publish_new(storage, new_job(storage))
    redis_child.process.kill()
    redis_child.process.wait()
    shutil.rmtree(settings.var_dir / "redis", ignore_errors=True)
    assert redis_child.keep_up() is True
    assert resolve_broker_url(settings) == redis_child.url
    assert publishing.publish_new(storage, new_job(storage)), "the publisher reconnects"


def test_stopped_means_gone(settings: Settings) -> None:
    child = start_embedded_redis(settings)
    child.stop()
    assert child.process.poll() is not None
    with pytest.raises(ServiceDown, match="likeness up"):
        resolve_broker_url(settings)
    with pytest.raises(ServiceDown, match="likeness up"):
        celery_app(settings, "worker")


def test_a_long_folder_name_is_no_trouble(settings: Settings, tmp_path: Path) -> None:
    deep = settings.model_copy(update={"var_dir": tmp_path / ("d" * 120)})
    child = start_embedded_redis(deep)
    child.stop()


def test_only_json_is_taken(settings: Settings, redis_child: EmbeddedRedis) -> None:
    app = celery_app(settings, "worker")
    assert app.conf.accept_content == ["json"]
    assert (app.conf.task_acks_late, app.conf.worker_prefetch_multiplier, app.conf.task_ignore_result) == (True, 1, True)
