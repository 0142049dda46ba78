"""``likeness healthcheck``: for a container's health check. Liveness is progress, not a ping: each part is judged by what it gets done."""

from __future__ import annotations

import socket
import time
import urllib.error
import urllib.request

from core.errors import ServiceDown
from core.settings import Settings
from core.words import JobKind

API_TIMEOUT_S = 3.0
PASS_WITHIN_S = 120.0  # a scheduler notes its rounds every 15 s
KINDS = {"train": (JobKind.TRAINING,), "render": (JobKind.PORTRAIT,), "both": (JobKind.TRAINING, JobKind.PORTRAIT)}


def check_api(settings: Settings) -> str:
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::", "") else settings.host
    try:
        with urllib.request.urlopen(f"http://{host}:{settings.port}/healthz", timeout=API_TIMEOUT_S):
            return "answers"
    except (urllib.error.URLError, OSError) as error:
        raise ServiceDown(f"the API does not answer: {error}") from error


def check_scheduler(settings: Settings) -> str:
    """Some scheduler went its round of late; where several run, each one's process is watched by what started it."""
    from storage import totals
    from storage.wiring import open_storage

    last = totals.last_pass(open_storage(settings))
    age = time.time() - last
    if age > PASS_WITHIN_S:
        raise ServiceDown(f"no scheduler went its round for {age:.0f} s" if last else "no scheduler went its round yet")
    return f"went its round {age:.0f} s ago"


def check_worker(settings: Settings, role: str) -> str:
    """Works, or leaves nothing lying that it was told of."""
    from storage import job_admin
    from storage.wiring import open_storage

    with open_storage(settings).db.reader() as session:
        for kind in KINDS[role]:
            left = job_admin.stalled(session, kind, socket.gethostname())
            if left is not None:
                raise ServiceDown(f"idle on this host although {left.id} waits since {left.published_at}: restart this worker")
    return "works, or has nothing to do"
