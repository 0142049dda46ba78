"""Keyset paging: newest first, stable while rows are added."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

from sqlalchemy import Select, and_, or_
from sqlalchemy.orm import Session

from core.errors import UserError

Row = TypeVar("Row")
LARGEST_PAGE = 100


@dataclass(frozen=True)
class Page(Generic[Row]):
    items: list[Row]
    next_cursor: str | None


def page(session: Session, query: Select[Row], limit: int = 20, cursor: str | None = None) -> Page[Row]:
    """``query`` selects a table that has ``created_at`` and ``id``. ``limit`` is held to 1…100; ``next_cursor`` asks for the next page."""
    table: Any = query.column_descriptions[0]["entity"]
    limit = min(max(limit, 1), LARGEST_PAGE)
    if cursor:
        at, last = _decode(cursor)
        query = query.where(or_(table.created_at < at, and_(table.created_at == at, table.id < last)))
    rows = list(session.scalars(query.order_by(table.created_at.desc(), table.id.desc()).limit(limit + 1)))
    return Page(rows[:limit], _encode(rows[limit - 1]) if len(rows) > limit else None)


def _encode(row: Any) -> str:
    return base64.urlsafe_b64encode(f"{row.created_at.isoformat()}|{row.id}".encode()).decode()


def _decode(cursor: str) -> tuple[datetime, str]:
    try:
        at, _, last = base64.b64decode(cursor, altchars=b"-_", validate=True).decode().partition("|")
        return datetime.fromisoformat(at), last
    except ValueError:
        raise UserError(
            "cursor/invalid", "This cursor is not valid", "Pass next_cursor of the page before, unchanged.", status=400
        ) from None
