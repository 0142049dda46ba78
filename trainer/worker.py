"""The trainer's Celery worker: one process a GPU, the base model loaded once and kept warm.

Nothing here imports torch: Celery's parent process forks, and CUDA does not survive a fork. The child imports the heavy rooms on its first
job.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from celery import Celery

from core.queues import RUN_TRAINING, TRAIN
from core.settings import Settings
from storage import jobs
from storage.broker import celery_app
from storage.wiring import Storage, open_storage

if TYPE_CHECKING:
    from trainer.bench import Bench


@dataclass
class TrainerState:
    """What one worker process holds: where things last, and, once the first job has asked for it, the bench."""

    storage: Storage
    _bench: Bench | None = field(default=None, repr=False)

    def bench(self) -> Bench:
        """Loads base model and encoders on the first call; minutes for FLUX.1-dev."""
        if self._bench is None:
            from trainer.loading import load_bench

            self._bench = load_bench(self.storage.settings)
        return self._bench


def create_app(settings: Settings) -> Celery:
    """Run it with ``--pool prefork --concurrency 1 --queues train``."""
    app = celery_app(settings, "likeness.trainer")
    app.conf.update(worker_concurrency=1, worker_pool="prefork", task_routes={RUN_TRAINING: TRAIN})
    states: dict[int, TrainerState] = {}  # by process: a state must not cross a fork (database connections, CUDA)

    @app.task(name=RUN_TRAINING)
    def run_training(job_id: str) -> str:
        state = states.setdefault(os.getpid(), TrainerState(open_storage(settings)))
        return run_job(state, job_id)

    return app


def run_job(state: TrainerState, job_id: str) -> str:
    """Claims the job and works on it; returns how it ended (see :func:`storage.jobs.run`)."""
    from trainer.jobs import run_training

    return jobs.run(state.storage, job_id, worker_name(), lambda lease: run_training(state, lease))


def worker_name() -> str:
    return f"trainer@{socket.gethostname()}:{os.getpid()}"
