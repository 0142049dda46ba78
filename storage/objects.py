"""What an object store offers: photos, adapters and portraits by key. ``folder`` and ``s3`` are the two kinds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class UploadForm:
    """How a client sends one file: a form POST of ``fields`` with the file last, named ``file``; or a PUT with ``headers``."""

    method: str
    url: str
    fields: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class UploadWay:
    """What a store does with presigned uploads. ``method``: ``POST`` or ``PUT``. ``capped``: it refuses a file that is too large by itself.

    ``note`` is for the operator; ``taken`` is False for a way that it refuses.
    """

    method: str
    capped: bool = True
    note: str = ""
    taken: bool = True


@dataclass(frozen=True)
class Erased:
    """What an erasure removed: how many stored versions, and the sha-256 of every key, sorted; never the keys themselves."""

    count: int = 0
    digests: tuple[str, ...] = ()

    def __add__(self, other: Erased) -> Erased:
        return Erased(self.count + other.count, tuple(sorted({*self.digests, *other.digests})))


def key_digest(key: str) -> str:
    return sha256(key.encode()).hexdigest()


class ObjectStore(Protocol):
    """A missing key is ``KeyError``; a store that is down is :class:`core.errors.ServiceDown`, after bounded retries."""

    def ping(self) -> None:
        """Returns if the store answers and has its bucket or folder; within seconds."""

    def put(self, key: str, data: bytes | Path, content_type: str = "application/octet-stream") -> None:
        """Whole or not at all; replaces what was there."""

    def get(self, key: str) -> bytes: ...

    def download(self, key: str, path: Path) -> None:
        """Into ``path``, which appears whole or not at all."""

    def exists(self, key: str) -> bool: ...

    def size(self, key: str) -> int:
        """Bytes."""

    def list(self, prefix: str) -> Iterator[str]:
        """Keys that start with ``prefix``, in order."""

    def versions(self, prefix: str) -> Iterator[str]:
        """The key of everything stored under ``prefix``, once for each version: old ones, delete markers and unfinished uploads too."""

    def erase(self, what: str | Iterable[str]) -> Erased:
        """Every version of all keys under a prefix (a string that ends in ``/``), or of the keys given. What is missing is no error.

        Under a prefix, unfinished uploads go as well.
        """

    def presign_get(self, key: str, ttl_s: int, filename: str | None = None) -> str:
        """A URL that serves the object until it expires; with ``filename``, as a download of that name."""

    def presign_upload(self, key: str, max_bytes: int, content_type: str, ttl_s: int, size: int | None = None) -> UploadForm:
        """A place for one file of at most ``max_bytes``. A store may need the file's very ``size``: without it ``UserError``."""

    def upload_way(self) -> UploadWay:
        """How :meth:`presign_upload` does it. Found out at the first call, which may take seconds; remembered."""
