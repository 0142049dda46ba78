"""``likeness prepare``: what must exist before the service starts, made once and safe to repeat."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from core.settings import Settings
from storage.migrations import newest_revision, upgrade
from storage.s3 import S3Store
from storage.s3_setup import prepare
from storage.wiring import open_objects


def run_prepare(settings: Settings) -> Iterator[str]:
    """A line for each thing, as it is done."""
    upgrade(settings.database)
    yield f"the database stands at {newest_revision()}"
    objects = open_objects(settings)
    if isinstance(objects, S3Store):
        yield from prepare(objects, "{0.scheme}://{0.netloc}".format(urlsplit(settings.site_url)))
    objects.ping()
    yield f"the object store {settings.store.split('?')[0]} is ready"
