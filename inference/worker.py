"""The render worker: a Celery app whose single child holds the base model. The parent never imports torch (CUDA breaks after fork)."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from celery import Celery

from core.logs import get_logger
from core.queues import RUN_PORTRAIT
from core.settings import Settings
from storage.jobs import Lease
from storage.wiring import Storage, open_storage
from storage.worker_process import StopFlag, work_on, worker_app

if TYPE_CHECKING:
    from inference.pipeline import RenderState

log = get_logger("inference.worker")

SWEEP_EVERY_S = 60.0  # how long an erased adapter may stay in a worker's caches; it is never used, only not yet gone


class RenderChild:
    """What lives in the worker's child process. The state is made once: at the start in the background, or by the first job."""

    def __init__(
        self,
        settings: Settings,
        open_state: Callable[[], RenderState] | None = None,
        storage: Storage | None = None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self.settings, self.stopping = settings, stopping
        self.storage = storage or open_storage(settings)
        self.name = f"render-{os.getpid()}@{socket.gethostname()}"
        self._open_state = open_state or self._load
        self._state: RenderState | None = None
        self._lock = threading.Lock()

    def state(self) -> RenderState:
        with self._lock:
            if self._state is None:
                self._state = self._open_state()
            return self._state

    def run(self, job_id: str) -> str:
        """The job of a message, after those that may go first."""
        state = self._state
        if state is None:  # it is claimed first and loaded under the lease: weights that cannot be loaded must be said
            return self.run_one(job_id)
        return state.turns.take(job_id, lambda: state.engine.slot.held[0], self.run_one)

    def run_one(self, job_id: str) -> str:
        return work_on(self.storage, job_id, self.name, self._work, self.stopping, self._broken)

    def run_waiting(self) -> str | None:
        """One portrait that waits, for those who have a moment between other work; None if none does."""
        state = self.state()
        first = state.turns.first()
        return self.run_one(state.turns.next(first, state.engine.slot.held[0])) if first else None

    def _work(self, lease: Lease) -> None:
        state = self.state()  # first: it imports under the lock, and two threads that import transformers at once break it
        from inference.pipeline import run_portrait

        run_portrait(state, lease)

    def _broken(self) -> bool:
        if self._state is None:
            return False
        from diffusion.devices import broken

        return broken(self._state.base.device)

    def _load(self) -> RenderState:
        from diffusion.devices import use_threads
        from inference import pipeline

        use_threads(self.settings.cpu_threads)
        return pipeline.open_state(self.storage)

    def start(self) -> None:
        """Warms up and sweeps from a thread: Celery gives a child four seconds to say that it lives."""
        threading.Thread(target=self._keep, name="sweep", daemon=True).start()

    def _keep(self) -> None:
        pause = threading.Event()
        while True:
            try:
                self.state().sweep()
            except Exception:  # a job that meets the same fault reports it to its customer; this thread must live on
                log.exception("warm-up or sweep failed")
            pause.wait(SWEEP_EVERY_S)


def create_app(settings: Settings) -> Celery:
    """Serve it with ``--pool=prefork --concurrency=1 --queues=render``."""

    def child(stop: StopFlag) -> RenderChild:
        return RenderChild(settings, stopping=stop)

    return worker_app(settings, "inference", child, {RUN_PORTRAIT: RenderChild.run})
