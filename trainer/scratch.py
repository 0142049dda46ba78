"""A folder on the worker's disk for one attempt at a training. What lasts is in the object store; what stays here only fills the disk."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LOCK = ".lock"


@contextmanager
def scratch(home: Path, attempt: str) -> Iterator[Path]:
    """``home/attempt``, empty; gone afterwards, whatever happened. Attempts of workers that were killed are cleared away first.

    Of this attempt alone: a worker that wakes up late clears its own away, and not that of the one that took over on the same machine.
    The kernel holds its lock for as long as the process lives, so a paused worker keeps its folder and a killed one does not.
    """
    home.mkdir(parents=True, exist_ok=True)
    _forget_killed(home)
    folder, lock = home / attempt, _locked(home / f"{attempt}{LOCK}")
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _unlock(home / f"{attempt}{LOCK}", lock)


def _forget_killed(home: Path) -> None:
    for attempt in {path.name.removesuffix(LOCK) for path in home.iterdir()}:
        path = home / f"{attempt}{LOCK}"
        with suppress(BlockingIOError):  # its worker lives
            lock = _locked(path, wait=False)
            shutil.rmtree(home / attempt, ignore_errors=True)
            _unlock(path, lock)


def _locked(path: Path, wait: bool = True) -> int:
    """A descriptor that holds the file's lock until it is closed, or its process ends."""
    while True:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if _is_at(path, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # whoever had it took the file away with it: a lock that nobody else would find


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _unlock(path: Path, descriptor: int) -> None:
    path.unlink(missing_ok=True)
    os.close(descriptor)
