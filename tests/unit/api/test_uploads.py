"""Files that go straight to an S3 store, the way that it takes them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from core.settings import Settings
from storage.wiring import Storage
from tests.unit.api.site import Customer, photo
from tests.unit.storage.moto_store import bucket, s3_url
from tests.unit.storage.s3_proxy import Habits, store_with

__all__ = ["bucket", "s3_url"]


@pytest.fixture
def habits(request: pytest.FixtureRequest) -> Habits:
    """What the test's parameter says, from the start on: the application asks the store how it takes uploads as soon as it runs."""
    return Habits(**getattr(request, "param", {}))


@pytest.fixture
def settings(settings: Settings, habits: Habits, s3_url: str, bucket: str) -> Iterator[Settings]:
    with store_with(habits, s3_url) as address:
        url = f"s3://{bucket}?endpoint_url={address}&region=us-east-1&addressing=path"
        yield settings.model_copy(update={"store_url": url, "max_photo_bytes": 200_000})


def place_for(customer: Customer, subject: str, data: bytes) -> dict[str, Any]:
    body = {"files": [{"filename": "a.jpg", "content_type": "image/jpeg", "size": len(data)}]}
    answer = customer.client.post(f"/v1/subjects/{subject}/uploads", json=body)
    assert answer.status_code == 201, answer.text
    return dict(answer.json()["uploads"][0])


def send(place: dict[str, Any], data: bytes) -> httpx.Response:
    if place["method"] == "POST":
        return httpx.post(place["url"], data=place["fields"], files={"file": ("a.jpg", data)})
    return httpx.put(place["url"], content=data, headers=place["headers"])


@pytest.mark.parametrize(("habits", "method"), [({}, "POST"), ({"refuses_post": 501}, "PUT")], indirect=["habits"])
def test_a_photo_goes_the_way_that_the_store_takes(customer: Customer, habits: Habits, method: str) -> None:
    subject, data = customer.subject(), photo(1)
    place = place_for(customer, subject, data)
    assert place["method"] == method
    assert send(place, data + b"x" * 300_000).is_error
    assert send(place, data).is_success
    answer = customer.client.post(f"/v1/subjects/{subject}/photos", json={"upload_ids": [place["id"]]})
    assert (answer.status_code, answer.json()["counts"]["usable"]) == (201, 1)
    picture = answer.json()["photos"][0]["urls"]["picture"]
    assert httpx.get(picture).content[:2] == b"\xff\xd8"


@pytest.mark.parametrize("habits", [{"refuses_post": 501}], indirect=True)
def test_a_client_that_does_not_say_the_size_is_told_to(customer: Customer, habits: Habits) -> None:
    answer = customer.client.post(f"/v1/subjects/{customer.subject()}/uploads", json={"files": [{"filename": "a.jpg"}]})
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:likeness:uploads/size-needed")


def test_a_size_above_the_limit_is_refused_before_anything_is_sent(customer: Customer) -> None:
    body = {"files": [{"filename": "a.jpg", "size": 200_001}]}
    answer = customer.client.post(f"/v1/subjects/{customer.subject()}/uploads", json=body)
    assert (answer.status_code, answer.json()["type"]) == (413, "urn:likeness:photo/too-large")


def test_the_way_is_found_out_at_the_start(storage: Storage, customer: Customer, habits: Habits) -> None:
    storage.objects.upload_way()
    asked = len(habits.seen)
    place_for(customer, customer.subject(), b"x")
    assert len(habits.seen) == asked


def test_ready_only_with_a_bucket(storage: Storage, customer: Customer, habits: Habits) -> None:
    storage.objects.upload_way()  # asked by then, so that the refusal meets the next question
    assert customer.client.get("/readyz").json()["store"] == "ok"
    habits.fails = [404]
    answer = customer.client.get("/readyz")
    assert answer.status_code == 503
    assert "likeness prepare" in answer.json()["store"]
