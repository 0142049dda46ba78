"""What the service leans on, as processes of our own that can be stopped, slowed and filled: database, object store, mail, disk."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import threading
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any, Protocol

from aiosmtpd.controller import Controller

from tests.integration.storage.postgres.conftest import FAST, free_port, home_for, program, wait_until_up, within_reach

SYSTEM_ERROR = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Database(Protocol):
    url: str

    def crash(self) -> None: ...

    def start(self) -> None: ...

    def close(self) -> None: ...


class Postgres:
    """A cluster of our own. ``crash`` is an immediate shutdown: connections break, and the log is replayed at the start."""

    def __init__(self) -> None:
        self.user = "nobody" if os.geteuid() == 0 else None  # it refuses to run as root
        self.home, self.port = home_for(self.user), free_port()
        initdb, self.server = (within_reach(str(program(name)), self.user, self.home) for name in ("initdb", "postgres"))
        cluster = [initdb, "-D", f"{self.home}/data", "-U", "likeness", "-A", "trust", "-E", "UTF8"]
        subprocess.run(cluster, check=True, user=self.user, cwd=self.home, stdout=subprocess.DEVNULL)
        self.url = f"postgresql+psycopg://likeness@127.0.0.1:{self.port}/postgres"
        self.start()

    def start(self) -> None:
        kept = [option for option in FAST if option != "fsync=off"]  # a crash must lose nothing that was committed
        options = [part for option in kept if option != "-c" for part in ("-c", option)]
        command = [self.server, "-D", f"{self.home}/data", "-h", "127.0.0.1", "-p", str(self.port), "-k", self.home, *options]
        self.process = subprocess.Popen(command, user=self.user, cwd=self.home, stderr=subprocess.DEVNULL, start_new_session=True)
        wait_until_up(f"postgresql://likeness@127.0.0.1:{self.port}/postgres", self.process)

    def crash(self) -> None:
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait(20)

    def close(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(20)
        shutil.rmtree(self.home, ignore_errors=True)


@dataclass
class Sqlite:
    """Where no PostgreSQL can be had: a file cannot crash, so that fault is left out."""

    url: str

    def crash(self) -> None:
        raise NotImplementedError

    def start(self) -> None: ...

    def close(self) -> None: ...


def open_database(var: Path) -> Database:
    return Postgres() if program("initdb") and program("postgres") else Sqlite(f"sqlite:///{var / 'likeness.db'}")


class FaultyProxy:
    """Before the object store. ``mode``: ``pass``, ``500`` (answers so and hangs up, also in the middle of an upload), ``hang``."""

    def __init__(self, upstream_port: int) -> None:
        self.mode, self.upstream_port, self.port = "pass", upstream_port, free_port()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._serve, name="proxy", daemon=True).start()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(asyncio.start_server(self._client, "127.0.0.1", self.port))
        self._loop.run_forever()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.upstream_port)
            back = asyncio.ensure_future(self._relay(up_reader, writer))
            await self._relay(reader, up_writer, answers=writer)
            up_writer.close()
            await back
        writer.close()

    async def _relay(self, source: asyncio.StreamReader, target: Any, answers: Any = None) -> None:
        """``answers``: where the client listens, on the way in."""
        with contextlib.suppress(OSError):
            while chunk := await source.read(65536):
                while self.mode == "hang":
                    await asyncio.sleep(0.1)
                if self.mode == "500" and answers is not None:
                    answers.write(SYSTEM_ERROR)
                    await answers.drain()
                    break
                target.write(chunk)
                await target.drain()
        target.close()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)


@dataclass
class MailServer:
    """An SMTP server that remembers what it took; ``down`` closes its port."""

    port: int = field(default_factory=free_port)
    taken: list[tuple[str, str]] = field(default_factory=list)  # (recipient, Message-ID), one a copy
    texts: list[str] = field(default_factory=list)

    def up(self) -> None:
        self._controller = Controller(self, hostname="127.0.0.1", port=self.port)
        self._controller.start()

    def down(self) -> None:
        self._controller.stop()

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:
        message = message_from_bytes(envelope.content, policy=policy.default)
        self.taken += [(recipient, str(message["Message-ID"])) for recipient in envelope.rcpt_tos]
        self.texts.append(message.get_body(("plain",)).get_content())  # type: ignore[union-attr]
        return "250 taken"


class SmallDisk:
    """A tmpfs of its own for the workers' caches, so that «disk full» is the kernel's own answer. Needs root to mount."""

    def __init__(self, folder: Path, mib: int = 192) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "likeness-chaos", str(folder)]
        self.mounted = os.geteuid() == 0 and subprocess.run(mount, check=False, capture_output=True).returncode == 0

    def fill(self) -> None:
        with contextlib.suppress(OSError), (self.folder / "ballast").open("ab", buffering=0) as file:
            while True:
                file.write(b"\0" * 2**16)

    def free(self) -> None:
        (self.folder / "ballast").unlink(missing_ok=True)

    def close(self) -> None:
        if self.mounted:
            subprocess.run(["umount", "-l", str(self.folder)], check=False)
