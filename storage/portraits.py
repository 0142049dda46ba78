"""Portraits: requests for pictures, and the pictures."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from core.errors import UserError, not_found
from core.settings import Settings
from core.styles import Style, find_style
from core.words import JobKind, JobState, Mode, new_id
from storage import adapters, jobs, subjects
from storage.tables import Adapter, Job, Portrait, PortraitImage, now
from storage.wishes import NO_WISHES, Wishes

LONGEST_PROMPT = 1000
LARGEST_ENLARGED = 2048  # pixels a side, before


def create(
    session: Session,
    settings: Settings,
    account_id: str,
    *,
    adapter_id: str | None,
    style: str | None = None,
    prompt: str | None = None,
    seed: int | None = None,
    count: int = 1,
    params: dict[str, Any] | None = None,
    class_word: str = "subject",
    wishes: Wishes = NO_WISHES,
) -> tuple[Portrait, Job]:
    """A portrait and its job. Exactly one of ``style`` and ``prompt``; ``params`` overrides the style's (``lora_scale``, …), ``wishes`` a
    pose, a reference photo, the best of several.

    Without an adapter the base model renders ``class_word``. :class:`core.errors.UserError` says what to change.
    """
    subjects.open_account(session, account_id)
    adapter = _adapter(session, settings, account_id, adapter_id)
    wished = wishes.params(session, settings, adapter, count)
    text, recipe = _text_and_recipe(settings, style, prompt, wishes.view)
    recipe["redraw_below"] = wishes.redraw_below(recipe.get("redraw_below", settings.redraw_below), adapter, seed)
    portrait = Portrait(
        id=new_id("por"),
        account_id=account_id,
        adapter_id=adapter_id,
        style=style,
        prompt=with_subject(text, adapter.trigger_token if adapter else "", adapter.class_word if adapter else class_word),
        seed=secrets.randbits(31) if seed is None else seed,
        count=_count(settings, wishes.best_of or count),
        params=recipe | wished | (params or {}),
        created_at=now(),
    )
    session.add(portrait)
    session.flush()
    return portrait, jobs.create(session, account_id, JobKind.PORTRAIT, portrait.id)


def enlarge(session: Session, account_id: str, portrait_id: str, n: int) -> tuple[Portrait, Job]:
    """A portrait of its own: picture ``n`` at twice its size. :class:`core.errors.UserError` if it is large already."""
    subjects.open_account(session, account_id)
    image, (source, _) = get_image(session, account_id, portrait_id, n), get(session, account_id, portrait_id)
    if max(image.width, image.height) > LARGEST_ENLARGED:
        detail = f"Pictures up to {LARGEST_ENLARGED} pixels a side are enlarged."
        raise UserError("portrait/too-large", "This picture is as large as it gets", detail)
    same = {name: getattr(source, name) for name in ("adapter_id", "style", "prompt")}
    params = {"mode": Mode.UPSCALE, "source": {"portrait": portrait_id, "n": n}}
    portrait = Portrait(id=new_id("por"), account_id=account_id, seed=image.seed, count=1, params=params, created_at=now(), **same)
    session.add(portrait)
    session.flush()
    return portrait, jobs.create(session, account_id, JobKind.PORTRAIT, portrait.id)


def get(session: Session, account_id: str, portrait_id: str) -> tuple[Portrait, Job]:
    row = session.execute(select(Portrait, Job).join(Job, Job.target_id == Portrait.id).where(Portrait.id == portrait_id)).first()
    if row is None or row[0].account_id != account_id:
        raise not_found("portrait")
    return row[0], row[1]


def of_account(account_id: str, adapter_id: str | None = None) -> Select[Portrait]:
    """For :func:`storage.paging.page`."""
    query = select(Portrait).where(Portrait.account_id == account_id)
    return query.where(Portrait.adapter_id == adapter_id) if adapter_id else query


@dataclass(frozen=True)
class WaitingPortrait:
    """A portrait's job that no worker has; ``adapter_id`` None is the bare base model."""

    job_id: str
    adapter_id: str | None
    created_at: datetime


