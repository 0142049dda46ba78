"""Webhooks as a client uses them, with a real receiver."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import update
from standardwebhooks.webhooks import Webhook as Verifier

from core.settings import Settings
from storage import webhook_sending
from storage.tables import Photo, WebhookDelivery, now
from storage.wiring import Storage
from tests.receiver import Receiver, receiving
from tests.unit.api.conftest import sign_in
from tests.unit.api.site import SITE, Customer, photo


@pytest.fixture
def settings(settings: Settings) -> Settings:
    settings.webhooks_allow_private = True
    return settings


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as started:
        yield started


def create(customer: Customer, url: str, *events: str) -> dict[str, Any]:
    answer = customer.client.post("/v1/webhooks", json={"url": url, "events": list(events)})
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def test_from_registration_to_a_signed_message(customer: Customer, receiver: Receiver, storage: Storage) -> None:
    made = create(customer, receiver.url, "portrait.erased", "subject.erased")
    assert made["events"] == ["subject.erased", "portrait.erased"]
    subject = customer.subject()
    receipt = customer.client.delete(f"/v1/subjects/{subject}").json()
    assert webhook_sending.deliver_due(storage) == 1
    payload = Verifier(made["secret"]).verify(receiver.received[0].body, receiver.received[0].headers)
    assert payload["type"] == "subject.erased"
    assert payload["data"]["receipt_id"] == receipt["id"] and subject not in str(payload)


def test_the_secret_is_shown_when_it_is_made_and_never_again(customer: Customer, receiver: Receiver) -> None:
    made = create(customer, receiver.url)
    path = made["urls"]["get"]
    assert made["secret"].startswith("whsec_")
    assert "secret" not in customer.client.get(path).json()
    assert "whsec_" not in customer.client.get("/v1/webhooks").text
    rotated = customer.client.post(made["urls"]["rotate_secret"]).json()
    assert rotated["secret"].startswith("whsec_") and rotated["secret"] != made["secret"]
    export = customer.client.get("/v1/account/export").content
    assert made["secret"].encode() not in export and rotated["secret"].encode() not in export


def test_a_test_message_its_log_and_a_replay(customer: Customer, receiver: Receiver, storage: Storage) -> None:
    made = create(customer, receiver.url)
    receiver.status = 500
    sent = customer.client.post(made["urls"]["test"])
    assert (sent.status_code, sent.json()["status"]) == (202, "waiting")
    assert customer.client.post(f"{made['urls']['deliveries']}/{sent.json()['id']}/replay").status_code == 409
    webhook_sending.deliver_due(storage)
    (logged,) = customer.client.get(made["urls"]["deliveries"]).json()["items"]
    assert (logged["status"], logged["last_status"], logged["history"][0]["error"]) == ("waiting", 500, "answered 500")
    receiver.status = 410
    _make_due(storage)
    webhook_sending.deliver_due(storage)
    one = f"{made['urls']['deliveries']}/{logged['id']}"
    assert (customer.client.get(one).json()["status"], customer.client.get(one).json()["next_attempt_at"]) == ("failed", None)
    receiver.status = 200
    assert customer.client.post(f"{one}/replay").status_code == 202
    webhook_sending.deliver_due(storage)
    assert customer.client.get(one).json()["status"] == "delivered"
    assert {got.headers["webhook-id"] for got in receiver.received} == {logged["id"]}


def _make_due(storage: Storage) -> None:
    with storage.db.session() as session:
        session.execute(update(WebhookDelivery).values(next_attempt_at=now()))


def test_a_test_that_is_asked_for_twice_with_one_key_is_sent_once(customer: Customer, receiver: Receiver, storage: Storage) -> None:
    made = create(customer, receiver.url)
    answers = [customer.client.post(made["urls"]["test"], headers={"Idempotency-Key": "once"}) for _ in range(2)]
    assert answers[0].json() == answers[1].json()
    assert webhook_sending.deliver_due(storage) == 1


def test_removed(customer: Customer, receiver: Receiver) -> None:
    path = create(customer, receiver.url)["urls"]["get"]
    assert customer.client.delete(path).status_code == 204
    assert customer.client.get(path).status_code == 404
    assert customer.client.get("/v1/webhooks").json()["items"] == []


@pytest.mark.parametrize(
    ("body", "type"),
    [
        ({"url": "ftp://example.com"}, "urn:likeness:webhook/url"),
        ({"url": "http://nowhere.invalid/"}, "urn:likeness:webhook/url"),
        ({"url": "http://127.0.0.1/", "events": ["training.exploded"]}, "urn:likeness:webhook/events"),
        ({}, "urn:likeness:request/invalid"),
    ],
)
def test_what_cannot_be_registered_says_why(customer: Customer, body: dict[str, Any], type: str) -> None:
    answer = customer.client.post("/v1/webhooks", json=body)
    assert (answer.status_code, answer.json()["type"]) == (422, type)
    assert answer.json()["detail"]


def test_private_addresses_are_refused_unless_the_operator_allows_them(customer: Customer, settings: Settings, receiver: Receiver) -> None:
    settings.webhooks_allow_private = False
    for url in ("https://127.0.0.1/", "https://localhost/", "https://[::1]:8443/", "https://169.254.169.254/latest/meta-data"):
        assert "not a public address" in customer.client.post("/v1/webhooks", json={"url": url}).json()["detail"]
    assert "https://" in customer.client.post("/v1/webhooks", json={"url": receiver.url}).json()["detail"]


def test_a_foreign_webhook_is_not_found(customer: Customer, receiver: Receiver, storage: Storage) -> None:
    made = create(customer, receiver.url)
    leo = sign_in(TestClient(customer.client.app, base_url=SITE, headers={"Origin": SITE}), storage, "leo@example.com").client
    sent = customer.client.post(made["urls"]["test"]).json()["id"]
    for path in (made["urls"]["get"], made["urls"]["deliveries"], f"{made['urls']['deliveries']}/{sent}"):
        assert leo.get(path).status_code == 404
    for path in (made["urls"]["test"], made["urls"]["rotate_secret"], f"{made['urls']['deliveries']}/{sent}/replay"):
        assert leo.post(path).status_code == 404
    assert leo.delete(made["urls"]["get"]).status_code == 404


def test_every_type_is_explained(client: TestClient) -> None:
    items = client.get("/v1/webhooks/events").json()["items"]
    assert {"training.succeeded", "portrait.failed", "subject.erased", "webhook.test"} <= {item["type"] for item in items}
    assert all(item["description"] for item in items)


def test_a_subject_says_when_its_photos_go(customer: Customer, storage: Storage) -> None:
    subject = customer.subject()
    path = f"/v1/subjects/{subject}"
    assert customer.client.get(path).json()["photos_expire_at"] is None
    customer.send(subject, ("1.jpg", photo(1)))
    with storage.db.session() as session:
        session.execute(update(Photo).values(created_at=now() - timedelta(days=10)))
    expected = (now() + timedelta(days=20)).date().isoformat()
    assert customer.client.get(path).json()["photos_expire_at"].startswith(expected)
    assert customer.client.get("/v1/subjects").json()["items"][0]["photos_expire_at"].startswith(expected)


def test_the_pages_from_a_new_endpoint_to_its_log(customer: Customer, receiver: Receiver, storage: Storage) -> None:
    client = customer.client
    added = client.post("/account/webhooks", data={"url": receiver.url, "events": ["training.failed", "portrait.failed"]})
    secret = re.search(r'id="secret">(whsec_\S+)<', added.text)
    path = re.search(r'action="(/account/webhooks/\w+)/test"', added.text)
    assert secret and path
    assert receiver.url in client.get("/account/webhooks").text
    assert "whsec_" not in client.get(path[1]).text
    receiver.status = 410
    assert client.post(f"{path[1]}/test").headers["location"] == f"{path[1]}#log"
    webhook_sending.deliver_due(storage)
    page = client.get(path[1]).text
    assert "Given up" in page and "answered 410" in page
    again = re.search(r'action="(\S+/replay)"', page)
    assert again
    receiver.status = 200
    client.post(again[1])
    webhook_sending.deliver_due(storage)
    assert "Delivered" in client.get(path[1]).text
    Verifier(secret[1]).verify(receiver.received[-1].body, receiver.received[-1].headers)
    assert "whsec_" in client.post(f"{path[1]}/rotate-secret").text
    assert client.post(f"{path[1]}/remove").headers["location"] == "/account/webhooks"
    assert receiver.url not in client.get("/account/webhooks").text


def test_a_wrong_address_keeps_what_was_entered(customer: Customer) -> None:
    page = customer.client.post("/account/webhooks", data={"url": "https://user:pw@example.com/", "events": ["photo.erased"]})
    assert (page.status_code, 'role="alert"' in page.text) == (422, True)
    assert 'value="https://user:pw@example.com/"' in page.text
    assert re.search(r'value="photo.erased" checked', page.text)


def test_the_photos_page_says_when_they_go(customer: Customer) -> None:
    subject = customer.photographed(1)
    at = now() + timedelta(days=30)
    assert f"will be erased on <strong>{at.day} {at:%B %Y}</strong>" in customer.client.get(f"/subjects/{subject}/photos").text
