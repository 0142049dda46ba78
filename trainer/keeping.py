"""Checkpoints in the object store, for whoever takes a training over."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from core.errors import ServiceDown
from core.logs import get_logger
from storage.leases import Lease
from storage.wiring import Storage
from trainer.checkpoints import STATE_FILE, step_of

log = get_logger("trainer.keeping")


def fetch_checkpoints(storage: Storage, prefix: str, folder: Path, make_room: Callable[[int], None]) -> None:
    """What earlier attempts stored under ``prefix``, wherever they ran; of each file the latest attempt's. ``make_room`` is told each one's
    bytes before."""
    latest = {key.rpartition("/")[2]: key for key in storage.objects.list(prefix)}  # keys come in the order of attempts
    for name, key in latest.items():
        with suppress(KeyError):
            make_room(storage.objects.size(key))
            storage.objects.download(key, folder / name)


@dataclass
class CheckpointKeeper:
    """Stores checkpoints under ``prefix``, the attempt's own. A store that is down costs at most the steps since the last one: it does not
    stop the fit.

    In the order in which they were written: a state promises that the candidates before it are there.
    """

    lease: Lease
    prefix: str
    waiting: dict[str, Path] = field(default_factory=dict)

    def keep(self, path: Path) -> None:
        self.waiting.pop(path.name, None)
        self.waiting[path.name] = path
        try:
            for name in list(self.waiting):
                self.lease.put(self.prefix + name, self.waiting[name])
                if name == STATE_FILE:
                    self.lease.kept(step_of(self.waiting[name]))
                del self.waiting[name]
        except ServiceDown as error:
            log.warning("checkpoint not stored yet", waiting=list(self.waiting), error=str(error))
