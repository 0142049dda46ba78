"""What our Celery workers are made of: a parent that only carries messages, and one child that claims jobs and works on them.

The parent never imports torch, since CUDA does not survive a fork. The child keeps its base model warm between jobs, gives its job back
when the process is told to stop, and is replaced when its device no longer answers.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

from celery import Celery
from celery.exceptions import Reject
from celery.signals import worker_process_init, worker_shutting_down

from core.errors import WorkerStopping
from core.logs import get_logger, set_up_logs
from core.settings import Settings
from storage import broker, jobs
from storage.jobs import Lease
from storage.wiring import Storage

log = get_logger("storage.worker_process")


class StopFlag:
    """One byte that parent and children share: raised in the parent's signal handler, read by a child at every step."""

    def __init__(self) -> None:
        self._byte = mmap.mmap(-1, 1)

    def set(self) -> None:
        self._byte[0] = 1

    def __call__(self) -> bool:
        return self._byte[0] == 1


class WorkerChild(Protocol):
    """What lives in the child process."""

    def start(self) -> None:
        """Warms up in a thread: Celery gives a child four seconds to say that it lives."""


Child = TypeVar("Child", bound=WorkerChild)


def work_on(
    storage: Storage,
    job_id: str,
    worker: str,
    work: Callable[[Lease], None],
    stopping: Callable[[], bool],
    broken: Callable[[], bool],
) -> str:
    """Claims the job and works on it; returns how it ended (see :func:`storage.jobs.run`).

    Whatever ``work`` must load, it loads under the lease, so that weights that cannot be loaded cost the job an attempt and give a reason.
    :class:`core.errors.WorkerStopping` if another process must answer. ``broken`` is asked after an attempt that did not succeed: whether
    the device no longer answers in this process, which then ends.
    """
    if stopping():
        raise WorkerStopping
    outcome = jobs.run(storage, job_id, worker, work, stopping)
    if outcome == "handed back":
        raise WorkerStopping
    if outcome in ("requeued", "failed") and broken():
        log.error("the device no longer answers: this process ends and is replaced", worker=worker)
        end_process()
    return outcome


def end_process() -> None:
    """At once: with a dead CUDA context the interpreter's own way out may hang. Celery forks a new child."""
    os._exit(os.EX_TEMPFAIL)


def worker_app(
    settings: Settings, name: str, make_child: Callable[[StopFlag], Child], answers: Mapping[str, Callable[[Child, str], str]]
) -> Celery:
    """Serve it with ``--pool=prefork --concurrency=1 --queues=…``. ``answers``: message → what the child does with a job's id."""
    app, stop = broker.celery_app(settings, name), StopFlag()
    children: dict[int, Child] = {}

    def child() -> Child:
        """Of this process: database connections and CUDA must not cross a fork."""
        if os.getpid() not in children:
            children[os.getpid()] = make_child(stop)
        return children[os.getpid()]

    @worker_process_init.connect(weak=False)
    def start(**_: object) -> None:
        set_up_logs(settings.log_level, settings.log_json)
        child().start()

    @worker_shutting_down.connect(weak=False)
    def leave(**_: object) -> None:
        """The child gives its job back at its next step; what cannot be asked, such as a model that loads, is not waited for longer."""
        stop.set()
        last_resort = threading.Timer(settings.shutdown_within_s, os._exit, (os.EX_TEMPFAIL,))
        last_resort.daemon = True
        last_resort.start()

    for message, answer in answers.items():
        app.task(name=message)(_task(child, answer))
    return app


def _task(child: Callable[[], Child], answer: Callable[[Child, str], str]) -> Callable[[str], str]:
    def task(job_id: str) -> str:
        try:
            return answer(child(), job_id)
        except WorkerStopping:
            raise Reject("the worker stops", requeue=True) from None

    return task
