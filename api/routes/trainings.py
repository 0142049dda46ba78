"""Trainings: start, watch, cancel."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, Field
from sse_starlette import EventSourceResponse

from api import views
from api.auth import Caller, SignedIn
from api.idempotency import IdempotentRoute
from api.paged import Cursor, Limit, listed
from api.recipes import RecipeOverrides
from api.routes.streams import stream
from api.state import Shared, State
from storage import trainings, watching
from storage.tables import Job, Training

router = APIRouter(prefix="/v1/trainings", tags=["trainings"], route_class=IdempotentRoute)


class NewTraining(BaseModel):
    subject_id: str = Field(max_length=40)
    seed: int | None = Field(None, ge=0, lt=2**31)
    recipe: RecipeOverrides = Field(default_factory=lambda: RecipeOverrides.model_validate({}))


def start(state: State, caller: Caller, body: NewTraining) -> tuple[Training, Job]:
    """Commits, then has the workers told; if the broker is down the scheduler tells them later."""
    with state.storage.db.session() as session:
        recipe = body.recipe.model_dump(exclude_none=True)
        training, job = trainings.create(session, state.settings, caller.account_id, body.subject_id, body.seed, recipe)
    state.teller.tell(job)
    return training, job


@router.post("", status_code=201)
def create(body: NewTraining, state: Shared, caller: SignedIn) -> dict[str, Any]:
    return views.training(*start(state, caller, body))


@router.get("")
def list_all(state: Shared, caller: SignedIn, subject_id: str | None = None, limit: Limit = 20, cursor: Cursor = None) -> dict[str, Any]:
    with state.storage.db.reader() as session:
        rows, answer = listed(session, trainings.of_account(caller.account_id, subject_id), limit, cursor)
        its_jobs = watching.jobs_of(session, [row.id for row in rows])
    return answer([views.training(row, its_jobs[row.id]) for row in rows])


@router.get("/{training_id}")
def get(training_id: str, state: Shared, caller: SignedIn) -> dict[str, Any]:
    with state.storage.db.reader() as session:
        return views.training(*trainings.get(session, caller.account_id, training_id))


@router.post("/{training_id}/cancel")
def cancel(training_id: str, state: Shared, caller: SignedIn) -> dict[str, Any]:
    """A waiting training is canceled at once; a running one stops at its next step."""
    with state.storage.db.session() as session:
        return views.training(*trainings.cancel(session, caller.account_id, training_id))


@router.get("/{training_id}/events")
async def events(training_id: str, request: Request, state: Shared, caller: SignedIn) -> EventSourceResponse:
    return stream(state, request, await run_in_threadpool(_job_id, state, caller, training_id))


def _job_id(state: State, caller: Caller, training_id: str) -> str:
    with state.storage.db.reader() as session:
        return trainings.get(session, caller.account_id, training_id)[1].id
