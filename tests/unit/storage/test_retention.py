"""Customers are told first, things go by the same erasure as on request, and what is used again stays."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, update

from core.settings import Settings
from storage import accounts, jobs, keys, mails, receipts, retention, scheduler, webhooks
from storage import retention_rules as rules
from storage.jobs import Lease
from storage.remains import scan
from storage.tables import (
    Account,
    Adapter,
    Job,
    Mail,
    Photo,
    Portrait,
    Receipt,
    RetentionNotice,
    Subject,
    WebhookDelivery,
    now,
)
from storage.wiring import Storage
from tests.unit.storage.conftest import FakePost, World

DAY = timedelta(days=1)


@pytest.fixture
def subject(storage: Storage, world: World) -> Subject:
    """Trained 25 days ago on two photos; an adapter came of it."""
    subject = world.subject(world.account())
    for _ in range(2):
        world.photo(subject)
    training, job = world.training(subject)
    world.adapter(training)
    storage.objects.put(keys.training_prefix(subject.account_id, subject.id, training.id) + "preview.png", b"preview")
    end(storage, job)
    age(storage, Photo, created_at=26 * DAY)
    age(storage, Job, completed_at=25 * DAY)
    return subject


def end(storage: Storage, job: Job) -> None:
    def work(lease: Lease) -> None:
        with lease.succeed():
            pass

    assert jobs.run(storage, job.id, "worker", work) == "succeeded"


def age(storage: Storage, table: Any, **columns: timedelta) -> None:
    with storage.db.session() as session:
        session.execute(update(table).values({name: now() - by for name, by in columns.items()}))


def all_of(storage: Storage, table: Any) -> list[Any]:
    with storage.db.reader() as session:
        return list(session.scalars(select(table)))


def templates(storage: Storage) -> list[str]:
    return sorted(mail.template for mail in all_of(storage, Mail))


def the_time_has_come(storage: Storage) -> None:
    age(storage, RetentionNotice, erase_after=timedelta(0))


def goes_at(storage: Storage, subject: Subject) -> Any:
    with storage.db.reader() as session:
        return rules.photos_go_at(session, storage.settings, [subject.id]).get(subject.id)


def test_told_a_week_before(storage: Storage, subject: Subject, settings: Settings) -> None:
    with storage.db.session() as session:
        webhooks.create(session, subject.account_id, "https://example.com")
    assert (retention.announce(storage), retention.announce(storage)) == (1, 0)
    (notice,) = all_of(storage, RetentionNotice)
    assert abs(notice.erase_after - (now() + 7 * DAY)) < timedelta(minutes=1)
    (mail,) = all_of(storage, Mail)
    day = f"{notice.erase_after.day} {notice.erase_after:%B %Y}"
    assert (mail.to, mail.template) == ("ada@example.com", "photos_expiring")
    assert mail.context == {"subject_id": subject.id, "subject_name": "Miso", "date": day}
    (delivery,) = all_of(storage, WebhookDelivery)
    assert (delivery.event, delivery.payload["data"]["subject_id"]) == ("photos.expiring", subject.id)
    assert goes_at(storage, subject) == notice.erase_after
    assert retention.expire(storage, FakePost()) == 0
    assert len(all_of(storage, Photo)) == 2


def test_not_told_too_early(storage: Storage, subject: Subject) -> None:
    age(storage, Job, completed_at=22 * DAY)
    assert retention.announce(storage) == 0
    assert abs(goes_at(storage, subject) - (now() + 8 * DAY)) < timedelta(minutes=1)


def test_after_a_long_pause_of_the_scheduler_there_is_still_a_whole_week(storage: Storage, subject: Subject) -> None:
    age(storage, Job, completed_at=300 * DAY)
    age(storage, Photo, created_at=300 * DAY)
    expected = now() + 7 * DAY
    assert abs(goes_at(storage, subject) - expected) < timedelta(minutes=1)
    retention.announce(storage)
    assert abs(all_of(storage, RetentionNotice)[0].erase_after - expected) < timedelta(minutes=1)


def test_photos_go_and_adapter_and_subject_stay(storage: Storage, subject: Subject, settings: Settings, post: FakePost) -> None:
    retention.announce(storage)
    the_time_has_come(storage)
    assert scheduler.tick(storage, post)["expired"] == 1
    left = list(storage.objects.versions(keys.account_prefix(subject.account_id)))
    assert len(left) == 1 and left[0].endswith("adapter.safetensors")
    assert (all_of(storage, Photo), len(all_of(storage, Adapter)), len(all_of(storage, Subject))) == ([], 1, 1)
    (receipt,) = all_of(storage, Receipt)
    assert receipts.verify(receipt.body, receipt.signature, receipts.public_key(settings))
    assert (receipt.scope, receipt.body["rows"]["photos"], receipt.body["objects"]) == ("photos", 2, 5)
    assert templates(storage) == ["photos_erased"], "the announcement, which named the notice, is gone"
    (mail,) = all_of(storage, Mail)
    assert mail.context == {"count": 2, "receipt_id": receipt.id, "subject_id": subject.id, "subject_name": "Miso"}
    assert (all_of(storage, RetentionNotice), retention.expire(storage, post), retention.announce(storage)) == ([], 0, 0)
    assert goes_at(storage, subject) is None


def _upload(storage: Storage, world: World, subject: Subject) -> None:
    world.photo(subject)


def _train(storage: Storage, world: World, subject: Subject) -> None:
    end(storage, world.training(subject)[1])


def _start(storage: Storage, world: World, subject: Subject) -> None:
    world.training(subject)


@pytest.mark.parametrize("use", [_upload, _train, _start])
def test_what_is_used_again_stays(
    storage: Storage, world: World, subject: Subject, post: FakePost, use: Callable[[Storage, World, Subject], None]
) -> None:
    retention.announce(storage)
    use(storage, world, subject)
    if use is not _start:
        assert goes_at(storage, subject) > now() + 29 * DAY
    the_time_has_come(storage)
    before = len(all_of(storage, Photo))
    assert retention.expire(storage, post) == 0
    assert len(all_of(storage, Photo)) == before
    assert (all_of(storage, RetentionNotice), all_of(storage, Receipt), retention.announce(storage)) == ([], [], 0)
    with storage.db.reader() as session:
        assert session.scalar(select(func.count()).where(Job.cancel_requested)) == 0


def test_photos_that_were_never_trained_on_go_by_their_upload(storage: Storage, world: World) -> None:
    subject = world.subject(world.account())
    world.photo(subject)
    world.subject(world.account("bo@example.com"))  # without photos: nothing to go
    age(storage, Photo, created_at=24 * DAY)
    assert retention.announce(storage) == 1
    assert all_of(storage, RetentionNotice)[0].target_id == subject.id


def test_a_training_under_way_keeps_the_photos(storage: Storage, world: World, subject: Subject) -> None:
    world.training(subject, "xikvex")
    assert (retention.announce(storage), goes_at(storage, subject)) == (0, None)


def test_several_schedulers_tell_and_erase_once(storage: Storage, subject: Subject, post: FakePost) -> None:
    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(lambda _: retention.announce(storage), range(4))) == 1
        the_time_has_come(storage)
        list(pool.map(lambda _: retention.expire(storage, post), range(4)))
    assert (len(all_of(storage, Receipt)), all_of(storage, Photo)) == (1, [])
    assert templates(storage) == ["photos_erased"]
    assert all_of(storage, Receipt)[0].body["objects"] == 5


def test_a_notice_goes_with_its_subject(storage: Storage, subject: Subject, post: FakePost) -> None:
    retention.announce(storage)
    retention.erase(storage, post, "subject", subject.id)
    assert (all_of(storage, RetentionNotice), templates(storage)) == ([], [])


def set_days(storage: Storage, **days: int) -> None:
    for name, value in days.items():
        setattr(storage.settings, name, value)


@pytest.fixture
def portraits(storage: Storage, world: World) -> dict[str, Portrait]:
    adapter = world.adapter(world.training(world.subject(world.account()))[0])
    made = {name: world.portrait(adapter) for name in ("old", "newer")}
    with storage.db.session() as session:
        session.execute(update(Job).values(state="succeeded", completed_at=now()))
        session.execute(update(Job).where(Job.target_id == made["old"].id).values(completed_at=now() - 400 * DAY))
    return made


def test_portraits_and_accounts_are_kept_by_default(storage: Storage, portraits: dict[str, Portrait], post: FakePost) -> None:
    age(storage, Account, last_seen_at=4000 * DAY)
    assert (retention.announce(storage), retention.expire(storage, post)) == (0, 0)


def test_old_portraits_go_and_newer_ones_stay(storage: Storage, portraits: dict[str, Portrait], post: FakePost) -> None:
    set_days(storage, portraits_kept_days=365)
    assert (retention.announce(storage), retention.announce(storage)) == (1, 0)
    (mail,) = all_of(storage, Mail)
    assert (mail.template, mail.context["count"]) == ("portraits_expiring", 1)
    the_time_has_come(storage)
    assert retention.expire(storage, post) == 1
    assert [row.id for row in all_of(storage, Portrait)] == [portraits["newer"].id]
    assert not list(storage.objects.versions(keys.portrait_prefix(portraits["old"].account_id, portraits["old"].id)))
    assert (templates(storage), all_of(storage, Receipt)[0].scope) == (["portraits_erased"], "portraits")
    assert retention.announce(storage) == 0


@pytest.fixture
def idle(storage: Storage, world: World, subject: Subject) -> Account:
    set_days(storage, idle_account_days=365, photos_kept_days=0)
    for table, column in ((Job, "created_at"), (Job, "completed_at"), (Photo, "created_at"), (Account, "last_seen_at")):
        age(storage, table, **{column: 400 * DAY})
    return all_of(storage, Account)[0]


def test_an_idle_account_is_told_and_goes_whole(storage: Storage, idle: Account, post: FakePost) -> None:
    assert (retention.announce(storage), templates(storage)) == (1, ["account_expiring"])
    the_time_has_come(storage)
    assert retention.expire(storage, post) == 1
    mails.deliver_due(storage, post)
    assert [(to, template) for to, template, _ in post.sent] == [(idle.email, "account_erased")]
    post.sent.clear()
    assert scan(storage, idle.id, idle.email, post) == []


def _sign_in(storage: Storage, account: Account) -> None:
    with storage.db.session() as session:
        accounts.consume_sign_in(session, accounts.request_sign_in(session, account.email))


def _use_key(storage: Storage, account: Account) -> None:
    with storage.db.session() as session:
        accounts.touch_api_key(session, accounts.create_api_key(session, account.id, "laptop")[1])


@pytest.mark.parametrize("use", [_sign_in, _use_key])
def test_an_account_that_is_used_again_stays(
    storage: Storage, idle: Account, post: FakePost, use: Callable[[Storage, Account], None]
) -> None:
    retention.announce(storage)
    use(storage, idle)
    the_time_has_come(storage)
    assert retention.expire(storage, post) == 0
    assert (len(all_of(storage, Account)), all_of(storage, RetentionNotice)) == (1, [])
    assert retention.announce(storage) == 0, "it is in use"


def test_a_schedule_that_is_off_erases_nothing(storage: Storage, subject: Subject, post: FakePost) -> None:
    set_days(storage, photos_kept_days=0)
    assert (retention.announce(storage), goes_at(storage, subject)) == (0, None)
