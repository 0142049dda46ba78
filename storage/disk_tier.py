"""Adapters on disk, in a folder that the processes of a machine share. They can be fetched again, so they make room for what cannot."""

from __future__ import annotations

import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

from core.settings import Settings

SUFFIX = ".safetensors"
SPARE_BYTES, SPARE_SHARE = 2 * 2**30, 0.1  # of the disk, whichever is less, is left to everybody else
ABANDONED_AFTER_S = 3600.0  # no download writes nothing for so long: what is unfinished then was a killed process's


class DiskTier:
    """Files ``<adapter>.safetensors``, at most ``limit`` bytes of them, the least recently used removed first."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit

    @classmethod
    def of(cls, settings: Settings) -> DiskTier:
        return cls(settings.caches / "adapters", settings.adapter_disk_bytes)

    def path(self, adapter_id: str) -> Path:
        return self.folder / f"{adapter_id}{SUFFIX}"

    def touch(self, adapter_id: str) -> None:
        """It was used just now. Another process may have removed it since: then there is nothing to note."""
        with suppress(FileNotFoundError):
            os.utime(self.path(adapter_id))

    def admit(self, size: int) -> None:
        """Before another adapter of ``size`` bytes comes: others go, down to the limit, and so that the disk keeps its spare part free."""
        self.folder.mkdir(parents=True, exist_ok=True)
        held = sum(own for _, own, _ in self._by_use())
        self._remove(max(held + size - self.limit, self._short_of(size)))

    def make_room(self, size: int) -> None:
        """Before ``size`` bytes of something that is in no store yet are written to the same disk."""
        if self.folder.is_dir():
            self._remove(self._short_of(size))

    def drop(self, adapter_id: str) -> None:
        self.path(adapter_id).unlink(missing_ok=True)

    def drop_abandoned(self) -> None:
        """Downloads that were never finished."""
        before = time.time() - ABANDONED_AFTER_S
        for path in self.folder.glob("*"):
            with suppress(FileNotFoundError):
                if path.suffix != SUFFIX and path.stat().st_mtime < before:
                    path.unlink()

    def ids(self) -> list[str]:
        return [path.name.removesuffix(SUFFIX) for path in self.folder.glob(f"*{SUFFIX}")]

    def _short_of(self, size: int) -> int:
        """Bytes that must go so that ``size`` more leave the spare part free; negative if there is room."""
        disk = shutil.disk_usage(self.folder)
        return size + int(min(SPARE_BYTES, SPARE_SHARE * disk.total)) - disk.free

    def _remove(self, excess: int) -> None:
        for _, size, path in self._by_use():
            if excess <= 0:
                return
            path.unlink(missing_ok=True)
            excess -= size

    def _by_use(self) -> list[tuple[int, int, Path]]:
        """When it was last used, bytes, path; oldest use first."""
        found = []
        for path in self.folder.glob(f"*{SUFFIX}"):
            with suppress(FileNotFoundError):
                status = path.stat()
                found.append((status.st_mtime_ns, status.st_size, path))
        return sorted(found)
