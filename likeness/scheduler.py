"""The scheduler: two loops until told to stop, so that a store or mail server that hangs holds up no job."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from core.logs import get_logger
from core.settings import Settings
from storage.job_keeping import keep_jobs
from storage.wiring import open_database, open_storage

if TYPE_CHECKING:
    from storage.wiring import Storage

LEAVES_WITHIN_S = 10.0  # a chore under way may end; whatever it leaves, the next scheduler takes up


def run_scheduler(settings: Settings) -> None:
    """The first round of jobs comes before the libraries of store and mail are loaded: a scheduler that was killed is missed at once."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    _once(partial(keep_jobs, open_database(settings)))
    storage = open_storage(settings)
    house = threading.Thread(target=_keep_house, args=(storage, stop), name="house", daemon=True)
    house.start()
    _repeat(partial(keep_jobs, storage), stop, settings.scheduler_interval_s)
    house.join(LEAVES_WITHIN_S)


def _keep_house(storage: Storage, stop: threading.Event) -> None:
    from mail.post import Post
    from storage.scheduler import keep_house

    _repeat(partial(keep_house, storage, Post(storage.settings)), stop, storage.settings.scheduler_interval_s)


def _repeat(chores: Callable[[], object], stop: threading.Event, every_s: float) -> None:
    while not stop.is_set():
        _once(chores)
        stop.wait(every_s)


def _once(chores: Callable[[], object]) -> None:
    try:
        chores()
    except Exception:  # each chore catches its own; whatever else it is, the next round may do better
        get_logger("scheduler").exception("a round of chores failed")
