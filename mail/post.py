"""Renders and sends: what ``storage.mails`` hands its rows to. Whoever sees both rooms (api, command line) brings them together."""

from __future__ import annotations

from typing import Any

from core.settings import Settings
from mail.messages import render
from mail.senders import Sender, open_sender


class Post:
    """Has the shape of :class:`storage.mails.Post`."""

    def __init__(self, settings: Settings, sender: Sender | None = None) -> None:
        self._settings = settings
        self._sender = sender or open_sender(settings.mail)

    def send(self, to: str, template: str, context: dict[str, Any], dedupe_key: str) -> None:
        settings = self._settings
        self._sender.send(render(template, context, to=to, sender=settings.mail_from, site_url=settings.site_url, dedupe_key=dedupe_key))

    def erase_for(self, address: str) -> int:
        return self._sender.erase_for(address)

    def held_for(self, address: str) -> int:
        return self._sender.held_for(address)

    def forget_expired(self) -> int:
        return self._sender.forget_expired()
