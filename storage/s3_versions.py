"""Everything that a bucket holds under a prefix, and how it goes: versions, delete markers, parts of unfinished uploads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

from botocore.exceptions import ClientError

from core.errors import ServiceDown
from storage.objects import Erased, key_digest
from storage.s3_client import not_known

ERASED_AT_ONCE = 1000  # DeleteObjects takes no more


class Versions:
    def __init__(self, client: Any, bucket: str) -> None:
        self._client, self._bucket = client, bucket

    def under(self, prefix: str) -> Iterator[dict[str, str]]:
        """Every version and delete marker: on a versioned bucket a plain delete only hides. Without versions, ids are ``null``."""
        try:
            for page in self._pages("list_object_versions", prefix):
                for item in [*page.get("Versions", []), *page.get("DeleteMarkers", [])]:
                    yield {"Key": item["Key"], "VersionId": item["VersionId"]}
        except ClientError as error:  # stores that keep no versions, such as Garage, may not know the question
            if not not_known(error):
                raise
            yield from ({"Key": key} for key in self.newest(prefix))

    def newest(self, prefix: str) -> Iterator[str]:
        """Keys, in order."""
        for page in self._pages("list_objects_v2", prefix):
            yield from (item["Key"] for item in page.get("Contents", []))

    def unfinished(self, prefix: str) -> Iterator[dict[str, str]]:
        """Parts of large uploads whose worker died: neither objects nor versions, and stored all the same."""
        try:
            for page in self._pages("list_multipart_uploads", prefix):
                yield from ({"Key": item["Key"], "UploadId": item["UploadId"]} for item in page.get("Uploads", []))
        except ClientError as error:
            if not not_known(error):
                raise

    def erase_prefix(self, prefix: str) -> Erased:
        return self._abort(list(self.unfinished(prefix))) + self._erase(self.under(prefix))

    def erase_keys(self, keys: Iterable[str]) -> Erased:
        return self._erase(one for key in keys for one in self.under(key) if one["Key"] == key)

    def _pages(self, operation: str, prefix: str) -> Any:
        return self._client.get_paginator(operation).paginate(Bucket=self._bucket, Prefix=prefix)

    def _abort(self, uploads: list[dict[str, str]]) -> Erased:
        for upload in uploads:
            with suppress(self._client.exceptions.NoSuchUpload):  # finished or aborted meanwhile
                self._client.abort_multipart_upload(Bucket=self._bucket, **upload)
        return _erased(uploads)

    def _erase(self, versions: Iterator[dict[str, str]]) -> Erased:
        total = Erased()
        while some := list(islice(versions, ERASED_AT_ONCE)):
            answer = self._client.delete_objects(Bucket=self._bucket, Delete={"Objects": some, "Quiet": True})
            if errors := answer.get("Errors"):
                raise ServiceDown(f"the object store did not erase {len(errors)} objects: {errors[0].get('Code')}")
            total += _erased(some)
        return total


def _erased(found: Sequence[dict[str, str]]) -> Erased:
    return Erased(len(found), tuple(sorted({key_digest(one["Key"]) for one in found})))