def waiting(session: Session, limit: int = 64) -> list[WaitingPortrait]:
    """Jobs that a worker may take now, in order of arrival."""
    query = select(Job.id, Portrait.adapter_id, Job.created_at).join(Portrait, Portrait.id == Job.target_id)
    free = (Job.state == JobState.STARTING) & (Job.kind == JobKind.PORTRAIT) & (Job.publish_after <= now()) & ~Job.cancel_requested
    rows = session.execute(query.where(free).order_by(Job.created_at, Job.id).limit(limit))
    return [WaitingPortrait(*row) for row in rows]


def images(session: Session, portrait_ids: list[str]) -> dict[str, list[PortraitImage]]:
    """Pictures of each portrait, in order."""
    rows = session.scalars(select(PortraitImage).where(PortraitImage.portrait_id.in_(portrait_ids)).order_by(PortraitImage.n))
    found: dict[str, list[PortraitImage]] = {portrait_id: [] for portrait_id in portrait_ids}
    for row in rows:
        found[row.portrait_id].append(row)
    return found


def get_image(session: Session, account_id: str, portrait_id: str, n: int) -> PortraitImage:
    query = select(PortraitImage).where(
        PortraitImage.portrait_id == portrait_id, PortraitImage.n == n, PortraitImage.account_id == account_id
    )
    image = session.scalar(query)
    if image is None:
        raise not_found("picture")
    return image


def add_image(session: Session, image: PortraitImage) -> PortraitImage:
    """Inside ``lease.succeed()``."""
    image.id, image.created_at = image.id or new_id("img"), image.created_at or now()
    session.add(image)
    return image


def cancel(session: Session, account_id: str, portrait_id: str) -> tuple[Portrait, Job]:
    portrait, job = get(session, account_id, portrait_id)
    jobs.request_cancel(session, job)
    return portrait, job


def with_subject(prompt: str, trigger_token: str, class_word: str) -> str:
    """Trigger token and class word are put in here, whatever the customer wrote: without them the adapter does nothing."""
    subject = f"{trigger_token} {class_word}".strip()
    if "{subject}" in prompt:
        return prompt.replace("{subject}", subject)
    if not trigger_token or trigger_token in prompt:
        return prompt
    return f"{subject}, {prompt}"


def _adapter(session: Session, settings: Settings, account_id: str, adapter_id: str | None) -> Adapter | None:
    if adapter_id is None:
        return None
    adapter = adapters.get(session, account_id, adapter_id)
    if adapter.base_model != settings.base_model:
        detail = f"It was fitted on {adapter.base_model}; this service renders with {settings.base_model}. Train the subject again."
        raise UserError("adapter/other-base-model", "This adapter belongs to another base model", detail, status=409)
    return adapter


def _text_and_recipe(settings: Settings, style: str | None, prompt: str | None, view: str) -> tuple[str, dict[str, Any]]:
    if (style is None) == (prompt is None):
        raise UserError("portrait/style-or-prompt", "Choose a style or write a prompt", "Send exactly one of style and prompt.")
    if style is not None:
        found = find_style(settings, style)
        return found.prompt_for("{subject}", view), _recipe(found)
    text = " ".join((prompt or "").split())
    if not 1 <= len(text) <= LONGEST_PROMPT:
        raise UserError("portrait/prompt", "This prompt cannot be used", f"Write 1 to {LONGEST_PROMPT} characters.")
    return text, {"mode": Mode.TEXT_TO_IMAGE}


def _recipe(style: Style) -> dict[str, Any]:
    named = {"mode", "lora_scale", "guidance_scale", "num_inference_steps", "style_adapter"}
    own = {"redraw_below": style.redraw_below} if style.redraw_below is not None else {}
    return style.model_dump(mode="json", include=named) | own | style.options


def _count(settings: Settings, count: int) -> int:
    if not 1 <= count <= settings.max_images_per_portrait:
        raise UserError("portrait/count", "This many pictures cannot be made at once", f"Ask for 1 to {settings.max_images_per_portrait}.")
    return count
