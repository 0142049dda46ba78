"""The outbox: messages that wait to be sent, as rows, so that a mail is committed with the fact that it tells."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Protocol

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from core.errors import ServiceDown
from core.logs import get_logger
from core.words import new_id
from storage.tables import Mail, now
from storage.wiring import Storage

log = get_logger("storage.mails")

MOST_ATTEMPTS = 10
FIRST_RETRY_S, LONGEST_RETRY_S = 10.0, 3600.0


class Post(Protocol):
    """What carries mails: :class:`mail.post.Post`. The rooms are siblings, so whoever sees both hands it over."""

    def send(self, to: str, template: str, context: dict[str, Any], dedupe_key: str) -> None:
        """:class:`core.errors.ServiceDown` if it may work later; any other exception if it never will."""

    def erase_for(self, address: str) -> int:
        """Remove kept copies of what was sent to the address; how many."""

    def held_for(self, address: str) -> int: ...


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


def due(storage: Storage, limit: int = 20) -> list[Mail]:
    waiting = (Mail.sent_at.is_(None), Mail.failed_at.is_(None), Mail.next_attempt_at <= now())
    with storage.db.reader() as session:
        return list(session.scalars(select(Mail).where(*waiting).order_by(Mail.next_attempt_at).limit(limit)))


def deliver_due(storage: Storage, post: Post, limit: int = 20) -> int:
    """Send what is due; how many went. Stops at the first that the server does not take, since the others would wait as long.

    At least once: a crash between sending and noting it sends again, under the same Message-ID.
    """
    sent = 0
    for mail in due(storage, limit):
        if _take(storage, mail):
            try:
                post.send(mail.to, mail.template, mail.context, mail.dedupe_key)
            except ServiceDown as error:
                _note_failure(storage, mail, str(error), for_good=mail.attempts + 1 >= MOST_ATTEMPTS)
                break
            except Exception as error:
                log.exception("mail cannot be sent", mail=mail.id, template=mail.template)
                _note_failure(storage, mail, f"{type(error).__name__}: {error}", for_good=True)
            else:
                _note_sent(storage, mail)
                sent += 1
    return sent


def _take(storage: Storage, mail: Mail) -> bool:
    """Move the next attempt ahead, so that no other sender takes the same one."""
    wait = timedelta(seconds=min(LONGEST_RETRY_S, FIRST_RETRY_S * 2.0**mail.attempts))
    free = (Mail.id == mail.id, Mail.attempts == mail.attempts, Mail.sent_at.is_(None))
    with storage.db.session() as session:
        taken = update(Mail).where(*free).values(attempts=Mail.attempts + 1, next_attempt_at=now() + wait).returning(Mail.id)
        return session.execute(taken, execution_options={"synchronize_session": False}).first() is not None


def _note_sent(storage: Storage, mail: Mail) -> None:
    """The row stays as a mark against a second mail, without its words; one that belongs to no account is no use and goes."""
    with storage.db.session() as session:
        row = session.get(Mail, mail.id)
        if row is not None and row.account_id is None:
            session.delete(row)
        elif row is not None:
            row.sent_at, row.context, row.last_error = now(), {}, ""


def _note_failure(storage: Storage, mail: Mail, reason: str, for_good: bool) -> None:
    log.warning("mail not sent", mail=mail.id, template=mail.template, reason=reason, for_good=for_good)
    values = {"last_error": reason[:2000]} | ({"failed_at": now()} if for_good else {})
    with storage.db.session() as session:
        session.execute(update(Mail).where(Mail.id == mail.id).values(**values))
