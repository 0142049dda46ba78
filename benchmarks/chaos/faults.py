"""The faults, and the seeded plan by which they come. Only processes that the run itself started are touched, each by its pid."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from random import Random
from typing import Any

import psutil

from benchmarks.chaos.service import RENDERERS, TRAINERS, Service
from benchmarks.chaos.surroundings import Sqlite


@dataclass
class Injected:
    """One fault: ``began`` and ``ended`` are Unix seconds."""

    kind: str
    target: str
    began: float
    ended: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


Inject = Callable[[Service, Random], str]  # blocks until what it did is undone; returns what it hit


def _kill_group(service: Service, name: str) -> str:
    """The parent and its child at once, as when a machine goes away."""
    process = service.child(name).process
    if process and process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return name


def _someone(service: Service, random: Random, names: tuple[str, ...]) -> str:
    """One that works on a job right now, if any does: a fault that hits nobody shows nothing."""
    busy = [name for name in names if {str(child.pid) for child in _children(service, name)} & service.working_pids()]
    return random.choice(busy or names)


def kill_train_worker(service: Service, random: Random) -> str:
    return _kill_group(service, _someone(service, random, TRAINERS))


def kill_render_worker(service: Service, random: Random) -> str:
    return _kill_group(service, _someone(service, random, RENDERERS))


def kill_worker_child(service: Service, random: Random) -> str:
    """As the kernel does when memory runs out: only the process that works."""
    name = _someone(service, random, TRAINERS + RENDERERS)
    for child in _children(service, name):
        with suppress(psutil.NoSuchProcess):
            child.kill()
    return name


def kill_scheduler(service: Service, random: Random) -> str:
    return _kill_group(service, "scheduler")


def kill_api(service: Service, random: Random) -> str:
    return _kill_group(service, "api")


def lose_redis(service: Service, random: Random) -> str:
    """The keeper starts it again, empty."""
    service.redis.process.kill()
    shutil.rmtree(service.var / "redis", ignore_errors=True)
    return "redis-server and its data"


def crash_database(service: Service, random: Random) -> str:
    service.database.crash()
    time.sleep(random.uniform(0.5, 3))
    service.database.start()
    return "postgres"


def store_answers_500(service: Service, random: Random) -> str:
    return _store(service, "500", random.uniform(3, 10))


def store_hangs(service: Service, random: Random) -> str:
    return _store(service, "hang", random.uniform(3, 15))


def _store(service: Service, mode: str, seconds: float) -> str:
    service.proxy.mode = mode
    time.sleep(seconds)
    service.proxy.mode = "pass"
    return f"{seconds:.0f} s"


def fill_disk(service: Service, random: Random) -> str:
    ends = time.monotonic() + random.uniform(4, 10)
    while time.monotonic() < ends:  # again and again: the workers make room
        service.disk.fill()
        time.sleep(0.1)
    service.disk.free()
    return "the workers' cache folder"


def mail_down(service: Service, random: Random) -> str:
    service.mail.down()
    time.sleep(random.uniform(3, 12))
    service.mail.up()
    return "smtp"


def pause_worker(service: Service, random: Random) -> str:
    """Parent and child stop for longer than a lease, then go on as if nothing had happened."""
    name = _someone(service, random, TRAINERS + RENDERERS)
    processes = _family(service, name)
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.suspend()
    time.sleep(service.settings.lease_s + random.uniform(1, 5))
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.resume()
    return name


def stop_worker(service: Service, random: Random) -> str:
    """SIGTERM, as at a deployment: the job must be given back."""
    name = _someone(service, random, TRAINERS + RENDERERS)
    process = service.child(name).process
    if process and process.poll() is None:
        process.terminate()
    return name


def _children(service: Service, name: str) -> list[psutil.Process]:
    process = service.child(name).process
    try:
        return psutil.Process(process.pid).children(recursive=True) if process else []
    except psutil.NoSuchProcess:
        return []


def _family(service: Service, name: str) -> list[psutil.Process]:
    process = service.child(name).process
    return ([psutil.Process(process.pid)] if process and process.poll() is None else []) + _children(service, name)


WORDS: dict[Inject, str] = {
    kill_train_worker: "kill -9 of a train worker",
    kill_render_worker: "kill -9 of the render worker",
    kill_worker_child: "kill -9 of a worker's child only",
    kill_scheduler: "kill -9 of the scheduler",
    kill_api: "kill -9 of the API",
    lose_redis: "redis-server killed, all its data lost",
    crash_database: "PostgreSQL crashed and started again",
    store_answers_500: "object store answers 500 (3–10 s)",
    store_hangs: "object store hangs (3–15 s)",
    fill_disk: "workers' cache disk full (4–10 s)",
    mail_down: "mail server down (3–12 s)",
    pause_worker: "worker paused past its lease (SIGSTOP, SIGCONT)",
    stop_worker: "worker told to stop (SIGTERM)",
}


def possible(service: Service) -> list[Inject]:
    """What can be done here; what cannot is said, not pretended."""
    kinds = list(WORDS)
    if isinstance(service.database, Sqlite):
        kinds.remove(crash_database)
    if not service.disk.mounted:
        kinds.remove(fill_disk)
    return kinds


def plan(count: int, seed: int, kinds: list[Inject]) -> list[Inject]:
    """Every kind as often as any other, in an order drawn from the seed."""
    random = Random(seed)
    rounds = [random.sample(kinds, len(kinds)) for _ in range(-(-count // len(kinds)))]
    return [kind for one in rounds for kind in one][:count]
