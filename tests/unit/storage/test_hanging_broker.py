"""A RabbitMQ that takes the connection and then stops answering, at any point: requests go on, and nothing counts as sent."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import update

from core.errors import ServiceDown
from core.words import JobKind
from storage import broker, publishing
from storage.tables import Job, now
from storage.wiring import Storage
from tests import amqp_server as amqp
from tests.unit.storage.conftest import World

SILENT = {
    "greeting": "greeting",
    "login": amqp.START,
    "opening": amqp.CONNECTION_OPEN,
    "channel": amqp.CHANNEL_OPEN,
    "confirm mode": amqp.CONFIRM,
    "queue": amqp.DECLARE,
    "confirmation": amqp.PUBLISH,
}


@pytest.fixture
def job(world: World) -> Job:
    return world.training(world.subject(world.account()))[1]


def at(storage: Storage, server: amqp.AmqpServer) -> Storage:
    return replace(storage, settings=storage.settings.model_copy(update={"broker_url": server.url}))


def test_one_that_answers_is_told(storage: Storage, job: Job) -> None:
    with amqp.amqp_server(None) as server:
        assert publishing.publish_new(at(storage, server), job)
        assert server.published == 1
    assert publishing.unpublished(storage.db) == []


@pytest.mark.parametrize("half", [False, True], ids=["nothing", "half an answer"])
@pytest.mark.parametrize("point", SILENT)
def test_one_that_stops_answering_holds_nobody_up(storage: Storage, job: Job, point: str, half: bool) -> None:
    with amqp.amqp_server(SILENT[point], half) as server:
        for _ in range(2):  # the second meets what the first left of the connection
            began = time.monotonic()
            assert publishing.publish_new(at(storage, server), job) is False
            assert time.monotonic() - began < broker.HELD_UP_S + 0.5
    assert [one.id for one in publishing.unpublished(storage.db)] == [job.id]


def test_one_that_stops_later_is_noticed_on_the_open_connection(storage: Storage, job: Job) -> None:
    with amqp.amqp_server(None) as server:
        assert publishing.publish_new(at(storage, server), job)
        server.silent_at = amqp.PUBLISH
        began = time.monotonic()
        with pytest.raises(ServiceDown):
            broker.publish(at(storage, server).settings, JobKind.TRAINING, "job_2")
        assert time.monotonic() - began < broker.HELD_UP_S + 0.5
        server.silent_at = None
        broker.publish(at(storage, server).settings, JobKind.TRAINING, "job_3")
        assert server.published == 3, "on a connection of its own"


def test_the_scheduler_asks_a_silent_broker_once_a_round(storage: Storage, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else every kind of job would cost its leases another pause."""
    training, _ = world.training(world.subject(world.account()))
    world.portrait(world.adapter(training))
    with storage.db.session() as session:
        session.execute(update(Job).values(published_at=now() - timedelta(minutes=5), state="starting", completed_at=None))
    asked: list[JobKind] = []

    def silent(_settings: object, kind: JobKind) -> int:
        asked.append(kind)
        raise ServiceDown("the broker does not answer")

    monkeypatch.setattr(broker, "waiting", silent)
    assert publishing.publish_waiting(storage) == 0 and len(asked) == 1
