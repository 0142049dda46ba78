"""``likeness doctor``: one line for each thing that the service needs, with what to do where it is missing."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from sqlalchemy import text

from core.errors import ServiceDown, UserError
from core.settings import Settings
from mail.senders import open_sender
from storage.broker import resolve_broker_url
from storage.migrations import current_revision, newest_revision
from storage.wiring import open_storage


@dataclass(frozen=True)
class Finding:
    what: str
    good: bool
    said: str


def run_doctor(settings: Settings, console: Console) -> bool:
    """Prints every finding; True if all are good."""
    checks: dict[str, Callable[[Settings], str]] = {
        "database": database,
        "migrations": migrations,
        "broker": broker,
        "object store": object_store,
        "mail": mail,
        "base model": base_model,
        "encoders": encoders,
        "device": device,
    }
    findings = [_examine(name, check, settings) for name, check in checks.items()]
    for finding in findings:
        console.print(f"{'[green]ok  [/]' if finding.good else '[red]FAIL[/]'} {finding.what:13} {finding.said}", soft_wrap=True)
    return all(finding.good for finding in findings)


def _examine(name: str, check: Callable[[Settings], str], settings: Settings) -> Finding:
    try:
        return Finding(name, True, check(settings))
    except (UserError, ServiceDown, OSError, ValueError) as error:
        return Finding(name, False, str(error))
    except Exception as error:  # a doctor that dies of the illness helps nobody
        return Finding(name, False, f"{type(error).__name__}: {error}")


def database(settings: Settings) -> str:
    with open_storage(settings).db.reader() as session:
        session.execute(text("select 1"))
    return settings.database.split("@")[-1]


def migrations(settings: Settings) -> str:
    current, newest = current_revision(settings.database), newest_revision()
    if current != newest:
        raise UserError("migrations/behind", f"the schema is at {current}, the newest is {newest}", "Run: likeness migrate")
    return f"at {newest}"


def broker(settings: Settings) -> str:
    from kombu import Connection

    url = resolve_broker_url(settings)
    with Connection(url, connect_timeout=3) as connection:
        connection.ensure_connection(max_retries=1)
    return url.split("@")[-1]


def object_store(settings: Settings) -> str:
    """Writes, reads back, erases."""
    objects, key = open_storage(settings).objects, f"doctor/{uuid.uuid4().hex}"
    objects.put(key, b"well", "text/plain")
    back = objects.get(key)
    objects.erase([key])
    if back != b"well" or objects.exists(key):
        raise ServiceDown("what was written did not come back, or did not go away")
    return settings.store.split("?")[0]


def mail(settings: Settings) -> str:
    open_sender(settings.mail)
    return settings.mail.split("@")[-1]


def base_model(settings: Settings) -> str:
    path = Path(settings.base_model_path)
    if path.is_absolute() and not (path / "model_index.json").exists():
        raise UserError("base-model/missing", f"{path} holds no model_index.json", "Set LIKENESS_BASE_MODEL to a folder or a hub id.")
    return settings.base_model


def encoders(settings: Settings) -> str:
    for path in (settings.identity_encoder_path, settings.text_image_encoder_path):
        if Path(path).is_absolute() and not (Path(path) / "config.json").exists():
            raise UserError("encoder/missing", f"{path} holds no config.json")
    return f"{settings.identity_encoder}, {settings.text_image_encoder}"


def device(settings: Settings) -> str:
    from diffusion.devices import describe, pick_device

    return describe(pick_device(settings.device))
