"""Mail: connect, encrypt, sign in; and, if asked, one message."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

from core.settings import Settings
from likeness.checks import Finding, good, warning
from mail.post import Post
from mail.senders import FolderSender, open_sender


def mail(settings: Settings) -> Iterator[Finding]:
    sender = open_sender(settings.mail)
    said = sender.check()
    several = not settings.database.startswith("sqlite")
    if several and isinstance(sender, FolderSender):
        yield warning("mail", said, "Set LIKENESS_MAIL_URL=smtp://user:password@host:587?tls=starttls: customers sign in by mail.")
    elif several and "localhost" in settings.mail_from:
        yield warning("mail", f"{said}; from {settings.mail_from}", "Set LIKENESS_MAIL_FROM to an address of your domain (SPF, DKIM).")
    else:
        yield good("mail", said)


def test_message(settings: Settings, to: str) -> Iterator[Finding]:
    """The server took it; whether it arrives, its reader knows."""
    Post(settings).send(to, "test_message", {}, f"doctor:{uuid.uuid4().hex}")
    yield good("test message", f"handed over for {to}")
