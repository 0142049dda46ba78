"""Webhooks and their log as programs and pages read them."""

from __future__ import annotations

from api.views import Json, moment
from storage.tables import Webhook, WebhookDelivery


def webhook(row: Webhook) -> Json:
    """Without the secret, which is shown once."""
    path = f"/v1/webhooks/{row.id}"
    urls = {"get": path, "deliveries": f"{path}/deliveries", "test": f"{path}/test", "rotate_secret": f"{path}/rotate-secret"}
    return {"id": row.id, "url": row.url, "events": row.events, "created_at": moment(row.created_at), "urls": urls}


def delivery(row: WebhookDelivery) -> Json:
    """``id`` is the ``webhook-id`` that the receiver sees; ``status`` is waiting, delivered, or failed once it was given up."""
    status = "delivered" if row.delivered_at else "failed" if row.failed_at else "waiting"
    facts = {"id": row.id, "webhook_id": row.webhook_id, "event": row.event, "status": status, "attempts": row.attempts}
    times = {name: moment(getattr(row, name)) for name in ("created_at", "delivered_at", "failed_at")}
    times["next_attempt_at"] = moment(row.next_attempt_at) if status == "waiting" else None
    return facts | times | {"last_status": row.last_status, "last_error": row.last_error, "history": row.history, "payload": row.payload}
