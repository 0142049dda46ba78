"""A customer's endpoints for webhooks, and the log of what was sent to them."""

from __future__ import annotations

import base64
import secrets
from datetime import timedelta

from sqlalchemy import Select, delete, func, select
from sqlalchemy.orm import Session

from core.errors import UserError, not_found
from core.words import new_id
from storage import subjects
from storage.locks import hold_account
from storage.tables import Webhook, WebhookDelivery, now
from storage.webhook_events import EVENTS, TEST, queue

PER_ACCOUNT = 10
OLD_SECRET_SIGNS = timedelta(hours=24)


def create(session: Session, account_id: str, url: str, events: list[str] | None = None) -> Webhook:
    """``url`` as :meth:`storage.webhook_http.Endpoints.check` returned it; ``events``: none or empty for all. ``secret`` is in the row."""
    subjects.open_account(session, account_id)
    if (session.scalar(select(func.count()).where(Webhook.account_id == account_id)) or 0) >= PER_ACCOUNT:
        raise UserError("webhooks/too-many", "Too many webhooks", f"Remove one: an account has at most {PER_ACCOUNT}.", status=409)
    webhook = Webhook(id=new_id("whk"), account_id=account_id, url=url, secret=new_secret(), events=_known(events or []), created_at=now())
    session.add(webhook)
    session.flush()
    return webhook


def of_account(account_id: str) -> Select[Webhook]:
    """For :func:`storage.paging.page`."""
    return select(Webhook).where(Webhook.account_id == account_id)


def get(session: Session, account_id: str, webhook_id: str) -> Webhook:
    webhook = session.get(Webhook, webhook_id)
    if webhook is None or webhook.account_id != account_id:
        raise not_found("webhook")
    return webhook


def remove(session: Session, account_id: str, webhook_id: str) -> None:
    """Its log goes with it."""
    hold_account(session, account_id)
    get(session, account_id, webhook_id)
    session.execute(delete(WebhookDelivery).where(WebhookDelivery.webhook_id == webhook_id))
    session.execute(delete(Webhook).where(Webhook.id == webhook_id))


def rotate_secret(session: Session, account_id: str, webhook_id: str) -> Webhook:
    """A new secret; for a day both sign, so that a receiver misses nothing while it changes over."""
    webhook = get(session, account_id, webhook_id)
    webhook.previous_secret, webhook.previous_until = webhook.secret, now() + OLD_SECRET_SIGNS
    webhook.secret = new_secret()
    return webhook


def signing_secrets(webhook: Webhook) -> list[str]:
    old = webhook.previous_secret if webhook.previous_until and webhook.previous_until > now() else None
    return [webhook.secret, old] if old else [webhook.secret]


def send_test(session: Session, account_id: str, webhook_id: str) -> WebhookDelivery:
    """Goes out with the next pass of the scheduler, like every other."""
    return queue(session, get(session, account_id, webhook_id), TEST, {"webhook_id": webhook_id})


def deliveries(account_id: str, webhook_id: str) -> Select[WebhookDelivery]:
    """The log, for :func:`storage.paging.page`."""
    return select(WebhookDelivery).where(WebhookDelivery.account_id == account_id, WebhookDelivery.webhook_id == webhook_id)


def get_delivery(session: Session, account_id: str, webhook_id: str, delivery_id: str) -> WebhookDelivery:
    delivery = session.get(WebhookDelivery, delivery_id)
    if delivery is None or (delivery.account_id, delivery.webhook_id) != (account_id, webhook_id):
        raise not_found("delivery")
    return delivery


def replay(session: Session, account_id: str, webhook_id: str, delivery_id: str) -> WebhookDelivery:
    """Send it once more under the same ``webhook-id``, with all its attempts. ``webhook/still-trying`` (409) while it waits for one."""
    delivery = get_delivery(session, account_id, webhook_id, delivery_id)
    if delivery.delivered_at is None and delivery.failed_at is None:
        raise UserError("webhook/still-trying", "This delivery is still being tried", "See next_attempt_at for when.", status=409)
    delivery.delivered_at = delivery.failed_at = None
    delivery.attempts, delivery.next_attempt_at = 0, now()
    return delivery


def new_secret() -> str:
    """As Standard Webhooks writes it: 32 random bytes."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


def _known(events: list[str]) -> list[str]:
    unknown = sorted(set(events) - set(EVENTS))
    if unknown:
        detail = f"There is no {unknown[0]!r:.80}. Choose among {', '.join(EVENTS)}, or send an empty list for all."
        raise UserError("webhook/events", "Unknown event", detail)
    return sorted(set(events), key=list(EVENTS).index)
