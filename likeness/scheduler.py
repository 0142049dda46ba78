"""The scheduler's loop: one tick after another until told to stop."""

from __future__ import annotations

import signal
import threading

from core.errors import ServiceDown
from core.logs import get_logger
from core.settings import Settings
from mail.post import Post
from storage.scheduler import tick
from storage.wiring import open_storage


def run_scheduler(settings: Settings) -> None:
    log = get_logger("scheduler")
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    storage, post = open_storage(settings), Post(settings)
    while not stop.is_set():
        try:
            tick(storage, post)
        except ServiceDown as error:
            log.warning("a server is down; trying again", reason=str(error))
        stop.wait(settings.scheduler_interval_s)
