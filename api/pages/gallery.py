"""A subject's portraits: ask for more, look, download, erase."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Form, Request
from fastapi.responses import RedirectResponse, Response
from pydantic import ValidationError

from api import views
from api.auth import Caller, SignedIn
from api.erasing import erase
from api.pages.common import latest_training, new_router, newest_adapter, running_id, see
from api.rendering import render
from api.routes.adapters import download_url
from api.routes.portraits import NewPortrait, start, start_enlarging
from api.state import Shared, State
from core.bases import modes_of
from core.errors import UserError
from core.poses import POINTS, Pose, pose_bank
from core.styles import offered
from core.words import JobKind, Mode
from storage import adapters, photos, portraits, subjects, watching
from storage.paging import page
from storage.tables import Adapter, Job, Portrait, PortraitImage, Subject

router = new_router()

PORTRAITS_A_PAGE = 12
Text = Annotated[str, Form(max_length=2000)]


def show_gallery(
    request: Request, state: State, caller: Caller, subject: Subject, adapter: Adapter, cursor: str | None, error: UserError | None = None
) -> Response:
    with state.storage.db.reader() as session:
        found = page(session, portraits.of_account(caller.account_id, adapter.id), PORTRAITS_A_PAGE, cursor)
        ids = [row.id for row in found.items]
        jobs, images = watching.jobs_of(session, ids), portraits.images(session, ids)
        typical = watching.typical_seconds(session, JobKind.PORTRAIT)
        running = running_id(latest_training(session, subject.id))
    cards = [_card(state, row, jobs[row.id], images[row.id]) for row in found.items]
    facts = {"subject": subject, "adapter": adapter, "portraits": cards, "next_cursor": found.next_cursor, "typical": typical}
    facts |= {"samples": views.samples(state.storage, adapter), "running": running, "error": error}
    facts |= _choices(state, caller, subject)
    status = error.status if error else 200
    return render(request, "gallery.html", status, **facts, styles=list(offered(state.settings).values()))


def _choices(state: State, caller: Caller, subject: Subject) -> dict[str, Any]:
    """What this base model can do besides styles: poses by framing, photos to draw from."""
    modes = modes_of(state.settings)
    framings: dict[str, list[Pose]] = {}
    references: list[dict[str, Any]] = []
    if Mode.POSE in modes:
        for pose in pose_bank().values():
            framings.setdefault(pose.framing, []).append(pose)
    if Mode.REFERENCE in modes:
        with state.storage.db.reader() as session:
            references = [views.photo(state.storage, row) for row in photos.usable(session, subject.id)]
    return {"framings": framings, "references": references, "point_colours": POINTS}


def _card(state: State, row: Portrait, job: Job, images: list[PortraitImage]) -> dict[str, Any]:
    style = offered(state.settings).get(row.style or "")
    return views.portrait(state.storage, row, job, images) | {"style_title": style.title if style else row.style}


@router.post("/subjects/{subject_id}/portraits")
def make(
    request: Request, subject_id: str, state: Shared, caller: SignedIn, adapter_id: Text, style: Text = "", prompt: Text = "",
    count: Text = "1", seed: Text = "", lora_scale: Text = "", guidance_scale: Text = "", num_inference_steps: Text = "",
    pose: Text = "", reference_photo: Text = "", ranked: Text = "",
) -> Response:  # fmt: skip
    numbers = {"seed": seed, "lora_scale": lora_scale, "guidance_scale": guidance_scale, "num_inference_steps": num_inference_steps}
    words = {"style": style} if style else {"prompt": prompt}
    wishes = {"pose": pose, "reference_photo": reference_photo, "best_of": count if ranked == "yes" and count != "1" else ""}
    asked = {"adapter_id": adapter_id, "count": count, **words}
    asked |= {name: value for name, value in (numbers | wishes).items() if value.strip()}
    try:
        portrait, _job = start(state, caller, _parsed(asked))
    except UserError as error:
        return _again(request, state, caller, subject_id, error)
    return see(f"/subjects/{subject_id}#{portrait.id}")


def _parsed(asked: dict[str, str]) -> NewPortrait:
    try:
        return NewPortrait.model_validate(asked)
    except ValidationError as error:
        items = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()]
        raise UserError("request/invalid", "Some fields need another look", "; ".join(items)) from None


def _again(request: Request, state: State, caller: Caller, subject_id: str, error: UserError) -> Response:
    with state.storage.db.reader() as session:
        subject = subjects.get(session, caller.account_id, subject_id)
        adapter = newest_adapter(session, caller.account_id, subject_id)
    if adapter is None:
        raise error
    return show_gallery(request, state, caller, subject, adapter, None, error)


@router.get("/portraits/{portrait_id}/card")
def card(request: Request, portrait_id: str, state: Shared, caller: SignedIn) -> Response:
    """The part of the page that changes as pictures arrive."""
    with state.storage.db.reader() as session:
        portrait, job = portraits.get(session, caller.account_id, portrait_id)
        images = portraits.images(session, [portrait_id])[portrait_id]
        subject = _subject_of(state, caller, portrait)
    return render(request, "_portrait.html", portrait=_card(state, portrait, job, images), subject=subject)


@router.post("/portraits/{portrait_id}/images/{n}/upscale")
def upscale(portrait_id: str, n: int, state: Shared, caller: SignedIn) -> Response:
    portrait, _job = start_enlarging(state, caller, portrait_id, n)
    return see(f"/subjects/{_subject_of(state, caller, portrait).id}#{portrait.id}")


@router.post("/portraits/{portrait_id}/cancel")
def cancel(portrait_id: str, state: Shared, caller: SignedIn) -> Response:
    with state.storage.db.session() as session:
        portrait, _job = portraits.cancel(session, caller.account_id, portrait_id)
    return see(f"/subjects/{_subject_of(state, caller, portrait).id}#{portrait_id}")


@router.post("/portraits/{portrait_id}/erase")
def erase_one(portrait_id: str, state: Shared, caller: SignedIn) -> Response:
    return see(f"/receipts/{erase(state, caller.account_id, 'portrait', portrait_id)['id']}")


@router.get("/adapters/{adapter_id}/download")
def download(adapter_id: str, state: Shared, caller: SignedIn) -> Response:
    return RedirectResponse(download_url(state, caller, adapter_id), status_code=303)


@router.post("/adapters/{adapter_id}/erase")
def erase_adapter(adapter_id: str, state: Shared, caller: SignedIn) -> Response:
    return see(f"/receipts/{erase(state, caller.account_id, 'adapter', adapter_id)['id']}")


def _subject_of(state: State, caller: Caller, portrait: Portrait) -> Subject:
    with state.storage.db.reader() as session:
        adapter = adapters.get(session, caller.account_id, portrait.adapter_id or "")
        return subjects.get(session, caller.account_id, adapter.subject_id)
