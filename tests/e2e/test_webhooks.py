"""A customer adds an endpoint in the browser, sees a test arrive, and takes everything back; the scheduler is a real one, twice."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook as Verifier

from core.settings import Settings
from mail.post import Post
from storage.remains import scan
from storage.wiring import open_storage
from tests.e2e import customer
from tests.e2e.conftest import Service, _environment, _process, _running
from tests.receiver import Receiver, receiving

pytestmark = pytest.mark.browser


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as started:
        yield started


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """API and two schedulers, no workers."""
    var, inside = tmp_path / "var", {"LIKENESS_WEBHOOKS_ALLOW_PRIVATE": "true"}
    var.mkdir()
    with _running(var, "api", **inside) as service:
        environment = _environment(var, service.url) | inside
        with _process(environment, "scheduler"), _process(environment, "scheduler"):
            yield service


def test_an_endpoint_from_its_address_to_its_log_and_nothing_left(service: Service, browser: Any, receiver: Receiver) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 844})
    customer.sign_in(page, service, "mia@example.com")
    account_id = page.evaluate("fetch('/v1/account').then(answer => answer.json()).then(account => account.id)")
    page.get_by_role("link", name="Account").click()
    page.get_by_role("link", name="Webhooks and their log").click()
    page.get_by_label("Address").fill(receiver.url)
    page.get_by_role("button", name="Add").click()
    secret = page.locator("#secret").inner_text()
    receiver.status = 500
    page.get_by_role("button", name="Send a test").click()
    eventually(lambda: receiver.received)
    receiver.status = 204
    eventually(lambda: page.reload() and page.get_by_text("Delivered").is_visible())
    assert Verifier(secret).verify(receiver.received[-1].body, receiver.received[-1].headers)["type"] == "webhook.test"
    assert len({got.headers["webhook-id"] for got in receiver.received}) == 1
    assert page.get_by_text("2 attempts").is_visible()
    receipt = customer.erase_account(page)
    assert customer.link_in_mail(service, "mia@example.com", r"/receipts/\S+").endswith(receipt)
    storage, post = open_storage(Settings(_env_file=None, var_dir=service.var)), Post(Settings(_env_file=None, var_dir=service.var))
    eventually(lambda: scan(storage, account_id, "mia@example.com", post) == ["sent mail to mia@example.com"])


def eventually(holds: Any) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.5)
