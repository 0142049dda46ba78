"""The local folder store's side of presigned links: S3 answers these itself. Whoever holds the signed token may use it until it expires."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import FileResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from api.limits import FORM_OVERHEAD
from api.state import Shared, State
from core.errors import UserError, not_found
from storage import photos, writing
from storage.folder import FolderStore, Grant

router = APIRouter(prefix="/v1", tags=["objects"], include_in_schema=False)

_TYPES = {"jpg": "image/jpeg", "webp": "image/webp", "png": "image/png", "json": "application/json"}


def folder_of(state: Shared) -> FolderStore:
    if not isinstance(state.storage.objects, FolderStore):
        raise not_found("object")
    return state.storage.objects


Folder = Annotated[FolderStore, Depends(folder_of)]


@router.get("/objects/{token}")
def read(token: str, folder: Folder) -> Response:
    grant = folder.verify(token, "get")
    path = folder.path(grant.key)
    if not path.is_file():
        raise not_found("object")
    media_type = _TYPES.get(path.suffix[1:], "application/octet-stream")
    disposition = "attachment" if grant.filename else "inline"
    headers = {"Cache-Control": "private, max-age=900", "Referrer-Policy": "no-referrer"}
    return FileResponse(path, media_type=media_type, filename=grant.filename, content_disposition_type=disposition, headers=headers)


@router.post("/uploads/{token}", status_code=204)
async def write(token: str, request: Request, state: Shared, folder: Folder) -> None:
    """A form as S3 takes it: the fields that were given, then the file, named ``file``."""
    grant = folder.verify(token, "put")
    form = await request.form(max_files=1)
    file = form.get("file")
    if not isinstance(file, UploadFile):
        raise UserError("upload/no-file", "The form holds no file", "Send the file last, in a field named «file».")
    if (file.size or 0) > grant.max_bytes:
        raise _too_large(state)
    await run_in_threadpool(_store, state, folder, grant, await file.read())


def _store(state: State, folder: FolderStore, grant: Grant, data: bytes) -> None:
    try:
        with writing.announced(state.storage, [grant.key], lambda session: photos.takes_upload(session, grant.key)):
            folder.put(grant.key, data, grant.content_type)
    except writing.OwnerGone:
        raise not_found("upload") from None


def _too_large(state: State) -> UserError:
    most = (state.settings.max_photo_bytes + FORM_OVERHEAD) // 2**20
    return UserError("request/too-large", "Too large", f"A photo may have at most {most} MB. Export it as a JPEG.", 413)
