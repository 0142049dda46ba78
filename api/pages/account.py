"""The account's own page: keys for programs, export, erasure; and receipts."""

from __future__ import annotations

from typing import Annotated

from fastapi import Form, Request
from fastapi.responses import Response

from api.auth import Caller, MaybeSignedIn, SignedIn, clear_session
from api.erasing import erase, receipt_json
from api.pages.common import new_router, see
from api.rendering import render
from api.routes.account import export_file
from api.state import Shared, State
from core.errors import UserError
from storage import accounts, watching
from storage.paging import page

router = new_router()

Text = Annotated[str, Form(max_length=200)]


@router.get("/account")
def show(request: Request, state: Shared, caller: SignedIn) -> Response:
    return _page(request, state, caller)


def _page(request: Request, state: State, caller: Caller, new_key: str | None = None) -> Response:
    with state.storage.db.reader() as session:
        keys = page(session, accounts.api_keys(caller.account_id), 100).items
    return render(request, "account.html", keys=keys, new_key=new_key)


@router.post("/account/keys")
def create_key(request: Request, state: Shared, caller: SignedIn, name: Text) -> Response:
    """Answers with the page itself instead of a redirect: the key is shown this once."""
    with state.storage.db.session() as session:
        _row, key = accounts.create_api_key(session, caller.account_id, name)
    return _page(request, state, caller, key)


@router.post("/account/keys/{key_id}/revoke")
def revoke_key(key_id: str, state: Shared, caller: SignedIn) -> Response:
    with state.storage.db.session() as session:
        accounts.revoke_api_key(session, caller.account_id, key_id)
    return see("/account")


@router.get("/account/export")
def export(state: Shared, caller: SignedIn) -> Response:
    return export_file(state, caller)


@router.post("/account/erase")
def erase_account(state: Shared, caller: SignedIn, sure: Text = "") -> Response:
    if sure != "yes":
        raise UserError("account/not-sure", "Nothing was erased", "Tick the box first, then erase.", status=422)
    response = see(f"/receipts/{erase(state, caller.account_id, 'account', caller.account_id)['id']}")
    clear_session(response)
    return response


@router.get("/receipts/{receipt_id}")
def show_receipt(request: Request, receipt_id: str, state: Shared, caller: MaybeSignedIn) -> Response:
    with state.storage.db.reader() as session:
        receipt = watching.receipt(session, receipt_id)
    return render(request, "receipt.html", receipt=receipt_json(receipt))
