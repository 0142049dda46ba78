"""Looks at the job rows twice a second during the run: how long a lease stands after its time, and who held what."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from sqlalchemy import select

from core.errors import ServiceDown
from core.words import JobState
from storage.tables import Job, now
from storage.wiring import Storage

LOOK_EVERY_S = 0.5


@dataclass
class LeaseWatch:
    """``overrun``: the longest that a lease stood past its end, in seconds, by job and fence."""

    storage: Storage
    overrun: dict[tuple[str, int], float] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="lease-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(30)

    @property
    def longest(self) -> float:
        return max(self.overrun.values(), default=0.0)

    def _run(self) -> None:
        while not self._stop.wait(LOOK_EVERY_S):
            try:
                self._look()
            except ServiceDown:
                continue  # the next look sees how late it is

    def _look(self) -> None:
        query = select(Job.id, Job.fence, Job.lease_until).where(Job.state == JobState.PROCESSING)
        with self.storage.db.reader() as session:
            rows = session.execute(query).all()
        at = now()
        for job_id, fence, until in rows:
            late = (at - until).total_seconds() if until else 0.0
            if late > 0:
                self.overrun[job_id, fence] = max(late, self.overrun.get((job_id, fence), 0.0))
