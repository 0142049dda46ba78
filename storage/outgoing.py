"""What mails and webhook deliveries share: rows that wait, are taken by one sender, and are tried again later and later."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import CursorResult, update

from core.settings import Settings
from storage.tables import Mail, WebhookDelivery, now
from storage.wiring import Storage

Outgoing = Mail | WebhookDelivery


def take(storage: Storage, row: Outgoing, reserved_s: float) -> bool:
    """Reserve the row for this sender, whose attempt must end within ``reserved_s``; False if another sender was faster.

    ``row.attempts`` is then the number of this attempt, which every later write of it carries, as a lease carries its fence.
    """
    values = {"attempts": row.attempts + 1, "next_attempt_at": now() + timedelta(seconds=reserved_s)}
    taken = note(storage, row, **values)
    if taken:
        row.attempts += 1
    return taken


def note(storage: Storage, row: Outgoing, **values: Any) -> bool:
    """Write what came of it, unless the row is gone, has ended, or was taken by another sender since."""
    table = type(row)
    mine = (table.id == row.id, table.attempts == row.attempts, waits(table))
    with storage.db.session() as session:
        result = session.execute(update(table).where(*mine).values(**values), execution_options={"synchronize_session": False})
        assert isinstance(result, CursorResult)
        return result.rowcount == 1


def waits(table: Any) -> Any:
    """Neither sent nor given up."""
    ended = table.sent_at if table is Mail else table.delivered_at
    return ended.is_(None) & table.failed_at.is_(None)


@dataclass(frozen=True)
class Backoff:
    """Pauses between attempts: the first, what each is times the one before, and the longest."""

    first_s: float
    factor: float
    longest_s: float

    def wait_s(self, attempts: int) -> float:
        """Seconds to wait after so many attempts."""
        return min(self.longest_s, self.first_s * self.factor ** min(attempts - 1, 60))

    def attempts_in(self, seconds: float) -> int:
        """The last of these comes when at least so many seconds are over. Counted, not timed: a sender that was away has not tried."""
        waited, attempts = 0.0, 1
        while waited < seconds:
            waited, attempts = waited + self.wait_s(attempts), attempts + 1
        return attempts


def most_attempts(settings: Settings, backoff: Backoff) -> int:
    return backoff.attempts_in(settings.messages_retried_days * 86400)
