"""``likeness up`` ends with the program that started it, even if that one is killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[3]
PARENT = """
import subprocess, sys, time
command = [sys.executable, "-m", "likeness.cli", "up", "--port", sys.argv[1], "--while-input-lasts"]
service = subprocess.Popen(command, stdin=subprocess.PIPE)
print(service.pid, flush=True)
time.sleep(600)
"""


def test_nothing_outlives_a_program_that_was_killed(tmp_path: Path) -> None:
    port = _free_port()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LIKENESS_")}
    environment = kept | {"LIKENESS_VAR_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    log = (tmp_path / "parent.log").open("wb")
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(port)], env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True
    )
    assert parent.stdout is not None
    service = psutil.Process(int(parent.stdout.readline()))
    try:
        _wait_until_healthy(port)
        family = [service, *service.children(recursive=True)]
        assert len(family) >= 5  # up, broker, api, scheduler, two workers
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        _, alive = psutil.wait_procs(family, timeout=60)
        assert not alive
    finally:
        parent.kill()
        for process in [*service.children(recursive=True), service] if service.is_running() else []:
            process.kill()
        parent.stdout.close()
        log.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_healthy(port: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    raise AssertionError("the service did not come up")
