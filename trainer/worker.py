"""The trainer's Celery worker: one process a GPU, the base model loaded once and kept warm.

Nothing here imports torch: Celery's parent process forks, and CUDA does not survive a fork. The child imports the heavy rooms.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from celery import Celery

from core.errors import WorkerStopping
from core.logs import get_logger
from core.queues import RUN_TRAINING
from core.settings import Settings
from storage.jobs import Lease
from storage.trainings import waiting
from storage.wiring import Storage, open_storage
from storage.worker_process import StopFlag, work_on, worker_app

if TYPE_CHECKING:
    from trainer.bench import Bench
    from trainer.company import Company

log = get_logger("trainer.worker")


@dataclass
class TrainerState:
    """What one worker process holds: where things last, and the bench, once something has asked for it.

    ``guest``: what else works on the same base model, between the steps of a training (:mod:`trainer.hosting`). ``stopping``: the
    process should end.
    """

    storage: Storage
    _bench: Bench | None = field(default=None, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    guest: Callable[[], None] | None = None
    stopping: Callable[[], bool] = lambda: False

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

    def broken(self) -> bool:
        """Whether the device no longer answers in this process."""
        if self._bench is None:
            return False
        from diffusion.devices import broken

        return broken(self._bench.base.device)

    def start(self) -> None:
        """Warms up in a thread, because Celery gives a child four seconds to say that it lives."""
        threading.Thread(target=self._warm_up, name="warm-up", daemon=True).start()

    def _warm_up(self) -> None:
        try:
            self.bench()
        except Exception:  # the first job meets the same fault and reports it
            log.exception("warm-up failed")


def create_app(settings: Settings) -> Celery:
    """Serve it with ``--pool=prefork --concurrency=1 --queues=train``."""

    def state(stop: StopFlag) -> TrainerState:
        return TrainerState(open_storage(settings), stopping=stop)

    return worker_app(settings, "trainer", state, {RUN_TRAINING: run_job})


def run_job(state: TrainerState, job_id: str) -> str:
    """Claims the job and works on it; returns how it ended (see :func:`storage.worker_process.work_on`).

    With the setting ``train_together``, others that wait are claimed too and fitted in common passes, each a job of its own.
    """
    settings = state.storage.settings
    places = settings.train_together - 1
    others = waiting(state.storage.db, settings.base_model, besides=job_id, limit=places) if places else []
    return _run_together(state, job_id, others) if others else _run_one(state, job_id)


def _run_together(state: TrainerState, job_id: str, others: list[str]) -> str:
    with state.importing:
        from trainer.company import Company
    company = Company(1 + len(others))

    def run(one: str) -> str:
        try:
            return _run_one(state, one, company)
        finally:
            company.leave()

    def run_other(one: str) -> None:
        with suppress(WorkerStopping):  # its job was given back
            run(one)

    threads = [threading.Thread(target=run_other, args=(one,), name=f"training-{one}") for one in others]
    for thread in threads:
        thread.start()
    try:
        return run(job_id)
    finally:
        for thread in threads:
            thread.join()


def _run_one(state: TrainerState, job_id: str, company: Company | None = None) -> str:
    def work(lease: Lease) -> None:
        lease.progress(message="loading")
        state.bench()  # first: it imports under its lock, and two threads that import transformers at once break it
        from trainer.jobs import run_training

        run_training(state, lease, company)

    return work_on(state.storage, job_id, worker_name(), work, state.stopping, state.broken)


def worker_name() -> str:
    return f"train-{os.getpid()}@{socket.gethostname()}"
