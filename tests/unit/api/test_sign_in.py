from __future__ import annotations

from fastapi.testclient import TestClient
from sqlalchemy import select

from api.auth import COOKIE
from storage.tables import Mail
from storage.wiring import Storage
from tests.unit.api.site import SITE, Customer


def asked_for_link(client: TestClient, storage: Storage) -> str:
    """The path in the mail."""
    client.post("/v1/sign-in", json={"email": "mia@example.com"})
    with storage.db.reader() as session:
        return str(session.scalars(select(Mail)).one().context["path"])


def test_nobody_is_signed_in_without_a_cookie_or_key(client: TestClient) -> None:
    answer = client.get("/v1/account")
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["type"] == "urn:likeness:auth/required"


def test_the_link_works_once(customer: Customer) -> None:
    assert customer.client.get("/v1/account").json()["email"] == "mia@example.com"
    again = customer.client.post("/v1/sign-in/confirm", json={"token": customer.token})
    assert again.status_code == 400
    assert again.json()["type"] == "urn:likeness:sign-in/expired"


def test_opening_the_link_uses_nothing_up(client: TestClient, storage: Storage) -> None:
    """A mail scanner opens links: the page only shows the button."""
    path = asked_for_link(client, storage)
    with TestClient(client.app, base_url=SITE) as scanner:
        first, second = scanner.get(path), scanner.get(path)
        assert first.status_code == second.status_code == 200
        assert 'action="/sign-in/confirm"' in second.text
        assert COOKIE not in scanner.cookies
    assert client.post("/v1/sign-in/confirm", json={"token": path.partition("=")[2]}).status_code == 200


def test_a_used_link_says_so_on_its_page(customer: Customer) -> None:
    page = customer.client.get(f"/sign-in?token={customer.token}")
    assert "This link is used up" in page.text


def test_the_button_sets_a_cookie_out_of_scripts_reach(client: TestClient, storage: Storage) -> None:
    path = asked_for_link(client, storage)
    answer = client.post("/sign-in/confirm", data={"token": path.partition("=")[2]})
    header = answer.headers["set-cookie"].lower()
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert "httponly" in header
    assert "samesite=lax" in header


def test_a_sixth_link_within_the_hour_is_refused(client: TestClient) -> None:
    answers = [client.post("/v1/sign-in", json={"email": "mia@example.com"}) for _ in range(6)]
    assert [answer.status_code for answer in answers] == [202] * 5 + [429]


def test_a_bad_address_is_named(client: TestClient) -> None:
    answer = client.post("/v1/sign-in", json={"email": "mia"})
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:likeness:email/invalid")


def test_a_cookie_counts_only_from_our_own_pages(customer: Customer) -> None:
    body = {"name": "laptop"}
    foreign = customer.client.post("/v1/api-keys", json=body, headers={"Origin": "https://evil.example"})
    assert (foreign.status_code, foreign.json()["type"]) == (403, "urn:likeness:auth/cross-site")
    fetched = customer.client.post("/v1/api-keys", json=body, headers={"Sec-Fetch-Site": "cross-site"})
    assert fetched.status_code == 403
    unsaid = customer.client.post("/v1/api-keys", json=body, headers={"Origin": ""})
    assert unsaid.status_code == 403
    assert customer.client.post("/v1/api-keys", json=body).status_code == 201


def test_the_pages_sign_in_form_takes_no_foreign_post(client: TestClient) -> None:
    answer = client.post("/sign-in", data={"email": "mia@example.com"}, headers={"Origin": "https://evil.example"})
    assert answer.status_code == 403


def test_an_api_key_works_without_a_cookie_until_it_is_revoked(customer: Customer) -> None:
    made = customer.client.post("/v1/api-keys", json={"name": "laptop"}).json()
    with TestClient(customer.client.app, base_url=SITE, headers={"Authorization": f"Bearer {made['key']}"}) as program:
        assert program.get("/v1/account").json()["email"] == "mia@example.com"
        assert program.post("/v1/sign-in", json={"email": "leo@example.com"}).status_code == 202
        assert customer.client.delete(f"/v1/api-keys/{made['id']}").status_code == 204
        assert program.get("/v1/account").json()["type"] == "urn:likeness:auth/bad-key"


def test_a_key_is_shown_once(customer: Customer) -> None:
    key = customer.api_key()
    listed = customer.client.get("/v1/api-keys").text
    assert key not in listed
    assert key[:8] in listed


def test_signing_out_ends_the_session(customer: Customer) -> None:
    cookie = customer.client.cookies[COOKIE]
    assert customer.client.post("/v1/sign-out").status_code == 204
    assert customer.client.get("/v1/account", headers={"Cookie": f"{COOKIE}={cookie}"}).status_code == 401
