"""How much a request may carry: what is too large is refused by its header or at the byte that is one too many, and never buffered."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from core.settings import Settings

ORDINARY_BYTES = 256 * 1024
FORM_OVERHEAD = 64 * 1024  # boundaries and fields around a file
FILES_AT_ONCE = 5  # a form of several files may be as large as so many full-size photos

_ONE_FILE = re.compile(r"^/v1/uploads/[^/]+$")
_SEVERAL_FILES = re.compile(r"^(/v1)?/subjects/[^/]+/photos$")


def body_limit(settings: Settings) -> Callable[[str], int]:
    """Path → bytes."""

    def limit(path: str) -> int:
        if _ONE_FILE.match(path):
            return settings.max_photo_bytes + FORM_OVERHEAD
        if _SEVERAL_FILES.match(path):
            return settings.max_photo_bytes * FILES_AT_ONCE + FORM_OVERHEAD
        return ORDINARY_BYTES

    return limit


class BodyLimit:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, limit: Callable[[str], int]) -> None:
        self._app, self._limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        limit = self._limit(scope["path"])
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > limit:
            return await _refuse(send, limit)
        return await self._app(scope, _counted(receive, limit), send)


def _counted(receive: Receive, limit: int) -> Receive:
    seen = 0

    async def counting() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > limit:
            raise HTTPException(413, _detail(limit), headers={"Connection": "close"})
        return message

    return counting


def _detail(limit: int) -> str:
    return f"At most {limit // 2**20} MB fit into one request. Send photos one at a time, each smaller than the limit for a photo."


async def _refuse(send: Send, limit: int) -> None:
    body = {"type": "urn:likeness:request/too-large", "title": "Too large", "status": 413, "detail": _detail(limit)}
    headers = [(b"content-type", b"application/problem+json"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})
