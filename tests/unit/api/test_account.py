from __future__ import annotations

import io
import json
import zipfile
from datetime import timedelta

import pytest
from sqlalchemy import select, update

from mail import messages
from mail.post import Post
from storage import mails, retention
from storage.receipts import public_key, verify
from storage.remains import scan
from storage.tables import Account, Mail, Photo, RetentionNotice, now
from storage.wiring import Storage
from tests.unit.api.site import Customer


def test_the_export_holds_rows_and_files(customer: Customer) -> None:
    customer.photographed(2)
    answer = customer.client.get("/v1/account/export")
    assert answer.headers["content-type"] == "application/zip"
    archive = zipfile.ZipFile(io.BytesIO(answer.content))
    data = json.loads(archive.read("data.json"))
    assert len(data["photos"]) == 2
    assert "I have the right to use these photos" in data["consents"][0]["text"]
    assert len([name for name in archive.namelist() if name.endswith(".jpg")]) == 2


def test_no_copy_of_an_export_stays_behind(customer: Customer, storage: Storage) -> None:
    customer.client.get("/v1/account/export")
    assert not list((storage.settings.var_dir / "exports").iterdir())


def test_erasing_the_account_leaves_nothing_but_a_signed_receipt(
    customer: Customer, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last mail goes out by a folder here, which keeps its copy until it is of no more use: for no time, in this test."""
    monkeypatch.setitem(messages.USEFUL_FOR, "account_erased", timedelta(seconds=-1))
    post = Post(storage.settings)
    account = customer.client.get("/v1/account").json()
    customer.photographed(10)
    customer.api_key()
    receipt = customer.client.delete("/v1/account").json()
    assert (receipt["scope"], receipt["rows"]["photos"], receipt["objects"]) == ("account", 10, 20)
    assert customer.client.get("/v1/account").status_code == 401
    (farewell,) = scan(storage, account["id"], account["email"], post)
    assert farewell.startswith("mails/")
    assert mails.deliver_due(storage, post) == 1
    assert scan(storage, account["id"], account["email"], post) == [f"sent mail to {account['email']}"]
    assert (post.forget_expired(), scan(storage, account["id"], account["email"], post)) == (1, [])
    signature = receipt.pop("signature")
    assert verify(receipt, signature, public_key(storage.settings))
    assert customer.client.get(f"/v1/receipts/{receipt['id']}").json()["signature"] == signature


def test_a_page_with_the_receipt(customer: Customer) -> None:
    subject = customer.photographed(1)
    erased = customer.client.post(f"/subjects/{subject}/erase")
    page = customer.client.get(erased.headers["location"])
    assert page.status_code == 200
    assert "The subject is erased" in page.text


def test_the_account_is_not_erased_by_an_unticked_box(customer: Customer) -> None:
    assert customer.client.post("/account/erase", data={}).status_code == 422
    erased = customer.client.post("/account/erase", data={"sure": "yes"})
    assert erased.status_code == 303
    assert "Everything is erased" in customer.client.get(erased.headers["location"]).text
    assert customer.client.get("/v1/account").status_code == 401


def test_a_new_key_is_on_the_page_once(customer: Customer) -> None:
    page = customer.client.post("/account/keys", data={"name": "laptop"})
    assert "lk_" in page.text.split('id="new-key"')[1]
    assert 'id="new-key"' not in customer.client.get("/account").text


def test_a_visit_counts_as_use_though_the_session_is_old(customer: Customer, storage: Storage) -> None:
    """Otherwise somebody who never signs out would look idle."""
    for age, counts in ((timedelta(days=20), True), (timedelta(hours=20), False)):
        before = now() - age
        with storage.db.session() as session:
            session.execute(update(Account).values(last_seen_at=before))
        assert customer.client.get("/v1/account").status_code == 200
        with storage.db.reader() as session:
            assert (session.scalars(select(Account.last_seen_at)).one() > before) == counts


def test_the_account_says_how_long_things_are_kept(customer: Customer) -> None:
    kept = customer.client.get("/v1/account").json()["retention"]
    assert kept == {"photos_kept_days": 30, "portraits_kept_days": None, "idle_account_days": None, "notice_days": 7}


def test_what_the_retention_schedule_erased_has_a_receipt_to_look_at(customer: Customer, storage: Storage) -> None:
    subject = customer.photographed(2)
    with storage.db.session() as session:
        session.execute(update(Photo).values(created_at=now() - timedelta(days=30)))
    assert retention.announce(storage) == 1
    with storage.db.session() as session:
        session.execute(update(RetentionNotice).values(erase_after=now()))
    assert retention.expire(storage, Post(storage.settings)) == 1
    with storage.db.reader() as session:
        mail = session.scalars(select(Mail).where(Mail.template == "photos_erased")).one()
    assert "The photos are erased" in customer.client.get(f"/receipts/{mail.context['receipt_id']}").text
    assert customer.photos(subject) == []
