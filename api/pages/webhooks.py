"""Webhooks by hand: list, add, look at the log, test, send once more, change the secret, remove."""

from __future__ import annotations

from typing import Annotated

from fastapi import Form, Request
from fastapi.responses import Response

from api import webhook_views
from api.auth import Caller, SignedIn
from api.paged import Cursor
from api.pages.common import new_router, see
from api.rendering import render
from api.routes.webhooks import register
from api.state import Shared, State
from core.errors import UserError
from storage import webhooks
from storage.paging import page
from storage.webhook_events import EVENTS

router = new_router()

SHOWN = 25
Text = Annotated[str, Form(max_length=2000)]
Chosen = Annotated[list[str] | None, Form(max_length=len(EVENTS))]


@router.get("/account/webhooks")
def show_all(request: Request, state: Shared, caller: SignedIn) -> Response:
    return _list_page(request, state, caller)


@router.post("/account/webhooks")
def add(request: Request, state: Shared, caller: SignedIn, url: Text, events: Chosen = None) -> Response:
    """Answers with the webhook's page itself instead of a redirect: the secret is shown this once."""
    try:
        webhook = register(state, caller, url, events or [])
    except UserError as error:
        return _list_page(request, state, caller, error, url, events or [])
    return _page(request, state, caller, webhook.id, secret=webhook.secret)


@router.get("/account/webhooks/{webhook_id}")
def show(request: Request, webhook_id: str, state: Shared, caller: SignedIn, cursor: Cursor = None) -> Response:
    return _page(request, state, caller, webhook_id, cursor)


@router.post("/account/webhooks/{webhook_id}/test")
def send_test(webhook_id: str, state: Shared, caller: SignedIn) -> Response:
    with state.storage.db.session() as session:
        webhooks.send_test(session, caller.account_id, webhook_id)
    return see(f"/account/webhooks/{webhook_id}#log")


@router.post("/account/webhooks/{webhook_id}/deliveries/{delivery_id}/replay")
def replay(webhook_id: str, delivery_id: str, state: Shared, caller: SignedIn) -> Response:
    with state.storage.db.session() as session:
        webhooks.replay(session, caller.account_id, webhook_id, delivery_id)
    return see(f"/account/webhooks/{webhook_id}#log")


@router.post("/account/webhooks/{webhook_id}/rotate-secret")
def rotate(request: Request, webhook_id: str, state: Shared, caller: SignedIn) -> Response:
    with state.storage.db.session() as session:
        secret = webhooks.rotate_secret(session, caller.account_id, webhook_id).secret
    return _page(request, state, caller, webhook_id, secret=secret)


@router.post("/account/webhooks/{webhook_id}/remove")
def remove(webhook_id: str, state: Shared, caller: SignedIn) -> Response:
    with state.storage.db.session() as session:
        webhooks.remove(session, caller.account_id, webhook_id)
    return see("/account/webhooks")


def _list_page(
    request: Request, state: State, caller: Caller, error: UserError | None = None, url: str = "", chosen: list[str] | None = None
) -> Response:
    with state.storage.db.reader() as session:
        found = page(session, webhooks.of_account(caller.account_id), 100).items
    status = error.status if error else 200
    return render(request, "webhooks.html", status, webhooks=found, events=EVENTS, error=error, url=url, chosen=chosen or [])


def _page(
    request: Request, state: State, caller: Caller, webhook_id: str, cursor: str | None = None, secret: str | None = None
) -> Response:
    with state.storage.db.reader() as session:
        webhook = webhooks.get(session, caller.account_id, webhook_id)
        log = page(session, webhooks.deliveries(caller.account_id, webhook_id), SHOWN, cursor)
    deliveries = [webhook_views.delivery(row) for row in log.items]
    return render(request, "webhook.html", webhook=webhook, deliveries=deliveries, next_cursor=log.next_cursor, secret=secret)
