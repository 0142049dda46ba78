"""Lists, the same everywhere: ``{"items": […], "next_cursor": …}``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from fastapi import Query
from sqlalchemy import Select
from sqlalchemy.orm import Session

from storage.paging import LARGEST_PAGE, page

Row = TypeVar("Row")
Limit = Annotated[int, Query(ge=1, le=LARGEST_PAGE)]
Cursor = Annotated[str | None, Query(max_length=300, description="next_cursor of the page before.")]


def listed(session: Session, query: Select[Row], limit: int, cursor: str | None) -> tuple[list[Row], Callable[[list[Any]], dict[str, Any]]]:
    """The rows of one page, and the function that wraps their JSON."""
    found = page(session, query, limit, cursor)
    return found.items, lambda items: {"items": items, "next_cursor": found.next_cursor}
