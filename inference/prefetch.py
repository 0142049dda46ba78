"""Brings the next job's adapter near while the current one renders, so that the switch costs no download."""

from __future__ import annotations

import threading

from core.logs import get_logger
from inference.adapters import AdapterCache
from inference.turns import Turns
from storage.tables import Adapter

log = get_logger("inference.prefetch")


class Prefetcher:
    """One fetch at a time, in a thread of its own. What fails here is met again, and reported, by the job that wants the adapter."""

    def __init__(self, turns: Turns, cache: AdapterCache) -> None:
        self._turns, self._cache = turns, cache
        self._thread: threading.Thread | None = None

    def start(self, job_id: str, held: str | None) -> None:
        """Call when ``job_id`` begins to render with adapter ``held``; returns at once."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._fetch, args=(job_id, held), name="prefetch", daemon=True)
            self._thread.start()

    def wait(self, timeout_s: float) -> None:
        if self._thread:
            self._thread.join(timeout_s)

    def _fetch(self, job_id: str, held: str | None) -> None:
        try:
            wanted = self._turns.adapter_after(job_id, held)
            row = self._row(wanted) if wanted else None
            if row is not None:
                _, tier = self._cache.ensure(row)
                log.debug("adapter prefetched", adapter=row.id, tier=tier)
        except Exception as error:
            log.info("adapter not prefetched", error=str(error))

    def _row(self, adapter_id: str) -> Adapter | None:
        with self._turns.storage.db.reader() as session:
            return session.get(Adapter, adapter_id)
