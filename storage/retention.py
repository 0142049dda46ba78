"""Nothing is kept longer than the settings say: customers are told before, things go by the same erasure as on request, and a mail says so.

A notice is a row, one at a time for a target. :func:`announce` writes it with its mail; :func:`expire` carries it out when its time has
come, unless the thing was used since. Two schedulers may run both at once: rows are unique, and an erasure happens once.
"""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from core.errors import UserError
from core.logs import get_logger
from core.settings import Settings
from core.words import new_id
from storage import mails, webhook_events
from storage import retention_rules as rules
from storage.erasure import erase
from storage.mails import Post
from storage.tables import Account, RetentionNotice, Subject, now
from storage.wiring import Storage

log = get_logger("storage.retention")

ANNOUNCE_EVERY_S = 600.0  # looking through all subjects is too much for every pass
AT_ONCE = 200

_announced: dict[str, float] = {}


def run(storage: Storage, post: Post) -> int:
    """For the scheduler, at every pass: what is due goes at once, what will be due is looked for every ten minutes."""
    expired = expire(storage, post)
    place = str(storage.db.url)
    if time.monotonic() - _announced.get(place, float("-inf")) >= ANNOUNCE_EVERY_S:
        _announced[place] = time.monotonic()
        announce(storage)
        post.forget_expired()
    return expired


def announce(storage: Storage) -> int:
    """A notice, a mail and a webhook for all that will be due when the time of the notice is over. How many."""
    found = []
    with storage.db.reader() as session:
        for scope, before, query in _schedules(storage.settings):
            found += [_notice(storage.settings, scope, before, *row[:2]) for row in session.execute(query.limit(AT_ONCE))]
    return sum(_tell(storage, notice) for notice in found)


def expire(storage: Storage, post: Post) -> int:
    """Erase what was announced and has had its time; how many erasures that were. What was used since stays."""
    with storage.db.reader() as session:
        due = select(RetentionNotice).where(RetentionNotice.erase_after <= now()).order_by(RetentionNotice.erase_after).limit(AT_ONCE)
        notices = list(session.scalars(due))
    return sum(_carry_out(storage, post, notice) for notice in notices)


def _schedules(settings: Settings) -> list[tuple[str, datetime, rules.Rows]]:
    """(scope, moment, query of what was not used since then, and so falls due within the notice) for each schedule that is on."""
    queries = {
        "photos": (settings.photos_kept_days, rules.unused_photos),
        "portraits": (settings.portraits_kept_days, rules.accounts_with_old_portraits),
        "account": (settings.idle_account_days, rules.idle_accounts),
    }
    ages = {scope: max(0, days - settings.retention_notice_days) for scope, (days, _query) in queries.items() if days}
    return [(scope, now() - timedelta(days=age), queries[scope][1](now() - timedelta(days=age))) for scope, age in ages.items()]


def _notice(settings: Settings, scope: str, before: datetime, target_id: str, account_id: str) -> RetentionNotice:
    notice = RetentionNotice(id=new_id("ret"), account_id=account_id, scope=scope, target_id=target_id, unused_since=before)
    notice.told_at, notice.erase_after = now(), now() + timedelta(days=settings.retention_notice_days)
    return notice


def _tell(storage: Storage, notice: RetentionNotice) -> bool:
    """The notice, its mail and its webhook in one transaction. False if another scheduler was first, or the target is gone."""
    try:
        with storage.db.session() as session:
            email = session.scalar(select(Account.email).where(Account.id == notice.account_id, ~Account.gone))
            context = _context(session, notice)
            if email is None or context is None:
                return False
            session.add(notice)
            session.flush()
            template = f"{notice.scope}_expiring"
            mails.enqueue(session, email, template, context, f"{template}:{notice.id}", notice.account_id)
            webhook_events.emit(session, notice.account_id, f"{notice.scope}.expiring", _facts(notice))
            return True
    except IntegrityError:
        return False


def _context(session: Session, notice: RetentionNotice) -> dict[str, Any] | None:
    """What the mail says; None if there is nothing left to say it of."""
    date = _day(notice.erase_after)
    if notice.scope == "photos":
        subject = session.get(Subject, notice.target_id)
        return {"subject_id": subject.id, "subject_name": subject.name, "date": date} if subject else None
    if notice.scope == "portraits":
        count = len(rules.old_portraits(session, notice.account_id, notice.unused_since))
        return {"count": count, "made_until": _day(notice.unused_since), "date": date} if count else None
    return {"last_used": _day(notice.unused_since), "date": date}


def _facts(notice: RetentionNotice) -> dict[str, Any]:
    about = {"subject_id": notice.target_id} if notice.scope == "photos" else {}
    return about | {"erase_after": webhook_events.moment(notice.erase_after)}


def _carry_out(storage: Storage, post: Post, notice: RetentionNotice) -> bool:
    try:
        if notice.scope != "account":
            erase(storage, post, notice.scope, notice.id)
            return True
        with storage.db.reader() as session:
            idle = rules.is_idle(session, notice.account_id, notice.unused_since)
        if idle:
            erase(storage, post, "account", notice.account_id)
            return True
    except UserError as error:  # used again since, or erased by the customer or another scheduler
        log.info("notice is void", notice=notice.id, scope=notice.scope, reason=error.type)
    _withdraw(storage, notice)
    return False


def _withdraw(storage: Storage, notice: RetentionNotice) -> None:
    with storage.db.session() as session:
        session.execute(delete(RetentionNotice).where(RetentionNotice.id == notice.id))


def _day(moment: datetime) -> str:
    return f"{moment.day} {moment:%B %Y}"
