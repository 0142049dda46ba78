"""Somebody else's work on the same base model, done between two steps of a training."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from trainer.pipeline import Watch

Guest = Callable[[], None]  # does what waits, if anything does; leaves the base model as it found it and raises nothing of its own


@dataclass
class HostingWatch:
    """A watch whose ``check``, which every stage calls at each of its steps, lets the guest in."""

    watch: Watch
    guest: Guest

    def stage(self, name: str) -> AbstractContextManager[None]:
        return self.watch.stage(name)

    def progress(self, **snapshot: Any) -> None:
        self.watch.progress(**snapshot)

    def check(self) -> None:
        self.watch.check()
        self.guest()
