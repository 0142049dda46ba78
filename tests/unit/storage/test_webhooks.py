"""Webhooks from the event to a real HTTP server: signatures, attempts, the log, replay."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, update
from standardwebhooks.webhooks import Webhook as Verifier
from standardwebhooks.webhooks import WebhookVerificationError

from core.errors import UserError
from core.settings import Settings
from storage import outgoing, webhook_events, webhook_http, webhook_sending, webhooks
from storage.tables import Account, Webhook, WebhookDelivery, now
from storage.webhook_http import Endpoints
from storage.wiring import Storage
from tests.receiver import Receiver, receiving
from tests.unit.storage.conftest import World

INSIDE = Endpoints(allow_private=True)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as started:
        yield started


@pytest.fixture
def account(world: World) -> Account:
    return world.account()


@pytest.fixture
def endpoint(storage: Storage, account: Account, receiver: Receiver) -> Webhook:
    return register(storage, account, receiver.url)


def register(storage: Storage, account: Account, url: str, *events: str) -> Webhook:
    with storage.db.session() as session:
        return webhooks.create(session, account.id, url, list(events))


def emit(storage: Storage, account: Account, event: str = "training.succeeded", **data: Any) -> int:
    with storage.db.session() as session:
        return webhook_events.emit(session, account.id, event, {"id": "trn_1"} | data)


def deliver(storage: Storage) -> int:
    return webhook_sending.deliver_due(storage, INSIDE)


def rows(storage: Storage) -> list[WebhookDelivery]:
    with storage.db.reader() as session:
        return list(session.scalars(select(WebhookDelivery).order_by(WebhookDelivery.created_at, WebhookDelivery.id)))


def make_due(storage: Storage) -> None:
    with storage.db.session() as session:
        session.execute(update(WebhookDelivery).values(next_attempt_at=now()))


def test_a_receiver_can_check_the_signature(storage: Storage, account: Account, endpoint: Webhook, receiver: Receiver) -> None:
    """By the library that Standard Webhooks itself gives to receivers."""
    emit(storage, account, name="Zoë's cat 🐈")
    assert deliver(storage) == 1
    (got,) = receiver.received
    payload = Verifier(endpoint.secret).verify(got.body, got.headers)
    assert (payload["type"], payload["data"]) == ("training.succeeded", {"id": "trn_1", "name": "Zoë's cat 🐈"})
    assert got.headers["webhook-id"] == rows(storage)[0].id
    assert got.headers["content-type"] == "application/json"
    for body, secret in ((got.body + b" ", endpoint.secret), (got.body, webhooks.new_secret())):
        with pytest.raises(WebhookVerificationError):
            Verifier(secret).verify(body, got.headers)


def test_after_a_rotation_old_and_new_secret_sign_for_a_day(
    storage: Storage, account: Account, endpoint: Webhook, receiver: Receiver
) -> None:
    with storage.db.session() as session:
        fresh = webhooks.rotate_secret(session, account.id, endpoint.id).secret
    emit(storage, account)
    deliver(storage)
    for secret in (endpoint.secret, fresh):
        Verifier(secret).verify(receiver.received[0].body, receiver.received[0].headers)
    with storage.db.session() as session:
        session.get_one(Webhook, endpoint.id).previous_until = now() - timedelta(seconds=1)
    emit(storage, account)
    deliver(storage)
    Verifier(fresh).verify(receiver.received[1].body, receiver.received[1].headers)
    with pytest.raises(WebhookVerificationError):
        Verifier(endpoint.secret).verify(receiver.received[1].body, receiver.received[1].headers)


def test_an_endpoint_gets_what_it_asked_for(storage: Storage, account: Account, world: World, receiver: Receiver) -> None:
    register(storage, account, receiver.url + "/all")
    register(storage, account, receiver.url + "/failures", "training.failed", "portrait.failed")
    register(storage, world.account("bo@example.com"), receiver.url + "/another-account")
    assert (emit(storage, account), emit(storage, account, "training.failed")) == (1, 2)
    assert deliver(storage) == 3
    assert sorted(got.path for got in receiver.received) == ["/hooks/all", "/hooks/all", "/hooks/failures"]


def test_nothing_is_told_of_what_did_not_happen(storage: Storage, account: Account, endpoint: Webhook, receiver: Receiver) -> None:
    with pytest.raises(RuntimeError), storage.db.session() as session:
        webhook_events.emit(session, account.id, "training.succeeded", {})
        raise RuntimeError("the transaction is rolled back")
    assert (deliver(storage), receiver.received) == (0, [])


def test_tried_again_later_and_later_under_the_same_id(storage: Storage, account: Account, endpoint: Webhook, receiver: Receiver) -> None:
    receiver.status = 503
    emit(storage, account)
    waits = []
    for _ in range(4):
        make_due(storage)
        assert deliver(storage) == 0
        assert deliver(storage) == 0, "not before its time"
        waits.append((rows(storage)[0].next_attempt_at - now()) / timedelta(seconds=1))
    assert [round(wait / 5) for wait in waits] == [1, 4, 16, 64]
    receiver.status = 200
    make_due(storage)
    assert deliver(storage) == 1
    (row,) = rows(storage)
    assert {got.headers["webhook-id"] for got in receiver.received} == {row.id} and len(receiver.received) == 5
    assert (row.attempts, row.last_status, row.last_error) == (5, 200, "")
    assert [(tried["status"], tried["error"]) for tried in row.history] == [(503, "answered 503")] * 4 + [(200, "")]


def test_given_up_at_last_with_the_reason_and_replayed(storage: Storage, account: Account, endpoint: Webhook, receiver: Receiver) -> None:
    receiver.status = 500
    emit(storage, account)
    most = outgoing.most_attempts(storage.settings, webhook_sending.BACKOFF)
    for _ in range(most):
        assert rows(storage)[0].failed_at is None
        make_due(storage)
        deliver(storage)
    (row,) = rows(storage)
    assert row.failed_at is not None and row.last_error == "answered 500"
    make_due(storage)
    assert deliver(storage) == 0 and len(receiver.received) == most
    receiver.status = 204
    replay(storage, account, row)
    assert deliver(storage) == 1
    assert receiver.received[-1].headers["webhook-id"] == row.id
    assert (rows(storage)[0].failed_at, len(rows(storage)[0].history)) == (None, most + 1)
    replay(storage, account, row)  # one that was delivered, too
    assert deliver(storage) == 1


def test_what_is_still_being_tried_is_not_replayed(storage: Storage, account: Account, endpoint: Webhook) -> None:
    emit(storage, account)
    with pytest.raises(UserError, match="still being tried"):
        replay(storage, account, rows(storage)[0])


def replay(storage: Storage, account: Account, row: WebhookDelivery) -> None:
    with storage.db.session() as session:
        webhooks.replay(session, account.id, row.webhook_id, row.id)


@pytest.mark.parametrize(("status", "given_up"), [(410, True), (302, False), (404, False)])
def test_gone_is_gone_and_a_redirect_says_what_to_do(
    storage: Storage, account: Account, endpoint: Webhook, receiver: Receiver, status: int, given_up: bool
) -> None:
    receiver.status, receiver.location = status, "http://127.0.0.1/elsewhere"
    emit(storage, account)
    deliver(storage)
    (row,) = rows(storage)
    assert (row.failed_at is not None) == given_up
    assert f"answered {status}" in row.last_error
    assert ("register the final address" in row.last_error) == (status == 302)


def test_a_private_address_is_never_asked(storage: Storage, account: Account, endpoint: Webhook, receiver: Receiver) -> None:
    """As the settings say by default; an address may have come into the table before they were changed."""
    emit(storage, account)
    with storage.db.session() as session:
        session.get_one(Webhook, endpoint.id).url = receiver.url.replace("http", "https")
    assert webhook_sending.deliver_due(storage) == 0
    (row,) = rows(storage)
    assert "127.0.0.1, which is not a public address" in row.last_error
    assert receiver.received == []


def test_several_schedulers_send_each_once(
    storage: Storage, account: Account, endpoint: Webhook, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook_sending, "PASS_S", 60.0)  # all of it in one pass, on a busy machine too
    for n in range(20):
        emit(storage, account, id=f"trn_{n}")
    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(lambda _: deliver(storage), range(4))) == 20
    assert len({got.headers["webhook-id"] for got in receiver.received}) == len(receiver.received) == 20


def test_a_slow_endpoint_does_not_hold_up_another(
    storage: Storage, account: Account, world: World, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook_http, "TOTAL_S", 4.0)  # on a busy machine the other one needs its time, too
    monkeypatch.setattr(webhook_sending, "PASS_S", 0.5)
    with receiving() as slow:
        slow.slow = 4.0
        register(storage, account, slow.url)
        for _ in range(50):
            emit(storage, account)
        other = world.account("bo@example.com")
        register(storage, other, receiver.url)
        emit(storage, other)
        began = time.monotonic()
        assert deliver(storage) == 1
        assert len(slow.received) == webhook_sending.EACH
        assert time.monotonic() - began < 15
    assert len(receiver.received) == 1


SENDER = """
import os, signal, sys
from core.settings import Settings
from storage import webhook_sending
from storage.webhook_http import Endpoints
from storage.wiring import open_storage
webhook_sending._note = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # the answer is there, and nobody writes it down
webhook_sending.deliver_due(open_storage(Settings(_env_file=None, **eval(sys.argv[1]))), Endpoints(allow_private=True))
"""


def test_a_sender_that_dies_before_noting_the_answer_sends_again_under_the_same_id(
    storage: Storage, settings: Settings, account: Account, endpoint: Webhook, receiver: Receiver
) -> None:
    emit(storage, account)
    where = {"var_dir": str(settings.var_dir), "database_url": settings.database}
    died = subprocess.run([sys.executable, "-c", SENDER, repr(where)], cwd=os.getcwd(), timeout=60, check=False)
    assert died.returncode == -signal.SIGKILL
    assert (len(receiver.received), rows(storage)[0].delivered_at) == (1, None)
    assert deliver(storage) == 0, "another sender waits until the first one's time is over"
    make_due(storage)
    assert deliver(storage) == 1
    assert {got.headers["webhook-id"] for got in receiver.received} == {rows(storage)[0].id}
    assert len(receiver.received) == 2


def test_an_endpoint_is_removed_with_its_log(storage: Storage, account: Account, endpoint: Webhook, receiver: Receiver) -> None:
    emit(storage, account)
    with storage.db.session() as session:
        webhooks.remove(session, account.id, endpoint.id)
    assert (deliver(storage), rows(storage), receiver.received) == (0, [], [])


def test_limits_and_unknown_events_are_explained(storage: Storage, account: Account) -> None:
    with pytest.raises(UserError, match=r"There is no 'training\.exploded'"):
        register(storage, account, "https://example.com", "training.exploded")
    for n in range(webhooks.PER_ACCOUNT):
        register(storage, account, f"https://example.com/{n}")
    with pytest.raises(UserError, match="at most 10"):
        register(storage, account, "https://example.com/more")


def test_a_stranger_reaches_nothing(storage: Storage, account: Account, endpoint: Webhook, world: World) -> None:
    emit(storage, account)
    delivery, stranger = rows(storage)[0].id, world.account("eve@example.com").id
    asks = (
        lambda session: webhooks.get(session, stranger, endpoint.id),
        lambda session: webhooks.remove(session, stranger, endpoint.id),
        lambda session: webhooks.rotate_secret(session, stranger, endpoint.id),
        lambda session: webhooks.send_test(session, stranger, endpoint.id),
        lambda session: webhooks.replay(session, stranger, endpoint.id, delivery),
    )
    for ask in asks:
        with pytest.raises(UserError) as refusal, storage.db.session() as session:
            ask(session)
        assert refusal.value.status == 404
    with storage.db.reader() as session:
        assert session.scalars(webhooks.deliveries(stranger, endpoint.id)).all() == []


def test_a_test_message_goes_out(storage: Storage, account: Account, receiver: Receiver) -> None:
    """Whatever the endpoint wants to hear of otherwise."""
    quiet = register(storage, account, receiver.url, "training.failed")
    with storage.db.session() as session:
        webhooks.send_test(session, account.id, quiet.id)
    assert deliver(storage) == 1
    assert Verifier(quiet.secret).verify(receiver.received[0].body, receiver.received[0].headers)["type"] == "webhook.test"
