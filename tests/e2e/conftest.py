"""The service as a customer meets it: real processes on a free port with their own folder, and a real browser."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.short_base import short_base

ROOT = Path(__file__).parents[2]
CHROMIUM_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking", "--disable-sync"]
READY_WITHIN_S = 120.0


@dataclass(frozen=True)
class Service:
    url: str
    var: Path

    @property
    def outbox(self) -> Path:
        return self.var / "outbox"


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """API, pages and scheduler, without workers: for what needs no model."""
    var = tmp_path_factory.mktemp("pages")
    with _running(var, "api") as service, _process(_environment(var, service.url), "scheduler"):
        yield service


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """All of it, by ``likeness up``; trainings of half of the recipe's steps, which are enough for a likeness to show."""
    var = tmp_path_factory.mktemp("service")
    with _running(var, "up", **short_base(var / "base", steps=200)) as started:
        yield started


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    path = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
    with sync_api.sync_playwright() as playwright:
        if path is None and not Path(playwright.chromium.executable_path).exists() and not os.environ.get("CI"):
            pytest.skip("no Chromium here: install one, or run `playwright install chromium`")
        opened = playwright.chromium.launch(executable_path=path, args=CHROMIUM_FLAGS)
        yield opened
        opened.close()


@contextmanager
def _running(var: Path, command: str, **settings: str) -> Iterator[Service]:
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    environment = _environment(var, url) | settings
    if command == "api":
        subprocess.run([sys.executable, "-c", _MIGRATE], env=environment, cwd=ROOT, check=True)
    with _process(environment, command, "--port", str(port)):
        service = Service(url, var)
        _wait_until_ready(service)
        yield service


_MIGRATE = "from core.settings import Settings; from storage.migrations import upgrade; upgrade(Settings().database)"


@contextmanager
def _process(environment: dict[str, str], *arguments: str) -> Iterator[None]:
    log = Path(environment["LIKENESS_VAR_DIR"]) / f"{arguments[0]}.test.log"
    with log.open("wb") as file:
        command = [sys.executable, "-m", "likeness.cli", *arguments]
        process = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)
        try:
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _environment(var: Path, url: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LIKENESS_")}
    own = {"LIKENESS_VAR_DIR": str(var), "LIKENESS_PUBLIC_URL": url}
    return kept | own


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_ready(service: Service) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"{service.url}/readyz", timeout=2).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    logs = "\n".join(log.read_text(errors="replace")[-2000:] for log in service.var.glob("*.test.log"))
    pytest.fail(f"the service did not come up within {READY_WITHIN_S:.0f} s:\n{logs}")
