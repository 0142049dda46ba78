"""Child processes of one command: started together, restarted when one falls, gone when the parent goes."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

GRACE_S = 15.0
RESTART_AFTER_S = (1.0, 2.0, 5.0, 10.0, 30.0)
FORGIVEN_AFTER_S = 60.0
PR_SET_PDEATHSIG = 1


@dataclass
class Child:
    name: str
    arguments: list[str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    falls: int = 0
    restart_at: float = 0.0
    started_at: float = 0.0
    environment: dict[str, str] = field(default_factory=dict)

    def start(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.arguments,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **self.environment},
                start_new_session=True,  # Ctrl-C reaches the parent alone, which stops its children in order
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509 (no threads here)
            )

        self.started_at = time.monotonic()

    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None


class Supervisor:
    """``with Supervisor(print) as group: group.add(…); group.keep_up()``. Leaving the block stops every child, within ``grace_s``."""

    def __init__(self, say: Callable[[str], None], grace_s: float | None = None) -> None:
        self.children: list[Child] = []
        self.say = say
        self.grace_s = GRACE_S if grace_s is None else grace_s

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def add(self, name: str, arguments: list[str], log: Path, **environment: str) -> Child:
        child = Child(name, arguments, log, environment=environment)
        child.start()
        self.children.append(child)
        return child

    def keep_up(self) -> None:
        """Restart what fell, later each time; a child that stayed up for a minute is forgiven."""
        for child in self.children:
            if child.running():
                continue
            if not child.restart_at:
                if time.monotonic() - child.started_at >= FORGIVEN_AFTER_S:
                    child.falls = 0
                pause = RESTART_AFTER_S[min(child.falls, len(RESTART_AFTER_S) - 1)]
                child.falls += 1
                child.restart_at = time.monotonic() + pause
                self.say(
                    f"{child.name} ended with {child.process and child.process.returncode}; restarting in {pause:.0f} s (see {child.log})"
                )
            elif time.monotonic() >= child.restart_at:
                child.restart_at = 0.0
                child.start()

    def stop(self) -> None:
        """Ask all to finish, wait for a while, then insist. Whole process groups: a worker's children go with it."""
        for child in self.children:
            _signal_group(child, signal.SIGTERM)
        deadline = time.monotonic() + self.grace_s
        while time.monotonic() < deadline and any(child.running() for child in self.children):
            time.sleep(0.1)
        for child in self.children:
            _signal_group(child, signal.SIGKILL)
            if child.process:
                child.process.wait()


def _signal_group(child: Child, number: signal.Signals) -> None:
    """SIGTERM goes to the leader, which stops its own; SIGKILL to the whole group, also when the leader is gone."""
    if child.process is None:
        return
    try:
        if number == signal.SIGKILL:
            os.killpg(child.process.pid, number)
        elif child.running():
            child.process.send_signal(number)
    except ProcessLookupError:
        pass


def _die_with_parent() -> None:
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
