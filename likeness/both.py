"""One process that trains and renders on one base model: a waiting portrait is drawn between two steps of a training.

Here the rooms meet, since trainer and inference do not know each other: the trainer lets a guest in after each of its steps, and the guest
is the render worker. A portrait waits for one step at most, then for its turn; a training pauses for one portrait a step, and goes on as if
nothing had happened, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from celery import Celery

from core import queues
from core.errors import ServiceDown
from core.logs import get_logger
from core.settings import Settings
from inference.worker import RenderChild
from storage.wiring import open_storage
from storage.worker_process import StopFlag, worker_app
from trainer.worker import TrainerState, run_job

if TYPE_CHECKING:
    from inference.state import RenderState

log = get_logger("likeness.both")


class SharedChild:
    """What lives in the worker's child process: a trainer and a renderer over the trainer's base model."""

    def __init__(self, settings: Settings, stopping: Callable[[], bool] = lambda: False) -> None:
        self.trainer = TrainerState(open_storage(settings), guest=self.serve_waiting, stopping=stopping)
        self.renderer = RenderChild(settings, self._share, self.trainer.storage, stopping)

    def start(self) -> None:
        """Warms up in the background; the renderer sweeps its caches on a timer."""
        self.renderer.start()

    def run_training(self, job_id: str) -> str:
        self.renderer.state()  # first: it warms up on the same base model
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

    def child(stop: StopFlag) -> SharedChild:
        return SharedChild(settings, stop)

    answers = {queues.RUN_TRAINING: SharedChild.run_training, queues.RUN_PORTRAIT: SharedChild.run_portrait}
    return worker_app(settings, "both", child, answers)
