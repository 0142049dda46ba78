"""Every way in which a job ends is told once, in the transaction that ends it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import select, update

from core.errors import JobFailed
from storage import adapters, jobs, webhooks
from storage.jobs import Lease
from storage.tables import Account, Adapter, Job, Training, WebhookDelivery, now
from storage.wiring import Storage
from tests.unit.storage.conftest import World


@pytest.fixture
def account(storage: Storage, world: World) -> Account:
    account = world.account()
    with storage.db.session() as session:
        webhooks.create(session, account.id, "https://example.com/")
    return account


@pytest.fixture
def training(world: World, account: Account) -> tuple[Training, Job]:
    return world.training(world.subject(account))


def told(storage: Storage) -> list[WebhookDelivery]:
    with storage.db.reader() as session:
        return list(session.scalars(select(WebhookDelivery).order_by(WebhookDelivery.created_at)))


def test_a_training_that_succeeds(storage: Storage, training: tuple[Training, Job]) -> None:
    row, job = training

    def work(lease: Lease) -> None:
        assert told(storage) == []
        adapter = Adapter(id="ada_1", account_id=row.account_id, subject_id=row.subject_id, training_id=row.id, object_key="k")
        adapter.sha256, adapter.size_bytes, adapter.base_model, adapter.rank, adapter.alpha = "0" * 64, 3, "miniature", 32, 32.0
        adapter.trigger_token, adapter.class_word = row.trigger_token, "cat"
        with lease.succeed() as session:
            adapters.add(session, adapter)

    assert jobs.run(storage, job.id, "worker", work) == "succeeded"
    assert jobs.run(storage, job.id, "worker", work) == "stepped back"
    (delivery,) = told(storage)
    payload = delivery.payload
    assert (delivery.event, payload["type"]) == ("training.succeeded", "training.succeeded")
    data = payload["data"]
    assert (data["id"], data["status"], data["subject_id"], data["adapter_id"]) == (row.id, "succeeded", row.subject_id, "ada_1")
    assert data["started_at"] and data["completed_at"].endswith("Z") and data["error"] is None
    assert data["urls"] == {"get": f"/v1/trainings/{row.id}"}


def _fail(lease: Lease) -> None:
    raise JobFailed("Only 4 photos show the cat.")


def _break(lease: Lease) -> None:
    raise RuntimeError("a fault of ours")


@pytest.mark.parametrize(
    ("work", "runs", "error_type", "reason"),
    [(_fail, 1, "job/failed", "Only 4 photos show the cat."), (_break, 3, "job/gave-up", "stopped 3 times because of a fault on our side")],
)
def test_a_training_that_fails(
    storage: Storage, training: tuple[Training, Job], work: Callable[[Lease], None], runs: int, error_type: str, reason: str
) -> None:
    for n in range(runs):
        assert told(storage) == [], f"after {n} attempts"
        jobs.run(storage, training[1].id, "worker", work)
    (delivery,) = told(storage)
    assert (delivery.event, delivery.payload["data"]["error_type"]) == ("training.failed", error_type)
    assert reason in delivery.payload["data"]["error"]
    assert "a fault of ours" not in str(delivery.payload)


def test_a_worker_that_vanished_for_the_last_time(storage: Storage, training: tuple[Training, Job]) -> None:
    with storage.db.session() as session:
        session.execute(update(Job).values(state="processing", attempts=3, fence=3, lease_until=now()))
    assert jobs.requeue_expired(storage) == 1
    assert [one.event for one in told(storage)] == ["training.failed"]


def test_canceled_while_waiting_and_while_running(storage: Storage, world: World, account: Account) -> None:
    subject = world.subject(account)
    waiting, running = world.training(subject)[1], world.training(subject, "xikvex")[1]
    with storage.db.session() as session:
        jobs.request_cancel(session, session.get_one(Job, waiting.id))
    assert [one.payload["data"]["id"] for one in told(storage)] == [waiting.target_id]

    def work(lease: Lease) -> None:
        with storage.db.session() as session:
            jobs.request_cancel(session, session.get_one(Job, running.id))
        with lease.succeed():
            pass

    assert jobs.run(storage, running.id, "worker", work) == "canceled"
    assert [one.event for one in told(storage)] == ["training.canceled"] * 2


def test_a_portrait_names_its_adapter_and_subject(storage: Storage, world: World, account: Account) -> None:
    adapter = world.adapter(world.training(world.subject(account))[0])
    portrait = world.portrait(adapter)
    with storage.db.reader() as session:
        job = session.scalars(select(Job).where(Job.target_id == portrait.id)).one()

    def work(lease: Lease) -> None:
        with lease.succeed():
            pass

    jobs.run(storage, job.id, "worker", work)
    (delivery,) = told(storage)
    data = delivery.payload["data"]
    assert (delivery.event, data["adapter_id"], data["subject_id"]) == ("portrait.succeeded", adapter.id, adapter.subject_id)


def test_an_end_that_is_rolled_back_is_not_told(storage: Storage, training: tuple[Training, Job]) -> None:
    def work(lease: Lease) -> None:
        with lease.succeed() as session:
            session.execute(update(Job).values(fence=99))  # the job is another worker's by now

    assert jobs.run(storage, training[1].id, "worker", work) == "stepped back"
    assert told(storage) == []
