"""The account itself: who it is, its keys, everything of it in one file, and its erasure."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import FileResponse
from pydantic import BaseModel, Field
from starlette.background import BackgroundTask

from api import views
from api.auth import Caller, SignedIn, clear_session
from api.erasing import erase, receipt_json
from api.paged import Cursor, Limit, listed
from api.state import Shared, State
from storage import accounts, export, watching

router = APIRouter(prefix="/v1", tags=["account"])


class NewKey(BaseModel):
    name: str = Field(max_length=200)


@router.get("/account")
def get(state: Shared, caller: SignedIn) -> dict[str, Any]:
    """``retention``: days that things are kept without being used; null: until they are erased. A mail comes ``notice_days`` before."""
    kept = {name: getattr(state.settings, name) or None for name in ("photos_kept_days", "portraits_kept_days", "idle_account_days")}
    return {"id": caller.account_id, "email": caller.email, "retention": kept | {"notice_days": state.settings.retention_notice_days}}


@router.get("/account/export")
def export_all(state: Shared, caller: SignedIn) -> FileResponse:
    """A zip of all rows (``data.json``), photos, adapters and portraits."""
    return export_file(state, caller)


def export_file(state: State, caller: Caller) -> FileResponse:
    scratch = state.settings.var_dir / "exports"
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=scratch, suffix=".zip", delete=False) as file:
        path = Path(file.name)
    try:
        export.export(state.storage, caller.account_id, path)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return FileResponse(path, filename="likeness-export.zip", media_type="application/zip", background=BackgroundTask(path.unlink, True))


@router.delete("/account")
def erase_account(state: Shared, caller: SignedIn, response: Response) -> dict[str, Any]:
    """Erases everything and the account; answers with the signed receipt, and signs out."""
    receipt = erase(state, caller.account_id, "account", caller.account_id)
    clear_session(response)
    return receipt


@router.get("/receipts/{receipt_id}")
def get_receipt(receipt_id: str, state: Shared) -> dict[str, Any]:
    with state.storage.db.reader() as session:
        return receipt_json(watching.receipt(session, receipt_id))


@router.post("/api-keys", status_code=201)
def create_key(body: NewKey, state: Shared, caller: SignedIn) -> dict[str, Any]:
    """The only answer that holds the key itself; so it is not remembered for an Idempotency-Key."""
    with state.storage.db.session() as session:
        row, key = accounts.create_api_key(session, caller.account_id, body.name)
    return views.api_key(row) | {"key": key}


@router.get("/api-keys")
def list_keys(state: Shared, caller: SignedIn, limit: Limit = 20, cursor: Cursor = None) -> dict[str, Any]:
    with state.storage.db.reader() as session:
        rows, answer = listed(session, accounts.api_keys(caller.account_id), limit, cursor)
    return answer([views.api_key(row) for row in rows])


@router.delete("/api-keys/{key_id}", status_code=204)
def revoke_key(key_id: str, state: Shared, caller: SignedIn) -> None:
    with state.storage.db.session() as session:
        accounts.revoke_api_key(session, caller.account_id, key_id)
