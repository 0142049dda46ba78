"""Work that must be done in order but need not be waited for, such as storing checkpoints while the fit goes on."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress


class Background:
    """One task at a time, in a thread of its own. What a task raises, the next call of :meth:`settle` or :meth:`do` raises, once."""

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._last: Future[None] | None = None

    def do(self, task: Callable[[], None]) -> None:
        """Waits for the task before, so that what at most two tasks hold is in memory."""
        self.settle()
        self._last = self._pool.submit(task)

    def idle(self, within: float) -> bool:
        """Whether nothing is under way, after at most ``within`` seconds."""
        return self._last is None or not wait([self._last], within).not_done

    def settle(self) -> None:
        """Until nothing is under way."""
        last, self._last = self._last, None
        if last:
            last.result()

    def close(self) -> None:
        """Waits as well, but raises nothing: for who has something worse to say."""
        with suppress(Exception):
            self.settle()
        self._pool.shutdown()
