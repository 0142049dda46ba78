"""Errors that cross rooms. A person's mistake says what to do; a server that is down says which and may be retried."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class UserError(Exception):
    """Something that the customer or client can put right.

    ``type`` is stable and documented (``photos/too-few``), ``title`` is short, ``detail`` says what is wrong here and what to do.
    ``status`` is the HTTP status that ``api`` answers with. ``extra`` holds per-photo or per-field items, JSON-serialisable.
    """

    type: str
    title: str
    detail: str = ""
    status: int = 422
    extra: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.title}: {self.detail}" if self.detail else self.title


def not_found(what: str) -> UserError:
    """Also for what belongs to someone else: a foreign id must not be told apart from one that does not exist."""
    return UserError("not-found", f"No such {what}", status=404)


class ServiceDown(Exception):
    """A server that we need does not answer (store, broker, database, mail). Bounded retries apply; the message names it."""


class LeaseLost(Exception):
    """Another worker owns this job now: stop at once and write nothing."""


class JobCanceled(Exception):
    """The customer (or an erasure) asked the job to stop; raised from the next step's check."""


class WorkerStopping(Exception):
    """The worker's process is told to end: keep what is done, give the job back and go. The attempt does not count."""


class JobFailed(Exception):
    """The job cannot succeed; the message is the reason that the customer reads. Not retried."""
