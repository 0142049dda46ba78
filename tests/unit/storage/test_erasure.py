"""Nothing of the target is left, everything beside it is, and the receipt can be checked."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import timedelta
from hashlib import sha256
from time import sleep
from typing import Any

import pytest
from sqlalchemy import func, select

from core.errors import LeaseLost, ServiceDown, UserError
from core.settings import Settings
from storage import accounts, adapters, endings, erasure, idempotency, jobs, keys, mails, photos, portraits, receipts, scheduler
from storage.jobs import Lease
from storage.objects import Erased, key_digest
from storage.remains import scan
from storage.tables import (
    Account,
    Adapter,
    Base,
    Erasure,
    IdempotencyRecord,
    Job,
    Photo,
    Portrait,
    PortraitImage,
    Receipt,
    RetentionNotice,
    Subject,
    Webhook,
    WebhookDelivery,
    now,
)
from storage.wiring import Storage
from tests.unit.storage.conftest import FakePost, World

EMAIL = "ada@example.com"


@dataclass
class Household:
    account: Account
    miso: Subject
    tofu: Subject
    photo: Photo
    adapter: Adapter
    other_adapter: Adapter
    portrait: Portrait


@pytest.fixture
def home(storage: Storage, world: World, settings: Settings, post: FakePost) -> Household:
    """An account with something in every table, and a sent mail."""
    account = world.account(EMAIL)
    miso, tofu = world.subject(account, "Miso"), world.subject(account, "Tofu")
    photo = world.photo(miso)
    world.photo(tofu)
    training, _ = world.training(miso)
    adapter, other = world.adapter(training), world.adapter(world.training(tofu, "xikvex")[0])
    portrait = world.portrait(adapter)
    world.portrait(other)
    storage.objects.put(keys.training_prefix(account.id, miso.id, training.id) + "latents.bin", b"latents")
    with storage.db.session() as session:
        accounts.consume_sign_in(session, accounts.request_sign_in(session, EMAIL))
        accounts.create_api_key(session, account.id, "laptop")
        photos.new_upload(session, settings, account.id, miso.id, "x.jpg")
        idempotency.begin(session, account.id, "k", "0" * 64)
        idempotency.finish(session, account.id, "k", 201, f'{{"subject": "{miso.id}"}}'.encode())
        mails.enqueue(session, EMAIL, "training_done", {"subject_id": miso.id}, "done:1", account.id)
        session.add(Webhook(id="wh_1", account_id=account.id, url="https://example.com", secret="s"))
        session.flush()
        session.add(
            RetentionNotice(id="ret_1", account_id=account.id, scope="photos", target_id=miso.id, unused_since=now(), erase_after=now())
        )
        session.add(WebhookDelivery(id="d_1", account_id=account.id, webhook_id="wh_1", event="x", payload={"adapter": adapter.id}))
    post.send(EMAIL, "sign_in", {}, "k")
    return Household(account, miso, tofu, photo, adapter, other, portrait)


def count(storage: Storage, table: Any) -> int:
    with storage.db.reader() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def keys_left(storage: Storage, account: Account) -> list[str]:
    return list(storage.objects.list(keys.account_prefix(account.id)))


def said_farewell(storage: Storage, post: FakePost, receipt: Receipt) -> None:
    """The one thing that is left is the last mail; once it is sent, only the customer's mailbox has it."""
    mails.deliver_due(storage, post)
    assert post.sent == [(EMAIL, "account_erased", {"receipt_id": receipt.id})]
    post.sent.clear()


def test_the_household_is_everywhere(storage: Storage, home: Household, post: FakePost) -> None:
    """Otherwise the tests below would show nothing."""
    found = {where.partition("/")[0] for where in scan(storage, home.account.id, EMAIL, post)}
    of_nobody = ("receipts", "erasures", "tombstones", "totals", "writes")
    tables = {table.name for table in Base.metadata.sorted_tables if table.name not in of_nobody}
    assert tables <= found
    assert f"sent mail to {EMAIL}" in found
    assert "accounts" in found and len(keys_left(storage, home.account)) == 9


