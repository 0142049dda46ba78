"""Objects in a local folder. Links go to the API, which serves them to whoever holds a signed, expiring token."""

from __future__ import annotations

import base64
import hmac
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from core.errors import ServiceDown, UserError
from storage.objects import Erased, UploadForm, UploadWay, key_digest

_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")
_TEMPORARY = ".part-"
MKDIR_TRIES = 50  # each takes microseconds


@dataclass(frozen=True)
class Grant:
    """What a token allows: ``op`` is ``get`` or ``put``; ``expires`` in Unix seconds."""

    op: str
    key: str
    expires: int
    filename: str | None = None
    max_bytes: int = 0
    content_type: str = ""


class FolderStore:
    """``root`` holds the objects; ``site_url`` is where the API answers ``/v1/objects/{token}`` and ``/v1/uploads/{token}``."""

    def __init__(self, root: Path, secret: bytes, site_url: str) -> None:
        self.root = root
        self.site_url = site_url.rstrip("/")
        self._secret = secret

    def ping(self) -> None:
        with _as_service_down():
            self.root.mkdir(parents=True, exist_ok=True)
        if not os.access(self.root, os.R_OK | os.W_OK | os.X_OK):
            raise ServiceDown(f"the object folder {self.root} cannot be written")

    def put(self, key: str, data: bytes | Path, content_type: str = "application/octet-stream") -> None:
        with _as_service_down(), _whole_file(self.path(key)) as file:
            if isinstance(data, bytes):
                file.write(data)
            else:
                with data.open("rb") as source:
                    shutil.copyfileobj(source, file, 2**20)

    def get(self, key: str) -> bytes:
        with _reading(key):
            return self.path(key).read_bytes()

    def download(self, key: str, path: Path) -> None:
        with _reading(key), self.path(key).open("rb") as source, _whole_file(path) as file:
            shutil.copyfileobj(source, file, 2**20)

    def exists(self, key: str) -> bool:
        return self.path(key).is_file()

    def size(self, key: str) -> int:
        with _reading(key):
            return self.path(key).stat().st_size

    def list(self, prefix: str) -> Iterator[str]:
        return (key for key in self.versions(prefix) if not key.rpartition("/")[2].startswith(_TEMPORARY))

    def versions(self, prefix: str) -> Iterator[str]:
        folder = self.root / prefix.rpartition("/")[0]
        if not folder.resolve().is_relative_to(self.root.resolve()):
            raise ValueError(f"unsafe prefix {prefix!r}")
        files = (Path(place, name) for place, _folders, names in os.walk(folder) for name in names)  # a folder that vanishes is skipped
        return (key for key in sorted(file.relative_to(self.root).as_posix() for file in files) if key.startswith(prefix))

    def erase(self, what: str | Iterable[str]) -> Erased:
        with _as_service_down():
            keys = [key for key in _keys_of(self, what) if self._erase_one(key)]
            if isinstance(what, str):
                shutil.rmtree(self.root / what, ignore_errors=True)  # unfinished files and empty folders
        return Erased(len(keys), tuple(sorted(key_digest(key) for key in keys)))

    def presign_get(self, key: str, ttl_s: int, filename: str | None = None) -> str:
        self.path(key)
        return f"{self.site_url}/v1/objects/{self._sign(Grant('get', key, int(time.time()) + ttl_s, filename=filename))}"

    def presign_upload(self, key: str, max_bytes: int, content_type: str, ttl_s: int, size: int | None = None) -> UploadForm:
        self.path(key)
        grant = Grant("put", key, int(time.time()) + ttl_s, max_bytes=max_bytes, content_type=content_type)
        return UploadForm("POST", f"{self.site_url}/v1/uploads/{self._sign(grant)}", fields={"Content-Type": content_type})

    def upload_way(self) -> UploadWay:
        return UploadWay("POST", note="to the API itself")

    def verify(self, token: str, op: str) -> Grant:
        """The grant behind a link; :class:`core.errors.UserError` (403) if it was altered, is for another use, or has expired."""
        body, _, signature = token.partition(".")
        if not hmac.compare_digest(signature.encode(errors="replace"), self._signature(body).encode()):
            raise _refused("This link is not valid.")
        grant = Grant(**json.loads(_unbase64(body)))
        if grant.op != op:
            raise _refused("This link is not valid here.")
        if grant.expires < time.time():
            raise _refused("This link has expired: reload the page to get a new one.")
        return grant

    def path(self, key: str) -> Path:
        """Where a key lies. ``ValueError`` for a key that could leave the folder."""
        if not _KEY.fullmatch(key) or len(key) > 512:
            raise ValueError(f"unsafe key {key!r}")
        return self.root / key

    def _erase_one(self, key: str) -> bool:
        path = self.path(key)
        try:
            path.unlink()
        except FileNotFoundError:
            return False
        self._prune(path.parent)
        return True

    def _prune(self, folder: Path) -> None:
        with suppress(OSError):  # not empty: stop there
            while folder != self.root:
                folder.rmdir()
                folder = folder.parent

    def _sign(self, grant: Grant) -> str:
        body = _base64(json.dumps(asdict(grant), separators=(",", ":")).encode())
        return f"{body}.{self._signature(body)}"

    def _signature(self, body: str) -> str:
        return _base64(hmac.digest(self._secret, body.encode(errors="replace"), "sha256"))


def _keys_of(store: FolderStore, what: str | Iterable[str]) -> list[str]:
    if not isinstance(what, str):
        return list(what)
    if not what.endswith("/") or not _KEY.fullmatch(what[:-1]):
        raise ValueError(f"unsafe prefix {what!r}")
    return list(store.list(what))


def _refused(detail: str) -> UserError:
    return UserError("link/refused", "This link cannot be used", detail, status=403)


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _unbase64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


@contextmanager
def _as_service_down() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ServiceDown(f"the object folder cannot be used: {error}") from error


@contextmanager
def _reading(key: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, IsADirectoryError) as error:
        raise KeyError(key) from error


@contextmanager
def _whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file that appears under its name only when it is complete and on the disk."""
    handle, name = _temporary_in(path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(name)
        raise


def _temporary_in(folder: Path) -> tuple[int, str]:
    """A new file. Erasures remove folders that are empty at any moment: then mkdir's own answer, even «it exists», may be of the past."""
    for _ in range(MKDIR_TRIES - 1):
        with suppress(FileNotFoundError, FileExistsError):
            return _made_in(folder)
    return _made_in(folder)


def _made_in(folder: Path) -> tuple[int, str]:
    folder.mkdir(parents=True, exist_ok=True)
    return tempfile.mkstemp(dir=folder, prefix=_TEMPORARY)
