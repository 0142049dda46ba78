"""The customer takes something back: the receipt says what went."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from api.intake import review_set
from api.state import State
from core.errors import UserError
from storage import erasure, photos, subjects
from storage.tables import Receipt


def erase(state: State, account_id: str, scope: str, target_id: str) -> dict[str, Any]:
    """Erase a subject, adapter, portrait or the account; the receipt's body with its signature."""
    return receipt_json(erasure.erase(state.storage, state.post, scope, target_id, account_id))


def erase_photo(state: State, account_id: str, photo_id: str) -> dict[str, Any]:
    """Also judges the remaining photos anew: the twin of a near-duplicate is good again once the other is gone."""
    with state.storage.db.reader() as session:
        subject_id = photos.get(session, account_id, photo_id).subject_id
    receipt = erase(state, account_id, "photo", photo_id)
    with suppress(UserError), state.storage.db.session() as session:  # its subject may have been erased meanwhile
        subjects.lock(session, account_id, subject_id)
        review_set(session, account_id, subject_id)
    return receipt


def receipt_json(receipt: Receipt) -> dict[str, Any]:
    return {**receipt.body, "signature": receipt.signature}