def test_nothing_of_an_erased_account_is_left(storage: Storage, home: Household, post: FakePost, world: World) -> None:
    neighbour = world.subject(world.account("bo@example.com"))
    neighbours_photo = world.photo(neighbour)
    had = keys_left(storage, home.account)
    receipt = erasure.erase(storage, post, "account", home.account.id, home.account.id)
    said_farewell(storage, post, receipt)
    assert scan(storage, home.account.id, EMAIL, post) == []
    assert storage.objects.exists(neighbours_photo.object_key)
    assert count(storage, Subject) == 1
    body = receipt.body
    assert body["object_key_sha256"] == sorted(map(key_digest, had))
    assert (body["objects"], body["object_versions"], body["sent_mails"]) == (9, 9, 1)
    assert body["rows"]["photos"] == 2 and body["rows"]["accounts"] == 1 and body["rows"]["mails"] == 2
    assert home.account.id not in str(body) and EMAIL not in str(body)
    with storage.db.reader() as session:
        assert adapters.erased_among(session, [home.adapter.id, "ada_other"]) == {home.adapter.id}
        assert set(adapters.erased_since(session, now() - timedelta(minutes=1))) == {home.adapter.id, home.other_adapter.id}


def test_a_second_erasure_gives_the_same_receipt(storage: Storage, home: Household, post: FakePost) -> None:
    first = erasure.erase(storage, post, "account", home.account.id, home.account.id)
    second = erasure.erase(storage, post, "account", home.account.id, home.account.id)
    assert (second.id, second.body, second.signature) == (first.id, first.body, first.signature)
    assert count(storage, Receipt) == 1


def test_a_receipt_is_signed(storage: Storage, home: Household, post: FakePost, settings: Settings) -> None:
    receipt = erasure.erase(storage, post, "photo", home.photo.id)
    key = receipts.public_key(settings)
    assert receipts.verify(receipt.body, receipt.signature, key)
    assert not receipts.verify(receipt.body | {"objects": 99}, receipt.signature, key)
    assert not receipts.verify(
        receipt.body, receipt.signature, receipts.public_key(settings.model_copy(update={"var_dir": settings.var_dir / "x"}))
    )


def test_a_subject_goes_and_its_sibling_stays(storage: Storage, home: Household, post: FakePost) -> None:
    had = keys_left(storage, home.account)
    erasure.erase(storage, post, "subject", home.miso.id, home.account.id)
    left = keys_left(storage, home.account)
    assert len(had) == 9 and len(left) == 4
    assert not any(home.miso.id in key or home.adapter.id in key or home.portrait.id in key for key in left)
    with storage.db.reader() as session:
        assert session.scalars(select(Subject.name)).all() == ["Tofu"]
        assert session.scalars(select(Adapter.id)).all() == [home.other_adapter.id]
    assert (count(storage, Job), count(storage, Portrait), count(storage, PortraitImage)) == (2, 1, 1)
    named = [where for one in (home.miso.id, home.adapter.id, home.portrait.id, home.photo.id) for where in scan(storage, one)]
    assert [where for where in named if not where.startswith("tombstones/")] == []


def test_an_adapter_goes_with_its_portraits(storage: Storage, home: Household, post: FakePost) -> None:
    erasure.erase(storage, post, "adapter", home.adapter.id, home.account.id)
    assert not any(home.adapter.id in key or home.portrait.id in key for key in keys_left(storage, home.account))
    assert storage.objects.exists(home.photo.object_key)
    assert (count(storage, Adapter), count(storage, Portrait), count(storage, IdempotencyRecord)) == (1, 1, 1)


def test_programs_are_told_by_digest_and_the_message_that_named_it_goes(storage: Storage, home: Household, post: FakePost) -> None:
    receipt = erasure.erase(storage, post, "adapter", home.adapter.id, home.account.id)
    with storage.db.reader() as session:
        (told,) = session.scalars(select(WebhookDelivery))
    facts = {"target_sha256": sha256(home.adapter.id.encode()).hexdigest(), "receipt_id": receipt.id, "subject_id": home.miso.id}
    assert (told.event, told.payload["data"]) == ("adapter.erased", facts | {"urls": {"get": f"/v1/receipts/{receipt.id}"}})
    erasure.erase(storage, post, "subject", home.miso.id, home.account.id)
    with storage.db.reader() as session:
        assert [one.event for one in session.scalars(select(WebhookDelivery))] == ["subject.erased"]


