"""Portraits: ask for pictures, watch them come, take them back. And the catalogue of styles."""

from __future__ import annotations

import io
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from PIL import Image
from pydantic import BaseModel, Field
from sse_starlette import EventSourceResponse

from api import views
from api.auth import Caller, SignedIn
from api.erasing import erase
from api.idempotency import IdempotentRoute
from api.paged import Cursor, Limit, listed
from api.routes.streams import stream
from api.state import Shared, State
from core.bases import modes_of
from core.poses import pose_bank
from core.styles import offered
from core.words import Mode
from diffusion.credentials import credentials_of
from diffusion.provenance import marked_jpeg
from storage import portraits, watching
from storage.tables import Job, Portrait
from storage.wishes import Wishes

router = APIRouter(prefix="/v1/portraits", tags=["portraits"], route_class=IdempotentRoute)
styles_router = APIRouter(prefix="/v1/styles", tags=["portraits"])


class NewPortrait(BaseModel):
    """Exactly one of ``style`` and ``prompt``. Without ``adapter_id`` the bare base model renders ``class_word``."""

    adapter_id: str | None = Field(None, max_length=40)
    style: str | None = Field(None, max_length=40)
    prompt: str | None = Field(None, max_length=2000)
    class_word: str = Field("subject", max_length=40)
    seed: int | None = Field(None, ge=0, lt=2**31)
    count: int = 1
    lora_scale: float | None = Field(None, ge=0, le=2)
    guidance_scale: float | None = Field(None, ge=0, le=20)
    num_inference_steps: int | None = Field(None, ge=1, le=100)
    pose: str | None = Field(None, max_length=40, description="A name of /v1/poses, where the base model takes poses.")
    reference_photo: str | None = Field(None, max_length=40, description="A photo's id or «largest»: drawn from, besides the adapter.")
    best_of: int | None = Field(None, description="Renders so many, keeps all, the most alike first. Costs as much as so many pictures.")
    redraw: bool | None = Field(
        None, description="Draw a picture that is not alike again, from another seed. Default: unless a seed or best_of is given."
    )

    def wishes(self) -> Wishes:
        return Wishes(self.pose, self.reference_photo, self.best_of, self.redraw)

    def params(self) -> dict[str, Any]:
        return self.model_dump(include={"lora_scale", "guidance_scale", "num_inference_steps"}, exclude_none=True)


def start(state: State, caller: Caller, body: NewPortrait) -> tuple[Portrait, Job]:
    """Commits, then has the workers told; if the broker is down the scheduler tells them later."""
    asked = body.model_dump(include={"adapter_id", "style", "prompt", "seed", "count", "class_word"})
    with state.storage.db.session() as session:
        portrait, job = portraits.create(session, state.settings, caller.account_id, **asked, params=body.params(), wishes=body.wishes())
    state.teller.tell(job)
    return portrait, job


@router.post("", status_code=201)
def create(body: NewPortrait, state: Shared, caller: SignedIn) -> dict[str, Any]:
    portrait, job = start(state, caller, body)
    return views.portrait(state.storage, portrait, job, [])


@router.get("")
def list_all(state: Shared, caller: SignedIn, adapter_id: str | None = None, limit: Limit = 20, cursor: Cursor = None) -> dict[str, Any]:
    with state.storage.db.reader() as session:
        rows, answer = listed(session, portraits.of_account(caller.account_id, adapter_id), limit, cursor)
        ids = [row.id for row in rows]
        its_jobs, images = watching.jobs_of(session, ids), portraits.images(session, ids)
    return answer([views.portrait(state.storage, row, its_jobs[row.id], images[row.id]) for row in rows])


@router.get("/{portrait_id}")
def get(portrait_id: str, state: Shared, caller: SignedIn) -> dict[str, Any]:
    with state.storage.db.reader() as session:
        portrait, job = portraits.get(session, caller.account_id, portrait_id)
        images = portraits.images(session, [portrait.id])[portrait.id]
    return views.portrait(state.storage, portrait, job, images)


@router.post("/{portrait_id}/cancel")
def cancel(portrait_id: str, state: Shared, caller: SignedIn) -> dict[str, Any]:
    with state.storage.db.session() as session:
        portrait, job = portraits.cancel(session, caller.account_id, portrait_id)
        images = portraits.images(session, [portrait.id])[portrait.id]
    return views.portrait(state.storage, portrait, job, images)


@router.post("/{portrait_id}/images/{n}/upscale", status_code=201)
def upscale(portrait_id: str, n: int, state: Shared, caller: SignedIn) -> dict[str, Any]:
    """A new portrait: this picture at twice its size."""
    portrait, job = start_enlarging(state, caller, portrait_id, n)
    return views.portrait(state.storage, portrait, job, [])


def start_enlarging(state: State, caller: Caller, portrait_id: str, n: int) -> tuple[Portrait, Job]:
    with state.storage.db.session() as session:
        portrait, job = portraits.enlarge(session, caller.account_id, portrait_id, n)
    state.teller.tell(job)
    return portrait, job


@router.get("/{portrait_id}/images/{n}.jpg", response_class=Response)
def jpeg(portrait_id: str, n: int, state: Shared, caller: SignedIn) -> Response:
    """The picture as JPEG, for those who take no PNG; it carries the same marks, and is signed anew where a certificate is set."""
    with state.storage.db.reader() as session:
        key = portraits.get_image(session, caller.account_id, portrait_id, n).object_key
    with Image.open(io.BytesIO(state.storage.objects.get(key))) as image:
        data = marked_jpeg(image)
    credentials = credentials_of(state.settings)
    if credentials:
        data = credentials.sign(data, "image/jpeg")
    headers = {"Content-Disposition": f'attachment; filename="{portrait_id}-{n}.jpg"', "Cache-Control": "private, no-store"}
    return Response(data, media_type="image/jpeg", headers=headers)


@router.get("/{portrait_id}/events")
async def events(portrait_id: str, request: Request, state: Shared, caller: SignedIn) -> EventSourceResponse:
    return stream(state, request, await run_in_threadpool(_job_id, state, caller, portrait_id))


def _job_id(state: State, caller: Caller, portrait_id: str) -> str:
    with state.storage.db.reader() as session:
        return portraits.get(session, caller.account_id, portrait_id)[1].id


@router.delete("/{portrait_id}")
def erase_one(portrait_id: str, state: Shared, caller: SignedIn) -> dict[str, Any]:
    return erase(state, caller.account_id, "portrait", portrait_id)


@styles_router.get("")
def list_styles(state: Shared) -> dict[str, Any]:
    """Those that this service's base model can render, the operator's own among them."""
    return {"items": [views.style(style) for style in offered(state.settings).values()], "next_cursor": None}


poses_router = APIRouter(prefix="/v1/poses", tags=["portraits"])


@poses_router.get("")
def list_poses(state: Shared) -> dict[str, Any]:
    """The pose bank; empty where the base model takes no poses."""
    takes = Mode.POSE in modes_of(state.settings)
    return {"items": [pose.model_dump(mode="json") for pose in pose_bank().values()] if takes else [], "next_cursor": None}
