from __future__ import annotations

import threading

import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError

from core.errors import ServiceDown
from storage.database import Database
from storage.tables import Account, Subject
from storage.wiring import Storage


def test_an_error_rolls_back(storage: Storage) -> None:
    with pytest.raises(ZeroDivisionError), storage.db.session() as session:
        session.add(Account(id="acc_1", email="a@b.c"))
        session.flush()
        raise ZeroDivisionError
    with storage.db.reader() as session:
        assert session.get(Account, "acc_1") is None


def test_foreign_keys_hold(storage: Storage) -> None:
    with pytest.raises(IntegrityError), storage.db.session() as session:
        session.add(Subject(id="s", account_id="nobody", name="x", kind="cat", class_word="cat"))


def test_an_error_keeps_to_itself_what_was_written(storage: Storage) -> None:
    """Its text goes to the log."""
    with pytest.raises(IntegrityError) as refusal, storage.db.session() as session:
        session.add(Subject(id="s", account_id="nobody", name="Ada in bed", kind="cat", class_word="cat"))
    assert "FOREIGN KEY" in str(refusal.value).upper() and "Ada in bed" not in str(refusal.value)


def test_threads_that_read_then_write_never_meet_a_locked_database(storage: Storage) -> None:
    """Each reads the count and writes it back: a lost update or «database is locked» would show."""
    with storage.db.session() as session:
        session.add(Account(id="acc_1", email="0"))
    errors: list[BaseException] = []

    def add_ten() -> None:
        try:
            for _ in range(10):
                with storage.db.session() as session:
                    account = session.get_one(Account, "acc_1")
                    account.email = str(int(account.email) + 1)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=add_ten) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    with storage.db.reader() as session:
        assert session.scalar(select(Account.email)) == "60"


def test_a_reader_does_not_wait_for_a_writer(storage: Storage) -> None:
    with storage.db.session() as writer:
        writer.add(Account(id="acc_1", email="a@b.c"))
        writer.flush()
        with storage.db.reader() as reader:
            assert reader.scalar(select(func.count()).select_from(Account)) == 0


def test_a_server_that_is_down_is_named() -> None:
    down = Database("postgresql+psycopg://nobody@127.0.0.1:1/nothing")
    with pytest.raises(ServiceDown, match="database"), down.session() as session:
        session.execute(select(1))


def test_erased_words_leave_the_files_too(storage: Storage) -> None:
    """Free pages are overwritten and the log is emptied."""
    with storage.db.session() as session:
        session.add(Account(id="acc_1", email="unforgettable@example.com"))
    assert word_in_files(storage)
    with storage.db.session() as session:
        session.delete(session.get_one(Account, "acc_1"))
    storage.db.forget_erased_pages()
    assert not word_in_files(storage)


def word_in_files(storage: Storage) -> bool:
    files = list(storage.settings.var_dir.glob("likeness.db*"))
    assert files
    return any(b"unforgettable" in path.read_bytes() for path in files)
