"""No request waits for the broker, and one that hangs does not pile up what nobody will read."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from api import telling
from api.telling import MOST_WAITING, Teller
from core.words import JobKind
from storage import publishing
from storage.tables import Job
from storage.wiring import Storage
from tests.unit.api.site import Customer

WITHIN_S = 20.0


class Broker:
    """Takes nothing until it is let go."""

    def __init__(self) -> None:
        self.busy, self.gate, self.took = threading.Event(), threading.Event(), threading.Semaphore(0)
        self.told: list[str] = []

    def publish_new(self, storage: Storage, job: Job) -> bool:
        self.busy.set()
        assert self.gate.wait(WITHIN_S)
        self.told.append(job.id)
        self.took.release()
        return True


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Broker]:
    stand_in = Broker()
    monkeypatch.setattr(publishing, "publish_new", stand_in.publish_new)
    yield stand_in
    stand_in.gate.set()


def job(number: int) -> Job:
    return Job(id=f"job_{number}", kind=JobKind.PORTRAIT)


def test_a_training_is_answered_while_the_broker_still_thinks(customer: Customer, broker: Broker) -> None:
    answer = customer.client.post("/v1/trainings", json={"subject_id": customer.photographed(10)})
    assert answer.status_code == 201
    assert broker.busy.wait(WITHIN_S) and broker.told == []
    broker.gate.set()
    assert broker.took.acquire(timeout=WITHIN_S), "told, once it was let go"


def test_workers_are_told_in_order_and_not_of_more_than_can_wait(storage: Storage, broker: Broker) -> None:
    teller = Teller(storage)
    for number in range(MOST_WAITING + 20):
        teller.tell(job(number))
    broker.gate.set()
    assert all(broker.took.acquire(timeout=WITHIN_S) for _ in range(MOST_WAITING))
    teller.tell(job(999))
    assert broker.took.acquire(timeout=WITHIN_S), "there is room again"
    teller.close()
    assert broker.told == [f"job_{number}" for number in [*range(MOST_WAITING), 999]]


def test_the_end_waits_for_the_message_on_its_way_alone(storage: Storage, broker: Broker) -> None:
    teller = Teller(storage)
    for number in range(3):
        teller.tell(job(number))
    assert broker.busy.wait(WITHIN_S)
    threading.Timer(0.3, broker.gate.set).start()
    teller.close()
    assert broker.told == ["job_0"]


def test_what_goes_wrong_is_said_and_the_next_is_told_of(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    told, said = [], []

    def first_fails(_: Storage, one: Job) -> bool:
        told.append(one.id)
        if len(told) == 1:
            raise RuntimeError("no database")
        return True

    monkeypatch.setattr(publishing, "publish_new", first_fails)
    monkeypatch.setattr(telling.log, "exception", lambda words, **facts: said.append(facts["job"]))
    teller = Teller(storage)
    teller.tell(job(1))
    teller.tell(job(2))
    teller._thread.shutdown()
    assert (told, said) == (["job_1", "job_2"], ["job_1"])
