"""Idempotency-Key on POST: a request that is sent twice acts once. A refused or failed request is forgotten, so that it may be repeated."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from hashlib import sha256
from typing import Any

from fastapi import Request, Response
from fastapi.encoders import jsonable_encoder
from fastapi.routing import APIRoute
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from api import views
from api.auth import caller
from api.state import State, state_of
from storage import idempotency, portraits, trainings

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class IdempotentRoute(APIRoute):
    """For routers whose POSTs belong to an account."""

    def get_route_handler(self) -> Handler:
        plain = super().get_route_handler()

        async def handler(request: Request) -> Response:
            key = request.headers.get("idempotency-key")
            if request.method != "POST" or key is None:
                return await plain(request)
            return await _once(plain, request, key)

        return handler


async def _once(plain: Handler, request: Request, key: str) -> Response:
    state = state_of(request)
    account_id = (await run_in_threadpool(caller, request)).account_id
    digest = idempotency.digest(request.method, request.url.path, await _content(request))
    if (first := await run_in_threadpool(_begin, state, account_id, key, digest)) is not None:
        return first
    try:
        with idempotency.acting(account_id, key):
            response = await plain(request)
    except BaseException:
        await run_in_threadpool(_forget, state, account_id, key)
        raise
    await run_in_threadpool(_finish, state, account_id, key, response)
    return response


async def _content(request: Request) -> bytes:
    """The body; of a form, its fields and files without the boundary, which a client chooses anew for each try."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        return await request.body()
    parts = []
    for name, value in (await request.form()).multi_items():
        parts.append(f"{name}={await _file_digest(value) if isinstance(value, UploadFile) else value}")
    return "\n".join(parts).encode()


async def _file_digest(file: UploadFile) -> str:
    digest = sha256((file.filename or "").encode())
    while chunk := await file.read(2**20):
        digest.update(chunk)
    await file.seek(0)
    return digest.hexdigest()


def _begin(state: State, account_id: str, key: str, digest: str) -> Response | None:
    with state.storage.db.session() as session:
        record = idempotency.begin(session, account_id, key, digest)
        if record is None:
            return None
        status, body = (
            (record.status, record.body) if record.status else (201, _as_it_is(state, session, account_id, str(record.target_id)))
        )
        return Response(body, status, {"Idempotency-Replayed": "true"}, "application/json")


def _as_it_is(state: State, session: Session, account_id: str, target_id: str) -> bytes:
    """Made, but nobody lived to answer: what it is now."""
    if target_id.startswith("trn_"):
        view = views.training(*trainings.get(session, account_id, target_id))
    else:
        portrait, job = portraits.get(session, account_id, target_id)
        view = views.portrait(state.storage, portrait, job, portraits.images(session, [portrait.id])[portrait.id])
    return json.dumps(jsonable_encoder(view)).encode()


def _finish(state: State, account_id: str, key: str, response: Response) -> None:
    with state.storage.db.session() as session:
        if response.status_code < 500:
            idempotency.finish(session, account_id, key, response.status_code, bytes(response.body))
        else:
            idempotency.forget(session, account_id, key)


def _forget(state: State, account_id: str, key: str) -> None:
    with state.storage.db.session() as session:
        idempotency.forget(session, account_id, key)
