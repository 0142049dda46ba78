"""The scheduler as a process: what it loads before the first round, and that nothing slow comes before it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest

from core.settings import Settings
from core.words import JobKind, JobState, new_id
from storage import jobs
from storage.tables import Account, Job, now
from storage.wiring import Storage, open_database

NOT_NEEDED = {"torch", "transformers", "diffusers", "numpy", "PIL", "cv2", "fastapi", "jinja2", "alembic"}
NOT_NEEDED |= {"boto3", "redis", "httpx", "httpx2"}


def test_the_first_round_brings_few_libraries() -> None:
    code = "import sys, likeness.cli, likeness.scheduler; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True).stdout.split()
    assert NOT_NEEDED & set(loaded) == set()
    assert "storage.jobs" in loaded


@pytest.mark.parametrize(
    ("store", "code"), [("s3://b?endpoint_url=http://127.0.0.1:1&region=us-east-1", 0), ("ftp://nowhere", 1)], ids=["down", "mistyped"]
)
def test_jobs_are_kept_before_the_store_is_thought_of(tmp_path: Path, store: str, code: int) -> None:
    settings = Settings(_env_file=None, var_dir=tmp_path / "var", store_url=store, broker_url="redis://127.0.0.1:1/0")  # type: ignore[call-arg]
    storage = open_database(settings)
    storage.db.create_all()
    job = lost(storage)
    environment = os.environ | {"LIKENESS_VAR_DIR": str(settings.var_dir), "LIKENESS_STORE_URL": store}
    environment |= {"LIKENESS_BROKER_URL": settings.broker_url, "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y"}
    command = [sys.executable, "-c", "from likeness.cli import main; main()", "scheduler"]
    with subprocess.Popen(command, env=environment, cwd=tmp_path, stderr=subprocess.PIPE) as process:
        try:
            waits_until_queued(storage, job)
        finally:
            if code == 0:
                process.send_signal(signal.SIGTERM)
            said = process.communicate(timeout=60)[1].decode()
    assert process.returncode == code, said
    assert ("must start with file:// or s3://" in said) is (code == 1)


def lost(storage: Storage) -> str:
    """A job whose worker is silent."""
    with storage.db.session() as session:
        session.add(account := Account(id=new_id("acc"), email="ada@example.com"))
        session.flush()
        job = jobs.create(session, account.id, JobKind.PORTRAIT, new_id("por"))
        job.state, job.attempts, job.fence, job.lease_until = JobState.PROCESSING, 1, 1, now() - timedelta(seconds=5)
        return job.id


def waits_until_queued(storage: Storage, job_id: str) -> None:
    ends = time.monotonic() + 60
    while time.monotonic() < ends:
        with storage.db.reader() as session:
            if session.get_one(Job, job_id).state == JobState.STARTING:
                return
        time.sleep(0.1)
    raise AssertionError("not in time")
