"""Objects that programs of ours are storing right now. An object store knows no transactions: it takes a write whose owner is gone.

So a writer first notes the key in the very transaction that sees its owner stand, and strikes it out when the object is stored or taken
back. An erasure, which removes the owner in a transaction too, finds every write that could still arrive, and waits for it before the
receipt. A writer that died leaves its note until ``WRITE_S`` is over. Browsers that hold a link are not known here: for them
:mod:`storage.erasure` sweeps again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

from sqlalchemy import delete, or_, select
from sqlalchemy.orm import Session

from core.errors import ServiceDown
from core.logs import get_logger
from core.words import new_id
from storage.tables import Write, now
from storage.wiring import Storage

log = get_logger("storage.writing")

WRITE_S = 300.0  # longer than a store's own retries: after it the writer is dead
ASK_AGAIN_S = 0.5
LOOK_EVERY_S = 0.1


class OwnerGone(Exception):
    """Erased or canceled: there is nothing to store for."""


class StillWriting(ServiceDown):
    """Something of an erased target is being stored; the erasure goes on when that has ended."""


@contextmanager
def announced(storage: Storage, keys: Sequence[str], stands: Callable[[Session], bool], patience_s: float = 0.0) -> Iterator[None]:
    """Around storing ``keys``, and taking them back if the row that names them is refused.

    ``stands`` asks for the owner and locks its row against being erased. :class:`OwnerGone` if it does not; :class:`ServiceDown` if the
    database does not answer within ``patience_s``.
    """
    notes = _announce(storage, keys, stands, time.monotonic() + patience_s)
    try:
        yield
    finally:
        _strike_out(storage, notes)


def settle(storage: Storage, places: Sequence[str], within_s: float) -> bool:
    """Wait until nobody stores under these prefixes or keys; whether there was anybody. :class:`StillWriting` after ``within_s``."""
    ends, waited = time.monotonic() + within_s, False
    while _under_way(storage, places):
        waited = True
        if time.monotonic() >= ends:
            raise StillWriting("something of it is still being stored; rows are gone, and the scheduler erases the rest within minutes")
        time.sleep(LOOK_EVERY_S)
    return waited


def _announce(storage: Storage, keys: Sequence[str], stands: Callable[[Session], bool], until: float) -> list[str]:
    while True:
        try:
            with storage.db.session() as session:
                if not stands(session):
                    raise OwnerGone
                notes = [Write(id=new_id("wrt"), key=key, ends_by=now() + timedelta(seconds=WRITE_S)) for key in keys]
                session.add_all(notes)
                return [note.id for note in notes]
        except ServiceDown as error:
            if time.monotonic() + ASK_AGAIN_S > until:
                raise
            log.warning("not stored yet", error=str(error))
            time.sleep(ASK_AGAIN_S)


def _strike_out(storage: Storage, notes: Sequence[str]) -> None:
    try:
        with storage.db.session() as session:
            session.execute(delete(Write).where(Write.id.in_(notes)))
    except ServiceDown as error:  # goes when its time is over
        log.warning("a write stays noted", error=str(error))


def _under_way(storage: Storage, places: Sequence[str]) -> bool:
    here = or_(False, *(Write.key.startswith(place, autoescape=True) for place in places))
    with storage.db.reader() as session:
        return session.scalar(select(Write.id).where(here, Write.ends_by > now()).limit(1)) is not None
