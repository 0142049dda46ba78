"""Subjects: a person or pet of an account."""

from __future__ import annotations

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from core.errors import UserError, not_found
from core.words import CLASS_WORDS, SubjectKind, new_id
from storage import consents
from storage.locks import hold_account
from storage.tables import Account, Consent, Photo, Subject, now

PER_ACCOUNT = 200
WORDS_FOR_MINORS = frozenset("baby boy boys child children girl girls infant kid kids minor newborn teen teenager toddler".split())  # noqa: SIM905


def create(session: Session, account_id: str, name: str, kind: str, consent_text: str, class_word: str | None = None) -> Subject:
    """A subject, with the consent under which its photos are collected. ``class_word`` refines the kind, as a breed does."""
    open_account(session, account_id)
    held = session.scalar(select(func.count()).where(Subject.account_id == account_id)) or 0
    if held >= PER_ACCOUNT:
        raise UserError("subjects/too-many", "Too many subjects", f"Erase some: an account holds at most {PER_ACCOUNT}.", status=409)
    kind_ = known_kind(kind)
    require_adult(kind_, consent_text, class_word)
    subject = Subject(id=new_id("sub"), account_id=account_id, name=_name(name), kind=kind_, class_word=_class_word(class_word, kind_))
    subject.created_at = now()
    session.add(subject)
    session.flush()
    consents.give(session, account_id, subject.id, consent_text)
    return subject


def require_adult(kind: SubjectKind, consent_text: str, class_word: str | None) -> None:
    """A person is a subject only if they were stated to be an adult, and nobody is one under a word for a child."""
    if kind in (SubjectKind.PERSON, SubjectKind.OTHER) and set((class_word or "").lower().replace("-", " ").split()) & WORDS_FOR_MINORS:
        detail = f"«{class_word}» is a word for a child. We make no adapters or portraits of minors."
        raise UserError("consent/minor", "Only adults can be portrayed", detail)
    if kind == SubjectKind.PERSON and consents.ADULT_TEXT not in consent_text:
        consents.text_for(kind, adult=False)


def get(session: Session, account_id: str, subject_id: str) -> Subject:
    subject = session.get(Subject, subject_id)
    if subject is None or subject.account_id != account_id:
        raise not_found("subject")
    return subject


def lock(session: Session, account_id: str, subject_id: str) -> Subject:
    """Like :func:`get`, and nobody else changes what belongs to it until the transaction ends."""
    hold_account(session, account_id)
    subject = session.scalar(select(Subject).where(Subject.id == subject_id, Subject.account_id == account_id).with_for_update())
    if subject is None:
        raise not_found("subject")
    return subject


def stands(session: Session, account_id: str, subject_id: str) -> bool:
    """Until the transaction ends it does, if so: an erasure of it waits."""
    hold_account(session, account_id)
    mine = select(Subject.id).where(Subject.id == subject_id, Subject.account_id == account_id)
    return session.scalar(mine.with_for_update(read=True, key_share=True)) is not None


def of_account(account_id: str) -> Select[Subject]:
    """For :func:`storage.paging.page`."""
    return select(Subject).where(Subject.account_id == account_id)


def photo_counts(session: Session, subject_ids: list[str]) -> dict[str, dict[str, int]]:
    """``{subject: {verdict: count}}``."""
    rows = session.execute(
        select(Photo.subject_id, Photo.verdict, func.count())
        .where(Photo.subject_id.in_(subject_ids))
        .group_by(Photo.subject_id, Photo.verdict)
    )
    counts: dict[str, dict[str, int]] = {subject_id: {} for subject_id in subject_ids}
    for subject_id, verdict, count in rows:
        counts[subject_id][verdict] = count
    return counts


def consent_of(session: Session, subject_id: str) -> Consent | None:
    return session.scalar(select(Consent).where(Consent.subject_id == subject_id).order_by(Consent.given_at.desc()).limit(1))


def open_account(session: Session, account_id: str) -> None:
    """Nothing new may start for an account whose erasure is under way; the erasure waits for what has started."""
    if not hold_account(session, account_id) or session.scalar(select(Account.gone).where(Account.id == account_id)):
        raise not_found("account")


def _name(name: str) -> str:
    name = " ".join(name.split())
    if not 1 <= len(name) <= 80:
        raise UserError("subject/name", "A subject needs a name", "Give 1 to 80 characters, such as the name of your cat.")
    return name


def known_kind(kind: str) -> SubjectKind:
    try:
        return SubjectKind(kind)
    except ValueError:
        raise UserError("subject/kind", f"Unknown kind of subject: {kind!r:.40}", f"Use one of {', '.join(SubjectKind)}.") from None


def _class_word(word: str | None, kind: SubjectKind) -> str:
    word = " ".join((word or CLASS_WORDS[kind]).lower().split())
    if len(word) > 40 or not all(part.isalpha() for part in word.replace("-", " ").split()):
        raise UserError("subject/class-word", "This class word cannot be used", "Use plain words, such as «cat» or «border collie».")
    return word
