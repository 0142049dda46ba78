"""Whose portrait is next: those of the adapter in hand may go before older ones, within bounds that nobody falls through."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from storage import portraits
from storage.portraits import WaitingPortrait
from storage.tables import now
from storage.wiring import Storage


@dataclass
class Turns:
    """Of one worker. It lets a job be overtaken at most ``settings.overtake_times`` times, and not once it has waited ``overtake_s``."""

    storage: Storage
    overtaken: Counter[str] = field(default_factory=Counter)

    def take(self, job_id: str, held: Callable[[], str | None], work: Callable[[str], str]) -> str:
        """Runs ``job_id`` by ``work``, and before it those that may go first; ``held()`` is the adapter in hand.

        Returns how the last one ended: ``job_id`` itself, or whichever was handed back because the worker is told to stop.
        """
        while True:
            chosen = self.next(job_id, held())
            outcome = work(chosen)
            if chosen == job_id or outcome == "handed back":
                return outcome

    def first(self) -> str | None:
        """The job that waits longest."""
        waiting = self._waiting()
        return waiting[0].job_id if waiting else None

    def next(self, job_id: str, held: str | None) -> str:
        """The job to run now, when a message woke us for ``job_id``. Each other one is older than it, or counts as an overtaking."""
        settings = self.storage.settings
        waiting = self._waiting()
        self.overtaken = Counter({job.job_id: self.overtaken[job.job_id] for job in waiting})
        oldest_allowed = now() - timedelta(seconds=settings.overtake_s)
        chosen, passed = choose(waiting, job_id, held, self.overtaken, settings.overtake_times, oldest_allowed)
        self.overtaken.update(passed)
        return chosen

    def adapter_after(self, job_id: str, held: str | None) -> str | None:
        """The adapter that the next job will want, to fetch it while ``job_id`` renders with ``held``; None: nothing to fetch."""
        others = [job for job in self._waiting() if job.job_id != job_id]
        if not others or any(job.adapter_id == held for job in others):
            return None
        return others[0].adapter_id

    def _waiting(self) -> list[WaitingPortrait]:
        with self.storage.db.reader() as session:
            return portraits.waiting(session)


def choose(
    waiting: Sequence[WaitingPortrait], job_id: str, held: str | None, overtaken: Counter[str], most: int, oldest_allowed: datetime
) -> tuple[str, list[str]]:
    """The job to run, and those that it overtakes: none that came at ``oldest_allowed`` or before. ``waiting`` is in order of arrival."""
    own = next((job for job in waiting if job.job_id == job_id), None)
    kin = next((job for job in waiting if held is not None and job.adapter_id == held), None)
    if own is None or kin is None or own.adapter_id == held:
        return job_id, []
    passed = [job for job in waiting if job.created_at < kin.created_at]
    if any(overtaken[job.job_id] >= most or job.created_at <= oldest_allowed for job in passed):
        return job_id, []
    return kin.job_id, [job.job_id for job in passed]
