from __future__ import annotations

import json
from datetime import timedelta

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from core.words import JobState
from storage import trainings
from storage.tables import IdempotencyRecord, now
from storage.wiring import Storage
from tests.unit.api.conftest import sign_in
from tests.unit.api.site import SITE, Customer


@pytest.fixture
def training(customer: Customer) -> dict:
    answer = customer.client.post("/v1/trainings", json={"subject_id": customer.photographed(10), "seed": 7, "recipe": {"steps": 30}})
    assert answer.status_code == 201, answer.text
    return answer.json()


def test_a_training_waits_in_replicates_words(training: dict) -> None:
    assert training["status"] == "starting"
    assert (training["seed"], training["recipe"]) == (7, {"steps": 30})
    assert training["started_at"] is training["completed_at"] is training["error"] is None
    assert training["urls"]["cancel"] == f"/v1/trainings/{training['id']}/cancel"


def test_it_is_found_and_listed(customer: Customer, training: dict) -> None:
    assert customer.client.get(training["urls"]["get"]).json() == training
    listed = customer.client.get("/v1/trainings", params={"subject_id": training["subject_id"]}).json()["items"]
    assert listed == [training]
    assert customer.client.get("/v1/trainings", params={"subject_id": "sub_other"}).json()["items"] == []


def test_one_at_a_time(customer: Customer, training: dict) -> None:
    again = customer.client.post("/v1/trainings", json={"subject_id": training["subject_id"]})
    assert (again.status_code, again.json()["type"]) == (409, "urn:likeness:training/already-running")
    assert again.json()["training_id"] == training["id"]


def test_the_same_key_starts_it_once(customer: Customer) -> None:
    body = {"subject_id": customer.photographed(10)}
    first, again = (customer.client.post("/v1/trainings", json=body, headers={"Idempotency-Key": "k"}) for _ in range(2))
    assert first.json()["id"] == again.json()["id"]
    other = customer.client.post("/v1/trainings", json={"subject_id": "x"}, headers={"Idempotency-Key": "k"})
    assert other.status_code == 422


def test_a_repeat_finds_what_was_made_by_a_process_that_died_before_it_answered(customer: Customer, storage: Storage) -> None:
    body, key = {"subject_id": customer.photographed(10)}, {"Idempotency-Key": "k"}
    first = customer.client.post("/v1/trainings", json=body, headers=key).json()
    with storage.db.session() as session:
        record = session.scalars(select(IdempotencyRecord)).one()
        record.status, record.body, record.created_at = None, None, now() - timedelta(minutes=5)  # as a kill leaves it
    again = customer.client.post("/v1/trainings", json=body, headers=key)
    assert (again.status_code, again.json()) == (201, first)
    assert [one["id"] for one in customer.client.get("/v1/trainings").json()["items"]] == [first["id"]]


def test_an_unknown_recipe_field_is_refused(customer: Customer) -> None:
    answer = customer.client.post("/v1/trainings", json={"subject_id": "x", "recipe": {"epochs": 3}})
    assert [error["field"] for error in answer.json()["errors"]] == ["recipe.epochs"]


def test_a_waiting_training_is_canceled_at_once(customer: Customer, training: dict) -> None:
    canceled = customer.client.post(training["urls"]["cancel"]).json()
    assert canceled["status"] == "canceled"
    assert canceled["completed_at"]


def test_events_tell_progress_until_the_end(customer: Customer, training: dict, storage: Storage) -> None:
    set_job(customer, storage, training, state=JobState.PROCESSING, progress={"stage": "fit", "step": 3, "total": 30})
    with customer.client.stream("GET", training["urls"]["events"]) as stream:
        events = read_events(stream.iter_lines())
        first_id, first = next(events)
        assert (first["status"], first["progress"]["step"]) == ("processing", 3)
        set_job(customer, storage, training, state=JobState.FAILED, error={"type": "job/failed", "message": "why"}, completed_at=now())
        last_id, last = next(events)
        assert (last["status"], last["error"]) == ("failed", "why")
        assert first_id != last_id
        assert next(events, None) is None


def test_a_client_that_reconnects_is_told_only_what_is_new(customer: Customer, training: dict) -> None:
    customer.client.post(training["urls"]["cancel"])
    with customer.client.stream("GET", training["urls"]["events"]) as stream:
        ((event_id, _snapshot),) = read_events(stream.iter_lines())
    with customer.client.stream("GET", training["urls"]["events"], headers={"Last-Event-ID": event_id}) as stream:
        assert list(read_events(stream.iter_lines())) == []


def test_a_foreign_training_is_not_found(customer: Customer, training: dict, storage: Storage) -> None:
    leo = sign_in(TestClient(customer.client.app, base_url=SITE, headers={"Origin": SITE}), storage, "leo@example.com")
    for answer in (
        leo.client.get(training["urls"]["get"]),
        leo.client.post(training["urls"]["cancel"]),
        leo.client.get(training["urls"]["events"]),
        leo.client.post("/v1/trainings", json={"subject_id": training["subject_id"]}),
    ):
        assert (answer.status_code, answer.json()["type"]) == (404, "urn:likeness:not-found")


def set_job(customer: Customer, storage: Storage, training: dict, **values: object) -> None:
    account_id = customer.client.get("/v1/account").json()["id"]
    with storage.db.session() as session:
        _row, job = trainings.get(session, account_id, training["id"])
        for name, value in values.items():
            setattr(job, name, value)


def read_events(lines):  # type: ignore[no-untyped-def]
    """(id, data) of each event."""
    event_id = ""
    for line in lines:
        name, _, value = line.partition(": ")
        if name == "id":
            event_id = value
        elif name == "data":
            yield event_id, json.loads(value)
