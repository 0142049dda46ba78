"""The object store: a round trip, links, uploads, versions, encryption, and what browsers may do."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
from botocore.exceptions import ClientError

from core.errors import ServiceDown
from core.settings import Settings
from likeness.checks import Finding, failure, good, warning
from storage.objects import ObjectStore
from storage.s3 import S3Store
from storage.s3_client import S3Options
from storage.s3_setup import allows, cors_rules
from storage.wiring import open_storage

LINK_TIMEOUT_S = 5.0
WORDS = (b"well", b"well again")


def object_store(settings: Settings) -> Iterator[Finding]:
    objects = open_storage(settings).objects
    key = f"health/doctor-{uuid.uuid4().hex}"
    objects.ping()
    try:
        yield _round_trip(settings, objects, key)
        if isinstance(objects, S3Store):
            yield from _s3(settings, objects, key)
        else:
            yield good("links", "served by the API from this folder: every process must see it")
    finally:
        erased = objects.erase([key]).count
        left = list(objects.versions(key))
    if left:
        fix = "Erasure would fail: allow s3:DeleteObjectVersion, and keep no object lock on this bucket."
        yield failure("erasing", f"{len(left)} versions of an erased object remain", fix)
    else:
        yield good("erasing", f"nothing remained of {erased} stored versions")


def _round_trip(settings: Settings, objects: ObjectStore, key: str) -> Finding:
    began = time.monotonic()
    for words in WORDS:
        objects.put(key, words, "text/plain")
    if objects.get(key) != WORDS[-1] or key not in objects.list(key):
        raise ServiceDown("what was written did not come back")
    return good("store", f"{_named(settings)}: written, read back and listed in {(time.monotonic() - began) * 1000:.0f} ms")


def _s3(settings: Settings, store: S3Store, key: str) -> Iterator[Finding]:
    yield _link(store, key)
    yield _uploads(store)
    yield _browsers(settings, store)
    yield _versions(store)
    yield _encryption(store, key)


def _link(store: S3Store, key: str) -> Finding:
    """As customers' browsers follow it; this machine may not reach that address although they do."""
    options = store.options
    inner = S3Store(S3Options(options.bucket, options.endpoint_url, options.region, options.addressing))
    if _fetched(inner.presign_get(key, 60)) != WORDS[-1]:
        return failure("links", "the store refuses its own presigned link", "Check the clocks, the region and addressing=path.")
    if options.public_url and _fetched(store.presign_get(key, 60)) != WORDS[-1]:
        fix = f"Open it from outside. A proxy in front must pass the Host header on unchanged: links are signed for {options.public_url}."
        return warning("links", f"not reachable from here through {options.public_url}", fix)
    return good("links", f"served through {options.public_url or options.endpoint_url or 'AWS'}")


def _fetched(url: str) -> bytes | None:
    try:
        answer = httpx.get(url, timeout=LINK_TIMEOUT_S)
    except httpx.HTTPError:
        return None
    return answer.content if answer.is_success else None


def _uploads(store: S3Store) -> Finding:
    way = store.upload_way()
    if way.capped:
        reason = f" ({way.note})" if way.note else ""
        return good("uploads", f"presigned {way.method}, the store itself refuses what is too large{reason}")
    fix = "Size is checked by the API after the upload; to stop waste earlier, limit the body size in a proxy before the store."
    return warning("uploads", f"presigned {way.method}, and nothing caps the size: {way.note}", fix)


def _browsers(settings: Settings, store: S3Store) -> Finding:
    origin = "{0.scheme}://{0.netloc}".format(urlsplit(settings.site_url))
    try:
        if allows(cors_rules(store), origin):
            return good("browsers", f"pages of {origin} may upload and read (CORS)")
    except ClientError as error:
        said = f"its CORS rules cannot be read: {error.response.get('Error', {}).get('Code')}"
        return warning("browsers", said, f"Allow {origin} with GET, HEAD, POST, PUT and any header in the store's own configuration.")
    return warning("browsers", f"no CORS rule lets pages of {origin} upload", "Run: likeness prepare")


def _versions(store: S3Store) -> Finding:
    state = store.versioning()
    return good("versions", {"Enabled": "kept; erasing removes every one", "Suspended": "suspended"}.get(state, "not kept by this bucket"))


def _encryption(store: S3Store, key: str) -> Finding:
    stated = store.encryption_of(key)
    if store.options.sse:  # a store that ignored it has failed the round trip
        return good("encryption", f"{stated}, read back")
    return good("encryption", f"{stated} by the bucket's default" if stated else "not asked for (sse=AES256 in LIKENESS_STORE_URL)")


def _named(settings: Settings) -> str:
    return settings.store.split("?")[0]
