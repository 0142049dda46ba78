"""Telling the workers of new jobs. One thread publishes, in order: no request waits for the broker, however slowly that answers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import BoundedSemaphore

from core.logs import get_logger
from storage import publishing
from storage.tables import Job
from storage.wiring import Storage

log = get_logger("api.telling")

MOST_WAITING = 100  # behind a broker that hangs; of further jobs the scheduler tells the workers


class Teller:
    """Safe for threads. What is left unsaid when the process ends, the scheduler says."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="telling")
        self._places = BoundedSemaphore(MOST_WAITING)

    def tell(self, job: Job) -> None:
        """Call it after the commit; returns at once."""
        if self._places.acquire(blocking=False):
            self._thread.submit(self._publish, job).add_done_callback(lambda _: self._places.release())

    def close(self) -> None:
        """Waits for the message that is on its way, not for the others."""
        self._thread.shutdown(cancel_futures=True)

    def _publish(self, job: Job) -> None:
        try:
            publishing.publish_new(self._storage, job)
        except Exception:  # nobody asks for this result; the job is in the database, and the scheduler sees that it waits
            log.exception("not published yet", job=job.id)
