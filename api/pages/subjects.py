"""A subject: made with consent, filled with photos, trained, erased."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Form, Request
from fastapi.responses import Response
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from api import intake, views
from api.auth import Caller, SignedIn
from api.erasing import erase, erase_photo
from api.pages.common import latest_training, new_router, newest_adapter, promise, running_id, see
from api.pages.gallery import show_gallery
from api.rendering import render
from api.routes.photos import own_subject, set_description, take_form
from api.routes.subjects import agreed_text
from api.routes.trainings import NewTraining, start
from api.state import Shared, State
from core.errors import UserError
from core.words import JobState, SubjectKind
from storage import consents, photos, subjects
from storage.paging import page
from storage.retention_rules import photos_go_at
from storage.tables import Job, Training

router = new_router()

Text = Annotated[str, Form(max_length=1000)]
LongText = Annotated[str, Form(max_length=5000)]


@router.get("/subjects/new")
def new(request: Request, state: Shared, caller: SignedIn) -> Response:
    return _form(request, state, {"name": "", "kind": "", "class_word": ""})


@router.post("/subjects")
def create(
    request: Request, state: Shared, caller: SignedIn, name: Text = "", kind: Text = "", class_word: Text = "", consent: Text = "",
    consent_sha256: Text = "", adult: Text = "",
) -> Response:  # fmt: skip
    try:
        agreed = agreed_text(state.site, consent == "yes", consent_sha256)
        text = consents.text_for(subjects.known_kind(kind), adult == "yes", agreed)
        with state.storage.db.session() as session:
            subject = subjects.create(session, caller.account_id, name, kind, text, class_word or None)
    except UserError as error:
        return _form(request, state, {"name": name, "kind": kind, "class_word": class_word}, error)
    return see(f"/subjects/{subject.id}/photos")


def _form(request: Request, state: State, form: dict[str, str], error: UserError | None = None) -> Response:
    with state.storage.db.reader() as session:
        says = promise(state, session)
    status = error.status if error else 200
    facts = {"kinds": list(SubjectKind), "promise": says, "adult_text": consents.ADULT_TEXT}
    return render(request, "subject_new.html", status, form=form, error=error, **facts)


@router.get("/subjects/{subject_id}")
def show(request: Request, subject_id: str, state: Shared, caller: SignedIn, cursor: str | None = None) -> Response:
    """The gallery once there is an adapter; until then what comes next."""
    with state.storage.db.reader() as session:
        subject = subjects.get(session, caller.account_id, subject_id)
        adapter = newest_adapter(session, caller.account_id, subject_id)
        running = running_id(latest_training(session, subject_id))
    if adapter:
        return show_gallery(request, state, caller, subject, adapter, cursor)
    return see(f"/trainings/{running}" if running else f"/subjects/{subject_id}/photos")


@router.get("/subjects/{subject_id}/photos")
def show_photos(request: Request, subject_id: str, state: Shared, caller: SignedIn) -> Response:
    return _photos_page(request, state, caller, subject_id)


@router.get("/subjects/{subject_id}/photos/set")
def photo_set(request: Request, subject_id: str, state: Shared, caller: SignedIn) -> Response:
    """The part of the page that changes as photos arrive."""
    with state.storage.db.reader() as session:
        facts = _photo_facts(state, session, caller, subject_id)
    return render(request, "_photos.html", **facts)


@router.post("/subjects/{subject_id}/photos")
async def add_photos(request: Request, subject_id: str, state: Shared, caller: SignedIn) -> Response:
    subject = await run_in_threadpool(own_subject, state, caller, subject_id)
    outcomes = await take_form(state, subject, request)
    errors = [one.as_dict() for one in outcomes if isinstance(one, intake.Refused)]
    if not outcomes:
        errors = [{"filename": "No photo was sent", "message": "", "fix": "Choose some first."}]
    if errors:
        return await run_in_threadpool(_photos_page, request, state, caller, subject_id, errors)
    return see(f"/subjects/{subject_id}/photos")


@router.post("/subjects/{subject_id}/photos/{photo_id}/describe")
def describe_photo(
    request: Request, subject_id: str, photo_id: str, state: Shared, caller: SignedIn, description: LongText = ""
) -> Response:
    try:
        set_description(state, caller, subject_id, photo_id, description)
    except UserError as error:
        if error.status != 422:
            raise
        shown = {"filename": error.title, "message": error.detail, "fix": ""}
        return _photos_page(request, state, caller, subject_id, [shown])
    return see(f"/subjects/{subject_id}/photos#{photo_id}")


@router.post("/subjects/{subject_id}/photos/{photo_id}/erase")
def erase_one_photo(subject_id: str, photo_id: str, state: Shared, caller: SignedIn) -> Response:
    erase_photo(state, caller.account_id, photo_id)
    return see(f"/subjects/{subject_id}/photos")


@router.post("/subjects/{subject_id}/train")
def train(request: Request, subject_id: str, state: Shared, caller: SignedIn) -> Response:
    training, _job = start(state, caller, NewTraining(subject_id=subject_id, seed=None))
    return see(f"/trainings/{training.id}")


@router.post("/subjects/{subject_id}/erase")
def erase_subject(subject_id: str, state: Shared, caller: SignedIn) -> Response:
    return see(f"/receipts/{erase(state, caller.account_id, 'subject', subject_id)['id']}")


def _photos_page(request: Request, state: State, caller: Caller, subject_id: str, errors: list[dict[str, Any]] | None = None) -> Response:
    with state.storage.db.reader() as session:
        facts = _photo_facts(state, session, caller, subject_id)
        failed = _failure(latest_training(session, subject_id))
    return render(request, "photos.html", 422 if errors else 200, errors=errors or [], failed=failed, **facts)


def _photo_facts(state: State, session: Session, caller: Caller, subject_id: str) -> dict[str, Any]:
    rows = page(session, photos.of_subject(caller.account_id, subject_id), 100).items
    return {
        "subject": subjects.get(session, caller.account_id, subject_id),
        "photos": [views.photo(state.storage, row) for row in rows],
        "counts": intake.counts(state, subject_id),
        "adapter": newest_adapter(session, caller.account_id, subject_id),
        "running": running_id(latest_training(session, subject_id)),
        "promise": promise(state, session),
        "photos_go_at": photos_go_at(session, state.settings, [subject_id]).get(subject_id),
    }


def _failure(latest: tuple[Training, Job] | None) -> str | None:
    if latest is None or latest[1].state != JobState.FAILED:
        return None
    return str((latest[1].error or {}).get("message", ""))
