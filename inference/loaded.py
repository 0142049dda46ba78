"""An adapter in memory, laid end to end in a few buffers, so that it reaches the GPU in as many copies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from diffusion import lora
from diffusion.loading import BaseModel

PIECE_BYTES = 2**24  # torch deals page-locked memory out in powers of two: in one buffer 150 MB would take 256 of the machine's RAM


@dataclass(frozen=True)
class LoadedAdapter:
    """``state`` as :func:`diffusion.lora.read` gives it, validated against the base model. ``id`` stands for these very weights.
    ``pieces``, if there are any, are the buffers that all of ``state`` are views of; page-locked where a GPU will read them."""

    id: str
    state: lora.State
    pieces: tuple[torch.Tensor, ...] = ()

    @property
    def nbytes(self) -> int:
        return sum(weight.nbytes for weight in self.state.values())

    @property
    def rank(self) -> int:
        """The largest of its layers."""
        return max((weight.shape[0] for key, weight in self.state.items() if ".lora_A." in key), default=0)

    def on(self, device: torch.device) -> lora.State:
        """The weights on a device, where they may be already."""
        if not self.pieces:
            return {key: weight.to(device) for key, weight in self.state.items()}
        if self.pieces[0].device == device:
            for piece in self.pieces if device.type == "cuda" else ():
                piece.record_stream(torch.cuda.current_stream(device))  # it may be evicted while this stream still reads it
            return self.state
        return self.views_of([piece.to(device, non_blocking=True) for piece in self.pieces])

    def packed(self, dtype: torch.dtype, *, pin: bool = False) -> LoadedAdapter:
        """The same adapter in pieces of ``dtype``."""
        pieces, state = [], {}
        for keys in _shares(self.state, PIECE_BYTES // dtype.itemsize):
            weights = [self.state[key] for key in keys]
            piece = torch.empty(sum(weight.numel() for weight in weights), dtype=dtype, pin_memory=pin)
            start = 0
            for key, weight in zip(keys, weights, strict=True):
                state[key] = piece[start : start + weight.numel()].view(weight.shape).copy_(weight)
                start += weight.numel()
            pieces.append(piece)
        return LoadedAdapter(self.id, state, tuple(pieces))

    def moved(self, device: torch.device) -> LoadedAdapter:
        """A copy that lives on the GPU. It is whole when this returns; other work of the GPU goes on meanwhile."""
        assert self.pieces, "pack it first"
        stream = torch.cuda.Stream(device)
        with torch.cuda.stream(stream):
            pieces = [piece.to(device, non_blocking=True) for piece in self.pieces]
        stream.synchronize()
        return LoadedAdapter(self.id, self.views_of(pieces), tuple(pieces))

    def views_of(self, pieces: Sequence[torch.Tensor]) -> lora.State:
        """``state`` at the same places of other pieces."""
        of = {mine.untyped_storage().data_ptr(): other for mine, other in zip(self.pieces, pieces, strict=True)}
        return {
            key: of[view.untyped_storage().data_ptr()][view.storage_offset() :][: view.numel()].view(view.shape)
            for key, view in self.state.items()
        }


def read_adapter(base: BaseModel, path: Path, adapter_id: str) -> LoadedAdapter:
    """A file, refused with :class:`core.errors.UserError` unless it is a finite LoRA of this very base model."""
    allowed = base.family.lora_allowlist(base.transformer)
    state, _ = lora.read(path, base.transformer, allowed, values=False)
    loaded = LoadedAdapter(adapter_id, state).packed(base.dtype, pin=base.device.type == "cuda")
    lora.require_finite(loaded.pieces)  # of few buffers by all cores at once, not of hundreds of small matrices
    return loaded


def _shares(state: lora.State, room: int) -> Iterator[list[str]]:
    """Keys in their order, as many together as have at most ``room`` values; a larger matrix is alone."""
    share: list[str] = []
    held = 0
    for key, weight in state.items():
        if share and held + weight.numel() > room:
            yield share
            share, held = [], 0
        share.append(key)
        held += weight.numel()
    if share:
        yield share
