"""An adapter in memory, laid end to end in one buffer, so that it reaches the GPU in one copy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from diffusion import lora
from diffusion.loading import BaseModel


@dataclass(frozen=True)
class LoadedAdapter:
    """``state`` as :func:`diffusion.lora.read` gives it, validated against the base model. ``id`` stands for these very weights.
    ``flat``, if there is one, is the buffer that all of ``state`` are views of; page-locked where a GPU will read it."""

    id: str
    state: lora.State
    flat: torch.Tensor | None = None

    @property
    def nbytes(self) -> int:
        return sum(weight.nbytes for weight in self.state.values())

    @property
    def rank(self) -> int:
        """The largest of its layers."""
        return max((weight.shape[0] for key, weight in self.state.items() if ".lora_A." in key), default=0)

    def on(self, device: torch.device) -> lora.State:
        """The weights on a device, where they may be already."""
        if self.flat is None:
            return {key: weight.to(device) for key, weight in self.state.items()}
        if self.flat.device == device:
            if device.type == "cuda":
                self.flat.record_stream(torch.cuda.current_stream(device))  # it may be evicted while this stream still reads it
            return self.state
        return _views(self.flat.to(device, non_blocking=True), self.state)

    def packed(self, dtype: torch.dtype, *, pin: bool = False) -> LoadedAdapter:
        """The same adapter in one buffer of ``dtype``."""
        flat = torch.empty(sum(weight.numel() for weight in self.state.values()), dtype=dtype, pin_memory=pin)
        start = 0
        state = {}
        for key, weight in self.state.items():
            state[key] = flat[start : start + weight.numel()].view(weight.shape).copy_(weight)
            start += weight.numel()
        return LoadedAdapter(self.id, state, flat)

    def moved(self, device: torch.device) -> LoadedAdapter:
        """A copy that lives on the GPU. It is whole when this returns; other work of the GPU goes on meanwhile."""
        assert self.flat is not None, "pack it first"
        stream = torch.cuda.Stream(device)
        with torch.cuda.stream(stream):
            flat = self.flat.to(device, non_blocking=True)
        stream.synchronize()
        return LoadedAdapter(self.id, _views(flat, self.state), flat)


def read_adapter(base: BaseModel, path: Path, adapter_id: str) -> LoadedAdapter:
    """A file, refused with :class:`core.errors.UserError` unless it is a finite LoRA of this very base model."""
    allowed = base.family.lora_allowlist(base.transformer)
    state, _ = lora.read(path, base.transformer, allowed, values=False)
    loaded = LoadedAdapter(adapter_id, state).packed(base.dtype, pin=base.device.type == "cuda")
    assert loaded.flat is not None
    lora.require_finite([loaded.flat])  # of one buffer by all cores at once, not of hundreds of small matrices
    return loaded


def _views(flat: torch.Tensor, state: lora.State) -> lora.State:
    """The same places of another buffer."""
    return {key: flat[view.storage_offset() :][: view.numel()].view(view.shape) for key, view in state.items()}
