"""One mail for one event over a real SMTP server, also when the sender is killed between sending and noting it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from email import message_from_bytes, policy
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from sqlalchemy import select, update

from core.settings import Settings
from mail.post import Post
from storage import mails
from storage.tables import Mail, now
from storage.wiring import Storage
from tests.unit.storage.conftest import World

SENDER = """
import os, signal, sys
from core.settings import Settings
from mail.post import Post
from storage import mails
from storage.wiring import open_storage
settings = Settings(_env_file=None, **eval(sys.argv[1]))
mails._note_sent = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # the server has it, and nobody writes that down
mails.deliver_due(open_storage(settings), Post(settings))
"""


class Inbox:
    def __init__(self) -> None:
        self.mails: list[Any] = []
        self.answer = "250 OK"
        self.url = ""

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        if self.answer.startswith("2"):
            self.mails.append(message_from_bytes(envelope.content, policy=policy.default))
        return self.answer


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    inbox = Inbox()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        inbox_port = probe.getsockname()[1]
    server = Controller(inbox, hostname="127.0.0.1", port=inbox_port)
    server.start()
    inbox.url = f"smtp://127.0.0.1:{inbox_port}?tls=none"
    yield inbox
    server.stop()


@pytest.fixture
def post(settings: Settings, inbox: Inbox) -> Post:
    settings.mail_url = inbox.url
    return Post(settings)


@pytest.fixture
def queued(storage: Storage) -> str:
    account = World(storage).account()
    context = {"subject_id": "sub_1", "subject_name": "Miso"}
    for _ in range(2):  # a job that ends twice, after a crash of its worker
        with storage.db.session() as session:
            mails.enqueue(session, account.email, "training_done", context, "training_done:trn_1", account.id)
    return account.id


def rows(storage: Storage) -> list[Mail]:
    with storage.db.reader() as session:
        return list(session.scalars(select(Mail)))


def make_due(storage: Storage) -> None:
    with storage.db.session() as session:
        session.execute(update(Mail).values(next_attempt_at=now()))


def test_one_event_is_one_row_and_one_mail(storage: Storage, queued: str, post: Post, inbox: Inbox) -> None:
    assert [mails.deliver_due(storage, post) for _ in range(3)] == [1, 0, 0]
    assert (len(rows(storage)), len(inbox.mails)) == (1, 1)


def test_a_sender_killed_after_sending_leaves_a_copy_that_can_be_told(
    storage: Storage, settings: Settings, queued: str, post: Post, inbox: Inbox
) -> None:
    """At least once, not exactly once: SMTP cannot say whether a message went. The copy has the same Message-ID."""
    where = {"var_dir": str(settings.var_dir), "mail_url": settings.mail_url}
    died = subprocess.run([sys.executable, "-c", SENDER, repr(where)], cwd=os.getcwd(), timeout=60, check=False)
    assert died.returncode == -signal.SIGKILL
    (row,) = rows(storage)
    assert (len(inbox.mails), row.sent_at, row.attempts) == (1, None, 1)
    assert mails.deliver_due(storage, post) == 0, "nobody else sends while the first may still be at it"
    make_due(storage)
    assert mails.deliver_due(storage, post) == 1
    first, second = inbox.mails
    assert first["Message-ID"] == second["Message-ID"]
    assert first.get_body(("plain",)).get_content() == second.get_body(("plain",)).get_content()
    (row,) = rows(storage)
    assert row.sent_at is not None
    make_due(storage)
    assert mails.deliver_due(storage, post) == 0


def test_a_refused_mail_waits_for_the_operator(storage: Storage, queued: str, post: Post, inbox: Inbox) -> None:
    inbox.answer = "550 no such user"
    assert mails.deliver_due(storage, post) == 0
    with storage.db.session() as session:
        (dead,) = mails.dead_letters(session)
        assert "refuses the message for good (550)" in dead.last_error
        inbox.answer = "250 OK"
        assert mails.send_again(session, dead.id) == 1
    assert mails.deliver_due(storage, post) == 1
    with storage.db.session() as session:
        assert (mails.dead_letters(session), mails.send_again(session)) == ([], 0)


def test_the_last_mail_to_an_address_that_is_gone_leaves_no_row(storage: Storage, post: Post, inbox: Inbox) -> None:
    inbox.answer = "550 no such user"
    with storage.db.session() as session:
        mails.enqueue(session, "ada@example.com", "account_erased", {"receipt_id": "rct_1"}, "account_erased:rct_1")
    mails.deliver_due(storage, post)
    assert rows(storage) == []
