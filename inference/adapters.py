"""A worker's adapters, nearest first: GPU, RAM, disk, object store, each bounded in bytes. One verb, ``ensure``; none holds erased ones."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from sqlalchemy import select

from core.errors import JobFailed, ServiceDown, UserError
from core.logs import get_logger
from inference.digests import Digests
from inference.lru import ByteLru
from inference.slot import LoadedAdapter
from storage import adapters as rows
from storage.disk_tier import DiskTier
from storage.tables import Adapter
from storage.wiring import Storage

log = get_logger("inference.adapters")

ERASED = "This adapter was erased, so no more portraits can be made with it."
DAMAGED = "The stored adapter is damaged. Train the subject again; we are sorry."
FETCHES = 3  # of one adapter, if its file is gone again before it is read

Read = Callable[[Path, str], LoadedAdapter]  # of a file and the adapter's id; refuses what is no adapter of this base model
Near = Callable[[LoadedAdapter], LoadedAdapter]  # a copy in the GPU's memory


class AdapterCache:
    """Safe for threads: those that want one adapter at the same time load it once. Without ``near`` there is no GPU tier."""

    def __init__(self, storage: Storage, read: Read, near: Near | None = None) -> None:
        settings = storage.settings
        self.storage, self._read, self._near = storage, read, near
        self.disk = DiskTier.of(settings)
        self._ram: ByteLru[LoadedAdapter] = ByteLru(settings.adapter_cache_bytes)
        self._gpu: ByteLru[LoadedAdapter] = ByteLru(settings.adapter_gpu_bytes if near else 0)
        self._digests = Digests()
        self._lock = threading.Lock()
        self._loading: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def ensure(self, adapter: Adapter) -> tuple[LoadedAdapter, str]:
        """The weights and where they came from (``gpu``, ``ram``, ``disk`` or ``store``).

        :class:`core.errors.JobFailed` if it was erased or its stored file is damaged; ``ServiceDown`` if the store does not answer.
        """
        with self._lock:
            loading = self._loading[adapter.id]
        with loading:
            loaded, tier = self._find(adapter)
        if self._gone([adapter.id]):  # asked last, so that an erasure during the load is seen too
            self.evict({adapter.id})
            raise JobFailed(ERASED)
        return loaded, tier

    def evict(self, adapter_ids: set[str]) -> None:
        for adapter_id in adapter_ids:
            with self._lock:
                self._gpu.drop(adapter_id)
                self._ram.drop(adapter_id)
                self._loading.pop(adapter_id, None)
            self.disk.drop(adapter_id)

    def sweep(self, also: Iterable[str] = ()) -> set[str]:
        """Evicts what was erased since; returns it, so that the engine can forget it too. ``also``: ids that others hold."""
        self.disk.drop_abandoned()
        with self._lock:
            held = {*self._gpu.keys(), *self._ram.keys(), *self.disk.ids(), *also}
        gone = self._gone(sorted(held))
        self.evict(gone)
        return gone

    def _find(self, adapter: Adapter) -> tuple[LoadedAdapter, str]:
        with self._lock:
            found = self._gpu.get(adapter.id)
        if found:
            return found, "gpu"
        loaded, tier = self._in_ram(adapter)
        if self._near and loaded.nbytes <= self._gpu.limit:
            loaded = self._near(loaded)
            with self._lock:
                self._gpu.put(adapter.id, loaded, loaded.nbytes)
        return loaded, tier

    def _in_ram(self, adapter: Adapter) -> tuple[LoadedAdapter, str]:
        with self._lock:
            found = self._ram.get(adapter.id)
        if found:
            return found, "ram"
        loaded, tier = self._on_disk(adapter), "disk"
        if loaded is None:
            loaded, tier = self._fetched(adapter), "store"
        with self._lock:
            self._ram.put(adapter.id, loaded, loaded.nbytes)
        return loaded, tier

    def _on_disk(self, adapter: Adapter) -> LoadedAdapter | None:
        with suppress(FileNotFoundError):
            return self._whole(adapter)
        return None

    def _fetched(self, adapter: Adapter) -> LoadedAdapter:
        for _ in range(FETCHES):
            self._download(adapter)
            with suppress(FileNotFoundError):  # another process needed the room at this very moment
                loaded = self._whole(adapter)
                if loaded is None:
                    raise JobFailed(DAMAGED)
                return loaded
        raise ServiceDown("the disk of this machine has no room for an adapter")

    def _whole(self, adapter: Adapter) -> LoadedAdapter | None:
        """The file on disk if it is whole; a damaged one is removed. Its digest is taken while it is read. ``FileNotFoundError``."""
        path = self.disk.path(adapter.id)
        if not path.exists():
            raise FileNotFoundError(path)
        whole = self._digests.start(path, adapter.sha256)
        try:
            loaded, refusal = self._read(path, adapter.id), None
        except UserError as error:
            loaded, refusal = None, error
        if not whole():
            log.warning("damaged cache file removed", adapter=adapter.id)
            self.disk.drop(adapter.id)
            return None
        if refusal and not path.exists():
            raise FileNotFoundError(path)
        if refusal:
            raise refusal
        self.disk.touch(adapter.id)
        return loaded

    def _download(self, adapter: Adapter) -> None:
        try:
            self.disk.admit(adapter.size_bytes)
            self.storage.objects.download(adapter.object_key, self.disk.path(adapter.id))
        except KeyError as error:
            raise JobFailed(ERASED) from error

    def _gone(self, adapter_ids: list[str]) -> set[str]:
        """Those with a tombstone, and those whose row is no more (tombstones do not last for ever)."""
        gone: set[str] = set()
        with self.storage.db.reader() as session:
            for start in range(0, len(adapter_ids), 500):
                some = adapter_ids[start : start + 500]
                living = set(session.scalars(select(Adapter.id).where(Adapter.id.in_(some))))
                gone |= (set(some) - living) | rows.erased_among(session, some)
        return gone
