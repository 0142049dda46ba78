"""Work on a GPU that is done again and again with the same tensors, as one launch instead of hundreds."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from core.logs import get_logger

log = get_logger("diffusion")

SEEN_BEFORE = 2  # recorded when it comes for the third time: by then its kernels are compiled, and it is known to come again
KEPT = 8  # recordings; a recording's scratch memory stays taken


class Recorded:
    """Runs work under a key. On a CPU, and where work cannot be recorded, it is simply done."""

    def __init__(self, device: torch.device) -> None:
        self._graphs: OrderedDict[Hashable, torch.cuda.CUDAGraph] = OrderedDict()
        self._seen: dict[Hashable, int] = {}
        self._able = device.type == "cuda"

    def run(self, key: Hashable, work: Callable[[], None]) -> None:
        """``work`` reads and writes the same storage each time that it comes under ``key``; nothing else about it may change."""
        if not self._able:
            work()
        elif key in self._graphs or self._comes_again(key):
            self._replay(key, work)
        else:
            work()

    def _comes_again(self, key: Hashable) -> bool:
        if len(self._seen) > 8 * KEPT:
            self._seen.clear()
        self._seen[key] = self._seen.get(key, 0) + 1
        return self._seen[key] > SEEN_BEFORE

    def _replay(self, key: Hashable, work: Callable[[], None]) -> None:
        if key not in self._graphs:
            try:
                self._graphs[key], _ = record(work)
            except RuntimeError as error:  # some kernel cannot be recorded: launches one by one still work
                log.warning("not recorded", error=str(error)[:200])
                self._able = False
                self._graphs.clear()
                work()
                return
        self._graphs.move_to_end(key)
        while len(self._graphs) > KEPT:
            self._graphs.popitem(last=False)
        self._graphs[key].replay()


Result = TypeVar("Result")


def record(work: Callable[[], Result], pool: Any = None) -> tuple[torch.cuda.CUDAGraph, Result]:
    """``work`` as a graph, and what it returned: storage that each replay fills anew. Recording computes nothing yet."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):  # other threads may train, decode or fetch meanwhile
        result = work()
    return graph, result


@contextmanager
def stream_of_its_own() -> Iterator[None]:
    """Where work is done once before it is recorded, if it needs workspaces: they are allocated then."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream().wait_stream(stream)
