"""How messages leave: as .eml files in a folder, or by SMTP."""

from __future__ import annotations

import os
import smtplib
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.message import EmailMessage
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Protocol
from urllib.parse import parse_qs, unquote, urlsplit

from core.errors import ServiceDown

SMTP_TIMEOUT_S = 15.0
SAID_OF_TLS = {"starttls": "STARTTLS", "ssl": "TLS", "none": "not encrypted"}
_FILE_POLICY = policy.SMTPUTF8


class Sender(Protocol):
    def send(self, message: EmailMessage) -> None:
        """:class:`core.errors.ServiceDown` if it may work later; ``MailRefused`` if the server will never take it."""

    def check(self) -> str:
        """Everything short of sending; what was reached, for the operator. :class:`core.errors.ServiceDown` if mails could not go now."""

    def erase_for(self, address: str) -> int:
        """Remove kept copies of what was sent to the address; how many."""

    def held_for(self, address: str) -> int: ...

    def forget_expired(self) -> int:
        """Remove kept copies whose ``Expires`` has passed; how many."""


class MailRefused(Exception):
    """The server says that this message or address will never do."""


def open_sender(url: str) -> Sender:
    """``file://folder`` or ``smtp://user:pass@host:port?tls=starttls|ssl|none`` (``smtps://`` is ``tls=ssl``); else ``ValueError``."""
    parts = urlsplit(url)
    if parts.scheme == "file":
        return FolderSender(Path(unquote(parts.netloc + parts.path)))
    if parts.scheme in ("smtp", "smtps") and parts.hostname:
        tls = parse_qs(parts.query).get("tls", ["ssl" if parts.scheme == "smtps" else "starttls"])[0]
        user, password = unquote(parts.username or ""), unquote(parts.password or "")
        return SmtpSender(parts.hostname, parts.port or (465 if tls == "ssl" else 587), user, password, tls)
    raise ValueError("LIKENESS_MAIL_URL must be file://folder or smtp://user:pass@host:port?tls=starttls")


class FolderSender:
    """One .eml a message, named by its time and Message-ID, so that a second copy replaces the first. For a laptop, and for tests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def send(self, message: EmailMessage) -> None:
        mark = message["Message-ID"].strip("<>").partition("@")[0]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not any(self.folder.glob(f"*-{mark}.eml")):
                self._write(message, mark)
        except OSError as error:
            raise ServiceDown(f"the outbox folder cannot be used: {error}") from error

    def check(self) -> str:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
        except OSError as error:
            raise ServiceDown(f"the outbox folder cannot be used: {error}") from error
        return f"one .eml a message in {self.folder}; nothing reaches a customer"

    def erase_for(self, address: str) -> int:
        paths = list(self._sent_to(address))
        for path in paths:
            path.unlink(missing_ok=True)
        return len(paths)

    def held_for(self, address: str) -> int:
        return sum(1 for _ in self._sent_to(address))

    def forget_expired(self) -> int:
        gone = [path for path, message in self._messages() if _expired(message)]
        for path in gone:
            path.unlink(missing_ok=True)
        return len(gone)

    def _write(self, message: EmailMessage, mark: str) -> None:
        at = message["Date"].datetime.strftime("%Y%m%dT%H%M%S")
        handle, name = tempfile.mkstemp(dir=self.folder, prefix=".part-")
        with os.fdopen(handle, "wb") as file:
            file.write(message.as_bytes(policy=_FILE_POLICY))
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, self.folder / f"{at}-{mark}.eml")

    def _sent_to(self, address: str) -> Iterator[Path]:
        for path, message in self._messages():
            if any(one.addr_spec.lower() == address.lower() for one in message["To"].addresses):
                yield path

    def _messages(self) -> Iterator[tuple[Path, EmailMessage]]:
        for path in sorted(self.folder.glob("*.eml")):
            with suppress(FileNotFoundError):  # erased meanwhile
                yield path, message_from_bytes(path.read_bytes(), policy=policy.default)


def _expired(message: EmailMessage) -> bool:
    return message["Expires"] is not None and parsedate_to_datetime(message["Expires"]) < datetime.now(UTC)


class SmtpSender:
    """One connection a message: mails are few, and a kept connection is one more thing that goes stale."""

    def __init__(self, host: str, port: int, user: str = "", password: str = "", tls: str = "starttls") -> None:
        if tls not in ("starttls", "ssl", "none"):
            raise ValueError(f"tls must be starttls, ssl or none, not {tls!r}")
        self.host, self.port, self.tls = host, port, tls
        self._user, self._password = user, password

    def send(self, message: EmailMessage) -> None:
        with self._translated(), self._connection() as server:
            self._sign_in(server)
            server.send_message(message)

    def check(self) -> str:
        with self._translated(), self._connection() as server:
            self._sign_in(server)
            server.noop()
        return f"{self.host}:{self.port}, {SAID_OF_TLS[self.tls]}, {'signed in' if self._user else 'without a login'}"

    def erase_for(self, address: str) -> int:
        return 0  # nothing is kept here

    def held_for(self, address: str) -> int:
        return 0

    def forget_expired(self) -> int:
        return 0

    def _sign_in(self, server: smtplib.SMTP) -> None:
        if self.tls == "starttls":
            server.starttls(context=ssl.create_default_context())
        if self._user:
            server.login(self._user, self._password)

    def _connection(self) -> smtplib.SMTP:
        if self.tls == "ssl":
            return smtplib.SMTP_SSL(self.host, self.port, timeout=SMTP_TIMEOUT_S, context=ssl.create_default_context())
        return smtplib.SMTP(self.host, self.port, timeout=SMTP_TIMEOUT_S)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        where = f"the mail server {self.host}:{self.port}"
        try:
            yield
        except smtplib.SMTPRecipientsRefused as error:
            self._raise_by_code(where, max(code for code, _ in error.recipients.values()), error)
        except (smtplib.SMTPSenderRefused, smtplib.SMTPDataError) as error:
            self._raise_by_code(where, error.smtp_code, error)
        except (smtplib.SMTPException, OSError) as error:  # also a wrong password: the operator can put it right
            raise ServiceDown(f"{where} does not answer as it should: {error}") from error

    def _raise_by_code(self, where: str, code: int, error: Exception) -> None:
        """RFC 5321: 4xx may work later, 5xx never will."""
        if code >= 500:
            raise MailRefused(f"{where} refuses the message for good ({code})") from error
        raise ServiceDown(f"{where} cannot take the message now ({code})") from error
