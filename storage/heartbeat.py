"""The heartbeat of a lease."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from storage.leases import Lease


@contextmanager
def beating(lease: Lease, every_s: float) -> Iterator[None]:
    """A thread that beats until the block ends or the lease is over."""
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(every_s) and not lease.over:
            lease.beat()

    thread = threading.Thread(target=beat, name=f"beat-{lease.job_id}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=5)
