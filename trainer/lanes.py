"""On a CPU, pictures of a batch are computed side by side, each by threads of its own.

Threads that share one picture meet at a barrier in every layer, and wait there for as long as they compute: on two cores the second one
gained an eighth. Pictures need nothing of each other before their gradients are added up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from threading import Barrier
from typing import TypeVar

import torch

Value = TypeVar("Value")
Result = TypeVar("Result")


class Lanes:
    """``count`` threads (at least one) that share the process's threads of tensor work; they end with this object."""

    def __init__(self, count: int) -> None:
        threads = torch.get_num_threads()
        self.count = max(1, min(count, threads))
        self._pool = ThreadPoolExecutor(self.count, thread_name_prefix="lane")
        self._start(threads)

    def map(self, work: Callable[[Value], Result], values: Iterable[Value]) -> list[Result]:
        """In the values' order. An error is raised once every lane is idle."""
        tasks = [self._pool.submit(work, value) for value in values]
        wait(tasks)
        return [task.result() for task in tasks]

    def _start(self, threads: int) -> None:
        """torch keeps a number for each thread, and the last one told for threads to come: that one is put back."""
        everyone = Barrier(self.count)

        def begin(_: int) -> None:
            torch.get_num_threads()  # a thread's first question gives it the process's number, and would undo the next line later
            torch.set_num_threads(max(1, threads // self.count))
            everyone.wait()

        self.map(begin, range(self.count))
        torch.set_num_threads(threads)
