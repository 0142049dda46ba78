"""One portrait, from the claimed job to stored pictures: load → render → score (→ render → score) → store."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

from PIL import Image
from sqlalchemy.orm import Session

from core.errors import JobFailed
from core.words import PortraitStage
from diffusion.provenance import marked_png
from inference.loaded import LoadedAdapter
from inference.orders import Order, read_order
from inference.previews import Show, data_url
from inference.redrawing import least_likeness, other_seeds, redraw
from inference.requests import RenderRequest
from inference.safety import ALL_REFUSED
from inference.scoring import Picture, ranked, score_likeness
from inference.state import RenderState, open_state
from inference.upscale import require_room
from storage import keys, portraits
from storage.accounting import bill
from storage.jobs import Lease
from storage.tables import Portrait, PortraitImage

REDRAWING = "Not alike enough: drawing again"

__all__ = ["RenderState", "open_state", "run_portrait"]


def run_portrait(state: RenderState, lease: Lease) -> None:
    """The work of one portrait's job. Repeating it gives the same pictures, each attempt's under keys of its own."""
    began = time.monotonic()
    with lease.stage(PortraitStage.LOAD):
        order = read_order(state.storage, lease)
        state.safety.check_prompt(order.request.prompt)
        adapters = _load_adapters(state, order, lease)
    with lease.stage(PortraitStage.RENDER):
        state.prefetcher.start(lease.job_id, order.adapter.id if order.adapter else None)
        images = _draw(state, order, adapters, lease)
        lease.progress(preview=None)
    with lease.stage(PortraitStage.SCORE):
        pictures = _kept(_judge(state, order, order.request.seeds, images))
    pictures = _redrawn(state, order, adapters, lease, pictures)
    if order.best_first:
        pictures = ranked(pictures)
    with lease.stage(PortraitStage.STORE):
        rows = [_store(state, order.portrait, n, picture, lease) for n, picture in enumerate(pictures)]
    lease.metrics(**_account(state, time.monotonic() - began, pictures), refused=len(images) - len(pictures))
    lease.finish(lambda session: add_images(session, rows))


def add_images(session: Session, rows: list[PortraitImage]) -> None:
    for row in rows:
        portraits.add_image(session, row)


def _load_adapters(state: RenderState, order: Order, lease: Lease) -> tuple[LoadedAdapter | None, LoadedAdapter | None]:
    """The subject's and the style's, as far as there are any; enlarging needs neither."""
    if order.source:
        return None, None
    style = state.styles.load(order.request.style_adapter) if order.request.style_adapter else None
    if order.adapter is None:
        return None, style
    loaded, tier = state.cache.ensure(order.adapter)
    lease.metrics(adapter_from=tier)
    return loaded, style


def _draw(state: RenderState, order: Order, adapters: tuple[LoadedAdapter | None, LoadedAdapter | None], lease: Lease) -> list[Image.Image]:
    if order.source:
        require_room(order.source)
        return [state.upscaler(order.source)]
    return _rendered(state, order.request, adapters, lease)


def _rendered(
    state: RenderState, request: RenderRequest, adapters: tuple[LoadedAdapter | None, LoadedAdapter | None], lease: Lease
) -> list[Image.Image]:
    adapter, style = adapters
    return state.engine.render(request, adapter, progress_of(lease), style=style, on_preview=previews_of(lease))


def progress_of(lease: Lease) -> Callable[[int, int], None]:
    """Checks the lease and reports at every step, with the time left by the mean of the steps so far."""
    began = time.monotonic()

    def on_step(done: int, total: int) -> None:
        lease.check()
        lease.progress(step=done, total=total, eta_s=round((time.monotonic() - began) / done * (total - done), 1))

    return on_step


def previews_of(lease: Lease) -> Show:
    """Keeps the newest small picture in the job's progress, where those who watch see it."""
    return lambda picture: lease.progress(preview=data_url(picture))


def _judge(state: RenderState, order: Order, seeds: Sequence[int], images: list[Image.Image]) -> list[Picture | None]:
    """Each with its likeness; None where the safety check refuses."""
    allowed = state.safety.allowed(images)
    good = [image for image, kept in zip(images, allowed, strict=True) if kept]
    scores = iter(score_likeness(good, order.card, state.encoder) if order.card else [None] * len(good))
    return [Picture(seed, image, next(scores)) if kept else None for seed, image, kept in zip(seeds, images, allowed, strict=True)]


def _kept(judged: Sequence[Picture | None]) -> list[Picture]:
    """Those that the safety check leaves."""
    pictures = [picture for picture in judged if picture is not None]
    if not pictures:
        raise JobFailed(ALL_REFUSED)
    return pictures


def _redrawn(
    state: RenderState, order: Order, adapters: tuple[LoadedAdapter | None, LoadedAdapter | None], lease: Lease, pictures: list[Picture]
) -> list[Picture]:
    """The unlike ones drawn again, if the order wants that."""

    def draw(number: int, count: int) -> list[Picture | None]:
        request = other_seeds(order.request, number, count)
        with lease.stage(PortraitStage.RENDER):
            lease.progress(message=REDRAWING)
            images = _rendered(state, request, adapters, lease)
            lease.progress(preview=None)
        with lease.stage(PortraitStage.SCORE):
            return _judge(state, order, request.seeds, images)

    style = order.portrait.style
    least = state.usual.least(style, least_likeness(order.redraw_below, order.card))
    state.usual.note(style, pictures)
    best, tries = redraw(pictures, least, state.settings.redraws, draw)
    if tries:
        lease.metrics(redrawn=tries)
    return best


def _store(state: RenderState, portrait: Portrait, n: int, picture: Picture, lease: Lease) -> PortraitImage:
    key, png = keys.portrait_image(portrait.account_id, portrait.id, n, lease.fence), marked_png(picture.image)
    if state.credentials:
        png = state.credentials.sign(png, "image/png")
    lease.put(key, png, "image/png")
    return PortraitImage(
        account_id=portrait.account_id,
        portrait_id=portrait.id,
        n=n,
        seed=picture.seed,
        object_key=key,
        sha256=hashlib.sha256(png).hexdigest(),
        width=picture.image.width,
        height=picture.image.height,
        likeness=picture.likeness,
    )


def _account(state: RenderState, seconds: float, pictures: list[Picture]) -> dict[str, Any]:
    """What the operator sees of one portrait: device time, its cost at the stated price, the mean likeness."""
    known = [picture.likeness for picture in pictures if picture.likeness is not None]
    figures = bill(state.settings, str(state.base.device), seconds) | {"images": len(pictures)}
    return figures | ({"likeness": round(fmean(known), 4)} if known else {})
