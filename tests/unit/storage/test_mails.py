from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import select

from core.errors import ServiceDown
from core.settings import Settings
from storage import accounts, mails, outgoing, webhook_sending
from storage.tables import Mail, now
from storage.wiring import Storage
from tests.unit.storage.conftest import FakePost, World


def enqueue(storage: Storage, key: str = "done:1", account_id: str | None = None) -> Mail:
    with storage.db.session() as session:
        return mails.enqueue(session, "ada@example.com", "training_done", {"subject_id": "sub_1"}, key, account_id)


def row(storage: Storage) -> Mail:
    with storage.db.reader() as session:
        return session.scalars(select(Mail)).one()


def make_due(storage: Storage) -> None:
    with storage.db.session() as session:
        session.scalars(select(Mail)).one().next_attempt_at = now()


def test_one_mail_for_one_event(storage: Storage, world: World, post: FakePost) -> None:
    account = world.account()
    assert enqueue(storage, account_id=account.id).id == enqueue(storage, account_id=account.id).id
    assert mails.deliver_due(storage, post) == 1
    enqueue(storage, account_id=account.id)
    assert mails.deliver_due(storage, post) == 0
    assert post.sent == [("ada@example.com", "training_done", {"subject_id": "sub_1"})]


def test_a_sent_mail_keeps_no_words(storage: Storage, world: World, post: FakePost) -> None:
    enqueue(storage, account_id=world.account().id)
    mails.deliver_due(storage, post)
    assert row(storage).sent_at is not None
    assert row(storage).context == {}


def test_a_mail_of_no_account_leaves_no_row(storage: Storage, post: FakePost) -> None:
    enqueue(storage)
    assert mails.deliver_due(storage, post) == 1
    with storage.db.reader() as session:
        assert session.scalars(select(Mail)).all() == []


def test_several_senders_send_it_once(storage: Storage, world: World, post: FakePost) -> None:
    account = world.account()
    for n in range(10):
        enqueue(storage, f"done:{n}", account.id)
    with ThreadPoolExecutor(4) as pool:
        counts = list(pool.map(lambda _: mails.deliver_due(storage, post), range(4)))
    assert sum(counts) == len(post.sent) == 10


def test_a_server_that_is_down_is_tried_again_later_and_later(storage: Storage, world: World, post: FakePost) -> None:
    enqueue(storage, account_id=world.account().id)
    post.fails_with = ServiceDown("the mail server does not answer")
    waits = []
    for _ in range(3):
        make_due(storage)
        assert mails.deliver_due(storage, post) == 0
        waits.append((row(storage).next_attempt_at - now()) / timedelta(seconds=1))
    assert 9 < waits[0] < 11 and 19 < waits[1] < 21 and 39 < waits[2] < 41
    assert "does not answer" in row(storage).last_error
    post.fails_with = None
    make_due(storage)
    assert mails.deliver_due(storage, post) == 1


def test_two_transactions_that_tell_the_same_queue_one_mail(storage: Storage, world: World, post: FakePost) -> None:
    account = world.account()
    with ThreadPoolExecutor(8) as pool:
        queued = list(pool.map(lambda _: enqueue(storage, "done:1", account.id).id, range(8)))
    assert len(set(queued)) == 1
    assert mails.deliver_due(storage, post) == 1


def test_a_sender_that_was_overtaken_writes_nothing(storage: Storage, world: World, post: FakePost) -> None:
    """It was held up for longer than its time; another sender took the mail over and is at it."""
    enqueue(storage, account_id=world.account().id)
    first, second = mails.due(storage)[0], mails.due(storage)[0]
    assert outgoing.take(storage, first, 0)
    assert not outgoing.take(storage, second, 0)
    (second,) = mails.due(storage)
    assert outgoing.take(storage, second, 60)
    assert not outgoing.note(storage, first, failed_at=now())
    assert outgoing.note(storage, second, sent_at=now())


def test_it_is_given_up_at_last(storage: Storage, world: World, post: FakePost) -> None:
    enqueue(storage, account_id=world.account().id)
    post.fails_with = ServiceDown("down")
    for _ in range(outgoing.most_attempts(storage.settings, mails.BACKOFF)):
        assert row(storage).failed_at is None
        make_due(storage)
        mails.deliver_due(storage, post)
    assert row(storage).failed_at is not None
    assert mails.due(storage) == []


def test_a_mail_that_never_can_be_sent_does_not_hold_up_the_others(storage: Storage, world: World, post: FakePost) -> None:
    account = world.account()
    enqueue(storage, "done:bad", account.id)
    post.fails_with = KeyError("template")
    mails.deliver_due(storage, post)
    assert row(storage).failed_at is not None
    post.fails_with = None
    enqueue(storage, "done:good", account.id)
    assert mails.deliver_due(storage, post) == 1


@pytest.mark.parametrize(("backoff", "longest_pause_h"), [(mails.BACKOFF, 1), (webhook_sending.BACKOFF, 6)])
def test_an_outage_of_days_is_outlasted(settings: Settings, backoff: outgoing.Backoff, longest_pause_h: float) -> None:
    waits = [backoff.wait_s(n) for n in range(1, outgoing.most_attempts(settings, backoff))]
    assert 3 * 86400 <= sum(waits) < 3 * 86400 + longest_pause_h * 3600
    assert sum(waits[:3]) < 120, "a server that restarts is asked again soon"
    assert max(waits) == longest_pause_h * 3600
    patient = settings.model_copy(update={"messages_retried_days": 10.0})
    assert outgoing.most_attempts(patient, backoff) > len(waits) * 2


def test_a_sign_in_link_that_has_expired_is_not_sent(storage: Storage, post: FakePost) -> None:
    with storage.db.session() as session:
        accounts.request_sign_in(session, "ada@example.com", 900)
    post.fails_with = ServiceDown("down")
    mails.deliver_due(storage, post)
    post.fails_with = None
    with storage.db.session() as session:
        mail = session.scalars(select(Mail)).one()
        mail.next_attempt_at, mail.created_at = now(), now() - timedelta(minutes=16)
    assert mails.deliver_due(storage, post) == 0 and post.sent == []
    with storage.db.reader() as session:
        assert session.scalars(select(Mail)).all() == [], "it belonged to no account, and kept an address"
