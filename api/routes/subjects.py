"""Subjects: a person or pet, made together with the consent under which their photos are collected."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field

from api import views
from api.auth import SignedIn
from api.erasing import erase
from api.idempotency import IdempotentRoute
from api.paged import Cursor, Limit, listed
from api.site import Site
from api.state import Shared
from core.errors import UserError
from core.words import SubjectKind
from storage import consents, subjects
from storage.retention_rules import photos_go_at

router = APIRouter(prefix="/v1/subjects", tags=["subjects"], route_class=IdempotentRoute)


class NewSubject(BaseModel):
    name: str = Field(max_length=200)
    kind: SubjectKind
    class_word: str | None = Field(None, max_length=80, description="Refines the kind: a breed for a pet.")
    consent: bool = Field(False, description="True: the customer read and agreed to the text at /v1/consent.")
    consent_sha256: str = Field("", description="Sha-256 of the text that was shown.")
    adult: bool = Field(
        False, description="True: the customer stated what /v1/consent asks of persons (adult_text). Required for a person."
    )


def agreed_text(site: Site, consent: bool, digest: str) -> str:
    """The text that was shown; :class:`UserError` unless it was agreed to, and is the one in force."""
    if not consent:
        detail = "Show the text at /v1/consent, and send consent: true with its sha256."
        raise UserError("consent/missing", "Your consent is needed before photos can be uploaded", detail)
    if digest != site.consent_sha256:
        detail = "The text has changed or was not shown. Show the text at /v1/consent and send its sha256 as consent_sha256."
        raise UserError("consent/other-text", "This is not the consent text in force", detail, status=409)
    return site.consent_text


@router.post("", status_code=201)
def create(body: NewSubject, state: Shared, caller: SignedIn) -> dict[str, Any]:
    text = consents.text_for(body.kind, body.adult, agreed_text(state.site, body.consent, body.consent_sha256))
    with state.storage.db.session() as session:
        subject = subjects.create(session, caller.account_id, body.name, body.kind, text, body.class_word)
    return views.subject(subject, {})


@router.get("")
def list_all(state: Shared, caller: SignedIn, limit: Limit = 20, cursor: Cursor = None) -> dict[str, Any]:
    with state.storage.db.reader() as session:
        page, answer = listed(session, subjects.of_account(caller.account_id), limit, cursor)
        ids = [row.id for row in page]
        counts, going = subjects.photo_counts(session, ids), photos_go_at(session, state.settings, ids)
    return answer([views.subject(row, counts[row.id], going.get(row.id)) for row in page])


@router.get("/{subject_id}")
def get(subject_id: str, state: Shared, caller: SignedIn) -> dict[str, Any]:
    with state.storage.db.reader() as session:
        subject = subjects.get(session, caller.account_id, subject_id)
        counts, going = subjects.photo_counts(session, [subject.id]), photos_go_at(session, state.settings, [subject.id])
    return views.subject(subject, counts[subject.id], going.get(subject.id))


@router.delete("/{subject_id}")
def erase_one(subject_id: str, state: Shared, caller: SignedIn) -> dict[str, Any]:
    """Erases photos, trainings, adapters and portraits of the subject; answers with the signed receipt."""
    return erase(state, caller.account_id, "subject", subject_id)


consent_router = APIRouter(prefix="/v1", tags=["subjects"])


@consent_router.get("/consent")
def consent_text(state: Shared) -> dict[str, str]:
    """The text that a person must be shown before a subject is made, and what must be stated besides of a subject who is a person."""
    assert state.site.consent_text == consents.TEXT.strip()
    return {"text": state.site.consent_text, "sha256": state.site.consent_sha256, "adult_text": consents.ADULT_TEXT}
