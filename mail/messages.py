"""Messages to customers: one folder of ``templates`` each, with a subject, a plain text and an HTML body."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime, parseaddr
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

TEMPLATES = Path(__file__).with_name("templates")
USEFUL_FOR = {"sign_in": timedelta(days=1), "account_erased": timedelta(hours=1)}  # then a kept copy (folder outbox) goes


def render(template: str, context: dict[str, Any], *, to: str, sender: str, site_url: str, dedupe_key: str) -> EmailMessage:
    """A whole message. A name that the template uses and ``context`` lacks is an error, and so is an unknown template.

    The Message-ID comes from ``dedupe_key``: a second copy of one mail can be told by it, also by the customer's mail program.
    """
    words = {**context, "site_url": site_url}
    message = EmailMessage()
    message["Subject"] = " ".join(_text(f"{template}/subject.txt", words).split())
    message["From"] = address(sender)
    message["To"] = address(to)
    message["Date"] = format_datetime(datetime.now(UTC))
    message["Message-ID"] = message_id(dedupe_key, sender)
    if template in USEFUL_FOR:
        message["Expires"] = format_datetime(datetime.now(UTC) + USEFUL_FOR[template])  # RFC 4021
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no vacation replies, please
    message.set_content(_text(f"{template}/body.txt", words))
    message.add_alternative(_text(f"{template}/body.html", words), subtype="html")
    return message


def names() -> list[str]:
    return sorted(path.parent.name for path in TEMPLATES.glob("*/subject.txt"))


def message_id(dedupe_key: str, sender: str) -> str:
    domain = parseaddr(sender)[1].rpartition("@")[2] or "localhost"
    return f"<{sha256(dedupe_key.encode()).hexdigest()[:40]}@{domain}>"


def address(text: str) -> Address:
    """``ValueError`` for what could not stand in a header, such as a line break."""
    name, spec = parseaddr(text)
    user, _, domain = spec.rpartition("@")
    if not user or not domain or any(ord(letter) < 32 for letter in text):
        raise ValueError(f"not a mail address: {text!r}")
    return Address(display_name=name, username=user, domain=domain)


def _text(path: str, words: dict[str, Any]) -> str:
    return _environment().get_template(path).render(words)


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=lambda name: bool(name and name.endswith(".html")),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
