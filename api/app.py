"""The FastAPI application: wired here once, from settings. ``likeness api`` serves what :func:`create_app` returns."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware

from api import pages, problems, views
from api.events import Broadcaster, Snapshot
from api.limits import BodyLimit, body_limit
from api.metrics import own_port
from api.routes import account, adapters, health, metrics, objects, photos, portraits, sign_in, subjects, trainings, webhooks
from api.security import SecurityHeaders, policy
from api.site import site_facts
from api.state import State
from api.statics import CachedStatics
from api.telling import Teller
from core.errors import ServiceDown
from core.logs import get_logger
from core.settings import Settings
from core.words import JobKind
from mail.post import Post
from metrics.photo_pool import PhotoPool
from storage import watching
from storage.mails import Post as PostLike
from storage.wiring import Storage, open_storage

log = get_logger("api")

ROUTERS = (
    sign_in.router,
    subjects.consent_router,
    subjects.router,
    photos.router,
    objects.router,
    trainings.router,
    adapters.router,
    portraits.router,
    portraits.styles_router,
    portraits.poses_router,
    account.router,
    webhooks.router,
    health.router,
    metrics.router,
)
ABOUT = (
    "Fit an adapter on photos of one person or pet, and render portraits from it. Errors are RFC 9457 problem+json; lists are keyset-paged."
)


def create_app(settings: Settings, storage: Storage | None = None, post: PostLike | None = None) -> FastAPI:
    """The database must have its tables (``storage.migrations.upgrade``). ``storage`` and ``post``: opened from settings if not given."""
    state = _state(settings, storage or open_storage(settings), post or Post(settings))
    middleware = [Middleware(SecurityHeaders, policy=policy(state.site)), Middleware(BodyLimit, limit=body_limit(settings))]
    app = FastAPI(
        title="Likeness", description=ABOUT, version="1", middleware=middleware, lifespan=_lifespan, docs_url=None, redoc_url=None
    )
    app.state.likeness, app.state.site = state, state.site
    problems.install(app)
    for router in (*ROUTERS, *pages.ROUTERS):
        app.include_router(router)
    app.mount("/static", CachedStatics())
    return app


def _state(settings: Settings, storage: Storage, post: PostLike) -> State:
    broadcaster = Broadcaster(lambda job_ids: _snapshots(storage, job_ids))
    return State(settings, storage, PhotoPool(), broadcaster, site_facts(settings), post, Teller(storage))


def _snapshots(storage: Storage, job_ids: list[str]) -> dict[str, Snapshot]:
    with storage.db.reader() as session:
        rows = watching.jobs_by_id(session, job_ids)
    return {row.id: _snapshot(row) for row in rows}


def _snapshot(row: Any) -> Snapshot:
    folder = "trainings" if row.kind == JobKind.TRAINING else "portraits"
    return {"id": row.target_id} | views.job(row, f"/v1/{folder}/{row.target_id}")


def _learn(storage: Storage) -> None:
    """How the store takes uploads, before the first customer asks."""
    try:
        way = storage.objects.upload_way()
        log.info("uploads", method=way.method, capped_by_store=way.capped, note=way.note)
    except ServiceDown as error:
        log.warning("the store is down; uploads will ask it again", error=str(error))


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    state: State = app.state.likeness
    threading.Thread(target=_learn, args=(state.storage,), name="learn", daemon=True).start()
    with own_port(state.settings, state.storage):
        yield
    await state.broadcaster.close()
    state.photo_pool.close()
    await run_in_threadpool(state.teller.close)
