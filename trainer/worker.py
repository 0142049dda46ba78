"""The trainer's Celery worker: one process a GPU, the base model loaded once and kept warm.

Nothing here imports torch: Celery's parent process forks, and CUDA does not survive a fork. The child imports the heavy rooms.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from celery import Celery
from celery.signals import worker_process_init

from core.logs import get_logger, set_up_logs
from core.queues import RUN_TRAINING
from core.settings import Settings
from storage import jobs
from storage.broker import celery_app
from storage.wiring import Storage, open_storage

if TYPE_CHECKING:
    from trainer.bench import Bench

log = get_logger("trainer.worker")


@dataclass
class TrainerState:
    """What one worker process holds: where things last, and the bench, once something has asked for it.

    ``guest``: what else works on the same base model, between the steps of a training (:mod:`trainer.hosting`).
    """

    storage: Storage
    _bench: Bench | None = field(default=None, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    guest: Callable[[], None] | None = None

    @property
    def importing(self) -> threading.Lock:
        """Held while the warm-up imports and loads: transformers' lazy modules break when two threads import them at once."""
        return self._lock

    def bench(self) -> Bench:
        """Loads base model and encoders on the first call: seconds for a small base, a minute for FLUX.1-dev."""
        with self._lock:
            if self._bench is None:
                from trainer.loading import load_bench

                self._bench = load_bench(self.storage.settings)
            return self._bench

    def warm_up(self) -> None:
        """In a thread, because Celery gives a child four seconds to say that it lives."""
        threading.Thread(target=self._warm_up, name="warm-up", daemon=True).start()

    def _warm_up(self) -> None:
        try:
            self.bench()
        except Exception:  # the first job meets the same fault and reports it
            log.exception("warm-up failed")


def create_app(settings: Settings) -> Celery:
    """Serve it with ``--pool=prefork --concurrency=1 --queues=train``."""
    app = celery_app(settings, "trainer")
    states: dict[int, TrainerState] = {}

    def state() -> TrainerState:
        """Of this process: database connections and CUDA must not cross a fork."""
        return states.setdefault(os.getpid(), TrainerState(open_storage(settings)))

    @worker_process_init.connect(weak=False)
    def start(**_: object) -> None:
        set_up_logs(settings.log_level, settings.log_json)
        state().warm_up()

    @app.task(name=RUN_TRAINING)
    def run_training(job_id: str) -> str:
        return run_job(state(), job_id)

    return app


def run_job(state: TrainerState, job_id: str) -> str:
    """Claims the job and works on it; returns how it ended (see :func:`storage.jobs.run`)."""
    with state.importing:
        from trainer.jobs import run_training

    return jobs.run(state.storage, job_id, worker_name(), partial(run_training, state))


def worker_name() -> str:
    return f"train-{os.getpid()}@{socket.gethostname()}"
