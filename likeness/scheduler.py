"""The scheduler: two loops until told to stop, so that a store or mail server that hangs holds up no job."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from functools import partial

from core.logs import get_logger
from core.settings import Settings
from mail.post import Post
from storage.scheduler import keep_house, keep_jobs
from storage.wiring import open_storage

LEAVES_WITHIN_S = 10.0  # a chore under way may end; whatever it leaves, the next scheduler takes up


def run_scheduler(settings: Settings) -> None:
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    storage, post = open_storage(settings), Post(settings)
    house = threading.Thread(
        target=_repeat, args=(partial(keep_house, storage, post), stop, settings.scheduler_interval_s), name="house", daemon=True
    )
    house.start()
    _repeat(partial(keep_jobs, storage), stop, settings.scheduler_interval_s)
    house.join(LEAVES_WITHIN_S)


def _repeat(chores: Callable[[], object], stop: threading.Event, every_s: float) -> None:
    while not stop.is_set():
        try:
            chores()
        except Exception:  # each chore catches its own; whatever else it is, the next round may do better
            get_logger("scheduler").exception("a round of chores failed")
        stop.wait(every_s)
