"""``likeness up``: the whole service on one machine, each part its own process, as in production."""

from __future__ import annotations

import re
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from email import message_from_bytes, policy
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

from rich.console import Console

from core.errors import UserError
from core.settings import Settings
from likeness.supervisor import Supervisor
from storage.broker import EmbeddedRedis, start_embedded_redis
from storage.migrations import upgrade

READY_WITHIN_S = 90.0
LINK = re.compile(r"https?://\S+")


def run_up(settings: Settings, *, while_input_lasts: bool = False) -> None:
    """Blocks until interrupted. The broker (if embedded), API, scheduler, train worker and render worker.

    ``while_input_lasts``: also ends when standard input does, as it does when the program that holds its other end dies, however that dies.
    """
    console = Console(highlight=False)
    check_port(settings)
    settings.var_dir.mkdir(parents=True, exist_ok=True)
    upgrade(settings.database)
    broker = start_embedded_redis(settings) if settings.broker_url == "embedded" else None
    stopping = _until_signal()
    if while_input_lasts:
        Thread(target=_until_input_ends, args=(stopping,), daemon=True).start()
    try:
        with Supervisor(console.print, settings.shutdown_within_s + 5) as group:
            for name, arguments in parts(settings):
                group.add(name, [sys.executable, "-m", "likeness.cli", *arguments], settings.var_dir / "logs" / f"{name}.log")
            if wait_until_ready(settings, stopping):
                _greet(console, settings)
            _watch(group, broker, console, settings, stopping)
            console.print("stopping …")
    finally:
        if broker:
            broker.stop()


def parts(settings: Settings) -> list[tuple[str, list[str]]]:
    return [
        ("api", ["api", "--host", settings.host, "--port", str(settings.port)]),
        ("scheduler", ["scheduler"]),
        ("train-worker", ["worker", "train", "--gpus", "1"]),
        ("render-worker", ["worker", "render", "--gpus", "1"]),
    ]


def check_port(settings: Settings) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            raise UserError("port-taken", f"Port {settings.port} on {settings.host} is taken", "Choose another with --port.") from error


def wait_until_ready(settings: Settings, stopping: list[int]) -> bool:
    deadline = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < deadline and not stopping:
        try:
            with urllib.request.urlopen(f"http://{settings.host}:{settings.port}/healthz", timeout=2):
                return True
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    return False


def _until_signal() -> list[int]:
    caught: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda n, _: caught.append(n))
    return caught


def _until_input_ends(stopping: list[int]) -> None:
    while sys.stdin.buffer.read(1):
        continue
    stopping.append(0)


def _greet(console: Console, settings: Settings) -> None:
    console.print(f"\nLikeness is up:  [bold]{settings.site_url}[/]")
    console.print(f"Base model: {settings.base_model} · logs: {settings.var_dir / 'logs'} · stop with Ctrl-C\n")


def _watch(group: Supervisor, broker: EmbeddedRedis | None, console: Console, settings: Settings, stopping: list[int]) -> None:
    seen = set(outbox(settings))
    while not stopping:
        group.keep_up()
        if broker and broker.keep_up():
            console.print("the broker had fallen and runs again")
        for path in outbox(settings):
            if path not in seen:
                seen.add(path)
                _show_mail(console, path)
        time.sleep(0.5)


def outbox(settings: Settings) -> list[Path]:
    """The messages of the folder outbox, oldest first; empty with any other mail server."""
    url = urlsplit(settings.mail)
    folder = Path(unquote(url.netloc + url.path))
    return sorted(folder.glob("*.eml"), key=lambda p: p.stat().st_mtime) if url.scheme == "file" and folder.is_dir() else []


def _show_mail(console: Console, path: Path) -> None:
    try:
        mail = message_from_bytes(path.read_bytes(), policy=policy.default)
    except FileNotFoundError:
        return  # erased in the meantime
    body = mail.get_body(preferencelist=("plain",))
    links = LINK.findall(body.get_content()) if body else []
    console.print(f"mail to {mail['to']}: [bold]{mail['subject']}[/]" + "".join(f"\n  {link}" for link in links[:1]), soft_wrap=True)
