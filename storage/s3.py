"""Objects in an S3-compatible store, by boto3: bounded time, bounded retries, every version erased."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import boto3
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from core.errors import ServiceDown
from storage.objects import Erased, UploadForm, key_digest

CONNECT_TIMEOUT_S, READ_TIMEOUT_S, ATTEMPTS = 5, 30, 4
ERASED_AT_ONCE = 1000  # DeleteObjects takes no more
_MISSING = {"404", "NoSuchKey", "NotFound"}


class S3Store:
    """``s3://bucket?endpoint_url=…&region=…&addressing=path``. Credentials as boto3 finds them: environment, profile, instance role."""

    def __init__(self, bucket: str, endpoint_url: str | None = None, region: str | None = None, addressing: str = "auto") -> None:
        self.bucket = bucket
        config = Config(
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=READ_TIMEOUT_S,
            retries={"total_max_attempts": ATTEMPTS, "mode": "standard"},
            signature_version="s3v4",
            s3={"addressing_style": addressing},
            request_checksum_calculation="when_required",  # many S3-compatible stores know only the older checksums
            response_checksum_validation="when_required",
        )
        self._client = boto3.session.Session().client("s3", endpoint_url=endpoint_url, region_name=region, config=config)
        self._transfer = TransferConfig(max_concurrency=4)

    @classmethod
    def from_url(cls, url: str) -> S3Store:
        parts = urlsplit(url)
        options = {name: values[0] for name, values in parse_qs(parts.query).items()}
        unknown = set(options) - {"endpoint_url", "region", "addressing"}
        if not parts.netloc or parts.path.strip("/") or unknown:
            raise ValueError(f"write s3://bucket?endpoint_url=…&region=…&addressing=path, not {url!r}")
        return cls(parts.netloc, **options)

    def put(self, key: str, data: bytes | Path, content_type: str = "application/octet-stream") -> None:
        with _translated(key):
            if isinstance(data, bytes):
                self._client.put_object(Bucket=self.bucket, Key=key, Body=data, ContentType=content_type)
            else:
                extra = {"ContentType": content_type}
                self._client.upload_file(str(data), self.bucket, key, ExtraArgs=extra, Config=self._transfer)

    def get(self, key: str) -> bytes:
        with _translated(key):
            return self._client.get_object(Bucket=self.bucket, Key=key)["Body"].read()

    def download(self, key: str, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".part-")
        os.close(handle)
        try:
            with _translated(key):
                self._client.download_file(self.bucket, key, name, Config=self._transfer)
            os.replace(name, path)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(name)

    def exists(self, key: str) -> bool:
        try:
            self.size(key)
        except KeyError:
            return False
        return True

    def size(self, key: str) -> int:
        with _translated(key):
            return self._client.head_object(Bucket=self.bucket, Key=key)["ContentLength"]

    def list(self, prefix: str) -> Iterator[str]:
        with _translated(prefix):
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix):
                yield from (item["Key"] for item in page.get("Contents", []))

    def versions(self, prefix: str) -> Iterator[str]:
        with _translated(prefix):
            yield from (one["Key"] for one in self._versions(prefix))
            yield from (one["Key"] for one in self._unfinished(prefix))

    def erase(self, what: str | Iterable[str]) -> Erased:
        with _translated("erase"):
            total = self._abort(what) if isinstance(what, str) else Erased()
            versions = self._versions(what) if isinstance(what, str) else (one for key in what for one in self._versions_of(key))
            while some := list(islice(versions, ERASED_AT_ONCE)):
                total += self._erase_some(some)
            return total

    def presign_get(self, key: str, ttl_s: int, filename: str | None = None) -> str:
        shown = {"ResponseContentDisposition": f"attachment; filename*=UTF-8''{quote(filename)}"} if filename else {}
        return self._client.generate_presigned_url("get_object", Params={"Bucket": self.bucket, "Key": key, **shown}, ExpiresIn=ttl_s)

    def presign_upload(self, key: str, max_bytes: int, content_type: str, ttl_s: int) -> UploadForm:
        """A presigned POST: its ``content-length-range`` is the one cap on size that the store itself enforces."""
        fields = {"Content-Type": content_type}
        conditions: list[Any] = [{"Content-Type": content_type}, ["content-length-range", 1, max_bytes]]
        form = self._client.generate_presigned_post(self.bucket, key, Fields=fields, Conditions=conditions, ExpiresIn=ttl_s)
        return UploadForm("POST", form["url"], fields=form["fields"])

    def _versions(self, prefix: str) -> Iterator[dict[str, str]]:
        """Every version and delete marker: on a versioned bucket a plain delete only hides. Without versions, ids are ``null``."""
        try:
            for page in self._client.get_paginator("list_object_versions").paginate(Bucket=self.bucket, Prefix=prefix):
                for item in [*page.get("Versions", []), *page.get("DeleteMarkers", [])]:
                    yield {"Key": item["Key"], "VersionId": item["VersionId"]}
        except ClientError as error:  # stores that keep no versions, such as Garage, may not know the question
            if not _unknown(error):
                raise
            yield from ({"Key": key} for key in self.list(prefix))

    def _unfinished(self, prefix: str) -> Iterator[dict[str, str]]:
        """Parts of large uploads whose worker died: neither objects nor versions, and stored all the same."""
        try:
            for page in self._client.get_paginator("list_multipart_uploads").paginate(Bucket=self.bucket, Prefix=prefix):
                yield from ({"Key": item["Key"], "UploadId": item["UploadId"]} for item in page.get("Uploads", []))
        except ClientError as error:
            if not _unknown(error):
                raise

    def _abort(self, prefix: str) -> Erased:
        uploads = list(self._unfinished(prefix))
        for upload in uploads:
            with suppress(self._client.exceptions.NoSuchUpload):  # finished or aborted meanwhile
                self._client.abort_multipart_upload(Bucket=self.bucket, **upload)
        return Erased(len(uploads), tuple(sorted({key_digest(upload["Key"]) for upload in uploads})))

    def _versions_of(self, key: str) -> Iterator[dict[str, str]]:
        return (one for one in self._versions(key) if one["Key"] == key)

    def _erase_some(self, versions: Sequence[dict[str, str]]) -> Erased:
        answer = self._client.delete_objects(Bucket=self.bucket, Delete={"Objects": list(versions), "Quiet": True})
        if errors := answer.get("Errors"):
            raise ServiceDown(f"the object store did not erase {len(errors)} objects: {errors[0].get('Code')}")
        return Erased(len(versions), tuple(sorted({key_digest(one["Key"]) for one in versions})))


def _unknown(error: ClientError) -> bool:
    return error.response.get("Error", {}).get("Code") == "NotImplemented"


@contextmanager
def _translated(key: str) -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") in _MISSING:
            raise KeyError(key) from error
        raise ServiceDown(f"the object store refused: {error}") from error
    except (BotoCoreError, Boto3Error) as error:
        raise ServiceDown(f"the object store does not answer: {error}") from error