def test_a_portrait_goes_alone(storage: Storage, home: Household, post: FakePost) -> None:
    erasure.erase(storage, post, "portrait", home.portrait.id, home.account.id)
    assert (count(storage, Portrait), count(storage, PortraitImage), count(storage, Adapter)) == (1, 1, 2)
    assert storage.objects.exists(home.adapter.object_key)


def test_a_photo_goes_with_what_trainings_kept_of_it(storage: Storage, home: Household, post: FakePost, world: World) -> None:
    erasure.erase(storage, post, "photo", home.photo.id, home.account.id)
    left = keys_left(storage, home.account)
    assert not any(home.photo.id in key or "latents" in key for key in left)
    assert storage.objects.exists(home.adapter.object_key)
    with storage.db.reader() as session:
        job = session.scalars(select(Job).where(Job.target_id == home.adapter.training_id)).one()
    assert job.cancel_requested


@pytest.mark.parametrize("scope", ["subject", "adapter", "portrait", "photo"])
def test_a_strangers_target_is_not_found_before_and_after(
    storage: Storage, home: Household, post: FakePost, world: World, scope: str
) -> None:
    stranger = world.account("eve@example.com").id
    target = {"subject": home.miso, "adapter": home.adapter, "portrait": home.portrait, "photo": home.photo}[scope].id

    def refused() -> None:
        with pytest.raises(UserError) as refusal:
            erasure.erase(storage, post, scope, target, stranger)
        assert refusal.value.status == 404

    refused()
    assert count(storage, Subject) == 2 and len(keys_left(storage, home.account)) == 9
    erasure.erase(storage, post, scope, target, home.account.id)
    refused()
    with pytest.raises(UserError):
        erasure.erase(storage, post, "account", home.account.id, stranger)


def test_what_a_worker_stores_too_late_is_swept(storage: Storage, home: Household, post: FakePost, world: World) -> None:
    """The erasure comes in the middle of a training; the worker's last upload was already on its way."""
    with storage.db.reader() as session:
        job = session.scalars(select(Job).where(Job.target_id == home.adapter.training_id)).one()
    late = keys.adapter_weights(home.account.id, "ada_late")

    def work(lease: Lease) -> None:
        erasure.erase(storage, post, "account", home.account.id)
        storage.objects.put(late, b"already on its way")
        with pytest.raises(LeaseLost):
            lease.put(keys.adapter_card(home.account.id, "ada_late"), b"{}")
        with lease.succeed():
            pass

    assert jobs.run(storage, job.id, "worker", work) == "stepped back"
    assert keys_left(storage, home.account) == [late]
    assert erasure.sweep_again(storage) == 0  # not yet a minute
    _age(storage, home.account.id, swept_at=timedelta(minutes=2))
    assert scheduler.tick(storage, post)["late_objects_erased"] == 1
    post.sent.clear()
    assert scan(storage, home.account.id, EMAIL, post) == []


def test_after_an_hour_the_erasure_itself_is_forgotten(storage: Storage, home: Household, post: FakePost) -> None:
    erasure.erase(storage, post, "account", home.account.id)
    _age(storage, home.account.id, finished_at=timedelta(hours=2), swept_at=timedelta(hours=2))
    erasure.sweep_again(storage)
    assert count(storage, Erasure) == 0
    assert count(storage, Receipt) == 1


def test_an_erasure_that_the_store_interrupted_is_finished_by_the_scheduler(storage: Storage, home: Household, post: FakePost) -> None:
    had = keys_left(storage, home.account)
    broken = replace(storage, objects=_DownWhenErasing(storage))  # type: ignore[arg-type]
    with pytest.raises(ServiceDown):
        erasure.erase(broken, post, "account", home.account.id)
    assert count(storage, Account) == 0, "nothing is reachable any more"
    assert keys_left(storage, home.account) == had
    assert scheduler.tick(storage, post)["erasures_resumed"] == 0  # the first one may still be at it
    _age(storage, home.account.id, started_at=timedelta(minutes=2))
    assert scheduler.tick(storage, post)["erasures_resumed"] == 1
    receipt = erasure.erase(storage, post, "account", home.account.id, home.account.id)
    said_farewell(storage, post, receipt)
    assert scan(storage, home.account.id, EMAIL, post) == []
    assert receipt.body["object_key_sha256"] == sorted(map(key_digest, had))


