from __future__ import annotations

from datetime import timedelta

import pytest

from core.errors import UserError
from storage import subjects
from storage.paging import page
from storage.tables import Subject, now
from storage.wiring import Storage
from tests.unit.storage.conftest import World


def fill(storage: Storage, account_id: str, names: list[str]) -> None:
    """Three share each moment, so that the id has to break ties."""
    with storage.db.session() as session:
        for n, name in enumerate(names):
            at = now() + timedelta(seconds=n // 3)
            session.add(
                Subject(
                    id=f"sub_{name}", account_id=account_id, name=name, kind="cat", class_word="cat", created_at=at.replace(microsecond=0)
                )
            )


def test_pages_meet_without_gap_or_overlap_while_rows_are_added(storage: Storage, world: World) -> None:
    account = world.account()
    fill(storage, account.id, [f"{n:02}" for n in range(10)])
    seen: list[str] = []
    cursor: str | None = None
    for number in range(10):
        with storage.db.reader() as session:
            found = page(session, subjects.of_account(account.id), 4, cursor)
        seen += [subject.name for subject in found.items]
        cursor = found.next_cursor
        if cursor is None:
            break
        if number == 0:
            with storage.db.session() as session:
                newer = now() + timedelta(days=1)
                session.add(Subject(id="sub_new", account_id=account.id, name="new", kind="cat", class_word="cat", created_at=newer))
    assert seen == ["09", "08", "07", "06", "05", "04", "03", "02", "01", "00"]


def test_another_account_sees_nothing(storage: Storage, world: World) -> None:
    fill(storage, world.account().id, ["a"])
    with storage.db.reader() as session:
        found = page(session, subjects.of_account(world.account("b@example.com").id))
    assert (found.items, found.next_cursor) == ([], None)


@pytest.mark.parametrize("cursor", ["x", "é", "AAAA", "MjAyNg=="])
def test_a_cursor_that_we_did_not_give(storage: Storage, cursor: str) -> None:
    with storage.db.reader() as session, pytest.raises(UserError) as refusal:
        page(session, subjects.of_account("acc"), 10, cursor)
    assert refusal.value.status == 400


def test_limits_are_held(storage: Storage, world: World) -> None:
    account = world.account()
    fill(storage, account.id, ["a", "b"])
    with storage.db.reader() as session:
        assert len(page(session, subjects.of_account(account.id), -5).items) == 1
        assert len(page(session, subjects.of_account(account.id), 10**9).items) == 2
