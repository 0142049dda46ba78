"""Messages that were lost are sent again, and a long queue never gets a second one a job; on a real redis-server."""

from __future__ import annotations

from datetime import timedelta

import pytest
import redis
from sqlalchemy import update

from core.settings import Settings
from core.words import JobKind, JobState, new_id
from storage import broker, jobs, publishing
from storage.redis_child import EmbeddedRedis
from storage.tables import Account, Job, now
from storage.wiring import Storage

LONG_AGO = timedelta(minutes=5)


@pytest.fixture
def client(redis_child: EmbeddedRedis) -> redis.Redis:
    return redis.Redis(unix_socket_path=str(redis_child.socket))


def told(storage: Storage, ago: timedelta = LONG_AGO, **changes: object) -> Job:
    """A job that was published so long ago."""
    with storage.db.session() as session:
        if session.get(Account, "acc_1") is None:
            session.add(Account(id="acc_1", email="a@b.c"))
            session.flush()
        job = jobs.create(session, "acc_1", JobKind.TRAINING, new_id("trn"))
    assert publishing.publish_new(storage, job)
    with storage.db.session() as session:
        session.execute(update(Job).where(Job.id == job.id).values(published_at=now() - ago, **changes))
    return job


def forgotten(storage: Storage) -> list[str]:
    return [job.id for job in publishing.forgotten(storage)]


def test_after_the_broker_lost_its_data_every_waiting_job_is_told_of_once_more(storage: Storage, client: redis.Redis) -> None:
    waiting = [told(storage, LONG_AGO - timedelta(seconds=n)) for n in range(3)]
    assert forgotten(storage) == []
    client.flushall()
    assert forgotten(storage) == [job.id for job in waiting]
    assert publishing.publish_waiting(storage) == 3
    assert publishing.publish_waiting(storage) == 0
    assert broker.waiting(storage.settings, JobKind.TRAINING) == client.llen("train") == 3


def test_a_message_may_be_on_its_way_for_a_while(storage: Storage, client: redis.Redis) -> None:
    told(storage, timedelta(seconds=5))
    client.flushall()
    assert forgotten(storage) == []


def test_one_lost_message_shows_when_a_later_job_is_worked_on(storage: Storage, client: redis.Redis) -> None:
    lost, waiting = told(storage), told(storage, LONG_AGO - timedelta(minutes=2))
    told(storage, LONG_AGO - timedelta(minutes=1), state=JobState.PROCESSING)
    assert client.llen("train") > 0
    assert forgotten(storage) == [lost.id]
    assert waiting.id not in forgotten(storage)


def test_a_broker_that_is_down_is_asked_again_later(storage: Storage, redis_child: EmbeddedRedis) -> None:
    told(storage)
    redis_child.process.kill()
    redis_child.process.wait()
    assert forgotten(storage) == []
    assert publishing.publish_waiting(storage) == 0


def test_a_queue_that_nobody_made_holds_nothing(settings: Settings, redis_child: EmbeddedRedis) -> None:
    assert broker.waiting(settings, JobKind.PORTRAIT) == 0
