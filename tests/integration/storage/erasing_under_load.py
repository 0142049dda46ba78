"""The tests of erasure under load, for any store and database: each place brings its own ``storage`` fixture."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
import structlog
from sqlalchemy import func, select

from core.words import JobState
from storage import erasure, keys, webhooks
from storage.remains import scan
from storage.tables import Account, Adapter, Base, Erasure, Job, Photo, Portrait, Receipt, Subject
from storage.wiring import Storage
from tests.integration.storage.load import Load
from tests.logging_kept import logs_as_they_were
from tests.receiver import receiving
from tests.unit.storage.conftest import FakePost, World

SETTINGS: dict[str, Any] = {
    "min_photos": 1,
    "max_photos": 10_000,
    "lease_s": 20,
    "broker_url": "redis://127.0.0.1:1/0",
    "webhooks_allow_private": True,
}
WITHIN_S = 150.0


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Late objects are swept each minute; here, twice a second. A busy machine may take its time to store what is under way."""
    monkeypatch.setattr(erasure, "SWEPT_EVERY", timedelta(seconds=0.5))
    monkeypatch.setattr(erasure, "SETTLES_WITHIN_S", WITHIN_S)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Thousands of jobs end well here; a failure's report should be about what did not."""
    with logs_as_they_were():
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
        yield


@pytest.fixture
def accounts(storage: Storage, world: World) -> list[Account]:
    """The one that will be erased, and a neighbour. Each has three subjects, one of them trained."""
    made = [world.account("ada@example.com"), world.account("bo@example.com")]
    for account in made:
        for name in ("Miso", "Tofu", "Nori"):
            world.photo(world.subject(account, name))
    return made


@pytest.fixture
def load(storage: Storage, accounts: list[Account]) -> Iterator[Load]:
    """Running. After the test, nobody has seen a fault."""
    load = Load(storage, FakePost())
    with receiving() as receiver:
        with storage.db.session() as session:
            for account in accounts:
                webhooks.create(session, account.id, receiver.url)
        with load.running(accounts):
            eventually(lambda: min(load.outcomes[account.id, "succeeded"] for account in accounts) > 3)
            yield load
    assert not load.faults, load.faults


def eventually(holds: Callable[[], Any]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.05)


def one_of(storage: Storage, table: Any, account: Account) -> str:
    """The newest: the one that is most likely under way."""
    found: list[str] = []

    def there_is_one() -> bool:
        with storage.db.reader() as session:
            found[:] = session.scalars(select(table.id).where(table.account_id == account.id).order_by(table.created_at.desc()).limit(1))
        return bool(found)

    eventually(there_is_one)
    return found[0]


def erase_twice(storage: Storage, load: Load, scope: str, target_id: str, account: Account) -> Receipt:
    """Two requests at the same moment, and one afterwards: one receipt."""
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: erasure.erase(storage, load.post, scope, target_id, account.id), range(2)))
    again = erasure.erase(storage, load.post, scope, target_id, account.id)
    assert {(one.id, one.signature) for one in both} == {(again.id, again.signature)}
    return again


def named(storage: Storage, account: Account, target_id: str) -> list[str]:
    """Rows and stored versions that name an erased part; tombstones are there to name it."""
    rows = [where for where in scan(storage, target_id) if not where.startswith("tombstones/")]
    return rows + [key for key in storage.objects.versions(keys.account_prefix(account.id)) if target_id in key]


@pytest.mark.parametrize(("scope", "table"), [("photo", Photo), ("portrait", Portrait), ("adapter", Adapter), ("subject", Subject)])
def test_nothing_of_a_part_is_left_while_everything_goes_on(
    storage: Storage, load: Load, accounts: list[Account], scope: str, table: Any
) -> None:
    account = accounts[0]
    target = one_of(storage, table, account)
    erase_twice(storage, load, scope, target, account)
    assert named(storage, account, target) == [], "the receipt says that it is gone"
    done = load.outcomes[account.id, "succeeded"]
    eventually(lambda: load.outcomes[account.id, "succeeded"] > done + 3)
    assert named(storage, account, target) == [], "something came back"


def test_nothing_of_the_account_is_left_and_the_neighbour_lost_nothing(storage: Storage, load: Load, accounts: list[Account]) -> None:
    account, neighbour = accounts
    receipt = erase_twice(storage, load, "account", account.id, account)
    assert list(storage.objects.versions(keys.account_prefix(account.id))) == [], "the receipt says that they are gone"
    eventually(lambda: _only_the_mailbox(storage, load, account))
    done = load.outcomes[neighbour.id, "succeeded"]
    eventually(lambda: load.outcomes[neighbour.id, "succeeded"] > done + 5)
    assert _only_the_mailbox(storage, load, account), "something came back"
    assert [template for to, template, _ in load.post.sent if to == account.email][-1] == "account_erased"
    assert receipt.body["objects"] > 10 and receipt.body["rows"]["jobs"] >= 4
    with storage.db.reader() as session:
        tables = [table for table in Base.metadata.sorted_tables if "account_id" in table.c and table.name != "erasures"]
        owners = {owner for table in tables for owner in session.scalars(select(table.c.account_id))}
        assert account.id not in owners and neighbour.id in owners
        ended = set(session.scalars(select(Job.state).where(Job.completed_at.is_not(None))))
        assert ended == {JobState.SUCCEEDED}, "no job of the neighbour's failed"
        assert session.scalar(select(func.count()).select_from(Erasure).where(Erasure.finished_at.is_(None))) == 0
        keys_of_rows = {adapter.object_key for adapter in session.scalars(select(Adapter))}
    assert keys_of_rows <= set(storage.objects.list(keys.account_prefix(neighbour.id)))


def _only_the_mailbox(storage: Storage, load: Load, account: Account) -> bool:
    """The last mail is the customer's own; everything else is gone."""
    return scan(storage, account.id, account.email) == [] and any(template == "account_erased" for _, template, _ in load.post.sent)
