"""What several pages say or do."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import RedirectResponse
from sqlalchemy.orm import Session

from api.rendering import duration
from api.state import State
from core.words import JobKind, JobState
from storage import adapters, watching
from storage.tables import Adapter, Job, Training

WAITING = (JobState.STARTING, JobState.PROCESSING)


def new_router() -> APIRouter:
    return APIRouter(include_in_schema=False)


def see(path: str) -> RedirectResponse:
    """After a form: the browser gets the page anew, so that reloading does not send the form twice."""
    return RedirectResponse(path, status_code=303)


def promise(state: State, session: Session) -> str:
    """What will happen and how long it takes, in plain words; the time is measured, or it is not claimed."""
    typical = watching.typical_seconds(session, JobKind.TRAINING)
    takes = f"The last trainings here took about {duration(typical)}" if typical else "You will see a measured time once it runs"
    return (
        "We fit a small adapter to the photos, then write you a mail. "
        f"{takes}; you can close the page meanwhile. Nobody else can use the adapter, and you can erase it at any time."
    )


def newest_adapter(session: Session, account_id: str, subject_id: str) -> Adapter | None:
    query = adapters.of_account(account_id, subject_id).order_by(Adapter.created_at.desc(), Adapter.id.desc()).limit(1)
    return session.scalar(query)


def latest_training(session: Session, subject_id: str) -> tuple[Training, Job] | None:
    return watching.latest_trainings(session, [subject_id]).get(subject_id)


def running_id(latest: tuple[Training, Job] | None) -> str | None:
    """The id of a training that is under way."""
    return latest[0].id if latest and latest[1].state in WAITING else None
