"""Is the process up (``/healthz``), and can it do its work (``/readyz``)? Each answer within about a second."""

from __future__ import annotations

import socket
from collections.abc import Callable
from urllib.parse import urlsplit

from fastapi import APIRouter, Response
from sqlalchemy import text

from api.state import Shared, State
from storage.broker import resolve_broker_url

router = APIRouter(include_in_schema=False)

_PORTS = {"redis": 6379, "rediss": 6379, "amqp": 5672, "amqps": 5671}


@router.get("/healthz")
def healthz() -> dict[str, str]:
    return {"status": "ok"}


@router.get("/readyz")
def readyz(state: Shared, response: Response) -> dict[str, str]:
    """503 if the database or the store is down. A broker that is down is named, but does not make us unready: jobs wait in the database."""
    checks: dict[str, Callable[[State], object]] = {"database": _database, "store": _store, "broker": _broker}
    answer = {name: _try(check, state) for name, check in checks.items()}
    if answer["database"] != "ok" or answer["store"] != "ok":
        response.status_code = 503
    return answer


def _try(check: Callable[[State], object], state: State) -> str:
    try:
        check(state)
    except Exception as error:  # whatever it is: not ready
        return f"down: {error}"
    return "ok"


def _database(state: State) -> None:
    with state.storage.db.reader() as session:
        session.execute(text("SELECT 1"))


def _store(state: State) -> None:
    state.storage.objects.ping()


def _broker(state: State) -> None:
    url = urlsplit(resolve_broker_url(state.settings))
    if url.scheme.endswith("+socket") or not url.hostname:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(0.5)
            probe.connect(url.path)
        return
    with socket.create_connection((url.hostname, url.port or _PORTS.get(url.scheme, 6379)), timeout=0.5):
        pass
