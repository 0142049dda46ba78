"""Rows → the JSON that programs and pages read. Words and shapes follow Replicate's where it has them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from core.styles import Style
from core.words import PhotoVerdict
from storage import keys
from storage.tables import Adapter, ApiKey, Job, Photo, Portrait, PortraitImage, Subject, Training
from storage.wiring import Storage

Json = dict[str, Any]


def moment(value: datetime | None) -> str | None:
    return value.isoformat(timespec="milliseconds").replace("+00:00", "Z") if value else None


def job(row: Job, path: str) -> Json:
    """The state of a training or a portrait; ``path`` is its address below the site."""
    return {
        "status": str(row.state),
        "created_at": moment(row.created_at),
        "started_at": moment(row.started_at),
        "completed_at": moment(row.completed_at),
        "error": (row.error or {}).get("message") if row.state == "failed" else None,
        "error_type": (row.error or {}).get("type") if row.state == "failed" else None,
        "attempts": row.attempts,
        "cancel_requested": row.cancel_requested,
        "progress": row.progress or {},
        "metrics": row.metrics or {},
        "urls": {"get": path, "cancel": f"{path}/cancel", "events": f"{path}/events"},
    }


def training(row: Training, its_job: Job) -> Json:
    about = {key: getattr(row, key) for key in ("id", "subject_id", "base_model", "trigger_token", "seed", "recipe", "adapter_id")}
    return about | job(its_job, f"/v1/trainings/{row.id}")


def subject(row: Subject, counts: dict[str, int], photos_go_at: datetime | None = None) -> Json:
    """``photos_go_at``: when the retention schedule will erase its photos, if it will."""
    usable = sum(count for verdict, count in counts.items() if verdict != PhotoVerdict.REJECTED)
    return {
        "id": row.id,
        "name": row.name,
        "kind": row.kind,
        "class_word": row.class_word,
        "created_at": moment(row.created_at),
        "photos_expire_at": moment(photos_go_at),
        "photos": {"usable": usable, "rejected": counts.get(PhotoVerdict.REJECTED, 0)},
        "urls": {"get": f"/v1/subjects/{row.id}", "photos": f"/v1/subjects/{row.id}/photos", "uploads": f"/v1/subjects/{row.id}/uploads"},
    }


def photo(storage: Storage, row: Photo) -> Json:
    keys = ("id", "subject_id", "filename", "verdict", "reasons", "width", "height", "size_bytes", "description")
    return {key: getattr(row, key) for key in keys} | {
        "created_at": moment(row.created_at),
        "urls": {"thumb": link(storage, row.thumb_key), "picture": link(storage, row.object_key)},
    }


def adapter(storage: Storage, row: Adapter) -> Json:
    """``samples``: pictures that the chosen checkpoint was judged on, each with its prompt."""
    keys = ("id", "subject_id", "training_id", "base_model", "rank", "alpha", "trigger_token", "class_word", "sha256", "size_bytes", "card")
    return {key: getattr(row, key) for key in keys} | {
        "created_at": moment(row.created_at),
        "samples": samples(storage, row),
        "urls": {"get": f"/v1/adapters/{row.id}", "download": f"/v1/adapters/{row.id}/download"},
    }


def samples(storage: Storage, row: Adapter) -> list[Json]:
    return [
        {"prompt": one["prompt"], "urls": {"picture": link(storage, keys.adapter_sample(row.account_id, row.id, one["file"]))}}
        for one in (row.card or {}).get("samples", [])
    ]


def portrait(storage: Storage, row: Portrait, its_job: Job, images: list[PortraitImage]) -> Json:
    keys = ("id", "adapter_id", "style", "prompt", "seed", "count", "params")
    pictures = [image(storage, row.id, picture) for picture in images]
    return {key: getattr(row, key) for key in keys} | {"images": pictures} | job(its_job, f"/v1/portraits/{row.id}")


def image(storage: Storage, portrait_id: str, row: PortraitImage) -> Json:
    """``likeness``: 0 = the base model, 1 = held-out real photos; None without an adapter."""
    keys = ("n", "seed", "width", "height", "likeness", "sha256")
    name = f"{portrait_id}-{row.n}.png"
    urls = {"picture": link(storage, row.object_key), "download": link(storage, row.object_key, name)}
    urls |= {"jpeg": f"/v1/portraits/{portrait_id}/images/{row.n}.jpg", "upscale": f"/v1/portraits/{portrait_id}/images/{row.n}/upscale"}
    return {key: getattr(row, key) for key in keys} | {"urls": urls}


def style(row: Style) -> Json:
    return row.model_dump(mode="json")


def api_key(row: ApiKey) -> Json:
    times = {"created_at": moment(row.created_at), "last_used_at": moment(row.last_used_at)}
    return {"id": row.id, "name": row.name, "hint": f"{row.hint}…"} | times


def link(storage: Storage, key: str, filename: str | None = None) -> str:
    return storage.objects.presign_get(key, storage.settings.presign_ttl_s, filename)
