"""What a portrait's rows ask a worker for."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

from PIL import Image

from core.errors import JobFailed
from core.words import Mode
from inference.requests import RenderRequest, request_from
from storage import photos, portraits
from storage.jobs import Lease
from storage.tables import Adapter, Photo, Portrait
from storage.wiring import Storage

SOURCE_GONE = "The picture that was to be enlarged was erased."


@dataclass(frozen=True)
class Order:
    """``source`` is the picture to enlarge, where that is what is asked for: then nothing is rendered."""

    portrait: Portrait
    adapter: Adapter | None
    request: RenderRequest
    source: Image.Image | None = None

    @property
    def best_first(self) -> bool:
        return bool(self.portrait.params.get("best_of"))

    @property
    def redraw_below(self) -> float:
        """Likeness below which a picture is drawn again; 0: never."""
        return float(self.portrait.params.get("redraw_below") or 0)

    @property
    def card(self) -> dict[str, Any]:
        """The adapter's; empty without one."""
        return self.adapter.card or {} if self.adapter else {}


def read_order(storage: Storage, lease: Lease) -> Order:
    """:class:`core.errors.JobFailed` if it was erased meanwhile; ``UserError`` if its parameters cannot be rendered."""
    with storage.db.reader() as session:
        portrait = session.get(Portrait, lease.target_id)
        if portrait is None:
            raise JobFailed("This portrait was erased.")
        adapter = session.get(Adapter, portrait.adapter_id) if portrait.adapter_id else None
        photo = _reference_photo(portrait, photos.usable(session, adapter.subject_id)) if adapter else None
        source_key = _source_key(session, portrait)
    reference = _open(storage, photo.object_key) if photo else None
    source = _open(storage, source_key) if source_key else None
    params = {**portrait.params, "mode": Mode.TEXT_TO_IMAGE} if source else portrait.params
    return Order(portrait, adapter, request_from(portrait.prompt, portrait.seed, portrait.count, params, reference), source)


def _reference_photo(portrait: Portrait, usable: list[Photo]) -> Photo | None:
    """The photo that ``params["reference_photo"]`` names, else the subject's largest; None for a mode that draws from no photo."""
    if portrait.params.get("mode") != Mode.REFERENCE or not usable:
        return None
    named = [photo for photo in usable if photo.id == portrait.params.get("reference_photo")]
    return named[0] if named else max(usable, key=lambda photo: photo.width * photo.height)


def _source_key(session: Any, portrait: Portrait) -> str | None:
    """The object key of the picture to enlarge."""
    source = portrait.params.get("source")
    if portrait.params.get("mode") != Mode.UPSCALE or not source:
        return None
    found = portraits.images(session, [source["portrait"]])[source["portrait"]]
    keys = [image.object_key for image in found if image.n == source["n"] and image.account_id == portrait.account_id]
    if not keys:
        raise JobFailed(SOURCE_GONE)
    return keys[0]


def _open(storage: Storage, key: str) -> Image.Image:
    with Image.open(io.BytesIO(storage.objects.get(key))) as image:
        return image.convert("RGB")
