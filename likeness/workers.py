"""Workers by role: which Celery app serves which queue. A child a GPU, which it owns, and one job at a time in each."""

from __future__ import annotations

import os
import socket

from celery import Celery

from core import queues
from core.settings import Settings
from likeness.gpus import deal, visible_gpus

QUEUES = {"train": (queues.TRAIN,), "render": (queues.RENDER,), "both": (queues.TRAIN, queues.RENDER)}


def run_worker(role: str, settings: Settings, most_gpus: int = 0) -> None:
    """``most_gpus``: leaves others alone; 0: a child for each that this process may see. Without any, one child on the CPU."""
    gpus = visible_gpus()[: most_gpus or None] if settings.device in ("auto", "cuda") else []
    if len(gpus) > 1:
        deal(gpus)
    app = app_for(role, settings)
    name = f"{role}-{os.getpid()}@{socket.gethostname()}"
    level = settings.log_level.lower()
    served, children = ",".join(QUEUES[role]), max(1, len(gpus))
    pool = ["--pool=prefork", f"--concurrency={children}"]
    app.worker_main(["worker", f"--queues={served}", *pool, f"--hostname={name}", f"--loglevel={level}"])


def app_for(role: str, settings: Settings) -> Celery:
    if role == "train":
        from trainer.worker import create_app
    elif role == "both":
        from likeness.both import create_app
    else:
        from inference.worker import create_app
    return create_app(settings)
