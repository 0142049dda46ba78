"""Signing in by a link: the mail carries a single-use token; the page behind the link only shows a button, whose POST uses it."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, Field

from api.auth import COOKIE, clear_session, refuse_other_sites, set_session
from api.state import Shared, State
from storage import accounts

router = APIRouter(prefix="/v1", tags=["sign-in"])


class SignIn(BaseModel):
    email: str = Field(max_length=320)


class Confirm(BaseModel):
    token: str = Field(max_length=200)


@router.post("/sign-in", status_code=202)
def ask_for_link(body: SignIn, state: Shared) -> dict[str, str]:
    """Sends a link. The answer is the same whether or not the address is known."""
    send_link(state, body.email)
    return {"status": "sent", "detail": "If the address is right, a link is on its way."}


@router.post("/sign-in/confirm")
def confirm(body: Confirm, state: Shared, response: Response) -> dict[str, str]:
    """Uses the link's token once and sets the session cookie, as the page's button does."""
    return use_link(state, body.token, response)


@router.post("/sign-out", status_code=204, dependencies=[Depends(refuse_other_sites)])
def sign_out(request: Request, state: Shared, response: Response) -> None:
    end_session(state, request.cookies.get(COOKIE), response)


def send_link(state: State, email: str) -> None:
    """The mail is committed with the token; the scheduler sends it within seconds."""
    with state.storage.db.session() as session:
        accounts.request_sign_in(session, email, state.settings.sign_in_ttl_s)


def use_link(state: State, token: str, response: Response) -> dict[str, str]:
    with state.storage.db.session() as session:
        account, session_token = accounts.consume_sign_in(session, token, state.settings.session_ttl_s)
    set_session(response, state, session_token)
    return {"id": account.id, "email": account.email}


def end_session(state: State, token: str | None, response: Response) -> None:
    if token:
        with state.storage.db.session() as session:
            accounts.sign_out(session, token)
    clear_session(response)
