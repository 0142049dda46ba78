"""RabbitMQ in Redis's place, by its URL alone. Runs where a rabbitmq-server is installed (``apt-get install rabbitmq-server``)."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.settings import Settings
from core.words import JobKind
from storage import broker, publishing, scheduler
from storage.wiring import Storage
from tests.integration.storage.rabbit import find_rabbitmq, rabbitmq, stop
from tests.integration.storage.test_broker import new_job, row, until
from tests.integration.storage.test_workers import notes, worker
from tests.unit.storage.conftest import FakePost


@pytest.fixture(scope="module")
def amqp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    program = find_rabbitmq()
    if program is None:
        pytest.skip("no rabbitmq-server here: apt-get install rabbitmq-server")
    with rabbitmq(program, tmp_path_factory.mktemp("rabbitmq")) as (url, _):
        yield url


@pytest.fixture
def settings(tmp_path: Path, amqp: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("LIKENESS_BROKER_URL", amqp)
    return Settings(_env_file=None, var_dir=tmp_path / "var", lease_s=5, heartbeat_s=0.5)  # type: ignore[call-arg]


def test_a_published_job_is_done_and_a_killed_workers_goes_on(storage: Storage, settings: Settings) -> None:
    job = new_job(storage)
    assert publishing.publish_new(storage, job)
    with worker(settings, "one") as first:
        until(lambda: row(storage, job).state == "processing", 60)
        os.killpg(first.pid, signal.SIGKILL)
    (settings.var_dir / "go").touch()
    with worker(settings, "two"):

        def finished() -> bool:
            scheduler.tick(storage, FakePost())
            return row(storage, job).state == "succeeded"

        until(finished, 60)
    ended = row(storage, job)
    assert ended.worker and ended.worker.startswith("two") and ended.attempts == 2


def test_a_worker_told_to_stop_hands_back(storage: Storage, settings: Settings) -> None:
    job = new_job(storage)
    assert publishing.publish_new(storage, job)
    with worker(settings, "one") as first:
        until(lambda: any(note.endswith("works") for note in notes(settings)), 60)
        first.terminate()
        until(lambda: row(storage, job).state == "starting", 10)
        assert first.wait(15) == 0
    assert row(storage, job).attempts == 0


def test_what_waits_is_counted(storage: Storage, settings: Settings) -> None:
    assert broker.waiting(settings, JobKind.PORTRAIT) == 0
    before = broker.waiting(settings, JobKind.TRAINING)
    for _ in range(3):
        assert publishing.publish_new(storage, new_job(storage))
    until(lambda: broker.waiting(settings, JobKind.TRAINING) == before + 3, 5)


def test_a_server_that_is_down_holds_up_nobody(storage: Storage, tmp_path: Path, amqp: str) -> None:
    with rabbitmq(str(find_rabbitmq()), tmp_path / "another") as (url, process):
        settings = storage.settings.model_copy(update={"broker_url": url})
        lonely = Storage(storage.db, storage.objects, settings)
        assert publishing.publish_new(lonely, new_job(storage)), "the connection is open now"
        stop(process)
        job = new_job(storage)
        began = time.monotonic()
        assert publishing.publish_new(lonely, job) is False
        assert time.monotonic() - began < 2
    assert job.id in [one.id for one in publishing.unpublished(storage.db)]
