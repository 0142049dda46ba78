"""Sends webhook deliveries that are due, signed as Standard Webhooks says (https://www.standardwebhooks.com).

At least once, each with its stable ``webhook-id``: a sender that dies before noting the answer leaves the delivery to the next one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, select
from standardwebhooks.webhooks import Webhook as Signer

from core.logs import get_logger
from storage import outgoing
from storage.tables import Webhook, WebhookDelivery, now
from storage.webhook_http import TOTAL_S, Endpoints, NotDelivered
from storage.webhooks import signing_secrets
from storage.wiring import Storage

log = get_logger("storage.webhooks")

BACKOFF = outgoing.Backoff(first_s=5.0, factor=4.0, longest_s=6 * 3600.0)  # 5 s, 20 s, 80 s, 5 min, 21 min, 85 min, 5.7 h, then each 6 h
AT_ONCE, EACH = 8, 2  # deliveries side by side, and of those to one endpoint: a slow one must not hold up the others
PASS_S = 5.0  # no new round after so long: the scheduler has other chores
SENDING_S = 60.0
ATTEMPTS_SHOWN = 30


def deliver_due(storage: Storage, endpoints: Endpoints | None = None) -> int:
    """Send what is due; how many were taken. Ends within ``PASS_S`` and one attempt's time."""
    endpoints = endpoints or Endpoints(storage.settings.webhooks_allow_private)
    ends, delivered = time.monotonic() + PASS_S, 0
    with _threads() as pool:
        while time.monotonic() < ends and (taken := [one for one in due(storage) if outgoing.take(storage, one, SENDING_S)]):
            attempts = [pool.submit(_attempt, storage, one, endpoints) for one in taken]
            done = wait(attempts, timeout=TOTAL_S * 2).done  # what hangs in a name server notes its end by itself
            delivered += sum(attempt.result() for attempt in done)
    return delivered


def due(storage: Storage) -> list[WebhookDelivery]:
    """The longest waiting, of each endpoint no more than ``EACH``."""
    waiting = (outgoing.waits(WebhookDelivery), WebhookDelivery.next_attempt_at <= now())
    place = func.row_number().over(partition_by=WebhookDelivery.webhook_id, order_by=WebhookDelivery.next_attempt_at).label("place")
    first = select(WebhookDelivery.id, place).where(*waiting).subquery()
    query = select(WebhookDelivery).join(first, first.c.id == WebhookDelivery.id).where(first.c.place <= EACH)
    with storage.db.reader() as session:
        return list(session.scalars(query.order_by(WebhookDelivery.next_attempt_at).limit(AT_ONCE)))


def signed_headers(webhook: Webhook, delivery_id: str, at: datetime, body: str) -> dict[str, str]:
    signatures = " ".join(Signer(secret).sign(delivery_id, at, body) for secret in signing_secrets(webhook))
    names = {"webhook-id": delivery_id, "webhook-timestamp": str(int(at.timestamp())), "webhook-signature": signatures}
    return names | {"Content-Type": "application/json", "User-Agent": "Likeness-Webhooks/1", "Accept": "*/*"}


def _attempt(storage: Storage, delivery: WebhookDelivery, endpoints: Endpoints) -> bool:
    with storage.db.reader() as session:
        webhook = session.get(Webhook, delivery.webhook_id)
    if webhook is None:  # removed or erased meanwhile
        return False
    body, at, began = json.dumps(delivery.payload, ensure_ascii=False, separators=(",", ":")), now(), time.monotonic()
    status, reason = None, ""
    try:
        status = endpoints.post(webhook.url, signed_headers(webhook, delivery.id, at, body), body.encode())
        reason = _complaint(status)
    except NotDelivered as error:
        reason = str(error)
    except Exception as error:
        log.exception("webhook cannot be sent", delivery=delivery.id)
        reason = f"a fault on our side: {type(error).__name__}"
    tried = {"at": at.isoformat(timespec="seconds"), "status": status, "error": reason, "seconds": round(time.monotonic() - began, 3)}
    _note(storage, delivery, status, reason, [*delivery.history, tried][-ATTEMPTS_SHOWN:])
    return not reason


def _complaint(status: int) -> str:
    if 200 <= status < 300:
        return ""
    if 300 <= status < 400:
        return f"answered {status}: redirects are not followed, so register the final address"
    if status == 410:
        return "answered 410: the receiver wants no more of these"
    return f"answered {status}"


def _note(storage: Storage, delivery: WebhookDelivery, status: int | None, reason: str, history: list[Any]) -> None:
    values: dict[str, Any] = {"last_status": status, "last_error": reason[:2000], "history": history}
    if not reason:
        values["delivered_at"] = now()
    elif status == 410 or delivery.attempts >= outgoing.most_attempts(storage.settings, BACKOFF):
        values["failed_at"] = now()
        log.warning("webhook given up", delivery=delivery.id, reason=reason, attempts=delivery.attempts)
    else:
        values["next_attempt_at"] = now() + timedelta(seconds=BACKOFF.wait_s(delivery.attempts))
    outgoing.note(storage, delivery, **values)


@contextmanager
def _threads() -> Iterator[ThreadPoolExecutor]:
    pool = ThreadPoolExecutor(AT_ONCE, "webhook")
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
