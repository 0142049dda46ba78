"""A RabbitMQ server of the test's own: free ports, a folder of its own, gone afterwards. No package on PyPI ships one."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.integration.storage.postgres.conftest import free_port

PLACES = ("/usr/lib/rabbitmq/bin/rabbitmq-server", "/opt/homebrew/sbin/rabbitmq-server")  # Debian's one on PATH changes the user


def find_rabbitmq() -> str | None:
    return next((place for place in PLACES if os.access(place, os.X_OK)), None) or shutil.which("rabbitmq-server")


@contextmanager
def rabbitmq(program: str, folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Its URL and process."""
    port, epmd, dist = free_port(), free_port(), free_port()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rabbitmq.conf").write_text(f"listeners.tcp.1 = 127.0.0.1:{port}\n")
    (folder / "enabled_plugins").write_text("[].\n")
    places = {"RABBITMQ_MNESIA_BASE": folder / "data", "RABBITMQ_LOG_BASE": folder / "log", "HOME": folder}
    places |= {"RABBITMQ_CONFIG_FILE": folder / "rabbitmq", "RABBITMQ_ENABLED_PLUGINS_FILE": folder / "enabled_plugins"}
    ports = {"RABBITMQ_DIST_PORT": dist, "ERL_EPMD_PORT": epmd, "ERL_EPMD_ADDRESS": "127.0.0.1"}
    names = {"RABBITMQ_NODENAME": f"likeness{port}@localhost"}
    environment = os.environ | {name: str(value) for name, value in (places | ports | names).items()}
    with (folder / "out.log").open("wb") as out:
        process = subprocess.Popen([program], env=environment, cwd=folder, stdout=out, stderr=out, start_new_session=True)
    try:
        _wait_until_up(folder / "out.log", process)
        yield f"amqp://guest:guest@127.0.0.1:{port}//", process
    finally:
        stop(process)
        for _ in range(20):  # it stays for as long as it takes the node to be alive
            if b"Killed" in subprocess.run(["epmd", "-port", str(epmd), "-kill"], check=False, capture_output=True).stdout:
                break
            time.sleep(0.2)


def stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _wait_until_up(log: Path, process: subprocess.Popen[bytes]) -> None:
    ends = time.monotonic() + 120
    while time.monotonic() < ends:
        if "completed with" in log.read_text(errors="replace"):
            return
        assert process.poll() is None, log.read_text(errors="replace")[-2000:]
        time.sleep(0.3)
    raise AssertionError("RabbitMQ did not start in time")
