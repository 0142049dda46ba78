"""Webhooks: where a customer's programs want to be told, what was sent to them, and once more on request."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field

from api import webhook_views
from api.auth import Caller, SignedIn
from api.idempotency import IdempotentRoute
from api.paged import Cursor, Limit, listed
from api.state import Shared, State
from storage import webhooks
from storage.tables import Webhook
from storage.webhook_events import EVENTS, TEST
from storage.webhook_http import Endpoints

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"])
repeatable = APIRouter(route_class=IdempotentRoute)  # POSTs whose answer holds no secret, and may so be remembered


class NewWebhook(BaseModel):
    url: str = Field(max_length=2000, description="https, at a public address. Redirects are not followed.")
    events: list[str] = Field(default=[], max_length=len(EVENTS), description="Types from GET /v1/webhooks/events; empty: all of them.")


def register(state: State, caller: Caller, url: str, events: list[str]) -> Webhook:
    """Looks the name up before the transaction begins: a name server may be slow."""
    checked = Endpoints(state.settings.webhooks_allow_private).check(url)
    with state.storage.db.session() as session:
        return webhooks.create(session, caller.account_id, checked, events)


@router.get("/events")
def list_events() -> dict[str, Any]:
    """Every type of message and what it means."""
    known = EVENTS | {TEST: "Sent on request, to any endpoint."}
    return {"items": [{"type": name, "description": text} for name, text in known.items()], "next_cursor": None}


@router.post("", status_code=201)
def create(body: NewWebhook, state: Shared, caller: SignedIn) -> dict[str, Any]:
    """The only answer that holds the secret, besides a rotation's; so it is not remembered for an Idempotency-Key."""
    webhook = register(state, caller, body.url, body.events)
    return webhook_views.webhook(webhook) | {"secret": webhook.secret}


@router.get("")
def list_all(state: Shared, caller: SignedIn, limit: Limit = 20, cursor: Cursor = None) -> dict[str, Any]:
    with state.storage.db.reader() as session:
        rows, answer = listed(session, webhooks.of_account(caller.account_id), limit, cursor)
    return answer([webhook_views.webhook(row) for row in rows])


@router.get("/{webhook_id}")
def get(webhook_id: str, state: Shared, caller: SignedIn) -> dict[str, Any]:
    with state.storage.db.reader() as session:
        return webhook_views.webhook(webhooks.get(session, caller.account_id, webhook_id))


@router.delete("/{webhook_id}", status_code=204)
def remove(webhook_id: str, state: Shared, caller: SignedIn) -> None:
    """With its log; nothing is sent to it any more."""
    with state.storage.db.session() as session:
        webhooks.remove(session, caller.account_id, webhook_id)


@router.post("/{webhook_id}/rotate-secret")
def rotate_secret(webhook_id: str, state: Shared, caller: SignedIn) -> dict[str, Any]:
    """A new secret. For a day messages carry both signatures, so that a receiver can change over."""
    with state.storage.db.session() as session:
        webhook = webhooks.rotate_secret(session, caller.account_id, webhook_id)
    return webhook_views.webhook(webhook) | {"secret": webhook.secret}


@repeatable.post("/{webhook_id}/test", status_code=202)
def send_test(webhook_id: str, state: Shared, caller: SignedIn) -> dict[str, Any]:
    """Queues a message of type webhook.test; look it up in a few seconds to see what the endpoint answered."""
    with state.storage.db.session() as session:
        return webhook_views.delivery(webhooks.send_test(session, caller.account_id, webhook_id))


@router.get("/{webhook_id}/deliveries")
def list_deliveries(webhook_id: str, state: Shared, caller: SignedIn, limit: Limit = 20, cursor: Cursor = None) -> dict[str, Any]:
    """What was sent in the last 30 days, newest first, with every attempt."""
    with state.storage.db.reader() as session:
        webhooks.get(session, caller.account_id, webhook_id)
        rows, answer = listed(session, webhooks.deliveries(caller.account_id, webhook_id), limit, cursor)
    return answer([webhook_views.delivery(row) for row in rows])


@router.get("/{webhook_id}/deliveries/{delivery_id}")
def get_delivery(webhook_id: str, delivery_id: str, state: Shared, caller: SignedIn) -> dict[str, Any]:
    with state.storage.db.reader() as session:
        return webhook_views.delivery(webhooks.get_delivery(session, caller.account_id, webhook_id, delivery_id))


@repeatable.post("/{webhook_id}/deliveries/{delivery_id}/replay", status_code=202)
def replay(webhook_id: str, delivery_id: str, state: Shared, caller: SignedIn) -> dict[str, Any]:
    """Sends it once more, under the same webhook-id."""
    with state.storage.db.session() as session:
        return webhook_views.delivery(webhooks.replay(session, caller.account_id, webhook_id, delivery_id))


router.include_router(repeatable)
