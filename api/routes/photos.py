"""Photos: presigned uploads that are finished here, or files sent along directly. Good ones are kept whatever the others are."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from anyio import to_thread
from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field, ValidationError
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile as FormFile

from api import intake, views
from api.auth import Caller, SignedIn
from api.erasing import erase_photo
from api.idempotency import IdempotentRoute
from api.paged import Cursor, Limit, listed
from api.state import Shared, State
from core.errors import UserError, not_found
from storage import photos, subjects
from storage.tables import Photo, Subject

router = APIRouter(prefix="/v1/subjects/{subject_id}", tags=["photos"], route_class=IdempotentRoute)

FILES_A_REQUEST = 40
TYPES = ("image/jpeg", "image/png", "image/webp", "image/heic", "image/heif")


class NewFile(BaseModel):
    filename: str = Field(max_length=1000)
    content_type: str = "application/octet-stream"
    size: int | None = Field(None, ge=0, description="Bytes. Some stores take a file only if its size is stated first.")


class NewUploads(BaseModel):
    files: list[NewFile] = Field(min_length=1, max_length=FILES_A_REQUEST)


class Description(BaseModel):
    description: str = Field(max_length=5000, description="Place, light and clothes, not the looks. Empty: as the tagger sees it.")


class Finished(BaseModel):
    upload_ids: list[str] = Field(max_length=FILES_A_REQUEST)


@router.post("/uploads", status_code=201)
def new_uploads(subject_id: str, body: NewUploads, state: Shared, caller: SignedIn) -> dict[str, Any]:
    """A place for each file: send it there as ``method`` says, then POST the ids to ``…/photos``."""
    for file in body.files:
        _check_size(state, file)
    with state.storage.db.session() as session:
        made = [photos.new_upload(session, state.settings, caller.account_id, subject_id, file.filename) for file in body.files]
    return {"uploads": [_form(state, upload.id, upload.object_key, file) for upload, file in zip(made, body.files, strict=True)]}


def _check_size(state: State, file: NewFile) -> None:
    most = state.settings.max_photo_bytes
    if file.size is not None and file.size > most:
        detail = f"{photos.plain_filename(file.filename)}: at most {most // 2**20} MB; export it as a JPEG."
        raise UserError("photo/too-large", "This file is too large", detail, 413)


def _form(state: State, upload_id: str, key: str, file: NewFile) -> dict[str, Any]:
    content_type = file.content_type if file.content_type in TYPES else "application/octet-stream"
    settings = state.settings
    form = state.storage.objects.presign_upload(key, settings.max_photo_bytes, content_type, settings.presign_ttl_s, file.size)
    place = {"method": form.method, "url": form.url, "fields": form.fields, "headers": form.headers}
    return {"id": upload_id, "filename": photos.plain_filename(file.filename)} | place


@router.post("/photos", status_code=201, openapi_extra={"requestBody": {"content": {"application/json": {}, "multipart/form-data": {}}}})
async def add_photos(subject_id: str, request: Request, state: Shared, caller: SignedIn) -> dict[str, Any]:
    """Finish uploads (``{"upload_ids": […]}``) or take files (multipart, field ``files``).

    201 with the photos that were kept and, in ``errors``, the files that could not be; 422 if there was not one to keep.
    """
    subject = await run_in_threadpool(own_subject, state, caller, subject_id)
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        outcomes = await take_form(state, subject, request)
    else:
        upload_ids = _finished(await request.body())
        outcomes = [await _in_photo_thread(state, intake.take_upload, state, caller.account_id, subject, one) for one in upload_ids]
    return await run_in_threadpool(answer, state, subject, outcomes)


def _finished(body: bytes) -> list[str]:
    try:
        return Finished.model_validate_json(body).upload_ids
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from None


async def take_form(state: State, subject: Subject, request: Request) -> list[intake.Outcome]:
    """Each file of a form in turn; one is in memory at a time."""
    form = await request.form(max_files=FILES_A_REQUEST)
    files = [part for part in form.getlist("files") if isinstance(part, FormFile) and part.filename]
    return [await _take(state, subject, file) for file in files]


async def _take(state: State, subject: Subject, file: FormFile) -> intake.Outcome:
    data = await file.read(state.settings.max_photo_bytes + 1)
    return await _in_photo_thread(state, intake.take_file, state, subject, file.filename or "photo", data)


async def _in_photo_thread(state: State, work: Callable[..., intake.Outcome], *args: Any) -> intake.Outcome:
    return await to_thread.run_sync(partial(work, *args), limiter=state.photo_threads)


def own_subject(state: State, caller: Caller, subject_id: str) -> Subject:
    with state.storage.db.reader() as session:
        return subjects.get(session, caller.account_id, subject_id)


def answer(state: State, subject: Subject, outcomes: list[intake.Outcome]) -> dict[str, Any]:
    if not outcomes:
        detail = "Choose 10 to 20 photos and send them in the field «files», or send upload_ids of finished uploads."
        raise UserError("photos/none", "No photo was sent", detail)
    kept = [one for one in outcomes if isinstance(one, Photo)]
    errors = [one.as_dict() for one in outcomes if isinstance(one, intake.Refused)]
    if not kept:
        raise _none_kept(errors)
    items = [views.photo(state.storage, photo) for photo in kept]
    return {"photos": items, "errors": errors, "counts": intake.counts(state, subject.id)}


def _none_kept(errors: list[dict[str, Any]]) -> UserError:
    detail = " ".join(f"{error['filename']}: {error['message']} {error['fix']}" for error in errors[:3])
    return UserError("photos/none-usable", "None of these files could be used", detail, extra={"errors": errors})


@router.get("/photos")
def list_photos(subject_id: str, state: Shared, caller: SignedIn, limit: Limit = 100, cursor: Cursor = None) -> dict[str, Any]:
    with state.storage.db.reader() as session:
        subjects.get(session, caller.account_id, subject_id)
        rows, page = listed(session, photos.of_subject(caller.account_id, subject_id), limit, cursor)
    return page([views.photo(state.storage, row) for row in rows]) | {"counts": intake.counts(state, subject_id)}


@router.patch("/photos/{photo_id}")
def describe(subject_id: str, photo_id: str, body: Description, state: Shared, caller: SignedIn) -> dict[str, Any]:
    """The customer's own description of a scene; the next training uses it in place of the tagger's words."""
    return views.photo(state.storage, set_description(state, caller, subject_id, photo_id, body.description))


def set_description(state: State, caller: Caller, subject_id: str, photo_id: str, text: str) -> Photo:
    with state.storage.db.session() as session:
        _own_photo(session, caller, subject_id, photo_id)
        return photos.describe(session, caller.account_id, photo_id, text)


@router.delete("/photos/{photo_id}")
def erase_one(subject_id: str, photo_id: str, state: Shared, caller: SignedIn) -> dict[str, Any]:
    with state.storage.db.reader() as session:
        _own_photo(session, caller, subject_id, photo_id)
    return erase_photo(state, caller.account_id, photo_id)


def _own_photo(session: Session, caller: Caller, subject_id: str, photo_id: str) -> None:
    if photos.get(session, caller.account_id, photo_id).subject_id != subject_id:
        raise not_found("photo")
