"""Who is told of an erasure: the customer's programs by webhook, and by mail whoever did not ask for it that moment."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from storage import mails, webhook_events
from storage.tables import Account, Erasure, Receipt, Subject


def tell(session: Session, erasure: Erasure, receipt: Receipt) -> None:
    """In the transaction that writes the receipt. What was erased is named by its digest only, so that no message brings its id back."""
    if erasure.scope == "account":
        _say_farewell(session, erasure, receipt)
        return
    subject = _subject(session, erasure)
    facts = {"subject_id": subject.id} if subject else {}
    facts |= {"count": erasure.about["count"]} if "count" in erasure.about else {}
    webhook_events.erased(session, erasure.account_id, erasure.scope, receipt, facts)
    if erasure.scope in ("photos", "portraits"):
        _tell_of_retention(session, erasure, receipt, subject)


def _say_farewell(session: Session, erasure: Erasure, receipt: Receipt) -> None:
    """The last mail, with the receipt. It belongs to no account, so its row goes when it is sent or given up."""
    if erasure.address:
        mails.enqueue(session, erasure.address, "account_erased", {"receipt_id": receipt.id}, f"account_erased:{receipt.id}")


def _tell_of_retention(session: Session, erasure: Erasure, receipt: Receipt, subject: Subject | None) -> None:
    email = session.scalar(select(Account.email).where(Account.id == erasure.account_id, ~Account.gone))
    if email is None or (erasure.scope == "photos" and subject is None):
        return
    context: dict[str, Any] = {"count": erasure.about["count"], "receipt_id": receipt.id}
    if subject:
        context |= {"subject_id": subject.id, "subject_name": subject.name}
    template = f"{erasure.scope}_erased"
    mails.enqueue(session, email, template, context, f"{template}:{receipt.id}", erasure.account_id)


def _subject(session: Session, erasure: Erasure) -> Subject | None:
    """Locked as long as a message that names it is written: an erasure of it either waits and removes the message, or came first."""
    wanted = select(Subject).where(Subject.id == erasure.about.get("subject_id", "")).with_for_update(key_share=True, read=True)
    return session.scalar(wanted)
