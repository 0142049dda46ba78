"""Objects in an S3-compatible store, by boto3: bounded time, bounded retries, every version erased."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError, IncompleteReadError, ResponseStreamingError

from core.errors import ServiceDown
from storage.objects import Erased, UploadForm, UploadWay
from storage.s3_client import S3Options, make_client, not_known, translated
from storage.s3_uploads import UploadForms, WayFinder, find_way
from storage.s3_versions import Versions


class S3Store:
    """``s3://bucket?endpoint_url=…&region=…&addressing=path``; all that the URL may say: :class:`storage.s3_client.S3Options`."""

    def __init__(self, options: S3Options) -> None:
        self.options, self.bucket = options, options.bucket
        self.client = make_client(options, options.endpoint_url)
        self._signer = make_client(options, options.public_url) if options.public_url else self.client
        self._stored = Versions(self.client, options.bucket)
        self._transfer = TransferConfig(max_concurrency=4)
        self._ways = WayFinder(options.upload, self._find_way)
        self._encrypts = not options.sse

    @classmethod
    def from_url(cls, url: str) -> S3Store:
        return cls(S3Options.from_url(url))

    def ping(self) -> None:
        try:
            with translated(self.bucket):
                self._quick.head_bucket(Bucket=self.bucket)
        except KeyError:
            raise ServiceDown(f"the object store has no bucket {self.bucket}: run `likeness prepare`") from None

    def put(self, key: str, data: bytes | Path, content_type: str = "application/octet-stream") -> None:
        extra = {"ContentType": content_type, **self.options.encryption}
        with translated(key):
            if isinstance(data, bytes):
                self.client.put_object(Bucket=self.bucket, Key=key, Body=data, **extra)
            else:
                self.client.upload_file(str(data), self.bucket, key, ExtraArgs=extra, Config=self._transfer)
        if not self._encrypts:
            self._check_encrypted(key)

    def get(self, key: str) -> bytes:
        with translated(key):
            try:
                return self._read(key)
            except (ResponseStreamingError, IncompleteReadError):  # broken off in the middle, which boto does not retry
                return self._read(key)

    def download(self, key: str, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".part-")
        os.close(handle)
        try:
            with translated(key):
                self.client.download_file(self.bucket, key, name, Config=self._transfer)
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
        with translated(key):
            return self.client.head_object(Bucket=self.bucket, Key=key)["ContentLength"]

    def list(self, prefix: str) -> Iterator[str]:
        with translated(prefix):
            yield from self._stored.newest(prefix)

    def versions(self, prefix: str) -> Iterator[str]:
        with translated(prefix):
            yield from (one["Key"] for one in self._stored.under(prefix))
            yield from (one["Key"] for one in self._stored.unfinished(prefix))

    def erase(self, what: str | Iterable[str]) -> Erased:
        with translated("erase"):
            return self._stored.erase_prefix(what) if isinstance(what, str) else self._stored.erase_keys(what)

    def presign_get(self, key: str, ttl_s: int, filename: str | None = None) -> str:
        shown = {"ResponseContentDisposition": f"attachment; filename*=UTF-8''{quote(filename)}"} if filename else {}
        return self._signer.generate_presigned_url("get_object", Params={"Bucket": self.bucket, "Key": key, **shown}, ExpiresIn=ttl_s)

    def presign_upload(self, key: str, max_bytes: int, content_type: str, ttl_s: int, size: int | None = None) -> UploadForm:
        return UploadForms(self.options, self._signer).by(self.upload_way(), key, max_bytes, content_type, ttl_s, size)

    def upload_way(self) -> UploadWay:
        return self._ways.way()

    def encryption_of(self, key: str) -> str:
        """What the store says of an object that it holds: ``AES256``, ``aws:kms``, or nothing."""
        with translated(key):
            return self.client.head_object(Bucket=self.bucket, Key=key).get("ServerSideEncryption", "")

    def versioning(self) -> str:
        """``Enabled``, ``Suspended``, or nothing where versions are not kept."""
        with translated(self.bucket):
            try:
                return self.client.get_bucket_versioning(Bucket=self.bucket).get("Status", "")
            except ClientError as error:
                if not_known(error):
                    return ""
                raise

    @cached_property
    def _quick(self) -> Any:
        return make_client(self.options, self.options.endpoint_url, quick=True)

    def _read(self, key: str) -> bytes:
        return self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read()

    def _find_way(self) -> UploadWay:
        """Through the store's inner address: the outer one may not be reachable from here, and it is the same store."""
        self.ping()
        return find_way(UploadForms(self.options, self.client), self.size, self.erase)

    def _check_encrypted(self, key: str) -> None:
        """Stores answer 200 to settings that they ignore. Asked after this process's first write; what lies open does not stay."""
        if self.encryption_of(key) != self.options.sse:
            self.erase([key])
            raise ServiceDown(
                f"the object store ignores sse={self.options.sse}: turn encryption on there, or leave sse out of LIKENESS_STORE_URL"
            )
        self._encrypts = True
