from __future__ import annotations

from datetime import timedelta

import pytest

from core.errors import UserError
from core.words import JobKind
from storage import idempotency, jobs
from storage.tables import Account, IdempotencyRecord, now
from storage.wiring import Storage
from tests.unit.storage.conftest import World


@pytest.fixture
def account(world: World) -> Account:
    return world.account()


def begin(storage: Storage, account: Account, body: bytes = b"{}", key: str = "k-1") -> IdempotencyRecord | None:
    with storage.db.session() as session:
        return idempotency.begin(session, account.id, key, idempotency.digest("POST", "/v1/trainings", body))


def test_the_repeat_gets_the_first_answer(storage: Storage, account: Account, world: World) -> None:
    assert begin(storage, account) is None
    with storage.db.session() as session:
        idempotency.finish(session, account.id, "k-1", 201, b'{"id":"trn_1"}')
    record = begin(storage, account)
    assert record is not None and (record.status, record.body) == (201, b'{"id":"trn_1"}')
    assert begin(storage, world.account("b@example.com")) is None


def test_another_body_under_the_same_key_is_refused(storage: Storage, account: Account) -> None:
    begin(storage, account)
    with pytest.raises(UserError) as refusal:
        begin(storage, account, b'{"seed":2}')
    assert refusal.value.type == "idempotency/other-request"


def test_a_repeat_while_the_first_runs_waits(storage: Storage, account: Account) -> None:
    begin(storage, account)
    with pytest.raises(UserError) as refusal:
        begin(storage, account)
    assert refusal.value.status == 409


def test_what_failed_or_was_abandoned_may_be_tried_again(storage: Storage, account: Account) -> None:
    begin(storage, account)
    with storage.db.session() as session:
        idempotency.forget(session, account.id, "k-1")
    assert begin(storage, account) is None
    with storage.db.session() as session:
        session.get_one(IdempotencyRecord, (account.id, "k-1")).created_at = now() - timedelta(minutes=2)
    assert begin(storage, account) is None


def test_what_was_made_is_not_made_again_even_if_the_answer_was_never_noted(storage: Storage, account: Account) -> None:
    begin(storage, account)
    with idempotency.acting(account.id, "k-1"), storage.db.session() as session:
        jobs.create(session, account.id, JobKind.PORTRAIT, "por_1")
    with storage.db.session() as session:
        idempotency.forget(session, account.id, "k-1")
        session.get_one(IdempotencyRecord, (account.id, "k-1")).created_at = now() - timedelta(minutes=2)
    record = begin(storage, account)
    assert record is not None and (record.status, record.target_id) == (None, "por_1")


def test_what_was_rolled_back_may_be_made(storage: Storage, account: Account) -> None:
    begin(storage, account)
    with pytest.raises(ZeroDivisionError), idempotency.acting(account.id, "k-1"), storage.db.session() as session:
        jobs.create(session, account.id, JobKind.PORTRAIT, "por_1")
        raise ZeroDivisionError
    with storage.db.session() as session:
        idempotency.forget(session, account.id, "k-1")
    assert begin(storage, account) is None


def test_a_job_outside_of_a_request_is_nobodys(storage: Storage, account: Account) -> None:
    begin(storage, account)
    with storage.db.session() as session:
        jobs.create(session, account.id, JobKind.PORTRAIT, "por_1")
        assert session.get_one(IdempotencyRecord, (account.id, "k-1")).target_id is None


def test_after_a_day_a_key_is_new(storage: Storage, account: Account) -> None:
    begin(storage, account)
    with storage.db.session() as session:
        idempotency.finish(session, account.id, "k-1", 201, b"{}")
        session.get_one(IdempotencyRecord, (account.id, "k-1")).created_at = now() - timedelta(hours=25)
    assert begin(storage, account) is None


@pytest.mark.parametrize("key", ["", "x" * 201])
def test_keys_have_a_length(storage: Storage, account: Account, key: str) -> None:
    with pytest.raises(UserError):
        begin(storage, account, key=key)
