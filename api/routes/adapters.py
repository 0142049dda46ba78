"""Adapters: the LoRA weights of a subject, to look at, to take along, to erase."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import RedirectResponse

from api import views
from api.auth import Caller, SignedIn
from api.erasing import erase
from api.paged import Cursor, Limit, listed
from api.state import Shared, State
from storage import adapters

router = APIRouter(prefix="/v1/adapters", tags=["adapters"])


@router.get("")
def list_all(state: Shared, caller: SignedIn, subject_id: str | None = None, limit: Limit = 20, cursor: Cursor = None) -> dict[str, Any]:
    with state.storage.db.reader() as session:
        rows, answer = listed(session, adapters.of_account(caller.account_id, subject_id), limit, cursor)
    return answer([views.adapter(state.storage, row) for row in rows])


@router.get("/{adapter_id}")
def get(adapter_id: str, state: Shared, caller: SignedIn) -> dict[str, Any]:
    with state.storage.db.reader() as session:
        return views.adapter(state.storage, adapters.get(session, caller.account_id, adapter_id))


@router.get("/{adapter_id}/download", status_code=303)
def download(adapter_id: str, state: Shared, caller: SignedIn) -> RedirectResponse:
    """Redirects to the safetensors file (diffusers keys), for a few minutes."""
    return RedirectResponse(download_url(state, caller, adapter_id), status_code=303)


def download_url(state: State, caller: Caller, adapter_id: str) -> str:
    with state.storage.db.reader() as session:
        adapter = adapters.get(session, caller.account_id, adapter_id)
    return views.link(state.storage, adapter.object_key, f"{adapter.class_word.replace(' ', '-')}-{adapter.id}.safetensors")


@router.delete("/{adapter_id}")
def erase_one(adapter_id: str, state: Shared, caller: SignedIn) -> dict[str, Any]:
    """Erases the weights, the portraits made with them, and copies in workers' caches; answers with the receipt."""
    return erase(state, caller.account_id, "adapter", adapter_id)
