"""Work on the GPU recorded once for each shape and then replayed: one launch where there were thousands.

At 512² a training step of one picture leaves the GPU waiting for the CPU, which launches some ten thousand kernels; a CUDA graph launches
them all at once. What is recorded must be a function of tensors at fixed places alone: fixed shapes, adapters in slots, no reading back.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Protocol

import torch

Tensors = Mapping[str, torch.Tensor]
Work = Callable[[Tensors], torch.Tensor]
WARM_CALLS = 3  # compilation, autotuning and libraries' workspaces must be over before a recording


class Recorder(Protocol):
    """Runs ``work`` while recording it; the answer replays it and its result appears where it was."""

    def __call__(self, work: Callable[[], torch.Tensor]) -> tuple[Callable[[], None], torch.Tensor]: ...


class CudaRecorder:
    """All recordings share one memory pool: they are replayed one after another, so the largest alone counts."""

    def __init__(self) -> None:
        self.pool = torch.cuda.graph_pool_handle()

    def __call__(self, work: Callable[[], torch.Tensor]) -> tuple[Callable[[], None], torch.Tensor]:
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        with torch.cuda.graph(graph, pool=self.pool):
            result = work()
        graph.replay()  # recording alone computes nothing
        return graph.replay, result


class Recorded:
    """Replays ``work`` for each key (everything that is not a tensor's values: shapes, options) after a few calls as it is."""

    def __init__(self, work: Work, recorder: Recorder, *, most: int = 16) -> None:
        self.work, self.recorder, self.most = work, recorder, most
        self._calls: dict[Hashable, int] = {}
        self._recordings: dict[Hashable, tuple[dict[str, torch.Tensor], Callable[[], None], torch.Tensor]] = {}

    def __call__(self, key: Hashable, inputs: Tensors) -> torch.Tensor:
        """What ``work`` gives, a tensor that the next call with this key overwrites. ``inputs`` have the shapes that belong to the key."""
        if key in self._recordings:
            return self._replay(key, inputs)
        self._calls[key] = self._calls.get(key, 0) + 1
        if self._calls[key] <= WARM_CALLS or len(self._recordings) >= self.most:
            return self.work(inputs)
        return self._record(key, inputs)

    def forget(self) -> None:
        """Gives the recordings' memory back."""
        self._calls.clear()
        self._recordings.clear()

    def _record(self, key: Hashable, inputs: Tensors) -> torch.Tensor:
        held = {name: tensor.clone() for name, tensor in inputs.items()}
        replay, result = self.recorder(lambda: self.work(held))
        self._recordings[key] = (held, replay, result)
        return result

    def _replay(self, key: Hashable, inputs: Tensors) -> torch.Tensor:
        held, replay, result = self._recordings[key]
        for name, tensor in held.items():
            tensor.copy_(inputs[name])
        replay()
        return result


def recorded(work: Work, device: torch.device, *, most: int = 16) -> Callable[[Hashable, Tensors], torch.Tensor]:
    """``work`` with its calls recorded and replayed on CUDA; elsewhere as it is."""
    return Recorded(work, CudaRecorder(), most=most) if device.type == "cuda" else lambda key, inputs: work(inputs)
