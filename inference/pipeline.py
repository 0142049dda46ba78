"""One portrait, from the claimed job to stored pictures: load → render → score → store."""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from PIL import Image
from sqlalchemy.orm import Session

from core.errors import JobFailed
from core.words import Mode, PortraitStage
from diffusion.provenance import marked_png
from inference.loaded import LoadedAdapter
from inference.previews import Show, data_url
from inference.requests import RenderRequest, request_from
from inference.scoring import score_likeness
from inference.state import RenderState, open_state
from storage import keys, photos, portraits
from storage.jobs import Lease
from storage.tables import Adapter, Photo, Portrait, PortraitImage
from storage.wiring import Storage

__all__ = ["RenderState", "open_state", "run_portrait"]


@dataclass(frozen=True)
class Order:
    """What a portrait's rows ask for."""

    portrait: Portrait
    adapter: Adapter | None
    request: RenderRequest


def run_portrait(state: RenderState, lease: Lease) -> None:
    """The work of one portrait's job. Repeating it gives the same pictures, each attempt's under keys of its own."""
    began = time.monotonic()
    with lease.stage(PortraitStage.LOAD):
        order = read_order(state.storage, lease)
        adapter = _load_adapter(state, order.adapter, lease)
    with lease.stage(PortraitStage.RENDER):
        state.prefetcher.start(lease.job_id, order.adapter.id if order.adapter else None)
        images = state.engine.render(order.request, adapter, progress_of(lease), on_preview=previews_of(lease))
        lease.progress(preview=None)
    with lease.stage(PortraitStage.SCORE):
        scores = _score(state, order.adapter, images)
    with lease.stage(PortraitStage.STORE):
        rows = _store(order, images, scores, lease)
    lease.metrics(**_account(state, time.monotonic() - began, scores))
    lease.finish(lambda session: add_images(session, rows))


def add_images(session: Session, rows: list[PortraitImage]) -> None:
    for row in rows:
        portraits.add_image(session, row)


def read_order(storage: Storage, lease: Lease) -> Order:
    """:class:`core.errors.JobFailed` if it was erased meanwhile; ``UserError`` if its parameters cannot be rendered."""
    with storage.db.reader() as session:
        portrait = session.get(Portrait, lease.target_id)
        if portrait is None:
            raise JobFailed("This portrait was erased.")
        adapter = session.get(Adapter, portrait.adapter_id) if portrait.adapter_id else None
        photo = _reference_photo(portrait, photos.usable(session, adapter.subject_id)) if adapter else None
    reference = _open(storage, photo) if photo else None
    return Order(portrait, adapter, request_from(portrait.prompt, portrait.seed, portrait.count, portrait.params, reference))


def _reference_photo(portrait: Portrait, usable: list[Photo]) -> Photo | None:
    """The photo that ``params["reference_photo"]`` names, else the subject's largest; None for a mode that draws from no photo."""
    if portrait.params.get("mode") != Mode.REFERENCE or not usable:
        return None
    named = [photo for photo in usable if photo.id == portrait.params.get("reference_photo")]
    return named[0] if named else max(usable, key=lambda photo: photo.width * photo.height)


def _open(storage: Storage, photo: Photo) -> Image.Image:
    with Image.open(io.BytesIO(storage.objects.get(photo.object_key))) as image:
        return image.convert("RGB")


def _load_adapter(state: RenderState, adapter: Adapter | None, lease: Lease) -> LoadedAdapter | None:
    if adapter is None:
        return None
    loaded, tier = state.cache.ensure(adapter)
    lease.metrics(adapter_from=tier)
    return loaded


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


def _score(state: RenderState, adapter: Adapter | None, images: list[Image.Image]) -> list[float | None]:
    return score_likeness(images, adapter.card, state.encoder) if adapter and adapter.card else [None] * len(images)


def _store(order: Order, images: list[Image.Image], scores: list[float | None], lease: Lease) -> list[PortraitImage]:
    seeds = order.request.seeds
    return [_store_one(order.portrait, n, seeds[n], image, scores[n], lease) for n, image in enumerate(images)]


def _store_one(portrait: Portrait, n: int, seed: int, image: Image.Image, likeness: float | None, lease: Lease) -> PortraitImage:
    key, png = keys.portrait_image(portrait.account_id, portrait.id, n, lease.fence), marked_png(image)
    lease.put(key, png, "image/png")
    return PortraitImage(
        account_id=portrait.account_id,
        portrait_id=portrait.id,
        n=n,
        seed=seed,
        object_key=key,
        sha256=hashlib.sha256(png).hexdigest(),
        width=image.width,
        height=image.height,
        likeness=likeness,
    )


def _account(state: RenderState, seconds: float, scores: list[float | None]) -> dict[str, Any]:
    """What the operator sees of one portrait: device time, its cost at the stated price, the mean likeness."""
    settings = state.settings
    known = [score for score in scores if score is not None]
    figures: dict[str, Any] = {"device": str(state.base.device), "device_seconds": round(seconds, 3), "images": len(scores)}
    if settings.gpu_price_per_hour:
        figures |= {"cost": round(seconds / 3600 * settings.gpu_price_per_hour, 6), "currency": settings.currency}
    return figures | ({"likeness": round(fmean(known), 4)} if known else {})
