"""Progress to many watchers: one query for all watched jobs, once a beat, in a thread; each watcher gets the snapshots that differ."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from hashlib import sha256
from typing import Any

from starlette.concurrency import run_in_threadpool

from core.errors import ServiceDown
from core.logs import get_logger
from core.words import JobState

log = get_logger("api.events")

Snapshot = dict[str, Any]
ReadJobs = Callable[[list[str]], dict[str, Snapshot]]  # job ids → snapshots; a job that is gone is missing


class Broadcaster:
    """One a process. ``read`` opens and closes its own database session; no watcher holds one."""

    def __init__(self, read: ReadJobs, interval_s: float = 0.7) -> None:
        self._read, self._interval_s = read, interval_s
        self._watchers: dict[str, set[asyncio.Queue[Snapshot | None]]] = {}
        self._task: asyncio.Task[None] | None = None

    async def watch(self, job_id: str, seen: str | None = None) -> AsyncIterator[tuple[str, Snapshot]]:
        """(event id, snapshot) from now until the job ends. ``seen``: the last event id that the client has had (Last-Event-ID)."""
        waiting: asyncio.Queue[Snapshot | None] = asyncio.Queue(maxsize=1)
        self._watchers.setdefault(job_id, set()).add(waiting)
        self._start()
        try:
            while (snapshot := await waiting.get()) is not None:
                event_id = fingerprint(snapshot)
                if event_id != seen:
                    seen = event_id
                    yield event_id, snapshot
                if JobState(snapshot["status"]).ended:
                    return
        finally:
            self._leave(job_id, waiting)

    async def close(self) -> None:
        if self._task:
            self._task.cancel()
        for queues in self._watchers.values():
            for waiting in queues:
                _offer(waiting, None)

    @property
    def watched(self) -> int:
        return len(self._watchers)

    def _start(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._poll())

    def _leave(self, job_id: str, waiting: asyncio.Queue[Snapshot | None]) -> None:
        watchers = self._watchers.get(job_id, set())
        watchers.discard(waiting)
        if not watchers:
            self._watchers.pop(job_id, None)

    async def _poll(self) -> None:
        while self._watchers:
            await self._tell(list(self._watchers))
            await asyncio.sleep(self._interval_s)

    async def _tell(self, job_ids: list[str]) -> None:
        try:
            snapshots = await run_in_threadpool(self._read, job_ids)
        except ServiceDown as error:  # watchers wait; the next beat tries again
            log.warning("progress not read", error=str(error))
            return
        except Exception:
            log.exception("progress not read")
            return
        for job_id in job_ids:
            for waiting in self._watchers.get(job_id, ()):
                _offer(waiting, snapshots.get(job_id))


def _offer(waiting: asyncio.Queue[Snapshot | None], snapshot: Snapshot | None) -> None:
    """The latest wins: a slow reader skips what it missed, and holds up nobody."""
    if waiting.full():
        waiting.get_nowait()
    waiting.put_nowait(snapshot)


def fingerprint(snapshot: Snapshot) -> str:
    """The same for the same snapshot in every process, so that a client may reconnect anywhere."""
    return sha256(json.dumps(snapshot, sort_keys=True).encode()).hexdigest()[:16]
