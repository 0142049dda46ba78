"""How browsers bring a file straight to the store, with a cap on its size that the store itself enforces.

A presigned POST carries ``content-length-range``, but not every store takes one (Cloudflare R2 and OpenStack Swift do not). The other
way is a presigned PUT whose Content-Length is signed: for one size, which the client has to state first. Some stores answer 200 to limits
that they ignore. So the way is found out by trying, once for each process: what is taken *and* refuses a file that is too large.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

import httpx

from core.errors import ServiceDown, UserError
from storage.objects import UploadForm, UploadWay
from storage.s3_client import S3Options

PROBE_PREFIX = "health/upload-"
PROBE_TIMEOUT_S = 5.0
ASKED_AGAIN_AFTER_S = 10.0  # a store that was down a moment ago is not asked by every request
SMALL, LARGE = b"well", b"far too large" * 8
_SSE_HEADERS = {"ServerSideEncryption": "x-amz-server-side-encryption", "SSEKMSKeyId": "x-amz-server-side-encryption-aws-kms-key-id"}


class UploadForms:
    """Presigned by ``client``, whose endpoint is where the form will be sent."""

    def __init__(self, options: S3Options, client: Any) -> None:
        self._bucket, self._client, self._encryption = options.bucket, client, options.encryption
        self._headers = {_SSE_HEADERS[name]: value for name, value in options.encryption.items()}

    def post(self, key: str, max_bytes: int, content_type: str, ttl_s: int) -> UploadForm:
        fields = {"Content-Type": content_type, **self._headers}
        conditions: list[Any] = [*({name: value} for name, value in fields.items()), ["content-length-range", 1, max_bytes]]
        form = self._client.generate_presigned_post(self._bucket, key, Fields=fields, Conditions=conditions, ExpiresIn=ttl_s)
        return UploadForm("POST", form["url"], fields=form["fields"])

    def put(self, key: str, size: int, content_type: str, ttl_s: int) -> UploadForm:
        asked = {"Bucket": self._bucket, "Key": key, "ContentType": content_type, "ContentLength": size, **self._encryption}
        url = self._client.generate_presigned_url("put_object", Params=asked, ExpiresIn=ttl_s)
        return UploadForm("PUT", url, headers={"Content-Type": content_type, **self._headers})

    def by(self, way: UploadWay, key: str, max_bytes: int, content_type: str, ttl_s: int, size: int | None) -> UploadForm:
        """:class:`core.errors.UserError` if the way needs the file's size and it is not known."""
        if way.method == "POST":
            return self.post(key, max_bytes, content_type, ttl_s)
        if size is None:
            raise UserError("uploads/size-needed", "How large is the file?", "Send size, in bytes, with each file: the store signs for it.")
        return self.put(key, size, content_type, ttl_s)


class WayFinder:
    """Asks the store once, at the first need; while the store is down, :class:`core.errors.ServiceDown`, and asks again later."""

    def __init__(self, setting: str, find: Callable[[], UploadWay]) -> None:
        self._find, self._lock = find, threading.Lock()
        self._way = None if setting == "auto" else UploadWay(setting.upper(), note="as LIKENESS_STORE_URL says; not tried")
        self._down, self._asked_at = "", -ASKED_AGAIN_AFTER_S

    def way(self) -> UploadWay:
        with self._lock:
            if self._way is None:
                self._way = self._ask()
            return self._way

    def _ask(self) -> UploadWay:
        if self._down and time.monotonic() - self._asked_at < ASKED_AGAIN_AFTER_S:
            raise ServiceDown(self._down)
        try:
            return self._find()
        except ServiceDown as error:
            self._down, self._asked_at = str(error), time.monotonic()
            raise


def find_way(forms: UploadForms, size_of: Callable[[str], int], erase: Callable[[list[str]], object]) -> UploadWay:
    """Tries both ways with files of a few bytes. :class:`core.errors.ServiceDown` if the store does not answer or takes neither."""
    key = f"{PROBE_PREFIX}{uuid.uuid4().hex}"
    tried: list[UploadWay] = []
    try:
        for attempt in (_try_post, _try_put):
            found = attempt(forms, key, size_of)
            if found.capped:
                return UploadWay(found.method, True, "; ".join(one.note for one in tried))
            tried.append(found)
    finally:
        erase([key])
    usable = [one for one in tried if one.taken]
    notes = "; ".join(one.note for one in tried)
    if not usable:
        raise ServiceDown(f"the object store takes no presigned upload: {notes}")
    return UploadWay(usable[0].method, False, notes)


def _try_post(forms: UploadForms, key: str, size_of: Callable[[str], int]) -> UploadWay:
    def send(data: bytes) -> httpx.Response:
        form = forms.post(key, len(SMALL), "text/plain", 60)
        return httpx.post(form.url, data=form.fields, files={"file": ("probe", data, "text/plain")}, timeout=PROBE_TIMEOUT_S)

    return _try("POST", send, key, size_of)


def _try_put(forms: UploadForms, key: str, size_of: Callable[[str], int]) -> UploadWay:
    def send(data: bytes) -> httpx.Response:
        form = forms.put(key, len(SMALL), "text/plain", 60)
        return httpx.put(form.url, content=data, headers=form.headers, timeout=PROBE_TIMEOUT_S)

    return _try("PUT", send, key, size_of)


def _try(method: str, send: Callable[[bytes], httpx.Response], key: str, size_of: Callable[[str], int]) -> UploadWay:
    answer = _sent(send, SMALL)
    if not answer.is_success or _size(size_of, key) != len(SMALL):
        return UploadWay(method, False, f"it refuses {method} ({answer.status_code})", taken=False)
    if _sent(send, LARGE).is_success:
        return UploadWay(method, False, f"it ignores the limit of a {method}")
    return UploadWay(method, True)


def _sent(send: Callable[[bytes], httpx.Response], data: bytes) -> httpx.Response:
    try:
        answer = send(data)
    except httpx.HTTPError as error:
        raise ServiceDown(f"the object store does not answer: {error}") from error
    if answer.status_code >= 500 and answer.status_code != 501:  # 501 is an answer: not this way
        raise ServiceDown(f"the object store answers {answer.status_code}")
    return answer


def _size(size_of: Callable[[str], int], key: str) -> int | None:
    try:
        return size_of(key)
    except KeyError:
        return None
