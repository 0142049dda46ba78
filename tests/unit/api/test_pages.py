"""Pages work without scripts, say errors in words, and carry the headers that keep them to themselves."""

from __future__ import annotations

import re
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy.exc import IntegrityError

from storage.wiring import Storage
from tests.unit.api.conftest import sign_in
from tests.unit.api.site import SITE, Customer, photo

HTML = {"Accept": "text/html"}


def test_the_landing_page_and_its_form(client: TestClient) -> None:
    assert 'action="/sign-in"' in client.get("/").text
    page = client.post("/sign-in", data={"email": "Mia@Example.com"})
    assert "mia@example.com" in page.text


def test_pages_need_a_sign_in_and_lead_there(client: TestClient) -> None:
    for path in ("/account", "/subjects/new", "/subjects/sub_x/photos", "/trainings/trn_x"):
        answer = client.get(path, headers=HTML)
        assert (answer.status_code, answer.headers["location"]) == (303, "/")


def test_an_error_is_a_page_for_people_and_a_problem_for_programs(customer: Customer) -> None:
    page = customer.client.get("/subjects/sub_x", headers=HTML)
    assert (page.status_code, page.headers["content-type"]) == (404, "text/html; charset=utf-8")
    assert "No such subject" in page.text
    assert customer.client.get("/v1/nowhere").headers["content-type"] == "application/problem+json"


def test_from_consent_to_training_without_scripts(customer: Customer) -> None:
    form = customer.client.get("/subjects/new").text
    digest = re.search(r'name="consent_sha256" value="(\w+)"', form)
    assert digest
    fields = {"name": "Minka", "kind": "cat", "class_word": "tabby cat", "consent_sha256": digest[1]}
    refused = customer.client.post("/subjects", data=fields)
    assert (refused.status_code, "Your consent is needed" in refused.text) == (422, True)
    made = customer.client.post("/subjects", data={**fields, "consent": "yes"})
    photos_page = made.headers["location"]
    sent = customer.client.post(photos_page, files=[("files", (f"{n}.jpg", photo(n))) for n in range(10)])
    assert sent.status_code == 303
    page = customer.client.get(photos_page).text
    assert "10 of 10–20 photos" in page
    started = customer.client.post(photos_page.removesuffix("/photos") + "/train")
    training = customer.client.get(started.headers["location"]).text
    assert "Waiting for a worker" in training
    canceled = customer.client.post(started.headers["location"] + "/cancel")
    assert "Canceled" in customer.client.get(canceled.headers["location"]).text


def test_a_refused_photo_is_explained_on_the_page(customer: Customer) -> None:
    subject = customer.subject()
    page = customer.client.post(f"/subjects/{subject}/photos", files=[("files", ("diary.jpg", b"text")), ("files", ("a.jpg", photo(1)))])
    assert page.status_code == 422
    assert "diary.jpg" in page.text
    assert "Send a JPEG, PNG, WebP or HEIC file." in page.text
    assert "1 of 10–20 photos" in page.text


def test_home_lists_subjects_with_their_standing(customer: Customer) -> None:
    customer.photographed(1)
    page = customer.client.get("/").text
    assert "Minka" in page
    assert "Waiting for photos" in page


def test_names_cannot_carry_markup(customer: Customer) -> None:
    customer.subject(name="<script>alert(1)</script>")
    assert "<script>alert(1)" not in customer.client.get("/").text


def test_a_foreign_page_is_not_found(customer: Customer, storage: Storage) -> None:
    subject = customer.subject()
    leo = sign_in(TestClient(customer.client.app, base_url=SITE, headers={"Origin": SITE}), storage, "leo@example.com").client
    for path in (f"/subjects/{subject}", f"/subjects/{subject}/photos", f"/subjects/{subject}/photos/set"):
        assert leo.get(path).status_code == 404
    for path in (f"/subjects/{subject}/erase", f"/subjects/{subject}/train"):
        assert leo.post(path).status_code == 404


def test_headers_keep_pages_to_themselves(client: TestClient) -> None:
    headers = client.get("/").headers
    policy = headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe-inline" not in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", ["/", "/account", "/account/webhooks", "/subjects/new"])
def test_pages_need_nothing_inline_and_nothing_from_elsewhere(customer: Customer, path: str) -> None:
    page = customer.client.get(path).text
    assert not re.search(r"<script(?![^>]*\bsrc=)", page)
    assert not re.search(r'\sstyle="', page)
    assert not re.search(r'(src|rel="stylesheet" href)="https?://', page)


def test_static_files_are_kept_by_their_digest(client: TestClient) -> None:
    address = re.search(r'href="(/static/likeness\.css\?v=\w+)"', client.get("/").text)
    assert address
    assert "immutable" in client.get(address[1]).headers["cache-control"]


def test_two_requests_that_meet_are_told_so_and_not_a_fault(customer: Customer) -> None:
    """As when one adds a portrait while another erases its adapter: the database refuses the row."""

    def meet(request: Any) -> None:
        raise IntegrityError("INSERT …", {}, Exception('violates foreign key constraint "fk_portraits_adapter_id"\nDETAIL: …'))

    customer.client.app.router.add_route("/v1/meet", meet)  # type: ignore[attr-defined]
    answer = customer.client.get("/v1/meet")
    assert (answer.status_code, answer.json()["type"]) == (409, "urn:likeness:conflict/changed")
    assert "fk_portraits" not in answer.text
