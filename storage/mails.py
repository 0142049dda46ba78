"""The outbox: messages that wait to be sent, as rows, so that a mail is committed with the fact that it tells.

One row for one event. It is sent at least once: a crash between sending and noting it sends it again, under the same Message-ID, by which
mail programs and people tell the copy. Nothing better can be had from SMTP, which does not let a sender ask whether a message went.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Protocol

from sqlalchemy import delete, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from core.errors import ServiceDown, not_found
from core.logs import get_logger
from core.words import new_id
from storage import outgoing
from storage.tables import Mail, now
from storage.wiring import Storage

log = get_logger("storage.mails")

BACKOFF = outgoing.Backoff(first_s=10.0, factor=2.0, longest_s=3600.0)  # three days: 81 attempts
SENDING_S = 180.0  # longer than a sender's own timeouts: only a sender that died leaves a mail to another


class Post(Protocol):
    """What carries mails: :class:`mail.post.Post`. The rooms are siblings, so whoever sees both hands it over."""

    def send(self, to: str, template: str, context: dict[str, Any], dedupe_key: str) -> None:
        """:class:`core.errors.ServiceDown` if it may work later; any other exception if it never will."""

    def erase_for(self, address: str) -> int:
        """Remove kept copies of what was sent to the address; how many."""

    def held_for(self, address: str) -> int: ...

    def forget_expired(self) -> int:
        """Remove kept copies of what is of no more use, such as old sign-in links; how many."""


def enqueue(session: Session, to: str, template: str, context: dict[str, Any], dedupe_key: str, account_id: str | None = None) -> Mail:
    """One mail for one event: a second call with the same ``dedupe_key`` returns the first row, also from another transaction.

    ``template`` is a folder of ``mail/templates``; ``context`` is JSON, without the site's address, which is added when it is sent.
    """
    session.flush()
    known = select(Mail).where(Mail.dedupe_key == dedupe_key)
    if (first := session.scalar(known)) is not None:
        return first
    values: dict[str, Any] = {"id": new_id("mail"), "account_id": account_id, "to": to, "template": template, "context": context}
    mail = Mail(**values, dedupe_key=dedupe_key, next_attempt_at=now())
    try:
        with session.begin_nested():
            session.add(mail)
    except IntegrityError:  # queued by another transaction between the question and the answer
        if (first := session.scalar(known)) is None:
            raise
        return first
    return mail


def due(storage: Storage, limit: int = 20) -> list[Mail]:
    waiting = select(Mail).where(outgoing.waits(Mail), Mail.next_attempt_at <= now())
    with storage.db.reader() as session:
        return list(session.scalars(waiting.order_by(Mail.next_attempt_at).limit(limit)))


def deliver_due(storage: Storage, post: Post, limit: int = 20) -> int:
    """Send what is due; how many went. Stops at the first that the server does not take, since the others would wait as long."""
    sent = 0
    for mail in due(storage, limit):
        if outgoing.take(storage, mail, SENDING_S):
            if _too_late(mail):
                _note_failure(storage, mail, "its link had expired before the server took it", for_good=True)
                continue
            try:
                post.send(mail.to, mail.template, mail.context, mail.dedupe_key)
            except ServiceDown as error:
                _note_failure(storage, mail, str(error), for_good=mail.attempts >= outgoing.most_attempts(storage.settings, BACKOFF))
                break
            except Exception as error:
                log.exception("mail cannot be sent", mail=mail.id, template=mail.template)
                _note_failure(storage, mail, f"{type(error).__name__}: {error}", for_good=True)
            else:
                _note_sent(storage, mail)
                sent += 1
    return sent


def dead_letters(session: Session, limit: int = 100) -> list[Mail]:
    """Those that were given up, newest first, with ``last_error``: for the operator."""
    return list(session.scalars(select(Mail).where(Mail.failed_at.is_not(None)).order_by(Mail.failed_at.desc()).limit(limit)))


def send_again(session: Session, mail_id: str | None = None) -> int:
    """The operator has put the cause right: a mail that was given up, or all of them, get their attempts anew."""
    given_up = Mail.failed_at.is_not(None) if mail_id is None else Mail.failed_at.is_not(None) & (Mail.id == mail_id)
    again = update(Mail).where(given_up).values(failed_at=None, attempts=0, next_attempt_at=now()).returning(Mail.id)
    count = len(session.scalars(again, execution_options={"synchronize_session": False}).all())
    if mail_id is not None and not count:
        raise not_found("mail that was given up")
    return count


def _too_late(mail: Mail) -> bool:
    """A sign-in link that works no more is of no use, and would puzzle whoever gets it days later."""
    return "minutes" in mail.context and now() > mail.created_at + timedelta(minutes=mail.context["minutes"])


def _note_sent(storage: Storage, mail: Mail) -> None:
    """The row stays as a mark against a second mail, without its words; one that belongs to no account is no use and goes."""
    if mail.account_id is None:
        _forget(storage, mail)
    else:
        outgoing.note(storage, mail, sent_at=now(), context={}, last_error="")


def _note_failure(storage: Storage, mail: Mail, reason: str, for_good: bool) -> None:
    log.warning("mail not sent", mail=mail.id, template=mail.template, reason=reason, for_good=for_good)
    if for_good and mail.account_id is None:  # nobody's: after an erasure, its address must not lie here for ever
        _forget(storage, mail)
        return
    wait = BACKOFF.wait_s(mail.attempts)
    ended = {"failed_at": now()} if for_good else {}
    outgoing.note(storage, mail, last_error=reason[:2000], next_attempt_at=now() + timedelta(seconds=wait), **ended)


def _forget(storage: Storage, mail: Mail) -> None:
    with storage.db.session() as session:
        session.execute(delete(Mail).where(Mail.id == mail.id))
