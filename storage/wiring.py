"""Opens what lasts, by URL."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from core.settings import Settings
from storage.database import Database
from storage.folder import FolderStore
from storage.objects import ObjectStore
from storage.secret import derived_key


@dataclass(frozen=True)
class Storage:
    db: Database
    objects: ObjectStore
    settings: Settings


def open_storage(settings: Settings) -> Storage:
    """Connects lazily; tables are made by ``storage.migrations.upgrade(settings.database)``."""
    return Storage(Database(settings.database), open_objects(settings), settings)


def open_database(settings: Settings) -> Storage:
    """For work with rows alone, before the store's library is loaded: boto3 takes as long as all the rest."""
    return Storage(Database(settings.database), _NotOpened(), settings)


class _NotOpened:
    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"objects.{name}: this storage was opened for rows alone")


def open_objects(settings: Settings) -> ObjectStore:
    """``file://folder`` or ``s3://bucket?…``; ``ValueError`` for any other scheme."""
    url = urlsplit(settings.store)
    if url.scheme == "file":
        return FolderStore(Path(unquote(url.netloc + url.path)), derived_key(settings, "object-links"), settings.site_url)
    if url.scheme == "s3":
        from storage.s3 import S3Store  # boto3 takes a while to import

        return S3Store.from_url(settings.store)
    raise ValueError(f"LIKENESS_STORE_URL must start with file:// or s3://, not {settings.store!r}")
