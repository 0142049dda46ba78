"""The half of the scheduler that a waiting customer feels. A module of its own, since it is the first to run: it brings few libraries."""

from __future__ import annotations

from collections.abc import Callable

from core.errors import ServiceDown
from core.logs import get_logger
from storage import jobs, publishing, totals
from storage.wiring import Storage

log = get_logger("storage.scheduler")


def keep_jobs(storage: Storage) -> dict[str, int]:
    """Database and broker only, so that no slow store or mail server holds up a job."""
    chores: dict[str, Callable[[], int]] = {
        "requeued": lambda: jobs.requeue_expired(storage),
        "published": lambda: publishing.publish_waiting(storage),
        "counted": lambda: totals.count_ended(storage),
        "pass_noted": lambda: totals.note_pass(storage),
    }
    return do_all(chores)


def do_all(chores: dict[str, Callable[[], int]]) -> dict[str, int]:
    return {name: _do(name, chore) for name, chore in chores.items()}


def _do(name: str, chore: Callable[[], int]) -> int:
    """A chore that fails is logged and does not stop the others."""
    try:
        return chore()
    except ServiceDown as error:
        log.warning("chore waits for a server", chore=name, reason=str(error))
    except Exception:
        log.exception("chore failed", chore=name)
    return 0
