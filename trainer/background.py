"""Work that must be done in order but need not be waited for, such as storing checkpoints while the fit goes on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress

IN_HAND = 2  # tasks, the one under way among them


class Background:
    """Tasks one after another, in a thread of its own. What a task raises, one of the next calls of :meth:`make_way` and :meth:`do`, or
    :meth:`settle`, raises once; those behind it are left out, since each may count on those before it."""

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._tasks: deque[Future[None]] = deque()
        self._failed = False

    def do(self, task: Callable[[], None]) -> None:
        """Takes it in hand, once there is room."""
        self.make_way()
        self._tasks.append(self._pool.submit(self._run, task))

    def make_way(self) -> None:
        """Until there is room for one more, so that what at most ``IN_HAND`` tasks hold is in memory."""
        while self._tasks and (len(self._tasks) >= IN_HAND or self._tasks[0].done()):
            self._finish_first()

    def has_room(self, within: float) -> bool:
        """Whether :meth:`make_way` would not wait, after at most ``within`` seconds."""
        return len(self._tasks) < IN_HAND or not wait([self._tasks[0]], within).not_done

    def idle(self, within: float) -> bool:
        """Whether nothing is in hand, after at most ``within`` seconds."""
        return not wait(self._tasks, within).not_done

    def settle(self) -> None:
        """Until nothing is in hand."""
        while self._tasks:
            self._finish_first()

    def close(self) -> None:
        """Waits as well, but raises nothing: for who has something worse to say."""
        with suppress(Exception):
            self.settle()
        self._pool.shutdown()

    def _run(self, task: Callable[[], None]) -> None:
        if self._failed:
            return
        try:
            task()
        except BaseException:
            self._failed = True
            raise

    def _finish_first(self) -> None:
        try:
            self._tasks.popleft().result()
        except BaseException:
            wait(self._tasks)  # they are left out
            self._tasks.clear()
            self._failed = False
            raise
