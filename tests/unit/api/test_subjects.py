from __future__ import annotations

from httpx import Response
from sqlalchemy import select

from storage import consents
from storage.tables import Consent
from storage.wiring import Storage
from tests.unit.api.site import Customer


def test_no_subject_without_consent_to_the_very_text(customer: Customer) -> None:
    text = customer.client.get("/v1/consent").json()
    body = {"name": "Minka", "kind": "cat"}
    for consent, sha256, type_ in (
        (False, text["sha256"], "consent/missing"),
        (True, "", "consent/other-text"),
        (True, "0" * 64, "consent/other-text"),
    ):
        answer = customer.client.post("/v1/subjects", json={**body, "consent": consent, "consent_sha256": sha256})
        assert answer.status_code in (409, 422)
        assert answer.json()["type"] == f"urn:likeness:{type_}"


def test_consent_is_kept_with_the_text_that_was_shown(customer: Customer, storage: Storage) -> None:
    subject = customer.subject()
    with storage.db.reader() as session:
        consent = session.scalars(select(Consent)).one()
    assert (consent.subject_id, consent.text) == (subject, consents.TEXT)


def test_subjects_are_listed_page_by_page(customer: Customer) -> None:
    made = [customer.subject(name=f"Cat {n}") for n in range(5)]
    found: list[str] = []
    cursor = None
    while True:
        page = customer.client.get("/v1/subjects", params={"limit": 2} | ({"cursor": cursor} if cursor else {})).json()
        found += [item["id"] for item in page["items"]]
        if (cursor := page["next_cursor"]) is None:
            break
    assert found == made[::-1]


def test_a_bad_field_is_named(customer: Customer) -> None:
    answer = customer.client.post("/v1/subjects", json={"name": "Minka", "kind": "dragon"})
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:likeness:request/invalid")
    assert [error["field"] for error in answer.json()["errors"]] == ["kind"]


def test_a_repeated_post_makes_one_subject(customer: Customer) -> None:
    consent = customer.client.get("/v1/consent").json()["sha256"]
    body = {"name": "Minka", "kind": "cat", "consent": True, "consent_sha256": consent}
    answers = [customer.client.post("/v1/subjects", json=body, headers={"Idempotency-Key": "k"}).json() for _ in range(2)]
    assert answers[0] == answers[1]
    assert len(customer.client.get("/v1/subjects").json()["items"]) == 1


def test_a_refused_post_may_be_repeated_with_the_same_key(customer: Customer) -> None:
    refused = customer.client.post("/v1/subjects", json={"name": "", "kind": "cat"}, headers={"Idempotency-Key": "k"})
    assert refused.status_code == 422
    consent = customer.client.get("/v1/consent").json()["sha256"]
    body = {"name": "Minka", "kind": "cat", "consent": True, "consent_sha256": consent}
    assert customer.client.post("/v1/subjects", json=body, headers={"Idempotency-Key": "k"}).status_code == 201


def person(customer: Customer, **changes: object) -> Response:
    consent = customer.client.get("/v1/consent").json()
    body = {"name": "Mara", "kind": "person", "consent": True, "consent_sha256": consent["sha256"], **changes}
    return customer.client.post("/v1/subjects", json=body)


def test_a_person_becomes_a_subject_only_with_the_statement_that_they_are_an_adult(customer: Customer, storage: Storage) -> None:
    for changes in ({}, {"adult": False}):
        refused = person(customer, **changes)
        assert (refused.status_code, refused.json()["type"]) == (422, "urn:likeness:consent/minor")
        assert "minors" in refused.json()["detail"]
    assert person(customer, adult=True).status_code == 201
    with storage.db.reader() as session:
        consent = session.scalars(select(Consent)).one()
    assert consent.text == f"{consents.TEXT} {customer.client.get('/v1/consent').json()['adult_text']}"


def test_no_word_for_a_child_is_taken_for_a_class_word(customer: Customer) -> None:
    for kind in ("person", "other"):
        refused = person(customer, kind=kind, adult=True, class_word="teenager")
        assert refused.json()["type"] == "urn:likeness:consent/minor"
    assert person(customer, adult=True, class_word="woman").status_code == 201


def test_pets_need_no_statement(customer: Customer) -> None:
    assert person(customer, kind="dog").status_code == 201


def test_the_page_asks_for_the_statement_and_explains_its_lack(customer: Customer) -> None:
    form = customer.client.get("/subjects/new").text
    assert consents.ADULT_TEXT in form
    fields = {"name": "Mara", "kind": "person", "consent": "yes", "consent_sha256": customer.client.get("/v1/consent").json()["sha256"]}
    refused = customer.client.post("/subjects", data=fields)
    assert (refused.status_code, "Only adults can be portrayed" in refused.text) == (422, True)
    assert customer.client.post("/subjects", data={**fields, "adult": "yes"}).status_code == 303
