"""The outbox: messages that wait to be sent, as rows, so that a mail is committed with the fact that it tells."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.words import new_id
from storage.tables import Mail, now


def enqueue(session: Session, to: str, template: str, context: dict[str, Any], dedupe_key: str, account_id: str | None = None) -> Mail:
    """One mail for one event: a second call with the same ``dedupe_key`` returns the first row.

    ``template`` is a folder of ``mail/templates``; ``context`` is JSON, without the site's address, which is added when it is sent.
    """
    session.flush()
    known = session.scalar(select(Mail).where(Mail.dedupe_key == dedupe_key))
    if known:
        return known
    mail = Mail(
        id=new_id("mail"), account_id=account_id, to=to, template=template, context=context, dedupe_key=dedupe_key, next_attempt_at=now()
    )
    session.add(mail)
    session.flush()
    return mail
