"""The folder outbox, and SMTP against a real server in this process."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

from core.errors import ServiceDown
from core.settings import Settings
from mail.messages import render
from mail.post import Post
from mail.senders import FolderSender, MailRefused, SmtpSender, open_sender


def message(to: str = "Zoë <ada@example.com>", key: str = "k") -> Any:
    return render("sign_in", {"path": "/sign-in?token=t", "minutes": 15}, to=to, sender="a@b.example", site_url="http://x", dedupe_key=key)


class Inbox:
    """Accepts what comes, or answers what ``answer`` says."""

    def __init__(self) -> None:
        self.mails: list[Any] = []
        self.answer = "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        if self.answer.startswith("2"):
            self.mails.append(message_from_bytes(envelope.content, policy=policy.default))
        return self.answer


@pytest.fixture
def inbox() -> Inbox:
    return Inbox()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_the_check_tells_a_server_that_would_do_from_one_that_would_not(port: int, inbox: Inbox, tmp_path: Path) -> None:
    assert "signed in" in open_sender(f"smtp://user:p%40ss@127.0.0.1:{port}?tls=none").check()
    assert inbox.mails == []
    for url in (f"smtp://user:wrong@127.0.0.1:{port}?tls=none", f"smtp://127.0.0.1:{port}?tls=starttls", "smtp://127.0.0.1:1?tls=none"):
        with pytest.raises(ServiceDown):
            open_sender(url).check()
    assert "nothing reaches" in open_sender(f"file://{tmp_path / 'outbox'}").check()
    (tmp_path / "file").touch()
    with pytest.raises(ServiceDown):
        open_sender(f"file://{tmp_path / 'file'}").check()


@pytest.fixture
def port(inbox: Inbox) -> Iterator[int]:
    def check(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        return AuthResult(success=(data.login, data.password) == (b"user", b"p@ss"), handled=False)

    options = {"authenticator": check, "auth_require_tls": False}
    server = Controller(inbox, hostname="127.0.0.1", port=free_port(), **options)  # type: ignore[arg-type]
    server.start()
    yield server.port
    server.stop()


def test_smtp_delivers(inbox: Inbox, port: int) -> None:
    open_sender(f"smtp://user:p%40ss@127.0.0.1:{port}?tls=none").send(message())
    (received,) = inbox.mails
    assert received["Subject"] == "Your link to sign in to Likeness"
    assert received["To"].addresses[0].display_name == "Zoë"
    assert "http://x/sign-in?token=t" in received.get_body(("plain",)).get_content()


@pytest.mark.parametrize(("answer", "error"), [("451 try later", ServiceDown), ("550 no such user", MailRefused)])
def test_smtp_tells_later_from_never(inbox: Inbox, port: int, answer: str, error: type[Exception]) -> None:
    inbox.answer = answer
    with pytest.raises(error, match=str(port)):
        SmtpSender("127.0.0.1", port, tls="none").send(message())


def test_a_wrong_password_is_the_servers_trouble_not_the_mails(port: int) -> None:
    with pytest.raises(ServiceDown) as caught:
        SmtpSender("127.0.0.1", port, "user", "wrong", tls="none").send(message())
    assert "wrong" not in str(caught.value)


def test_starttls_is_not_skipped_when_the_server_has_none(inbox: Inbox, port: int) -> None:
    with pytest.raises(ServiceDown):
        SmtpSender("127.0.0.1", port).send(message())
    assert inbox.mails == []


def test_no_server_at_all() -> None:
    with pytest.raises(ServiceDown, match="mail server"):
        SmtpSender("127.0.0.1", free_port(), tls="none").send(message())


def test_the_folder_holds_one_file_a_message(tmp_path: Path) -> None:
    sender = open_sender(f"file://{tmp_path}/out%20box")
    for key in ("k", "k", "other"):
        sender.send(message(key=key))
    files = sorted((tmp_path / "out box").iterdir())
    assert len(files) == 2 and all(path.suffix == ".eml" for path in files)
    kept = message_from_bytes(files[0].read_bytes(), policy=policy.default)
    assert kept["To"].addresses[0].addr_spec == "ada@example.com"


def test_the_folder_forgets_one_customer(tmp_path: Path) -> None:
    sender = FolderSender(tmp_path)
    for n, to in enumerate(("ada@example.com", "ADA@example.com", "Ada <ada@example.com>", "bo@example.com", "not-ada@example.com")):
        sender.send(message(to, key=str(n)))
    assert sender.held_for("ada@example.com") == 3
    assert sender.erase_for("ada@example.com") == 3
    assert sender.held_for("ada@example.com") == 0
    assert len(list(tmp_path.iterdir())) == 2


def test_the_folder_forgets_what_is_of_no_more_use(tmp_path: Path) -> None:
    sender, fresh, old, kept = FolderSender(tmp_path), message(key="fresh"), message(key="old"), message(key="kept")
    del old["Expires"], kept["Expires"]
    old["Expires"] = "Sat, 01 Nov 2025 12:00:00 +0000"
    for one in (fresh, old, kept):
        sender.send(one)
    assert fresh["Expires"] is not None
    assert (sender.forget_expired(), len(list(tmp_path.iterdir())), sender.forget_expired()) == (1, 2, 0)
    assert old["Message-ID"].strip("<>").partition("@")[0] not in " ".join(path.name for path in tmp_path.iterdir())


def test_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ServiceDown, match="outbox"):
        FolderSender(tmp_path / "file").send(message())


@pytest.mark.parametrize("url", ["", "http://x", "smtp://", "smtp://x?tls=maybe"])
def test_a_wrong_url(url: str) -> None:
    with pytest.raises(ValueError, match=r"LIKENESS_MAIL_URL|tls"):
        open_sender(url)


@pytest.mark.parametrize(
    ("url", "port", "tls"),
    [("smtp://mx", 587, "starttls"), ("smtps://mx", 465, "ssl"), ("smtp://mx:25?tls=none", 25, "none"), ("smtp://mx?tls=ssl", 465, "ssl")],
)
def test_ports_and_encryption(url: str, port: int, tls: str) -> None:
    sender = open_sender(url)
    assert isinstance(sender, SmtpSender)
    assert (sender.host, sender.port, sender.tls) == ("mx", port, tls)


def test_the_post_renders_and_sends(tmp_path: Path) -> None:
    post = Post(Settings(_env_file=None, var_dir=tmp_path, port=9999))  # type: ignore[call-arg]
    post.send("ada@example.com", "training_done", {"subject_id": "sub_1", "subject_name": "Miso"}, "done:trn_1")
    (path,) = (tmp_path / "outbox").glob("*.eml")
    assert (
        "http://127.0.0.1:9999/subjects/sub_1"
        in message_from_bytes(path.read_bytes(), policy=policy.default).get_body(("plain",)).get_content()
    )
    assert (post.held_for("ada@example.com"), post.erase_for("ada@example.com"), post.held_for("ada@example.com")) == (1, 1, 0)
