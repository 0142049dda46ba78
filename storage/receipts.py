"""Signed proof of an erasure: counts and digests, never content. Anyone who has the public key can check it."""

from __future__ import annotations

import base64
import json
from datetime import timedelta
from hashlib import sha256
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from sqlalchemy import select
from sqlalchemy.orm import Session

from core.settings import Settings
from core.words import new_id
from storage.secret import derived_key
from storage.tables import Erasure, Receipt, now


def write(session: Session, settings: Settings, erasure: Erasure, mails: int) -> Receipt:
    """The receipt of an erasure that has removed everything."""
    signer = Ed25519PrivateKey.from_private_bytes(derived_key(settings, "receipts"))
    receipt_id, completed = new_id("rct"), now()
    backups = completed + timedelta(days=settings.backup_days) if settings.backup_days else None
    body = {
        "id": receipt_id,
        "scope": erasure.scope,
        "target_sha256": target_digest(erasure.target_id),
        "account_sha256": target_digest(erasure.account_id),
        "rows": erasure.rows,
        "objects": len(erasure.digests),
        "object_versions": erasure.versions,
        "object_key_sha256": erasure.digests,
        "sent_mails": mails,
        "started_at": erasure.started_at.isoformat(),
        "completed_at": completed.isoformat(),
        "backups_gone_by": backups.isoformat() if backups else None,  # when the operator's last backup with it in it is gone
        "public_key": _base64(signer.public_key().public_bytes_raw()),
    }
    signature = _base64(signer.sign(_canonical(body)))
    receipt = Receipt(id=receipt_id, scope=erasure.scope, target_sha256=body["target_sha256"], body=body, signature=signature)
    receipt.created_at = completed
    session.add(receipt)
    return receipt


def of_target(session: Session, target_id: str) -> Receipt | None:
    return session.scalar(select(Receipt).where(Receipt.target_sha256 == target_digest(target_id)))


def verify(body: dict[str, Any], signature: str, public_key: str) -> bool:
    """``public_key`` as the service publishes it, not as the receipt claims it."""
    try:
        Ed25519PublicKey.from_public_bytes(base64.b64decode(public_key)).verify(base64.b64decode(signature), _canonical(body))
    except (InvalidSignature, ValueError):
        return False
    return True


def public_key(settings: Settings) -> str:
    """Base64 of the 32 bytes that check this service's receipts."""
    return _base64(Ed25519PrivateKey.from_private_bytes(derived_key(settings, "receipts")).public_key().public_bytes_raw())


def target_digest(target_id: str) -> str:
    return sha256(target_id.encode()).hexdigest()


def _canonical(body: dict[str, Any]) -> bytes:
    return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
