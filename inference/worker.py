"""The render worker: a Celery app whose single child holds the base model. The parent never imports torch (CUDA breaks after fork)."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from celery import Celery
from celery.signals import worker_process_init

from core import queues
from core.logs import get_logger, set_up_logs
from core.settings import Settings
from storage import broker, jobs
from storage.wiring import open_storage

if TYPE_CHECKING:
    from inference.pipeline import RenderState

log = get_logger("inference.worker")

SWEEP_EVERY_S = 60.0  # how long an erased adapter may stay in a worker's caches; it is never used, only not yet gone


class RenderChild:
    """What lives in the worker's child process. The state is made once: at the start in the background, or by the first job."""

    def __init__(self, settings: Settings, open_state: Callable[[], RenderState] | None = None) -> None:
        self.settings = settings
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
        state = self.state()
        return state.turns.take(job_id, lambda: state.engine.slot.held[0], self.run_one)

    def run_one(self, job_id: str) -> str:
        state = self.state()  # first: it imports under the lock, and two threads that import transformers at once break it
        from inference.pipeline import run_portrait

        return jobs.run(state.storage, job_id, self.name, partial(run_portrait, state))

    def run_waiting(self) -> str | None:
        """One portrait that waits, for those who have a moment between other work; None if none does."""
        state = self.state()
        first = state.turns.first()
        return self.run_one(state.turns.next(first, state.engine.slot.held[0])) if first else None

    def _load(self) -> RenderState:
        from inference import pipeline

        set_threads(self.settings.cpu_threads)
        return pipeline.open_state(open_storage(self.settings))

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


def set_threads(count: int) -> None:
    """Threads of tensor work; 0 leaves torch's own choice, all cores."""
    if count:
        import torch

        torch.set_num_threads(count)


def create_app(settings: Settings) -> Celery:
    """Serve it with ``--pool=prefork --concurrency=1 --queues=render``."""
    app = broker.celery_app(settings, "inference")
    children: dict[int, RenderChild] = {}

    def child() -> RenderChild:
        return children.setdefault(os.getpid(), RenderChild(settings))

    @worker_process_init.connect(weak=False)
    def warm_up(**_: object) -> None:
        set_up_logs(settings.log_level, settings.log_json)
        child().start()

    @app.task(name=queues.RUN_PORTRAIT)
    def run_portrait(job_id: str) -> None:
        child().run(job_id)

    return app
