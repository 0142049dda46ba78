"""One process that trains and renders on one base model: a waiting portrait is drawn between two steps of a training.

Here the rooms meet, since trainer and inference do not know each other: the trainer lets a guest in after each of its steps, and the guest
is the render worker. A portrait waits for one step at most, then for its turn; a training pauses for one portrait a step, and goes on as if
nothing had happened, bit for bit.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from celery import Celery
from celery.signals import worker_process_init

from core import queues
from core.errors import ServiceDown
from core.logs import get_logger, set_up_logs
from core.settings import Settings
from inference.worker import RenderChild
from storage import broker
from storage.wiring import open_storage
from trainer.worker import TrainerState, run_job

if TYPE_CHECKING:
    from inference.state import RenderState

log = get_logger("likeness.both")


class SharedChild:
    """What lives in the worker's child process: a trainer and a renderer over the trainer's base model."""

    def __init__(self, settings: Settings) -> None:
        self.trainer = TrainerState(open_storage(settings), guest=self.serve_waiting)
        self.renderer = RenderChild(settings, self._share)

    def start(self) -> None:
        """Warms up in the background; the renderer sweeps its caches on a timer."""
        self.renderer.start()

    def run_training(self, job_id: str) -> str:
        return run_job(self.trainer, job_id)

    def run_portrait(self, job_id: str) -> str:
        return self._aside(lambda: self.renderer.run(job_id))

    def serve_waiting(self) -> None:
        """The trainer's guest: one portrait, if one waits. What keeps it from asking is no fault of the training."""
        try:
            if self.renderer.state().turns.first():
                self._aside(self.renderer.run_waiting)
        except ServiceDown as error:
            log.warning("no portrait between steps", error=str(error))

    def _aside(self, work: Callable[[], str | None]) -> str:
        from diffusion.sharing import stepped_aside

        with stepped_aside(self.renderer.state().base):
            return work() or ""

    def _share(self) -> RenderState:
        bench = self.trainer.bench()
        with self.trainer.importing:
            from inference.state import share_state

        return share_state(self.trainer.storage, bench.base)


def create_app(settings: Settings) -> Celery:
    """Serve it with ``--pool=prefork --concurrency=1 --queues=train,render``."""
    app = broker.celery_app(settings, "both")
    children: dict[int, SharedChild] = {}

    def child() -> SharedChild:
        return children.setdefault(os.getpid(), SharedChild(settings))

    @worker_process_init.connect(weak=False)
    def start(**_: object) -> None:
        set_up_logs(settings.log_level, settings.log_json)
        child().start()

    @app.task(name=queues.RUN_TRAINING)
    def run_training(job_id: str) -> str:
        return child().run_training(job_id)

    @app.task(name=queues.RUN_PORTRAIT)
    def run_portrait(job_id: str) -> str:
        return child().run_portrait(job_id)

    return app
