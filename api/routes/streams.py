"""Server-sent events of a job: a snapshot whenever something has changed, until the job ends."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

from fastapi import Request
from sse_starlette import EventSourceResponse, ServerSentEvent

from api.state import State

PING_S = 15


def stream(state: State, request: Request, job_id: str) -> EventSourceResponse:
    """Events ``job`` carry {status, progress, metrics, error, …}; the last one has an ended status. Ids allow to reconnect."""
    seen = request.headers.get("last-event-id")
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return EventSourceResponse(_events(state, job_id, seen), ping=PING_S, headers=headers)


async def _events(state: State, job_id: str, seen: str | None) -> AsyncIterator[ServerSentEvent]:
    async for event_id, snapshot in state.broadcaster.watch(job_id, seen):
        yield ServerSentEvent(data=json.dumps(snapshot), event="job", id=event_id, retry=2000)
