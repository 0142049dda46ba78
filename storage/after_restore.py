"""After a backup was restored: what had been erased since is back, and must go again. Receipts kept elsewhere tell what that is."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.settings import Settings
from storage import receipts
from storage.tables import Account, Adapter, Photo, Portrait, Receipt, Subject

_TABLES: dict[str, Any] = {"account": Account, "subject": Subject, "adapter": Adapter, "portrait": Portrait, "photo": Photo}


def all_receipts(session: Session) -> Iterator[str]:
    """Each as one line of JSON, signature included, oldest first: to be kept where no restore of the database reaches."""
    for row in session.scalars(select(Receipt).order_by(Receipt.created_at, Receipt.id)):
        yield json.dumps({**row.body, "signature": row.signature})


def read(lines: Iterable[str], settings: Settings) -> list[dict[str, Any]]:
    """The receipts that this installation signed; ``ValueError`` for a line that is none."""
    found = []
    key = receipts.public_key(settings)
    for number, line in enumerate(lines, 1):
        body = json.loads(line) if line.strip() else None
        if body is None:
            continue
        if not isinstance(body, dict) or not receipts.verify(body, body.pop("signature", ""), key):
            raise ValueError(f"line {number} is no receipt of this installation")
        found.append(body)
    return found


def returned(session: Session, bodies: Iterable[dict[str, Any]]) -> list[tuple[str, str]]:
    """``(scope, id)`` of what the receipts say was erased and what is here nevertheless, accounts first. Receipts name digests only."""
    digests = {(body["scope"], body["target_sha256"]) for body in bodies}
    scopes = [scope for scope in _TABLES if any(named == scope for named, _ in digests)]
    ids = ((scope, found) for scope in scopes for found in session.scalars(select(_TABLES[scope].id).order_by(_TABLES[scope].id)))
    return [(scope, found) for scope, found in ids if (scope, receipts.target_digest(found)) in digests]
