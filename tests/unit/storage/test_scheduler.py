from __future__ import annotations

from datetime import timedelta

from sqlalchemy import func, select

from core.settings import Settings
from storage import accounts, idempotency, photos, scheduler, webhooks
from storage.tables import Account, IdempotencyRecord, Job, Mail, SignInToken, Upload, WebhookDelivery, WebSession, now
from storage.wiring import Storage
from tests.unit.storage.conftest import FakePost, World


def test_an_idle_pass_does_nothing(storage: Storage, post: FakePost) -> None:
    assert set(scheduler.tick(storage, post).values()) == {0}


def test_what_has_had_its_time_goes_and_the_rest_stays(storage: Storage, world: World, settings: Settings, post: FakePost) -> None:
    account = world.account()
    subject = world.subject(account)
    ages = {"old": timedelta(days=60), "new": timedelta()}
    with storage.db.session() as session:
        webhook = webhooks.create(session, account.id, "https://example.com/")
        for name, age in ages.items():
            at = now() - age
            session.add(SignInToken(token_hash=name, email="a@b.c", created_at=at, expires_at=at + timedelta(minutes=15)))
            session.add(WebSession(token_hash=name, account_id=account.id, expires_at=at + timedelta(days=30)))
            idempotency.begin(session, account.id, name, "0" * 64)
            session.get_one(IdempotencyRecord, (account.id, name)).created_at = at
            session.add(Mail(id=name, account_id=account.id, to="a@b.c", template="x", dedupe_key=name, sent_at=at))
            session.add(Mail(id=f"{name} dead", account_id=account.id, to="a@b.c", template="x", dedupe_key=f"{name} dead", failed_at=at))
            for ended in ({"delivered_at": at}, {"failed_at": at}, {"next_attempt_at": now() + timedelta(days=1)}):
                row = {"id": f"{name} {next(iter(ended))}"[:40], "account_id": account.id, "webhook_id": webhook.id}
                session.add(WebhookDelivery(**row, event="x", created_at=at, **ended))
            upload = photos.new_upload(session, settings, account.id, subject.id, name)
            upload.expires_at = at + timedelta(minutes=15)
            storage.objects.put(upload.object_key, b"unfinished")
    assert scheduler.tick(storage, post)["purged"] == 8
    with storage.db.reader() as session:
        tables = (SignInToken, WebSession, IdempotencyRecord, Mail, Upload, WebhookDelivery)
        left = [session.scalar(select(func.count()).select_from(table)) for table in tables]
    assert left == [1, 1, 1, 2, 1, 4], "of deliveries also the one that is still being tried"
    assert len(list(storage.objects.list(f"accounts/{account.id}/"))) == 1


def test_a_chore_that_fails_does_not_stop_the_others(storage: Storage, world: World, post: FakePost) -> None:
    """The broker does not run here, and a mail waits all the same."""
    _, job = world.training(world.subject(world.account()))
    with storage.db.session() as session:
        accounts.request_sign_in(session, "new@example.com")
        session.get_one(Job, job.id).lease_until = now() - timedelta(seconds=1)
        session.get_one(Job, job.id).state = "processing"
    counts = scheduler.tick(storage, post)
    assert (counts["requeued"], counts["published"], counts["mails_sent"]) == (1, 0, 1)
    with storage.db.reader() as session:
        assert session.scalars(select(Account.email)).all() == ["ada@example.com"]
