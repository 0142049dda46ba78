"""Adapters: the fitted LoRA weights of a subject, and the tombstones of those that were erased."""

from __future__ import annotations

import hashlib
from datetime import datetime

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from core.errors import not_found
from core.words import new_id
from storage.tables import Adapter, Tombstone, Training, now


def new_adapter_id() -> str:
    return new_id("ada")


def adapter_id_of(training_id: str, fence: int) -> str:
    """Of one hold of a training's job: known before the row exists, since the weights are stored under it first, and afterwards, so
    that what an attempt without a row left behind is found. As unguessable as the training's own id."""
    return f"ada_{hashlib.sha256(f'{training_id}:{fence}'.encode()).hexdigest()[:20]}"


def add(session: Session, adapter: Adapter) -> Adapter:
    """Inside ``lease.succeed()``: the row, and the training's link to it."""
    adapter.created_at = adapter.created_at or now()
    session.add(adapter)
    session.flush()
    training = session.get_one(Training, adapter.training_id)
    training.adapter_id = adapter.id
    return adapter


def get(session: Session, account_id: str, adapter_id: str) -> Adapter:
    adapter = session.get(Adapter, adapter_id)
    if adapter is None or adapter.account_id != account_id:
        raise not_found("adapter")
    return adapter


def of_account(account_id: str, subject_id: str | None = None) -> Select[Adapter]:
    """For :func:`storage.paging.page`."""
    query = select(Adapter).where(Adapter.account_id == account_id)
    return query.where(Adapter.subject_id == subject_id) if subject_id else query


def erased_among(session: Session, adapter_ids: list[str]) -> set[str]:
    """Those that a worker must not use and must drop from its caches."""
    return set(session.scalars(select(Tombstone.target_id).where(Tombstone.target_id.in_(adapter_ids))))


def erased_since(session: Session, since: datetime) -> list[str]:
    """For a worker's timer that sweeps its caches."""
    return list(session.scalars(select(Tombstone.target_id).where(Tombstone.created_at >= since).order_by(Tombstone.created_at)))
