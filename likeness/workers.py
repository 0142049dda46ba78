"""Workers by role: which Celery app serves which queue. One job at a time, one child: a child owns its GPU."""

from __future__ import annotations

import os
import socket

from celery import Celery

from core import queues
from core.settings import Settings

QUEUES = {"train": (queues.TRAIN,), "render": (queues.RENDER,), "both": (queues.TRAIN, queues.RENDER)}


def run_worker(role: str, settings: Settings) -> None:
    app = app_for(role, settings)
    name = f"{role}-{os.getpid()}@{socket.gethostname()}"
    level = settings.log_level.lower()
    served = ",".join(QUEUES[role])
    app.worker_main(["worker", f"--queues={served}", "--pool=prefork", "--concurrency=1", f"--hostname={name}", f"--loglevel={level}"])


def app_for(role: str, settings: Settings) -> Celery:
    if role == "train":
        from trainer.worker import create_app
    elif role == "both":
        from likeness.both import create_app
    else:
        from inference.worker import create_app
    return create_app(settings)
