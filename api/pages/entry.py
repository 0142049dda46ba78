"""The way in and out, and the list of subjects."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Form, Request
from fastapi.responses import Response
from sqlalchemy.orm import Session

from api import views
from api.auth import COOKIE, Caller, MaybeSignedIn, refuse_other_sites
from api.paged import Cursor
from api.pages.common import WAITING, new_router, promise, see
from api.rendering import render
from api.routes.sign_in import end_session, send_link, use_link
from api.state import Shared, State
from core.words import JobKind, JobState
from storage import accounts, subjects, watching
from storage.paging import page
from storage.tables import Job, Subject, Training

router = new_router()


@router.get("/")
def start(request: Request, state: Shared, caller: MaybeSignedIn, cursor: Cursor = None) -> Response:
    return _home(request, state, caller, cursor) if caller else _landing(request, state)


def _landing(request: Request, state: State) -> Response:
    with state.storage.db.reader() as session:
        typical = watching.typical_seconds(session, JobKind.TRAINING)
    return render(request, "landing.html", typical=typical)


def _home(request: Request, state: State, caller: Caller, cursor: str | None) -> Response:
    with state.storage.db.reader() as session:
        found = page(session, subjects.of_account(caller.account_id), 24, cursor)
        tiles = _tiles(state, session, found.items)
        says = promise(state, session)
    return render(request, "home.html", subjects=tiles, next_cursor=found.next_cursor, promise=says)


def _tiles(state: State, session: Session, rows: list[Subject]) -> list[dict[str, Any]]:
    ids = [row.id for row in rows]
    counts, covers = subjects.photo_counts(session, ids), watching.cover_photos(session, ids)
    latest = watching.latest_trainings(session, ids)
    return [
        views.subject(row, counts[row.id])
        | {"covers": [views.link(state.storage, photo.thumb_key) for photo in covers[row.id]]}
        | _standing(latest.get(row.id))
        for row in rows
    ]


def _standing(latest: tuple[Training, Job] | None) -> dict[str, str]:
    """A chip's kind and words."""
    if latest is None:
        return {"chip": "", "says": "Waiting for photos"}
    job_state = JobState(latest[1].state)
    if job_state in WAITING:
        return {"chip": "processing", "says": "Training"}
    says = {JobState.SUCCEEDED: "Ready for portraits", JobState.FAILED: "Training did not finish", JobState.CANCELED: "Training canceled"}
    return {"chip": str(job_state), "says": says[job_state]}


@router.post("/sign-in", dependencies=[Depends(refuse_other_sites)])
def ask_for_link(request: Request, state: Shared, email: Annotated[str, Form(max_length=320)]) -> Response:
    send_link(state, email)
    return render(request, "mail_sent.html", email=accounts.normal_email(email), minutes=state.settings.sign_in_ttl_s // 60)


@router.get("/sign-in")
def show_button(request: Request, state: Shared, token: str = "") -> Response:
    """Changes nothing: mail scanners open links."""
    with state.storage.db.reader() as session:
        is_open = accounts.sign_in_is_open(session, token)
    return render(request, "sign_in.html", token=token, open=is_open, minutes=state.settings.sign_in_ttl_s // 60)


@router.post("/sign-in/confirm", dependencies=[Depends(refuse_other_sites)])
def confirm(state: Shared, token: Annotated[str, Form(max_length=200)]) -> Response:
    response = see("/")
    use_link(state, token, response)
    return response


@router.post("/sign-out", dependencies=[Depends(refuse_other_sites)])
def sign_out(request: Request, state: Shared) -> Response:
    response = see("/")
    end_session(state, request.cookies.get(COOKIE), response)
    return response
