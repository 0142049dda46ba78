"""The service under test: every part its own process, as in production, on the small base model with a short recipe."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import boto3
import httpx
from sqlalchemy import select

from benchmarks.chaos.surroundings import FaultyProxy, MailServer, SmallDisk, open_database
from benchmarks.object_stores import S3Server
from core.errors import ServiceDown
from core.settings import Settings
from core.words import JobState
from likeness.supervisor import Child, Supervisor
from storage.broker import start_embedded_redis
from storage.migrations import upgrade
from storage.tables import Job, now
from storage.wiring import Storage, open_storage
from tests.integration.storage.postgres.conftest import free_port
from tests.short_base import short_base

SHORT_RECIPE = {"steps": 8, "checkpoint_every": 2, "candidates": [1.0], "validation_images": 1, "validation_steps": 2, "held_out": 1}
QUICK = {  # leases and retries in seconds, so that an hour holds many of them
    "lease_s": "8",
    "heartbeat_s": "1",
    "scheduler_interval_s": "1",
    "sweep_after_s": "30",
    "shutdown_within_s": "20",
    "min_photos": "4",
    "min_photo_side": "256",
    "cpu_threads": "1",
}
BUCKET = "chaos"
TRAINERS = ("train-worker-1", "train-worker-2")
RENDERERS = ("render-worker",)


class Service:
    """``with Service(var) as service``: all of it up; afterwards nothing of it is left."""

    def __init__(self, var: Path) -> None:
        self.var = var
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        os.environ |= {"AWS_ACCESS_KEY_ID": "chaos", "AWS_SECRET_ACCESS_KEY": "chaos", "AWS_DEFAULT_REGION": "us-east-1"}
        self.disk = SmallDisk(var / "cache")
        self.database = open_database(var)
        self.s3 = S3Server(var / "s3.log")
        self.proxy = FaultyProxy(self.s3.port)
        self.mail = MailServer()
        self.environment = self._environment()
        self.settings = Settings(_env_file=None, **{k.removeprefix("LIKENESS_").lower(): v for k, v in self.environment.items()})  # type: ignore[arg-type]
        self.said: list[str] = []
        self.held: set[str] = set()  # children that are down on purpose
        self._stop = threading.Event()

    def __enter__(self) -> Service:
        self.mail.up()
        endpoint = f"http://127.0.0.1:{self.s3.port}"
        boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket=BUCKET)
        upgrade(self.database.url)
        self.redis = start_embedded_redis(self.settings)
        self.group = Supervisor(self.said.append, grace_s=30)
        for name, arguments in self._parts():
            self.group.add(name, [sys.executable, "-m", "likeness.cli", *arguments], self.var / "logs" / f"{name}.log", **self.environment)
        self._keeper = threading.Thread(target=self._keep_up, name="keeper", daemon=True)
        self._keeper.start()
        self._rows = self.storage()
        self._wait_until_ready()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._keeper.join(30)
        self.proxy.mode = "pass"
        self.group.stop()
        self.redis.stop()
        self.mail.down()
        self.proxy.close()
        self.s3.close()
        self.database.close()
        self.disk.close()

    def child(self, name: str) -> Child:
        return next(child for child in self.group.children if child.name == name)

    def working_pids(self) -> set[str]:
        """Of the processes that hold a lease now: a worker's name is ``role-pid@host``."""
        try:
            with self._rows.db.reader() as session:
                names = session.scalars(select(Job.worker).where(Job.state == JobState.PROCESSING, Job.lease_until > now()))
                return {str(name).rpartition("-")[2].partition("@")[0] for name in names}
        except ServiceDown:
            return set()

    def storage(self) -> Storage:
        """Straight to the real object store, past the proxy: for the audit."""
        direct = self.settings.model_copy(update={"store_url": self._store_url(self.s3.port)})
        direct.__dict__.pop("store", None)  # a cached property
        return open_storage(direct)

    def _parts(self) -> list[tuple[str, list[str]]]:
        workers = [(name, ["worker", "train"]) for name in TRAINERS] + [(name, ["worker", "render"]) for name in RENDERERS]
        return [("api", ["api", "--host", "127.0.0.1", "--port", str(self.port)]), ("scheduler", ["scheduler"]), *workers]

    def _environment(self) -> dict[str, str]:
        values: dict[str, Any] = QUICK | {
            "var_dir": self.var,
            "database_url": self.database.url,
            "store_url": self._store_url(self.proxy.port),
            "mail_url": f"smtp://127.0.0.1:{self.mail.port}?tls=none",
            "cache_dir": self.var / "cache",
            "public_url": self.url,
            "secret_key": "chaos" * 8,
        }
        base = short_base(self.var / "base", **SHORT_RECIPE)
        return base | {f"LIKENESS_{name.upper()}": str(value) for name, value in values.items()}

    def _store_url(self, port: int) -> str:
        return f"s3://{BUCKET}?endpoint_url=http://127.0.0.1:{port}&region=us-east-1&addressing=path"

    def _keep_up(self) -> None:
        """What systemd or an engine does: whatever fell is started again."""
        while not self._stop.wait(0.2):
            self.group.keep_up()
            self.redis.keep_up()

    def _wait_until_ready(self) -> None:
        ends = time.monotonic() + 120
        while time.monotonic() < ends:
            try:
                if httpx.get(f"{self.url}/readyz", timeout=5, trust_env=False).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.3)
        raise RuntimeError(f"the service did not come up; see {self.var / 'logs'}")
