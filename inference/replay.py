"""Denoising steps that come again as one launch each: a step of FLUX.1 is some 1,500 launches, for which a fast GPU waits.

A recording reads its inputs and writes its result where it always does, so adapters may change between replays (they are written in place),
but nothing that Python decides: that is the key under which a recording is kept.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

import torch

from core.logs import get_logger
from diffusion.devices import GIB_HEADROOM, free_memory
from diffusion.loading import BaseModel
from diffusion.recorded import record, stream_of_its_own

log = get_logger("inference")

SEEN_BEFORE = 2  # recorded when it comes for the third time: by then its kernels are compiled, and it is known to come again
KEPT = 6  # recordings; they share one pool of memory, since passes never overlap
AHEAD = 2  # steps that may be under way at once: what is told of a step, and a cancelation, must not be far ahead of the GPU

Forward = Callable[..., Any]
Given = Mapping[str, Any]  # a forward pass's arguments by name


class Recording(Protocol):
    def replay(self, given: Given) -> torch.Tensor: ...


class CudaRecording:
    """One forward pass as a CUDA graph."""

    def __init__(self, forward: Forward, given: Given, pool: Any) -> None:
        self.inputs = {name: value.clone() for name, value in given.items() if isinstance(value, torch.Tensor)}
        work = partial(forward, **{**given, **self.inputs})
        with stream_of_its_own():
            work()
        self.graph, (self.result,) = record(work, pool)

    def replay(self, given: Given) -> torch.Tensor:
        for name, mine in self.inputs.items():
            mine.copy_(given[name])
        self.graph.replay()
        return self.result.clone()


class ReplayedSteps:
    """``state``: what else decides what a pass does, beside its arguments. ``record``: None where nothing is recorded, as on a CPU."""

    def __init__(self, base: BaseModel, state: Callable[[], Hashable], record: Callable[..., Recording] | None = None) -> None:
        self.base, self.state, self.record = base, state, record
        self._recordings: OrderedDict[Hashable, Recording] = OrderedDict()
        self._seen: dict[Hashable, int] = {}
        self._pool: Any = None
        self._under_way: deque[torch.cuda.Event] = deque()

    @classmethod
    def on(cls, base: BaseModel, state: Callable[[], Hashable]) -> ReplayedSteps:
        return cls(base, state, CudaRecording if base.device.type == "cuda" else None)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within the block the transformer's passes are replayed where they can be. Not where steps may be left out: values decide."""
        transformer = self.base.transformer
        if self.record is None or transformer.is_cache_enabled:
            yield
            return
        patched, own = transformer.__dict__.get("forward"), transformer.forward
        transformer.forward = partial(self._forward, own)
        try:
            yield
        finally:
            del transformer.forward
            if patched is not None:
                transformer.forward = patched

    def _forward(self, own: Forward, *args: Any, **given: Any) -> Any:
        key = None if args else _key(given)
        if key is None:
            return own(*args, **given)
        recording = self._recording((key, self.state()), own, given)
        if recording is None:
            return own(**given)
        self._wait()
        result = recording.replay(given)
        self._mark()
        return (result,)

    def _recording(self, key: Hashable, own: Forward, given: Given) -> Recording | None:
        """The one that is kept, or a new one if the pass has come often enough and there is memory for it."""
        if key not in self._recordings:
            self._seen[key] = self._seen.get(key, 0) + 1
            if self.record is None or self._seen[key] <= SEEN_BEFORE or not self._has_room():
                return None
            try:
                self._recordings[key] = self.record(own, given, self._shared_pool())
            except RuntimeError as error:  # some kernel cannot be recorded, or memory is short after all: launches one by one still work
                log.warning("steps are not recorded", error=str(error)[:200])
                self.record = None
                self._recordings.clear()
                return None
        self._recordings.move_to_end(key)
        while len(self._recordings) > KEPT:
            self._seen.pop(self._recordings.popitem(last=False)[0], None)
        return self._recordings[key]

    def _has_room(self) -> bool:
        return self.base.device.type != "cuda" or free_memory(self.base.device) > GIB_HEADROOM

    def _shared_pool(self) -> Any:
        if self._pool is None and self.base.device.type == "cuda":
            self._pool = torch.cuda.graph_pool_handle()
        return self._pool

    def _wait(self) -> None:
        while len(self._under_way) >= AHEAD:
            self._under_way.popleft().synchronize()

    def _mark(self) -> None:
        if self.base.device.type == "cuda":
            done = torch.cuda.Event()
            done.record()
            self._under_way.append(done)


def _key(given: Given) -> Hashable | None:
    """Shapes and types of tensors, and the values of all else; None if a pass like this is not recorded."""
    parts: list[Hashable] = []
    for name, value in sorted(given.items()):
        if isinstance(value, torch.Tensor):
            parts.append((name, tuple(value.shape), value.dtype, value.device))
        elif value is None or value == {} or isinstance(value, (bool, int, float, str)):
            parts.append((name, None if value == {} else value))
        else:
            return None
    return tuple(parts) if given.get("return_dict") is False else None
