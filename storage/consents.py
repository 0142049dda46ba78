"""What the customer agreed to before photos were collected, with the very text that was shown."""

from __future__ import annotations

from hashlib import sha256

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from core.errors import UserError
from core.words import SubjectKind, new_id
from storage.tables import Consent, now

TEXT = (
    "I have the right to use these photos, and the person in them (or I, for my pet) agrees that this service measures their likeness, "
    "including face measurements, and fits a private adapter to it, only to render the portraits that I ask for. "
    "Photos, adapter and portraits are kept until I erase them, which I can do at any time."
)

ADULT_TEXT = "The person in the photos is at least 18 years old."  # asked of every person; without it none becomes a subject


def text_for(kind: SubjectKind, adult: bool, text: str = TEXT) -> str:
    """What is agreed to for a subject of that kind. :class:`UserError` for a person who is not stated to be an adult: minors are no
    subjects here, whoever consents."""
    if kind != SubjectKind.PERSON:
        return text.strip()
    if not adult:
        detail = f"State it («{ADULT_TEXT}», adult: true) if it is so. We make no adapters or portraits of minors."
        raise UserError("consent/minor", "Only adults can be portrayed", detail)
    return f"{text.strip()} {ADULT_TEXT}"


def give(session: Session, account_id: str, subject_id: str | None, text: str) -> Consent:
    text = text.strip()
    if not text:
        detail = "Read the text, tick the box, and send it along."
        raise UserError("consent/missing", "Your consent is needed before photos can be uploaded", detail)
    digest = sha256(text.encode()).hexdigest()
    consent = Consent(id=new_id("con"), account_id=account_id, subject_id=subject_id, text=text, text_sha256=digest, given_at=now())
    session.add(consent)
    session.flush()
    return consent


def of_account(account_id: str) -> Select[Consent]:
    return select(Consent).where(Consent.account_id == account_id)