def test_what_is_just_ending_leaves_no_mail_behind(storage: Storage, home: Household, post: FakePost) -> None:
    """The job's row is locked by its ending, whose mail no other transaction sees yet, when the erasure comes."""
    with ThreadPoolExecutor(1) as other:
        with storage.db.session() as session:
            job = session.scalars(select(Job).where(Job.target_id == home.adapter.training_id)).one()
            assert endings.fail(session, job, Job.id == job.id, "job/failed", "Only 4 photos show the cat.")
            erasing = other.submit(erasure.erase, storage, post, "subject", home.miso.id)
            sleep(0.5)
            assert not erasing.done()
        erasing.result(30)
    assert scan(storage, home.miso.id) + scan(storage, job.id) + scan(storage, job.target_id) == []


@pytest.mark.parametrize("scope", ["subject", "adapter"])
def test_a_portrait_that_is_just_being_asked_for_goes_too(storage: Storage, home: Household, post: FakePost, scope: str) -> None:
    target = {"subject": home.miso.id, "adapter": home.adapter.id}[scope]
    with ThreadPoolExecutor(1) as other:
        with storage.db.session() as session:
            portrait, job = portraits.create(session, storage.settings, home.account.id, adapter_id=home.adapter.id, prompt="on a sofa")
            erasing = other.submit(erasure.erase, storage, post, scope, target)
            sleep(0.5)
            assert not erasing.done()
        erasing.result(30)
    assert scan(storage, portrait.id) + scan(storage, job.id) == []


def test_two_requests_at_once_get_one_receipt(storage: Storage, home: Household, post: FakePost) -> None:
    """On PostgreSQL the second waits for the first one's lock, and then finds its target gone."""
    had = keys_left(storage, home.account)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: erasure.erase(storage, post, "account", home.account.id, home.account.id), range(4)))
    assert len({(receipt.id, receipt.signature) for receipt in found}) == 1
    assert found[0].body["object_key_sha256"] == sorted(map(key_digest, had)) and found[0].body["object_versions"] == len(had)
    mails.deliver_due(storage, post)
    assert [template for _, template, _ in post.sent] == ["account_erased"]


def test_late_messages_are_swept_like_late_objects(storage: Storage, home: Household, post: FakePost) -> None:
    erasure.erase(storage, post, "subject", home.miso.id)
    with storage.db.session() as session:
        idempotency.begin(session, home.account.id, "late", "0" * 64)
        session.get_one(IdempotencyRecord, (home.account.id, "late")).body = home.miso.id.encode()
    assert scan(storage, home.miso.id) == [f"idempotency_records/{home.account.id}/late"]
    _age(storage, home.miso.id, swept_at=timedelta(minutes=2))
    assert erasure.sweep_again(storage) == 1
    assert scan(storage, home.miso.id) == []


def test_an_answer_of_before_the_erasure_is_not_remembered_after_it(storage: Storage, home: Household, post: FakePost) -> None:
    with storage.db.session() as session:
        for key in ("late", "other"):
            idempotency.begin(session, home.account.id, key, "0" * 64)
    erasure.erase(storage, post, "subject", home.miso.id)
    with storage.db.session() as session:
        idempotency.finish(session, home.account.id, "late", 201, f'{{"id": "{home.miso.id}"}}'.encode())
        idempotency.finish(session, home.account.id, "other", 201, b"{}")
    with storage.db.reader() as session:
        assert {row.key for row in session.scalars(select(IdempotencyRecord))} >= {"other"}
    assert scan(storage, home.miso.id) == []


def test_an_unknown_scope_is_a_programming_error(storage: Storage, post: FakePost) -> None:
    with pytest.raises(ValueError, match="scope"):
        erasure.erase(storage, post, "everything", "x")


def _age(storage: Storage, target_id: str, **ages: timedelta) -> None:
    with storage.db.session() as session:
        row = session.get_one(Erasure, target_id)
        for name, age in ages.items():
            setattr(row, name, now() - age)


class _DownWhenErasing:
    def __init__(self, storage: Storage) -> None:
        self.list: Callable[[str], Any] = storage.objects.list
        self.versions: Callable[[str], Any] = storage.objects.versions

    def erase(self, what: Any) -> Erased:
        raise ServiceDown("the object store does not answer")
