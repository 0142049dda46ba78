"""What customers' programs are told: rows, written in the transaction of the very fact that they tell."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.words import JobKind, new_id
from storage.tables import Adapter, Job, Portrait, Receipt, Training, Webhook, WebhookDelivery, now

TEST = "webhook.test"
EVENTS: dict[str, str] = {
    "training.succeeded": "A training ended with an adapter.",
    "training.failed": "A training ended without one; error says why.",
    "training.canceled": "A training was canceled.",
    "portrait.succeeded": "All pictures of a portrait are there.",
    "portrait.failed": "A portrait ended without pictures; error says why.",
    "portrait.canceled": "A portrait was canceled.",
    "subject.erased": "A subject and everything of it was erased.",
    "adapter.erased": "An adapter and its portraits were erased.",
    "portrait.erased": "A portrait was erased.",
    "photo.erased": "A photo was erased.",
    "photos.expiring": "The photos of a subject will be erased by the retention schedule; erase_after says when.",
    "photos.erased": "The photos of a subject were erased by the retention schedule.",
    "portraits.expiring": "Old portraits will be erased by the retention schedule; erase_after says when.",
    "portraits.erased": "Old portraits were erased by the retention schedule.",
    "account.expiring": "The account was not used for long and will be erased; erase_after says when.",
}


def emit(session: Session, account_id: str, event: str, data: dict[str, Any]) -> int:
    """One delivery for each endpoint of the account that wants the event; how many."""
    wanting = [webhook for webhook in _endpoints(session, account_id) if not webhook.events or event in webhook.events]
    for webhook in wanting:
        queue(session, webhook, event, data)
    return len(wanting)


def queue(session: Session, webhook: Webhook, event: str, data: dict[str, Any]) -> WebhookDelivery:
    at = now()
    payload = {"type": event, "timestamp": moment(at), "data": data}
    delivery = WebhookDelivery(id=new_id("msg"), account_id=webhook.account_id, webhook_id=webhook.id, event=event, payload=payload)
    delivery.created_at = delivery.next_attempt_at = at
    session.add(delivery)
    session.flush()
    return delivery


def job_ended(session: Session, job_id: str) -> None:
    """After the UPDATE that ended it, in the same transaction."""
    fresh = {"populate_existing": True}
    job = session.scalar(select(Job).where(Job.id == job_id), execution_options=fresh)
    if job is None or not _endpoints(session, job.account_id):
        return
    about = _training(session, job.target_id) if job.kind == JobKind.TRAINING else _portrait(session, job.target_id)
    error = (job.error or {}) if job.state == "failed" else {}
    data = {"id": job.target_id, "status": str(job.state), **about, "error": error.get("message"), "error_type": error.get("type")}
    data |= {name: moment(getattr(job, name)) for name in ("created_at", "started_at", "completed_at")}
    emit(session, job.account_id, f"{job.kind}.{job.state}", data | {"urls": {"get": f"/v1/{job.kind}s/{job.target_id}"}})


def erased(session: Session, account_id: str, scope: str, receipt: Receipt, facts: dict[str, Any]) -> None:
    """``target_sha256`` is the digest of the erased thing's id: whoever knows the id can tell, and the id itself does not come back."""
    data = {"target_sha256": receipt.target_sha256, "receipt_id": receipt.id, **facts, "urls": {"get": f"/v1/receipts/{receipt.id}"}}
    emit(session, account_id, f"{scope}.erased", data)


def moment(value: datetime | None) -> str | None:
    return value.isoformat(timespec="milliseconds").replace("+00:00", "Z") if value else None


def _endpoints(session: Session, account_id: str) -> list[Webhook]:
    """Locked against being removed until the transaction ends: a delivery must not lose its endpoint halfway."""
    session.flush()
    return list(session.scalars(select(Webhook).where(Webhook.account_id == account_id).with_for_update(read=True, key_share=True)))


def _training(session: Session, training_id: str) -> dict[str, Any]:
    row = session.execute(select(Training.subject_id, Training.adapter_id).where(Training.id == training_id)).first()
    return dict(row._mapping) if row else {}


def _portrait(session: Session, portrait_id: str) -> dict[str, Any]:
    query = select(Adapter.subject_id, Portrait.adapter_id).select_from(Portrait).outerjoin(Adapter, Adapter.id == Portrait.adapter_id)
    row = session.execute(query.where(Portrait.id == portrait_id)).first()
    return dict(row._mapping) if row else {}
